"""Text grounding: from a direction to its words."""

import gc
import weakref

import numpy as np
import pytest

from semi_nmf_concepts.grounding import ground_text, is_real_word
from semi_nmf_concepts.grounding._vocabulary import TokenWords, stop_words
from tests._example_report import example_report
from tests._fake_model import (
    SENTENCE_PIECES,
    WORD_PIECES,
    FakeHandle,
    FakeLoaded,
    FakeTokenizer,
)


def test_words_are_filtered_ranked_and_unique():
    handle = FakeHandle()
    u = handle.direction("▁Dog", "▁the", "▁snow", "▁dog", "▁xq", "▁qvzzk", "▁12", "▁two", "▁fire")
    (found,) = ground_text(u[None], handle, n_candidates=9)
    assert found.words == ["dog", "snow", "two", "fire"]
    assert found.token_ids == [SENTENCE_PIECES.index(p) for p in ("▁Dog", "▁snow", "▁two", "▁fire")]
    np.testing.assert_allclose(found.scores, [u[i] for i in found.token_ids])


def test_number_of_words_and_of_candidates():
    handle = FakeHandle()
    u = handle.direction("▁the", "▁dog", "▁snow", "▁grass", "▁ball")[None]
    assert ground_text(u, handle, n_words=2)[0].words == ["dog", "snow"]
    assert ground_text(u, handle, n_candidates=2)[0].words == ["dog"]
    assert ground_text(u, handle, n_candidates=1)[0].words == []


def test_ties_go_to_the_lower_token_whatever_the_number_of_candidates():
    handle = FakeHandle()
    u = np.zeros((1, handle.width))
    u[0, [4, 6, 10, 11]] = 1.0
    assert ground_text(u, handle, n_candidates=2)[0].words == ["snow", "grass"]
    assert ground_text(u, handle, n_candidates=4)[0].words == ["snow", "grass", "black", "beach"]


def test_pieces_that_continue_a_word_are_not_words():
    handle = FakeHandle()
    assert ground_text(handle.direction("ing", "▁dog")[None], handle, n_candidates=2)[0].words == [
        "dog"
    ]
    handle = FakeHandle(WORD_PIECES)
    u = handle.direction("##ing", "##s", "Grass", "dog")[None]
    assert ground_text(u, handle, n_candidates=4)[0].words == ["grass", "dog"]


def test_word_end_marks():
    words = TokenWords(FakeTokenizer(["<s>", "dog</w>", "sn", "ow</w>"]))
    assert [words[i] for i in range(4)] == ["", "dog", "", "ow"]


def test_padding_rows_of_the_unembedding_are_no_words():
    handle = FakeHandle(extra_rows=3)
    u = np.zeros((1, handle.width))
    u[0, -3:], u[0, 1] = 2, 1
    assert ground_text(u, handle, n_candidates=4, word_filter=None)[0].words == ["dog"]


def test_word_filter_replaced_restricted_or_off():
    handle = FakeHandle()
    u = handle.direction("▁12", "▁the", "▁dog", "▁snow")[None]
    words = {
        key: ground_text(u, handle, n_candidates=4, word_filter=word_filter)[0].words
        for key, word_filter in {
            "off": None,
            "digits": str.isdigit,
            "stricter": lambda word: is_real_word(word) and word != "dog",
        }.items()
    }
    assert words == {
        "off": ["12", "the", "dog", "snow"],
        "digits": ["12"],
        "stricter": ["snow"],
    }


def test_subtracting_the_mean_removes_the_common_word():
    handle = FakeHandle()
    U = np.array([handle.direction("▁dog", piece) for piece in ("▁snow", "▁grass")])
    assert [g.words[0] for g in ground_text(U, handle)] == ["dog", "dog"]
    assert [g.words[0] for g in ground_text(U, handle, subtract_mean=True)] == ["snow", "grass"]
    with pytest.raises(ValueError, match="at least two"):
        ground_text(U[:1], handle, subtract_mean=True)


def test_final_norm_applies_its_gain():
    handle = FakeHandle()
    u = handle.direction("▁puppy", "▁dog")[None]
    assert ground_text(u, handle)[0].words[:2] == ["puppy", "dog"]
    # The gain of the fake falls to 0 at the last token, which is "puppy".
    assert ground_text(u, handle, final_norm=True, n_candidates=1)[0].words == ["dog"]


