"""matplotlib figures of the results of ``semi_nmf_concepts.attention``.

Figures are built without pyplot: no window, no global state, nothing to close.
"""

import math

import numpy as np

from ._answer_drawing import overlay, patch_picture
from ._answer_layout import NODE, lay_out, points_of
from ._drawing import (
    ACCENT,
    FAINT,
    GROUND,
    INK,
    LINE,
    SERIES,
    SOFT,
    bare,
    few_ticks,
    label,
    legend,
    new_figure,
    plain,
    wrap,
)
from ._text import mean_and_spread, number, percent

_HEAT = "YlOrBr"
_COLUMNS = 6  # of small pictures


def plot_image_map(image_map, image=None, *, opacity=0.8, scale="linear", colours="heat"):
    """Draw a map over its images.

    Parameters
    ----------
    image_map : ImageMap
    image : int, default=None
        Which image; None: all, side by side. Images share one scale.
    opacity, scale, colours
        As :func:`overlay` takes them.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One pair of axes for each image.

    Raises
    ------
    ValueError
        If there is no such image, or an option of :func:`overlay` is wrong.
    ImportError
        matplotlib is not installed.
    """
    chosen = _images(image_map.images, image)
    figure = new_figure((3.6 * len(chosen), 3.9))
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    options = {"opacity": opacity, "scale": scale, "colours": colours}
    pictures = _overlays(image_map, options)
    for axis, index in zip(axes, chosen, strict=True):
        _picture(axis, pictures[index], image_map.image_names[index] if len(chosen) > 1 else "")
    share = f", {percent(image_map.share)} on the image" if image_map.share >= 0 else ""
    _title(figure, f"{image_map.label or 'map'}: {_words(image_map.words)}{share}")
    return figure


def _images(images, image):
    if image is None:
        return list(range(len(images)))
    if not 0 <= image < len(images):
        raise ValueError(f"image={image} does not exist: there are {len(images)} images.")
    return [image]


def _overlays(image_map, options):
    """All images with their maps, in one scale."""
    sizes = [_drawn_size(image) for image in image_map.images]
    densities = [image_map.pixels(i, size) for i, size in enumerate(sizes)]
    # Images of several sizes are compared by density per share of the image, not per pixel.
    densities = [d * d.size for d in densities]
    maximum = max(float(np.nanmax(d, initial=0.0)) for d in densities)
    return [
        overlay(image.resize(size), density, maximum=maximum, **options)
        for image, size, density in zip(image_map.images, sizes, densities, strict=True)
    ]


def _drawn_size(image, longest=448):
    scale = longest / max(image.size)
    return tuple(max(round(side * scale), 1) for side in image.size)


def _picture(axis, picture, title=""):
    bare(axis)
    if picture is not None:
        axis.imshow(picture)
    if title:
        axis.set_title(label(title, 32), fontsize=8.5, color=SOFT, parse_math=False)


def _title(figure, text):
    width = int(12 * figure.get_figwidth())  # of letters
    shown = figure.suptitle(wrap(text, width, lines=2), fontsize=10, color=INK)
    shown.set_parse_math(False)


def _words(words):
    return f"“{' '.join(words)}”" if words else "all words"


