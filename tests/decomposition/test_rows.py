"""Rows that are read block by block: sums over them, and fits, codes and scores from them."""

import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from itertools import combinations
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks._memory import is_told
from semi_nmf_concepts import SemiNMFConcepts
from semi_nmf_concepts.decomposition import _data, _row_training, _row_work
from semi_nmf_concepts.decomposition._machine import Machine
from semi_nmf_concepts.decomposition._preprocessing import AffineMap
from semi_nmf_concepts.decomposition._row_work import (
    CodePass,
    RemovalCosts,
    Scatter,
    Score,
    SquaredError,
    Survey,
    norm_stride,
)
from semi_nmf_concepts.decomposition._solvers import _moves
from semi_nmf_concepts.streaming import RowBlocks, open_codes, open_rows
from semi_nmf_concepts.testing import check_factorization_invariants, matrices
from tests.streaming._made import SOURCES, Loader, as_memmap, as_npy, as_npy_shards, as_zarr

K = 5
DTYPES = ["float16", "float32", "float64"]
# What `quickly` says of itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*after max_iter=2 :sklearn.exceptions.ConvergenceWarning"
)


def planted(seed=0, n_samples=1500, n_features=16, dtype="float64"):
    """Sparse non-negative combinations of unit atoms, plus noise."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((K, n_features))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    V = rng.gamma(2.0, 1.0, (n_samples, K)) * (rng.random((n_samples, K)) < 0.4)
    return (V @ U + 0.1 * rng.standard_normal((n_samples, n_features))).astype(dtype)


def model(**parameters):
    return SemiNMFConcepts(
        **{"n_components": K, "alpha": 0.1, "random_state": 0, "batch_size": 400, **parameters}
    )


def quickly(X, **parameters):
    """A model for which it does not matter how good the fit is."""
    return model(init=np.asarray(X[:K], np.float64), **{"max_iter": 2, **parameters})


def objective(X, V, U, alpha):
    """F by its definition, in double precision."""
    return 0.5 * np.sum((np.asarray(X, np.float64) - V @ U) ** 2) + alpha * V.sum()


def all_in_one(model, X):
    """The same fit in memory."""
    return clone(model).fit(np.asarray(X))


@pytest.fixture
def small_sample(monkeypatch):
    """The sample that a fit begins with is a small part of the rows, as it is of many."""
    monkeypatch.setattr(_row_training, "_MIN_SAMPLE", 300)
    monkeypatch.setattr(_row_training, "_PER_ATOM", 8)


class Counted(RowBlocks):
    """Rows of an array that note which of them were read, pass by pass."""

    def __init__(self, Z):
        super().__init__(Z.shape, Z.dtype, "counted")
        self.Z, self.passes, self.n_taken = Z, [], 0

    def _pass(self):
        return self

    def __enter__(self):
        self.passes.append([])
        return self.read

    def __exit__(self, *error):
        pass

    def read(self, out):
        start = sum(self.passes[-1])
        out[:] = self.Z[start : start + len(out)]
        self.passes[-1].append(len(out))
        return len(out)

    def _take(self, indices, out):
        self.n_taken += 1
        out[:] = self.Z[indices]


# Sums over blocks ---------------------------------------------------------------------------------


def codes_by_enumeration(X, U, alpha):
    """Optimal codes: for each row the best of what every set of atoms gives."""
    G, C = U @ U.T, X @ U.T - alpha
    V, F = np.zeros(C.shape), np.zeros(len(C))
    for size in range(1, len(U) + 1):
        for atoms in map(list, combinations(range(len(U)), size)):
            codes = np.linalg.solve(G[np.ix_(atoms, atoms)], C[:, atoms].T).T
            f = -0.5 * np.sum(codes * C[:, atoms], axis=1)
            better = (codes >= 0.0).all(axis=1) & (f < F)
            V[better] = 0.0
            V[np.ix_(better, atoms)], F[better] = codes[better], f[better]
    return V


class Setting:
    """Rows in blocks, a map, a dictionary, and the rows and their codes as one matrix."""

    def __init__(self, seed, n, d, dtype, mapped, cuts):
        rng = np.random.default_rng(seed)
        self.X = (2.0 * rng.standard_normal((n, d)) + 0.5).astype(dtype)
        self.X[rng.random(n) < 0.1] = 0.0
        offset = self.X.mean(axis=0, dtype=np.float64)
        axes = np.linalg.qr(rng.standard_normal((d, 3)))[0].T
        maps = {
            "identity": AffineMap(np.zeros(d)),
            "centred": AffineMap(offset),
            "whitened": AffineMap(offset, np.array([2.0, 1.0, 0.7]), axes),
        }
        self.map_, self.alpha = maps[mapped], 0.3
        self.mapped = self.X.astype(np.float64) - self.map_.offset
        if mapped == "whitened":
            self.mapped = self.mapped @ (axes / self.map_.scale[:, None]).T
        U = rng.standard_normal((3, self.mapped.shape[1]))
        self.U = U / np.linalg.norm(U, axis=1, keepdims=True)
        self.bounds = sorted({0, n, *(cut % n for cut in cuts)})
        self.rtol = 1e-9 if dtype == "float64" else 2e-3

    def work(self, kind, *values, **options):
        return kind(Machine(), self.map_, *values, **options)

    def sums(self, work, memories=None):
        """The result over all rows, added up from either end."""
        pieces = list(zip(self.bounds, self.bounds[1:], strict=False))
        memories = [None] * len(pieces) if memories is None else memories
        parts = [
            work(self.X[start:stop], start, memory)
            for (start, stop), memory in zip(pieces, memories, strict=True)
        ]
        forwards, backwards = parts[0], parts[-1]
        for part in parts[1:]:
            forwards = work.add(forwards, part)
        for part in parts[-2::-1]:
            backwards = work.add(part, backwards)
        return forwards, backwards

    def close(self, actual, expected):
        scale = np.abs(expected).max(initial=0.0)
        assert_allclose(actual, expected, rtol=self.rtol, atol=self.rtol * (1.0 + scale))


def cut_at_will(function):
    """Calls ``function(setting)`` for settings of many kinds."""

    @settings(max_examples=40)
    @given(
        seed=st.integers(0, 2**32 - 1),
        n=st.integers(1, 30),
        d=st.integers(3, 7),
        dtype=st.sampled_from(["float32", "float64"]),
        mapped=st.sampled_from(["identity", "centred", "whitened"]),
        cuts=st.lists(st.integers(0, 29), max_size=5),
    )
    def test(seed, n, d, dtype, mapped, cuts):
        function(Setting(seed, n, d, dtype, mapped, cuts))

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


@cut_at_will
def test_a_survey_counts_and_measures(setting):
    lengths = np.linalg.norm(setting.mapped, axis=1)
    for stride in (1, 2, 4):
        for seen in setting.sums(setting.work(Survey, stride, "Name")):
            assert seen.n_samples == len(setting.X)
            setting.close(seen.sums, setting.mapped.sum(axis=0))
            setting.close(seen.squared_norm, np.sum(lengths**2))
            setting.close(seen.longest, lengths.max())
            setting.close(seen.norms, lengths[::stride])


@cut_at_will
def test_a_code_pass_sums_codes(setting):
    V = codes_by_enumeration(setting.mapped, setting.U, setting.alpha)
    for exact in (True, False):
        work = setting.work(CodePass, setting.U, setting.alpha, exact=exact)
        for (A, B, sum_V, coding), totals in setting.sums(work):
            setting.close(A, V.T @ V)
            setting.close(B, V.T @ setting.mapped)
            setting.close(sum_V, V.sum())
            setting.close(totals, V.sum(axis=0))
            assert not coding.n_unconverged
            n_certain = np.count_nonzero(V > 1e-3), np.count_nonzero(V)
            assert n_certain[0] <= coding.n_active
            assert exact is False or coding.n_active <= n_certain[1] + len(V)
            limit = 1e-3 if not exact else 1e-8 if setting.X.dtype == np.float64 else 1e-5
            assert coding.violation <= limit


@cut_at_will
def test_what_is_left_of_an_earlier_pass_changes_nothing(setting):
    """Codes of another dictionary, of other rows, of another type, or nonsense."""
    V = codes_by_enumeration(setting.mapped, setting.U, setting.alpha)
    n_pieces = len(setting.bounds) - 1
    work = setting.work(CodePass, setting.U, setting.alpha)
    rng = np.random.default_rng(0)
    for shape, dtype in [((5, 3), None), (None, "float16"), (None, None)]:
        memories = [{} for _ in range(n_pieces)]
        for memory, start, stop in zip(memories, setting.bounds, setting.bounds[1:], strict=False):
            left = 5.0 * rng.random(shape or (stop - start, 3))
            memory["codes"] = left.astype(dtype or setting.X.dtype)
        for _ in range(2):
            statistics, totals = setting.sums(work, memories)[0]
            setting.close(statistics.A, V.T @ V)
            setting.close(totals, V.sum(axis=0))
        kept = np.concatenate([memory["codes"] for memory in memories])
        setting.close(kept, V)
        exact = setting.work(CodePass, setting.U, setting.alpha, exact=True)
        setting.sums(exact, memories)
        assert_array_equal(np.concatenate([memory["codes"] for memory in memories]), kept)


def test_exact_codes_are_those_of_transform_even_where_they_are_not_unique():
    """Two atoms are the same: codes that start elsewhere end elsewhere."""
    X, u = planted(n_samples=50), np.eye(16)[:2]
    work = CodePass(Machine(), AffineMap(np.zeros(16)), u[[0, 0, 1]], 0.1, exact=True)
    memory = {"codes": np.tile([1.0, 0.0, 0.0], (50, 1))}
    statistics, totals = work(X, 0, memory)
    expected = work(X, 0, None)
    assert_array_equal(statistics.A, expected.statistics.A)
    assert_array_equal(totals, expected.totals)
    work.exact = False
    assert not np.array_equal(work(X, 0, memory).totals, totals)


@cut_at_will
def test_removal_costs_are_what_coding_without_an_atom_costs(setting):
    U, alpha = setting.U, setting.alpha

    def lowest(U):
        return objective(setting.mapped, codes_by_enumeration(setting.mapped, U, alpha), U, alpha)

    expected = np.array([lowest(np.delete(U, k, axis=0)) for k in range(3)]) - lowest(U)
    for costs in setting.sums(setting.work(RemovalCosts, U, alpha)):
        setting.close(costs, expected)


@cut_at_will
def test_squared_errors_and_scatter(setting):
    V = codes_by_enumeration(setting.mapped, setting.U, setting.alpha)
    error = np.sum((setting.mapped - V @ setting.U) ** 2)
    for found in setting.sums(setting.work(SquaredError, setting.U, setting.alpha)):
        setting.close(found, error)
    for scatter in setting.sums(setting.work(Scatter)):
        assert scatter.dtype == np.float64
        setting.close(scatter, setting.mapped.T @ setting.mapped)


@cut_at_will
def test_scores_are_sums_of_squared_errors(setting):
    fitted = SemiNMFConcepts()
    fitted.components_ = fitted.dictionary_ = setting.U
    fitted.alpha_, fitted.mean_ = setting.alpha, setting.X.mean(axis=0, dtype=np.float64)
    fitted.offset_, fitted.whitening_axes_, fitted.whitening_scale_ = (
        setting.map_.offset,
        None,
        None,
    )
    if setting.map_.axes is not None:
        fitted.whitening_axes_, fitted.whitening_scale_ = setting.map_.axes, setting.map_.scale
        fitted.components_ = setting.map_.directions_to_input(setting.U)
    V = codes_by_enumeration(setting.mapped, setting.U, setting.alpha)
    X = setting.X.astype(np.float64)
    rest = X - V @ fitted.components_ - setting.map_.offset
    for error, spread in setting.sums(Score(fitted)):
        setting.close(error, np.sum(rest**2))
        setting.close(spread, np.sum((X - fitted.mean_) ** 2))


@given(n_samples=st.integers(1, 10_000))
def test_norms_are_kept_of_every_second_fourth_eighth_row_of_many(n_samples):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_row_work, "_MOST_NORMS", 64)
        stride = norm_stride(n_samples)
    powers = 2 ** np.arange(14)
    assert stride == next(power for power in powers if ceil(n_samples / power) <= 64)


def test_a_relative_alpha_follows_the_norms_that_are_kept(monkeypatch):
    monkeypatch.setattr(_row_work, "_MOST_NORMS", 100)
    X = planted(n_samples=700)
    fitted = quickly(X, alpha=0.05, alpha_scale="relative", center=True, batch_size=123)
    lengths = np.linalg.norm(X - X.mean(axis=0), axis=1)[::8]
    assert_allclose(fitted.fit(open_rows(X)).alpha_, 0.05 * np.median(lengths))


# The same fit as in memory ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"center": True},
        {"whiten": 6},
        {"alpha": 0.05, "alpha_scale": "relative"},
        {"n_active": 2.0},
    ],
    ids=["plain", "centred", "whitened", "relative", "n_active"],
)
def test_a_fit_takes_the_same_path_as_in_memory(parameters, dtype):
    X = planted(dtype=dtype)
    start = model(init=X[:K].astype(np.float64), **parameters)
    rows, memory = clone(start).fit(open_rows(X)), all_in_one(start, X)
    single = dtype != "float64"
    assert abs(rows.n_iter_ - memory.n_iter_) <= 3
    assert_allclose(rows.objective_, memory.objective_, rtol=1e-5 if single else 1e-6)
    assert_allclose(rows.alpha_, memory.alpha_, rtol=1e-6)
    assert_allclose(rows.components_, memory.components_, atol=2e-3 if single else 2e-4)
    n = min(rows.n_iter_, memory.n_iter_)
    paths = rows.objective_history_[:n], memory.objective_history_[:n]
    assert_allclose(*paths, rtol=1e-3)
    for name in ("mean_", "offset_", "whitening_scale_", "whitening_axes_"):
        mine, other = getattr(rows, name), getattr(memory, name)
        assert (mine is None) == (other is None)
        if mine is not None:
            assert mine.dtype == other.dtype
            assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
    assert_allclose(rows.codes_gram_, memory.codes_gram_, rtol=1e-2, atol=1.0)
    assert vars(rows).keys() == vars(memory).keys()
    assert rows.skipped_ == {}
    for name in ("components_", "dictionary_"):
        assert getattr(rows, name).dtype == getattr(memory, name).dtype


@pytest.mark.parametrize("parameters", [{}, {"whiten": 6}], ids=str)
def test_moves_draw_what_they_draw_in_memory(small_sample, monkeypatch, parameters):
    """Or else the fits would part where several dictionaries are about as good."""
    next_draws = []

    def observed(residual, alpha, n_atoms, random_state):
        next_draws.append(pickle.loads(pickle.dumps(random_state)).random_sample())
        return new_atoms(residual, alpha, n_atoms, random_state)

    new_atoms = _moves.new_atoms
    monkeypatch.setattr(_moves, "new_atoms", observed)
    X = planted()
    start = model(init=X[:K], **parameters)
    clone(start).fit(X)
    in_memory, next_draws[:] = next_draws[0], []
    clone(start).fit(open_rows(X))
    assert next_draws[0] == in_memory


def test_a_warm_start_continues():
    X = planted()
    first = model(warm_start=True).fit(X[:800])
    rows, memory = pickle.loads(pickle.dumps(first)).fit(open_rows(X)), first.fit(X)
    assert abs(rows.n_iter_ - memory.n_iter_) <= 2
    assert_allclose(rows.objective_, memory.objective_, rtol=1e-6)
    assert_allclose(rows.components_, memory.components_, atol=1e-4)
    before = rows.objective_
    assert rows.fit(open_rows(X)).objective_ <= before * (1.0 + 1e-9)
    assert rows.n_iter_ <= memory.fit(X).n_iter_ + 2


def test_named_starts_from_a_sample_end_as_low(small_sample):
    X = planted(1)
    lowest = 1.005 * model().fit(X).objective_
    for init in ("grow", "random", "k-means++", "svd"):
        assert model(init=init, n_init=2).fit(open_rows(X)).objective_ <= lowest


@pytest.mark.parametrize("target", [1.0, 2.5])
@pytest.mark.parametrize("given_start", [True, False])
def test_n_active_is_reached_on_all_rows(small_sample, target, given_start):
    X = planted(2, n_samples=2000)
    X[1000:] *= 3.0  # the order of the rows does not matter to the sample
    init = X[:K] if given_start else "grow"
    fitted = model(n_active=target, init=init, center=True).fit(open_rows(X))
    assert abs(fitted.n_active_ - target) <= 0.1 * target
    assert_allclose(fitted.n_active_, np.count_nonzero(fitted.transform(X)) / len(X), rtol=1e-3)


def test_alpha_is_found_again_where_the_sample_misleads(monkeypatch):
    """A sample in which much more is active than in all rows."""
    X = planted(3, n_samples=2000)
    X[500:] *= 0.02
    monkeypatch.setattr(_row_training, "sampled_rows", lambda n, size, random_state: np.arange(400))
    fitted = model(n_active=1.0).fit(open_rows(X))
    assert abs(fitted.n_active_ - 1.0) <= 0.1


def test_neither_the_size_of_blocks_nor_the_cut_of_files_matters(small_sample, tmp_path):
    X = planted(6)  # of which rounding does not change what is decided on the way
    shards = as_npy_shards(X, tmp_path, [7, 800, 801])
    fits = [
        model(center=True, batch_size=batch_size).fit(rows)
        for batch_size, rows in [(400, X), (97, X), (1499, X), (400, shards), (256, shards)]
        for rows in [open_rows(rows)]
    ]
    for other in fits[1:]:
        assert other.n_iter_ == fits[0].n_iter_
        assert_allclose(other.objective_, fits[0].objective_, rtol=1e-9)
        assert_allclose(other.components_, fits[0].components_, atol=1e-6)
    assert_array_equal(fits[3].components_, fits[0].components_)


def test_what_fits_in_one_block_is_fitted_in_memory(tmp_path):
    X = planted(n_samples=400)
    np.save(tmp_path / "Z.npy", X)
    for source in (tmp_path / "Z.npy", np.load(tmp_path / "Z.npy", mmap_mode="r")):
        fitted = model().fit(source)
        assert_array_equal(fitted.components_, model().fit(X).components_)
        assert fitted.skipped_ == {}
    assert fitted.fit(X).skipped_ == {}


def test_too_few_iterations_warn():
    X = planted(5)
    with pytest.warns(ConvergenceWarning, match="max_iter=3") as caught:
        fitted = model(init=X[:K], max_iter=3).fit(open_rows(X))
    assert len(caught) == 1
    assert fitted.n_iter_ == 3 and len(fitted.objective_history_) == 4


@pytest.mark.parametrize("parameters", [{}, {"center": True}, {"whiten": 6}, {"n_active": 2.0}])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_what_is_said_of_a_fit_is_true(small_sample, parameters, dtype):
    X = planted(6, dtype=dtype)
    fitted = model(**parameters).fit(open_rows(X))
    single = dtype != "float64"
    V = fitted.transform(X).astype(np.float64)
    X = X.astype(np.float64)
    mapped = X - fitted.offset_
    if fitted.whiten:
        mapped = mapped @ (fitted.whitening_axes_ / fitted.whitening_scale_[:, None]).T
    U = fitted.dictionary_.astype(np.float64)
    rtol = 1e-4 if single else 1e-9
    assert_allclose(fitted.objective_, objective(mapped, V, U, fitted.alpha_), rtol=rtol)
    assert_allclose(fitted.reconstruction_err_, np.linalg.norm(mapped - V @ U), rtol=rtol)
    assert_allclose(fitted.codes_gram_, V.T @ V, rtol=rtol, atol=rtol)
    assert_allclose(fitted.mean_, X.mean(axis=0), atol=1e-5 if single else 1e-12)
    assert fitted.kkt_violation_ <= (1e-5 if single else 1e-8)
    activation = V.sum(axis=0)
    assert np.all(np.diff(activation) <= 1e-5 * activation.max())
    assert np.linalg.norm(U, axis=1).max() <= 1.0 + (1e-6 if single else 1e-12)
    assert_allclose(fitted.n_active_, np.count_nonzero(V) / len(V), rtol=1e-3)
    assert fitted.n_dead_ == 0 and fitted.n_samples_seen_ == 1500 and fitted.n_features_in_ == 16
    history = fitted.objective_history_
    assert len(history) == fitted.n_iter_ + 1 and np.all(np.diff(history) <= 0.0)
    assert fitted.get_feature_names_out()[0] == "seminmfconcepts0"


def test_atoms_are_sorted_whatever_the_last_pass_was_about(monkeypatch):
    """Moves may end with a pass over other dictionaries."""
    monkeypatch.setattr(_data.RowData, "totals", lambda data, fit: np.arange(K, dtype=float))
    X = planted(6)
    fitted = quickly(X).fit(open_rows(X))
    assert np.all(np.diff(fitted.transform(X).sum(axis=0)) <= 0.0)


class ByRows(SemiNMFConcepts):
    """Reads all training data block by block."""

    def fit(self, X, y=None):
        return super().fit(open_rows(np.asarray(X)))

    def fit_transform(self, X, y=None):
        return super().fit_transform(open_rows(np.asarray(X)))


@pytest.mark.parametrize(
    "parameters, n_examples", [({"center": True}, 3), ({"whiten": 3}, 2), ({"n_active": 1.5}, 1)]
)
def test_invariants_hold(parameters, n_examples):
    estimator = ByRows(
        4, alpha=0.05, alpha_scale="relative", random_state=0, batch_size=6, **parameters
    )

    @settings(max_examples=n_examples)
    @given(matrices())
    def check(X):
        check_factorization_invariants(estimator, X)

    check()


def test_another_backend_gives_the_same():
    X = planted(7, dtype="float32")
    start = quickly(X, center=True, max_iter=100)
    expected = clone(start).fit(open_rows(X))
    fitted = start.set_params(backend="torch", device="cpu").fit(open_rows(X))
    assert type(fitted.components_) is np.ndarray
    assert_allclose(fitted.components_, expected.components_, atol=1e-4)
    assert_allclose(fitted.objective_, expected.objective_, rtol=1e-5)
    V = fitted.transform(open_rows(X))
    assert type(V) is np.ndarray
    assert_allclose(V, expected.transform(X), atol=1e-3)
    assert_allclose(fitted.score(open_rows(X)), expected.score(X), rtol=1e-4)
    fitted.partial_fit(open_rows(X))
    assert type(fitted.components_) is np.ndarray


# Sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SOURCES)
def test_every_method_reads_every_source(tmp_path, make):
    X = planted(8, n_samples=500, dtype="float32")
    source = open_rows(make(X, tmp_path, [90, 210]))
    start = quickly(X, batch_size=120)
    expected = clone(start).fit(open_rows(X))
    fitted = clone(start).fit(source)
    assert_array_equal(fitted.components_, expected.components_)
    V = expected.transform(X)
    assert_allclose(fitted.transform(source), V, rtol=1e-5, atol=1e-6)
    assert_allclose(clone(start).fit_transform(source), V, rtol=1e-5, atol=1e-6)
    assert_allclose(fitted.score(source), expected.score(X), rtol=1e-6)
    for block in np.split(X, range(120, 500, 120)):
        expected.partial_fit(block)
    fitted.partial_fit(source)
    assert_allclose(fitted.components_, expected.components_, atol=1e-6)
    assert fitted.n_samples_seen_ == 1000 and fitted.n_iter_ == expected.n_iter_


@pytest.mark.parametrize(
    "make", [as_memmap, as_npy, as_zarr, lambda X, *_: Loader(np.array_split(X, 7))]
)
def test_sources_need_not_be_opened(tmp_path, make):
    X = planted(9, n_samples=600, dtype="float16")
    source = make(X, tmp_path, [100])
    start = quickly(X, batch_size=250)
    fitted, expected = clone(start).fit(source), clone(start).fit(open_rows(X))
    assert_array_equal(fitted.components_, expected.components_)
    V = fitted.transform(source)
    assert V.shape == (600, K) and V.dtype == np.float32 and type(V) is np.ndarray
    assert_allclose(V, expected.transform(X), atol=1e-6)
    assert_allclose(fitted.score(source), fitted.score(X), rtol=1e-6)
    assert clone(start).partial_fit(source).n_samples_seen_ == 600


def test_what_can_be_read_once_does_for_one_pass(tmp_path):
    X = planted(10, n_samples=600)
    fitted, pieces = quickly(X).fit(X), np.array_split(X, 7)

    def once():
        return iter(pieces)

    V = fitted.transform(X)
    assert_allclose(fitted.transform(once()), V, atol=1e-12)
    codes = fitted.transform(once(), out=tmp_path / "codes.npy")
    assert_allclose(codes, V, atol=1e-12)
    assert_allclose(fitted.score(once()), fitted.score(X))
    assert model(batch_size=200).partial_fit(once()).n_samples_seen_ == 600
    for method in (model().fit, model().fit_transform):
        with pytest.raises(TypeError, match="only once; give an object .* or a function"):
            method(once())


def test_partial_fit_goes_on_from_a_fit_to_rows():
    X = planted(11)
    fitted = model().fit(open_rows(X))
    F = fitted.objective_
    fitted.partial_fit(open_rows(X[:700]))
    assert fitted.n_samples_seen_ == 2200 and not hasattr(fitted, "objective_history_")
    V = fitted.transform(X)
    assert objective(X, V, fitted.components_, fitted.alpha_) <= 1.01 * F


def test_a_fitted_model_travels():
    X = planted(12, dtype="float32")
    fitted = model(whiten=6).fit(open_rows(X))
    stored = skops.io.dumps(fitted)
    loaded = skops.io.loads(stored, trusted=skops.io.get_untrusted_types(data=stored))
    for copy in (pickle.loads(pickle.dumps(fitted)), loaded):
        assert_array_equal(copy.transform(X), fitted.transform(X))
        assert vars(copy).keys() == vars(fitted).keys()
    assert not hasattr(clone(fitted), "components_")


def test_in_pipelines_and_searches(tmp_path):
    X = planted(13, n_samples=900, dtype="float32")
    mapped = as_memmap(X, tmp_path, [])
    alone = make_pipeline(quickly(X))
    assert_array_equal(alone.fit(mapped).transform(mapped), quickly(X).fit_transform(mapped))
    assert_allclose(alone.score(mapped), alone.score(X))
    scaled = make_pipeline(StandardScaler(), model())
    assert_allclose(scaled.fit_transform(mapped), scaled.fit_transform(X), atol=1e-5)
    search = GridSearchCV(quickly(X), {"alpha": [0.1, 2.0]}, cv=3).fit(mapped)
    assert search.best_params_ == {"alpha": 0.1}
    assert_allclose(
        search.cv_results_["mean_test_score"],
        GridSearchCV(quickly(X), {"alpha": [0.1, 2.0]}, cv=3).fit(X).cv_results_["mean_test_score"],
        rtol=1e-4,
    )


def test_names_of_features_do_not_outlive_the_data_they_belong_to():
    X = planted(14)
    frame = pd.DataFrame(X).add_prefix("unit")
    fitted = quickly(X).fit(frame)
    assert_allclose(fitted.transform(open_rows(X)), fitted.transform(frame), atol=1e-9)
    fitted.fit(open_rows(X))
    assert not hasattr(fitted, "feature_names_in_")
    fitted.transform(X)  # without a warning


# Codes on the disk --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, layout", [("c.npy", "dense"), ("c.zarr", "dense"), ("c.zarr", "csr")]
)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_codes_on_the_disk_are_those_in_memory(tmp_path, name, layout, dtype):
    X = planted(15, dtype=dtype)
    fitted = quickly(X, center=True).fit(X)
    V, out = fitted.transform(X), tmp_path / "new" / name
    for source, precision in [(open_rows(X), V.dtype), (X, V.dtype), (X.tolist(), np.float64)]:
        codes = fitted.transform(source, out=out, layout=layout)
        assert type(codes) is type(open_codes(out))
        assert codes.shape == V.shape and codes.dtype == precision
        dense = codes.toarray() if scipy.sparse.issparse(codes) else codes[:]
        assert_allclose(dense, V, atol=1e-3 if dtype == "float16" else 1e-12)
    assert sorted(os.listdir(tmp_path)) == ["new"] and os.listdir(tmp_path / "new") == [name]


def test_codes_of_tensors_on_the_disk(tmp_path):
    X = torch.from_numpy(planted(16))
    fitted = quickly(X).fit(X)
    codes = fitted.transform(X, out=tmp_path / "codes.npy")
    assert_allclose(codes, fitted.transform(X).numpy(), atol=1e-12)
    assert_allclose(fitted.transform(open_rows(X.numpy())), codes, atol=1e-12)


def test_codes_do_not_replace_what_they_are_of(tmp_path):
    X = planted(15)
    fitted, path = quickly(X).fit(X), tmp_path / "Z.npy"
    np.save(path, X)
    stored = as_zarr(X, tmp_path, [100])
    for source, out in [
        (path, path),
        (str(path), tmp_path / "new" / ".." / "Z.npy"),
        (np.load(path, mmap_mode="r"), path),
        (open_rows(path), path),
        (stored, tmp_path / "a.zarr"),
        (tmp_path / "a.zarr", tmp_path / "a.zarr"),
        (open_rows(tmp_path / "a.zarr"), tmp_path / "a.zarr"),
    ]:
        with pytest.raises(ValueError, match="is where X is read from"):
            fitted.transform(source, out=out)
    assert_array_equal(np.load(path), X)
    assert_array_equal(stored[:], X)


def test_codes_do_not_replace_parts_of_what_they_are_of(tmp_path):
    X = planted(15)
    fitted = quickly(X).fit(X)
    (tmp_path / "fold").mkdir()
    path, shard = tmp_path / "Z.npy", tmp_path / "fold" / "a.npy"
    np.save(path, X)
    np.save(shard, X)
    stored = as_zarr(X, tmp_path, [100])
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "fold", target_is_directory=True)
    for source, out in [
        (open_rows([path, path]), path),
        (open_rows([X, open_rows([path])]), path),
        (tmp_path / "fold", shard),
        (tmp_path / "fold", tmp_path / "fold" / "new.npy"),
        (tmp_path / "fold", link / "new.npy"),
        (link, tmp_path / "fold" / "new.npy"),
        (open_rows(stored), tmp_path / "a.zarr"),
        (open_rows([stored, stored]), tmp_path / "a.zarr"),
        (stored, tmp_path / "a.zarr" / "codes.npy"),
    ]:
        with pytest.raises(ValueError, match="is where X is read from"):
            fitted.transform(source, out=out)
    assert os.listdir(tmp_path / "fold") == ["a.npy"]
    for source in (path, shard, stored):
        assert_array_equal(open_rows(source)[:], X)
    fitted.transform(tmp_path / "fold", out=tmp_path / "folds.npy")  # beside it
    with pytest.raises(TypeError, match="out is a path, got int"):
        fitted.transform(tmp_path / "fold", out=3)


def test_codes_of_a_bad_block_leave_what_was_there(tmp_path):
    X = planted(16)
    fitted = quickly(X).fit(X)
    fitted.transform(X, out=tmp_path / "codes.npy")
    before = (tmp_path / "codes.npy").read_bytes()
    X[1400] = np.nan
    for out in ("codes.npy", "codes.zarr"):
        with pytest.raises(ValueError, match="contains NaN"):
            fitted.transform(open_rows(X), out=tmp_path / out)
    assert (tmp_path / "codes.npy").read_bytes() == before
    assert os.listdir(tmp_path) == ["codes.npy"]


def test_containers_of_scikit_learn(tmp_path):
    X = planted(17)
    np.save(tmp_path / "Z.npy", X)
    mapped = np.load(tmp_path / "Z.npy", mmap_mode="r")
    fitted = quickly(X).fit(mapped)
    V = fitted.transform(X)
    fitted.set_output(transform="pandas")
    for frame in (fitted.transform(mapped), fitted.transform(tmp_path / "Z.npy")):
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.columns) == list(fitted.get_feature_names_out())
        assert_allclose(frame.to_numpy(), V, atol=1e-9)
    assert isinstance(fitted.fit_transform(mapped), pd.DataFrame)
    with pytest.raises(ValueError, match=r"out= .*set_output asks for 'pandas'"):
        fitted.transform(mapped, out=tmp_path / "codes.npy")
    fitted.set_output(transform="default")
    with config_context(transform_output="pandas"), pytest.raises(ValueError, match="set_output"):
        quickly(X).fit(X).transform(mapped, out=tmp_path / "codes.npy")
    assert os.listdir(tmp_path) == ["Z.npy"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layout": "coo"}, "layout must be 'dense' or 'csr'; got 'coo'"),
        ({"layout": "csr"}, "name a file with out="),
        ({"layout": "csr", "out": "c.npy"}, "csr.*zarr.*c.npy"),
        ({"out": "c.txt"}, r"c\.txt"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip'; got 'ignore'"),
    ],
)
def test_bad_options_are_named(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    X = planted(18, n_samples=60)
    fitted = quickly(X).fit(X)
    for data in (X, open_rows(X)):
        with pytest.raises(ValueError, match=message):
            fitted.transform(data, **options)
    assert os.listdir(tmp_path) == []


# Bad data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, parameters", [(np.nan, {"center": True}), (np.inf, {}), (-np.inf, {"whiten": 3})]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_entry_in_a_late_block_is_found(value, dtype, parameters):
    X = planted(19, dtype=dtype)
    fitted = quickly(X, **parameters).fit(X)
    X[1444, 3] = value
    kind = "NaN" if np.isnan(value) else "infinity"
    message = f"^Not finite: row 1444 of X. Input X contains {kind}"
    for method in ("fit", "transform", "score", "partial_fit"):
        before = pickle.dumps(fitted.components_)
        with pytest.raises(ValueError, match=message):
            getattr(fitted if method != "fit" else clone(fitted), method)(open_rows(X))
        if method in ("transform", "score"):
            assert pickle.dumps(fitted.components_) == before


@pytest.mark.parametrize("method", ["fit", "transform", "score", "partial_fit"])
def test_a_bad_entry_is_found_in_its_file(tmp_path, method):
    X = planted(19)
    fitted = quickly(X).fit(X)
    X[[1444, 1448]] = np.nan
    shards = as_npy_shards(X, tmp_path, [7, 1000])
    with pytest.raises(ValueError, match=r"^Not finite: row 444 of .*part-2\.npy\. Input"):
        getattr(fitted, method)(shards)


def test_warnings_point_to_the_line_of_the_user(shards):
    folder, _ = shards
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = SemiNMFConcepts(K, alpha=0.1, max_iter=1, random_state=0)
        fitted.fit(folder, on_error="skip").transform(folder, on_error="skip")
        make_pipeline(clone(fitted).set_params(n_components=40)).fit(planted(n_samples=30))
    assert {warning.category for warning in caught} == {UserWarning, ConvergenceWarning}
    assert len(caught) >= 4
    assert {warning.filename for warning in caught} == {__file__}


def test_an_interrupted_fit_leaves_the_one_before_whole():
    X = planted(20)
    fitted = quickly(X).fit(X)
    state = pickle.dumps(fitted.transform(X))
    X[1400] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        fitted.fit(open_rows(X))
    assert pickle.dumps(fitted.transform(planted(20))) == state


@pytest.mark.parametrize(
    "dtype, scale", [("float32", 1e19), ("float64", 1e160), ("float64", 1e200)]
)
@pytest.mark.parametrize("center", [True, False])
def test_data_whose_products_overflow_are_refused(dtype, scale, center):
    X = (planted(21) * scale).astype(dtype)
    with pytest.raises(ValueError, match=f"X is too large for its precision, {dtype}"):
        model(center=center).fit(open_rows(X))


def test_data_whose_products_underflow_are_refused():
    X = (planted(21) * 1e-20).astype(np.float32)
    with pytest.raises(ValueError, match="X is too small for its precision, float32"):
        model().fit(open_rows(X))


@pytest.mark.parametrize("method", ["transform", "score", "partial_fit"])
def test_the_number_of_features_is_checked(method):
    X = planted(22)
    fitted, fewer = quickly(X).fit(open_rows(X)), open_rows(X[:, 1:])
    with pytest.raises(ValueError, match="X has 15 features, but SemiNMFConcepts is expecting 16"):
        getattr(fitted, method)(fewer)
    assert fitted.set_params(init=X[:K, 1:]).fit(fewer).n_features_in_ == 15


def test_codes_need_a_fit(tmp_path):
    for method in ("transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(model(), method)(tmp_path / "missing.npy")


@pytest.mark.parametrize(
    "pieces, message",
    [
        (
            [np.ones((300, 4)), np.ones((300, 5))],
            "block 1 of X has 5 features, those before have 4",
        ),
        ([np.ones((300, 4)), np.ones((0, 4))], "Found array with 0 sample"),
        ([], "Found array with 0 sample"),
        ([np.ones((600, 4)).astype(object)], "object"),
        ([np.ones((600, 4), complex)], "Complex data not supported"),
        ([np.ones(600)], "Expected 2D array, got 1D array"),
        ([np.full((600, 2), "a")], "real numbers"),
    ],
)
def test_blocks_that_are_no_rows(pieces, message):
    class Blocks:
        def __iter__(self):
            return iter(pieces)

    with pytest.raises(ValueError, match=message):
        model().fit(Blocks())


def test_files_that_are_no_rows(tmp_path):
    for name, array in [("o", np.array([[1, None]], object)), ("c", np.ones((3, 2), complex))]:
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        with pytest.raises(ValueError, match=f"{name}.npy"):
            model().fit(tmp_path / f"{name}.npy")
    with pytest.raises(FileNotFoundError, match="missing.npy"):
        model().fit(tmp_path / "missing.npy")
    one = np.memmap(tmp_path / "one", np.float32, mode="w+", shape=600)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        model().fit(one)


@pytest.mark.parametrize(
    "X, message",
    [
        (np.zeros((900, 6)), "exceeds the rank of the data, 0"),
        (np.full((900, 6), 3.0), "exceeds the rank of the data, [01]"),
        (np.ones((900, 1)), "exceeds the rank of the data, [01]"),
    ],
)
@pytest.mark.parametrize("parameters", [{}, {"whiten": 2}, {"n_active": 1.0}], ids=str)
def test_degenerate_data_give_finite_results(X, message, parameters):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = model(**parameters).fit(open_rows(X))
    assert any(message.partition(",")[0] in str(warning.message) for warning in caught)
    assert not any(issubclass(warning.category, RuntimeWarning) for warning in caught)
    assert np.isfinite(fitted.components_).all() and np.isfinite(fitted.objective_)
    assert np.isfinite(fitted.transform(X)).all()


# Passes, memory, files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters, n_looks", [({}, 1), ({"center": True}, 2), ({"whiten": 4}, 3)], ids=str
)
def test_passes_read_every_row_once_and_in_order(parameters, n_looks):
    X = planted(23)
    source = Counted(X)
    with pytest.warns(ConvergenceWarning):
        fitted = quickly(X, max_iter=1, **parameters).fit(source)
    # An iteration may take a second try; the last codes a second pass, for the order of the atoms.
    assert n_looks + 2 <= len(source.passes) <= n_looks + 2 + 2
    fitted.transform(source)
    fitted.score(source)
    fitted.partial_fit(source)
    assert all(read == [400, 400, 400, 300] for read in source.passes)
    n = len(source.passes)
    for method in (fitted.transform, fitted.score, fitted.partial_fit):
        method(source)
        n += 1
        assert len(source.passes) == n


def test_nothing_is_left_of_a_pass_that_fails():
    X = planted(24)
    X[10] = np.nan
    before = set(threading.enumerate())
    for source in (open_rows(X.astype(np.float16)), Loader(np.array_split(X, 9))):
        with pytest.raises(ValueError, match="NaN"):
            model(batch_size=100).fit(source)
    assert set(threading.enumerate()) == before


@pytest.mark.skipif(not is_told(), reason="the system does not tell")
def test_memory_is_that_of_some_blocks(tmp_path):
    """Of 300 MB of float16, which are 600 MB up-cast."""
    Z = np.lib.format.open_memmap(tmp_path / "Z.npy", "w+", np.float16, (600_000, 256))
    part = np.random.default_rng(0).standard_normal((20_000, 256)).astype(np.float16)
    for start in range(0, len(Z), len(part)):
        Z[start : start + len(part)] = part
    del Z
    code = """
