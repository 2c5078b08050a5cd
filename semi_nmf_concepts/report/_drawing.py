"""What all figures share: colours, bare and plain axes, rows of pictures, SVG.

Figures are built without pyplot: no window, no global state, nothing to close.
"""

import io
import re
import textwrap

from ._text import clean, percent

# Ink from dark to light, and the colour of what a figure is about; those of the page.
INK, SOFT, FAINT, LINE, ACCENT = "#161a22", "#4d5866", "#818b98", "#dde1e8", "#145c94"
# Further colours, told apart by readers with any kind of colour vision and on light and dark
# grounds (after Okabe and Ito).
SERIES = ("#d98c1f", "#2a9d7c", "#b06aa8", "#5fa8d8", "#a8632b")
GROUND = "#ffffff"  # of hollow markers
_ON_DARK = {
    INK: "#e9ecf1",
    SOFT: "#adb7c4",
    FAINT: "#8e99a8",
    LINE: "#2b323c",
    ACCENT: "#7dbdf0",
    GROUND: "#181c22",
}
_SANS = "'Segoe UI', 'Helvetica Neue', 'Liberation Sans', Arial, 'DejaVu Sans', sans-serif"

# Inches; a row of five pictures with its words fits the width of a page.
_PICTURE, _TEXT = 1.15, 2.6
_GAP = 0.12
_ROW = _PICTURE + _GAP


def new_figure(size, layout="constrained"):
    """Make an empty figure of `size` (width, height) in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib; install it with: pip install "semi_nmf_concepts[plots]"'
        ) from error
    return Figure(figsize=size, layout=layout)


def wide_rows(figure):
    """Leave room between rows of panels, so that a title stands off the numbers above it."""
    figure.get_layout_engine().set(h_pad=0.1)


def bare(axis):
    """Leave nothing of the axes but what is drawn into them."""
    axis.set_axis_off()


def plain(axis, title="", note="", grid="both"):
    """Give the axes thin lines, small grey numbers, and a title at the left."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axis.spines[side].set(color=FAINT, linewidth=0.7)
    axis.grid(axis=grid, color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, labelsize=8, length=2.5, width=0.7)
    for text in (axis.xaxis.label, axis.yaxis.label):
        text.set(color=SOFT, fontsize=8.5)
    heading = {"fontsize": 9.5, "color": INK, "fontweight": "bold", "parse_math": False}
    axis.set_title(label(title), loc="left", **heading)
    axis.set_title(note, loc="right", fontsize=7.5, color=FAINT)


def few_ticks(axis):
    """Let both axes choose some five round numbers."""
    from matplotlib.ticker import MaxNLocator

    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def legend(place, handles, **options):
    """Add a legend whose labels, which may come from a user, are never read as mathematics."""
    shown = place.legend(
        handles=handles, frameon=False, fontsize=8, labelcolor=SOFT, handlelength=1.6, **options
    )
    for text in shown.get_texts():
        text.set_parse_math(False)
    return shown


def concept_rows(rows, *, n_images, n_words):
    """Draw one row per concept: its words, then its pictures.

    Parameters
    ----------
    rows : sequence of dict
        ``concept`` (number), ``share``, ``words``, and ``images``: PIL images, or None for one
        that is not kept.
    n_images, n_words : int
        Columns of pictures, and words at most.
    """
    if n_images < 1:
        raise ValueError(f"n_images must be at least 1, got {n_images!r}.")
    size = (_TEXT + n_images * _PICTURE, max(len(rows), 1) * _ROW)
    # Axes of their own for every picture, laid out by matplotlib, would take most of the time.
    figure = new_figure(size, layout=None)
    for number, row in enumerate(rows):
        bottom = (len(rows) - 1 - number) / len(rows)
        axis = figure.add_axes((0.0, bottom, 1.0, 1.0 / len(rows)))
        bare(axis)
        _draw_words(axis, row, n_words)
        for column, picture in enumerate(row["images"][:n_images]):
            _place_picture(axis, picture, _TEXT + column * _PICTURE)
        axis.set(xlim=(0.0, size[0]), ylim=(0.0, _ROW))  # inches
    return figure


def _draw_words(axis, row, n_words):
    heading = f"{row['concept']}    {percent(row['share'])} of samples"
    words = ", ".join(row["words"][:n_words]) or "(no words)"
    # Without parse_math=False, matplotlib reads "$...$" in a word as mathematics.
    top = {"va": "top", "parse_math": False}
    axis.text(0.08, 0.94 * _ROW, heading, fontsize=8, color="0.4", **top)
    words = wrap(words, 34, lines=4)
    axis.text(0.08, 0.76 * _ROW, words, fontsize=9, linespacing=1.25, **top)


def _place_picture(axis, picture, left):
    """Show a picture in its cell, as large as its shape allows; nothing where there is none."""
    if picture is None:
        return
    width, height = picture.size
    scale = (_PICTURE - _GAP) / max(width, height)
    width, height = width * scale, height * scale
    x, y = left + (_PICTURE - width) / 2, (_ROW - height) / 2
    axis.imshow(picture, extent=(x, x + width, y, y + height), aspect="auto")


def draw_picture(axis, picture):
    """Show a picture; the axes stay empty where there is none."""
    if picture is not None:
        axis.imshow(picture)


def wrap(text, width, lines=6):
    """Break a text of any origin into lines of at most `width` characters."""
    wrapped = textwrap.wrap(clean(text), width, max_lines=lines, placeholder=" …")
    return "\n".join(wrapped)


def label(text, width=28):
    """Cut a name of any origin to a length that leaves room for the figure.

    >>> label("SemiNMFConcepts(n_components=20)", 16), label("PCA")
    ('SemiNMFConcepts…', 'PCA')
    """
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def svg_pair(figure):
    """Write a figure as SVG for a light and for a dark ground, text as text.

    The ground is transparent. The two differ in the colours of ink alone, so that one drawing does
    for both; the same figure gives the same text.

    Returns
    -------
    light, dark : str
    """
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "semi_nmf_concepts"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    # The page's own typeface, which the figure was not laid out with but is not wider than.
    light = re.sub(r"'DejaVu Sans'[^;\"]*", _SANS, stream.getvalue())
    dark = re.sub("|".join(_ON_DARK), lambda found: _ON_DARK[found[0]], light)
    return light, dark
