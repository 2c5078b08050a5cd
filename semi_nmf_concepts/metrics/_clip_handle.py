"""CLIP models as light handles, and what they remember of images and texts."""

import dataclasses
import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from numbers import Integral
from pathlib import Path

import numpy as np

from .._files import write_atomically

#: The CLIP model of the published scores.
DEFAULT_MODEL = "openai/clip-vit-base-patch32"
_REMEMBERED = 10_000  # texts an encoder keeps: 20 MB with 512 features
_FORMAT = 1  # of the files of the cache


def load_clip(model=DEFAULT_MODEL, *, device="auto", cache=None):
    """Handle of a CLIP model; nothing is loaded until the handle is used.

    Parameters
    ----------
    model : str, path or ClipEncoder, default="openai/clip-vit-base-patch32"
        - an id of the Hugging Face hub or a folder of that format, of type CLIP; the default is
          the model of the published scores;
        - "bundled", the small CLIP that ships with the package and knows its scenes;
        - through open_clip (extra ``clip``): ``"open_clip:NAME/PRETRAINED"``, where PRETRAINED is a
          tag (``open_clip:ViT-B-32/openai``) or the path of a .safetensors file, which for an
          absolute path gives two slashes (``open_clip:ViT-B-32//data/clip.safetensors``);
          ``"open_clip:hf-hub:ORGANISATION/NAME"``; ``"open_clip:local-dir:FOLDER"``.

        A handle is returned as it is, except for arguments that differ from their defaults.
    device : str or torch.device, default="auto"
        "auto": the first CUDA device if there is one, else the CPU.
    cache : path, default=None
        Folder where embeddings are kept, made if it does not exist. Without one, texts alone are
        remembered, by the handle.

    Returns
    -------
    ClipEncoder

    Raises
    ------
    TypeError
        If `model` is none of the above. What is wrong with the model itself shows when the handle
        is used: a ValueError (no such model, damaged files), an OSError (the hub cannot be
        reached) or an ImportError (open_clip is missing, or its torchvision does not fit torch).

    Notes
    -----
    Models run in float32 on every device; whether a GPU may use TF32 in convolutions is torch's own
    setting.

    Of open_clip, only .safetensors files are read. A tag that was trained with QuickGELU gets it,
    whatever its architecture says; with a file, choose the architecture that fits, such as
    ``ViT-B-32-quickgelu`` for weights of OpenAI.

    Examples
    --------
    >>> load_clip("some/folder", device="cpu")
    ClipEncoder(model='some/folder', device='cpu', cache=None)
    """
    cache = None if cache is None else os.fspath(cache)
    if isinstance(model, ClipEncoder):
        given = {
            "device": model.device if device == "auto" else str(device),
            "cache": model.cache if cache is None else cache,
        }
        changed = any(getattr(model, name) != value for name, value in given.items())
        return dataclasses.replace(model, **given) if changed else model
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise TypeError(
            "model must be a hub id, a folder, 'bundled', 'open_clip:NAME/PRETRAINED' or a "
            f"ClipEncoder, got {type(model).__name__}: {model!r}."
        )
    return ClipEncoder(os.fspath(model), str(device), cache)


@dataclass(frozen=True)
class ClipEncoder:
    """Which CLIP model, on which device, with which cache; made by :func:`load_clip`.

    Handles compare, hash, pickle and copy by these fields alone. Weights are read when something
    first needs them and are shared by all handles of the process with the same model and device.

    Attributes
    ----------
    model, device : str
    cache : str or None
    """

    model: str
    device: str = "auto"
    cache: str | None = None
    # text -> embedding, in the order of use: the words of concepts are scored again and again.
    _texts: OrderedDict = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    def __reduce__(self):
        return ClipEncoder, (self.model, self.device, self.cache)

    @property
    def _loaded(self):
        from ._clip_models import loaded_clip

        return loaded_clip(self.model, self.device)

    @property
    def fingerprint(self):
        """str: identity of the content, a hash of weights, configuration and preprocessing.

        The same for a hub id and for a copy in a folder, and on every device. The first access
        loads the model.
        """
        return self._loaded.fingerprint

    def encode_images(self, images, batch_size=64, verbose=0):
        """Embed images.

        Parameters
        ----------
        images : sequence of n images
            Paths, PIL images or arrays, see :func:`semi_nmf_concepts.lmm.to_rgb`. Of a lazy
            sequence, one image at a time is asked for, and one batch of resized ones is held.
        batch_size : int, default=64
            Images per run of the model; it changes the speed alone.
        verbose : int, default=0
            1 shows a progress bar.

        Returns
        -------
        embeddings : ndarray of float32, shape (n, d)
            Unit rows.

        Raises
        ------
        ValueError, TypeError
            If an image cannot be read (named by its position), or an argument is wrong.
        """
        images, batch_size = image_sequence(images), _check_batch_size(batch_size)
        loaded, store = self._loaded, self._store
        rows = np.zeros((len(images), loaded.width), dtype=np.float32)
        for batch in _batches(self._unknown_images(images, rows, store, verbose), batch_size):
            indices, keys, pixels = zip(*batch, strict=True)
            new = rows[list(indices)] = loaded.encode_images(list(pixels))
            store.put("image", keys, new)
        return rows

    def _unknown_images(self, images, rows, store, verbose):
        """Fill the `rows` that the store has; yield (index, key, pixels) of the others."""
        from tqdm import tqdm

        from ..lmm import to_rgb

        for i in tqdm(range(len(images)), desc="CLIP", unit="image", disable=verbose < 1):
            item = images[i]
            # Files are known by their bytes, so that a known one is not decoded.
            content = _content(item)
            image = to_rgb(item, i) if content is None else None
            key = store.image_key(content, image)
            known = store.get("image", key)
            if known is not None:
                rows[i] = known
                continue
            image = to_rgb(item, i, content) if image is None else image
            yield i, key, self._loaded.pixels(image)

    def encode_texts(self, texts, batch_size=256):
        """Embed texts, each different one once in the life of this handle.

        Parameters
        ----------
        texts : sequence of m str
            What is longer than the model's text positions (77 tokens for most) is cut off.
        batch_size : int, default=256
            Texts per run of the model; it changes the speed alone.

        Returns
        -------
        embeddings : ndarray of float32, shape (m, d)
            Unit rows.

        Raises
        ------
        TypeError
            If `texts` is not a sequence of strings.
        """
        texts, batch_size = _check_texts(texts), _check_batch_size(batch_size)
        known, store = {}, self._store
        for text in dict.fromkeys(texts):
            row = self._texts[text] if text in self._texts else store.get("text", text)
            if row is not None:
                known[text] = row
        unknown = [text for text in dict.fromkeys(texts) if text not in known]
        for batch in _batches(unknown, batch_size):
            rows = self._loaded.encode_texts(batch)
            known.update(zip(batch, rows, strict=True))
            store.put("text", batch, rows)
        self._remember(known)
        embeddings = np.zeros((len(texts), self._loaded.width), dtype=np.float32)
        for i, text in enumerate(texts):
            embeddings[i] = known[text]
        return embeddings

    def _remember(self, known):
        for text, row in known.items():
            self._texts[text] = row
            self._texts.move_to_end(text)
        while len(self._texts) > _REMEMBERED:
            self._texts.popitem(last=False)

    @property
    def _store(self):
        return _EmbeddingStore(self.cache, self._loaded)