def plot_trace(trace, words=None, *, layer="mean", drop_sinks=False):
    """Draw where an answer looked: the image, the map of its words, and every head's.

    Parameters
    ----------
    trace : AnswerTrace or AnswerExplanation
    words : int, str, or list of these, default=None
        Words of the answer; None: all.
    layer : int, "mean" or "max", default="mean"
        Layer of the heads.
    drop_sinks : bool, default=False
        As ``AnswerTrace.image_attention`` takes it.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Axes: the image, the mean over all heads, then the heads by their mass on the image, the
        largest first. Of several images the one with the most attention is drawn.

    Raises
    ------
    ValueError
        If a word is not in the answer, or there is no such layer.
    ImportError
        matplotlib is not installed.
    """
    trace = getattr(trace, "trace", trace)
    mean = trace.image_attention(words, layer, "mean", drop_sinks=drop_sinks)
    maps = [
        trace.image_attention(words, layer, head, drop_sinks=drop_sinks)
        for head in range(trace.n_heads)
    ]
    order = sorted(range(len(maps)), key=lambda head: -maps[head].share)
    image = int(np.argmax([float(np.sum(values)) for values in mean.values]))
    drawn = [("image", None), (f"all heads, {percent(mean.share)}", mean)]
    drawn += [(f"head {head}, {percent(maps[head].share)}", maps[head]) for head in order]
    rows = math.ceil(len(drawn) / _COLUMNS)
    figure = new_figure((1.75 * min(len(drawn), _COLUMNS), 1.95 * rows + 0.4))
    axes = figure.subplots(rows, min(len(drawn), _COLUMNS), squeeze=False).ravel()
    for axis in axes:
        bare(axis)
    picture = trace.images[image]
    for axis, (name, one) in zip(axes, drawn, strict=False):
        _picture(axis, picture if one is None else _one_overlay(one, image), name)
    where = f"{layer} over layers" if isinstance(layer, str) else f"layer {layer}"
    _title(figure, f"{trace.answer} – {_words(mean.words)}, {where}")
    return figure


def _one_overlay(image_map, image, longest=224):
    size = _drawn_size(image_map.images[image], longest)
    return overlay(image_map.images[image].resize(size), image_map.pixels(image, size))


def plot_heads(masses):
    """Draw the attention mass of every head as a table of layers and heads.

    Parameters
    ----------
    masses : HeadMasses

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    values = np.asarray(masses.values, dtype=np.float64)
    n_layers, n_heads = values.shape
    figure = new_figure((1.6 + 0.36 * max(n_heads, 6), 1.3 + 0.32 * max(n_layers, 3)))
    axis = figure.subplots()
    drawn = axis.imshow(values, cmap=_HEAT, aspect="auto", vmin=0)
    figure.colorbar(drawn, ax=axis, shrink=0.9).ax.tick_params(labelsize=7.5, colors=SOFT)
    if values.size <= 120:
        middle = 0.6 * float(values.max(initial=0.0))
        for (row, column), value in np.ndenumerate(values):
            text = f"{100 * value:.0f}"
            colour = GROUND if value > middle else INK
            axis.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    step = math.ceil(n_heads / 16)
    axis.set_xticks(range(0, n_heads, step))
    axis.set_yticks(range(n_layers), [str(layer) for layer in masses.layers])
    axis.tick_params(labelsize=8, length=0, colors=SOFT)
    axis.set_xlabel("head", fontsize=8.5, color=SOFT)
    axis.set_ylabel("layer", fontsize=8.5, color=SOFT)
    for side in axis.spines.values():
        side.set_visible(False)
    _title(figure, f"Attention (%) to the {masses.to}: {_words(masses.words)}")
    return figure


def plot_words(scores):
    """Draw one bar for each word of the answer, in its order.

    Parameters
    ----------
    scores : WordScores

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    figure = new_figure((max(3.4, 0.6 * len(scores.words) + 1), 2.6))
    axis = figure.subplots()
    plain(axis, grid="y")
    axis.bar(range(len(scores.words)), scores.values, width=0.7, color=ACCENT)
    _name_columns(axis, scores.words)
    _title(figure, scores.label)
    return figure


def _name_columns(axis, words):
    names = [label(word, 16) for word in words]
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", parse_math=False)
    axis.tick_params(axis="x", length=0)


def plot_relevancy(relevancy, words=None):
    """Draw, for each word, its relevancy over the images, its shares, and the text that mattered.

    Parameters
    ----------
    relevancy : Relevancy
    words : sequence of int or str, default=None
        Words to draw, as ``Relevancy.map`` takes them; None: all that are explained.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One row for each word: the images, then the bars.

    Raises
    ------
    ValueError
        If a word is not explained.
    ImportError
        matplotlib is not installed.
    """
    wanted = list(relevancy.word_indices) if words is None else words
    wanted = [wanted] if isinstance(wanted, (str, int)) else list(wanted)
    maps = [relevancy.map(word) for word in wanted]
    n_images = len(maps[0].images)
    figure = new_figure((1.9 * n_images + 3.2, 1.75 * len(maps) + 0.4))
    grid = figure.add_gridspec(len(maps), n_images + 1, width_ratios=[1.9] * n_images + [3.2])
    for row, (word, one) in enumerate(zip(wanted, maps, strict=True)):
        for image in range(n_images):
            title = _words(one.words) if image == 0 else ""
            _picture(figure.add_subplot(grid[row, image]), _one_overlay(one, image), title)
        axis = figure.add_subplot(grid[row, n_images])
        _draw_text_share(axis, one.share, relevancy.top_words(word, 4))
    _title(figure, f"Relevancy ({relevancy.through})")
    return figure


