"""What the page of an evaluation shows, as plain values that the templates only lay out.

One function for each section of the page; a section without numbers is None or empty and left out.
"""

from ._drawing import new_figure, svg_pair
from ._evaluation_findings import findings, names, reported_points, score
from ._evaluation_plots import (
    plot_curves,
    plot_scatter,
    plot_stability,
    plot_table1,
    share_above,
)
from ._evaluation_tables import evaluation_tables
from ._prose import layer_name
from ._records import (
    MEAN,
    RANDOM,
    UPPER,
    main_method,
    overall_token,
    rows_of,
    value_of,
)
from ._shapes import auroc_bar
from ._text import (
    DASH,
    MINUS,
    auroc,
    clean,
    data_uri,
    interval,
    is_number,
    model_name,
    named_rows,
    number,
    percent,
    tile,
)

_TITLE_WORDS = 3
_WARNING = (
    "The CLIPScores on this page come from the small CLIP model that is bundled with the package. "
    "They order methods on the bundled scenes; they are not comparable with the paper’s numbers or "
    "with any other published CLIPScore."
)


def evaluation_context(evaluation):
    """Collect the variables of ``templates/evaluation.html`` from an Evaluation."""
    settings, records = evaluation.settings, evaluation.records
    tables = evaluation_tables(records, evaluation.tests)
    layout = _Layout(settings, _main(evaluation))
    return {
        "head": _head(evaluation),
        "warning": _WARNING if settings.get("clip_bundled") else "",
        "notes": _notes(settings),
        "findings": [finding._asdict() for finding in findings(evaluation)],
        "scope": _scope(records, settings),
        "scores": _scores(records, tables, layout),
        "overlap": _overlap(tables, layout),
        "scatter": _scatter(evaluation, tables, layout),
        "curves": [_curve(evaluation, tables, layout, name) for name in _CURVES if name in tables],
        "stability": _stability(records, tables, layout),
        "factors": _factors(evaluation, tables, layout),
        "grids": _grids(evaluation),
        "record": _record(settings),
        "samples": _samples(settings),
    }


def _head(evaluation):
    settings = evaluation.settings
    tokens = [clean(token) for token in settings.get("tokens") or ()]
    model = model_name(settings.get("model"))
    main = clean(_main(evaluation) or "concepts")
    return {
        "title": f"Evaluation of {main} on {model}",
        "brand": f"Evaluation: {main}",
        "main": main,
        "model": model,
        "tokens": names(f"“{token}”" for token in tokens),
        "n_tokens": len(tokens),
        "layer": layer_name(settings, {}),
        "count": _first(settings.get("n_components")),
        "numbers": _head_numbers(evaluation.records, evaluation),
        "package_version": clean(settings.get("package_version") or ""),
    }


def _first(value):
    """Return the reference of a setting that may be a list of values."""
    value = value[0] if isinstance(value, list | tuple) and value else value
    return number(value) if is_number(value) else ""


def _main(evaluation):
    """Return the method that the page is about, by the first table that has one."""
    records = evaluation.records
    return main_method(records) if len(records) else None


def _head_numbers(records, evaluation):
    shown = (
        ("table1", "clip_score", "CLIPScore", {"top": 1}),
        ("table1", "bert_score", "BERTScore", {"top": 1}),
        ("table2", "overlap", "Overlap of words", {}),
        ("recovery", "auroc", "Factor recovery", {}),
        ("stability", "matched_cosine", "Stability", {}),
    )
    tiles = [_head_tile(rows_of(records, t, **s), m, name) for t, m, name, s in shown]
    points = reported_points(evaluation)
    if len(points) and main_method(points):
        share, n = share_above(points[points["method"] == main_method(points)], "clip")
        note = f"of {n:,} concepts have words that fit better than random ones"
        tiles.append(tile("Above chance", share and 100 * share, ".0f", unit="%", note=note))
    return [found for found in tiles if found]


