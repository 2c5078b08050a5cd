"""The problem that a descent works on, its points, and one step from a point to the next."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from ...streaming import row_priorities
from .._arrays import kind_of, like
from .._objective import objective_from_statistics, project_atoms, row_norms
from ._base import UNUSED_SHARE, Statistics

#: Within the iterations the codes need not be exact: they start where the last ones ended.
LOOSE_CODES = {"tol": 1e-3, "max_sweeps": 100}

#: Passes over the atoms for the same codes, which cost little beside a pass over the data.
_DICTIONARY_PASSES = 3
#: Residuals are looked at for this many samples at most.
_RESIDUAL_SAMPLES = 4096
#: Samples whose priorities are in memory at once.
_PRIORITIES = 2**20
#: Extrapolation: first weight, growth after a success, shrinkage after a restart.
_BETA_START, _BETA_GROWTH, _BETA_SHRINK = 0.5, 1.1, 0.5


class AnyProblem(ABC):
    """What a descent asks of the data, wherever they are.

    The codes V that it is given and returns are the business of the problem alone: an array beside
    the data, or None where they are not kept in one place.

    Attributes
    ----------
    backend : Backend
        Which updates the dictionary.
    xp
        Namespace of dictionaries and sums.
    alpha, squared_norm : float
        The penalty, and ``||X||^2`` (of the data that X is a projection of).
    is_single : bool
        Whether X is float32.
    """

    @property
    def resolution(self):
        """Absolute changes of F below this are rounding."""
        return self.squared_norm * (1e-9 if self.is_single else 1e-14)

    def objective(self, statistics: Statistics, U):
        A, B, sum_V, _ = statistics
        return objective_from_statistics(self.squared_norm, sum_V, A, B, U, self.alpha)

    @abstractmethod
    def code_pass(self, U, V):
        """Improve V in place, as far as an iteration needs it; returns the `Statistics`."""

    @abstractmethod
    def removal_costs(self, U, V):
        """By how much F rises without each atom (see `Backend.removal_costs`)."""

    @abstractmethod
    def residual(self, U, V, random_state):
        """X - V U for all samples, or for some where there are many, in the dtype of X."""

    @abstractmethod
    def empty_codes(self, n_components):
        """Codes of zero for all samples."""

    @abstractmethod
    def copied(self, V):
        """A copy of codes."""

    @abstractmethod
    def cleared(self, V, atoms):
        """The codes with those of some atoms set to zero, perhaps in place."""

    @abstractmethod
    def with_more_atoms(self, V, n_atoms):
        """The codes with those of further atoms, zero so far."""

    @abstractmethod
    def restricted(self, V, atoms):
        """The codes of some of the atoms."""


@dataclass
class Problem(AnyProblem):
    """The fixed part of a fit to an array: data, penalty, machine."""

    backend: Any
    X: Any  # (n_samples, n_features)
    alpha: float
    squared_norm: float

    @property
    def xp(self):
        return kind_of(self.X).xp

    @property
    def is_single(self):
        return self.X.dtype == self.xp.float32

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

    def removal_costs(self, U, V):
        return self.backend.removal_costs(self.X, U, self.alpha, V, **LOOSE_CODES)

    def residual(self, U, V, random_state):
        X = self.X
        rows = residual_rows(X.shape[0], random_state)
        if rows is not None:
            rows = like(rows, X)
            X, V = X[rows], V[rows]
        return X - V @ self.xp.astype(U, X.dtype)

    def copied(self, V):
        return self.xp.asarray(V, copy=True)

    def cleared(self, V, atoms):
        V[:, atoms] = 0.0
        return V

    def with_more_atoms(self, V, n_atoms):
        return self.xp.concat([V, self.empty_codes(n_atoms)], axis=1)

    def restricted(self, V, atoms):
        return self.xp.take(V, atoms, axis=1)


def residual_rows(n_samples, random_state):
    """Which samples' residuals are looked at, in order; None: all. The same wherever they are."""
    if n_samples <= _RESIDUAL_SAMPLES:
        return None
    return sampled_rows(n_samples, _RESIDUAL_SAMPLES, random_state)


def sampled_rows(n_samples, n_rows, random_state):
    """The indices, in order, of so many samples drawn at random; in little memory."""
    seed = int(random_state.randint(2**31 - 1))
    rows, priorities = np.empty(0, np.int64), np.empty(0, np.uint64)
    for start in range(0, n_samples, _PRIORITIES):
        stop = min(start + _PRIORITIES, n_samples)
        rows = np.concatenate([rows, np.arange(start, stop)])
        priorities = np.concatenate([priorities, row_priorities(seed, start, stop)])
        if len(rows) > n_rows:
            lowest = np.argpartition(priorities, n_rows)[:n_rows]
            rows, priorities = rows[lowest], priorities[lowest]
    return np.sort(rows)


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
    Y = project_atoms(state.U + state.beta * (state.U - state.U_before))
    V = problem.copied(state.V)
    statistics = problem.code_pass(Y, V)
    if problem.objective(statistics, Y) <= state.F:
        beta = min(1.0, state.beta * _BETA_GROWTH)
    else:
        beta = state.beta * _BETA_SHRINK
        Y, V = problem.xp.asarray(state.U, copy=True), state.V
        statistics = problem.code_pass(Y, V)
    U = Y
    for _ in range(_DICTIONARY_PASSES):
        U = problem.backend.update_dictionary(U, statistics.A, statistics.B)
    return State(U, state.U, V, problem.objective(statistics, U), beta), statistics.A


def unused_atoms(xp, A):
    """Indices of the atoms that (hardly) any sample uses."""
    usage = xp.linalg.diagonal(A)
    return xp.nonzero(usage <= UNUSED_SHARE * xp.sum(usage))[0]
