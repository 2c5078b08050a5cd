"""Arrays in a safetensors file: written block by block, read without filling the memory.

The format: eight bytes with the length of a JSON header, the header with type, shape and place of
every array, then their bytes one after the other.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._files import write_atomically

#: What NumPy has no type for: an array of its bit patterns, ``array["bits"]``.
BFLOAT16 = np.dtype([("bits", "<u2")])
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class Place(NamedTuple):
    """Where an array is in a file."""

    dtype: np.dtype
    shape: tuple
    offset: int


@dataclass(frozen=True)
class Blocks:
    """An array that is never in memory as a whole.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    make : callable
        Returns an iterator over arrays that, one below the other, are the whole.
    """

    shape: tuple
    dtype: np.dtype
    make: Callable

    def __len__(self):
        return self.shape[0]


def write_arrays(path, arrays):
    """Write `arrays` whole or not at all.

    Parameters
    ----------
    path : path-like
    arrays : dict of str to (ndarray or Blocks)

    Returns
    -------
    digest : str
        SHA-256 of the file.
    """
    # The widest items first: every array then begins at a multiple of its item size.
    ordered = sorted(arrays.items(), key=lambda item: -np.dtype(item[1].dtype).itemsize)
    digest = hashlib.sha256()

    def chunks():
        for chunk in _chunks(ordered):
            digest.update(chunk)
            yield chunk

    write_atomically(path, chunks())
    return digest.hexdigest()


def _chunks(arrays):
    header, end = {}, 0
    for name, array in arrays:
        dtype = np.dtype(array.dtype)
        begin, end = end, end + int(np.prod(array.shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in arrays:
        for block in array.make() if isinstance(array, Blocks) else (array,):
            yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data


def map_arrays(path):
    """The arrays of a file, mapped into memory: read where and when they are used.

    They may be written to; the file does not change.

    Raises
    ------
    ValueError
        If the file is not a whole one of this format.
    """
    arrays = {}
    for name, (dtype, shape, offset) in find_arrays(path).items():
        if 0 in shape:  # there is nothing to map
            arrays[name] = np.empty(shape, dtype)
        else:
            arrays[name] = np.memmap(path, dtype, mode="c", offset=offset, shape=shape)
    return arrays


def find_arrays(path):
    """Name -> `Place` of the arrays of a file, from its header.

    Raises
    ------
    ValueError
        If the file is not a whole one of this format.
    """
    path = Path(path)
    n_bytes = path.stat().st_size
    with open(path, "rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if n_bytes < 8 or n_header > n_bytes - 8:
            raise ValueError(f"{path} is cut off.")
        text = file.read(n_header)
    start, ends, places = 8 + n_header, [0], {}
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            n_items = int(np.prod(shape, dtype=np.int64))
            if end - begin != n_items * dtype.itemsize or begin < 0:
                raise ValueError("an array has another size than its shape says")
            ends.append(end)
            places[name] = Place(dtype, shape, start + begin)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no safetensors file: {error!r}.") from error
    if start + max(ends) != n_bytes:
        raise ValueError(f"{path} is cut off or has more than its header says.")
    return places


def file_digest(path):
    """SHA-256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
