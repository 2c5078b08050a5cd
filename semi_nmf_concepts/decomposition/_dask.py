"""Dask arrays: the blocks are chunks, and threads, processes or a cluster visit them.

A pass is one graph: a task for each chunk, and a tree that adds up their results. The tree has the
same shape wherever and in whichever order it is computed, so that sums agree to the last bit.
"""

import threading
import uuid
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial, reduce

import numpy as np
from array_api_compat import is_cupy_array, is_dask_array

from .._messages import callers_level
from ..streaming import open_rows
from ._arrays import kind_of, to_numpy, widened
from ._row_passes import RowPasses, naming_rows

#: Results that are added at once.
_SPLIT_EVERY = 8


# Checks -------------------------------------------------------------------------------------------


def check_dask(X, rechunk=True):
    """A dask array whose chunks are rows of numbers; nothing is computed.

    Parameters
    ----------
    X : dask.array.Array
    rechunk : bool, default=True
        Whether columns that are split over chunks may be brought together, with a warning.

    Returns
    -------
    dask.array.Array of shape (n_samples, n_features)
        X with the same rows in each chunk.

    Raises
    ------
    TypeError
        For other arrays, and chunks that are neither NumPy's nor CuPy's.
    ValueError
        Where X is not 2-d, not of real numbers or empty, where the lengths of its chunks are
        unknown, a chunk has no rows, or columns are split and must not be brought together.
    """
    if not is_dask_array(X):
        raise TypeError(f"X should be a dask array, got {type(X).__name__}.")
    if X.ndim != 2:
        raise ValueError(
            f"X should have two dimensions (n_samples, n_features), its shape is {X.shape}."
        )
    if not _is_real(X.dtype):
        raise ValueError(f"X should hold real numbers, its dtype is {X.dtype}.")
    if not isinstance(X._meta, np.ndarray) and not is_cupy_array(X._meta):
        kind = type(X._meta)
        raise TypeError(
            "The chunks of X should be arrays of NumPy or CuPy, they are "
            f"{kind.__module__}.{kind.__name__}."
        )
    _check_lengths(X)
    return X if X.numblocks[1] == 1 else _with_whole_rows(X, rechunk)


def _check_lengths(X):
    if np.isnan(X.shape).any():
        raise ValueError(
            f"The chunks of X have unknown lengths, its shape is {X.shape}. "
            "X.compute_chunk_sizes() finds them out."
        )
    if 0 in X.shape:
        raise ValueError(f"X should have samples and features, its shape is {X.shape}.")
    lengths = X.chunks[0]
    if 0 in lengths:
        raise ValueError(
            f"Chunk {lengths.index(0)} of X has no rows. X.rechunk({{0: {max(lengths)}}}) leaves "
            "no empty chunks."
        )


def _with_whole_rows(X, rechunk):
    found = f"The columns of X are split over {X.numblocks[1]} chunks"
    if not rechunk:
        raise ValueError(f"{found}, and rechunk=False. X.rechunk({{1: -1}}) brings them together.")
    warnings.warn(
        f"{found}: X.rechunk({{1: -1}}) brings them together, in every pass anew. Chunks of whole "
        "rows, or X.rechunk({1: -1}).persist(), save that.",
        UserWarning,
        stacklevel=callers_level(),
    )
    return X.rechunk({1: -1})


def _is_short(dtype):
    return dtype.name in ("float16", "bfloat16")


def _is_real(dtype):
    return dtype.kind in "fiub" or _is_short(dtype)


def _working_dtype(dtype):
    return np.dtype(np.float32 if _is_short(dtype) or dtype == np.float32 else np.float64)


# Passes -------------------------------------------------------------------------------------------


