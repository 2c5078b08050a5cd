"""Opening what rows come from."""

import errno
import os
import warnings
from pathlib import Path

import numpy as np

from .._messages import callers_level, some
from ._arrays import ArrayRows, ChunkedRows
from ._files import SUFFIXES, open_file
from ._folders import find_shards, is_listed
from ._row_blocks import RowBlocks
from ._sources import is_array_in_file, is_function, yields_blocks
from ._stacked import StackedRows
from ._yielded import open_yielded
from ._zarr import is_zarr, open_zarr


def open_rows(X, *, on_error="raise", once=False):
    """Rows of a matrix, wherever they are, to be read block by block.

    Parameters
    ----------
    X : RowBlocks, ndarray, array in a file, path, list of these, or object that yields blocks
        * an array, in memory, memory-mapped, or of Zarr or h5py;
        * a path: a file ``.npy``; a file ``.safetensors``, of which the array "Z" is taken, or the
          only one with two dimensions; a Zarr array, or group with such an array; a folder that
          an extraction wrote; a folder of shards ``.npy`` or ``.safetensors``, in the order of
          their names, where numbers are compared as numbers;
        * a list of any of these: one below the other;
        * an object that can be iterated over again and again and yields arrays of rows, such as a
          DataLoader of torch (arrays of NumPy or tensors in host memory), or a function that
          returns an iterator. All blocks are looked at once, now.
    on_error : {"raise", "skip"}, default="raise"
        What happens to files that are missing, cut off or otherwise unusable. "skip" leaves them
        out, with a warning; `RowBlocks.skipped` tells which, and why.
    once : bool, default=False
        Whether there will be a single pass. Then an iterator is accepted, too, and nothing is
        looked at before; the number of rows is known at the end.

    Returns
    -------
    RowBlocks

    Raises
    ------
    TypeError
        If `X` is nothing of the above.
    ValueError
        If rows are no real numbers, not in two dimensions, none, or of different width, or if a
        file is not whole.
    OSError
        If a file is not there (FileNotFoundError) or cannot be read.
    ImportError
        If Zarr is needed and not installed.

    Notes
    -----
    Only headers, sizes and counts are checked when files are opened, so that this takes no time.
    Nothing is ever unpickled. Chunks that a Zarr array does not have read as its fill value, mostly
    zeros: Zarr leaves chunks of nothing else away, so that one that was lost cannot be told.

    Any program may write a folder of shards with an index, ``rows.json``::

        {"format": 1, "array": "Z", "dtype": "float32", "n_features": 64,
         "files": [{"file": "shards/a.safetensors", "n_rows": 17}]}

    Paths are relative to the folder of the index; `array` is that of .safetensors files. An index
    is trusted: absolute paths and such with ``..`` may name any file that the process can read.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from semi_nmf_concepts.streaming import open_rows
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(3):
    ...         np.save(Path(folder, f"{i}.npy"), np.full((2, 4), i, np.float16))
    ...     _ = Path(folder, "1.npy").write_bytes(b"")
    ...     with warnings.catch_warnings(action="ignore"):
    ...         rows = open_rows(folder, on_error="skip")
    ...     np.asarray(rows)[:, 0]
    array([0., 0., 2., 2.], dtype=float32)
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r} must be 'raise' or 'skip'.")
    opener = _Opener(on_error == "skip")
    rows = opener.rows(X, "X", once)
    if opener.skipped:
        warnings.warn(_left_out(opener.skipped), UserWarning, stacklevel=callers_level())
    return rows


class _Opener:
    """Opens sources, and remembers what was left out."""

    def __init__(self, skip):
        self.skip, self.skipped = skip, {}

    def rows(self, X, name, once=False):
        if isinstance(X, RowBlocks):
            return X
        if isinstance(X, str | os.PathLike):
            return self.path(_path(X, name))
        if isinstance(X, np.ndarray):
            return ArrayRows(X, str(getattr(X, "filename", None) or name))
        if isinstance(X, list | tuple):
            return self.stacked([self.part(x, f"{name}[{i}]") for i, x in enumerate(X)], name)
        if is_array_in_file(X):
            return ChunkedRows(X, name)
        if yields_blocks(X) or is_function(X):
            return open_yielded(X, name, once)
        raise TypeError(
            f"{name} is of type {type(X).__name__}; rows come from arrays of NumPy, Zarr and h5py, "
            "paths of files and folders, lists of these, and objects that yield blocks of rows."
        )

    def part(self, X, name):
        """One of several: None if it is left out."""
        if isinstance(X, str | os.PathLike):
            return self.tried(X, lambda: self.path(_path(X, name)))
        return self.rows(X, name)

    def tried(self, path, open_):
        try:
            return open_()
        except (OSError, ValueError) as error:
            if not self.skip:
                raise
            self.skipped[str(path)] = str(error)
            return None

    def stacked(self, parts, name):
        parts = [part for part in parts if part is not None]
        if not parts and self.skipped:
            reason = next(iter(self.skipped.values()))
            raise ValueError(f"Nothing is left of {name}; the first was left out because: {reason}")
        if not parts:
            raise ValueError(f"{name} is empty; it must have at least one part.")
        skipped = dict(self.skipped)
        for part in parts:
            skipped.update(part.skipped)
        return parts[0] if len(parts) == 1 and not skipped else StackedRows(parts, name, skipped)

    def path(self, path):
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if is_zarr(path):
            return open_zarr(path)
        if path.is_dir():
            shards = find_shards(path)
            parts = [self.tried(shard.path, shard.open) for shard in shards]
            rows = self.stacked(parts, str(path))
            # Where an index says which files there are, others may come beside them.
            folder = [path] if is_listed(path) else []
            rows.places = tuple(map(str, [*folder, *(shard.path for shard in shards)]))
            return rows
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{path} is no file that rows are read from; there are {', '.join(SUFFIXES)}, "
                ".zarr, and folders."
            )
        return open_file(path)


def _path(path, name):
    if path == "":  # for pathlib the working directory, which nobody means by it
        raise ValueError(f"{name} is an empty path.")
    return Path(path).expanduser()


def _left_out(skipped):
    return f"{len(skipped)} file(s) left out: {some(list(skipped.values()))}"
