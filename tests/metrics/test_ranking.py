"""From scores of concepts on samples to one number per sample or per concept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.grounding import WordGrounding, ground_images
from semi_nmf_concepts.metrics import mas_scores, top_concepts, top_scores
from semi_nmf_concepts.metrics._ranking import (
    check_indices,
    check_matching,
    check_top,
    word_lists,
)

SEEDS = st.integers(0, 2**32 - 1)


def make(seed):
    """Scores, and activations with ties, zeros and negative entries."""
    rng = np.random.default_rng(seed)
    n, K = rng.integers(0, 8), rng.integers(1, 6)
    return rng.random((n, K)), rng.integers(-1, 3, (n, K)).astype(float)


def test_by_hand():
    scores = np.array([[0.1, 0.2, 0.3, 0.4]] * 4)
    activations = np.array(
        [
            [0.0, 5.0, 1.0, 3.0],  # 1, 3, 2
            [2.0, 2.0, 2.0, 2.0],  # all equal: 0, 1, 2
            [0.0, 0.0, 7.0, -9.0],  # 2 alone
            [0.0, 0.0, 0.0, 0.0],  # none
        ]
    )
    found = top_scores(scores, activations, top=(1, 3))
    assert list(found) == [1, 3]
    np.testing.assert_allclose(found[1], [0.2, 0.1, 0.3, 0])
    np.testing.assert_allclose(found[3], [0.3, 0.2, 0.3, 0])


@given(SEEDS, st.integers(1, 7))
def test_against_a_sort_written_out(seed, n):
    scores, activations = make(seed)
    chosen = top_concepts(activations, n)
    values = top_scores(scores, activations, top=(n,))[n]
    assert values.shape == (len(scores),)
    for i, row in enumerate(activations):
        best = [k for k in sorted(range(len(row)), key=lambda k: (-row[k], k))[:n] if row[k] > 0]
        assert sorted(best) == np.flatnonzero(chosen[i]).tolist()
        assert values[i] == pytest.approx(np.mean(scores[i, best]) if best else 0)


@given(SEEDS)
def test_only_the_order_of_the_positive_activations_counts(seed):
    scores, activations = make(seed)
    values = top_scores(scores, activations)
    for changed in (1e-9 * activations, np.maximum(activations, 0), activations**3):
        for n, same in top_scores(scores, changed).items():
            np.testing.assert_array_equal(same, values[n])
    # What is not among the best concepts is not looked at.
    hidden = np.where(top_concepts(activations, 3), scores, np.nan)
    np.testing.assert_array_equal(top_scores(hidden, activations)[3], values[3])


def test_no_samples():
    assert top_scores(np.empty((0, 3)), np.empty((0, 3)))[1].shape == (0,)
    assert top_concepts(np.empty((0, 3)), 2).shape == (0, 3)
    assert np.isnan(mas_scores(np.empty((0, 2)), [[], []])).all()


def test_most_activating_samples():
    scores = np.array([[0.2, 0.9], [0.4, 0.1], [0.9, 0.5]])
    indices = ground_images([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]], n=2)
    np.testing.assert_allclose(mas_scores(scores, indices), [0.3, np.nan])
    np.testing.assert_allclose(mas_scores(scores, [[2], [0, 1, 2]]), [0.9, 0.5])
    assert np.nanmean(mas_scores(scores, indices)) == pytest.approx(0.3)


def test_word_lists():
    words = [WordGrounding(["dog"], [1.0]), ("snow", "ice"), []]
    assert word_lists(words) == [["dog"], ["snow", "ice"], []]
    for wrong in (["dog"], [["dog", 1]]):
        with pytest.raises(TypeError, match=r"words\[0\] must be a list of strings"):
            word_lists(wrong)


def test_top():
    assert check_top(3) == (3,)
    assert check_top([np.int64(3), 1, 3]) == (3, 1)
    assert all(type(n) is int for n in check_top(np.array([1, 2])))
    for wrong in (0, True, (), [1.0], [1, -1]):
        with pytest.raises(ValueError, match="top must be integers of at least 1"):
            check_top(wrong)


def test_what_has_to_fit_together():
    assert check_matching([[1, 2]], 1, 2, samples="images").dtype == np.float64
    for activations, n_samples, n_concepts, message in [
        ([1.0, 2.0], 2, 1, r"2 dimensions, got shape \(2,\)"),
        ([[1.0]], 2, 1, "got 2 images and 1 rows"),
        ([[1.0]], 1, 3, "got 3 lists for 1 columns"),
        ([[np.nan]], 1, 1, "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_matching(activations, n_samples, n_concepts, samples="images")
    assert check_indices([np.array([1, 0]), []], 2, 2, samples="images") == [[1, 0], []]
    with pytest.raises(ValueError, match="got 1 and 2"):
        check_indices([[0]], 2, 2, samples="images")
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"positions among the 2 images, got {wrong}"):
            check_indices([[wrong]], 2, 1, samples="images")
