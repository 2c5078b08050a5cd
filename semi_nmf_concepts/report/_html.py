"""The standalone HTML page."""

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

from semi_nmf_concepts._files import write_atomically

from ._context import page_context
from ._text import data_uri

_TEMPLATES = Path(__file__).parent / "templates"
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='#145c94'>"
    "<rect x='1' y='9' width='3.6' height='6' rx='1'/><rect x='6.2' y='1' width='3.6' height='14'"
    " rx='1'/><rect x='11.4' y='5.5' width='3.6' height='9.5' rx='1'/></svg>"
)


def render_html(report):
    """Render a concept report as one standalone HTML page.

    The page needs no server and no network: styles, script and images are inside. A content
    security policy admits only these, every string of the report is escaped, and the same report
    gives the same text. Without JavaScript all content is there, but cannot be sorted or searched.

    Parameters
    ----------
    report : ConceptReport
        The result of :func:`semi_nmf_concepts.explain_concepts`.

    Returns
    -------
    html : str
    """
    return render_page("page.html", page_context(report))


def write_html(report, path):
    """Write a concept report as one standalone HTML file.

    The page is written beside its destination and then takes its name in one step, so that a
    failure (a full disk, an interruption) leaves the older file or none, never half a page.

    Parameters
    ----------
    report : ConceptReport
        The result of :func:`semi_nmf_concepts.explain_concepts`.
    path : str or path-like
        The file; missing folders are made.

    Raises
    ------
    OSError
        The file cannot be written (the subclass tells why, e.g. PermissionError); the message names
        the path.
    """
    write_atomically(path, render_html(report))


def render_page(template, context, styles=("page.css",), scripts=("page.js",)):
    """Fill a template that extends ``_base.html``.

    `styles` follow each other in one element, and so do `scripts`.
    """
    from markupsafe import Markup  # comes with jinja2

    style, script = "".join(map(_read, styles)), "".join(map(_read, scripts))
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    shared = {"css": Markup(style), "script": Markup(script), "policy": policy}
    icon = data_uri(_ICON.encode(), "svg+xml")
    return _environment().get_template(template).render(icon=icon, **shared, **context)


@lru_cache(maxsize=1)
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(name):
    # Universal newlines: browsers hash the text with "\n", whatever a checkout made of it.
    return "\n" + (_TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
