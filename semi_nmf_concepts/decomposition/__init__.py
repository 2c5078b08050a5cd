"""Decomposers: a data matrix into components and activations of every sample.

`SemiNMFConcepts` is the method; `KMeansConcepts`, `PCAConcepts` and `SimpleConcepts` are what it is
compared with, and share its face.
"""

from ._baselines import KMeansConcepts, PCAConcepts, SimpleConcepts
from ._encode import sparse_encode_nonneg
from ._recommended import RECOMMENDED, recommended_setting
from ._semi_nmf import SemiNMFConcepts

__all__ = [
    "RECOMMENDED",
    "KMeansConcepts",
    "PCAConcepts",
    "SemiNMFConcepts",
    "SimpleConcepts",
    "recommended_setting",
    "sparse_encode_nonneg",
]
