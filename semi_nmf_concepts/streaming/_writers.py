"""Codes on their way to the disk: block after block, and there as a whole or not at all.

In a Zarr folder codes are one dense array, or a group that AnnData and others read as a sparse
matrix: attributes ``encoding-type`` ("csr_matrix"), ``encoding-version`` and ``shape``, and the
three arrays of the compressed sparse row format.
"""

import contextlib
import errno
import json
import os
from math import ceil
from numbers import Integral
from pathlib import Path

import numpy as np

from ._replacement import Replacement
from ._zarr import import_zarr

LAYOUTS = ("dense", "csr")
# What is held in memory, and a chunk of a dense Zarr array, at most.
_BLOCK_BYTES = 2**24
# Entries of a chunk of the three arrays of a sparse matrix: 4 or 8 MiB.
_SPARSE_CHUNK = 2**20
_CSR_ATTRIBUTES = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
_NPY_MAGIC = b"\x93NUMPY"
# No room: the disk, the quota, or the largest file that a process may write.
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


class CodesWriter:
    """Write codes block by block into a file or folder that appears whole or not at all.

    To be used in a ``with`` statement. What is written has a temporary name in the folder of `out`.
    At the end of the statement it is on the disk for good and takes the name `out`; if an error
    ends the statement, or fewer rows came than `shape` says, it is removed, and what was at `out`
    before is still there.

    Parameters
    ----------
    out : path-like
        - ``*.npy``: a NumPy file;
        - ``*.zarr``: a Zarr folder (format 3; extra ``zarr``).

        Missing folders above it are made. If it exists, it is replaced only if it is what this
        class writes there: a NumPy file; a Zarr folder with nothing but a 2-dimensional array
        ("dense") or a sparse matrix ("csr"). An empty folder may be there, too.
    shape : tuple of int
        (n_samples, n_components). n_samples may be None: as many as come.
    dtype : {"float32", "float64"} or dtype
        What is written. Blocks of another dtype are converted.
    layout : {"dense", "csr"}, default="dense"
        "csr" writes the entries that are not 0 into a ``*.zarr`` folder, as the arrays ``data``
        (of `dtype`), ``indices`` (columns, int32 where they fit) and ``indptr`` (int64).
    batch_size : int, default=None
        Rows that are worked on at once, and of a chunk of a dense Zarr array. None: as many as
        make up 16 MiB. What is on the disk does not depend on how rows were cut into blocks.

    Attributes
    ----------
    out : pathlib.Path
    shape : tuple of int
        With the number of rows that came, once the ``with`` statement is over.

    Raises
    ------
    TypeError, ValueError
        If a parameter is none of the above, or `out` is something that is not replaced.
    ImportError
        If `out` ends in ``.zarr`` and Zarr is not installed.
    OSError
        In the ``with`` statement, if writing fails, as on a full disk; the message names `out` and
        says what to do.

    See Also
    --------
    open_codes : Reads what is written here.

    Notes
    -----
    In memory are `batch_size` rows ("csr": a few times as much, where most entries are not 0), and
    one chunk of each array of a Zarr folder.

    A process that is killed leaves a file or folder ``.<32 hex digits>.tmp`` beside `out`, never a
    part under the name `out`. The next writer of `out` on the same machine removes it (not on
    Windows, where it cannot tell that nobody writes there any more). A folder is replaced by
    giving the old one a name ``.<32 hex digits>.old`` first; if the process is killed right then,
    the next writer of `out` gives the old folder its name back before it begins.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from semi_nmf_concepts.streaming import CodesWriter, open_codes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = Path(folder) / "codes.npy"
    ...     with CodesWriter(out, (None, 3), "float32") as writer:
    ...         for block in np.eye(3), np.ones((2, 3)):
    ...             writer.append(block)
    ...     writer.shape, open_codes(out).shape
    ((5, 3), (5, 3))
    """

    def __init__(self, out, shape, dtype, layout="dense", batch_size=None):
        self.out = _checked_out(out, layout)
        self.shape, self.dtype = _checked_shape(shape), _checked_dtype(dtype)
        self.layout = layout
        self.batch_size = _checked_batch_size(batch_size, self.shape[1] * self.dtype.itemsize)
        # Links are followed: what they lead to is replaced, not they.
        self._target = Path(os.path.realpath(self.out))
        self._check_replaceable()
        self._n_rows, self._replacement, self._codes = 0, None, None

    def __enter__(self):
        if self._replacement is not None:
            raise RuntimeError(f"{self.out} was written by this writer; make another one.")
        is_folder = self.out.suffix.lower() == ".zarr"
        self._replacement = Replacement(self._target, is_folder)
        try:
            with self._advice():
                self._replacement.open()
                kind = {"dense": _ZarrDense, "csr": _ZarrCSR}[self.layout] if is_folder else _Npy
                path, n_components = self._replacement.path, self.shape[1]
                self._codes = kind(path, n_components, self.dtype, self.batch_size)
        except BaseException:
            self._discard()
            raise
        return self

    def append(self, V):
        """Write rows below those that were written so far.

        Parameters
        ----------
        V : array-like of shape (n_rows, n_components)
            It may be changed afterwards.

        Raises
        ------
        TypeError
            If `V` does not hold real numbers.
        ValueError
            If `V` has another number of columns, or brings more rows than `shape` says.
        RuntimeError
            Outside of the ``with`` statement, and after writing has failed.
        OSError
            If it cannot be written.
        """
        if self._codes is None:
            raise RuntimeError(
                f"{self.out} is not being written: append() belongs into 'with CodesWriter(...) "
                "as writer:', and nothing can be appended after an error."
            )
        V = self._checked_block(V)
        try:
            with self._advice():
                for start in range(0, len(V), self.batch_size):
                    piece = V[start : start + self.batch_size]
                    self._codes.append(np.ascontiguousarray(piece, dtype=self.dtype))
        except BaseException:
            self._discard()
            raise
        self._n_rows += len(V)

    def __exit__(self, kind, error, traceback):
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def _finish(self):
        if self._codes is None:
            raise RuntimeError(f"{self.out} was not written, because of an error before.")
        if self.shape[0] not in (None, self._n_rows):
            raise ValueError(
                f"shape={self.shape} says {self.shape[0]} rows for {self.out}, got {self._n_rows}; "
                "nothing was left there."
            )
        with self._advice():
            self._codes.finish(self._n_rows)
            self._check_replaceable()  # much may have happened since the last time
            self._replacement.commit()
        self.shape, self._codes = (self._n_rows, self.shape[1]), None

    def _discard(self):
        if self._codes is not None:
            self._codes.close()
        self._codes = None
        self._replacement.discard()

    def _checked_block(self, V):
        V = np.asarray(V)
        if V.dtype.kind not in "fiub":
            raise TypeError(f"Codes are real numbers, got a block of dtype {V.dtype}.")
        n_samples, n_components = self.shape
        if V.ndim != 2 or V.shape[1] != n_components:
            raise ValueError(
                f"Blocks of codes for {self.out} have shape (n_rows, {n_components}), got {V.shape}"
                "."
            )
        if n_samples is not None and self._n_rows + len(V) > n_samples:
            raise ValueError(
                f"shape={self.shape} says {n_samples} rows for {self.out}, got more: "
                f"{self._n_rows + len(V)}."
            )
        return V

    def _check_replaceable(self):
        is_ours = {"dense": _is_dense_store, "csr": _is_csr_store}[self.layout]
        what = f"a Zarr folder with nothing but codes in layout {self.layout!r}"
        if self.out.suffix.lower() == ".npy":
            is_ours, what = _is_npy, "a NumPy file"
        if os.path.lexists(self._target) and not is_ours(self._target):
            raise ValueError(
                f"out={str(self.out)!r} exists, and only {what} is replaced; remove it, or choose "
                "another name."
            )

    @contextlib.contextmanager
    def _advice(self):
        """An error of the system says what could not be written, and what to do."""
        try:
            yield
        except OSError as error:
            advice = "choose a folder that can be written"
            if error.errno in _FULL:
                advice = "make room, or choose a folder on another disk"
            raise OSError(
                error.errno,
                f"cannot write codes ({error.strerror or error}), nothing of them was left; "
                f"{advice}",
                str(self.out),
            ) from error


