"""What the page shows, as plain values that the templates only lay out.

One function for each section of the page; texts are formatted here and escaped by the templates.
"""

import io

from semi_nmf_concepts.metrics import DETECTED

from ._prose import grounding_note, kind_of, layer_name, state_sentence, variant_sentence
from ._shapes import auroc_bar, histogram, strengths
from ._text import (
    auroc,
    clean,
    data_uri,
    interval,
    is_number,
    model_name,
    named_rows,
    number,
    percent,
    split_at_word,
    tile,
)

_TITLE_WORDS, _CARD_FACTORS, _MINI_IMAGES, _LOCAL_CONCEPTS = 3, 3, 3, 5


def page_context(report):
    """Collect the variables of ``templates/page.html`` from a ConceptReport."""
    pictures = Pictures(report)
    factors = _factors(report)
    concepts = [_concept(report, concept, pictures) for concept in report.concepts]
    samples = [_sample(report, i, pictures) for i in range(report.n_local)]
    return {
        "head": _head(report, concepts),
        "concepts": concepts,
        "samples": samples,
        "samples_intro": _samples_intro(report),
        "factors": factors,
        "method": {
            "semi_nmf": kind_of(report.settings)["semi_nmf"],
            "state": state_sentence(report.settings, report.provenance),
            "variant": variant_sentence(report.settings),
            "grounding": grounding_note(report.settings),
        },
        "record": _record(report),
        "pictures": pictures.stored,
    }


class Pictures:
    """The thumbnails that the page uses, each stored once and known by its identifier."""

    def __init__(self, report):
        self._thumbnails = report.thumbnails
        self.stored = []
        self._known = {}

    def add(self, kind, i):
        """Return the identifier of a thumbnail, "" where the report keeps none."""
        key = (kind, int(i))
        if key not in self._known:
            self._known[key] = self._store(key) if key in self._thumbnails else ""
        return self._known[key]

    def _store(self, key):
        from PIL import Image

        jpeg = self._thumbnails[key]
        with Image.open(io.BytesIO(jpeg)) as image:
            width, height = image.size
        identifier = f"picture-{key[0]}-{key[1]}"
        uri = data_uri(jpeg, "jpeg")
        self.stored.append({"id": identifier, "width": width, "height": height, "uri": uri})
        return identifier


def _head(report, concepts):
    settings = report.settings
    token = clean(settings.get("token") or "")
    model = model_name(report.provenance.get("model"))
    title = f"Concepts of “{token}”" if token else "Concepts"
    example = next((c["words"][0]["text"] for c in concepts if c["words"]), "snow")
    return {
        "title": f"{title} in {model}",
        "brand": title,
        "token": token,
        "model": model,
        "layer": layer_name(settings, report.provenance),
        "count": len(concepts),
        "adjective": kind_of(settings)["adjective"],
        "n_kept": f"{len(report.samples):,}",
        "example": example,
        "numbers": _head_numbers(report),
        "package_version": clean(report.provenance.get("package_version") or ""),
    }


def _head_numbers(report):
    s = report.settings
    held_out = s.get("test_reconstruction_score")
    tested = f"{held_out:.2f} on test images" if is_number(held_out) else "of the states"
    # Two decimals for scores: a third says nothing for some hundreds of images.
    tiles = [
        tile("Images", s.get("n_kept"), ",.0f", note=_kept_note(s)),
        tile(
            "Concepts per image",
            s.get("mean_n_active"),
            ".1f",
            unit=f"of {len(report.concepts)}",
            note="active, on average",
        ),
        tile("Variance explained", s.get("reconstruction_score"), ".2f", note=tested),
        tile("Overlap of words", s.get("overlap"), ".2f", note="0: all words differ"),
        tile("Factor recovery", s.get("factor_macro"), ".2f", note="mean AUROC; 0.5 is chance"),
    ]
    return [found for found in tiles if found]


def _kept_note(settings):
    """Say how many images were seen and why the others were not kept."""
    seen = settings.get("n_seen")
    note = f"kept of {number(seen)} seen" if is_number(seen) else "kept"
    dropped = settings.get("dropped") or {}
    reasons = [f"{number(n)} {clean(why).replace('_', ' ')}" for why, n in dropped.items()]
    return f"{note}; dropped: {', '.join(reasons)}" if reasons else note


