"""Most activating samples of a concept, most active concepts of a sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semi_nmf_concepts.grounding import explain_sample, ground_images

ACTIVATIONS = arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 5)),
    elements=st.floats(-3, 3).map(lambda x: round(x, 1)),
)


@given(ACTIVATIONS, st.integers(1, 6))
def test_ground_images_against_sorting_by_hand(V, n):
    expected = [
        sorted((i for i in range(len(V)) if V[i, k] > 0), key=lambda i, k=k: (-V[i, k], i))[:n]
        for k in range(V.shape[1])
    ]
    assert ground_images(V, n) == expected


@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 5)), st.integers(1, 9))
def test_shares_of_a_sample(row, r):
    items = explain_sample(row, r)
    assert len(items) == min(r, (row > 0).sum())
    assert [a for _, a, _ in items] == sorted(row[row > 0], reverse=True)[:r]
    for concept, activation, share in items:
        assert row[concept] == activation
        assert share == pytest.approx(activation / row.sum())
    if r >= (row > 0).sum() > 0:
        assert sum(share for *_, share in items) == pytest.approx(1)


def test_signed_activations_count_only_where_positive():
    assert explain_sample([-4.0, 1.0, 3.0]) == [(2, 3.0, 0.75), (1, 1.0, 0.25)]
    assert explain_sample([0.0, -1.0]) == []
    assert ground_images([[-1.0], [0.0]]) == [[]]


@pytest.mark.parametrize(
    ("function", "values", "count", "message"),
    [
        (ground_images, [[1.0]], 0, "n must be an integer >= 1"),
        (ground_images, [1.0], 5, "2 dimension"),
        (ground_images, [[np.nan]], 5, "NaN"),
        (explain_sample, [[1.0]], 5, "activations_row must have 1"),
        (explain_sample, [1.0], True, "r must be an integer"),
    ],
)
def test_wrong_arguments_are_named(function, values, count, message):
    with pytest.raises(ValueError, match=message):
        function(values, count)
