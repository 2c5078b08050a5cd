"""What the featurizer takes as X: paths, PIL images or arrays, with or without captions."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

ON_ERROR_ADVICE = "Replace or remove it; on_error='skip' (--on-error skip) leaves such images out."
# Of images that are larger than Pillow allows, as a guard against files that would fill the memory.
_SIZE_ADVICE = (
    "Make it smaller, or, if it is meant to be so large, raise the limit "
    "PIL.Image.MAX_IMAGE_PIXELS; on_error='skip' (--on-error skip) leaves such images out."
)
# EXIF orientation -> what makes the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of `Image.info`: where Pillow finds an orientation.
_HOLD_ORIENTATION = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


class ImageReadError(ValueError):
    """One image cannot be used; the message names it."""

    def __init__(self, summary, advice=""):
        super().__init__(summary, advice)
        self.summary = summary

    def __str__(self):
        return " ".join(filter(None, self.args))


def split_samples(X, captions, *, image_column, caption_column):
    """Images and reference captions of X.

    Parameters
    ----------
    X : sequence of images, array of objects, or DataFrame
    captions : sequence of (str | sequence of str | None), or None
        References that go with X; they take precedence over a column of X.

    Returns
    -------
    images : sequence
        Lazy where X is lazy.
    references : list of list of str, or None
        None when no captions are known at all; an empty list for a sample that has none.
    """
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        if captions is None and caption_column in X.columns:
            captions = X[caption_column].tolist()
        images = _image_column(X, image_column).tolist()
    else:
        images = _as_sequence(X)
    if len(images) == 0:
        raise ValueError("X holds no images: at least one image is needed.")
    return images, as_references(captions, len(images))


def sample_prompts(X, prompts, *, prompt_column, n_images):
    """The prompt of every sample, or None where all have the same.

    Parameters
    ----------
    X : sequence of images, or DataFrame
    prompts : sequence of str, or None
        They take precedence over a column of X.
    prompt_column : str
    n_images : int
    """
    if prompts is None:
        if not (hasattr(X, "columns") and hasattr(X, "iloc") and prompt_column in X.columns):
            return None
        prompts = X[prompt_column].tolist()
    if isinstance(prompts, str) or not hasattr(prompts, "__len__"):
        raise TypeError(
            "prompts must be a sequence with one text per image, got "
            f"{type(prompts).__name__}; one prompt for all images is the parameter prompt."
        )
    if len(prompts) != n_images:
        raise ValueError(
            f"prompts must have one entry per image: got {len(prompts)} entries for {n_images} "
            "images."
        )
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{i}] must be a string, got {type(prompt).__name__}.")
    return list(prompts)


def _image_column(frame, name):
    if name in frame.columns:
        return frame[name]
    if frame.shape[1] == 1:  # what a ColumnTransformer hands over, whatever it is called
        return frame.iloc[:, 0]
    raise ValueError(
        f"X is a DataFrame without the image column {name!r}; its columns are "
        f"{[str(c) for c in frame.columns]}. Name the column by image_column=."
    )


def _as_sequence(X):
    if isinstance(X, (str, os.PathLike, Image.Image, bytes)):
        kind = "a path" if isinstance(X, (str, os.PathLike)) else f"one {type(X).__name__}"
        raise TypeError(
            f"X must be a sequence of images, got {kind}. Put one image in a list; read a folder "
            "by semi_nmf_concepts.datasets.load_image_folder."
        )
    if isinstance(X, Mapping):
        raise TypeError("X must be a sequence of images or a DataFrame, got a mapping.")
    if isinstance(X, np.ndarray):
        return _array_as_sequence(X)
    if hasattr(X, "iloc"):  # a pandas Series: X[i] would look up labels
        return X.tolist()
    if hasattr(X, "__len__") and hasattr(X, "__getitem__"):
        return X
    try:
        return list(X)
    except TypeError:
        raise TypeError(
            f"X must be a sequence of images or a DataFrame, got {type(X).__name__}."
        ) from None


def _array_as_sequence(X):
    if X.dtype.kind in "OUS":
        if X.ndim == 2 and X.shape[1] == 1:
            X = X[:, 0]
        if X.ndim != 1:
            raise ValueError(
                f"an array of images must have the shape (n,) or (n, 1), got {X.shape}."
            )
        return X.tolist()
    if X.ndim == 4 or (X.ndim == 3 and X.shape[-1] not in (1, 3, 4)):
        return X
    raise ValueError(
        "a numeric array X must have the shape (n, height, width, channels) or (n, height, width), "
        f"got {X.shape}. Put one image in a list."
    )


def as_references(captions, n_images):
    if captions is None:
        return None
    if isinstance(captions, str) or not hasattr(captions, "__len__"):
        raise TypeError(
            "captions must be a sequence with one entry per image, each a string or a list of "
            f"strings, got {type(captions).__name__}."
        )
    if len(captions) != n_images:
        raise ValueError(
            f"captions must have one entry per image: got {len(captions)} entries for "
            f"{n_images} images."
        )
    return [_one_reference(entry, i) for i, entry in enumerate(captions)]


def _one_reference(entry, index):
    if isinstance(entry, str):
        return [entry]
    if _is_missing(entry):
        return []
    if isinstance(entry, (list, tuple, np.ndarray)) and all(isinstance(c, str) for c in entry):
        return [str(c) for c in entry]
    raise TypeError(
        f"captions[{index}] must be a string or a list of strings, got {type(entry).__name__}."
    )


def _is_missing(entry):
    """None, NaN and pandas' NA."""
    if entry is None:
        return True
    if isinstance(entry, float):
        return np.isnan(entry)
    return type(entry).__name__ in ("NAType", "NaTType")


