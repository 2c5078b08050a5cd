"""Stability of dictionaries over fits."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.decomposition import PCAConcepts
from semi_nmf_concepts.metrics import stability_score

SEEDS = st.integers(0, 2**32 - 1)


def best_match(first, second):
    """All one-to-one matches tried out; `first` is not larger."""
    first, second = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (first, second))
    cosines = first @ second.T
    return max(
        np.mean([cosines[i, j] for i, j in enumerate(order)])
        for order in permutations(range(len(second)), len(first))
    )


@given(SEEDS, st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_against_all_matches(seed, K, L, n_features):
    rng = np.random.default_rng(seed)
    small, large = sorted([K, L])
    first, second = (
        rng.standard_normal((small, n_features)),
        rng.standard_normal((large, n_features)),
    )
    expected = best_match(first, second)
    assert stability_score([first, second]) == pytest.approx(expected)
    assert stability_score([second, first]) == pytest.approx(expected)


@given(SEEDS)
def test_order_and_length_of_atoms_do_not_matter_their_sign_does(seed):
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((4, 6))
    same = [10.0 ** rng.uniform(-200, 200, (4, 1)) * U[rng.permutation(4)] for _ in range(3)]
    assert stability_score(same) == pytest.approx(1)
    assert stability_score([U[:1], -U[:1]]) == pytest.approx(-1)


def test_mean_over_pairs_in_their_order():
    rng = np.random.default_rng(0)
    dictionaries = rng.standard_normal((4, 3, 5))
    score, pairs = stability_score(dictionaries, return_pairs=True)
    expected = [
        stability_score([dictionaries[i], dictionaries[j]])
        for i, j in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    ]
    np.testing.assert_allclose(pairs, expected)
    assert score == pytest.approx(np.mean(expected)) == stability_score(list(dictionaries))


def test_zero_atoms_and_left_over_atoms():
    eye = np.eye(3)
    assert stability_score([eye, [[1, 0, 0], [0, 0, 0], [0, 0, 2]]]) == pytest.approx(2 / 3)
    assert stability_score([eye, eye[:1]]) == 1
    assert stability_score([np.zeros((2, 3)), eye]) == 0


def test_estimators_are_taken():
    Z = np.random.default_rng(0).standard_normal((30, 4))
    fits = [PCAConcepts(2).fit(Z), PCAConcepts(2).fit(Z[::-1])]
    assert stability_score(fits) == pytest.approx(
        stability_score([fit.components_ for fit in fits])
    )


def test_wrong_arguments():
    eye = np.eye(3)
    cases = [
        ([eye], ValueError, "at least two to compare, got 1"),
        ([], ValueError, "at least two to compare, got 0"),
        (eye, ValueError, r"array of shape \(3, 3\)"),
        ([eye, eye[:, :2]], ValueError, r"same number of features, got \[2, 3\]"),
        ([eye, eye[0]], ValueError, r"dictionaries\[1\] must have the shape"),
        ([eye, eye[:0]], ValueError, r"dictionaries\[1\] must have the shape"),
        ([eye * np.nan, eye], ValueError, r"dictionaries\[0\] contains NaN"),
        ([eye, PCAConcepts(2)], TypeError, r"dictionaries\[1\] must be an array .* PCAConcepts"),
    ]
    for dictionaries, error, message in cases:
        with pytest.raises(error, match=message):
            stability_score(dictionaries)