class _Npy:
    """The header has a fixed length, and is written again when the number of rows is known."""

    def __init__(self, path, n_components, dtype, batch_size):
        self._n_components, self._dtype = n_components, dtype
        self._file = open(path, "r+b")  # noqa: SIM115 (open until finish or close)
        self._write_header(0)

    def append(self, block):
        if block.size:
            self._file.write(block.data)

    def finish(self, n_rows):
        self._file.seek(0)
        self._write_header(n_rows)
        self._file.close()

    def close(self):
        with contextlib.suppress(OSError):  # what is still to be written is of no use
            self._file.close()

    def _write_header(self, n_rows):
        # NumPy leaves room for the number of rows to grow.
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (n_rows, self._n_components)}
        np.lib.format.write_array_header_1_0(self._file, header)


class _ZarrDense:
    def __init__(self, path, n_components, dtype, batch_size):
        self._rows = _GrowingArray(_store(path), None, (n_components,), dtype, batch_size)

    def append(self, block):
        self._rows.append(block)

    def finish(self, n_rows):
        self._rows.finish()

    def close(self):
        """Zarr keeps no file open."""


class _ZarrCSR(_ZarrDense):
    def __init__(self, path, n_components, dtype, batch_size):
        store = _store(path)
        self._n_components, self._nnz = n_components, 0
        self._group = _zarr().create_group(store, zarr_format=3, attributes=_CSR_ATTRIBUTES)
        index_dtype = np.int32 if n_components <= np.iinfo(np.int32).max else np.int64
        self._data, self._indices, self._indptr = (
            _GrowingArray(store, name, (), np.dtype(dtype), _SPARSE_CHUNK)
            for name, dtype in (("data", dtype), ("indices", index_dtype), ("indptr", np.int64))
        )
        self._indptr.append(np.zeros(1, np.int64))

    def append(self, block):
        rows, columns = np.nonzero(block)
        self._data.append(block[rows, columns])
        self._indices.append(columns)
        self._indptr.append(self._nnz + np.cumsum(np.bincount(rows, minlength=len(block))))
        self._nnz += len(rows)

    def finish(self, n_rows):
        for array in (self._data, self._indices, self._indptr):
            array.finish()
        self._group.update_attributes({"shape": [n_rows, self._n_components]})


