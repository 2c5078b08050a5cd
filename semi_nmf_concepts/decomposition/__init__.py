"""Decomposers: a data matrix into components and activations of every sample.

`SemiNMFConcepts` is the method; `KMeansConcepts`, `PCAConcepts` and `SimpleConcepts` are what it is
compared with, and share its face.
"""

from ._baselines import KMeansConcepts, PCAConcepts, SimpleConcepts
from ._encode import sparse_encode_nonneg
from ._semi_nmf import SemiNMFConcepts

#: Keyword arguments of `SemiNMFConcepts` that the command line uses. Chosen on two tokens of the
#: bundled model ("cat" and "train") that no reported figure uses: among the settings within 0.015
#: of the best factor recovery, the one whose concepts share fewest words
#: (``python -m benchmarks.concept_quality --choose``). The class defaults are what was published.
RECOMMENDED = {"center": True, "n_active": 7.5}

__all__ = [
    "RECOMMENDED",
    "KMeansConcepts",
    "PCAConcepts",
    "SemiNMFConcepts",
    "SimpleConcepts",
    "sparse_encode_nonneg",
]
