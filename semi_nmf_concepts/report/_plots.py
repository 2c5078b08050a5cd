"""matplotlib figures of a concept report.

Figures are built without pyplot: no window, no global state, nothing to close.
"""

from ._drawing import ACCENT, bare, concept_rows, draw_picture, new_figure, wrap
from ._text import number, percent


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
        With one pair of axes per row; ``figure.savefig(path)`` writes it.

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
    rows = [
        {
            "concept": k,
            "share": report.concepts[k].share,
            "words": report.concepts[k].words,
            "images": [_picture(report, "train", i) for i in report.concepts[k].image_indices],
        }
        for k in chosen
    ]
    return concept_rows(rows, n_images=n_images, n_words=n_words)


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
    figure = new_figure((9.6, max(n_rows * 0.95, 2.6)))
    grid = figure.add_gridspec(n_rows, 2 + n_images, width_ratios=[3.4, 4.2] + [1.3] * n_images)
    axis = figure.add_subplot(grid[:, 0])
    bare(axis)
    draw_picture(axis, _picture(report, "local", i))
    # Without parse_math=False, matplotlib reads "$...$" in a caption as mathematics.
    axis.set_title(wrap(local.caption or "no caption", 34), fontsize=9, parse_math=False)
    _draw_bars(figure.add_subplot(grid[:, 1]), report, local.items)
    for row, item in enumerate(local.items):
        indices = report.concepts[item["concept"]].image_indices
        for column in range(n_images):
            axis = figure.add_subplot(grid[row, 2 + column])
            bare(axis)
            if column < len(indices):
                draw_picture(axis, _picture(report, "train", indices[column]))
    return figure


def _draw_bars(axis, report, items):
    """Horizontal bars, the most active concept on top, each under its words."""
    shares = [float(item["share"]) for item in items]
    rows = range(len(items))
    axis.barh(rows, shares, height=0.22, color=ACCENT)
    for row, item in enumerate(items):
        words = ", ".join(report.concepts[item["concept"]].words[:4]) or "(no words)"
        label = f"{item['concept']}  {wrap(words, 40, lines=1)}"
        axis.text(0, row - 0.2, label, fontsize=8.5, va="bottom", parse_math=False)
        values = f" {percent(item['share'])} ({number(item['activation'])})"
        axis.text(shares[row], row, values, fontsize=8, va="center", color="0.35")
    if not items:
        axis.text(0.5, 0.5, "no concept is active", ha="center", transform=axis.transAxes)
    axis.set_xlim(0, 1.3 * max(shares, default=1.0) or 1.0)
    axis.set_ylim(max(len(items), 1) - 0.5, -0.6)
    bare(axis)


def _picture(report, kind, i):
    """A stored thumbnail; None where the report keeps none."""
    return report.image(kind, i) if (kind, i) in report.thumbnails else None
