"""Rows of one file: .npy and .safetensors.

They are read, not mapped: a file that becomes shorter while it is mapped ends the process.
"""

import contextlib
import os
import stat

import numpy as np

from .._safetensors import find_arrays
from ._arrays import ArrayRows
from ._row_blocks import RowBlocks
from ._runs import runs
from ._up_cast import check_shape, handed_out, up_cast

SUFFIXES = (".npy", ".safetensors")
# Bytes that are read before they are up-cast: they stay in the cache of the CPU.
_PIECE = 2**19
# The name of the states in the files of extractions.
STATES = "Z"


def open_file(path, array_name=None):
    """Rows of a file.

    Parameters
    ----------
    path : Path
    array_name : str, default=None
        Which array of a .safetensors file. None: "Z", or else the only one with two dimensions.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no regular file, is cut off, or holds no such rows.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for whoever writes
        raise ValueError(f"{path} is no regular file.")
    if path.suffix == ".npy":
        return _open_npy(path)
    places = find_arrays(path)
    if array_name is None:
        named = [STATES] if STATES in places else []
        names = named or [name for name, place in places.items() if len(place.shape) == 2]
        if len(names) != 1:
            raise ValueError(
                f"{path} must have one array of two dimensions, or one that is called "
                f"{STATES!r}; it has {', '.join(map(repr, places)) or 'none'}."
            )
        (array_name,) = names
    elif array_name not in places:
        raise ValueError(f"{path} has no array {array_name!r}, but {', '.join(map(repr, places))}.")
    return FileRows(path, *places[array_name])


def _open_npy(path):
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is cut off or no .npy file: {error}") from error
    if array.ndim == 2 and not array.flags.c_contiguous:  # in the order of columns
        return ArrayRows(array, str(path))
    return FileRows(path, array.dtype, array.shape, array.offset)


class FileRows(RowBlocks):
    """Rows that lie one after the other in a file."""

    def __init__(self, path, dtype, shape, offset):
        check_shape(shape, str(path))
        super().__init__(shape, handed_out(dtype, path), str(path), places=[path])
        self._path, self._offset = path, offset
        self.stored = dtype
        self._row = shape[1] * dtype.itemsize
        self._size = os.stat(path).st_size

    @contextlib.contextmanager
    def _opened(self):
        with open(self._path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != self._size:
                raise OSError(f"{self._path} has changed since it was opened.")
            yield file

    @contextlib.contextmanager
    def _pass(self):
        with self._opened() as file:
            file.seek(self._offset)

            def read(out):
                self._read(file, out)
                return len(out)

            yield read

    def _take(self, indices, out):
        with self._opened() as file:
            for part in runs(indices, 1, max(1, _PIECE // self._row)):
                first, last = indices[part][[0, -1]]
                rows = np.empty((last + 1 - first, self.shape[1]), out.dtype)
                file.seek(self._offset + int(first) * self._row)
                self._read(file, rows)
                out[part] = rows[indices[part] - first]

    def _read(self, file, out):
        """The rows from where the file is."""
        if self.stored == out.dtype:
            self._fill(file, out)
            return
        step = max(1, _PIECE // self._row)
        piece = np.empty((min(step, len(out)), self.shape[1]), self.stored)
        for start in range(0, len(out), step):
            part = out[start : start + step]
            self._fill(file, piece[: len(part)])
            up_cast(piece[: len(part)], part)

    def _fill(self, file, array):
        wanted = memoryview(array.reshape(-1).view(np.uint8))
        while len(wanted):
            try:
                n = file.readinto(wanted)
            except OSError as error:
                what = f"cannot be read any more ({error.strerror or error})"
                raise OSError(error.errno, what, str(self._path)) from error
            if not n:
                raise OSError(f"{self._path} cannot be read any more: it has become shorter.")
            wanted = wanted[n:]
