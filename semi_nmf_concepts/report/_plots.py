"""matplotlib figures of a concept report.

Figures are built without pyplot: no window, no global state, nothing to close.
"""

import textwrap

from ._text import clean, number, percent

# Inches; a row of five pictures with its words fits the width of a page.
_PICTURE, _TEXT = 1.15, 2.6


def plot_concepts(report, concepts=None, *, n_images=5, n_words=10):
    """Draw one row per concept: its words, then the images that activate it most.

    Parameters
    ----------
    report : ConceptReport
        The result of :func:`semi_nmf_concepts.explain_concepts`.
    concepts : sequence of int, optional
        Which concepts, in the order of the rows; all of them by default.
    n_images : int, default=5
        Columns of images. A concept with fewer images leaves the last cells empty.
    n_words : int, default=10
        Number of words at most.

    Returns
    -------
    figure : matplotlib.figure.Figure
        With ``1 + n_images`` axes per row; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    chosen = range(len(report.concepts)) if concepts is None else list(concepts)
    for k in chosen:
        if not 0 <= k < len(report.concepts):
            raise ValueError(
                f"concepts must lie in 0..{len(report.concepts) - 1}, the concepts of the report, "
                f"got {k!r}."
            )
    if n_images < 1:
        raise ValueError(f"n_images must be at least 1, got {n_images!r}.")
    rows = [report.concepts[k] for k in chosen]
    width = _TEXT + n_images * _PICTURE
    figure = _new_figure((width, max(len(rows), 1) * (_PICTURE + 0.12)))
    if not rows:
        return figure
    ratios = [_TEXT / _PICTURE] + [1] * n_images
    axes = figure.subplots(len(rows), 1 + n_images, squeeze=False, width_ratios=ratios)
    for row, concept in zip(axes, rows, strict=True):
        _draw_words(row[0], concept, n_words)
        for column, axis in enumerate(row[1:]):
            _bare(axis)
            if column < len(concept.image_indices):
                _draw_picture(axis, report, "train", concept.image_indices[column])
    return figure


def plot_local(report, i, *, r=5, n_images=3):
    """Draw one local sample: its image and caption, and the concepts it activates most.

    Parameters
    ----------
    report : ConceptReport
        The result of :func:`semi_nmf_concepts.explain_concepts`.
    i : int
        Row among the local samples, 0 <= i < ``report.n_local``.
    r : int, default=5
        Number of concepts at most; concepts that are not active are not drawn.
    n_images : int, default=3
        Images beside each concept.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Axes: the image, the bars (length: share of the sample's total activation), then
        ``n_images`` for each concept drawn.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    local = report.local(i, r)
    n_rows = max(len(local.items), 1)
    figure = _new_figure((9.6, max(n_rows * 0.95, 2.6)))
    grid = figure.add_gridspec(n_rows, 2 + n_images, width_ratios=[3.4, 4.2] + [1.3] * n_images)
    axis = figure.add_subplot(grid[:, 0])
    _bare(axis)
    _draw_picture(axis, report, "local", i)
    # Without parse_math=False, matplotlib reads "$...$" in a caption as mathematics.
    axis.set_title(_wrap(local.caption or "no caption", 34), fontsize=9, parse_math=False)
    _draw_bars(figure.add_subplot(grid[:, 1]), report, local.items)
    for row, item in enumerate(local.items):
        indices = report.concepts[item["concept"]].image_indices
        for column in range(n_images):
            axis = figure.add_subplot(grid[row, 2 + column])
            _bare(axis)
            if column < len(indices):
                _draw_picture(axis, report, "train", indices[column])
    return figure


def _new_figure(size):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib; install it with: pip install "semi_nmf_concepts[plots]"'
        ) from error
    return Figure(figsize=size, layout="constrained")


def _draw_words(axis, concept, n_words):
    _bare(axis)
    heading = f"{concept.index}    {percent(concept.share)} of samples"
    words = ", ".join(concept.words[:n_words]) or "(no words)"
    top = {"transform": axis.transAxes, "va": "top", "parse_math": False}
    axis.text(0, 0.98, heading, fontsize=8, color="0.4", **top)
    axis.text(0, 0.78, _wrap(words, 34, lines=4), fontsize=9, linespacing=1.25, **top)


def _draw_bars(axis, report, items):
    """Horizontal bars, the most active concept on top, each under its words."""
    shares = [float(item["share"]) for item in items]
    rows = range(len(items))
    axis.barh(rows, shares, height=0.22, color="#145c94")
    for row, item in enumerate(items):
        words = ", ".join(report.concepts[item["concept"]].words[:4]) or "(no words)"
        label = f"{item['concept']}  {_wrap(words, 40, lines=1)}"
        axis.text(0, row - 0.2, label, fontsize=8.5, va="bottom", parse_math=False)
        values = f" {percent(item['share'])} ({number(item['activation'])})"
        axis.text(shares[row], row, values, fontsize=8, va="center", color="0.35")
    if not items:
        axis.text(0.5, 0.5, "no concept is active", ha="center", transform=axis.transAxes)
    axis.set_xlim(0, 1.3 * max(shares, default=1.0) or 1.0)
    axis.set_ylim(max(len(items), 1) - 0.5, -0.6)
    _bare(axis)


def _draw_picture(axis, report, kind, i):
    """Show a stored thumbnail; where the report keeps none, the axes stay empty."""
    if (kind, i) in report.thumbnails:
        axis.imshow(report.image(kind, i))


def _bare(axis):
    axis.set_axis_off()


def _wrap(text, width, lines=6):
    wrapped = textwrap.wrap(clean(text), width, max_lines=lines, placeholder=" …")
    return "\n".join(wrapped)