_TILE_NOTES = {
    "overlap": "0: all words differ",
    "auroc": "mean AUROC; 0.5 is chance",
    "matched_cosine": "cosine between seeds; 1: the same",
}


def _head_tile(rows, metric, name):
    if len(rows) == 0 or main_method(rows) is None:
        return None
    token = overall_token(rows)
    chance = value_of(rows, RANDOM, metric, token)
    note = f"top 1; random words {score(chance)}" if chance is not None else "top 1"
    return tile(
        name,
        value_of(rows, main_method(rows), metric, token),
        ".2f",
        note=_TILE_NOTES.get(metric, note),
    )


def _scope(records, settings):
    """Say what the averages are over, and whether anything was scored."""
    chosen = list(settings.get("chosen_on") or ())
    tokens = [token for token in settings.get("tokens") or () if token not in chosen]
    parts = []
    if len(tokens) > 1 or chosen:
        parts.append(f"Averages are over {names(tokens)}." if tokens else "There is no average.")
    if chosen:
        parts.append(
            f"Settings were chosen on {names(chosen)} (†): shown, but left out of the averages, "
            "of tests over all tokens, and of the counts of concepts."
        )
    rows = rows_of(records, "table1")
    if len(rows) and not _has_numbers(rows):
        parts.append("No test image was kept, so that nothing could be scored on test images.")
    return " ".join(parts)


class _Layout:
    """Turns tables of texts into rows, groups and marked cells."""

    def __init__(self, settings, main):
        self._main = main
        self._chosen = {clean(token) for token in settings.get("chosen_on") or ()}

    def table(self, frame, caption, *, keys, group=(), better=0, best_in="columns"):
        """Lay out one table.

        Parameters
        ----------
        frame : DataFrame
            Of texts; the columns of `group` make blocks of rows, those of `keys` head the rows.
        better : int
            1 to mark the highest number of each block, -1 the lowest, 0 for none; upper references
            never count.
        best_in : {"columns", "rows"}
            Whether the methods that are compared are below or beside each other.
        """
        columns = [name for name in frame.columns if name not in (*group, *keys)]
        blocks = {}
        for row in frame.to_dict("records"):
            name = _group_name(group, row)
            blocks.setdefault(name, []).append(_row(row, keys, columns, self._main))
        for rows in blocks.values():
            _mark(rows, columns, better, best_in)
        return {
            "caption": caption,
            "keys": [_KEY_NAMES.get(key, key) for key in keys],
            "columns": [self._column(name) for name in columns],
            "groups": [{"name": name, "rows": rows} for name, rows in blocks.items()],
        }

    def _column(self, name):
        text = clean(name)
        return {"name": text, "chosen": text in self._chosen, "mean": text == MEAN}


_KEY_NAMES = {"n_components": "K", "alpha": "α", "baseline": "against", "n": "images in all"}


def _group_name(group, row):
    parts = [f"top {row[key]}" if key == "top" else clean(row[key]) for key in group]
    return ", ".join(parts)


def _row(row, keys, columns, main):
    heads = [(number if key == "n" else clean)(row[key]) or "(nothing)" for key in keys]
    method = row.get("method", "")
    return {
        "heads": heads,
        "method": method,
        "main": bool(method) and method == main,
        "upper": method in UPPER,
        "cells": [_cell(row[column]) for column in columns],
    }


def _cell(text):
    """Part a cell into its number and what follows it (deviation, p-value)."""
    text = str(text)
    main, sign, rest = text.partition(" +/- ")
    if sign:
        rest = f"± {rest}"
    else:
        main, _, rest = text.partition(" (")
        rest = rest.removesuffix(")")
    return {"text": main.replace("-", MINUS) or DASH, "rest": rest, "value": main, "best": False}


