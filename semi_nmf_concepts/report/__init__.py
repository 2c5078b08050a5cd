"""Showing a concept report: a standalone HTML page and matplotlib figures.

The page is one file: its templates, style and script are in ``templates/``, pictures are stored
inline, and nothing is loaded from a network. All that comes from a model or a file is escaped.
"""

import importlib

_HOMES = {
    "render_html": "_html",
    "write_html": "_html",
    "plot_concepts": "_plots",
    "plot_local": "_plots",
}

__all__ = [*_HOMES]


def __getattr__(name):
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
