import io
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from semi_nmf_concepts.lmm._images import ImageReadError, sample_prompts, split_samples, to_rgb
from tests.lmm._bad_images import UNREADABLE, encoded, noise, with_exif, write_unreadable


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


# Orientation -> how the pixels lie in the file, for which turn they are upright again.
LYING = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, 1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("orientation", LYING)
def test_exif_orientation_is_applied(orientation, damaged):
    """Also where other EXIF data are damaged, which is no fault of the image."""
    upright = np.asarray(noise(6, 4))
    lying = Image.fromarray(np.ascontiguousarray(LYING[orientation](upright)))
    content = with_exif(lying, "webp", orientation=orientation, damaged=damaged, lossless=True)
    np.testing.assert_array_equal(np.asarray(to_rgb(content, 0)), upright)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("written", ["exif", "xmp"])
def test_an_image_is_turned_once(written, tmp_path):
    """Also where it is cropped, saved or read in between, as other programs turn it, too."""
    orientation = ExifTags.Base.Orientation
    if written == "exif":
        content = with_exif(noise(6, 4), "png", orientation=6)
    else:
        content = encoded(noise(6, 4), "webp", lossless=True, xmp=XMP.encode())
    with Image.open(io.BytesIO(content)) as lying:
        assert lying.getexif()[orientation] == 6
    once = to_rgb(content, 0)
    assert once.size == (4, 6) and orientation not in once.getexif()
    assert to_rgb(once, 0).tobytes() == once.tobytes()
    assert to_rgb(once.crop((0, 0, 3, 6)), 0).tobytes() == once.crop((0, 0, 3, 6)).tobytes()
    once.save(tmp_path / "turned.png")
    assert to_rgb(tmp_path / "turned.png", 0).tobytes() == once.tobytes()


def test_an_orientation_that_means_nothing_changes_nothing():
    for orientation in (0, 9, 1000):
        assert to_rgb(with_exif(noise(6, 4), orientation=orientation), 0).size == (6, 4)


def test_bytes_are_the_content_of_a_file():
    for kind in ("png", "gif", "bmp", "tiff"):
        image = noise().quantize(100).convert("RGB")
        assert to_rgb(encoded(image, kind), 0).tobytes() == image.tobytes()


def test_cmyk_and_sixteen_bits():
    red = Image.new("RGB", (8, 8), (200, 30, 30))
    cmyk = np.asarray(to_rgb(encoded(red.convert("CMYK"), "jpeg", quality=100), 0)).astype(int)
    assert abs(cmyk - np.asarray(red).astype(int)).max() <= 4
    ramp = np.arange(0, 65536, 4096, dtype=np.uint16)[None]
    for kind in ("png", "tiff", "ppm"):
        grey = np.asarray(to_rgb(encoded(Image.fromarray(ramp), kind), 0))
        np.testing.assert_array_equal(grey, np.repeat(ramp[..., None] >> 8, 3, axis=2))
    transparent = encoded(Image.fromarray(ramp), "png", transparency=0)
    np.testing.assert_array_equal(np.asarray(to_rgb(transparent, 0)), grey)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("gif", "png", "webp", "tiff"):
        options = {"lossless": True} if kind == "webp" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(content)).n_frames == 3
        assert to_rgb(content, 0).tobytes() == frames[0].tobytes()


