"""Grounding: what a concept direction says (words) and what it looks at (images).

Shapes in this room: activations V (n_samples, K), components U (K, d), unembedding W (vocab, d).
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Concept": "_records",
        "LocalExplanation": "_records",
        "Samples": "_records",
        "ConceptReport": "_report",
        "dump_json": "_saving",
        "require_same_model": "_provenance",
        "thumbnail": "_report",
        "WordGrounding": "_words",
        "is_real_word": "_words",
        "ground_text": "_words",
        "ground_images": "_images",
        "explain_sample": "_images",
        "explain_concepts": "_explain",
    },
)
