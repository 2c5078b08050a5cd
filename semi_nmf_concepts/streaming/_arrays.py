"""Rows of arrays: in memory, mapped into it, or in the chunks of a file."""

import contextlib
import mmap
import os

import numpy as np

from ._read_ahead import in_turn, one_ahead
from ._row_blocks import RowBlocks
from ._runs import runs
from ._up_cast import check_shape, handed_out, up_cast

# Bytes that are read from chunks at a time, in their own type.
_BAND = 2**24
# Bytes of a row of chunks that is kept, so that no chunk is read twice in a pass.
_LARGEST_BAND = 2**29


class ArrayRows(RowBlocks):
    """Rows of an ndarray, which may be mapped from a file.

    Blocks are parts of the array itself where its type and order allow it.
    """

    def __init__(self, array, name):
        check_shape(array.shape, name)
        places = _mapped_files(array)
        super().__init__(array.shape, handed_out(array.dtype, name), name, places=places)
        self._array, self.stored = np.asarray(array), array.dtype
        self._map = _FileMap(array) if getattr(array, "_mmap", None) is not None else None

    def _rows(self, key):
        if self._map is not None:
            self._map.check(self.name)
        return self._array[key]

    @contextlib.contextmanager
    def _pass(self):
        start = 0

        def read(out):
            nonlocal start
            up_cast(self._rows(slice(start, start + len(out))), out)
            start += len(out)
            return len(out)

        yield read

    def _blocks(self, batch_size, read_ahead):
        flags = self._array.flags
        if self._array.dtype != self.dtype or not (flags.c_contiguous and flags.aligned):
            yield from super()._blocks(batch_size, read_ahead)
            return
        starts = iter(range(0, len(self), batch_size))

        def make():
            start = next(starts, None)
            if start is None:
                return None
            view = self._rows(slice(start, start + batch_size))
            if self._map is not None:
                _touch(view)
            return start, view

        yield from one_ahead(make) if read_ahead and self._map is not None else in_turn(make)

    def _take(self, indices, out):
        step = max(1, _BAND // out[:1].nbytes)
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            up_cast(self._rows(indices[part]), out[part])


def _mapped_files(array):
    """The file that an array, or what it is a part of, is mapped from."""
    while array is not None:
        if getattr(array, "filename", None) is not None:
            return (array.filename,)
        array = getattr(array, "base", None)
    return ()


class _FileMap:
    """The file behind a np.memmap: to read where it no longer is would end the process."""

    def __init__(self, array):
        self._mmap = array._mmap
        self._stop = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY + len(self._mmap)

    def check(self, name):
        if self._mmap.size() < self._stop:
            raise OSError(f"{name} cannot be read any more: the file has become shorter.")


def _touch(view):
    """Have the pages of a mapped array in memory."""
    view.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max()


class ChunkedRows(RowBlocks):
    """Rows of an array that is read by slices: one of Zarr or h5py, say."""

    def __init__(self, array, name, places=None):
        check_shape(array.shape, name)
        places = _stores(array) if places is None else places
        super().__init__(array.shape, handed_out(array.dtype, name), name, places=places)
        self._array = array
        row = self.shape[1] * np.dtype(array.dtype).itemsize
        self._chunk = _rows_of_a_chunk(array)
        if self._chunk * row > _LARGEST_BAND:
            self._chunk = 1
        self._band = max(1, _BAND // (self._chunk * row)) * self._chunk

    def _rows(self, start, stop):
        try:
            rows = np.asarray(self._array[start:stop])
        except Exception as error:
            what = f"rows {start} to {stop} of {self.name} cannot be read: {error}"
            raise OSError(what) from error
        if rows.shape != (stop - start, self.shape[1]):
            raise OSError(f"{self.name} has changed since it was opened.")
        return rows

    @contextlib.contextmanager
    def _pass(self):
        start, band = 0, np.empty((0, self.shape[1]))

        def read(out):
            nonlocal start, band
            done = 0
            while done < len(out):
                if not len(band):
                    band = self._rows(start, min(start + self._band, len(self)))
                    start += len(band)
                n = min(len(band), len(out) - done)
                up_cast(band[:n], out[done : done + n])
                band = band[n:]
                done += n
            return done

        yield read

    def _take(self, indices, out):
        for part in runs(indices, self._chunk, self._band):
            first, last = indices[part][[0, -1]]
            up_cast(self._rows(first, last + 1)[indices[part] - first], out[part])


def _stores(array):
    """Where an array of Zarr or h5py is, if it is in the file system."""
    store = getattr(array, "store", None)
    if getattr(store, "root", None) is not None:
        return (os.path.join(store.root, array.path),)
    if isinstance(getattr(store, "path", None), os.PathLike):  # an archive
        return (store.path,)
    name = getattr(getattr(array, "file", None), "filename", None)
    return () if name is None else (os.fsdecode(name),)


def _rows_of_a_chunk(array):
    try:
        return max(1, int(array.chunks[0]))
    except (AttributeError, TypeError, NotImplementedError):  # contiguous, or chunks that differ
        return 1