class DaskPasses(RowPasses):
    """The chunks of a dask array, visited by the scheduler that is active in Dask at the time.

    Nothing is computed before the first pass. Chunks that are not persisted are computed anew in
    every pass, by the task that works on them.

    On a cluster, passes that are lost with workers or connections are done again where Dask does
    not make up for it by itself. What goes wrong in the data or the work is raised at once.

    Parameters
    ----------
    X : dask.array.Array of shape (n_samples, n_features)
        As `check_dask` returns it.
    dtype : numpy.dtype, default=None
        Of the blocks that work gets, float32 or float64. Default: float32 for float16, bfloat16
        and float32, which holds all their values, float64 for all others.
    bytes_per_row : int, default=0
        About how much work remembers of a row: for Dask, which counts what workers hold, and what
        it takes to move it.
    n_at_once : int, default=None
        Rows of a chunk that work gets at a time. Default: all.
    """

    def __init__(self, X, dtype=None, *, bytes_per_row=0, n_at_once=None):
        self.X, self.shape = X, X.shape
        self.dtype = _working_dtype(X.dtype) if dtype is None else np.dtype(dtype)
        self.lengths = X.chunks[0]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).tolist()
        self.bytes_per_row = bytes_per_row
        self.n_at_once = max(self.lengths) if n_at_once is None else n_at_once
        self._runner = None

    def reduce(self, work):
        [total] = self._active_runner().run(partial(self._sum, work))
        self.n_passes += 1
        return total

    def take(self, rows):
        rows = np.asarray(rows)
        if not len(rows):
            return np.empty((0, self.shape[1]), self.dtype)
        return np.concatenate(self._active_runner().run(partial(self._taken, rows)))

    def blocks(self):
        """One chunk after the other, as a working array in host memory."""
        for start, length in zip(self.starts, self.lengths, strict=True):
            yield self.take(np.arange(start, start + length))

    def close(self):
        self._runner = None  # and with it, here or on the workers, what work remembers

    def _active_runner(self):
        """What computes graphs: the same as last time, unless another scheduler was chosen."""
        from dask.base import get_scheduler

        get = get_scheduler(collections=[self.X])
        owner = getattr(get, "__self__", None)
        client = owner if hasattr(owner, "scatter") else None
        if self._runner is None or self._runner.client is not client:
            self.close()  # first, so that both do not hold their memories
            self._runner = _Here(self) if client is None else _on_cluster(client, self)
        if client is None:
            self._runner.get = get
        return self._runner

    # Graphs: a dict of nodes, and the keys of results in it

    def _sum(self, work, runner):
        graph, token = runner.chunks.shared(), uuid.uuid4().hex
        name = f"{type(work).__name__.lower()}-{token}"
        work = runner.shared(work, f"work-{token}", graph)
        keys = []
        for index, start in enumerate(self.starts):
            key = (name, index)
            graph[key] = runner.chunks.task(
                key,
                index,
                _worked,
                work,
                runner.memory(index),
                start,
                self.n_at_once,
                *self._expected(index),
            )
            keys.append(key)
        return graph, [_add_tree(graph, f"add-{name}", work, keys)]

    def _taken(self, rows, runner):
        graph, name = runner.chunks.shared(), f"take-{uuid.uuid4().hex}"
        chunks = np.searchsorted(self.starts, rows, side="right") - 1
        indices, firsts = np.unique(chunks, return_index=True)
        keys = []
        for index, part in zip(indices.tolist(), np.split(rows, firsts[1:]), strict=True):
            key = (name, index)
            graph[key] = runner.chunks.task(
                key, index, _picked, part - self.starts[index], *self._expected(index)
            )
            keys.append(key)
        return graph, keys

    def _expected(self, index):
        return f"Chunk {index}", (self.lengths[index], self.shape[1]), self.dtype


def _add_tree(graph, name, work, keys):
    """Add tasks that add up the results under the keys, neighbours first; key of the sum."""
    from dask.task_spec import Task, TaskRef

    level = 0
    while len(keys) > 1:
        groups = [keys[i : i + _SPLIT_EVERY] for i in range(0, len(keys), _SPLIT_EVERY)]
        keys = []
        for index, group in enumerate(groups):
            if len(group) > 1:
                key = (name, level, index)
                graph[key] = Task(key, _added, work, *map(TaskRef, group))
            keys.append(group[0] if len(group) == 1 else key)
        level += 1
    return keys[0]