def _concept(report, concept, pictures):
    captions = dict(zip(map(int, report.samples.indices), report.samples.captions, strict=True))
    words = _words(concept, report.factor_table or ())
    images = [
        {
            "picture": pictures.add("train", index),
            "caption": clean(captions.get(index) or f"image {index}"),
            "activation": number(activation),
        }
        for index, activation in zip(concept.image_indices, concept.image_activations, strict=True)
    ]
    for image in images:
        image["label"] = f"{image['caption']} (activation {image['activation']})"
    shown = [entry for entry in concept.factors if _beats_chance(entry)][:_CARD_FACTORS]
    factors = [_detected(entry) for entry in shown]
    known = [f"{clean(f['factor'])} {clean(f['value'])}" for f in shown]
    searched = [w["text"] for w in words] + [image["caption"] for image in images] + known
    return {
        "index": concept.index,
        "id": f"concept-{concept.index}",
        "title": ", ".join(word["text"] for word in words[:_TITLE_WORDS]),
        "short": ", ".join(word["text"] for word in words[: _TITLE_WORDS - 1]),
        "words": words,
        "images": images,
        "share": round(float(concept.share), 6),
        "share_text": percent(concept.share),
        "mean": round(float(concept.mean_activation), 6),
        "auroc": _best_auroc(concept),
        "histogram": histogram(concept.activation, concept.image_activations),
        "activity": _activity(concept),
        "factors": factors,
        "silent": not images,
        "search": " ".join(searched).lower(),
    }


def _words(concept, factor_table):
    levels = strengths(concept.word_scores)
    hits = set()  # words for what the concept detects
    for entry in factor_table:
        if entry["concept"] == concept.index and _is_detected(entry):
            hits.update(entry.get("named_by") or ())
    return [
        {
            "text": clean(word),
            "level": level,
            "note": f"logit {number(score)}",
            "hit": word in hits,
        }
        for word, score, level in zip(concept.words, concept.word_scores, levels, strict=True)
    ]


def _activity(concept):
    n, active = len(concept.activation), int((concept.activation > 0).sum())
    if active == 0:
        return f"Not active on any of the {n:,} images."
    mean = number(concept.mean_activation)
    return f"Active on {active:,} of {n:,} images, {mean} on average where active."


def _best_auroc(concept):
    best = concept.factors[0]["auroc"] if concept.factors else None
    return round(float(best), 6) if is_number(best) else 0


def _beats_chance(entry):
    """Whether the interval of the AUROC lies above one half (or there is none to ask)."""
    return not is_number(entry.get("low")) or entry["low"] > 0.5


def _is_detected(entry):
    return is_number(entry["auroc"]) and entry["auroc"] > DETECTED


def _detected(entry):
    return {
        "factor": clean(entry["factor"]),
        "value": clean(entry["value"]),
        "auroc": auroc(entry["auroc"]),
        "bar": auroc_bar(entry["auroc"], entry.get("low"), entry.get("high")),
        "weak": not _is_detected(entry),
    }


def _samples_intro(report):
    n, of = report.n_local, _local_kind(report)
    images = f"{n} {of} {'image' if n == 1 else 'images'}"
    unseen = " that took no part in the factorisation" if of == "test" else ""
    return f"Which concepts are active on {images}{unseen}. Choose one; the arrow keys move on."


def _local_kind(report):
    return "test" if report.local_kind == "test" else "training"


def _sample(report, i, pictures):
    local = report.local(i, r=_LOCAL_CONCEPTS)
    caption = clean(local.caption or "")
    forms = report.provenance.get("forms") or [report.settings.get("token")]
    forms = [str(form) for form in ([forms] if isinstance(forms, str) else forms) if form]
    items = [_local_item(report, item, local.factors, pictures) for item in local.items]
    return {
        "id": f"sample-{i}",
        "number": i + 1,
        "origin": f"Image {local.image_index} of the {_local_kind(report)} images",
        "picture": pictures.add("local", i),
        "caption": caption,
        "pieces": [{"text": text, "token": hit} for text, hit in split_at_word(caption, forms)],
        "references": [clean(reference) for reference in local.references or ()],
        "factors": _scalar_factors(local.factors),
        "concepts": items,
        "rest": _rest(local),
    }


def _local_item(report, item, factors, pictures):
    concept = report.concepts[item["concept"]]
    words = ", ".join(clean(word) for word in concept.words[: _TITLE_WORDS + 1])
    return {
        "concept": concept.index,
        "id": f"concept-{concept.index}",
        "words": words,
        "share": percent(item["share"]),
        "activation": number(item["activation"]),
        "width": round(100 * min(max(float(item["share"]), 0.0), 1.0), 2),
        "detects": _best_factor(concept, factors),
        "images": [
            {"picture": pictures.add("train", index), "label": f"example {n + 1} of this concept"}
            for n, index in enumerate(concept.image_indices[:_MINI_IMAGES])
        ],
    }


