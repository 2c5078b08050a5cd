"""What the page of one answer shows without its script, as values that the templates lay out.

One function for each section; a section that the explanation has not is None or empty and left out.
The script adds what can be chosen, from the data that ``_answer_data.py`` collects.
"""

import json

import numpy as np
from scipy.special import entr

from ._answer_data import Rows, answer_data, attention_data, shown
from ._answer_fitting import Pool, first_words
from ._answer_packing import as_script
from ._context import Pictures
from ._shapes import curve
from ._text import (
    DASH,
    clean,
    is_number,
    mean_and_spread,
    model_name,
    named_rows,
    number,
    percent,
)

_CHROME = 220_000  # bytes of style, script and markup, generously
_EXAMPLES = 5
# Where a page would be too large, places are summed while there are more of an image, then words
# are left out while there are more.
_PLACES, _WORDS = 256, 12
_LOW = 0.5  # share of a state below which what concepts explain of it is called little
_THROUGH = {
    "language": ("the language model", "which image tokens and words the language model used"),
    "vision": ("the vision encoder", "which patches the encoder mixed into the image tokens"),
    "both": (
        "language model and vision encoder",
        "from the word down the language model, then down the vision encoder",
    ),
}


def answer_context(explanation, max_bytes):
    """Collect the variables of ``templates/answer.html`` from an AnswerExplanation."""
    trace = explanation.trace
    side, n_words = 1, len(trace.words)
    while True:
        pool = Pool(trace.grids, side)
        context, fits = _context(explanation, pool, n_words, max_bytes)
        if not fits and pool.n > _PLACES * len(trace.images):
            side *= 2
        elif not fits and n_words > _WORDS:
            n_words = max(n_words // 2, _WORDS)
        else:
            return context


def _context(whole, pool, n_words, max_bytes):
    """The variables with so many places and words; whether the page is small enough."""
    explanation = first_words(whole, n_words)
    trace, data = explanation.trace, answer_data(explanation, pool)
    concepts, pictures = _concepts(data["concepts"], explanation)
    images = [
        # In the markup, for readers without script, too, and so not in the data.
        {"id": f"image-{i}", "name": image["name"], "uri": image.pop("uri")}
        | {key: image[key] for key in ("width", "height")}
        for i, image in enumerate(data["images"])
    ]
    context = {
        "head": _head(trace),
        "images": images,
        "words": [{"text": shown(word.text), "index": i} for i, word in enumerate(trace.words)],
        # The script takes sinks off the map of places, where queries are not seen singly.
        "has_sinks": pool.side == 1 and not any(grid.query_layers for grid in trace.grids),
        "through": [_through(name) for name in explanation.relevancy],
        "relevancy": _relevancy(explanation),
        "causal": [_causal(graph) for _, graph in sorted(explanation.causal.items())],
        "concepts": concepts,
        "pictures": [*images, *pictures],
        "curves": [_curves(c) for _, c in sorted(explanation.faithfulness.items())],
        "tokens": _tokens(trace),
        "record": _record(whole),
    }
    data["record"] = context["record"]
    used = len(json.dumps(context)) + len(json.dumps(data)) + _CHROME
    data["attention"], left = attention_data(trace, pool, max_bytes - used)
    left_out = _coarser(whole.trace, pool, n_words) + _not_held(data["attention"])
    left_out += _not_made(explanation)
    return context | {"left_out": left_out, "data": as_script(data)}, left >= 0


def _head(trace):
    model = model_name(trace.provenance.get("model"))
    question = clean(trace.question)
    return {
        "title": f"{question or 'An answer'} – {model}",
        "brand": "Inside one answer",
        "model": model,
        "question": question,
        "n_images": len(trace.images),
        "package_version": clean(trace.provenance.get("package_version") or ""),
    }


def _through(name):
    title, note = _THROUGH.get(name, (clean(name), ""))
    return {"id": clean(name), "short": clean(name), "title": title, "note": note}


def _not_made(explanation):
    """Say which views the model did not allow, and why."""
    left_out = (explanation.settings or {}).get("left_out") or {}
    return [f"Left out: {clean(name)}. {clean(reason)}" for name, reason in left_out.items()]


def _coarser(trace, pool, n_words):
    """Say that places were summed, and that words are missing."""
    said = []
    if pool.side > 1:
        n_places = sum(len(grid.boxes) for grid in trace.grids)
        said.append(
            f"To stay below 5 MB, this page sums attention and relevancy over {pool.side} × "
            f"{pool.side} neighbouring patches each: it has {pool.n:,} places of {n_places:,}. "
            "Attention sinks, single patches, cannot be left out; entropies beside the image are "
            "those of the sums."
        )
    if n_words < len(trace.words):
        said.append(
            f"To stay below 5 MB, this page has the first {n_words} words of the answer, of "
            f"{len(trace.words)}."
        )
    return said


def _not_held(attention):
    """Say of which layers the page has no single heads; nothing where it has all."""
    layers = attention["layers"]
    heads, planes = (
        sorted(
            layers[part["layer"]] for part in attention[kind] if part["layer"] in range(len(layers))
        )
        for kind in ("by_head", "planes")
    )
    if len(heads) == len(layers):
        return []
    maps = f"{len(heads)} of the {len(layers)} layers ({_listed(heads)})" if heads else "no layer"
    means = f"{len(planes)} ({_listed(planes)})" if planes else "none"
    means = "all" if len(planes) == len(layers) else means
    return [
        f"To stay below 5 MB, this page holds the maps of single heads for {maps}, and means over "
        f"heads for {means}. Means over layers and all numbers are those of all layers and heads."
    ]


def _listed(numbers):
    return ", ".join(map(str, numbers))


def _relevancy(explanation):
    """For each word, the shares of image and text and the words that mattered most."""
    return [
        {
            **_through(name),
            "has_text": bool(np.any(np.asarray(found.shares)[:, 1] > 0)),
            "rows": [
                {
                    "word": shown(word),
                    "image": percent(share[0]),
                    "text": percent(share[1]),
                    "width": round(100 * float(share[0]), 1) if is_number(share[0]) else 0,
                    "top": [
                        {"text": shown(text), "value": number(value)}
                        for text, value in found.top_words(int(index), 5)
                    ],
                }
                for word, index, share in zip(
                    found.words, found.word_indices, found.shares, strict=True
                )
            ],
        }
        for name, found in explanation.relevancy.items()
    ]


def _causal(graph):
    return {
        "word": shown(graph.word),
        "layer": int(graph.layer),
        "head": int(graph.head),
        "alpha": number(graph.alpha),
        "records": number(graph.n_records),
        "largest": max(int(np.max(graph.radius, initial=0)), 1),
    }


def _curves(curves):
    """Deletion and insertion of one word beside random maps, as shapes and numbers."""
    return {
        "word": shown(str(curves.word)),
        "label": clean(curves.label),
        "panels": [
            _panel("Deletion", "lower is better", curves, "deletion"),
            _panel("Insertion", "higher is better", curves, "insertion"),
        ],
    }


def _panel(name, note, curves, key):
    own = np.asarray(getattr(curves, key), dtype=np.float64)
    random = np.atleast_2d(np.asarray(getattr(curves, f"random_{key}"), dtype=np.float64))
    areas = np.asarray(getattr(curves, f"random_{key}_areas"), dtype=np.float64)
    low = float(min(0.0, own.min(), random.min(initial=0.0)))
    high = float(max(own.max(), random.max(initial=0.0)))
    limits = (low, high if high > low else low + 1.0)
    verdict = curves.verdict(key)
    return {
        "name": name,
        "note": note,
        "own": curve(curves.fractions, own, limits),
        "random": [curve(curves.fractions, row, limits) for row in random],
        "low": number(limits[0]),
        "high": number(limits[1]),
        "area": number(getattr(curves, f"{key}_area")),
        "random_area": mean_and_spread(areas),
        "n_random": int(areas.size),
        "verdict": verdict,
        "is_chance": bool(verdict) and not verdict.startswith("Better"),
    }


def _concepts(found, explanation):
    """The most active concepts with their words and example images, and these images."""
    if found is None:
        return None, []
    report = explanation.concept_report
    pictures = None if report is None else Pictures(report)
    known = {} if report is None else {int(c.index): c for c in report.concepts}
    items = []
    for item in found["items"]:
        concept = known.get(item["index"])
        images = [] if concept is None else concept.image_indices[:_EXAMPLES]
        values = [value for value in item["values"] if value is not None]
        items.append(
            {
                "index": item["index"],
                "words": item["words"],
                "images": [i for i in (pictures.add("train", i) for i in images) if i],
                "peak": number(max(values, default=None)),
            }
        )
    stored = [] if pictures is None else pictures.stored
    shown_there = {
        "items": items,
        "n_all": found["n_all"],
        "explained": _explained(explanation),
        "about": _about_concepts(explanation),
        "doubts": _doubts(explanation),
        "top": number(max((v for one in found["items"] for v in one["values"] if v), default=0.0)),
    }
    return shown_there, stored


def _about_concepts(explanation):
    """One sentence: of which word, learned how, from how many samples, at which layer."""
    found, report = explanation.concepts, explanation.concept_report
    named = "Concepts" if found.token is None else f"Concepts of “{clean(found.token)}”"
    settings = {} if report is None else report.settings
    learned = [f"{number(found.word_activations.shape[1])} learned"]
    if settings.get("decomposer"):
        learned.append(f"by {clean(settings['decomposer'])}")
    if is_number(settings.get("n_kept")):
        learned.append(f"from {number(settings['n_kept'])} samples")
    return f"{named}: {' '.join(learned)}, of the states at layer {clean(found.layer)}."


def _doubts(explanation):
    """Say where the concepts are not made for this answer; nothing where they are."""
    found, said = explanation.concepts, []
    if found.token is not None:
        provenance = getattr(explanation.concept_report, "provenance", {})
        forms = {str(f).casefold() for f in [found.token, *(provenance.get("forms") or [])]}
        if not forms & {word.strip(_MARKS).casefold() for word in found.words}:
            said.append(
                f"“{clean(found.token)}” is not a word of this answer: these concepts were learned "
                "to tell apart states that predict another word than any here."
            )
    low = [shown(word) for word, mean in _means_explained(explanation) if mean < _LOW]
    if low:
        said.append(
            f"At {len(low)} of {len(found.words)} words the concepts explain less than half of the "
            f"state, so that their activations there mean little: {', '.join(low)}."
        )
    return said


_MARKS = ".,;:!?\"'“”‘’()[]"


def _explained(explanation):
    """How well the concepts describe the states of each word; nothing where it is not known."""
    if not np.isfinite(explanation.concepts.explained).any():
        return []
    return [
        {"text": shown(word), "share": percent(max(mean, 0.0)) if is_number(mean) else DASH}
        for word, mean in _means_explained(explanation)
    ]


def _means_explained(explanation):
    """(word, mean over its tokens of the share that is explained); NaN where it is not known."""
    found = explanation.concepts
    return [
        (word, float(np.mean(found.explained[start:stop])))
        for word, (start, stop) in zip(found.words, found.spans, strict=True)
    ]


def _tokens(trace):
    """One row for each answer token: probability, what else it could have been, where it looked."""
    rows = Rows(trace)
    mean = rows.of_tokens("mean")[0].astype(np.float64)
    mean /= mean.sum(axis=-1, keepdims=True)
    image = mean[:, rows.columns].sum(axis=-1)
    question = mean[:, rows.question].sum(axis=-1)
    entropy = [_entropy(row) for row in rows.places(mean)]
    return [
        {
            "text": shown(trace.tokens[trace.n_prompt + t]),
            "probability": percent(float(trace.probabilities[t])),
            "width": round(100 * float(trace.probabilities[t]), 1),
            "logit": number(float(trace.logits[t])),
            "image": percent(float(image[t])),
            "question": percent(float(question[t])),
            "entropy": f"{entropy[t]:.2f}",
            "others": [
                {"text": shown(text), "value": percent(float(p))}
                for text, p in trace.alternatives[t]
            ],
        }
        for t in range(len(trace.probabilities))
    ]


def _entropy(values):
    """In nats, of values as a distribution."""
    total = values.sum()
    return float(entr(values / total).sum()) if total > 0 else 0.0


def _record(explanation):
    trace = explanation.trace
    provenance = dict(trace.provenance)
    versions = provenance.pop("versions", None)
    answer = {
        "question": trace.question or "(the model’s default)",
        "prompt": trace.prompt,
        "answer": trace.answer,
        "images": [
            f"{clean(name)} ({image.width} × {image.height})"
            for name, image in zip(trace.image_names, trace.images, strict=True)
        ],
        "prompt tokens": int(trace.n_prompt),
        "image tokens": [len(grid.positions) for grid in trace.grids],
        "answer tokens": len(trace.probabilities),
        "layers kept": list(trace.layers),
        "heads": int(trace.attention.shape[1]),
    }
    blocks = [
        ("Answer", {key: value for key, value in answer.items() if value != provenance.get(key)}),
        ("Model and run", provenance),
        ("Concepts", _record_of_concepts(explanation)),
        ("Settings of the views", dict(explanation.settings or {})),
        ("Versions", versions or {}),
    ]
    return [{"name": name, "rows": named_rows(rows)} for name, rows in blocks if rows]


def _record_of_concepts(explanation):
    found, report = explanation.concepts, explanation.concept_report
    if found is None:
        return {}
    settings = {} if report is None else report.settings
    known = {
        "token": found.token,
        "layer": found.layer,
        "concepts": int(found.word_activations.shape[1]),
        "method": settings.get("decomposer"),
        "samples": settings.get("n_kept"),
        "prompt": settings.get("prompt"),
        "fingerprint of their model": None
        if report is None
        else report.provenance.get("fingerprint"),
        "activation of a word": found.of_word,
    }
    return {key: value for key, value in known.items() if value is not None}
