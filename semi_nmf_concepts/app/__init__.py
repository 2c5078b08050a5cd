"""The app: chat about an image, and every view of an answer live in a browser (extra ``app``).

A thin shell on Gradio around the functions of :mod:`semi_nmf_concepts.attention`. Nothing is
fetched from or sent to other machines, and all text of models and users is shown as text.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "build_app": "_layout",
        "launch": "_server",
    },
)