class _GrowingArray:
    """A Zarr array that grows downwards, in whole chunks."""

    def __init__(self, store, name, row_shape, dtype, n_chunk):
        self._store, self._name, self._array = store, name, None
        self._held, self._n_held = np.empty((n_chunk, *row_shape), dtype), 0

    def append(self, rows):
        while len(rows):
            n = min(len(rows), len(self._held) - self._n_held)
            self._held[self._n_held : self._n_held + n] = rows[:n]
            self._n_held += n
            rows = rows[n:]
            if self._n_held == len(self._held):
                self._write()

    def finish(self):
        if self._n_held or self._array is None:
            self._write()

    def _write(self):
        rows, self._n_held = self._held[: self._n_held], 0
        if self._array is None:
            # All that there is, if that is less than a chunk, is a chunk.
            self._array = _zarr().create_array(
                self._store,
                name=self._name,
                shape=(0, *rows.shape[1:]),
                chunks=(max(len(rows), 1), *rows.shape[1:]),
                dtype=rows.dtype,
                zarr_format=3,
                # So that a chunk that is not there is one that was lost, see `open_codes`.
                config={"write_empty_chunks": True},
            )
        if len(rows):
            self._array.append(rows)


def open_codes(path):
    """Open codes that a :class:`CodesWriter` wrote.

    Parameters
    ----------
    path : path-like
        A ``*.npy`` file, or a ``*.zarr`` folder (extra ``zarr``) with a 2-dimensional array or a
        sparse matrix in the manner of AnnData.

    Returns
    -------
    numpy.memmap, zarr.Array or scipy.sparse.csr_array of shape (n_samples, n_components)
        Of a NumPy file a read-only map; of a dense Zarr folder an array that is read where it is
        indexed; a sparse matrix is read into memory.

    Raises
    ------
    TypeError
        If `path` is no path.
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If there is something else, or it is damaged: cut off, say, or without one of its chunks,
        which Zarr itself would read as zeros.
    ImportError
        If `path` ends in ``.zarr`` and Zarr is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from semi_nmf_concepts.streaming import CodesWriter, open_codes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = Path(folder) / "codes.zarr"
    ...     with CodesWriter(out, (3, 3), "float32", layout="csr") as writer:
    ...         writer.append(np.eye(3))
    ...     codes = open_codes(out)
    >>> type(codes).__name__, codes.shape, codes.nnz
    ('csr_array', (3, 3), 3)
    """
    path = _checked_path(path, "path")
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "there are no codes", str(path))
    try:
        codes = _opened_npy(path) if path.suffix.lower() == ".npy" else _opened_zarr(path)
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} holds no codes, or is damaged: {error}") from error
    if codes.ndim != 2:
        raise ValueError(f"{path} holds no codes: its array has {codes.ndim} dimensions, not 2.")
    return codes


