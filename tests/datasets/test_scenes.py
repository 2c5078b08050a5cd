"""The bundled scenes: deterministic, complete, truthful, split without leaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semi_nmf_concepts.datasets import FACTOR_WORDS, load_scenes
from semi_nmf_concepts.datasets import _scenes as scenes_module
from semi_nmf_concepts.datasets._captions import N_CAPTIONS, parse_caption, write_captions
from semi_nmf_concepts.datasets._render import SIZE
from semi_nmf_concepts.datasets._scenes import render_scene, scene_digest
from semi_nmf_concepts.datasets._vocabulary import BACKGROUNDS, COLOURS, COMPANIONS, OBJECTS

STATED = ("object", "colour", "count", "background", "companion")


def test_bunch_has_the_documented_parts():
    scenes = load_scenes("train", n=6)
    assert len(scenes.images) == len(scenes.captions) == len(scenes.factors) == 6
    assert all(len(c) == N_CAPTIONS for c in scenes.captions)
    assert set(STATED) | {"variant", "boxes"} <= set(scenes.factors.columns)
    image = scenes.images[-1]
    assert image.mode == "RGB" and image.size == (SIZE, SIZE)
    assert [i.size for i in scenes.images[2:4]] == [(SIZE, SIZE)] * 2
    with pytest.raises(IndexError):
        scenes.images[6]


@pytest.mark.parametrize("token", ["dog", "cat", "bus", "train", "car", "cake", "bear", "baby"])
def test_every_token_of_interest_of_the_paper_has_scenes(token):
    scenes = load_scenes("test", token=token, n=300)
    assert (scenes.factors["object"] == token).all() and len(scenes.factors) == 300
    forms = {token, token + "s", token + "es", token[:-1] + "ies"}
    share = np.mean([any(forms & set(c.split()) for c in five) for five in scenes.captions])
    assert share > 0.99  # a variant's own noun ("poodle") replaces it in all five only by chance


def test_the_same_scene_is_the_same_pixels_however_it_is_reached():
    first = load_scenes("test", token="bus", n=3)
    number = int(first.factors.index[2])
    assert scene_digest(first.images[2]) == scene_digest(load_scenes("test").images[number])
    assert scene_digest(render_scene("test", number)) == scene_digest(first.images[2])


@pytest.mark.parametrize("split", ["train", "test"])
def test_rendering_matches_the_shipped_digests(split):
    digests = scenes_module._digests()[split]
    assert len(digests) == scenes_module.SPLITS[split][0]
    for index in (0, 1, 17, len(digests) - 1):
        assert scene_digest(render_scene(split, index)) == int(digests[index])


def test_other_pixels_than_the_digest_warn_once(monkeypatch):
    wrong = {"test": np.zeros(8000, np.uint32)}
    monkeypatch.setattr(scenes_module, "_digests", lambda: wrong)
    scenes_module._rendered.cache_clear()
    scenes_module._warn_rendering_differs.cache_clear()
    images = load_scenes("test", n=2).images
    with pytest.warns(UserWarning, match="other pixels") as caught:
        images[0], images[1]
    assert len(caught) == 1
    scenes_module._rendered.cache_clear()


def test_changing_a_returned_image_does_not_change_the_cache():
    images = load_scenes("test", n=1).images
    before = scene_digest(images[0])
    images[0].paste((255, 0, 0), (0, 0, 50, 50))
    assert scene_digest(images[0]) == before


def test_no_combination_of_factors_is_in_both_splits():
    names = ["object", "variant", *STATED[1:]]
    train, test = (
        set(map(tuple, scenes_module._compositions(s)[names].to_numpy().tolist()))
        for s in ("train", "test")
    )
    assert len(test) > 2000 and not train & test


def test_factors_are_spread_evenly():
    factors = scenes_module._compositions("train")
    for name, values in (("colour", COLOURS), ("background", BACKGROUNDS), ("object", OBJECTS)):
        shares = factors[name].value_counts(normalize=True)
        assert set(shares.index) == set(values)
        assert shares.max() < 1.15 * shares.min()


def test_boxes_are_inside_hardly_touch_and_are_as_many_as_counted():
    slack = 12  # corners of boxes are transparent: a few pixels in common hide nothing
    factors = load_scenes("test", n=300).factors
    for f in factors.itertuples():
        assert len(f.boxes) == f.count
        boxes = [*f.boxes, f.companion_box] if f.companion_box is not None else f.boxes
        assert (f.companion_box is None) == (f.companion == "none")
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE
            for other in boxes[:i]:
                apart = (
                    right - slack <= other[0]
                    or other[2] - slack <= left
                    or bottom - slack <= other[1]
                    or other[3] - slack <= top
                )
                assert apart


def test_the_objects_are_where_the_boxes_say():
    """Painting a scene with and without its objects differs inside the boxes (and their
    shadows)."""
    factors = load_scenes("test", n=20).factors
    for index, f in enumerate(factors.itertuples()):
        pixels = np.asarray(render_scene("test", index)).astype(int)
        empty = scenes_module.paint_scene(
            f.background, [], [scenes_module.SPLITS["test"][1], index, 4]
        )
        changed = np.abs(pixels - np.asarray(empty).astype(int)).sum(axis=2) > 60
        inside = np.zeros_like(changed)
        for left, top, right, bottom in [*f.boxes, f.companion_box or (0, 0, 0, 0)]:
            inside[top : bottom + 12, left:right] = True
        assert changed.any() and not (changed & ~inside).any()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_caption_of_the_grammar_is_read_back_as_written(data):
    obj = data.draw(st.sampled_from(sorted(OBJECTS)))
    factors = {
        "object": obj,
        "variant": data.draw(st.sampled_from(sorted(OBJECTS[obj]))),
        "colour": data.draw(st.sampled_from(COLOURS)),
        "count": data.draw(st.integers(1, 3)),
        "background": data.draw(st.sampled_from(sorted(BACKGROUNDS))),
        "companion": data.draw(st.sampled_from(COMPANIONS)),
    }
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for caption in write_captions(factors, rng):
        read = parse_caption(caption)
        assert read is not None, caption
        assert {k: read[k] for k in STATED} == {k: factors[k] for k in STATED}
        assert read["variant"] in (None, factors["variant"])


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a dog",
        "a dog on the grass",
        "two dog that are black on the grass",
        "a dogs that is black on the grass",
        "a dog that is black on the grass at night",
        "a black dog in red on the grass",
        "a dog that is black black on the grass",
        "the quick brown fox",
    ],
)
def test_what_is_no_full_sentence_of_the_grammar_is_not_read(caption):
    assert parse_caption(caption) is None


def test_most_captions_open_with_determiner_and_noun():
    """The state before the noun must not be dominated by what was already written."""
    captions = [c for five in load_scenes("train", token="dog", n=300).captions for c in five]
    plain = [
        c.split()[0] in {"a", "two", "three"} and c.split()[1] in {"dog", "dogs"} for c in captions
    ]
    assert 0.3 < np.mean(plain) < 0.7


def test_factor_words_name_every_value():
    factors = scenes_module._compositions("train")
    for name in STATED:
        assert set(FACTOR_WORDS[name]) == set(factors[name].astype(str))
    assert set(load_scenes("test", n=500).factors["variant"]) == set(FACTOR_WORDS["variant"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "split must be 'train' or 'test'"),
        ({"token": "zebra"}, "token must be one of"),
        ({"n": 0}, "n must be a positive integer"),
        ({"n": 2.5}, "n must be a positive integer"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_scenes(**arguments)
