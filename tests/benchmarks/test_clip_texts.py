"""What the bundled CLIP is trained towards."""

import numpy as np
import pytest

from benchmarks._clip_texts import (
    SCENE,
    WordLists,
    caption_facts,
    cosines,
    scene_facts,
    word_facts,
)
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.datasets._captions import parse_caption

TOLD = ("object", "colour", "background", "count", "companion")


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("train", n=200)


@pytest.fixture(scope="module")
def facts(scenes):
    return scene_facts(scenes.factors)


def test_a_caption_is_closest_to_the_scenes_that_it_is_true_of(scenes, facts):
    told = np.stack([caption_facts(c[0], f) for c, f in zip(scenes.captions, facts, strict=True)])
    target = cosines(told, facts)
    assert target.diagonal().min() > 0.97 and target.max() < 1 + 1e-6
    best = target > target.diagonal()[:, None] - 1e-4
    for caption, found in zip(scenes.captions, best, strict=True):
        stated = parse_caption(caption[0])
        names = [*TOLD, *(["variant"] if stated["variant"] else [])]
        if "variant" in names:
            stated["variant"] = f"{stated['object']}-{stated['variant']}"
        true = (scenes.factors[names] == [stated[n] for n in names]).all(axis=1)
        np.testing.assert_array_equal(found, true)


def test_words_state_what_their_scenes_show(scenes, facts):
    lists = WordLists()
    right, wrong = lists.right_and_wrong(facts)
    assert not (right & wrong).any()
    held = [set(np.array(lists.words)[row]) for row in right]
    for factors, words in zip(scenes.factors.itertuples(), held, strict=True):
        assert {factors.object, factors.colour} <= words
        assert (f"{factors.object}s" in words) <= (factors.count > 1)
        assert ("alone" in words) == (factors.companion == "none")


def test_a_wrong_or_unrelated_word_lowers_the_cosine(facts):
    words, scene = word_facts(), facts[:1]
    right, wrong = WordLists().right_and_wrong(scene)
    said = np.stack(list(words.values()))
    first, second = np.flatnonzero(right[0])[[0, -1]]
    base = cosines(said[[first]] + said[[second]], scene).item()
    for word in np.flatnonzero(wrong[0]):
        assert cosines((said[first] + said[second] + said[word])[None], scene).item() < base
    assert cosines((said[first] + said[second])[None], scene, [1]).item() < base
    assert cosines(np.zeros_like(scene), scene, [3]).item() == 0


def test_lists_are_reproducible_and_of_all_kinds(facts):
    lists = WordLists()
    texts, said, unrelated = lists.draw(facts, np.random.default_rng(0))
    again = lists.draw(facts, np.random.default_rng(0))
    assert texts == again[0] and len(texts) == len(said) == len(unrelated) == len(facts)
    assert all(t.startswith("A photo is described by the words ") for t in texts)
    own = cosines(said, facts, unrelated).diagonal()
    assert own.min() < 0.1 and own.max() > 0.8
    assert 0 < (unrelated > 0).mean() < 1 and said[:, SCENE].min() >= 0


def test_words_kept_from_training_are_others():
    assert not set(WordLists().spelled) & set(WordLists(held_out=True).spelled)