def name_of(item, index):
    """How messages call an image."""
    item = getattr(item, "given", item)  # a path that is read under another name
    if isinstance(item, Image.Image):
        item = getattr(item, "filename", None) or None
    if isinstance(item, (str, os.PathLike)):
        return f"image {index} ({os.fsdecode(item)})"
    return f"image {index}"


def read_bytes(path, index):
    """Content of an image file."""
    try:
        return Path(os.fsdecode(path)).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if "://" in os.fsdecode(path):
            reason = "web addresses are not read; download the image first"
        raise ImageReadError(
            f"{name_of(path, index)} cannot be read: {reason}.", ON_ERROR_ADVICE
        ) from error


def to_rgb(item, index, content=None):
    """`item` as an upright PIL image in RGB.

    Parameters
    ----------
    item : path, bytes, PIL image or array
        Bytes are the content of an image file. Arrays: (height, width) or (height, width,
        1 | 3 | 4), uint8, bool, or float in [0, 1].
    index : int
        Position in X, for messages.
    content : bytes, default=None
        The file's content when it has been read already.

    Notes
    -----
    The orientation noted in EXIF is applied, transparency is laid over white, 16-bit grey is
    scaled to 8 bits, and of an animation the first frame is taken.
    """
    if isinstance(item, bytes):
        content = item
    if isinstance(item, (str, os.PathLike, bytes)):
        content = read_bytes(item, index) if content is None else content
        return _decode(lambda: _opened(content), item, index)
    if isinstance(item, Image.Image):
        return _decode(lambda: item, item, index)
    if isinstance(item, np.ndarray):
        return _from_array(item, index)
    if _is_missing(item):
        raise ImageReadError(f"image {index} is missing (None).", ON_ERROR_ADVICE)
    raise TypeError(
        "images must be paths, PIL images, NumPy arrays or bytes of image files, got "
        f"{type(item).__name__} at position {index}."
    )


def _decode(get_image, item, index):
    try:
        image = get_image()
        if 0 in image.size:
            raise ValueError(f"it is empty, {image.width} x {image.height} pixels")
        image.load()
        return _flatten(_upright(image))
    except MemoryError:
        raise
    except Exception as error:  # the readers of damaged files raise what they like
        too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
        raise ImageReadError(
            f"{name_of(item, index)} cannot be read as an image: {str(error).rstrip('.')}.",
            _SIZE_ADVICE if isinstance(error, too_large) else ON_ERROR_ADVICE,
        ) from error


def _opened(content):
    """PIL image, not yet decoded, of the content of an image file."""
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ValueError(_no_image(content)) from error
    if image.format == "EPS":  # Pillow would run Ghostscript on it
        raise ValueError("it is a PostScript drawing, which has no pixels")
    # Pillow itself only warns up to twice the limit.
    limit, n_pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and n_pixels > limit:
        raise Image.DecompressionBombError(f"its {n_pixels:,} pixels exceed the limit of {limit:,}")
    return image


def _no_image(content):
    """What is wrong with a file that Pillow does not recognise."""
    if not content:
        return "the file is empty"
    reason = "no image format that Pillow knows"
    start = content[:40].decode("latin-1").lstrip().partition("\n")[0].rstrip()
    is_text = start.isascii() and start.isprintable() and start
    return f"{reason}; it begins with {start!r}" if is_text else reason


def _upright(image):
    """`image`, turned as its EXIF data say."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged EXIF data say nothing, but the image itself is fine
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in _HOLD_ORIENTATION:  # or who opens the result again would turn it once more
        turned.info.pop(name, None)
    return turned


def _flatten(image):
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        # 16-bit files open as "I;16" or, in some formats, as 32-bit integers.
        grey = grey >> 8 if image.mode != "I" or grey.max() > 255 else grey
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_array(array, index):
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ImageReadError(
            f"image {index} must have the shape (height, width) or (height, width, 1|3|4), got "
            f"{array.shape}."
        )
    if 0 in array.shape:
        raise ImageReadError(f"image {index} is empty: shape {array.shape}.")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        # The negated form also catches NaN.
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageReadError(
                f"image {index} is a float array with values outside [0, 1] (or NaN); scale it, or "
                "pass uint8."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageReadError(
            f"image {index} must be uint8, bool or float in [0, 1], got {array.dtype}."
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _flatten(Image.fromarray(np.ascontiguousarray(array)))
