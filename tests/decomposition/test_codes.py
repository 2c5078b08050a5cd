"""The encoder: the optimum of the non-negative lasso, whatever the dictionary and the data."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from semi_nmf_concepts.decomposition import _machine, sparse_encode_nonneg
from semi_nmf_concepts.decomposition._objective import alpha_max, kkt_violation, objective
from semi_nmf_concepts.decomposition._solvers import Coding

# The first example of a run may have to compile the kernels.
relaxed = settings(deadline=None, max_examples=40, derandomize=True)
problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "n_samples": st.integers(1, 12),
        "n_features": st.integers(1, 10),
        "n_components": st.integers(1, 14),
        "shared": st.sampled_from([0.0, 1.0, 30.0]),  # a direction that all atoms have in common
        "scale": st.sampled_from([1e-6, 1.0, 1e6]),
        "share": st.sampled_from([0.0, 0.01, 0.3]),  # alpha as a share of alpha_max
    }
)


def make_problem(seed, n_samples, n_features, n_components, shared, scale, share, dtype=np.float64):
    rng = np.random.default_rng(seed)
    common = shared * rng.standard_normal(n_features)
    U = rng.standard_normal((n_components, n_features)) + common
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    X = scale * (rng.standard_normal((n_samples, n_features)) + common)
    X = X.astype(dtype)
    return X, U, share * alpha_max(X, U)


@relaxed
@given(problems)
def test_codes_are_nonnegative_and_optimal(problem):
    X, U, alpha = make_problem(**problem)
    V = sparse_encode_nonneg(X, U, alpha=alpha)
    assert V.min() >= 0.0
    assert kkt_violation(X, V, U, alpha) <= 2e-8


@relaxed
@given(problems)
def test_float32_codes_are_optimal_to_their_precision(problem):
    X, U, alpha = make_problem(**problem, dtype=np.float32)
    alpha = max(alpha, 1e-3 * alpha_max(X, U))
    V = sparse_encode_nonneg(X, U, alpha=alpha)
    assert V.dtype == np.float32
    exact = sparse_encode_nonneg(X.astype(np.float64), U, alpha=alpha)
    F, F_exact = objective(X, V, U, alpha), objective(X, exact, U, alpha)
    assert F - F_exact <= 1e-6 * float(np.sum(X.astype(np.float64) ** 2))


@pytest.mark.parametrize("shape", [(30, 12, 6), (20, 6, 10), (25, 40, 20)])
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_codes_equal_those_of_the_positive_lasso(shape, share):
    n_samples, n_features, n_components = shape
    X, U, alpha = make_problem(0, n_samples, n_features, n_components, 0.3, 1.0, share)
    V = sparse_encode_nonneg(X, U, alpha=alpha)
    # Lasso divides the squared error by the number of rows of its design, here n_features.
    lasso = Lasso(
        alpha=alpha / n_features, positive=True, fit_intercept=False, tol=1e-14, max_iter=200_000
    )
    expected = np.array([lasso.fit(U.T, x).coef_ for x in X])
    assert_allclose(V, expected, atol=1e-6 * expected.max())


@relaxed
@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0.0, 3.0))
def test_orthonormal_atoms_have_a_closed_form(seed, n_components, alpha):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((9, n_components)))[0].T
    X = 3.0 * rng.standard_normal((5, 9))
    expected = np.maximum(X @ U.T - alpha, 0.0)
    assert_allclose(sparse_encode_nonneg(X, U, alpha=alpha), expected, atol=1e-7)


@relaxed
@given(problems)
def test_alpha_max_is_where_the_first_code_appears(problem):
    X, U, _ = make_problem(**problem)
    limit = alpha_max(X, U)
    assert not sparse_encode_nonneg(X, U, alpha=limit * (1 + 1e-9)).any()
    if limit > 0.0:
        assert sparse_encode_nonneg(X, U, alpha=limit * 0.99).any()


@relaxed
@given(problems, st.integers(0, 100))
def test_rows_are_independent_of_each_other_and_of_their_order(problem, seed):
    X, U, alpha = make_problem(**{**problem, "share": max(problem["share"], 0.01)})
    order = np.random.default_rng(seed).permutation(len(X))
    V = sparse_encode_nonneg(X, U, alpha=alpha)
    shuffled = sparse_encode_nonneg(X[order], U, alpha=alpha)
    # codes need not be unique where atoms are dependent, their objective is
    rows = range(len(X))
    F = [objective(X[[i]], V[[i]], U, alpha) for i in order]
    F_shuffled = [objective(X[order[[j]]], shuffled[[j]], U, alpha) for j in rows]
    assert_allclose(F_shuffled, F, rtol=1e-7, atol=1e-12 * float(np.sum(X**2)))


def test_many_rows_cross_the_block_boundaries():
    X, U, alpha = make_problem(3, 1100, 8, 5, 0.0, 1.0, 0.1)
    V = sparse_encode_nonneg(X, U, alpha=alpha)
    pieces = [sparse_encode_nonneg(part, U, alpha=alpha) for part in np.array_split(X, 7)]
    assert_allclose(V, np.vstack(pieces), atol=1e-8)


def test_zero_rows_and_zero_atoms_get_zero_codes():
    X, U, _ = make_problem(1, 6, 5, 4, 0.0, 1.0, 0.0)
    X[2] = 0.0
    U[1] = 0.0
    V = sparse_encode_nonneg(X, U, alpha=0.0)
    assert not V[2].any()
    assert not V[:, 1].any()
    assert kkt_violation(X, V, U, 0.0) <= 1e-8


def test_identical_atoms_are_no_obstacle():
    X, U, alpha = make_problem(2, 20, 6, 4, 0.0, 1.0, 0.05)
    doubled = np.vstack([U, U])
    V = sparse_encode_nonneg(X, doubled, alpha=alpha)
    assert kkt_violation(X, V, doubled, alpha) <= 2e-8
    assert_allclose(V[:, :4] + V[:, 4:], sparse_encode_nonneg(X, U, alpha=alpha), atol=1e-6)


def test_nearly_parallel_atoms_are_solved_exactly():
    """Coordinate descent alone would need hundreds of thousands of sweeps here."""
    rng = np.random.default_rng(0)
    U = np.ones(30) + 1e-4 * rng.standard_normal((10, 30))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    X = rng.exponential(size=(40, 10)) @ U
    V = sparse_encode_nonneg(X, U, alpha=0.0)
    assert kkt_violation(X, V, U, 0.0) <= 2e-8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0]], [[1.0]]), "components must have as many columns as X, 2; got 1"),
        (([[1.0, np.nan]], [[1.0, 0.0]]), "X contains NaN"),
        (([[1.0, 1.0]], [[np.inf, 0.0]]), "components contains infinity"),
        (([1.0, 1.0], [[1.0, 0.0]]), "Expected 2D array"),
    ],
)
def test_bad_arrays_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_encode_nonneg(*arguments)


@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf, "1", None])
def test_bad_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match="'alpha' parameter of sparse_encode_nonneg"):
        sparse_encode_nonneg([[1.0]], [[1.0]], alpha=alpha)


def test_missed_tolerance_is_reported_once(monkeypatch):
    backend = SimpleNamespace(encode=lambda *_, **__: Coding(1, 0, 0.5), session=nullcontext)
    monkeypatch.setattr(_machine, "get_backend", lambda *_, **__: backend)
    with pytest.warns(ConvergenceWarning, match="1 of 2 samples missed the tolerance") as caught:
        sparse_encode_nonneg([[1.0], [0.0]], [[1.0]], alpha=0.1)
    assert len(caught) == 1