def test_a_direction_of_zeros_has_no_words():
    handle = FakeHandle()
    U = np.array([np.zeros(handle.width), handle.direction("▁dog")])
    assert [g.words[:1] for g in ground_text(U, handle)] == [[], ["dog"]]


def test_words_do_not_depend_on_the_scale_or_the_other_directions():
    rng = np.random.default_rng(0)
    handle = FakeHandle()
    U = rng.standard_normal((5, handle.width))
    together = ground_text(U, handle)
    for u, expected in zip(U, together, strict=True):
        assert ground_text(7 * u[None], handle)[0].words == expected.words


def test_a_fitted_estimator_brings_its_components_and_provenance():
    class Fitted:
        components_ = FakeHandle().direction("▁dog")[None]
        provenance_ = {"model": "other", "fingerprint": "other"}

    with pytest.raises(ValueError, match=r"'other'.*unembedding of their own model"):
        ground_text(Fitted(), FakeHandle())
    assert ground_text(Fitted(), FakeHandle(fingerprint="other"))[0].words[0] == "dog"


def test_a_report_brings_its_components_and_provenance():
    report = example_report(n_concepts=3, n_train=8, n_local=1)  # of width 16, as the fake model
    report.provenance["fingerprint"] = "mine"
    found = ground_text(report, FakeHandle(fingerprint="mine"))
    assert [g.words for g in found] == [
        g.words for g in ground_text(report.components, FakeHandle())
    ]
    with pytest.raises(ValueError, match="unembedding of their own model"):
        ground_text(report, FakeHandle(fingerprint="other"))


def test_the_words_of_a_tokenizer_go_with_its_model():
    handle = FakeHandle()
    u = np.eye(2, handle.width, k=1)
    assert ground_text(u, handle)[0].words[0] == "dog"
    tokenizer = weakref.ref(handle.loaded.tokenizer)
    handle.loaded = FakeLoaded(FakeTokenizer([piece[::-1] for piece in SENTENCE_PIECES]))
    assert ground_text(u, handle, word_filter=None)[0].words[0] == "god"
    gc.collect()
    assert tokenizer() is None


def test_foreign_provenance_is_refused_and_own_provenance_is_not():
    handle = FakeHandle(fingerprint="mine")
    U = handle.direction("▁dog")[None]
    with pytest.raises(ValueError, match="fingerprint theirs"):
        ground_text(U, handle, provenance={"model": "x", "fingerprint": "theirs"})
    assert ground_text(U, handle, provenance={"fingerprint": "mine", "layer": -1})[0].words
    with pytest.raises(ValueError, match="after the final norm"):
        ground_text(
            U, handle, final_norm=True, provenance={"fingerprint": "mine", "layer": "final_norm"}
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"components": np.ones((2, 3))}, ValueError, "width 3"),
        ({"components": np.full((2, 16), np.nan)}, ValueError, "components contains NaN"),
        ({"components": np.ones(16)}, ValueError, "components must have 2"),
        ({"components": [["a"]]}, TypeError, "components must hold numbers"),
        ({"n_words": 0}, ValueError, "n_words must be an integer >= 1"),
        ({"n_candidates": 2.5}, ValueError, "n_candidates must be an integer"),
        ({"word_filter": "german"}, ValueError, "word_filter must be"),
        ({"model": 3}, TypeError, "model must be"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {"components": np.eye(2, 16), "model": FakeHandle()} | change
    with pytest.raises(error, match=message):
        ground_text(**arguments)


@pytest.mark.parametrize(
    "word",
    [
        "dog",
        "poodle",
        "snowy",
        "frisbee",
        "one",
        "two",
        "three",
        "eight",
        "fire",
        "front",
        "side",
        "bill",
        "alone",
        "together",
    ],
)
def test_real_words(word):
    assert is_real_word(word)


@pytest.mark.parametrize(
    "word", ["the", "with", "and", "doesn", "nan", "ox", "12", "dog2", "qvzzk", "", "[pad]", "##s"]
)
def test_no_words(word):
    assert not is_real_word(word)


def test_stop_words_keep_function_words():
    assert {"the", "a", "into", "whereas", "of", "did"} <= stop_words()
