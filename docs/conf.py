"""Sphinx configuration: Markdown pages, API pages from the docstrings."""

import re

import semi_nmf_concepts

project = "semi_nmf_concepts"
author = "semi_nmf_concepts developers"
copyright = author
release = version = semi_nmf_concepts.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
autosummary_generate = True
# Beside that of the function dci; on some file systems the two names would be the same.
autosummary_filename_map = {"semi_nmf_concepts.metrics.DCI": "semi_nmf_concepts.metrics.DCI-class"}
# The attributes are in the docstrings already; a page for each would only repeat them.
numpydoc_show_class_members = False
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px"}


def _escape_fitted_names(app, what, name, obj, options, lines):
    """Keep "shape (n_components_,)" in a type from being read as a link to "n_components"."""
    for number, line in enumerate(lines):
        head, colon, kind = line.partition(" : ")
        if colon and "shape (" in kind:
            lines[number] = head + colon + re.sub(r"(?<=\w)_(?=\W)", r"\_", kind)


def setup(app):
    app.connect("autodoc-process-docstring", _escape_fitted_names, priority=600)  # after numpydoc
