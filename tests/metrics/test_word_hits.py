"""Words of the factor value that a concept detects, and the chance level."""

import numpy as np
import pandas as pd
import pytest

from semi_nmf_concepts.grounding import ground_text
from semi_nmf_concepts.metrics import chance_word_hits, factor_word_hits
from tests._fake_model import FakeHandle

TABLE = pd.DataFrame(
    [
        ("colour", "black", 0, 0.95),
        ("colour", "red", 1, 0.80),
        ("background", "snow", 2, 0.90),
        ("background", "grass", 2, 0.60),
        ("prefix", "a", 1, 0.99),
    ],
    columns=["factor", "value", "component", "auroc"],
)
FACTOR_WORDS = {
    "colour": {"black": "black", "red": ("red",)},
    "background": {"snow": ("snow", "snowy"), "grass": ("grass",)},
}


def test_hits_are_counted_over_detected_values_with_known_words():
    hits = factor_word_hits(TABLE, [["dark", "black"], ["blue"], ["snowy", "snow"]], FACTOR_WORDS)
    assert list(hits.table["value"]) == ["black", "red", "snow"]
    assert list(hits.table["hit"]) == [True, False, True]
    assert list(hits.table["word"]) == ["black", "", "snowy"]
    assert hits.unknown == [("prefix", "a")]
    assert (hits.n_detected, hits.n_hits, hits.share) == (3, 2, 2 / 3)


def test_threshold():
    words = [["black"], [], ["grass"]]
    assert factor_word_hits(TABLE, words, FACTOR_WORDS, threshold=0.5).share == 0.5
    nothing = factor_word_hits(TABLE, words, FACTOR_WORDS, threshold=0.99)
    assert nothing.n_detected == 0
    assert np.isnan(nothing.share)


def test_a_component_without_a_word_list():
    with pytest.raises(ValueError, match="component 2 has no words"):
        factor_word_hits(TABLE, [["black"], ["red"]], FACTOR_WORDS)


def test_chance_of_random_directions():
    """One of the ten words of the fake model is kept per concept: about one draw in ten hits."""
    handle = FakeHandle()
    words = [["black"], ["ball"], ["snow"]]
    drawn = []

    def ground(directions):
        assert directions.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
        drawn.append(ground_text(directions, handle))
        return drawn[-1]

    def chance(n_draws):
        options = {"ground": ground, "width": handle.width, "n_draws": n_draws}
        return chance_word_hits(TABLE, words, FACTOR_WORDS, random_state=0, **options)

    shares = chance(200)
    assert shares.shape == (200,)
    first = [
        factor_word_hits(TABLE, [g.words[:1] for g in groundings], FACTOR_WORDS).share
        for groundings in drawn
    ]
    np.testing.assert_array_equal(shares, first)
    assert 0.02 < shares.mean() < 0.2
    np.testing.assert_array_equal(chance(3), shares[:3])


def test_chance_of_shuffled_words_never_keeps_a_list():
    words = [["black"], ["red"], ["snow"]]
    assert factor_word_hits(TABLE, words, FACTOR_WORDS).share == 1
    shares = chance_word_hits(TABLE, words, FACTOR_WORDS, mode="shuffle", n_draws=5)
    np.testing.assert_array_equal(shares, np.zeros(5))
    same = [["black", "red", "snow"]] * 3
    shares = chance_word_hits(TABLE, same, FACTOR_WORDS, mode="shuffle", n_draws=5)
    np.testing.assert_array_equal(shares, np.ones(5))


def test_wrong_arguments():
    words = [["black"], ["red"], ["snow"]]
    with pytest.raises(ValueError, match="mode must be"):
        chance_word_hits(TABLE, words, FACTOR_WORDS, mode="random")
    with pytest.raises(ValueError, match="needs ground and width"):
        chance_word_hits(TABLE, words, FACTOR_WORDS)
    with pytest.raises(ValueError, match="at least two"):
        chance_word_hits(TABLE[:1], [["black"]], FACTOR_WORDS, mode="shuffle")