def _draw_text_share(axis, share, top):
    """The share of the image as one bar, and the words of the text below it."""
    bare(axis)
    axis.set(xlim=(0, 1), ylim=(5.2, -0.4))
    axis.barh([0], [1], height=0.36, color=LINE)
    axis.barh([0], [share if share >= 0 else 0], height=0.36, color=SERIES[0])
    axis.text(0, 0.72, f"image {percent(share)}", fontsize=8, color=SOFT, va="center")
    for row, (text, value) in enumerate(top):
        line = f"{label(text, 18)}  {number(value)}"
        axis.text(0.04, 1.7 + 0.9 * row, line, fontsize=8.5, va="center", parse_math=False)


def plot_causal_graph(graph, radius=3, *, outside=False):
    """Draw a causal graph: patches cut from the image and words around the target, by radius.

    Parameters
    ----------
    graph : CausalGraph
    radius : int, default=3
        Distance from the target up to which nodes are drawn.
    outside : bool, default=False
        Whether to draw the nodes that are not in the explanation, too, farthest out.

    Returns
    -------
    figure : matplotlib.figure.Figure
        An arrowhead at an end: that node is no cause of the other. A plain end: it is one. A
        circle: the data leave it open. The number beside a node is its weight.

    Raises
    ------
    ValueError
        If the radius is not a whole number of at least 1.
    ImportError
        matplotlib is not installed.
    """
    inside = {*graph.explanation(radius), *np.flatnonzero(np.asarray(graph.radius) == 0).tolist()}
    drawn = [i for i in range(len(graph.nodes)) if i in inside or outside]
    rings = [int(graph.radius[i]) if i in inside else None for i in drawn]
    halves = [_half(graph.nodes[i]) for i in drawn]
    figure, axis, places = _draw_layout(graph.marks, drawn, rings, halves, inside)
    for i in drawn:
        _draw_node(axis, graph, i, places[i], pale=i not in inside)
    where = f"layer {graph.layer}, head {graph.head}, alpha {number(graph.alpha)}"
    _title(figure, f"Causal graph of “{graph.word}”, radius {radius} ({where})")
    return figure


def _half(node):
    """Half the width and height of a node with its text, in units of the layout."""
    if node["patch"] is not None:
        return NODE + 0.08, NODE + 0.12
    return _half_of_text(str(node["label"]))


def _half_of_text(text):
    return 0.035 * max(len(label(text, 12)), 3) + 0.1, 0.2


def _draw_layout(marks, drawn, rings, halves, inside):
    """Draw the edges among nodes; returns figure, axes, and node -> place."""
    among = np.asarray(marks)[np.ix_(drawn, drawn)]
    edges = np.argwhere(np.triu(among)).tolist()
    found, controls = lay_out(rings, edges, halves)
    places = dict(zip(drawn, found, strict=True))
    curves = [
        points_of(found[i], control, found[j])
        for (i, j), control in zip(edges, controls, strict=True)
    ]
    reach = np.abs(np.concatenate([np.zeros((1, 2)), found, *curves])).max() + 0.75
    side = min(max(6.4, 2.2 * reach), 13.0)  # so that words stay small beside the rings
    figure = new_figure((side, side))
    axis = figure.subplots()
    bare(axis)
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    for (i, j), curve in zip(edges, curves, strict=True):
        ends = (among[j, i], among[i, j])
        pale = not {drawn[i], drawn[j]} <= set(inside)
        _draw_edge(axis, curve, (halves[i], halves[j]), ends, pale=pale)
    return figure, axis, places


