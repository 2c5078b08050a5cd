"""Curves of deletion and insertion: what is deleted, what is scored, and what they tell apart."""

import numpy as np
import pytest

from semi_nmf_concepts.attention import (
    FaithfulnessCurves,
    deletion_insertion,
    relevancy,
    trace_answer,
)
from semi_nmf_concepts.attention import _faithfulness as module
from semi_nmf_concepts.lmm import load_model
from tests._families._marks import family_params
from tests._tiny_llava import tiny_images


@pytest.fixture
def trace_of(build):
    def trace_of(name, sizes=((72, 40),), answer="a dog on the red car"):
        images = [
            image.resize(size) for image, size in zip(tiny_images(len(sizes)), sizes, strict=True)
        ]
        handle = load_model(build(name), device="cpu", dtype="float32")
        return trace_answer(handle, images, "what is this", answer)

    return trace_of


@pytest.fixture
def ran(monkeypatch):
    """The sets of images that went through the model."""
    seen, scores = [], module._scores

    def watched(trace, pictures, score):
        seen.append([[np.asarray(image) for image in images] for images in pictures])
        return scores(trace, pictures, score)

    monkeypatch.setattr(module, "_scores", watched)
    return seen


def constant(trace):
    return [np.zeros(len(grid.positions)) for grid in trace.grids]


NAMES = (
    "llava",
    "llava-next",
    "qwen2.5-vl",
    "qwen3-vl",
    "smolvlm",
    "gemma3",
    "paligemma",
    "internvl",
)


@pytest.mark.parametrize("name", family_params(NAMES))
def test_ends_are_the_whole_and_the_empty_image(name, trace_of, monkeypatch):
    sizes = ((72, 40),) if name == "paligemma" else ((72, 40), (48, 48))
    trace = trace_of(name, sizes)
    generator = np.random.default_rng(0)
    values = [generator.random(len(grid.positions)) for grid in trace.grids]
    options = {"n_steps": 4, "n_random": 2}
    curves = deletion_insertion(trace, values, word=[1, 2], **options)
    tokens = range(trace.words[1].start, trace.words[2].stop)
    whole = trace.probabilities[list(tokens)].mean()
    for down, up in (
        (curves.deletion, curves.insertion),
        (curves.random_deletion[0], curves.random_insertion[0]),
    ):
        assert down[0] == up[-1] == pytest.approx(whole, abs=1e-5)
        assert down[-1] == up[0] == curves.deletion[-1]
    assert curves.deletion[-1] != pytest.approx(whole, abs=1e-5)
    # The same, one set of images at a time.
    monkeypatch.setattr(module, "_MAX_ROWS", 1)
    single = deletion_insertion(trace, values, word=[1, 2], **options)
    np.testing.assert_allclose(curves.deletion, single.deletion, atol=1e-5)
    np.testing.assert_allclose(curves.random_insertion, single.random_insertion, atol=1e-5)
    logits = deletion_insertion(trace, values, word=1, score="logit", **options)
    of_word = trace.logits[trace.words[1].start : trace.words[1].stop]
    assert logits.deletion[0] == pytest.approx(of_word.mean(), abs=1e-4)


def test_most_relevant_patches_go_first(trace, ran):
    values = np.arange(49.0)[::-1]  # row by row
    curves = deletion_insertion(trace, values, n_steps=7, n_random=1, fill="grey")
    assert curves.fractions == pytest.approx(np.arange(8) / 7)
    (pictures,) = ran
    original = np.asarray(trace.images[0])
    np.testing.assert_array_equal(pictures[0][0], original)
    assert (pictures[1][0] == 128).all()
    for i in range(1, 7):
        deleted, inserted = pictures[1 + i][0], pictures[7 + i][0]
        assert (deleted[: 32 * i] == 128).all()
        np.testing.assert_array_equal(deleted[32 * i :], original[32 * i :])
        np.testing.assert_array_equal(inserted[: 32 * i], original[: 32 * i])
        assert (inserted[32 * i :] == 128).all()
    assert len(pictures) == 2 + 3 * 6
    np.testing.assert_allclose(curves.random_insertion, curves.random_deletion[:, ::-1])


