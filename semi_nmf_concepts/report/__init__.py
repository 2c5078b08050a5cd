"""Showing a concept report: a standalone HTML page and matplotlib figures.

The page is one file: its templates, style and script are in ``templates/``, pictures are stored
inline, and nothing is loaded from a network. All that comes from a model or a file is escaped.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "render_html": "_html",
        "write_html": "_html",
        "plot_concepts": "_plots",
        "plot_local": "_plots",
    },
)
