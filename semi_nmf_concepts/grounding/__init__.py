"""Grounding: what a concept direction says (words) and what it looks at (images).

Shapes in this room: activations V (n_samples, K), components U (K, d), unembedding W (vocab, d).
"""

import importlib

_HOMES = {
    "Concept": "_records",
    "LocalExplanation": "_records",
    "Samples": "_records",
    "ConceptReport": "_report",
    "WordGrounding": "_words",
    "is_real_word": "_words",
    "ground_text": "_words",
    "ground_images": "_images",
    "explain_sample": "_images",
    "explain_concepts": "_explain",
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
