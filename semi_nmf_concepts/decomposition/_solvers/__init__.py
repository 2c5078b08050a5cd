"""Solvers: what a step computes (`_base`), what it runs on (`_numba`), the algorithm (`_hybrid`).

Nothing here imports numba until `get_backend` is called.
"""

from ._base import Backend, Statistics
from ._hybrid import DictionaryFit, fit_dictionary

__all__ = ["Backend", "DictionaryFit", "Statistics", "fit_dictionary", "get_backend"]


def get_backend():
    """The backend that runs the passes over the data: compiled kernels on the CPU."""
    from ._numba import NumbaBackend

    return NumbaBackend()