def _draw_edge(axis, curve, halves, marks, pale):
    """A curve from centre to centre, cut at the nodes, with the mark of each end.

    1 circle, 2 arrow, 3 tail.
    """
    start, stop = _beyond(curve, halves[0]), len(curve) - _beyond(curve[::-1], halves[1])
    line = curve[start:stop] if stop - start > 1 else curve[[len(curve) // 2] * 2]
    look = {"color": FAINT if pale else SOFT, "linewidth": 1.3, "zorder": 1}
    for end, mark in ((line, marks[0]), (line[::-1], marks[1])):
        if mark == 2:
            arrow = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0}
            behind = end[np.argmax(np.hypot(*(end - end[0]).T) >= 0.1)]
            axis.annotate("", end[0], behind, arrowprops=arrow | look)
        elif mark == 1:
            ring = {"markerfacecolor": GROUND, "markeredgecolor": look["color"]}
            axis.plot(*end[0], "o", markersize=5.5, zorder=2, **ring)
    axis.plot(*line.T, **look)


def _beyond(curve, half):
    """Index of the first point of a curve that is outside the node it begins at."""
    return int(np.argmax((np.abs(curve - curve[0]) > half).any(axis=1)))


def _draw_node(axis, graph, i, place, pale):
    node, (x, y) = graph.nodes[i], place
    picture = None
    if node["patch"] is not None:
        box = graph.grids[node["image"]].boxes[node["patch"]]
        picture = patch_picture(graph.images[node["image"]], box)
    if picture is not None:
        extent = (x - NODE, x + NODE, y + NODE, y - NODE)
        axis.imshow(picture, extent=extent, zorder=3, alpha=0.4 if pale else 1.0, aspect="equal")
    else:
        target = node["kind"] == "target"
        frame = {"boxstyle": "round,pad=0.35", "edgecolor": ACCENT}
        frame["facecolor"] = ACCENT if target else GROUND
        look = {"fontsize": 9, "ha": "center", "va": "center", "zorder": 4, "bbox": frame}
        colour = GROUND if target else FAINT if pale else INK
        axis.text(x, y, label(str(node["label"]), 12), color=colour, parse_math=False, **look)
    texts = [str(node["label"])] if picture is not None else []
    texts += [] if pale or node["kind"] == "target" else [number(float(graph.weights[i]))]
    if texts:
        # On the side that no edge to the target crosses.
        beside = y + NODE + 0.05 if y >= 0 else y - NODE - 0.05
        look = {"fontsize": 7.5, "ha": "center", "va": "top" if y >= 0 else "bottom"}
        axis.text(x, beside, " · ".join(texts), color=SOFT, zorder=4, parse_math=False, **look)


def plot_pag(pag, names=None):
    """Draw a partial ancestral graph, its variables on a circle.

    Parameters
    ----------
    pag : PAG
    names : list of str, default=None
        Names of the variables; their numbers by default.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Ends of edges as in :func:`plot_causal_graph`.

    Raises
    ------
    ValueError
        If there is not one name for each variable.
    ImportError
        matplotlib is not installed.
    """
    n = len(pag.marks)
    names = [str(i) for i in range(n)] if names is None else [str(name) for name in names]
    if len(names) != n:
        raise ValueError(f"names must have {n} entries, one for each variable, got {len(names)}.")
    nodes, halves = list(range(n)), [_half_of_text(name) for name in names]
    figure, axis, places = _draw_layout(pag.marks, nodes, [1] * n, halves, nodes)
    for i, place in places.items():
        frame = {"boxstyle": "round,pad=0.35", "edgecolor": ACCENT, "facecolor": GROUND}
        look = {"fontsize": 9, "ha": "center", "va": "center", "zorder": 4, "bbox": frame}
        axis.text(*place, label(names[i], 12), color=INK, parse_math=False, **look)
    return figure


def plot_faithfulness(curves):
    """Draw deletion and insertion curves of a map, beside those of random maps.

    Parameters
    ----------
    curves : FaithfulnessCurves

    Returns
    -------
    figure : matplotlib.figure.Figure
        Two pairs of axes, deletion (lower is better) and insertion (higher is better).

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.lines import Line2D

    figure = new_figure((7.6, 3.2))
    for axis, kind, note in zip(
        figure.subplots(1, 2), ("deletion", "insertion"), ("↓ better", "↑ better"), strict=True
    ):
        plain(axis, kind.capitalize(), note)
        few_ticks(axis)
        random = np.atleast_2d(np.asarray(getattr(curves, f"random_{kind}"), dtype=np.float64))
        for row in random:
            axis.plot(curves.fractions, row, color=FAINT, linewidth=0.8, alpha=0.5)
        own = getattr(curves, kind)
        axis.plot(curves.fractions, own, color=ACCENT, linewidth=2, marker="o", markersize=3)
        axis.set_xlabel("share of the image")
        areas = np.asarray(getattr(curves, f"random_{kind}_areas"), dtype=np.float64)
        own = Line2D([], [], color=ACCENT, linewidth=2)
        own.set_label(f"area {number(float(getattr(curves, f'{kind}_area')))}")
        others = Line2D([], [], color=FAINT, linewidth=0.8)
        others.set_label(f"random {mean_and_spread(areas)}")
        legend(axis, [own, others], loc="best")
    _title(figure, f"“{curves.word}”: {curves.label}")
    return figure


def plot_concept_activations(activations, n_concepts=10):
    """Draw how active each concept is at each word of the answer.

    Parameters
    ----------
    activations : ConceptActivationMap
    n_concepts : int, default=10
        Number of rows at most: the concepts with the largest activation.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    values = np.asarray(activations.word_activations, dtype=np.float64).T
    order = np.argsort(-values.max(axis=1, initial=0.0), kind="stable")[:n_concepts]
    names = []
    for k in order:
        concept = activations.concepts[k]
        words = ", ".join(list(concept["words"])[:3]) or "(no words)"
        names.append(f"{concept['index']}  {label(words, 30)}")
    figure = new_figure((3.2 + 0.55 * len(activations.words), 1.4 + 0.34 * len(order)))
    axis = figure.subplots()
    drawn = axis.imshow(values[order], cmap=_HEAT, aspect="auto", vmin=0)
    figure.colorbar(drawn, ax=axis, shrink=0.9).ax.tick_params(labelsize=7.5, colors=SOFT)
    _name_columns(axis, activations.words)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.tick_params(labelsize=8, length=0, colors=SOFT)
    for side in axis.spines.values():
        side.set_visible(False)
    _title(figure, "Activation of concepts at each word")
    return figure


def plot_concept_ablation(ablation):
    """Draw the logits of an answer before and after a concept was removed or scaled.

    Parameters
    ----------
    ablation : ConceptAblation

    Returns
    -------
    figure : matplotlib.figure.Figure
        One pair of points for each token of the answer; the title says the answers.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.lines import Line2D

    before, after = np.asarray(ablation.logits_before), np.asarray(ablation.logits_after)
    figure = new_figure((max(4.6, 0.6 * len(before) + 1), 3.4))
    axis = figure.subplots()
    words = ", ".join(list(ablation.concept_words)[:3])
    plain(axis, f"Logits with concept {ablation.concept} × {ablation.scale:g}", label(words), "y")
    columns = np.arange(len(before))
    axis.vlines(columns, before, after, color=LINE, linewidth=3, zorder=1)
    axis.plot(columns, before, "o", color=FAINT, markersize=6)
    axis.plot(columns, after, "o", color=ACCENT, markersize=6)
    _name_columns(axis, [str(token).strip() or "␣" for token in ablation.tokens])
    look = {"linestyle": "none", "marker": "o", "markersize": 6}
    handles = [
        Line2D([], [], color=FAINT, label="as it is", **look),
        Line2D([], [], color=ACCENT, label="changed", **look),
    ]
    legend(axis, handles, loc="best")
    new = "" if ablation.answer_after is None else f" → “{ablation.answer_after}”"
    _title(figure, f"“{ablation.answer_before}”{new}")
    return figure
