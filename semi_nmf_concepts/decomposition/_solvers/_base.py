"""The contract between the algorithm (`_hybrid`) and the machine it runs on.

A backend answers two questions, "which codes are best for this dictionary?" (`Backend.encode`,
`Backend.code_pass`) and "which dictionary is best for these codes?" (`Backend.update_dictionary`).
Only the first one touches the data: it is the place to fuse, to thread, to use an accelerator.
"""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from math import nan
from typing import Any, NamedTuple

#: An atom whose share of trace(V^T V) is below this counts as unused.
UNUSED_SHARE = 1e-12


class Coding(NamedTuple):
    """How the coding of a set of samples went."""

    n_unconverged: int  # samples whose codes missed the tolerance
    n_active: int  # positive codes in all
    violation: float  # largest KKT violation left; NaN where X has entries that are not finite


def join_codings(codings):
    """The `Coding` of all samples from those of parts of them."""
    n_unconverged, n_active, violations = zip(*codings, strict=True)
    worst = max(violations)
    unknown = any(violation != violation for violation in violations)
    return Coding(sum(n_unconverged), sum(n_active), nan if unknown else worst)


class Statistics(NamedTuple):
    """Sums over samples that stand for X and V in the dictionary update and in the objective."""

    A: Any  # V^T V, (n_components, n_components), float64
    B: Any  # V^T X, (n_components, n_features), float64
    sum_V: float
    coding: Coding


class Backend(ABC):
    """Runs the passes over the data.

    Shapes are those of `decomposition._objective`: X (n_samples, n_features), U (n_components,
    n_features), V (n_samples, n_components). X and V share one floating dtype; U and all sums are
    float64. All of them are arrays of the namespace `xp` on one device; nothing but single numbers
    travels to the host.
    """

    #: Array API namespace (of array_api_compat) of the arrays this backend works on.
    xp: Any

    def session(self):
        """A context in which to do many passes; a backend may keep threads for it."""
        return nullcontext()

    @abstractmethod
    def moments(self, X):
        """Sums of the columns and norms of the rows of X, both float64, in one pass over X."""

    @abstractmethod
    def encode(self, X, U, alpha, V, *, tol, max_sweeps):
        """Improve the codes V of X on the dictionary U in place, starting from their values.

        A sample is done when the largest entry of its projected gradient is at most
        ``tol * max_k |x_i . u_k|``. Samples with entries that are not finite get codes of NaN.
        Returns the `Coding`, whose violation is measured in the dtype of X.
        """

    @abstractmethod
    def code_pass(self, X, U, alpha, V, *, tol, max_sweeps):
        """`encode`, and the `Statistics` of X and the new V, in one pass over X."""

    @abstractmethod
    def removal_costs(self, X, U, alpha, V, *, tol, max_sweeps):
        """By how much F rises without each atom, all samples coded again: float64, on the host.

        V holds the codes of X on U, close to optimal; it is not modified.
        """

    @abstractmethod
    def update_dictionary(self, U, A, B):
        """One cyclic pass of block coordinate descent over the atoms, in place.

        With all others fixed the best atom k is ``u_k + (B_k - A_k U) / A_kk``, projected onto the
        unit ball. Atoms that no sample uses (`UNUSED_SHARE`) stay as they are.
        """
