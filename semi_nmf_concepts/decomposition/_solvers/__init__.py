"""Solvers: what a step computes (`_base`), what it runs on (`_numba`, `_array`), the algorithm.

Nothing here imports numba or torch until `get_backend` is called.
"""

from ._base import Backend, Coding, Statistics, join_codings
from ._descent import Descent, DictionaryFit, Record
from ._hybrid import fit_dictionary, refined, sketch
from ._online import share_kept
from ._problem import LOOSE_CODES, AnyProblem, State, residual_rows, sampled_rows

__all__ = [
    "LOOSE_CODES",
    "AnyProblem",
    "Backend",
    "Coding",
    "Descent",
    "DictionaryFit",
    "Record",
    "State",
    "Statistics",
    "fit_dictionary",
    "get_backend",
    "join_codings",
    "refined",
    "residual_rows",
    "sampled_rows",
    "share_kept",
    "sketch",
]


def get_backend(name="numba", *, n_jobs=None, xp=None):
    """The backend that runs the passes over the data.

    "numba": compiled kernels on the CPU, for NumPy arrays, on `n_jobs` threads. Any other name: the
    device that the arrays of the namespace `xp` are on.
    """
    if name == "numba":
        from ._numba import NumbaBackend

        return NumbaBackend(n_jobs)
    from ._array import ArrayBackend

    return ArrayBackend(xp)
