"""Samples to learn from, in the space in which F is minimised: an array, or rows block by block."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ._arrays import NUMPY, as_float64, kind_of, move
from ._encode import exactly, raise_not_finite, too_large, zero_codes
from ._objective import squared_error
from ._preprocessing import AffineMap, axes_of_scatter
from ._row_passes import RowPasses
from ._row_problem import RowProblem
from ._row_training import RowTrainer, sample_of
from ._row_work import CodePass, Scatter, SquaredError, Survey, norm_stride
from ._training import Trainer


@dataclass
class ArrayData:
    """An array.

    Attributes
    ----------
    kind, place : Kind
        Of the array that came, and of that which is computed with.
    backend : Backend
    mean : (n_features,) array, float64
        Of the samples as they came.
    map_ : AffineMap
    X : (n_samples, n_factorised) array
    row_norms : (n_samples,) array
        Of that X.
    """

    kind: Any
    place: Any
    backend: Any
    mean: Any
    map_: AffineMap
    X: Any
    row_norms: Any

    @classmethod
    def open(cls, X, kind, place, backend, find_map, name):
        """Look at X, which has to be finite, and map it.

        ``find_map(X, mean)`` gives the map; `name` is the estimator's, for messages.
        """
        X = move(X, place)
        sums, norms = _moments(backend, X, name)
        mean = sums / X.shape[0]
        map_ = find_map(X, mean)
        if not map_.is_identity:
            X = map_.to_factorised(X)
            _, norms = backend.moments(X)
        return cls(kind, place, backend, mean, map_, X, norms)

    @property
    def n_samples(self):
        return self.X.shape[0]

    @property
    def dtype(self):
        return self.X.dtype

    @cached_property
    def squared_norm(self):
        return float((self.row_norms * self.row_norms).sum())

    @cached_property
    def longest(self):
        """Largest row norm."""
        return float(self.row_norms.max())

    def part(self, rows):
        """Some of the samples."""
        return replace(self, X=self.X[rows], row_norms=self.row_norms[rows])

    def trainer(self, estimator, given, random_state, **options):
        return Trainer(
            estimator, self.backend, self.X, self.row_norms, given, random_state, **options
        )

    def totals(self, fit):
        """Total activation of every atom, about."""
        return _totals(fit.V)

    def coded(self, U, alpha):
        """Codes to tolerance, as `transform` computes them, their statistics and their totals.

        From zero, so that they are the same even where the optimal codes are not unique.
        """
        V = zero_codes(self.X, U.shape[0])
        statistics = self.backend.code_pass(self.X, U, alpha, V, **exactly(self.X))
        return V, statistics, _totals(V)

    def squared_error(self, U, V, alpha):
        return squared_error(self.X, V, U)


@dataclass
class RowData:
    """Rows that are visited block by block; all arrays are NumPy's.

    Attributes
    ----------
    passes : RowPasses
    problem : RowProblem
        Its alpha does not count.
    raw, overview : Overview
        Of the samples as they came, and in the space of the factorisation.
    sample : ndarray
        Some of the samples as they came.
    """

    passes: RowPasses
    problem: RowProblem
    raw: Any
    overview: Any
    sample: Any
    kind = place = NUMPY

    @classmethod
    def open(cls, passes, estimator, random_state):
        """Look at all rows, which have to be finite, and find the map."""
        machine, stride = estimator._machine, norm_stride(passes.shape[0])
        identity, name = AffineMap(np.zeros(passes.shape[1])), type(estimator).__name__
        raw = overview = passes.reduce(Survey(machine, identity, stride, name))
        _check_range(raw.squared_norm, raw.longest, passes.dtype)
        map_, mean = identity, raw.mean
        if estimator.whiten is not None:
            scatter = passes.reduce(Scatter(machine, AffineMap(mean)))
            axes = axes_of_scatter(scatter, raw.n_samples, mean, estimator.whiten, passes.dtype)
            map_ = AffineMap(mean, *axes)
        elif estimator.center:
            map_ = AffineMap(mean)
        if not map_.is_identity:
            overview = passes.reduce(Survey(machine, map_, stride, name))
        problem = RowProblem(passes, machine, map_, 0.0, overview.squared_norm)
        sample = sample_of(passes, estimator.n_components, random_state)
        return cls(passes, problem, raw, overview, sample)

    @property
    def mean(self):
        """Of the samples as they came."""
        return self.raw.mean

    @property
    def map_(self):
        return self.problem.map_

    @property
    def backend(self):
        return self.problem.backend

    @property
    def n_samples(self):
        return self.overview.n_samples

    @property
    def dtype(self):
        return self.passes.dtype

    @property
    def squared_norm(self):
        return self.overview.squared_norm

    @property
    def longest(self):
        """Largest row norm."""
        return self.overview.longest

    def trainer(self, estimator, given, random_state, **options):
        sample = self.map_.to_factorised(self.sample)
        return RowTrainer(
            estimator, self.problem, self.overview, sample, given, random_state, **options
        )

    def totals(self, fit):
        """Total activation of every atom, about: in the last pass, where it was for these atoms."""
        totals = self.problem.totals
        return np.zeros(len(fit.U)) if totals is None or len(totals) != len(fit.U) else totals

    def coded(self, U, alpha):
        """None, and statistics and totals of the codes as `transform` computes them."""
        coded = self.passes.reduce(self.problem.work(CodePass, U, alpha, exact=True))
        return None, coded.statistics, coded.totals

    def squared_error(self, U, V, alpha):
        return self.passes.reduce(self.problem.work(SquaredError, U, alpha))


def _moments(backend, X, name):
    """Column sums and row norms of X, which has to be finite."""
    sums, norms = backend.moments(X)
    with np.errstate(over="ignore"):
        squared_norm = float((norms * norms).sum())
    if not _is_in_range(squared_norm, X.dtype, backend.xp):
        raise_not_finite(X, name)
    _check_range(squared_norm, float(norms.max()), X.dtype, backend.xp)
    return sums, norms


def _is_in_range(squared_norm, dtype, xp):
    """Not only NaN is out: with sums of products as large as this, the solver could overflow."""
    return squared_norm <= 0.01 * float(xp.finfo(dtype).max)


def _check_range(squared_norm, longest, dtype, xp=np):
    """Raise where products of the samples overflow or underflow."""
    if not _is_in_range(squared_norm, dtype, xp):
        raise too_large(dtype, xp)
    precision = xp.finfo(dtype)
    if 0.0 < longest**2 < float(precision.smallest_normal) / float(precision.eps):
        raise ValueError(
            f"X is too small for its precision, {dtype}: its products underflow. Multiply X "
            "(and an absolute alpha) by a constant."
        )


def _totals(V):
    xp = kind_of(V).xp
    return xp.sum(V, axis=0, dtype=xp.float64)


def as_kept(data, U):
    """U as `transform` will see it, rounded to the precision of X, in float64."""
    return as_float64(kind_of(U).xp.astype(U, data.dtype))
