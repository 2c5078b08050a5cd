"""matplotlib figures of an evaluation, from its records and points.

Figures are built without pyplot: no window, no global state, nothing to close.
"""

import math

import numpy as np

from ._drawing import (
    ACCENT,
    FAINT,
    GROUND,
    INK,
    LINE,
    SERIES,
    SOFT,
    concept_rows,
    few_ticks,
    label,
    legend,
    new_figure,
    plain,
    wide_rows,
)
from ._records import (
    CHANCE,
    MEAN,
    RANDOM,
    UPPER,
    in_steps,
    main_method,
    measure,
    methods_of,
    metrics_of,
    overall_token,
    rows_of,
    tokens_of,
    value_of,
)
from ._text import is_number, percent

_MARKERS = "sD^vP"
_ARROWS = {1: "↑ better", -1: "↓ better", 0: ""}
# Table of a curve -> column of its setting, and its name on the axis.
_SETTINGS = {
    "layers": ("layer", "decoder block"),
    "n_components": ("n_components", "number of concepts K"),
    "alpha": ("alpha", "weight α of the L1 term (relative)"),
}


def plot_scatter(points):
    """Draw each concept's fit to its most activating images against that of random words.

    Above the diagonal, the words of a concept fit its images better than random words do. There is
    a panel for MAS CLIPScore and one for MAS BERTScore; a metric without any number has none.

    Parameters
    ----------
    points : DataFrame
        ``Evaluation.points``, a row per concept: columns method, clip, random_clip, bert and
        random_bert (scores in [0, 2.5] and [-1, 1]; NaN where unknown).

    Returns
    -------
    figure : matplotlib.figure.Figure
        With equal axes; the legend gives the share of each method's points above the diagonal, and
        large markers are the methods' means.

    Raises
    ------
    ValueError
        No concept has both scores of a metric.
    ImportError
        matplotlib is not installed.
    """
    panels = [kind for kind in ("clip", "bert") if len(_known(points, kind))]
    if not panels:
        raise ValueError(
            "points has no concept with a score and that of random words; expected numbers in the "
            "columns clip and random_clip, or bert and random_bert."
        )
    methods = methods_of(points)
    n_columns = 2 if max(len(str(method)) for method in methods) <= 16 else 1
    # Inches: of a panel, and of the legend below it.
    height, below = 4.5, 0.15 + 0.2 * math.ceil(len(methods) / n_columns)
    figure = new_figure((4.3 * len(panels), height + below))
    grid = {"squeeze": False, "height_ratios": [height, below]}
    for kind, axis, foot in zip(panels, *figure.subplots(2, len(panels), **grid), strict=True):
        handles = _draw_scatter(axis, _known(points, kind), kind)
        foot.set_axis_off()
        options = {"loc": "upper left", "ncols": n_columns, "borderaxespad": 0}
        legend(foot, handles, **options).set_in_layout(False)  # its room is given above
    return figure


def _known(points, kind):
    """Return the points that have both coordinates of a panel."""
    if len(points) == 0:
        return points
    both = np.isfinite(points[[kind, f"random_{kind}"]].to_numpy(dtype=np.float64)).all(axis=1)
    return points[both]


def share_above(points, kind):
    """Return (share of points above the diagonal, number of points); None where there is none."""
    known = _known(points, kind)
    if len(known) == 0:
        return None, 0
    return float((known[kind] > known[f"random_{kind}"]).mean()), len(known)