def _mark(rows, columns, better, best_in):
    """Mark the best number of each column, or of each row; those that are level are all marked."""
    if best_in == "columns":
        lines = [[row["cells"][i] for row in rows if not row["upper"]] for i in range(len(columns))]
    else:
        kept = [i for i, name in enumerate(columns) if name not in UPPER]
        lines = [[row["cells"][i] for i in kept] for row in rows]
    for line in lines if better else ():
        known = [cell for cell in line if cell["value"]]
        if len(known) > 1:
            best = max(better * float(cell["value"]) for cell in known)
            for cell in known:
                cell["best"] = better * float(cell["value"]) == best


def _figure(draw, alt, small=False):
    """Draw a figure for both grounds; None without matplotlib."""
    try:
        figure = draw()
    except ImportError:  # the page says so among its notes
        return None
    light, dark = svg_pair(figure)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return {
        "light": data_uri(light.encode(), "svg+xml"),
        "dark": data_uri(dark.encode(), "svg+xml"),
        "width": width,
        "height": height,
        "alt": alt,
        "small": small,
    }


def _over_tokens(frame):
    """What the deviation of the last column is over."""
    return " (last column: over the tokens)" if MEAN in frame.columns else ""


def _has_numbers(rows):
    return any(is_number(mean) for mean in rows["mean"])


def _notes(settings):
    notes = [clean(note) for note in settings.get("notes") or ()]
    try:
        new_figure((1, 1))
    except ImportError as error:
        notes.append(f"The figures are left out. {error}.")
    return notes


def _scores(records, tables, layout):
    if "table1" not in tables:
        return None
    frame = tables["table1"]
    shown = []
    for metric in dict.fromkeys(frame["metric"]):
        rows = frame[frame["metric"] == metric].drop(columns="metric")
        caption = (
            f"{metric} of the words of an image’s most active concepts, mean ± standard deviation "
            f"over the test images{_over_tokens(rows)}; the best method in bold"
        )
        table = layout.table(rows, caption, keys=["method"], group=["top"], better=1)
        shown.append({"name": metric, **table})
    tests = None
    if "tests" in tables:
        main = clean(main_method(records))
        caption = (
            f"{main} minus the baseline on the same test images, and the one-sided p-value of a "
            f"paired test that {main} is better; near 1, it is worse"
        )
        keys, group = ["baseline", "n"], ["metric", "top"]
        tests = layout.table(tables["tests"], caption, keys=keys, group=group)
    alt = (
        "Dots: the scores of each method, mean over the tokens, with one standard deviation; the "
        "numbers are in the tables below."
    )
    known = _has_numbers(rows_of(records, "table1"))
    figure = _figure(lambda: plot_table1(records), alt) if known else None
    return {"figure": figure, "tables": shown, "tests": tests}


def _overlap(tables, layout):
    if "table2" not in tables and "codes" not in tables:
        return None
    shown = []
    if "table2" in tables:
        caption = (
            "Share of one concept’s words that another has too, over all pairs; lower is better"
        )
        frame = tables["table2"].drop(columns="metric")
        shown.append(layout.table(frame, caption, keys=["method"], better=-1))
    if "codes" in tables:
        caption = "Codes of the test states: what they explain, how sparse they are, what is unused"
        shown.append(layout.table(tables["codes"], caption, keys=["method"], group=["metric"]))
    return {"tables": shown}


def _scatter(evaluation, tables, layout):
    points = reported_points(evaluation)
    alt = "Scatter of all concepts: the fit of a concept’s words against that of random words."
    known = any(share_above(points, kind)[1] for kind in ("clip", "bert"))
    figure = _figure(lambda: plot_scatter(points), alt) if known else None
    if "scatter" not in tables:
        return {"figure": figure, "table": None} if figure else None
    over = _over_tokens(tables["scatter"])
    caption = f"Fit of words to the most activating images, mean ± deviation over concepts{over}"
    table = layout.table(tables["scatter"], caption, keys=["method"], group=["metric"], better=1)
    return {"figure": figure, "table": table}


