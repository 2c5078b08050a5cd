"""AUROC of many scores for many labels, and its bootstrap interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from semi_nmf_concepts.metrics import auroc, auroc_interval


@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.integers(1, 4), st.integers(1, 3))
def test_against_scikit_learn_with_ties(seed, n, n_scores, n_labels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3, (n, n_scores)).astype(float)
    labels = rng.random((n, n_labels)) < 0.5
    labels[0], labels[1] = True, False
    expected = [[roc_auc_score(y, s) for s in scores.T] for y in labels.T]
    np.testing.assert_allclose(auroc(scores, labels), expected, rtol=1e-12)
    assert auroc(scores[:, 0], labels[:, 0]) == pytest.approx(expected[0][0])
    np.testing.assert_allclose(auroc(scores, labels[:, 0]), expected[0])
    np.testing.assert_allclose(auroc(scores[:, 0], labels), np.array(expected)[:, 0])


@given(st.integers(0, 2**32 - 1))
def test_reversed_scores_and_monotone_maps(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.standard_normal(30), rng.permutation([True] * 11 + [False] * 19)
    value = auroc(scores, labels)
    assert auroc(-scores, labels) == pytest.approx(1 - value)
    assert auroc(np.exp(scores), labels) == pytest.approx(value)
    assert auroc(scores, ~labels) == pytest.approx(1 - value)


def test_the_interval_against_a_bootstrap_written_out():
    rng = np.random.default_rng(3)
    labels = np.repeat([True, False], [40, 70])
    scores = np.round(rng.standard_normal(110) + labels, 1)
    values = []
    for _ in range(2000):
        rows = np.r_[rng.integers(0, 40, 40), rng.integers(40, 110, 70)]
        values.append(roc_auc_score(labels[rows], scores[rows]))
    low, high = auroc_interval(scores, labels, n_bootstrap=4000, random_state=0)
    np.testing.assert_allclose([low, high], np.percentile(values, [2.5, 97.5]), atol=0.01)
    narrow = auroc_interval(scores, labels, confidence=0.5, n_bootstrap=4000, random_state=0)
    assert low < narrow[0] < roc_auc_score(labels, scores) < narrow[1] < high


def test_the_interval_covers_the_true_value_as_often_as_it_says():
    """Normal scores one standard deviation apart: the AUROC is Phi(1/sqrt(2)) = 0.7602."""
    rng = np.random.default_rng(0)
    labels = np.repeat([True, False], 60)
    hits = 0
    for _ in range(150):
        low, high = auroc_interval(
            rng.standard_normal(120) + labels,
            labels,
            n_bootstrap=300,
            random_state=rng.integers(99),
        )
        hits += low < 0.7602 < high
    assert 0.88 <= hits / 150 <= 0.99


def test_the_interval_does_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(1)
    labels, scores = rng.random(50) < 0.5, rng.random(50)
    whole = auroc_interval(scores, labels, n_bootstrap=2000, random_state=0)
    monkeypatch.setattr("semi_nmf_concepts.metrics._auroc._BLOCK", 1000)
    np.testing.assert_allclose(
        auroc_interval(scores, labels, n_bootstrap=2000, random_state=0), whole, atol=0.02
    )


def test_wrong_arguments():
    with pytest.raises(ValueError, match="positive and negative"):
        auroc([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="3 rows, labels have 2"):
        auroc([1.0, 2.0, 3.0], [True, False])
    with pytest.raises(ValueError, match="NaN"):
        auroc([1.0, np.nan], [True, False])
