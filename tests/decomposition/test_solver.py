"""The algorithm below the estimator: its descent, its steps, and the compiled kernels' cache."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import DictionaryLearning

from semi_nmf_concepts.decomposition import SemiNMFConcepts, sparse_encode_nonneg
from semi_nmf_concepts.decomposition._init import INITS, initial_dictionary
from semi_nmf_concepts.decomposition._objective import (
    objective,
    objective_from_statistics,
    project_atoms,
    squared_error,
)
from semi_nmf_concepts.decomposition._solvers import fit_dictionary, get_backend
from semi_nmf_concepts.decomposition._solvers._hybrid import best_new_atom

ALPHA = 0.3


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(600, 7)) * (rng.random((600, 7)) < 0.4)
    return codes @ rng.standard_normal((7, 11)) + 0.2 * rng.standard_normal((600, 11))


def start(X, n_components=6, init="random"):
    return initial_dictionary(X, n_components, init, np.random.RandomState(0))


def test_statistics_of_a_pass_give_the_objective(X):
    U = start(X)
    V = np.zeros((len(X), len(U)))
    A, B, sum_V, n_unconverged = get_backend().code_pass(X, U, ALPHA, V, tol=1e-8, max_sweeps=1000)
    assert n_unconverged == 0
    assert_allclose(A, V.T @ V)
    assert_allclose(B, V.T @ X)
    F = objective_from_statistics(np.sum(X**2), sum_V, A, B, U, ALPHA)
    assert_allclose(F, objective(X, V, U, ALPHA))
    assert_allclose(F, 0.5 * np.sum((X - V @ U) ** 2) + ALPHA * V.sum())
    assert_allclose(squared_error(X, V, U), np.sum((X - V @ U) ** 2))


def test_dictionary_steps_lead_to_the_best_dictionary_for_the_codes(X):
    backend, U = get_backend(), start(X)
    V = sparse_encode_nonneg(X, U, alpha=ALPHA)
    A, B = V.T @ V, V.T @ X
    values = []
    for _ in range(300):
        backend.update_dictionary(U, A, B)
        values.append(objective(X, V, U, ALPHA))
    assert np.all(np.diff(values) <= 1e-9 * values[0])
    # at the minimum a projected gradient step changes nothing
    assert_allclose(project_atoms(U - (A @ U - B) / np.trace(A)), U, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_iterations_never_raise_the_objective(X, dtype):
    """Without moves, so that what is seen is the descent itself and not its record."""
    values = []
    fit = fit_dictionary(
        get_backend(),
        X.astype(dtype),
        start(X),
        ALPHA,
        max_iter=200,
        tol=1e-9,
        random_state=np.random.RandomState(0),
        warm_up=False,
        moves=False,
        callback=lambda U, V, F, alpha: values.append(objective(X, V, U, alpha)),
    )
    resolution = 1e-7 if dtype is np.float32 else 1e-12
    assert len(values) == len(fit.history) > 10
    assert np.all(np.diff(values) <= resolution * values[0])
    assert_allclose(fit.history, values, rtol=1e-5)


def test_a_new_atom_lowers_the_objective_by_what_was_promised(X):
    U = start(X, 3)
    V = sparse_encode_nonneg(X, U, alpha=ALPHA)
    atom, gain = best_new_atom(X - V @ U, ALPHA)
    assert_allclose(np.linalg.norm(atom), 1.0)
    codes = np.maximum((X - V @ U) @ atom - ALPHA, 0.0)
    extended = objective(X, np.column_stack([V, codes]), np.vstack([U, atom]), ALPHA)
    assert_allclose(objective(X, V, U, ALPHA) - extended, gain)


def test_no_new_atom_where_no_residual_is_longer_than_alpha(X):
    assert best_new_atom(X, np.linalg.norm(X, axis=1).max())[1] == 0.0


@pytest.mark.parametrize("init", sorted(INITS))
@pytest.mark.parametrize("n_components", [1, 6, 25])
def test_starting_atoms_are_unit_vectors(X, init, n_components):
    U = start(X[:20], n_components, init)
    assert U.shape == (n_components, 11)
    assert_allclose(np.linalg.norm(U, axis=1), 1.0)


def test_the_objective_is_at_least_as_good_as_scikit_learns():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(3):
        X = rng.standard_normal((80, 15))
        reference = DictionaryLearning(
            6,
            alpha=0.5,
            positive_code=True,
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
            max_iter=100,
            random_state=0,
        ).fit(X)
        V = sparse_encode_nonneg(X, reference.components_, alpha=0.5)
        F = objective(X, V, reference.components_, 0.5)
        ratios.append(SemiNMFConcepts(6, alpha=0.5, random_state=0).fit(X).objective_ / F)
    assert np.median(ratios) <= 1.001


def test_a_fit_works_where_no_cache_can_be_written():
    """The kernels are then compiled for this process only."""
    code = (
        "import numba.core.caching as caching;"
        "caching.CacheImpl._locator_classes = [];"  # no folder offers itself
        "from semi_nmf_concepts.decomposition import sparse_encode_nonneg;"
        "print(sparse_encode_nonneg([[3.0, 1.0]], [[1.0, 0.0]], alpha=1.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[[2.]]", done.stderr
