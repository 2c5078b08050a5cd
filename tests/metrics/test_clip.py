"""CLIP scores, against the outputs of the model itself and values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from semi_nmf_concepts.metrics._clip import (
    clip_concept_scores,
    clip_score,
    clip_similarity,
    concept_texts,
    ground_truth_clip_score,
    load_clip,
    mas_clip_score,
)
from tests._tiny_clip import build_tiny_clip
from tests._tiny_llava import tiny_images

WORDS = [["dog", "snow"], [], ["cat"], ["red", "bus", "beach"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "model", seed=1)


@pytest.fixture
def encoder(folder):
    return load_clip(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    return tiny_images(6)


def raw_score(folder, image, text):
    """CLIPScore of one pair by transformers' own forward pass."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    inputs = {
        **AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="pt"),
        **AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt"),
    }
    with torch.inference_mode():
        output = model(**{k: v for k, v in inputs.items() if k != "token_type_ids"})
    return 2.5 * max(float(output.image_embeds[0] @ output.text_embeds[0]), 0.0)


# The scores


def test_scores_are_those_of_the_model(folder, images):
    scores = clip_concept_scores(images[:3], WORDS, model=folder, device="cpu")
    assert scores.dtype == np.float64
    for i in range(3):
        for k, text in enumerate(
            [
                "A photo is described by the words dog, snow.",
                None,
                "A photo is described by the words cat.",
                "A photo is described by the words red, bus, beach.",
            ]
        ):
            expected = raw_score(folder, images[i], text) if text else 0.0
            assert scores[i, k] == pytest.approx(expected, abs=2e-6), (i, k)
    assert np.count_nonzero(scores) >= 5  # not all clipped to 0


# Embeddings that give similarities worked out by hand: with unit texts e1, e2, e3 the cosines are
# the coordinates of the unit image.
HAND_IMAGES = np.array([[0.6, 0.8, 0.0], [0.0, 0.28, 0.96], [-1.0, 0.0, 0.0]])


class HandEncoder:
    """Stands for the model: concept "a" is e1, "b" is e2, "c" is e3."""

    def encode_texts(self, texts):
        return np.stack([np.eye(3)["abc".index(text)] for text in texts])


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setattr(
        "semi_nmf_concepts.metrics._clip.load_clip", lambda *args, **kwargs: HandEncoder()
    )
    return {"template": "{words}"}


def test_top_scores_by_hand(by_hand):
    # 2.5 max(cos, 0):  image 0: a 1.5, b 2.0, c 0; image 1: a 0, b 0.7, c 2.4; image 2: all 0.
    activations = np.array([[1.0, 3.0, 2.0], [5.0, 0.5, 4.0], [1.0, 1.0, 1.0]])
    scores = clip_score(HAND_IMAGES, activations, [["a"], ["b"], ["c"]], top=(1, 2, 3), **by_hand)
    np.testing.assert_allclose(scores[1], [2.0, 0.0, 0.0])
    np.testing.assert_allclose(scores[2], [1.0, 1.2, 0.0])
    np.testing.assert_allclose(scores[3], [3.5 / 3, 3.1 / 3, 0.0])


def test_default_is_top_1_and_top_3(by_hand):
    scores = clip_score(HAND_IMAGES, np.ones((3, 3)), [["a"], ["b"], ["c"]], **by_hand)
    assert list(scores) == [1, 3]
    assert list(clip_score(HAND_IMAGES, np.ones((3, 1)), [["a"]], top=2, **by_hand)) == [2]


def test_ties_fewer_active_concepts_and_none(by_hand):
    activations = np.array([[2.0, 2.0, 0.0], [0.0, 0.0, -3.0], [0.0, 0.0, 0.0]])
    scores = clip_score(HAND_IMAGES, activations, [["a"], ["b"], ["c"]], **by_hand)
    np.testing.assert_allclose(scores[1], [1.5, 0.0, 0.0])  # of equal ones the lower index
    np.testing.assert_allclose(scores[3], [1.75, 0.0, 0.0])  # the mean of the two that are active


def test_a_concept_without_words_counts_as_zero(by_hand):
    activations = np.array([[3.0, 2.0, 1.0]])
    scores = clip_score(HAND_IMAGES[:1], activations, [[], ["b"], ["a"]], **by_hand)
    np.testing.assert_allclose(scores[1], [0.0])
    np.testing.assert_allclose(scores[3], [3.5 / 3])


def test_mas_scores_by_hand(by_hand):
    scores = mas_clip_score(
        HAND_IMAGES, [[0, 1], [1], [], [2]], [["b"], ["c"], ["a"], []], **by_hand
    )
    np.testing.assert_allclose(scores, [(2.0 + 0.7) / 2, 2.4, np.nan, 0.0])


def test_ground_truth_scores_by_hand(by_hand):
    scores = ground_truth_clip_score(
        np.vstack([HAND_IMAGES, HAND_IMAGES[:1]]), [["a", "b"], "c", [], None]
    )
    np.testing.assert_allclose(scores, [(1.5 + 2.0) / 2, 2.4, np.nan, np.nan])


def test_ground_truth_scores_are_those_of_the_model(folder, images):
    captions = ["a dog", "a photo of the snow"]
    score = ground_truth_clip_score(images[:1], [captions], model=folder, device="cpu")
    expected = np.mean([raw_score(folder, images[0], caption) for caption in captions])
    assert score[0] == pytest.approx(expected, abs=2e-6)


