"""Disentanglement, completeness, informativeness."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.metrics import dci, factor_recovery_score
from semi_nmf_concepts.metrics._dci import _summarise


def make(n, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"colour": 4, "background": 3, "count": 2}
    return pd.DataFrame({name: rng.integers(size, size=n) for name, size in sizes.items()})


def summary(importance):
    importance = pd.DataFrame(importance, dtype=float)
    return _summarise(importance, pd.Series(0.5, index=importance.columns))


def test_the_formulas_by_hand():
    """Two factors, three concepts: the entropies are those of (3/4, 1/4), and of one."""
    found = summary([[0.75, 0.25], [0.25, 0.0], [0.0, 0.0]])
    quarter = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(
        found.concepts["disentanglement"], [1 - quarter / np.log(2), 1, 0], atol=1e-12
    )
    np.testing.assert_allclose(found.concepts["weight"], [0.8, 0.2, 0])
    assert found.disentanglement == pytest.approx(0.8 * (1 - quarter / np.log(2)) + 0.2)
    np.testing.assert_allclose(found.factors["completeness"], [1 - quarter / np.log(3), 1])
    assert found.completeness == pytest.approx((2 - quarter / np.log(3)) / 2)
    assert found.informativeness == 0.5


def test_without_any_importance():
    found = summary(np.zeros((3, 2)))
    assert (found.disentanglement, found.completeness) == (0, 0)
    assert summary([[1.0, 0.0]]).completeness == 0.5  # the second factor: no concept helps
    assert summary([[1.0, 1.0]]).completeness == 1  # a single concept tells all there is to tell
    assert summary([[1.0, 1.0]]).disentanglement == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))
def test_ranges_and_orders(seed, K, F):
    rng = np.random.default_rng(seed)
    R = rng.random((K, F)) * (rng.random((K, F)) < 0.7)
    found = summary(R)
    for value in (found.disentanglement, found.completeness):
        assert 0 <= value <= 1
    changed = summary(R[rng.permutation(K)][:, rng.permutation(F)])
    assert changed.disentanglement == pytest.approx(found.disentanglement)
    assert changed.completeness == pytest.approx(found.completeness)


def test_one_concept_per_factor_is_perfect():
    factors = make(400)
    codes = np.column_stack(
        [factors["count"], np.zeros(400), factors["colour"], factors.iloc[:, 1]]
    )
    found = dci(codes, factors)
    assert found.disentanglement == found.completeness == found.informativeness == 1
    expected = [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(found.importance, expected)
    assert list(found.importance.columns) == ["colour", "background", "count"]
    assert "disentanglement 1.000" in repr(found)


def test_shuffled_codes_tell_nothing():
    factors = make(600)
    codes = np.column_stack([factors, np.random.default_rng(1).random((600, 2))]).astype(float)
    codes = codes[np.random.default_rng(0).permutation(600)]
    found = dci(codes, factors)
    assert found.disentanglement < 0.1 and abs(found.informativeness) < 0.15
    assert factor_recovery_score(codes, factors) == pytest.approx(0.5, abs=0.1)
    assert factor_recovery_score(codes, factors, measure="disentanglement") < 0.1


def test_a_rotation_entangles_and_one_detector_per_value_is_incomplete():
    factors = make(500)
    detectors = pd.get_dummies(factors.astype(str)).to_numpy(float)
    detectors *= np.random.default_rng(1).uniform(0.5, 1.5, detectors.shape)
    found = dci(detectors, factors)
    assert found.disentanglement > 0.99 and found.informativeness > 0.99
    # Three of four detectors tell the colour; two of three the background; either the count.
    assert 0.4 < found.completeness < 0.8
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    mixed = dci(detectors @ rotation, factors)
    assert mixed.disentanglement < 0.7
    # Per value instead of per factor, where the complement of two values is the same detector:
    by_value = dci(detectors, pd.get_dummies(factors[["colour"]].astype(str)))
    assert by_value.completeness > 0.99 and by_value.disentanglement > 0.99


def test_rare_values_are_left_out_with_their_samples():
    factors = make(400)
    codes = factors.to_numpy(float).copy()
    rare = factors.assign(colour=["rare"] * 10 + factors["colour"].astype(str).tolist()[10:])
    codes[:10, 0] = 9
    found = dci(codes, rare)
    assert found.informativeness == 1
    constant = factors.assign(object="dog", half=["a"] * 390 + ["b"] * 10)
    assert list(dci(codes, constant).factors.index) == ["colour", "background", "count"]


def test_results_depend_on_the_seed_alone():
    factors = make(300)
    codes = factors.to_numpy(float) + np.random.default_rng(0).standard_normal((300, 3))
    one, two, other = dci(codes, factors), dci(codes, factors), dci(codes, factors, random_state=1)
    pd.testing.assert_frame_equal(one.importance, two.importance)
    assert one.disentanglement != other.disentanglement
    shifted = dci(1000 * codes - 5, factors.set_index(np.arange(300)[::-1]))
    pd.testing.assert_frame_equal(shifted.importance, one.importance)


def test_given_parts_and_the_way_through_factor_recovery_score():
    factors = make(400)
    codes = factors.to_numpy(float) + np.random.default_rng(0).standard_normal((400, 3))
    parts = {"train": np.arange(250), "test": np.arange(250, 400)}
    found = dci(codes, factors, **parts)
    for measure in ("disentanglement", "completeness"):
        score = factor_recovery_score(codes, factors, measure=measure, **parts)
        assert score == getattr(found, measure)
    score, behind = factor_recovery_score(
        codes, factors, measure="completeness", return_recovery=True
    )
    assert score == behind.completeness == dci(codes, factors).completeness


def test_time_for_the_usual_size():
    factors = make(1500).assign(companion=np.random.default_rng(3).integers(9, size=1500))
    codes = np.maximum(np.random.default_rng(0).standard_normal((1500, 20)), 0)
    start = time.process_time()
    dci(codes, factors)
    assert time.process_time() - start < 5


def test_wrong_arguments():
    factors = make(200)
    codes = factors.to_numpy(float)
    for options, error, message in [
        ({"columns": ["colour"]}, ValueError, r"at least two columns .* got \['colour'\]"),
        ({"min_positives": 150}, ValueError, r"two values of 150 samples .*got \[\]"),
        ({"columns": "colour"}, TypeError, "columns must be a list"),
        ({"columns": ["size"]}, ValueError, r"columns \['size'\]"),
        ({"test_size": 0}, ValueError, "test_size"),
        ({"train": [0]}, ValueError, "both train and test"),
        ({"train": [0, 1], "test": [1]}, ValueError, "share rows"),
    ]:
        with pytest.raises(error, match=message):
            dci(codes, factors, **options)
    with pytest.raises(ValueError, match="has 200 rows, but factors has 100"):
        dci(codes, factors[:100])
    with pytest.raises(ValueError, match="NaN or infinity"):
        dci(codes * np.nan, factors)
    with pytest.raises(ValueError, match="measure must be one of .* got 'mig'"):
        factor_recovery_score(codes, factors, measure="mig")