def test_fractions_are_of_area_where_boxes_overlap(trace_of, ran):
    """The whole image and its tiles: 16 tokens that cover it once, and four times as many."""
    trace = trace_of("llava-next", ((64, 64),))
    (grid,) = trace.grids
    assert np.isnan(grid.boxes[:, 0]).any()
    area = np.prod(grid.boxes[:, 2:] - grid.boxes[:, :2], axis=1)
    assert np.nansum(area) == pytest.approx(2)
    deletion_insertion(trace, -np.nan_to_num(area, nan=9), n_steps=4, n_random=3, fill="grey")
    gray = [(images[0] == 128).all(axis=2).mean() for images in ran[0]]
    deletions = np.reshape(gray[2:5] + gray[8:], (4, 3))
    np.testing.assert_allclose(deletions, np.tile([0.25, 0.5, 0.75], (4, 1)), atol=0.04)
    np.testing.assert_allclose(1 - np.array(gray[5:8]), [0.25, 0.5, 0.75], atol=0.04)


def test_several_images_are_ranked_together(trace_of, ran):
    trace = trace_of("llava", ((64, 64), (32, 32)))
    values = constant(trace)
    values[1] += 1  # all of the second goes first
    deletion_insertion(trace, values, n_steps=2, n_random=0)
    half = ran[0][2]
    np.testing.assert_array_equal(half[0], np.asarray(trace.images[0]))
    assert (half[1] == half[1][0, 0]).all()
    mean = np.asarray(trace.images[1], dtype=float).mean(axis=(0, 1))
    np.testing.assert_allclose(half[1][0, 0], mean, atol=0.51)


def test_fills(trace, ran):
    for fill in ("mean", "blur", "grey"):
        curves = deletion_insertion(trace, np.zeros(49), n_steps=1, n_random=0, fill=fill)
        assert curves.fill == fill
    original = np.asarray(trace.images[0], dtype=float)
    mean, blur, grey = (run[1][0].astype(float) for run in ran)
    np.testing.assert_allclose(mean - original.mean(axis=(0, 1)), 0, atol=0.51)
    assert (grey == 128).all()
    # Without edges, but not without colours.
    assert np.abs(np.diff(original, axis=0)).max() > 100
    assert np.abs(np.diff(blur, axis=0)).max() < 10
    np.testing.assert_allclose(blur.mean(axis=(0, 1)), original.mean(axis=(0, 1)), atol=8)
    assert blur.std(axis=(0, 1)).min() > 20


def test_the_place_of_the_object_beats_random_orders(scenes):
    """And its opposite loses."""
    for image, boxes in zip(scenes.images, scenes.factors["boxes"], strict=True):
        trace = trace_answer(images=image)
        word = next(i for i, one in enumerate(trace.words) if one.text.startswith("dog"))
        inside = np.zeros((224, 224), dtype=bool)
        for left, top, right, bottom in boxes:
            inside[top:bottom, left:right] = True
        covered = trace.image_map([trace.grids[0].coverage(inside)], label="box", words=word)
        good, bad = module.deletions_insertions(
            trace, [(covered, word), (-covered.values[0], word)], n_steps=7, n_random=8
        )
        assert good.label == "box"
        assert bad.label == "map"
        assert good.deletion_area < good.random_deletion_areas.min()
        assert good.insertion_area > good.random_insertion_areas.mean()
        assert bad.deletion_area > good.random_deletion_areas.mean()
        np.testing.assert_array_equal(good.random_deletion, bad.random_deletion)


def test_areas_are_those_of_trapezoids(trace):
    curves = deletion_insertion(trace, np.arange(49.0), n_steps=3, n_random=2)
    down = curves.deletion
    assert curves.deletion_area == pytest.approx(
        (down[0] / 2 + down[1] + down[2] + down[3] / 2) / 3
    )
    assert len(curves.random_deletion_areas) == len(curves.random_deletion) == 2
    np.testing.assert_allclose(
        curves.random_insertion_areas, np.trapezoid(curves.random_insertion, curves.fractions)
    )