def test_nothing_to_score(images):
    """No model is needed, so that one that does not exist is no error."""
    nowhere = {"model": "no-such-organisation/no-such-model"}
    assert clip_concept_scores([], WORDS, **nowhere).shape == (0, 4)
    scores = clip_score([], np.zeros((0, 4)), WORDS, **nowhere)
    assert scores[1].shape == scores[3].shape == (0,)
    assert not clip_concept_scores(images, [[], []], **nowhere).any()
    assert np.isnan(mas_clip_score([], [[]], [["dog"]], **nowhere)).all()
    assert ground_truth_clip_score([], [], **nowhere).shape == (0,)
    assert clip_score(images, np.zeros((6, 0)), [], **nowhere)[1].tolist() == [0.0] * 6


# What comes in


def test_embeddings_in_the_place_of_images(encoder, images):
    embeddings = encoder.encode_images(images)
    activations = np.random.default_rng(0).random((6, 4))
    expected = clip_score(images, activations, WORDS, model=encoder)
    for scale in (1.0, 7.0):  # rows of any length
        scores = clip_score(scale * embeddings, activations, WORDS, model=encoder)
        np.testing.assert_allclose(scores[3], expected[3], atol=1e-6)
    mas = mas_clip_score(embeddings, [[5], [0], [1, 3], []], WORDS, model=encoder)
    by_images = mas_clip_score(images, [[5], [0], [1, 3], []], WORDS, model=encoder)
    np.testing.assert_allclose(mas, by_images, atol=1e-6)
    references = [["dog"]] * 6
    np.testing.assert_allclose(
        ground_truth_clip_score(embeddings, references, model=encoder),
        ground_truth_clip_score(images, references, model=encoder),
        atol=1e-6,
    )


def test_only_the_images_that_count_are_read(encoder, images):
    class Reluctant(list):
        def __getitem__(self, i):
            assert i in (1, 4)
            return super().__getitem__(i)

    mas_clip_score(Reluctant(images), [[4], [1, 4]], [["dog"], ["cat"]], model=encoder)
    references = [None, "dog", [], None, ["cat", "bus"], None]
    ground_truth_clip_score(Reluctant(images), references, model=encoder)


def test_kinds_of_image_sequences(encoder, images, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    arrays = np.stack([np.asarray(image) for image in images])
    expected = encoder.encode_images(images)
    frame = pd.DataFrame({"image": paths}, index=range(10, 16))
    for given in (tuple(images), paths, arrays, frame["image"], iter(paths)):
        np.testing.assert_array_equal(encoder.encode_images(given), expected)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("photo.png", TypeError, "must be a sequence of images, got str"),
        (tiny_images(1)[0], TypeError, "must be a sequence of images, got Image"),
        (pd.DataFrame({"image": ["a.png"]}), TypeError, "pass its column"),
        (np.zeros((2, 3), dtype=int), ValueError, r"got \(2, 3\) of int64"),
        (np.zeros((5, 5, 3)), ValueError, r"got \(5, 5, 3\)"),
        (["no such file.png"], ValueError, r"image 0 \(no such file.png\) cannot be read"),
        ([None], ValueError, "image 0 is missing"),
        (np.full((2, 12), np.nan), ValueError, "image_embeddings contains NaN"),
        (np.ones((2, 5)), ValueError, "got 5 features of images and 12 of texts"),
    ],
)
def test_wrong_images(encoder, given, error, message):
    with pytest.raises(error, match=message):
        clip_concept_scores(given, [["dog"]], model=encoder)


def test_lengths_that_do_not_fit(images):
    words = {"words": WORDS, "model": "not/loaded"}
    with pytest.raises(ValueError, match="got 6 images and 5 rows of activations"):
        clip_score(images, np.ones((5, 4)), **words)
    with pytest.raises(ValueError, match="got 4 lists for 3 columns"):
        clip_score(images, np.ones((6, 3)), **words)
    with pytest.raises(ValueError, match="activations contains NaN"):
        clip_score(images, np.full((6, 4), np.nan), **words)
    with pytest.raises(ValueError, match="got 1 and 4"):
        mas_clip_score(images, [[0]], **words)
    with pytest.raises(ValueError, match="positions among the 6 images, got 6"):
        mas_clip_score(images, [[0], [], [6], []], **words)
    with pytest.raises(ValueError, match="got 2 for 6 images"):
        ground_truth_clip_score(images, ["a", "b"], model="not/loaded")
    with pytest.raises(TypeError, match=r"references\[0\] must be"):
        ground_truth_clip_score(images[:1], [[3]], model="not/loaded")


def test_wrong_options(encoder, images):
    for top in (0, (1, 0), (), "1"):
        with pytest.raises(ValueError, match="top must be integers of at least 1"):
            clip_score(images, np.ones((6, 4)), WORDS, model=encoder, top=top)
    for batch_size in (0, 1.5, True):
        with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
            clip_score(images, np.ones((6, 4)), WORDS, model=encoder, batch_size=batch_size)
    with pytest.raises(ValueError, match=r"template must be a string that contains '\{words\}'"):
        concept_texts(WORDS, "A photo of a {word}.")
    with pytest.raises(TypeError, match=r"words\[0\] must be a list of strings"):
        concept_texts(["dog"])


def test_templates_may_hold_other_braces():
    assert concept_texts([["a", "b"], []], "{x} {words}") == ["{x} a, b", ""]


def test_similarity_of_zero_rows():
    scores = clip_similarity(np.zeros((1, 2)), np.eye(2))
    np.testing.assert_array_equal(scores, [[0.0, 0.0]])
    with pytest.raises(ValueError, match="text_embeddings must have 2 dimensions"):
        clip_similarity(np.eye(2), np.ones(2))