import numpy as np
from benchmarks._memory import PeakAnonymous, held
from semi_nmf_concepts import SemiNMFConcepts
Z = np.load("Z.npy", mmap_mode="r")
model = SemiNMFConcepts(
    4, init=np.asarray(Z[:4], float), max_iter=1, batch_size=4096, random_state=0
)
model.fit(Z[:9000])
before = held()
for n in (len(Z) // 8, len(Z)):
    with PeakAnonymous() as memory:
        model.fit(Z[:n])
        model.transform(Z[:n], out="codes.npy")
    print((memory.peak - before) / 2**20)
"""
    folder = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    os.unlink(tmp_path / "Z.npy")
    assert run.returncode == 0, run.stderr
    part, whole = map(float, run.stdout.split())
    assert whole < 80
    assert whole < part + 30


@pytest.fixture
def shards(tmp_path):
    """A folder of four shards, of which one is cut off and one missing, and the other rows."""
    X = planted(25, n_samples=1200, dtype="float32")
    entries = []
    for i, piece in enumerate(np.split(X, 4)):
        np.save(tmp_path / f"{i}.npy", piece)
        entries.append({"file": f"{i}.npy", "n_rows": len(piece)})
    index = {"format": 1, "array": "Z", "dtype": "float32", "n_features": 16, "files": entries}
    (tmp_path / "rows.json").write_text(json.dumps(index))
    content = (tmp_path / "1.npy").read_bytes()
    (tmp_path / "1.npy").write_bytes(content[:-10])
    os.unlink(tmp_path / "3.npy")
    return tmp_path, np.concatenate([X[:300], X[600:900]])


def test_a_damaged_file_is_named_before_anything_is_computed(shards, monkeypatch):
    folder, rest = shards
    fitted = quickly(rest).fit(rest)

    def computed(*args, **kwargs):
        raise AssertionError("a block was asked for")

    monkeypatch.setattr(RowBlocks, "blocks", computed)
    monkeypatch.setattr(RowBlocks, "take", computed)
    for method in (model().fit, model().fit_transform, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=r"1\.npy"):
            method(folder)
    np.save(folder / "1.npy", rest[:300])
    with pytest.raises(FileNotFoundError, match=r"3\.npy"):
        model().fit(folder, checkpoint=folder / "run.npz")
    assert not (folder / "run.npz").exists()


def test_damaged_files_can_be_left_out(shards):
    folder, rest = shards
    start = quickly(rest, batch_size=250, max_iter=100)
    with pytest.warns(UserWarning, match=r"2 file\(s\) left out.*1\.npy.*3\.npy") as caught:
        fitted = clone(start).fit(folder, on_error="skip")
    assert len(caught) == 1
    expected = clone(start).fit(open_rows(rest))
    assert_array_equal(fitted.components_, expected.components_)
    assert fitted.n_samples_seen_ == 600
    assert {Path(name).name for name in fitted.skipped_} == {"1.npy", "3.npy"}
    assert all(Path(name).name in reason for name, reason in fitted.skipped_.items())
    with pytest.warns(UserWarning, match="left out"):
        V = fitted.transform(folder, on_error="skip")
    assert_allclose(V, expected.transform(rest), atol=1e-6)
    with pytest.warns(UserWarning, match="left out"):
        assert_allclose(clone(start).fit_transform(folder, on_error="skip"), V, atol=1e-6)
    assert fitted.fit(open_rows(rest)).skipped_ == {}
    for i in (0, 2):
        os.unlink(folder / f"{i}.npy")
    with pytest.raises(ValueError, match="Nothing is left"):
        model().fit(folder, on_error="skip")


def test_stored_codes_go_back_to_samples(tmp_path):
    X = planted(19)
    fitted = quickly(X).fit(open_rows(X))
    expected = fitted.inverse_transform(fitted.transform(X))
    for name, layout in (("c.npy", "dense"), ("d.zarr", "dense"), ("s.zarr", "csr")):
        codes = fitted.transform(open_rows(X), out=tmp_path / name, layout=layout)
        assert_allclose(fitted.inverse_transform(codes), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="open_codes"):
        fitted.inverse_transform(str(tmp_path / "c.npy"))


def test_no_thread_outlives_a_pass_that_failed(tmp_path):
    X = planted(20)
    fitted = quickly(X).fit(X)
    X[-1, 0] = np.nan
    np.save(tmp_path / "X.npy", X)
    before, errors = threading.active_count(), []
    for method in (fitted.transform, fitted.score, fitted.partial_fit):
        with pytest.raises(ValueError, match="NaN") as error:
            method(str(tmp_path / "X.npy"))
        errors.append(error)  # as a notebook keeps it
    assert threading.active_count() == before
