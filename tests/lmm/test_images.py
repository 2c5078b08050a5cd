import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semi_nmf_concepts.lmm._images import ImageReadError, split_samples, to_rgb


def split(X, captions=None):
    return split_samples(X, captions, image_column="image", caption_column="caption")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "YCbCr"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    image = Image.new("L", (4, 3), 255)
    image = Image.new(mode, (4, 3), 65535) if mode.startswith("I") else image.convert(mode)
    rgb = to_rgb(image, 0)
    assert rgb.mode == "RGB"
    assert rgb.size == (4, 3)
    assert np.asarray(rgb).min() > 250


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert np.asarray(to_rgb(image, 0)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert image.mode == "RGBA"  # the caller's image stays as it was


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert to_rgb(tmp_path / "turned.jpg", 0).size == (2, 6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 3), (2, 3, 4), (1, 1, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "bool"])
def test_arrays(shape, dtype):
    array = np.ones(shape, dtype) * (255 if dtype == "uint8" else 1)
    rgb = to_rgb(array.astype(dtype), 0)
    assert rgb.size == shape[1::-1]
    assert np.asarray(rgb).min() == 255


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 2), np.uint8), "shape"),
        (np.zeros(3, np.uint8), "shape"),
        (np.zeros((0, 3), np.uint8), "empty"),
        (np.full((2, 2), 1.5), r"outside \[0, 1\]"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.zeros((2, 2), np.int64), "int64"),
    ],
)
def test_unusable_arrays_are_named(array, message):
    with pytest.raises(ImageReadError, match=f"image 7.*{message}"):
        to_rgb(array, 7)


def test_unusable_files_are_named(tmp_path):
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "png")
    cut, text, absent = (tmp_path / name for name in ("cut.png", "text.png", "absent.png"))
    cut.write_bytes(content.getvalue()[:900])
    text.write_text("no image")
    for path in (cut, text, absent, tmp_path):
        with pytest.raises(ImageReadError, match=f"image 5 .*{path.name}"):
            to_rgb(str(path), 5)
    with pytest.raises(ImageReadError, match="image 2 is missing"):
        to_rgb(None, 2)
    with pytest.raises(TypeError, match="dict at position 3"):
        to_rgb({}, 3)


def test_kinds_of_x(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    objects = np.array(paths, dtype=object)
    for X in (
        paths,
        tuple(paths),
        iter(paths),
        objects,
        objects[:, None],
        np.array(paths),
        pd.Series(paths, index=[5, 6, 7]),
        pd.DataFrame({"image": paths, "n": 1}, index=[2, 1, 0]),
        pd.DataFrame({"any name": paths}),
    ):
        images, references = split(X)
        assert list(images) == paths
        assert references is None
    for shape in ((2, 5, 5), (2, 5, 5, 3), (2, 5, 5, 4)):
        assert len(split(np.zeros(shape))[0]) == 2


class LazyImages:
    """A sequence that would be expensive to read whole."""

    def __len__(self):
        return 10**9

    def __getitem__(self, i):
        raise AssertionError("read too early")


def test_lazy_sequences_stay_lazy():
    images, _ = split(LazyImages())
    assert len(images) == 10**9


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, "no images"),
        (pd.DataFrame({"image": []}), ValueError, "no images"),
        ("photo.jpg", TypeError, "list"),
        (Image.new("L", (1, 1)), TypeError, "list"),
        (np.zeros((5, 5, 3)), ValueError, "list"),
        (np.zeros((5, 5)), ValueError, "list"),
        (np.zeros((2, 2), dtype=object), ValueError, "shape"),
        ({"image": []}, TypeError, "mapping"),
        (3, TypeError, "int"),
        (pd.DataFrame({"a": [1], "b": [2]}), ValueError, "image column 'image'.*'a', 'b'"),
    ],
)
def test_wrong_x(X, error, message):
    with pytest.raises(error, match=message):
        split(X)


def test_captions():
    X = ["a.png", "b.png", "c.png", "d.png"]
    captions = ["a dog", ["a cat", "cats"], None, np.nan]
    expected = [["a dog"], ["a cat", "cats"], [], []]
    assert split(X, captions)[1] == expected
    frame = pd.DataFrame({"image": X, "caption": captions})
    assert split(frame)[1] == expected
    assert split(frame, ["x"] * 4)[1] == [["x"]] * 4  # given ones take precedence
    with pytest.raises(ValueError, match="got 3 entries for 4 images"):
        split(X, captions[:3])
    with pytest.raises(TypeError, match=r"captions\[1\]"):
        split(X, ["a", 3, "b", "c"])
    with pytest.raises(TypeError, match="one entry per image"):
        split(X, "a dog")