_CURVES = {
    "layers": ("Layers", "layer", "The same evaluation with the states of other decoder blocks."),
    "n_components": (
        "Number of concepts",
        "n_components",
        "The same evaluation with dictionaries of other sizes K.",
    ),
    "alpha": (
        "Sparsity",
        "alpha",
        "The same evaluation with other weights of the L1 term: a larger α lets fewer concepts be "
        "active.",
    ),
}


def _curve(evaluation, tables, layout, name):
    title, column, intro = _CURVES[name]
    reference = _reference(evaluation.records, column)
    caption = f"{title}: mean ± standard deviation for each metric and method"
    frame = tables[name]
    keys = ["method", column] if frame["method"].nunique() > 1 else [column]
    frame = frame if "method" in keys else frame.drop(columns="method")
    settings = ", ".join(clean(value) for value in dict.fromkeys(frame[column]))
    alt = f"Curves over {title.lower()} ({settings}); the numbers are in the table below."
    figure = None
    if _has_numbers(rows_of(evaluation.records, name)):
        figure = _figure(lambda: plot_curves(evaluation.records, name, reference=reference), alt)
    marked = reference is not None and (frame[column] == reference).any()
    return {
        "id": name.replace("_", "-"),
        "title": title,
        "intro": intro,
        "figure": figure,
        "note": "The dotted line marks the setting of the other tables." if marked else "",
        "table": layout.table(frame, caption, keys=keys, group=["metric"]),
    }


def _reference(records, column):
    """Return the setting of the main tables, as the records have it; None where it is unclear."""
    rows = records[records["table"].isin(["table1", "table2", "codes"])]
    rows = rows[rows["method"] == main_method(rows)] if len(rows) else rows
    values = [
        value for value in dict.fromkeys(rows[column]) if value is not None and value == value
    ]
    return values[0] if len(values) == 1 else None


def _stability(records, tables, layout):
    if "stability" not in tables:
        return None
    over = _over_tokens(tables["stability"])
    caption = f"Cosine of matched concepts of two runs, mean ± deviation over pairs of runs{over}"
    frame = tables["stability"].drop(columns="metric")
    alt = "Matched cosine between runs with different seeds, for each token."
    known = _has_numbers(rows_of(records, "stability"))
    figure = _figure(lambda: plot_stability(records), alt, small=True) if known else None
    return {"figure": figure, "table": layout.table(frame, caption, keys=["method"])}


def _factors(evaluation, tables, layout):
    if "recovery" not in tables:
        return None
    frame = tables["recovery"]
    overall = frame["token"] == overall_token(frame)
    options = {"keys": ["method"], "group": ["token"], "better": 1}
    caption = "Factor recovery on test images; the best in bold, a linear probe as ceiling"
    shown = [layout.table(frame[overall], caption, **options)] if overall.any() else []
    if "recovery_prefix" in tables:
        caption = "Mean AUROC among images whose caption has the same text before the token"
        prefixes = {"keys": ["prefix"], "group": ["token"], "better": 1, "best_in": "rows"}
        shown.append(layout.table(tables["recovery_prefix"], caption, **prefixes))
    each = None
    if not overall.all():
        caption = "Factor recovery on the test images of each token"
        each = layout.table(frame[~overall], caption, **options)
    return {"tables": shown, "tokens": each, "values": _factor_values(evaluation)}


def _factor_values(evaluation):
    """Which concept detects which value, for each token, by the method that the page is about."""
    factors = evaluation.factors
    if factors is None or len(factors) == 0:
        return []
    factors = factors[(factors["prefix"] == "all") & (factors["method"] == main_method(factors))]
    places = {token: i for i, token in enumerate(evaluation.concepts or {})}
    shown = []
    for token in dict.fromkeys(factors["token"]):
        groups = {}
        for row in factors[factors["token"] == token].to_dict("records"):
            known = _numbers_of(evaluation.concepts.get(token) or ()) if token in places else ()
            groups.setdefault(clean(row["factor"]), []).append(
                _value_row(row, places.get(token), known)
            )
        listed = [{"factor": name, "rows": rows} for name, rows in groups.items()]
        shown.append({"token": clean(token), "groups": listed})
    return shown