# Tasks --------------------------------------------------------------------------------------------


def _worked(block, work, memory, start, n_at_once, name, shape, dtype):
    pieces = _pieces(_checked(block, name, shape), n_at_once, dtype)
    with (
        memory.borrowed() as contents,
        naming_rows(pieces, lambda row: _row_of_array(start + row)) as pieces,
    ):
        parts = (work(rows, start + i, contents.setdefault(i, {})) for i, rows in pieces)
        return reduce(work.add, parts)


def _pieces(block, n_at_once, dtype):
    """Pairs of first row and some rows of a chunk in the working dtype, in C order.

    Of a large chunk in host memory there is no whole copy: one of the size of a few rows, used
    again and again, stays in the cache, and costs no page faults.
    """
    if not isinstance(block, np.ndarray) or len(block) <= n_at_once:
        yield 0, _as_rows(block, dtype)
        return
    rows = open_rows(block)
    if rows.dtype == dtype:
        yield from rows.blocks(n_at_once, read_ahead=False)
        return
    for start, piece in rows.blocks(n_at_once, read_ahead=False):
        yield start, piece.astype(dtype)


def _row_of_array(row):
    return f"row {row} of X"


def _added(work, *results):
    return reduce(work.add, results)


def _picked(block, rows, name, shape, dtype):
    return to_numpy(_as_rows(_checked(block, name, shape)[rows], dtype))


def _checked(block, name, shape):
    """A chunk that is what the array says of it."""
    if tuple(block.shape) != shape or not _is_real(block.dtype):
        raise ValueError(
            f"{name} of X should hold real numbers in the shape {shape}; what was computed "
            f"for it is {block.dtype} in the shape {tuple(block.shape)}."
        )
    return block


def _as_rows(block, dtype):
    """A chunk in the working dtype and in C order, on the device where it is."""
    return kind_of(block).xp.asarray(widened(block), dtype=dtype, order="C")


class Memory:
    """What work remembers of a chunk from pass to pass, where the chunk is visited.

    Another process gets a copy. The size that it says it has is that which it will have, since Dask
    asks only once.
    """

    def __init__(self, nbytes, contents=None):
        self._nbytes, self._contents = nbytes, {} if contents is None else contents
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self):
        """The dict, or an empty one while a task that nobody waits for any more still has it."""
        if not self._lock.acquire(blocking=False):
            yield {}
            return
        try:
            yield self._contents
        finally:
            self._lock.release()

    def __sizeof__(self):
        return self._nbytes

    def __reduce__(self):
        return Memory, (self._nbytes, dict(self._contents))


# Chunks in graphs ---------------------------------------------------------------------------------


