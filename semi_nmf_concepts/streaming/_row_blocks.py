"""The face of everything that rows come from, and what all of it shares."""

import contextlib
from abc import ABC, abstractmethod
from numbers import Integral

import numpy as np

from ._read_ahead import in_turn, one_ahead

# Bytes of a block of up-cast rows: so many that what is done once per block costs nothing.
_BLOCK = 2**26
_FEWEST = 256


def default_batch_size(n_features, dtype=np.float32):
    """Rows of a block where no number was asked for: about 64 MiB, and at least 256 rows.

    Parameters
    ----------
    n_features : int
    dtype : dtype, default=float32
        What the rows are handed out in.

    Returns
    -------
    batch_size : int

    Examples
    --------
    >>> from semi_nmf_concepts.streaming import default_batch_size
    >>> default_batch_size(2048)
    8192
    """
    return max(_FEWEST, _BLOCK // (n_features * np.dtype(dtype).itemsize))


class RowBlocks(ABC):
    """Rows of a matrix that is never in memory as a whole.

    :func:`open_rows` makes them. A pass, :meth:`blocks`, reads every row once and in order. Rows
    can be indexed like those of an array, by an integer, a slice, integers or a mask, and
    ``numpy.asarray`` reads them all. What is indexed is read into memory, so that the splits of
    scikit-learn work, too. Columns may be chosen on top, as in ``rows[:9, [0, 2]]``; all columns
    of these rows are read nevertheless.

    Attributes
    ----------
    shape : tuple of int
        (n_samples, n_features). n_samples is None as long as rows that can be read only once have
        not been.
    dtype : numpy.dtype
        Of what is handed out: float32 for float16, bfloat16 and float32, float64 for all else.
    skipped : dict of str to str
        What ``on_error="skip"`` left out: path of the file -> what is wrong with it.
    name : str
        Where the rows come from, for messages.
    places : tuple of str
        All files, stores and folders of shards that are read, so that nobody replaces them or
        adds to them meanwhile; empty where they are not known.

    Notes
    -----
    A subclass calls ``__init__`` with the attributes and defines `_pass`; one that can read any
    rows without a pass over all defines `_take` as well.

    Examples
    --------
    >>> import numpy as np
    >>> from semi_nmf_concepts.streaming import open_rows
    >>> rows = open_rows([np.eye(2, dtype=np.float16), np.ones((3, 2), np.float32)])
    >>> rows.shape, rows.dtype
    ((5, 2), dtype('float32'))
    >>> [(start, block.shape) for start, block in rows.blocks(batch_size=2)]
    [(0, (2, 2)), (2, (2, 2)), (4, (1, 2))]
    >>> rows[[4, 0]]
    array([[1., 1.],
           [1., 0.]], dtype=float32)
    """

    ndim = 2

    def __init__(self, shape, dtype, name, skipped=None, places=()):
        self.shape, self.dtype, self.name = tuple(shape), np.dtype(dtype), name
        self.skipped = {} if skipped is None else skipped
        self.places = tuple(map(str, places))

    @property
    def size(self):
        """How many numbers there are."""
        return len(self) * self.shape[1]

    @abstractmethod
    def _pass(self):
        """One pass: a context manager that gives a function ``read(out) -> n``.

        It writes the rows that come next into `out`, an array of `dtype` or a wider one, and
        returns how many. They fill `out`; fewer come only at the end of rows whose number is not
        known. It is called by one thread at a time.
        """

    def _take(self, indices, out):
        """Write the rows at these indices, which are sorted, into `out`."""
        done = 0
        with contextlib.closing(self.blocks()) as blocks:
            for start, block in blocks:
                stop = np.searchsorted(indices, start + len(block))
                out[done:stop] = block[indices[done:stop] - start]
                done = stop
                if done == len(indices):
                    return

    def blocks(self, batch_size=None, *, read_ahead=True):
        """One pass over all rows, in order.

        Parameters
        ----------
        batch_size : int, default=None
            Rows of a block, fewer only in the last. None: :func:`default_batch_size`. The blocks
            are the same however the rows are cut into files, chunks, or blocks of the source.
        read_ahead : bool, default=True
            Whether a thread reads and up-casts the next block while one is in use. What goes wrong
            there is raised here. The thread ends with the pass, and with one that is left early
            (when the generator is closed or collected).

        Yields
        ------
        start : int
            Index of the first row of the block.
        block : ndarray of shape (n_rows, n_features) and of type `dtype`, C-contiguous
            Valid until the next one is asked for: its memory is used again. It can also be the
            memory of the source, so it must not be written to.

        Raises
        ------
        ValueError
            If the source yields something else than it did in its first pass.
        OSError
            If a file cannot be read any more.
        """
        if batch_size is None:
            batch_size = default_batch_size(self.shape[1], self.dtype)
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} must be None or an integer of at least 1.")
        return self._blocks(int(batch_size), read_ahead)

    def _blocks(self, batch_size, read_ahead):
        n = self.shape[0]
        several = n is None or n > batch_size
        with self._pass() as read:
            make = _block_maker(read, self.shape, self.dtype, batch_size)
            yield from one_ahead(make) if read_ahead and several else in_turn(make)

    def take(self, indices):
        """Some of the rows.

        Parameters
        ----------
        indices : array-like of int
            Ascending; indices may repeat.

        Returns
        -------
        rows : ndarray of shape (len(indices), n_features)

        Notes
        -----
        Only these rows are read where the source allows it, all rows up to the last of them where
        they come from an iterator.
        """
        indices = _int_indices(indices)
        if len(indices) and (indices[0] < 0 or indices[-1] >= len(self)):
            raise IndexError(f"{self.name} has {len(self)} rows; indices must be within them.")
        if np.any(indices[1:] < indices[:-1]):
            raise ValueError("indices must be in ascending order.")
        out = np.empty((len(indices), self.shape[1]), self.dtype)
        if len(indices):
            self._take(indices, out)
        return out

    def locate(self, row):
        """What to call the row with this index in messages: its file, where there are several."""
        return f"row {row} of {self.name}"

    def __getitem__(self, key):
        if isinstance(key, tuple) or key is Ellipsis:
            key, columns = _rows_and_columns(key)
            return self[key] if columns is None else self[key][..., columns]
        indices = self._indices(key)
        order = np.argsort(indices, kind="stable")
        rows = self.take(indices[order])
        if np.any(order[1:] < order[:-1]):
            rows = rows[np.argsort(order)]
        return rows if isinstance(key, slice) or np.ndim(key) else rows[0]

    def _indices(self, key):
        """The rows that are asked for, counted from the first."""
        n = len(self)
        if isinstance(key, slice):
            return np.arange(*key.indices(n))
        keys = np.atleast_1d(key)
        if keys.dtype == bool and keys.shape == (n,):
            return np.flatnonzero(keys)
        indices = _int_indices(keys)
        return np.where(indices < 0, indices + n, indices)

    def __iter__(self):
        for _, block in self.blocks():
            yield from block.copy()

    def __len__(self):
        if self.shape[0] is None:
            raise TypeError(f"{self.name}: how many rows there are is not known yet.")
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError(f"{self.name}: rows that are read are a copy.")
        out = np.empty((len(self), self.shape[1]), self.dtype)
        with self._pass() as read:
            read(out)
        return out if dtype is None else out.astype(dtype, copy=False)

    def __repr__(self):
        return f"<{type(self).__name__} of {self.name}: shape {self.shape}, {self.dtype.name}>"