def _numbers_of(concepts):
    return {int(concept["concept"]) for concept in concepts}


def _value_row(row, place, known):
    concept = int(row["component"]) if is_number(row["component"]) else None
    return {
        "value": clean(row["value"]),
        "concept": DASH if concept is None else concept,
        "id": f"concept-{place}-{concept}" if concept in known else "",
        "positives": number(row["n_positive_test"]),
        "auroc": auroc(row["auroc"]),
        "interval": interval(row["low"], row["high"]),
        "bar": auroc_bar(row["auroc"], row["low"], row["high"]),
    }


def _grids(evaluation):
    """The concepts of each token; all but the first token are folded."""
    chances = _chances(evaluation.points)
    return [
        {
            "id": f"token-{place}",
            "token": clean(token),
            "count": len(concepts),
            "concepts": [_concept(concept, place, token, chances) for concept in concepts],
        }
        for place, (token, concepts) in enumerate((evaluation.concepts or {}).items())
        if concepts
    ]


def _chances(points):
    """Scores of random words on a concept's images: (token, concept) -> (CLIP, BERT)."""
    if len(points) == 0 or main_method(points) is None:
        return {}
    rows = points[points["method"] == main_method(points)]
    columns = (rows[name] for name in ("token", "concept", "random_clip", "random_bert"))
    return {(token, int(k)): scores for token, k, *scores in zip(*columns, strict=True)}


def _concept(concept, place, token, chances):
    k = int(concept["concept"])
    words = [clean(word) for word in concept["words"]]
    chance = chances.get((token, k), (None, None))
    title = ", ".join(words[:_TITLE_WORDS])
    return {
        "index": k,
        "id": f"concept-{place}-{k}",
        "title": title,
        "words": [{"text": word, "level": 2, "hit": False, "note": ""} for word in words],
        "share": percent(concept["share"]),
        "images": [
            {"uri": data_uri(jpeg, "jpeg"), "label": f"Image {n + 1} of concept {k}: {title}"}
            for n, jpeg in enumerate(concept["images"])
        ],
        "scores": [
            {
                "name": name,
                "value": score(value),
                "chance": score(random) if is_number(random) else "",
                "above": is_number(random) and value > random,
            }
            for name, value, random in zip(
                ("MAS CLIPScore", "MAS BERTScore"),
                (concept.get("mas_clip"), concept.get("mas_bert")),
                chance,
                strict=True,
            )
            if is_number(value)
        ],
    }


_BLOCKS = {
    "Model and states": ("model", "revision", "fingerprint", "prompt", "layer"),
    "Tokens": ("tokens", "chosen_on"),
    "Methods": ("main", "methods"),
    "Words": ("grounding",),
    "Settings tried": ("layers", "n_components", "alphas", "seeds"),
    "Scores": ("clip", "clip_bundled", "bert"),
    "Time": ("seconds",),
    "Versions": ("package_version", "versions"),
}


def _record(settings):
    left = {key: value for key, value in settings.items() if key not in ("samples", "notes")}
    blocks = []
    for name, keys in _BLOCKS.items():
        entries = {key: left.pop(key) for key in keys if key in left}
        for key in ("methods", "versions"):
            entries |= entries.pop(key, None) or {}
        blocks.append((name, entries))
    blocks.append(("Other settings", left))
    return [{"name": name, "rows": named_rows(entries)} for name, entries in blocks if entries]


def _samples(settings):
    """How many images were seen and kept for each token."""
    columns = ("train_seen", "train_kept", "test_seen", "test_kept")
    return [
        {"token": clean(token), "counts": [number(counts.get(column)) for column in columns]}
        for token, counts in (settings.get("samples") or {}).items()
    ]
