"""Metrics of concepts: which known factors they detect, how much their words overlap.

Everything here works on plain arrays, tables and word lists; it knows nothing of models or images.
"""

import importlib

_HOMES = {
    "FactorRecovery": "_factors",
    "factor_recovery": "_factors",
    "factor_recovery_score": "_factors",
    "linear_probe_recovery": "_factors",
    "auroc": "_auroc",
    "auroc_interval": "_auroc",
    "overlap_matrix": "_overlap",
    "overlap_score": "_overlap",
    "WordHits": "_word_hits",
    "chance_word_hits": "_word_hits",
    "factor_word_hits": "_word_hits",
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
