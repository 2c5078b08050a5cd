"""Metrics of concepts: which known factors they detect, how much their words overlap.

Everything here works on plain arrays, tables and word lists; it knows nothing of models or images.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "FactorRecovery": "_factors",
        "choose_columns": "_factors",
        "factor_recovery": "_factors",
        "factor_recovery_score": "_factors",
        "linear_probe_recovery": "_factors",
        "split_rows": "_factors",
        "auroc": "_auroc",
        "auroc_interval": "_auroc",
        "overlap_matrix": "_overlap",
        "overlap_score": "_overlap",
        "DETECTED": "_word_hits",
        "WordHits": "_word_hits",
        "chance_word_hits": "_word_hits",
        "factor_word_hits": "_word_hits",
        "naming_words": "_word_hits",
    },
)
