"""The problem that a descent works on, its points, and one step from a point to the next."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

from .._arrays import kind_of, like
from .._objective import objective_from_statistics, project_atoms, row_norms
from ._base import UNUSED_SHARE, Statistics

#: Within the iterations the codes need not be exact: they start where the last ones ended.
LOOSE_CODES = {"tol": 1e-3, "max_sweeps": 100}

#: Passes over the atoms for the same codes, which cost little beside a pass over the data.
_DICTIONARY_PASSES = 3
#: Residuals are looked at for this many samples at most.
_RESIDUAL_SAMPLES = 4096
#: Extrapolation: first weight, growth after a success, shrinkage after a restart.
_BETA_START, _BETA_GROWTH, _BETA_SHRINK = 0.5, 1.1, 0.5


@dataclass
class Problem:
    """The fixed part of a fit: data, penalty, machine, and the resolution of the objective."""

    backend: Any
    X: Any  # (n_samples, n_features)
    alpha: float
    squared_norm: float  # of X, or of the data that X is a projection of

    @property
    def resolution(self):
        """Absolute changes of F below this are rounding."""
        return self.squared_norm * (1e-9 if self.X.dtype == self.xp.float32 else 1e-14)

    @property
    def xp(self):
        return kind_of(self.X).xp

    def subset(self, rows):
        """The problem for some of the samples."""
        X = self.X[rows]
        return replace(self, X=X, squared_norm=float((row_norms(X) ** 2).sum()))

    def zeros(self, shape, dtype=None):
        """Zeros where the data are, float64 unless told."""
        return self.xp.zeros(shape, dtype=dtype or self.xp.float64, device=kind_of(self.X).device)

    def empty_codes(self, n_components, n_samples=None):
        """Codes of zero for all samples, or for so many."""
        n_samples = self.X.shape[0] if n_samples is None else n_samples
        return self.zeros((n_samples, n_components), self.X.dtype)

    def code_pass(self, U, V):
        return self.backend.code_pass(self.X, U, self.alpha, V, **LOOSE_CODES)

    def objective(self, statistics: Statistics, U):
        A, B, sum_V, _ = statistics
        return objective_from_statistics(self.squared_norm, sum_V, A, B, U, self.alpha)

    def residual(self, U, V, random_state):
        """X - V U for all samples, or for some where there are many, in the dtype of X."""
        X, n_samples = self.X, self.X.shape[0]
        if n_samples > _RESIDUAL_SAMPLES:
            rows = like(random_state.permutation(n_samples)[:_RESIDUAL_SAMPLES], X)
            X, V = X[rows], V[rows]
        return X - V @ self.xp.astype(U, X.dtype)


@dataclass
class State:
    """A point of the descent."""

    U: Any
    U_before: Any  # the dictionary one iteration earlier
    V: Any
    F: float  # at (U, V)
    beta: float = _BETA_START  # weight of the extrapolation

    @classmethod
    def start(cls, problem, U, V=None):
        """The point (U, V), or U with codes from zero; the first iteration will tell its F."""
        V = problem.empty_codes(U.shape[0]) if V is None else V
        return cls(U, U, V, inf)


def batch_iteration(problem, state):
    """Codes at the extrapolated dictionary, or at U itself where that is better; then the atoms."""
    copy = problem.xp.asarray
    Y = project_atoms(state.U + state.beta * (state.U - state.U_before))
    V = copy(state.V, copy=True)
    statistics = problem.code_pass(Y, V)
    if problem.objective(statistics, Y) <= state.F:
        beta = min(1.0, state.beta * _BETA_GROWTH)
    else:
        beta = state.beta * _BETA_SHRINK
        Y, V = copy(state.U, copy=True), state.V
        statistics = problem.code_pass(Y, V)
    U = Y
    for _ in range(_DICTIONARY_PASSES):
        U = problem.backend.update_dictionary(U, statistics.A, statistics.B)
    return State(U, state.U, V, problem.objective(statistics, U), beta), statistics.A


def unused_atoms(xp, A):
    """Indices of the atoms that (hardly) any sample uses."""
    usage = xp.linalg.diagonal(A)
    return xp.nonzero(usage <= UNUSED_SHARE * xp.sum(usage))[0]
