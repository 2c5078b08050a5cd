"""Scores of dictionaries: right, certified, and blind to nothing that would be cheating."""

import numpy as np
import pytest

from benchmarks._scoring import Scorer, dual_values, independent_difference


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    U = rng.standard_normal((6, 12))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    X = (rng.exponential(size=(30, 6)) @ U + 0.1 * rng.standard_normal((30, 12))).astype(np.float32)
    return X, U


def test_the_score_of_orthogonal_atoms_is_known():
    X = np.array([[3.0, -2.0], [0.5, 4.0]], dtype=np.float32)
    # Codes are max(x - 1, 0): what is left is 1 or x, and the penalty is their sum.
    expected = 0.5 * (1 + 4) + 2 + 0.5 * (0.25 + 1) + 3
    assert Scorer(X, 1.0)(np.eye(2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 0.0])
def test_scores_agree_with_independent_solvers(problem, alpha):
    X, U = problem
    assert independent_difference(X, U, alpha) < 1e-10


def test_the_duality_gap_certifies_good_codes_and_shows_bad_ones(problem):
    X, U = problem
    scorer = Scorer(X, 0.3)
    F = scorer(U)
    assert scorer.worst_gap < 1e-10
    no_codes = dual_values(X.astype(np.float64), X.astype(np.float64), U, 0.3).sum()
    assert no_codes < 0.99 * F


def test_atoms_outside_the_unit_ball_are_refused_unless_alpha_is_zero(problem):
    X, U = problem
    with pytest.raises(ValueError, match="an atom has norm 2"):
        Scorer(X, 0.3)(2.0 * U)
    assert Scorer(X, 0.0)(2.0 * U) == pytest.approx(Scorer(X, 0.0)(U))