def _block_maker(read, shape, dtype, batch_size):
    """A function that returns (start, block), call after call, and None after the last.

    Two buffers take turns: one is in use while the other is filled.
    """
    n, n_features = shape
    buffers = [None, None]
    start = 0

    def make():
        nonlocal start
        n_left = batch_size if n is None else min(batch_size, n - start)
        if n_left == 0:
            return None
        if buffers[0] is None:
            buffers[0] = np.empty((n_left, n_features), dtype)
        buffers.reverse()
        block = buffers[1][:n_left]
        n_read = read(block)
        start += n_read
        return (start - n_read, block[:n_read]) if n_read else None

    return make


def _rows_and_columns(key):
    """The two parts of a key, the second None for all columns."""
    key = key if isinstance(key, tuple) else (key,)
    places = [i for i, part in enumerate(key) if part is Ellipsis]
    if len(key) - len(places) > 2 or len(places) > 1:
        raise IndexError("rows have two dimensions; the key is for more.")
    if places:
        before, after = key[: places[0]], key[places[0] + 1 :]
        key = before + (slice(None),) * (2 - len(before) - len(after)) + after
    rows, columns = key + (slice(None),) * (2 - len(key))
    if isinstance(columns, slice):
        return rows, None if columns == slice(None) else columns
    columns = np.asarray(columns)
    if not columns.size:
        columns = columns.astype(np.intp)
    if columns.ndim > 1 or columns.dtype.kind not in ("iub" if columns.ndim else "iu"):
        raise IndexError(
            "columns are indexed by an integer, a slice, integers, or a mask of all columns."
        )
    if columns.ndim and not isinstance(rows, slice) and np.ndim(rows):
        # An array would pair them.
        raise IndexError("give integers or a mask for rows or for columns: rows[key][:, columns].")
    return rows, columns


def _int_indices(indices):
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise IndexError(
            "rows are indexed by an integer, a slice, integers, or a mask of all rows."
        )
    return indices.astype(np.intp)
