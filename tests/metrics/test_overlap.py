"""Overlap of word lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semi_nmf_concepts.grounding import WordGrounding
from semi_nmf_concepts.metrics import overlap_matrix, overlap_score

WORDS = st.lists(
    st.lists(st.sampled_from(["dog", "snow", "grass", "two", "red"]), max_size=4),
    min_size=2,
    max_size=6,
)


@given(WORDS)
def test_against_the_formula_written_out(words):
    total, K = 0.0, len(words)
    for i in range(K):
        for j in range(K):
            if i != j and words[i]:
                total += len(set(words[i]) & set(words[j])) / len(set(words[i]))
    assert overlap_score(words) == pytest.approx(total / (K * (K - 1)))


@given(WORDS, st.randoms(use_true_random=False))
def test_order_of_concepts_and_words_does_not_matter(words, random):
    shuffled = [random.sample(concept, len(concept)) for concept in words]
    random.shuffle(shuffled)
    assert overlap_score(shuffled) == pytest.approx(overlap_score(words))


def test_extremes_and_objects_with_words():
    assert overlap_score([["dog"], ["dog"], ["dog"]]) == 1
    assert overlap_score([["dog"], ["cat"], []]) == 0
    assert overlap_score([WordGrounding(["dog", "two"], [2.0, 1.0]), ["dog"]]) == 0.75
    np.testing.assert_array_equal(overlap_matrix([[], []]), np.zeros((2, 2)))
    assert overlap_matrix([["dog"]]).tolist() == [[1.0]]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least two concepts"):
        overlap_score([["dog"]])
    with pytest.raises(TypeError, match=r"words\[0\] must be a list"):
        overlap_score(["dog", "cat"])