class Chunks:
    """The graph of a dask array, optimised once, for the graphs of all passes.

    Attributes
    ----------
    elsewhere : list of set
        For each chunk, keys of what was computed before, and is held by a client, that its task
        depends on.
    """

    def __init__(self, X):
        import dask
        from dask.core import flatten
        from dask.task_spec import GraphNode

        self._X = X  # futures in it keep alive what is elsewhere
        (X,) = dask.optimize(X)
        self._graph = dict(X.__dask_graph__())
        self._keys = list(flatten(X.__dask_keys__()))
        self._nodes = {}  # of chunks that nothing else depends on
        if all(isinstance(node, GraphNode) for node in self._graph.values()):
            self._take_out()
        self.elsewhere = [self._outside(key) for key in self._keys]

    def _take_out(self):
        """Take nodes out of the graph that can become one task with what is done to the chunk."""
        from dask.task_spec import Alias

        n_uses = Counter(key for node in self._graph.values() for key in node.dependencies)
        n_uses.update(self._keys)
        for i, key in enumerate(self._keys):
            while isinstance(self._graph.get(key), Alias) and n_uses[key] == 1:
                key = self._graph.pop(key).target
            self._keys[i] = key
        for key in self._keys:
            if n_uses[key] == 1 and key in self._graph:
                self._nodes[key] = self._graph.pop(key)

    def _outside(self, key):
        node = self._nodes.get(key)
        return ({key} if node is None else node.dependencies) - self._graph.keys()

    @property
    def nbytes(self):
        """Bytes of the graph, about: of the data, where it holds them."""
        from dask.sizeof import sizeof

        return sum(map(sizeof, [*self._graph.values(), *self._nodes.values()]))

    def shared(self):
        """A new graph with what tasks of chunks depend on."""
        return dict(self._graph)

    def task(self, key, index, function, *args):
        """A task that calls ``function(chunk, *args)``, and computes the chunk if it can."""
        from dask.task_spec import GraphNode, Task, TaskRef

        chunk = self._keys[index]
        task = Task(key, function, TaskRef(chunk), *args)
        node = self._nodes.get(chunk)
        return task if node is None else GraphNode.fuse(node, task)


# Where graphs are computed ------------------------------------------------------------------------


class _Here:
    """Computes the graphs of passes in threads or processes of this machine, or in this thread.

    Processes live no longer than a pass, and remember nothing.
    """

    client = None
    get = None  # a function of Dask that computes a graph

    def __init__(self, passes):
        self.chunks = Chunks(passes.X)
        if any(self.chunks.elsewhere):
            raise ConnectionError(
                "X was persisted by a Dask client which is closed, or not the active one."
            )
        self._memories = [Memory(0) for _ in passes.lengths]

    def memory(self, index):
        return self._memories[index]

    def shared(self, work, key, graph):
        """What tasks refer to the work by."""
        from dask.task_spec import DataNode, TaskRef

        graph[key] = DataNode(key, work)
        return TaskRef(key)

    def run(self, build):
        """The results of the graph and keys that ``build(self)`` returns."""
        graph, keys = build(self)
        return self.get(graph, keys)


def _on_cluster(client, passes):
    from ._dask_cluster import OnCluster

    return OnCluster(client, passes)


# Lazy results -------------------------------------------------------------------------------------


def map_rows(X, function, n_columns, dtype=None):
    """A lazy dask array of ``function(rows)`` for each chunk of rows.

    Parameters
    ----------
    X : dask.array.Array of shape (n_samples, n_features)
        As `check_dask` returns it.
    function : callable
        Gets rows in `dtype`, returns as many. It is sent to every worker once, not with every
        chunk.
    n_columns : int
        Columns that it returns.
    dtype : numpy.dtype, default=None
        Of rows and results, float32 or float64. Default: that of `DaskPasses`.

    Returns
    -------
    dask.array.Array of shape (n_samples, n_columns)
        Its name follows from X and the function: the same again has the same.
    """
    import dask.array
    from dask import delayed
    from dask.base import tokenize

    dtype = _working_dtype(X.dtype) if dtype is None else np.dtype(dtype)
    name = getattr(function, "__name__", type(function).__name__).lower()
    return dask.array.map_blocks(
        _applied,
        X,
        delayed(function, name=f"function-{tokenize(function)}", traverse=False),
        X.shape[1],
        dtype,
        dtype=dtype,
        chunks=(X.chunks[0], (n_columns,)),
        meta=X._meta[:0, :0].astype(dtype),
        name=f"{name}-{tokenize(function, X, n_columns, dtype)}",
    )


def _applied(block, function, n_features, dtype, block_info=None):
    (start, stop), _ = block_info[0]["array-location"]
    name = f"Chunk {block_info[0]['chunk-location'][0]}"
    rows = _checked(block, name, (stop - start, n_features))
    with naming_rows([(start, rows)], _row_of_array) as blocks:
        return function(_as_rows(next(blocks)[1], dtype))
