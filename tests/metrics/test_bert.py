"""BERTScores of concepts: which pairs are scored, and what is defined where there is nothing."""

import numpy as np
import pytest

from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.grounding import WordGrounding
from semi_nmf_concepts.metrics import (
    bert_baseline,
    bert_concept_scores,
    bert_score,
    ground_truth_bert_score,
    load_bert,
    mas_bert_score,
)
from tests._tiny_bert import build_tiny_bert

CAPTIONS = [
    ["a dog in the snow", "two dogs"],
    ["a red bus on the grass"],
    [],
    ["a cat", "a black cat", "the cat with a red dog"],
]
WORDS = [["dog", "puppy"], ["bus"], [], ["black", "cat", "white"]]
ACTIVATIONS = np.array(
    [[3.0, 1.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [1.0, 1.0, 0.0, -2.0]]
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = build_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")
    return load_bert(folder, num_layers=2, device="cpu")


@pytest.fixture(scope="module")
def table(encoder):
    """F1 of every concept with words on every sample with captions, one pair at a time."""
    rows = np.full((4, 4), np.nan)
    for i, texts in enumerate(CAPTIONS):
        for k, words in enumerate(WORDS):
            if texts and words:
                rows[i, k] = max(encoder.f1([", ".join(words)], [text])[0] for text in texts)
    return rows


def test_concept_scores(encoder, table):
    scores = bert_concept_scores(CAPTIONS, WORDS, model=encoder)
    expected = table.copy()
    expected[[0, 1, 3], 2] = 0
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float64
    objects = [WordGrounding(words, [1.0] * len(words)) for words in WORDS]
    np.testing.assert_array_equal(bert_concept_scores(CAPTIONS, objects, model=encoder), scores)


def test_only_what_is_asked_for_is_scored(encoder, table):
    where = np.array(
        [[True, False, True, False]] + [[False] * 4] * 2 + [[False, True, False, True]]
    )
    scores = bert_concept_scores(CAPTIONS, WORDS, where=where, model=encoder)
    assert np.isnan(scores[~where]).all()
    np.testing.assert_allclose(scores[[0, 3, 3], [0, 1, 3]], table[[0, 3, 3], [0, 1, 3]], atol=1e-6)
    nothing = bert_concept_scores(CAPTIONS, WORDS, where=where & False, model=encoder)
    assert np.isnan(nothing).all()


def test_score_of_the_most_active(encoder, table):
    scores = bert_score(CAPTIONS, ACTIVATIONS, WORDS, model=encoder)
    assert list(scores) == [1, 3]
    np.testing.assert_allclose(scores[1], [table[0, 0], 0, np.nan, table[3, 0]], atol=1e-6)
    # The second most active concept of sample 0 has no words; in sample 3 only two are active.
    three = [(table[0, 0] + 0 + table[0, 1]) / 3, 0, np.nan, (table[3, 0] + table[3, 1]) / 2]
    np.testing.assert_allclose(scores[3], three, atol=1e-6)
    assert bert_score([], np.zeros((0, 4)), WORDS, model=encoder, top=2)[2].shape == (0,)


def test_score_of_most_activating_samples(encoder, table):
    lists = [[0, 3], [1, 2], [0], []]
    scores = mas_bert_score(CAPTIONS, lists, WORDS, model=encoder)
    expected = [(table[0, 0] + table[3, 0]) / 2, table[1, 1], 0, np.nan]  # sample 2 has no captions
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.isnan(mas_bert_score(CAPTIONS, [[2]], [["dog"]], model=encoder)).all()


def test_ground_truth_leaves_the_scored_caption_out(encoder):
    scores = ground_truth_bert_score(CAPTIONS, model=encoder)
    cats = CAPTIONS[3]
    each = [max(encoder.f1([text], [other])[0] for other in cats if other != text) for text in cats]
    assert scores[3] == pytest.approx(np.mean(each), abs=1e-6)
    assert scores[0] == pytest.approx(encoder.f1(*map(list, zip(CAPTIONS[0])))[0], abs=1e-6)
    assert np.isnan(scores[[1, 2]]).all()
    twice = ground_truth_bert_score([["a cat", "a cat"], ["a cat", " "]], model=encoder)
    np.testing.assert_allclose(twice, [1, np.nan], atol=1e-6)
    assert ground_truth_bert_score([], model=encoder).shape == (0,)


def test_rescaling_is_affine_but_leaves_nothing_at_0(encoder):
    plain = bert_concept_scores(CAPTIONS, WORDS, model=encoder)
    rescaled = bert_concept_scores(CAPTIONS, WORDS, model=encoder, rescale=0.2)
    expected = (plain - 0.2) / 0.8
    expected[:, 2] = plain[:, 2]  # the concept without words
    np.testing.assert_allclose(rescaled, expected, atol=1e-12)
    truth = ground_truth_bert_score(CAPTIONS, model=encoder)
    scaled = ground_truth_bert_score(CAPTIONS, model=encoder, rescale=0.2)
    np.testing.assert_allclose(scaled, (truth - 0.2) / 0.8, atol=1e-12)


def test_baseline_is_the_mean_over_different_images(encoder):
    captions = [["a dog"], [], ["a cat", "a cat"]]  # whichever pair is drawn, it is this one
    baseline = bert_baseline(captions, model=encoder, n_pairs=7)
    assert baseline == pytest.approx(encoder.f1(["a dog"], ["a cat"])[0], abs=1e-6)
    rescaled = bert_baseline(captions, model=load_bert(encoder, rescale=0.5), n_pairs=7)
    assert rescaled == pytest.approx(baseline)
    many = [["a dog", "red bus"], ["a cat"], ["two trains in the snow"]]
    draws = [bert_baseline(many, model=encoder, n_pairs=3, random_state=i) for i in range(4)]
    assert len(set(draws)) > 1
    assert bert_baseline(many, model=encoder, n_pairs=3, random_state=2) == draws[2]


def test_right_words_score_above_wrong_words_on_the_bundled_encoder():
    scenes = load_scenes("test", n=30)
    objects = sorted(scenes.factors["object"].unique())
    words = [[name, *scenes.factor_words["object"][name]][:3] for name in objects]
    truth = np.array(
        [[float(name == shown) for name in objects] for shown in scenes.factors["object"]]
    )
    right = bert_score(scenes.captions, truth, words, model="bundled", top=1)[1]
    wrong = bert_score(scenes.captions, np.roll(truth, 1, axis=1), words, model="bundled", top=1)[1]
    captions = ground_truth_bert_score(scenes.captions, model="bundled")
    assert wrong.mean() + 0.1 < right.mean() < captions.mean()
    mas = [np.flatnonzero(column) for column in truth.T]
    by_concept = mas_bert_score(scenes.captions, mas, words, model="bundled")
    by_wrong = mas_bert_score(scenes.captions, mas, words[1:] + words[:1], model="bundled")
    assert (by_concept > by_wrong).all()


def test_wrong_arguments(encoder):
    with pytest.raises(ValueError, match="top must be integers of at least 1"):
        bert_score(CAPTIONS, ACTIVATIONS, WORDS, model=encoder, top=0)
    with pytest.raises(ValueError, match="got 3 references and 4 rows of activations"):
        bert_score(CAPTIONS[:3], ACTIVATIONS, WORDS, model=encoder)
    with pytest.raises(ValueError, match="3 lists for 4 columns"):
        bert_score(CAPTIONS, ACTIVATIONS, WORDS[:3], model=encoder)
    with pytest.raises(ValueError, match=r"where must be booleans of shape \(4, 4\)"):
        bert_concept_scores(CAPTIONS, WORDS, where=[[True]], model=encoder)
    with pytest.raises(ValueError, match="where must be booleans"):
        bert_concept_scores(CAPTIONS, WORDS, where=np.ones((4, 4)), model=encoder)
    with pytest.raises(ValueError, match="positions among the 4 references, got 4"):
        mas_bert_score(CAPTIONS, [[4], [], [], []], WORDS, model=encoder)
    with pytest.raises(TypeError, match=r"words\[0\] must be a list of strings"):
        bert_concept_scores(CAPTIONS, ["dog"], model=encoder)
    with pytest.raises(TypeError, match="references must have one string or list"):
        ground_truth_bert_score("a dog", model=encoder)
    with pytest.raises(ValueError, match="captions of at least 2 images, got 1"):
        bert_baseline([["a dog", "a cat"], []], model=encoder)
    for n_pairs in (0, 1.5, True):
        with pytest.raises(ValueError, match="n_pairs must be an integer of at least 1"):
            bert_baseline(CAPTIONS, model=encoder, n_pairs=n_pairs)
