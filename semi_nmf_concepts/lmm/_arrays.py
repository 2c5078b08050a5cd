"""Arrays in a safetensors file: written block by block, read without filling the memory.

The format: eight bytes with the length of a JSON header, the header with type, shape and place of
every array, then their bytes one after the other.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._files import write_atomically

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {code: np.dtype(name) for name, code in _CODES.items()}


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
            "dtype": _CODES[dtype.name],
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
    path = Path(path)
    header, start = _header(path)
    arrays = {}
    for name, entry in header.items():
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        if 0 in shape:  # there is nothing to map
            arrays[name] = np.empty(shape, dtype)
        else:
            offset = start + entry["data_offsets"][0]
            arrays[name] = np.memmap(path, dtype, mode="c", offset=offset, shape=shape)
    return arrays


def _header(path):
    """(name -> entry, offset of the first array); the entries fit the file."""
    n_bytes = path.stat().st_size
    with open(path, "rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if n_bytes < 8 or n_header > n_bytes - 8:
            raise ValueError(f"{path} is cut off.")
        try:
            header = json.loads(file.read(n_header))
            header.pop("__metadata__", None)
            ends = [0]
            for entry in header.values():
                begin, end = entry["data_offsets"]
                n_items = int(np.prod(entry["shape"], dtype=np.int64))
                if end - begin != n_items * _DTYPES[entry["dtype"]].itemsize or begin < 0:
                    raise ValueError("an array has another size than its shape says")
                ends.append(end)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no safetensors file: {error!r}.") from error
    start = 8 + n_header
    if start + max(ends) != n_bytes:
        raise ValueError(f"{path} is cut off or has more than its header says.")
    return header, start


def file_digest(path):
    """SHA-256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
