"""Tests for anybody's decomposer or model: data to try it on, and what should hold of the result.

`check_factorization_invariants` fits an estimator with `components_` and checks every invariant
that applies to it. The other functions are Hypothesis strategies for data matrices, the awkward
ones first of all; they need the extra ``test``.

`check_lmm` tells whether the states of a vision-language model are read exactly right.
"""

from .._lazy import attach

_HOMES = {
    "check_factorization_invariants": "_check",
    "applicable_invariants": "_check",
    "INVARIANTS": "_check",
    "GROUPS": "_check",
    "LMMCheck": "_lmm",
    "check_lmm": "_lmm",
    "matrices": "_strategies",
    "MATRIX_KINDS": "_strategies",
    "PlantedFactors": "_strategies",
    "planted_factors": "_strategies",
    "rank_deficient": "_strategies",
    "duplicated_rows": "_strategies",
    "zero_rows": "_strategies",
    "huge_scale": "_strategies",
    "tiny_scale": "_strategies",
    "fewer_samples_than_components": "_strategies",
    "fewer_features_than_components": "_strategies",
    "constant_columns": "_strategies",
    "one_sample": "_strategies",
    "one_feature": "_strategies",
}

__getattr__, __dir__, __all__ = attach(__name__, _HOMES)