def _opened_npy(path):
    if not path.is_file():  # to open a pipe would wait for whoever writes
        raise ValueError("no regular file")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _opened_zarr(path):
    zarr = _zarr()
    node = zarr.open(_store(path, read_only=True), mode="r")
    if isinstance(node, zarr.Array):
        _check_chunks(node)
        return node
    if node.attrs.get("encoding-type") != _CSR_ATTRIBUTES["encoding-type"]:
        raise ValueError(
            "a group whose attribute 'encoding-type' is not 'csr_matrix' but "
            f"{node.attrs.get('encoding-type')!r}"
        )
    from scipy.sparse import csr_array

    arrays = tuple(_whole(node[name]) for name in ("data", "indices", "indptr"))
    codes = csr_array(arrays, shape=tuple(node.attrs["shape"]))
    codes.check_format(full_check=True)  # else wrong indices would be read from foreign memory
    return codes


def _whole(array):
    _check_chunks(array)
    return array[:]


def _check_chunks(array):
    """Raise ValueError where chunks are not there: Zarr would read zeros from them."""
    # array.nchunks_initialized takes time with the square of their number.
    folder = os.path.join(array.store.root, array.path)
    there = {
        os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
        for parent, _, names in os.walk(folder)
        for name in names
    }
    sizes = array.shards or array.chunks
    grid = (ceil(n / size) for n, size in zip(array.shape, sizes, strict=True))
    for place in np.ndindex(*grid):
        key = array.metadata.encode_chunk_key(place)
        if key not in there:
            raise ValueError(f"chunks of {array.name} are missing, such as {key}")


def _store(path, read_only=False):
    return _zarr().storage.LocalStore(path, read_only=read_only)


def _zarr():
    return import_zarr("Codes in a .zarr folder need Zarr")


def _is_npy(path):
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_NPY_MAGIC)) == _NPY_MAGIC


def _is_dense_store(path):
    node = _own_node(path, {"c"})
    return node == {} or (
        node is not None and node.get("node_type") == "array" and len(node["shape"]) == 2
    )


def _is_csr_store(path):
    node = _own_node(path, {"data", "indices", "indptr"})
    return node == {} or (
        node is not None
        and node.get("attributes", {}).get("encoding-type") == _CSR_ATTRIBUTES["encoding-type"]
    )


def _own_node(path, members):
    """What a Zarr folder says of itself; {} of an empty one, None if there is anything else."""
    if not path.is_dir():
        return None
    names = set(os.listdir(path))
    if not names:
        return {}
    if "zarr.json" not in names or names - {"zarr.json"} - members:
        return None
    try:
        node = json.loads((path / "zarr.json").read_bytes())
    except ValueError:
        return None
    return node if isinstance(node, dict) and node else None


def _checked_path(path, name):
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{name} is a path, got {type(path).__name__}.")
    if "://" in os.fspath(path):
        raise ValueError(f"{name} is a path in the file system, got the address {path!r}.")
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".npy", ".zarr"):
        raise ValueError(f"{name} ends in .npy or .zarr, got {str(path)!r}.")
    return path


def _checked_out(out, layout):
    path = _checked_path(out, "out")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {LAYOUTS}, got {layout!r}.")
    if layout == "csr" and path.suffix.lower() == ".npy":
        raise ValueError(f"layout='csr' needs an out that ends in .zarr, got {str(path)!r}.")
    if path.suffix.lower() == ".zarr":
        _zarr()
    return path


def _checked_shape(shape):
    try:
        n_samples, n_components = shape
    except (TypeError, ValueError):
        n_samples = n_components = -1
    if not (n_samples is None or _is_count(n_samples)) or not _is_count(n_components, least=1):
        raise ValueError(
            "shape is (n_samples, n_components), two integers, or None in the place of the first; "
            f"got {shape!r}."
        )
    return None if n_samples is None else int(n_samples), int(n_components)


def _checked_dtype(dtype):
    if dtype is None or np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype is float32 or float64, got {dtype}.")
    return np.dtype(dtype)


def _checked_batch_size(batch_size, row_bytes):
    if batch_size is None:
        return max(1, _BLOCK_BYTES // row_bytes)
    if not _is_count(batch_size, least=1):
        raise ValueError(f"batch_size is a positive integer or None, got {batch_size!r}.")
    return int(batch_size)


def _is_count(number, least=0):
    return isinstance(number, Integral) and not isinstance(number, bool) and number >= least