def test_transparent_palettes_are_laid_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    content = encoded(image, "png", transparency=1)
    assert np.asarray(to_rgb(content, 0)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_extreme_sizes(size):
    assert to_rgb(encoded(Image.new("RGB", size), "png"), 0).size == size


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


@pytest.mark.parametrize("name", UNREADABLE)
def test_unusable_files_are_named(name, tmp_path):
    path = write_unreadable(tmp_path, name)
    for item in (path, str(path)):
        with pytest.raises(ImageReadError, match=f"^image 5 .*{UNREADABLE[name][1]}") as caught:
            to_rgb(item, 5)
        text = str(caught.value)
        assert str(path) in text
        assert "on_error='skip' (--on-error skip)" in text
        assert "\n" not in text
        assert "on_error" not in caught.value.summary
    if path.is_file():
        with pytest.raises(ImageReadError, match=f"^image 5.*{UNREADABLE[name][1]}"):
            to_rgb(path.read_bytes(), 5)


def test_a_file_without_permission(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(ImageReadError, match=r"image 2 .*a\.png.*: Permission denied\."):
        to_rgb(tmp_path / "a.png", 2)


def test_other_unusable_items(tmp_path):
    for item, message in (
        ("https://example.org/a.jpg", "web addresses are not read"),
        ("a\0b.jpg", "null"),
        (None, "image 2 is missing"),
        (np.nan, "image 2 is missing"),
        (Image.new("RGB", (0, 5)), "image 2 .*empty, 0 x 5 pixels"),
    ):
        with pytest.raises(ImageReadError, match=message):
            to_rgb(item, 2)
    with pytest.raises(TypeError, match="dict at position 3"):
        to_rgb({}, 3)
    path = write_unreadable(tmp_path, "half.png")
    with (
        Image.open(path) as not_decoded,
        pytest.raises(ImageReadError, match=r"image 4 .*half\.png"),
    ):
        to_rgb(not_decoded, 4)


@pytest.mark.parametrize("width", [40, 60])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_images_beyond_the_limit_of_pillow(width, action, monkeypatch):
    """Pillow warns of the first and refuses the second; here both are errors."""
    content = encoded(noise(width, 40), "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(ImageReadError, match="image 3 .*limit of .*Make it smaller.*MAX_IMAGE"):
            to_rgb(content, 3)
    for limit in (width * 40, None):  # a photograph that is meant to be so large
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert to_rgb(content, 3).size == (width, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert to_rgb(noise(width, 40), 3).size == (width, 40)  # it is in memory already


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff", "bmp", "ppm"])
def test_damaged_files_of_any_kind_are_read_or_named(kind):
    whole = encoded(noise(24, 16), kind)
    generator = np.random.default_rng(0)
    n_named = 0
    for trial in range(60):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[generator.integers(len(content)) :]
        else:
            near = len(content) if trial % 3 == 1 else 100
            for place in generator.integers(min(near, len(content)), size=4):
                content[place] = generator.integers(256)
        try:
            assert to_rgb(bytes(content), 0).mode == "RGB"
        except ImageReadError:
            n_named += 1
    assert n_named > 0


def test_what_decoders_raise_is_named(monkeypatch):
    def fail(*args):
        raise RuntimeError("Failed to decode image: Missing or empty image item")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageReadError, match=r"image 1 .*Missing or empty image item\."):
        to_rgb(b"x", 1)
    monkeypatch.setattr(Image, "open", lambda *args: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):  # no fault of the image
        to_rgb(b"x", 1)


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


def test_prompts():
    X = ["a.png", "b.png"]
    frame = pd.DataFrame({"image": X, "prompt": ["what?", "where?"], "question": ["1", "2"]})

    def prompts(X, given=None, column="prompt"):
        return sample_prompts(X, given, prompt_column=column, n_images=2)

    assert prompts(X) is None
    assert prompts(frame[["image"]]) is None
    assert prompts(frame) == ["what?", "where?"]
    assert prompts(frame, column="question") == ["1", "2"]
    assert prompts(frame, ("a", "b")) == ["a", "b"]  # given ones take precedence
    assert prompts(X, pd.Series(["a", "b"], index=[7, 8])) == ["a", "b"]
    for wrong, error, message in (
        ("what?", TypeError, "one text per image.*parameter prompt"),
        (3, TypeError, "one text per image"),
        (["a"], ValueError, "got 1 entries for 2 images"),
        (["a", None], TypeError, r"prompts\[1\] must be a string, got NoneType"),
    ):
        with pytest.raises(error, match=message):
            prompts(X, wrong)
