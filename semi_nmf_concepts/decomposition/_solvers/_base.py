"""The contract between the algorithm (`_hybrid`) and the machine it runs on.

A backend answers two questions, "which codes are best for this dictionary?" (`Backend.encode`,
`Backend.code_pass`) and "which dictionary is best for these codes?" (`Backend.update_dictionary`).
Only the first one touches the data: it is the place to fuse, to thread, to use an accelerator.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

#: An atom whose share of trace(V^T V) is below this counts as unused.
UNUSED_SHARE = 1e-12


class Statistics(NamedTuple):
    """Sums over samples that stand for X and V in the dictionary update and in the objective."""

    A: np.ndarray  # V^T V, (n_components, n_components), float64
    B: np.ndarray  # V^T X, (n_components, n_features), float64
    sum_V: float
    n_unconverged: int  # samples whose codes missed the tolerance


class Backend(ABC):
    """Runs the passes over the data.

    Shapes are those of `decomposition._objective`: X (n_samples, n_features), U (n_components,
    n_features), V (n_samples, n_components). U is float64; X and V share one floating dtype.
    """

    @abstractmethod
    def encode(self, X, U, alpha, V, *, tol, max_sweeps):
        """Improve the codes V of X on the dictionary U in place, starting from their values.

        A sample is done when the largest entry of its projected gradient is at most
        ``tol * max_k |x_i . u_k|``. Returns the number of samples that are not.
        """

    @abstractmethod
    def code_pass(self, X, U, alpha, V, *, tol, max_sweeps):
        """`encode`, and the `Statistics` of X and the new V, in one pass over X."""

    def update_dictionary(self, U, A, B):
        """One cyclic pass of block coordinate descent over the atoms, in place.

        With all others fixed the best atom k is ``u_k + (B_k - A_k U) / A_kk``, projected onto the
        unit ball. Atoms that no sample uses stay as they are.
        """
        unused = UNUSED_SHARE * np.trace(A)
        for k in range(U.shape[0]):
            if A[k, k] > unused:
                atom = U[k] + (B[k] - A[k] @ U) / A[k, k]
                U[k] = atom / max(np.linalg.norm(atom), 1.0)
        return U
