"""What is done with every block of rows in a pass, and how the results of two blocks join.

Everything here travels to where the rows are, and works there on whatever array library and device
the block belongs to (see `Machine`). What comes back is NumPy's.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._arrays import as_float64, kind_of, move, to_numpy
from ._encode import exactly, raise_not_finite, zero_codes
from ._machine import Machine
from ._objective import squared_error
from ._preprocessing import AffineMap
from ._solvers import LOOSE_CODES, Statistics, join_codings

#: Row norms from which the median is found; of more rows, every second, every fourth ...
_MOST_NORMS = 2**20


@dataclass
class Work(ABC):
    """Work on blocks in the space of the factorisation."""

    machine: Machine
    map_: AffineMap

    def __call__(self, block, start, memory):
        """The result for a block whose first row has index `start` (see `RowPasses.reduce`)."""
        X, backend = self.machine.open(block)
        X = self.map_.at(kind_of(X)).to_factorised(X)
        with backend.session():
            return self.of(backend, X, start, memory)

    @abstractmethod
    def of(self, backend, X, start, memory):
        """The result for the working array X."""

    @staticmethod
    @abstractmethod
    def add(one, other):
        """The result for two sets of rows, the rows of `one` before those of `other`."""


def norm_stride(n_samples):
    """From row to row whose norms are kept: 1, 2, 4 ..."""
    return 2 ** max(0, (-(-n_samples // _MOST_NORMS) - 1).bit_length())


class Overview(NamedTuple):
    """What a first look at the rows shows."""

    n_samples: int
    sums: Any  # of the columns, float64
    squared_norm: float
    longest: float  # row norm
    norms: Any  # of every so many rows, float64, in order

    @property
    def mean(self):
        return self.sums / self.n_samples


@dataclass
class Survey(Work):
    """An `Overview` of the rows; raises where some are not finite."""

    stride: int
    name: str  # the estimator's, for messages

    def of(self, backend, X, start, memory):
        sums, norms = (to_numpy(array) for array in backend.moments(X))
        if not np.isfinite(norms).all():
            raise_not_finite(X, self.name)
        kept = norms[-start % self.stride :: self.stride]
        return Overview(len(norms), sums, float((norms * norms).sum()), float(norms.max()), kept)

    @staticmethod
    def add(one, other):
        return Overview(
            one.n_samples + other.n_samples,
            one.sums + other.sums,
            one.squared_norm + other.squared_norm,
            max(one.longest, other.longest),
            np.concatenate([one.norms, other.norms]),
        )


class Coded(NamedTuple):
    """Sums over coded rows."""

    statistics: Statistics
    totals: Any  # of the codes of every atom, float64


@dataclass
class CodePass(Work):
    """Statistics of the codes on a dictionary.

    Loosely, codes start from where those of the same rows ended in the last pass, if they are still
    there; exactly, they are those of `transform`, from zero.
    """

    U: Any
    alpha: float
    exact: bool = False

    def of(self, backend, X, start, memory):
        U = move(self.U, kind_of(X))
        V = zero_codes(X, U.shape[0]) if self.exact else starting_codes(X, U, memory)
        tolerance = exactly(X) if self.exact else LOOSE_CODES
        A, B, sum_V, coding = backend.code_pass(X, U, self.alpha, V, **tolerance)
        if memory is not None and not self.exact:
            memory["codes"] = V
        totals = backend.xp.sum(V, axis=0, dtype=backend.xp.float64)
        return Coded(Statistics(to_numpy(A), to_numpy(B), sum_V, coding), to_numpy(totals))

    @staticmethod
    def add(one, other):
        (A, B, sum_V, coding), totals = one
        more, more_totals = other
        joined = join_codings([coding, more.coding])
        return Coded(
            Statistics(A + more.A, B + more.B, sum_V + more.sum_V, joined), totals + more_totals
        )


def starting_codes(X, U, memory):
    """The codes kept of the last pass, if they fit, or zeros."""
    V = None if memory is None else memory.get("codes")
    shape = (X.shape[0], U.shape[0])
    if V is None or kind_of(V) != kind_of(X) or tuple(V.shape) != shape or V.dtype != X.dtype:
        return zero_codes(X, U.shape[0])
    return kind_of(V).xp.asarray(V, copy=True)  # the pass may be repeated


@dataclass
class _Sum(Work):
    """Work whose results are numbers or arrays to be added."""

    @staticmethod
    def add(one, other):
        return one + other


@dataclass
class RemovalCosts(_Sum):
    """By how much F rises without each atom."""

    U: Any
    alpha: float

    def of(self, backend, X, start, memory):
        U = move(self.U, kind_of(X))
        V = starting_codes(X, U, memory)
        backend.encode(X, U, self.alpha, V, **LOOSE_CODES)
        return backend.removal_costs(X, U, self.alpha, V, **LOOSE_CODES)


@dataclass
class SquaredError(_Sum):
    """``||X - V U||^2`` without the cancellation that sums of products have."""

    U: Any
    alpha: float

    def of(self, backend, X, start, memory):
        U = move(self.U, kind_of(X))
        V = zero_codes(X, U.shape[0])
        backend.encode(X, U, self.alpha, V, **exactly(X))
        return squared_error(X, V, U)


@dataclass
class Scatter(_Sum):
    """``X^T X`` of the mapped rows in float64: with a map that centres, n times the covariance."""

    def of(self, backend, X, start, memory):
        X = as_float64(X)
        return to_numpy(X.T @ X)


@dataclass
class Score:
    """Squared errors of the reconstruction by an estimator, and of that by the mean."""

    estimator: Any

    def __call__(self, block, start, memory):
        V, _ = self.estimator._codes_of(block)
        return np.array(self.estimator._squared_errors(block, V))

    @staticmethod
    def add(one, other):
        return one + other