def test_words_of_the_map_are_scored_by_default(trace):
    options = {"n_steps": 1, "n_random": 0}
    attention = trace.image_attention(["white", "dog"])
    assert deletion_insertion(trace, attention, **options).word == "dog white"
    assert deletion_insertion(trace, attention, word="umbrella", **options).word == "umbrella"
    everything = deletion_insertion(trace, attention.values, **options)
    assert everything.word == " ".join(word.text for word in trace.words)
    assert everything.deletion[0] == pytest.approx(trace.probabilities.mean(), abs=1e-5)


def test_seed(trace):
    first, same, other = (
        deletion_insertion(trace, np.arange(49.0), n_steps=2, n_random=2, random_state=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.random_deletion, same.random_deletion)
    assert (first.random_deletion[:, 1] != other.random_deletion[:, 1]).any()
    np.testing.assert_allclose(first.deletion, other.deletion, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps must be an integer of at least 1, got 0"),
        ({"n_steps": 2.5}, "n_steps must be an integer of at least 1, got 2.5"),
        ({"n_random": -1}, "n_random must be an integer of at least 0, got -1"),
        ({"fill": "noise"}, "fill must be one of mean, blur, grey, got 'noise'"),
        ({"score": "loss"}, "score must be one of probability, logit, got 'loss'"),
        ({"word": "zebra"}, "'zebra' is not in the answer; it has 0: 'a', 1: 'dog'"),
        ({"map": np.zeros(7)}, r"the shape \(49,\): .*\(224, 224\): .*\(7, 7\): .* Got \(7,\)"),
        ({"map": [np.zeros(49), np.zeros(49)]}, "one array for each of 1 images, got 2"),
        ({"map": np.full(49, np.nan)}, "not finite"),
    ],
)
def test_bad_arguments(trace, arguments, message):
    with pytest.raises(ValueError, match=message):
        deletion_insertion(trace, **{"map": np.zeros(49), **arguments})


def test_maps_of_pixels_and_of_cells(trace):
    values = np.arange(49.0)
    pixels = np.kron(values.reshape(7, 7), np.ones((32, 32)))
    for given in (values.reshape(7, 7), pixels, [pixels]):
        np.testing.assert_allclose(trace.image_map(given).values[0], values)
    by_pixels = deletion_insertion(trace, pixels, "dog", n_steps=2, n_random=1)
    by_values = deletion_insertion(trace, values, "dog", n_steps=2, n_random=1)
    assert by_pixels.to_dict() == by_values.to_dict()


def test_a_map_knows_its_word_where_the_text_repeats(scenes):
    trace = trace_answer(images=scenes.images[0], answer="a dog and a cat")
    found = relevancy(trace, [0, 3])
    assert [word.text for word in trace.words] == ["a", "dog", "and", "a", "cat"]
    for index in (0, 3):
        curves = deletion_insertion(trace, found.map(index), n_steps=1, n_random=0)
        expected = trace.probabilities[trace.words[index].start]
        assert curves.word == "a" and curves.deletion[0] == pytest.approx(expected, abs=1e-5)


def test_tokens_without_places(trace_of):
    trace = trace_of("llava", answer="a dog")
    trace.grids[0].boxes = np.full_like(trace.grids[0].boxes, np.nan)
    with pytest.raises(ValueError, match="stand for no places in the image"):
        deletion_insertion(trace, constant(trace))


def test_saved_and_loaded(trace, tmp_path):
    curves = deletion_insertion(trace, np.arange(49.0), word="dog", n_steps=2, n_random=1)
    curves.save(tmp_path / "curves.npz")
    loaded = FaithfulnessCurves.load(tmp_path / "curves.npz")
    assert (loaded.word, loaded.score, loaded.deletion_area) == (
        "dog",
        "probability",
        curves.deletion_area,
    )
    np.testing.assert_array_equal(loaded.random_insertion, curves.random_insertion)
