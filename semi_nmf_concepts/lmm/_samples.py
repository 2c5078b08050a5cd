"""What tells the samples of one run from those of another."""

import hashlib
import json
import os

import numpy as np

from ._images import to_rgb
from ._reading import is_file, pixel_hash

# Items of a lazy sequence that are looked at: each may be costly.
_LOOKED_AT = 8


def digest_of_items(images):
    """What tells these images from others, as far as it can be told without reading files.

    Of a file that is its path, and of anything that is in memory its content. A lazy sequence is
    known by its ``content_keys()``, if it has this method as the bundled scenes do, and else by its
    length and a few of its items.
    """
    n = len(images)
    if hasattr(images, "content_keys"):
        return _digest(images.content_keys())
    if isinstance(images, (list, tuple, np.ndarray)):
        return _digest(map(_of_item, images))
    rows = np.linspace(0, n - 1, min(n, _LOOKED_AT)).astype(int).tolist()
    return _digest([str(n), *(_of_lazy(images, row) for row in rows)])


def digest_of_sizes(images, start, stop):
    """Digest of the sizes of those images of a range that are files; None for a lazy sequence."""
    if not isinstance(images, (list, tuple)):
        return None
    return _digest(str(_size(item)) for item in images[start:stop])


def _digest(texts):
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text).encode() + b"\n")
    return digest.hexdigest()


def _of_lazy(images, row):
    try:
        item = images[row]
    except Exception as error:  # what is wrong with it is said when its turn comes
        return type(error).__name__
    return _of_item(item)


def _of_item(item):
    if isinstance(item, bytes):
        return hashlib.sha256(item).hexdigest()
    if is_file(item):
        return os.path.abspath(os.fsdecode(item))
    try:
        return pixel_hash(to_rgb(item, 0))
    except (ValueError, TypeError):  # likewise
        return type(item).__name__


def _size(item):
    if isinstance(item, bytes) or not is_file(item):
        return None
    try:
        return os.stat(item).st_size
    except (OSError, ValueError):
        return None