def _best_factor(concept, factors):
    """Tell which factor value the concept detects best, and whether the sample has this value."""
    if not concept.factors or not _is_detected(concept.factors[0]):
        return None
    factor, value = concept.factors[0]["factor"], concept.factors[0]["value"]
    match = factors is not None and factor in factors and str(factors[factor]) == str(value)
    return {"factor": clean(factor), "value": clean(value), "match": match}


def _rest(local):
    """Say how much the concepts that are not listed contribute."""
    shown = sum(item["share"] for item in local.items)
    n_more = int((local.activations > 0).sum()) - len(local.items)
    if n_more <= 0:
        return ""
    return (
        f"{n_more} more {'concept' if n_more == 1 else 'concepts'}: {percent(1 - shown)} together"
    )


def _scalar_factors(factors):
    """Keep the factors that fit into a label (boxes and other lists do not)."""
    return [
        {"factor": clean(name), "value": clean(value)}
        for name, value in (factors or {}).items()
        if isinstance(value, str | int | float) or hasattr(value, "item")
    ]


def _factors(report):
    if report.factor_table is None:
        return None
    groups = {}
    for entry in report.factor_table:
        groups.setdefault(clean(entry["factor"]), []).append(_factor_row(report, entry))
    reasons = {}
    for entry in report.left_out or ():
        value = f"{clean(entry['factor'])} {clean(entry['value'])}"
        reasons.setdefault(clean(entry.get("reason") or ""), []).append(value)
    return {
        "groups": [{"factor": name, "rows": rows} for name, rows in groups.items()],
        "summary": _factor_summary(report),
        "left_out": [{"reason": reason, "names": names} for reason, names in reasons.items()],
        "protocol": clean(report.settings.get("factor_protocol") or ""),
    }


def _factor_row(report, entry):
    concept = int(entry["concept"])
    named = entry.get("named_by") or ()
    return {
        "value": clean(entry["value"]),
        "concept": concept,
        "id": f"concept-{concept}" if 0 <= concept < len(report.concepts) else "",
        "positives": number(entry.get("n_positive")),
        "auroc": auroc(entry["auroc"]),
        "interval": interval(entry.get("low"), entry.get("high")),
        "bar": auroc_bar(entry["auroc"], entry.get("low"), entry.get("high")),
        "words": [{"text": clean(w), "hit": w in named} for w in entry.get("words") or ()],
        "hit": entry.get("word_hit"),
    }


def _factor_summary(report):
    table = report.factor_table
    found = [entry for entry in table if _is_detected(entry)]
    named = [e["word_hit"] for e in found if e.get("word_hit") is not None]
    tiles = [
        tile(
            "Mean AUROC",
            report.settings.get("factor_macro"),
            ".2f",
            note="first over values, then over factors",
        ),
        tile(
            "Detected",
            len(found),
            "d",
            unit=f"of {len(table)}",
            note=f"values with an AUROC above {DETECTED}",
        ),
    ]
    if named:
        note = "detected values with a word among the concept’s words"
        tiles.append(tile("Named", sum(named), "d", unit=f"of {len(named)}", note=note))
    return [found for found in tiles if found]


# Entries of the settings by the block that lists them; what is in no block is listed under "Other".
_BLOCKS = {
    "Factorisation": ("decomposer", "decomposer_origin", "n_components", "params"),
    "Words and images": ("grounding", "n_images"),
    "Samples": (
        "n_seen",
        "n_kept",
        "dropped",
        "n_test_seen",
        "n_test_kept",
        "test_dropped",
        "n_local",
    ),
    "Scores": (
        "reconstruction_score",
        "test_reconstruction_score",
        "mean_n_active",
        "overlap",
        "factor_macro",
        "factor_protocol",
        "factor_columns",
        "ignored_factor_columns",
        "min_positives",
        "random_state",
        "word_hit_share",
    ),
}


def _record(report):
    provenance, settings = dict(report.provenance), dict(report.settings)
    versions = provenance.pop("versions", None)
    if "n_components" in (settings.get("params") or {}):
        settings.pop("n_components", None)
    blocks = [("Model and states", provenance)]
    for name, keys in _BLOCKS.items():
        blocks.append((name, {key: settings.pop(key) for key in keys if key in settings}))
    # What the provenance says already is not said twice.
    other = {k: v for k, v in settings.items() if k not in provenance or provenance[k] != v}
    blocks += [("Other settings", other), ("Versions", versions or {})]
    return [{"name": name, "rows": named_rows(entries)} for name, entries in blocks if entries]
