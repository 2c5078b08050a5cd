"""What the activations alone say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.decomposition import KMeansConcepts, PCAConcepts, SemiNMFConcepts
from semi_nmf_concepts.metrics import dead_fraction, reconstruction_score, sparsity

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    "decomposer",
    [SemiNMFConcepts(3, random_state=0), KMeansConcepts(3, random_state=0), PCAConcepts(3)],
    ids=lambda decomposer: type(decomposer).__name__,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_reconstruction_score_is_the_score_of_the_decomposers(decomposer, dtype):
    rng = np.random.default_rng(0)
    Z, held_out = rng.standard_normal((2, 60, 8)).astype(dtype) + dtype(3)
    decomposer.fit(Z)
    reconstruction = decomposer.inverse_transform(decomposer.transform(held_out))
    value = reconstruction_score(held_out, reconstruction, decomposer.mean_)
    assert value == pytest.approx(decomposer.score(held_out), abs=1e-6)


def test_reconstruction_against_the_formula_and_in_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    X, R = rng.standard_normal((2, 50, 4))
    expected = 1 - ((X - R) ** 2).sum() / ((X - X.mean(axis=0)) ** 2).sum()
    assert reconstruction_score(X, R) == pytest.approx(expected)
    monkeypatch.setattr("semi_nmf_concepts.metrics._codes._BLOCK_ROWS", 7)
    assert reconstruction_score(X, R) == pytest.approx(expected)
    assert reconstruction_score(X, X) == 1
    assert reconstruction_score(X, np.tile(X.mean(axis=0), (50, 1))) == pytest.approx(0)


def test_float32_is_summed_in_float64():
    """Differences of 1e-4 on values near 1000 drown in sums of float32 squares."""
    X = (1000 + np.arange(20_000) % 2).astype(np.float32)[:, None]
    R = X + np.float32(0.25)
    assert reconstruction_score(X, R) == pytest.approx(1 - 0.0625 / 0.25, rel=1e-9)


def test_nothing_to_explain():
    X = np.ones((3, 2))
    assert reconstruction_score(X, X) == 1
    assert reconstruction_score(X, X + 1) == 0


@given(SEEDS)
def test_sparsity_does_not_depend_on_order_or_sign_and_hoyer_not_on_scale(seed):
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((12, 5)) * (rng.random((12, 5)) < 0.6)
    scale = 10.0 ** rng.integers(-200, 200, (12, 1))
    for measure in ("l0", "hoyer"):
        value = sparsity(V, measure)
        changed = scale * np.abs(V)[rng.permutation(12)][:, rng.permutation(5)]
        assert sparsity(changed, measure) == pytest.approx(value)
    assert 0 <= sparsity(V, "hoyer") <= 1
    assert sparsity(V) == (V != 0).sum(axis=1).mean()


def test_hoyer_by_hand():
    # sqrt(4) = 2; |(3, 4, 0, 0)|_1 / |.|_2 = 7/5; a sample without activation counts as 0.
    assert sparsity([[3, -4, 0, 0]], "hoyer") == pytest.approx(0.6)
    assert sparsity([[3, 4, 0, 0], [0, 0, 0, 0]], "hoyer") == pytest.approx(0.3)
    assert sparsity([[0.0, 0.0]], "hoyer") == 0
    assert sparsity([[2.0], [0.0]], "hoyer") == 0.5


def test_dead_concepts():
    assert dead_fraction([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]) == pytest.approx(1 / 3)
    assert dead_fraction(np.zeros((2, 3))) == 1
    assert dead_fraction([[True, False]]) == 0.5


def test_wrong_arguments():
    X = np.zeros((3, 2))
    cases = [
        (lambda: reconstruction_score(X, X[:2]), ValueError, "same shape, got .3, 2. and .2, 2."),
        (lambda: reconstruction_score(X, X, [0.0]), ValueError, "mean must have 2 entries"),
        (lambda: reconstruction_score(X, X, X), ValueError, "mean must have 1 dimension"),
        (lambda: reconstruction_score(X[:0], X[:0]), ValueError, "X must have 2 dimension"),
        (lambda: reconstruction_score(X, X * np.nan), ValueError, "reconstruction contains NaN"),
        (lambda: sparsity(X, "gini"), ValueError, "measure must be one of .* got 'gini'"),
        (lambda: sparsity(X[0]), ValueError, r"activations must have 2 dimension.*\(2,\)"),
        (lambda: sparsity([["a"]]), TypeError, "activations must hold numbers"),
        (lambda: dead_fraction(X[:, :0]), ValueError, "none of length 0"),
        (lambda: dead_fraction([[np.inf]]), ValueError, "NaN or infinity"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
