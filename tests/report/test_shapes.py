"""Layout of the small drawings, and formatting of numbers."""

import numpy as np
import pytest

from semi_nmf_concepts.report._shapes import auroc_bar, histogram, strengths
from semi_nmf_concepts.report._text import as_text, clean, number, percent, split_at_word


def test_histogram_bars_stand_on_the_axis_inside_the_box():
    values = np.r_[np.zeros(50), np.random.default_rng(0).gamma(2, 1, 300)]
    shape = histogram(values, marks=[values.max()])
    assert shape["low"] == "0" and "300 activations above zero" in shape["label"]
    for bar in shape["bars"]:
        assert bar["x"] >= 0 and bar["x"] + bar["w"] <= 240
        assert bar["y"] >= 0 and bar["y"] + bar["h"] == pytest.approx(56, abs=0.02)
    assert shape["ticks"] == [237.0]


@pytest.mark.parametrize(
    "values", [[], [0.0, 0.0], [np.nan, 0.0]], ids=["no sample", "silent", "not a number"]
)
def test_no_histogram_of_nothing(values):
    assert histogram(np.array(values)) is None


@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0, 2.0], [1e-30, 2e-30], [1.0, np.nextafter(1.0, 2)], [-1.0, 1e30]]
)
def test_histogram_of_extreme_values(values):
    shape = histogram(np.array(values), marks=values)
    assert shape["bars"] and all(np.isfinite(list(bar.values())).all() for bar in shape["bars"])


def test_auroc_bar_places_chance_left_and_perfect_right():
    assert auroc_bar(0.5)["dot"] == 2 and auroc_bar(1.0)["dot"] == 102
    bar = auroc_bar(0.75, 0.4, 0.9)
    assert (bar["x"], bar["width"], bar["dot"]) == (2, 80, 52)
    assert bar["label"] == "AUROC 0.75, interval 0.40–0.90"
    assert auroc_bar(float("nan"), None, None)["width"] is None


def test_strengths_are_ordered_like_scores():
    scores = [9.0, 5.0, 4.9, 0.1]
    levels = strengths(scores)
    assert levels == sorted(levels, reverse=True) and levels[0] == 5 and levels[-1] == 1
    assert strengths([0.0, 0.0]) == [5, 5]
    assert min(strengths([-1.0, -5.0, float("nan")])) >= 1


def test_numbers():
    assert number(-0.5) == "−0.500" and number(float("nan")) == "–" and number("x") == "–"
    assert number(np.float32(2.5)) == "2.50" and number(np.int64(12000)) == "12,000"
    assert percent(0.995) == ">99%" and percent(None) == "–"
    assert as_text(np.array([1, 2])) == "1, 2" and as_text([]) == "–"


def test_clean_is_one_printable_line():
    assert clean(" a\n\tb\u202e\x07 ") == "a b\ufffd\ufffd"


def test_split_at_word_takes_whole_words_only():
    assert split_at_word("a hotdog", ["dog"]) == [("a hotdog", False)]
    assert split_at_word("c++ (c)", ["c++"]) == [("c++", True), (" (c)", False)]
    assert split_at_word("text", []) == [("text", False)]
    assert "".join(text for text, _ in split_at_word("Dogs, dog", ["dog", "dogs"])) == "Dogs, dog"