class _EmbeddingStore:
    """A folder of embeddings: one small NPY file each, named by all that it depends on.

    An entry is never wrong, only unused, and processes can share a folder. One that cannot be read
    counts as absent and is written again. Without a folder, nothing is kept.
    """

    def __init__(self, folder, loaded):
        self.folder, self._loaded = None, loaded
        if folder is None:
            return
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cache={str(folder)!r} is not a folder that can be used: {error}."
            ) from error

    def image_key(self, content, image):
        """What an image is known by: the bytes of its file, else the pixels of a PIL image."""
        if self.folder is None:
            return None
        if content is None:
            content = f"{image.size} ".encode() + image.tobytes()
        return hashlib.sha256(content).hexdigest()

    def _path(self, kind, key):
        address = json.dumps([_FORMAT, self._loaded.fingerprint, kind, key])
        name = hashlib.sha256(address.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"

    def get(self, kind, key):
        """The embedding, or None."""
        if self.folder is None:
            return None
        path = self._path(kind, key)
        try:
            row = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
            whole = row.dtype == np.float32 and row.shape == (self._loaded.width,)
            # A unit row: the zeros of a file that was never filled, or flipped bits, are not.
            return row if whole and abs(np.linalg.norm(row) - 1) < 1e-3 else None
        except Exception:  # absent, half a file of a full disk, garbage: computed again in any case
            return None

    def put(self, kind, keys, rows):
        """Store one row for each key."""
        if self.folder is None:
            return
        for key, row in zip(keys, rows, strict=True):
            content = io.BytesIO()
            np.save(content, row, allow_pickle=False)
            write_atomically(self._path(kind, key), content.getvalue())


def is_embeddings(images):
    return isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f"


def image_sequence(images):
    """`images` as something with a length and positions; lazy where it is lazy."""
    if is_embeddings(images):
        return images
    if isinstance(images, (str, bytes, os.PathLike, Mapping)) or hasattr(images, "convert"):
        raise TypeError(
            f"images must be a sequence of images, got {type(images).__name__}. Put one image in a "
            "list."
        )
    if hasattr(images, "columns"):
        raise TypeError("images must be a sequence, got a table: pass its column of images.")
    if hasattr(images, "iloc"):  # a pandas Series: images[i] would look up labels
        return images.tolist()
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":
        _check_image_array(images)
    if hasattr(images, "__len__") and hasattr(images, "__getitem__"):
        return images
    return list(images)


def _check_image_array(images):
    if images.ndim == 4 or (images.ndim == 3 and images.shape[-1] not in (1, 3, 4)):
        return
    raise ValueError(
        "images as one array must have the shape (n, height, width) or (n, height, width, "
        f"channels), or be (n, d) embeddings of floats, got {images.shape} of {images.dtype}."
    )


def _check_texts(texts):
    texts = texts if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts must be a list of strings, got {texts!r}.")
    return [str(text) for text in texts]


def _check_batch_size(batch_size):
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}.")
    return int(batch_size)


def _batches(items, size):
    """Lists of up to `size` items, made as they are asked for."""
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


def _content(item):
    """Bytes of an image file; None for other images, and for a file that cannot be read."""
    if not isinstance(item, (str, os.PathLike)):
        return None
    try:
        return Path(item).read_bytes()
    except OSError:
        return None  # to_rgb says what is wrong with it
