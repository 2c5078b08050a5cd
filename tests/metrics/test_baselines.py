"""Random words and images of noise."""

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone

from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.grounding import ground_text
from semi_nmf_concepts.lmm import LMMTokenFeaturizer
from semi_nmf_concepts.metrics import noise_images, random_words
from tests._fake_model import FakeHandle, LazyImages

WORDS = [["black", "dog"], ["ball"], ["snow"], []]


def test_words_of_random_directions():
    handle = FakeHandle()
    seen = []

    def ground(directions):
        seen.append(directions)
        return ground_text(directions, handle)

    drawn = random_words(WORDS, ground=ground, width=handle.width)
    assert [len(words) for words in drawn] == [2, 1, 1, 0]
    assert drawn == random_words(WORDS, ground=ground, width=handle.width)
    assert drawn != random_words(WORDS, ground=ground, width=handle.width, random_state=1)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_allclose(np.linalg.norm(seen[0], axis=1), 1, rtol=1e-6)
    assert seen[0].shape == (4, handle.width)


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_words_move_every_list(seed):
    drawn = random_words(WORDS, mode="shuffle", random_state=seed)
    assert sorted(drawn) == sorted(WORDS)
    assert all(new != old for new, old in zip(drawn, WORDS, strict=True))


def test_wrong_arguments_of_random_words():
    with pytest.raises(ValueError, match="mode must be 'direction' or 'shuffle', got 'random'"):
        random_words(WORDS, mode="random")
    with pytest.raises(ValueError, match="needs ground and width"):
        random_words(WORDS, ground=list)
    with pytest.raises(ValueError, match="at least two concepts"):
        random_words([["dog"]], mode="shuffle")


@pytest.fixture
def images(tmp_path):
    """The kinds of images that are taken, each 7 wide and 5 high when upright."""
    path = tmp_path / "plain.png"
    Image.new("L", (7, 5)).save(path)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 7)).save(turned, exif=exif)
    return [
        path,
        str(turned),
        Image.new("RGBA", (7, 5)),
        np.zeros((5, 7), np.uint8),
        np.zeros((5, 7, 3)),
    ]


def test_sizes_of_all_kinds_of_images(images):
    noise = noise_images(images)
    assert len(noise) == len(images)
    assert [(image.size, image.mode) for image in noise] == [((7, 5), "RGB")] * 5
    frame = pd.DataFrame({"image": images}, index=list("abcde"))
    assert [image.tobytes() for image in noise_images(frame)] == [i.tobytes() for i in noise]


def test_only_the_header_of_a_file_is_read(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with Image.open(path) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    assert noise_images([path])[0].size == (60, 50)


def test_every_image_depends_on_seed_and_position_alone(images):
    noise = noise_images(images, random_state=3)
    pixels = [image.tobytes() for image in noise]
    assert len(set(pixels)) == len(pixels)
    assert [noise[i].tobytes() for i in (4, 1, -3)] == [pixels[4], pixels[1], pixels[2]]
    part = noise[1:5][::2]
    assert [image.tobytes() for image in part] == pixels[1:5:2]
    assert len(noise[5:]) == 0
    again = pickle.loads(pickle.dumps(part))
    assert [image.tobytes() for image in again] == pixels[1:5:2]
    assert noise_images(images, random_state=np.int64(3))[2].tobytes() == pixels[2]
    assert noise_images(images, random_state=4)[2].tobytes() != pixels[2]
    drawn = noise_images(images, random_state=np.random.RandomState(0))
    assert drawn[0].tobytes() == drawn[0].tobytes()
    with pytest.raises(IndexError):
        noise[5]


def test_pixels_are_uniform():
    pixels = np.asarray(noise_images([np.zeros((200, 200), np.uint8)])[0])
    counts = np.bincount(pixels.ravel(), minlength=256)
    expected = pixels.size / 256
    # Chi-square with 255 degrees of freedom: mean 255, standard deviation 23.
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 23
    assert abs(np.corrcoef(pixels[..., 0].ravel(), pixels[..., 1].ravel())[0, 1]) < 0.03


def test_images_are_looked_at_when_asked_for():
    images = LazyImages(4)
    noise = noise_images(images)
    assert "4 images" in repr(noise) and images.reads == [0] * 4
    assert noise[2].size == (300, 200)
    assert images.reads == [0, 0, 1, 0]
    assert noise_images(load_scenes("test", n=3).images)[1:][0].size == (224, 224)


def test_states_of_noise_with_the_captions_of_the_real_images():
    """The recipe of the docstring: one state for each real one, in the same caption, another."""
    scenes = load_scenes("test", token="dog", n=6)
    featurizer = LMMTokenFeaturizer(token="dog")
    real = featurizer.extract(scenes.images)
    noise = noise_images([scenes.images[i] for i in real.indices])
    forced = clone(featurizer).set_params(position="forced")
    states = forced.extract(noise, captions=list(real.captions))
    assert states.Z.shape == real.Z.shape
    assert list(states.captions) == list(real.captions)
    assert (np.linalg.norm(states.Z - real.Z, axis=1) > 0.01 * np.linalg.norm(real.Z, axis=1)).all()
    same = forced.extract([scenes.images[i] for i in real.indices], captions=list(real.captions))
    np.testing.assert_allclose(same.Z, real.Z, rtol=1e-3, atol=1e-3)


def test_wrong_images(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        noise_images([])
    with pytest.raises(TypeError, match="must be a sequence of images, got a path"):
        noise_images("a.png")
    with pytest.raises(ValueError, match="random_state must not be negative"):
        noise_images([np.zeros((2, 2))], random_state=-1)
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    noise = noise_images([bad, tmp_path / "absent.png", 3])
    for i, error in enumerate([ValueError, ValueError, TypeError]):
        with pytest.raises(error, match=rf"image {i} \(|position {i}"):
            noise[i]