def _draw_scatter(axis, points, kind):
    from matplotlib.lines import Line2D

    name = measure(f"mas_{kind}_score").name
    plain(axis, name)
    limits = _limits(points[[kind, f"random_{kind}"]].to_numpy(dtype=np.float64))
    axis.plot(limits, limits, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    handles = []
    main = main_method(points)
    for method, (colour, marker) in _looks(methods_of(points), main).items():
        rows = points[points["method"] == method]
        strong = method == main
        look = {"marker": marker, "color": colour, "linestyle": "none"}
        x, y = rows[f"random_{kind}"], rows[kind]
        axis.plot(
            x, y, markersize=4.2 if strong else 3.4, alpha=0.85 if strong else 0.4,
            markeredgewidth=0, zorder=3 if strong else 2, **look,
        )  # fmt: skip
        mean = {"markersize": 9, "markeredgecolor": INK, "markeredgewidth": 0.9}
        axis.plot([x.mean()], [y.mean()], zorder=4 + strong, **look, **mean)
        text = f"{label(method)}: {percent(share_above(rows, kind)[0])} above"
        handles.append(Line2D([], [], label=text, markersize=5, **look))
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    few_ticks(axis)
    axis.set_xlabel(f"random words, {name}")
    axis.set_ylabel(f"words of the concept, {name}")
    return handles


def _limits(values):
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _looks(methods, main):
    """Give each method a colour and a marker; the main one, drawn last, the accent and a disc."""
    others = [method for method in methods if method != main]
    looks = {
        method: (SERIES[i % len(SERIES)], _MARKERS[i % len(_MARKERS)])
        for i, method in enumerate(others)
    }
    return looks | ({main: (ACCENT, "o")} if main in methods else {})


def plot_curves(records, table, *, reference=None):
    """Draw how the metrics change with the layer, the number of concepts, or the L1 weight.

    One panel for each metric: a thin line for each token, a thick one for their mean, and for the
    scores of words a dashed one for random words.

    Parameters
    ----------
    records : DataFrame
        ``Evaluation.records``.
    table : {"layers", "n_components", "alpha"}
        Which curves. The axis of the L1 weight is logarithmic; layers that are not all counted from
        the same end (or are names) are set side by side.
    reference : int, float or str, optional
        Setting of the other tables, marked by a vertical line.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        `table` is none of the three, or the records have no number of it.
    ImportError
        matplotlib is not installed.
    """
    if table not in _SETTINGS:
        raise ValueError(f"table must be one of {', '.join(map(repr, _SETTINGS))}, got {table!r}.")
    rows = _finite(rows_of(records, table), table)
    column, name = _SETTINGS[table]
    rows = rows.assign(_x=_positions(rows[column], reference))
    metrics = metrics_of(rows)
    n_columns = 3 if len(metrics) in (5, 6) else min(len(metrics), 4)
    n_rows = math.ceil(len(metrics) / n_columns)
    figure = new_figure((max(2.55 * n_columns, 3.4), 2.15 * n_rows + 0.4))
    wide_rows(figure)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, metric in zip(axes, metrics, strict=False):
        plain(axis, measure(metric).name, _ARROWS[measure(metric).better])
        few_ticks(axis)
        _draw_curves(axis, rows[rows["metric"] == metric])
        if metric == "dead_fraction":  # mostly zero throughout
            axis.set_ylim(0, max(0.1, axis.get_ylim()[1]))
        _scale(axis, rows, column, reference)
    for axis in axes[max(len(metrics) - n_columns, 0) : len(metrics)]:
        axis.set_xlabel(name)
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    legend(figure, _curve_handles(rows), loc="outside lower left", ncols=3)
    return figure


def _finite(rows, table):
    known = [is_number(mean) for mean in rows["mean"]] if len(rows) else []
    if not any(known):
        raise ValueError(f"records have no number in the table {table!r}.")
    return rows[known]


def _by_size(values):
    """Whether a setting has a scale: numbers that are counted from the same end."""
    numbers = [float(v) for v in values if is_number(v)]
    return len(numbers) == len(values) and len({v < 0 for v in numbers}) <= 1


def _positions(values, reference):
    steps = in_steps(values.tolist())
    if _by_size(steps):
        return values.astype(float)
    return values.map({value: float(i) for i, value in enumerate(steps)})


def _draw_curves(axis, rows):
    main = main_method(rows)
    overall = overall_token(rows)
    random = _line(rows, RANDOM, overall)
    axis.plot(*random, color=SOFT, linewidth=1.1, linestyle=(0, (4, 2.5)), zorder=2)
    for token in tokens_of(rows):
        axis.plot(*_line(rows, main, token), color=ACCENT, linewidth=0.8, alpha=0.45, zorder=2)
    mean = _line(rows, main, overall)
    axis.plot(*mean, color=ACCENT, linewidth=2.0, marker="o", markersize=3.6, zorder=3)


def _line(rows, method, token):
    chosen = rows[(rows["method"] == method) & (rows["token"] == token)].sort_values("_x")
    chosen = chosen[~chosen["_x"].duplicated()]  # of repetitions the first counts
    return chosen["_x"].to_numpy(float), chosen["mean"].to_numpy(float)


def _scale(axis, rows, column, reference):
    """Put the ticks at the settings that were tried, and mark the reference."""
    steps = in_steps(rows[column].tolist())
    sized = _by_size(steps)
    places = [float(step) for step in steps] if sized else list(range(len(steps)))
    if column == "alpha" and sized:
        positive = [place for place in places if place > 0]
        if positive and len(positive) == len(places):
            axis.set_xscale("log")
        elif positive:  # zero has no logarithm
            axis.set_xscale("symlog", linthresh=min(positive))
    shown = _thinned(places, log=column == "alpha")
    labels = [_step_text(steps[places.index(place)]) for place in shown]
    axis.set_xticks(shown, labels, parse_math=False)
    axis.minorticks_off()
    if reference in steps:
        place = places[steps.index(reference)]
        axis.axvline(place, color=FAINT, linewidth=0.8, linestyle=":", zorder=1)


def _step_text(step):
    return f"{step:g}" if is_number(step) else label(step, 12)


def _thinned(places, log, n=6):
    """Keep ticks that have room beside each other: at least 1/n of the axis apart."""
    low, high = places[0], places[-1]
    scale = (lambda v: math.log(v)) if log and low > 0 else float
    room = (scale(high) - scale(low)) / n
    kept = []
    for place in reversed(places):  # the last one is the most asked for
        if not kept or scale(kept[-1]) - scale(place) >= room:
            kept.append(place)
    return kept[::-1]


def _curve_handles(rows):
    from matplotlib.lines import Line2D

    tokens, overall = tokens_of(rows), overall_token(rows)
    mean = "mean over the tokens" if overall == MEAN else label(overall)
    thick = {"color": ACCENT, "linewidth": 2.0, "marker": "o", "markersize": 3.6}
    handles = [Line2D([], [], label=f"{label(main_method(rows))}, {mean}", **thick)]
    if len(tokens) > 1:
        handles.append(Line2D([], [], color=ACCENT, linewidth=0.8, alpha=0.45, label="one token"))
    if (rows["method"] == RANDOM).any():
        dashed = {"color": SOFT, "linewidth": 1.1, "linestyle": (0, (4, 2.5))}
        handles.append(Line2D([], [], label="random words", **dashed))
    return handles


def plot_table1(records):
    """Draw CLIPScore and BERTScore of all methods: one panel for each metric and top-k.

    A large dot is the mean over the tokens, small ones are the tokens, and the bar spans one
    standard deviation to each side: over the tokens, or over the test images of a single one.

    Parameters
    ----------
    records : DataFrame
        ``Evaluation.records``, of which the rows of table "table1" are drawn.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The panels share the methods on their vertical axis.

    Raises
    ------
    ValueError
        The records have no number in table 1.
    ImportError
        matplotlib is not installed.
    """
    rows = _finite(rows_of(records, "table1"), "table1")
    metrics, tops, methods = metrics_of(rows), in_steps(rows["top"].tolist()), methods_of(rows)
    size = (0.9 + 3.7 * len(tops), 0.5 + len(metrics) * (0.55 + 0.24 * len(methods)))
    figure = new_figure(size)
    wide_rows(figure)
    axes = figure.subplots(len(metrics), len(tops), squeeze=False, sharey=True, sharex="row")
    for i, metric in enumerate(metrics):
        for j, top in enumerate(tops):
            panel = rows[(rows["metric"] == metric) & (rows["top"] == top)]
            plain(axes[i, j], f"{measure(metric).name}, top {top:g}", "↑ better", "x")
            _draw_methods(axes[i, j], panel, methods, metric)
        _name_rows(axes[i, 0], methods, main_method(rows))
    return figure


def _draw_methods(axis, rows, methods, metric):
    main, overall, tokens = main_method(rows), overall_token(rows), tokens_of(rows)
    for y, method in enumerate(methods):
        colour = ACCENT if method == main else INK if method in UPPER else SOFT
        whole = rows[(rows["method"] == method) & (rows["token"] == overall)]
        mean = value_of(rows, method, metric, overall)
        if mean is None:
            continue
        std = whole["std"].iloc[0]
        if is_number(std):
            axis.plot([mean - std, mean + std], [y, y], color=colour, linewidth=1.1, alpha=0.55)
        if len(tokens) > 1:
            each = [value_of(rows, method, metric, token) for token in tokens]
            x = [value for value in each if value is not None]
            dots = {"markersize": 3, "alpha": 0.5, "markeredgewidth": 0}
            axis.plot(x, [y] * len(x), "o", color=colour, **dots)
        fill = GROUND if method in (*CHANCE, *UPPER) else colour
        big = {"markersize": 7 if method == main else 5.5, "markeredgewidth": 1.3}
        axis.plot([mean], [y], "o", color=colour, markerfacecolor=fill, zorder=3, **big)
        if method == main:
            axis.axvline(mean, color=colour, linewidth=0.8, alpha=0.45, zorder=1)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _name_rows(axis, names, main=None):
    """Write names at the left of rows, the first on top; the main one is set off."""
    axis.set_yticks(range(len(names)), [label(name) for name in names], parse_math=False)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    for text, name in zip(axis.get_yticklabels(), names, strict=True):
        if name == main:
            text.set(color=ACCENT, fontweight="bold")


def plot_stability(records):
    """Draw how well the concepts of runs with different seeds match, for each token.

    Parameters
    ----------
    records : DataFrame
        ``Evaluation.records``, of which the rows of table "stability" are drawn: the mean cosine of
        matched concepts, in [-1, 1], and its deviation over the pairs of runs (that of the mean:
        over the tokens).

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The records have no number in the table of stability.
    ImportError
        matplotlib is not installed.
    """
    rows = _finite(rows_of(records, "stability"), "stability")
    main, metric = main_method(rows), metrics_of(rows)[0]
    tokens = tokens_of(rows)
    names = [*tokens, MEAN] if overall_token(rows) == MEAN and len(tokens) > 1 else tokens
    figure = new_figure((5.6, 0.75 + 0.27 * len(names)))
    axis = figure.subplots()
    plain(axis, "Matched cosine between runs", "1: the same concepts", "x")
    low = 0.0
    for y, token in enumerate(names):
        mean = value_of(rows, main, metric, token)
        if mean is None:
            continue
        std = rows[(rows["method"] == main) & (rows["token"] == token)]["std"].iloc[0]
        std = std if is_number(std) else 0.0
        span = [mean - std, min(mean + std, 1.0)]
        axis.plot(span, [y, y], color=ACCENT, linewidth=1.2, alpha=0.6)
        size = 7.5 if token == MEAN else 5.5
        axis.plot([mean], [y], "o", color=ACCENT, markersize=size, zorder=3)
        low = min(low, mean - std - 0.05)
    axis.set_xlim(low, 1.02)
    axis.axvline(1.0, color=LINE, linewidth=1.0, zorder=1)
    _name_rows(axis, names, MEAN)
    return figure


def plot_concept_grid(concepts, n_images=5, *, n_words=10):
    """Draw the concepts of one token, one per row: words, then the most activating images.

    Parameters
    ----------
    concepts : sequence of dict
        ``Evaluation.concepts[token]``: dicts with concept (number), words, images (JPEG as bytes)
        and share (of the samples on which the concept is active, in [0, 1]).
    n_images : int, default=5
        Columns of images. A concept with fewer images leaves the last cells empty.
    n_words : int, default=10
        Number of words at most.

    Returns
    -------
    figure : matplotlib.figure.Figure
        With one pair of axes per row, as :func:`plot_concepts` makes it.

    Raises
    ------
    ValueError
        `n_images` is below 1.
    ImportError
        matplotlib is not installed.
    """
    import io

    from PIL import Image

    rows = [
        concept | {"images": [Image.open(io.BytesIO(jpeg)) for jpeg in concept["images"]]}
        for concept in concepts
    ]
    return concept_rows(rows, n_images=n_images, n_words=n_words)
