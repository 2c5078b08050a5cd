"""The algorithm below the estimator: its descent, its steps, and the compiled kernels' cache."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import DictionaryLearning

from benchmarks.solver_data import states
from semi_nmf_concepts.decomposition import SemiNMFConcepts, sparse_encode_nonneg
from semi_nmf_concepts.decomposition._init import INITS, initial_dictionary
from semi_nmf_concepts.decomposition._objective import (
    objective,
    objective_from_statistics,
    project_atoms,
    squared_error,
)
from semi_nmf_concepts.decomposition._solvers import fit_dictionary, get_backend
from semi_nmf_concepts.decomposition._solvers._growth import cheapest_atoms, new_atoms
from semi_nmf_concepts.decomposition._solvers._online import online_dictionary
from semi_nmf_concepts.decomposition._solvers._problem import Problem
from semi_nmf_concepts.decomposition._solvers._subspace import reduced

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
    A, B, sum_V, coding = get_backend().code_pass(X, U, ALPHA, V, tol=1e-8, max_sweeps=1000)
    assert coding.n_unconverged == 0
    assert coding.n_active == np.count_nonzero(V)
    assert coding.violation <= 1e-8
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


def problem_of(X, alpha=ALPHA):
    return Problem(get_backend(), X, alpha, float(np.sum(np.asarray(X, dtype=float) ** 2)))


def test_new_atoms_lower_the_objective(X):
    U = start(X, 3)
    V = sparse_encode_nonneg(X, U, alpha=ALPHA)
    atoms = new_atoms(X - V @ U, ALPHA, 2, np.random.RandomState(0))
    assert_allclose(np.linalg.norm(atoms, axis=1), 1.0)
    before = objective(X, V, U, ALPHA)
    for atom in atoms:
        codes = np.maximum((X - V @ U) @ atom - ALPHA, 0.0)
        promised = 0.5 * np.sum(codes**2)
        assert promised > 0.0
        extended = objective(X, np.column_stack([V, codes]), np.vstack([U, atom]), ALPHA)
        assert_allclose(before - extended, promised)


def test_new_atoms_are_not_copies_of_each_other():
    """The second one is for what the first leaves over, though the first direction is longer."""
    residual = np.vstack([np.tile([3.0, 0.0, 0.0], (30, 1)), np.tile([0.0, 2.0, 0.0], (5, 1))])
    atoms = new_atoms(residual, 0.1, 2, np.random.RandomState(0))
    assert_allclose(atoms, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_no_new_atom_where_no_residual_is_longer_than_alpha(X):
    longest = np.linalg.norm(X, axis=1).max()
    assert len(new_atoms(X, longest, 3, np.random.RandomState(0))) == 0


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_removal_costs_are_what_the_objective_rises_by(X, alpha):
    U = start(X)
    V = sparse_encode_nonneg(X, U, alpha=alpha)
    costs = get_backend().removal_costs(X, U, alpha, V * 0.9, tol=1e-8, max_sweeps=1000)
    for k in range(len(U)):
        without = np.delete(U, k, axis=0)
        codes = sparse_encode_nonneg(X, without, alpha=alpha)
        rise = objective(X, codes, without, alpha) - objective(X, V, U, alpha)
        assert_allclose(costs[k], rise, rtol=1e-6, atol=1e-8)


def test_of_atoms_that_stand_in_for_each_other_one_is_dropped_at_a_time():
    U = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    costs = np.array([0.0, 0.0, 2.0, 1.0])
    assert cheapest_atoms(U, costs, 2) == [0, 3]
    assert cheapest_atoms(U, costs, 1) == [0]


def test_moves_leave_poor_stationary_points():
    """Where batch iterations alone stand still depends on the start; with moves it hardly does."""
    X = states(800, 60, 24, hard=True).astype(np.float64)

    def objectives(moves):
        return [
            fit_dictionary(
                get_backend(),
                X,
                initial_dictionary(X, 24, "random", np.random.RandomState(seed)),
                ALPHA,
                max_iter=500,
                tol=1e-7,
                random_state=np.random.RandomState(seed),
                warm_up=False,
                moves=moves,
            ).history[-1]
            for seed in range(6)
        ]

    without, with_moves = np.array(objectives(False)), np.array(objectives(True))
    assert np.all(with_moves <= without)
    assert without.max() > 1.005 * without.min()
    assert with_moves.max() < 1.003 * with_moves.min()


def test_a_grown_dictionary_has_the_size_asked_for_or_what_is_of_use(X):
    random_state = np.random.RandomState(0)
    seen = []
    U = online_dictionary(problem_of(X), 6, random_state=random_state, observe=seen.append)
    assert U.shape == (6, 11)
    assert len(seen) > 6
    one_direction = np.outer(np.arange(1.0, 41.0), np.ones(11))
    U = online_dictionary(
        problem_of(one_direction), 6, random_state=random_state, observe=seen.append
    )
    assert_allclose(np.abs(U[0]), np.full(11, 11**-0.5), rtol=1e-6)
    assert len(U) <= 6


def test_a_fit_in_the_subspace_ends_where_one_without_it_does():
    """Little is outside of the subspace, and the iterations on the data themselves find it."""
    rng = np.random.default_rng(0)
    codes = rng.gamma(2.0, 1.0, (400, 4)) * (rng.random((400, 4)) < 0.5)
    X = codes @ rng.standard_normal((4, 300)) + 0.05 * rng.standard_normal((400, 300))
    small, basis = reduced(problem_of(X), 4, np.random.RandomState(0))
    assert small.X.shape == (400, 64)
    assert_allclose(basis.T @ basis, np.eye(64), atol=1e-10)
    fits = [
        fit_dictionary(
            get_backend(),
            X,
            start(X, 4) if warm_up else SemiNMFConcepts(4, alpha=ALPHA).fit(X).components_,
            ALPHA,
            max_iter=500,
            tol=1e-8,
            random_state=np.random.RandomState(0),
            warm_up=warm_up,
        )
        for warm_up in (True, False)
    ]
    assert_allclose(fits[0].history[-1], fits[1].history[-1], rtol=1e-5)
    assert np.all(np.diff(fits[0].history) <= 0.0)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(300, 40), (60, 90)])
def test_without_a_penalty_samples_around_a_ray_are_explained_as_far_as_possible(dtype, shape):
    """No product of rank K is closer to X than the K leading singular directions."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal(shape) + 3.0 * rng.standard_normal(shape[1])).astype(dtype)
    s = np.linalg.svd(X.astype(np.float64), compute_uv=False)
    for n_components in (1, 2, 7):
        least = 0.5 * np.sum(s[n_components:] ** 2)
        model = SemiNMFConcepts(n_components, alpha=0.0, random_state=0).fit(X)
        assert_allclose(model.objective_, least, rtol=2e-5)
        assert model.kkt_violation_ <= 1e-4


def test_without_a_penalty_samples_on_both_sides_of_a_ray_are_fitted_as_well():
    """The closed form does not apply; the fit is then the ordinary one."""
    X = np.random.default_rng(0).standard_normal((200, 10))
    model = SemiNMFConcepts(3, alpha=0.0, random_state=0).fit(X)
    s = np.linalg.svd(X, compute_uv=False)
    assert 0.5 * np.sum(s[3:] ** 2) < model.objective_ < 0.9 * 0.5 * np.sum(X**2)
    assert np.linalg.norm(model.dictionary_, axis=1).max() <= 1.0 + 1e-12
