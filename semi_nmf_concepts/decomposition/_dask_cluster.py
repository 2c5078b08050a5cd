"""Passes over a dask array on a cluster of `dask.distributed`: where codes stay, what gets lost.

What work remembers of a chunk is an object that lives on a worker from the first pass to the last.
The task of the chunk depends on it in every pass. So Dask itself brings the task to where it is,
moves both where that pays, spills it to disk where memory runs short, makes an empty one when its
worker dies, and drops it when the fit ends, or the process that fits. Since it is no result of a
pass, nothing that the scheduler knows grows with the number of passes.
"""

import textwrap
import time
import uuid
import warnings
from concurrent.futures import CancelledError
from contextlib import contextmanager

from .._dask_settings import WAIT_SETTING, patience
from .._messages import callers_level
from ._dask import Chunks, Memory

#: What takes up to so many bytes travels in the graph of every pass, by way of the scheduler; what
#: takes more is sent to the workers by itself.
_MOST_IN_GRAPH = 2**23
#: How often a pass is tried.
_ATTEMPTS = 4
#: States of futures that will not be computed.
_GONE = ("cancelled", "lost", "error")
#: Seconds between looks at whether a pass can end at all.
_LOOK_EVERY = 2.0


class _LostError(Exception):
    """A pass got lost through no fault of data or work; the cause says how."""


class OnCluster:
    """Computes the graphs of passes with a client of `dask.distributed`.

    Parameters
    ----------
    client : distributed.Client
    passes : DaskPasses
    """

    def __init__(self, client, passes):
        self.client = client
        self._lengths, self._bytes_per_row = passes.lengths, passes.bytes_per_row
        self._address = (
            "an unknown address" if client.scheduler is None else client.scheduler.address
        )
        self._check_connection()
        self.chunks = Chunks(passes.X)
        if self.chunks.nbytes > _MOST_IN_GRAPH:
            # The graph holds data (`dask.array.from_array` of an ndarray), which is sent once.
            self.chunks = Chunks(client.persist(passes.X))
        self._memories = [None] * len(passes.lengths)
        self._sent = None  # work, as long as the pass takes
        self._has_warned = False

    def memory(self, index):
        from dask.task_spec import TaskRef

        return TaskRef(self._memories[index].key)

    def shared(self, work, key, graph):
        """What tasks refer to the work by."""
        from dask.task_spec import DataNode, TaskRef

        if _pickled_bytes(work) <= _MOST_IN_GRAPH:
            graph[key] = DataNode(key, work)
            return TaskRef(key)
        self._await_workers()  # who would take it
        with self._losses():
            self._sent = self.client.scatter(work, broadcast=True, hash=False)
        return TaskRef(self._sent.key)

    def run(self, build):
        """The results of the graph and keys that ``build(self)`` returns."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with _beside_tasks():
                    return self._attempt(build)
            except _LostError as lost:
                self._check_connection()
                self._check_data()
                if attempt == _ATTEMPTS:
                    raise RuntimeError(self._given_up(lost.__cause__)) from lost.__cause__
                self._warn_once(lost.__cause__)
            finally:
                self._sent = None

    def _attempt(self, build):
        self._check_connection()
        self._place_memories()
        graph, keys = build(self)
        with self._losses():
            futures = self.client.get(graph, keys, sync=False)
        for future in futures:
            self._wait(future)
        with self._losses():
            return self.client.gather(futures)

    # Memories

    def _place_memories(self):
        """Ask for memories where there are none yet, or none any more."""
        from dask.task_spec import Task, TaskRef

        missing = [
            index
            for index, future in enumerate(self._memories)
            if future is None or future.status in _GONE
        ]
        free, beside, token = {}, {}, uuid.uuid4().hex
        for index in missing:
            key = (f"memory-{token}", index)
            nbytes = self._bytes_per_row * self._lengths[index]
            data = self.chunks.elsewhere[index]
            task = Task(key, _new_memory, nbytes, *map(TaskRef, data))
            (beside if data else free)[key] = task
        for nodes, hints in ((beside, {}), (free, self._hints(list(free)))):
            if not nodes:
                continue
            with self._losses(), _hinted(hints):
                futures = self.client.get(nodes, list(nodes), sync=False)
            for (_, index), future in zip(nodes, futures, strict=True):
                self._memories[index] = future
        # Workers that are ready at once would take over what those that are not were to do.
        for index in missing:
            self._wait(self._memories[index])

    def _hints(self, keys):
        """Workers for memories of chunks: neighbours together, whose results are added first."""
        with self._losses():
            threads = self.client.nthreads()
        slots = [worker for worker in sorted(threads) for _ in range(threads[worker])]
        return {key: [slots[i * len(slots) // len(keys)]] for i, key in enumerate(keys) if slots}

    # Waiting, and what can go wrong meanwhile

    def _wait(self, future):
        """Wait for a task, and raise what it raised."""
        deadline = None
        while future.status != "finished":
            try:
                with self._losses(unless=TimeoutError):
                    error = future.exception(timeout=_LOOK_EVERY)
            except TimeoutError:
                deadline = self._check_workers(deadline)
            else:
                return _raise(error, future)

    def _check_workers(self, deadline=None):
        """None where there are workers, otherwise the time up to which to wait for one."""
        with self._losses():
            if self.client.nthreads():
                return None
        where = f"The Dask cluster at {self._address} has no workers"
        if deadline is None:
            warnings.warn(
                f"{where}; waiting up to {patience():g} s for one.",
                UserWarning,
                stacklevel=callers_level(),
            )
            return time.monotonic() + patience()
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{where}, and none came within {patience():g} s. (`dask.config` has the time to "
                f"wait under {WAIT_SETTING!r}.)"
            )
        return deadline

    def _await_workers(self):
        deadline = self._check_workers()
        while deadline is not None:
            time.sleep(0.1)
            deadline = self._check_workers(deadline)

    def _check_connection(self):
        deadline = time.monotonic() + patience()
        while self.client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.client.status != "running":
            raise ConnectionError(
                f"No Dask scheduler can be reached at {self._address}: the client is "
                f"{self.client.status}."
            )

    def _check_data(self):
        """Raise where data are gone that only another client, or nobody, could compute again."""
        held = self.client.futures
        for index, keys in enumerate(self.chunks.elsewhere):
            if any(key not in held or held[key].status in _GONE for key in keys):
                raise ConnectionError(
                    f"Chunk {index} of X was persisted, and is lost, or was persisted with another "
                    "Dask client than the active one. X has to be persisted again."
                )

    @contextmanager
    def _losses(self, unless=()):
        """Errors in talking to the cluster become `_LostError`."""
        try:
            yield
        except unless:
            raise
        except Exception as error:
            # TimeoutError is an OSError; a client that closes raises many things.
            if isinstance(error, (CancelledError, OSError)) or self.client.status != "running":
                raise _LostError from error
            raise

    def _warn_once(self, cause):
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"A pass over the chunks of X was lost ({_described(cause)}) and is done again.",
                UserWarning,
                stacklevel=callers_level(),
            )

    def _given_up(self, cause):
        from distributed import KilledWorker

        advice = (
            " Workers that die again and again mostly lack memory: the largest chunk of X has "
            f"{max(self._lengths)} rows."
        )
        return (
            f"A pass over the chunks of X was lost {_ATTEMPTS} times, the last time to "
            f"{_described(cause)}.{advice if isinstance(cause, KilledWorker) else ''}"
        )


def _new_memory(nbytes, *data):
    return Memory(nbytes)


def _hinted(hints):
    """A context in which tasks go to some workers if possible, unless users said where."""
    import dask

    if not hints or "workers" in dask.get_annotations():
        return dask.annotate()
    return dask.annotate(workers=hints.get, allow_other_workers=True)


def _pickled_bytes(work):
    """Bytes of the work as it is sent; its arrays are not copied."""
    import cloudpickle

    buffers = []
    rest = cloudpickle.dumps(work, protocol=5, buffer_callback=buffers.append)
    return len(rest) + sum(buffer.raw().nbytes for buffer in buffers)


def _described(error):
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)


# What tasks raised --------------------------------------------------------------------------------


def _raise(error, future):
    from distributed import KilledWorker

    if isinstance(error, (KilledWorker, CancelledError)):
        raise _LostError from error
    if error is not None:
        raise error.with_traceback(future.traceback())


@contextmanager
def _beside_tasks():
    """In a task, leave the worker's threads to those that are waited for."""
    from distributed import get_worker, rejoin, secede

    try:
        get_worker()
        secede()
    except (ValueError, KeyError):  # in no task, or in one that has left already
        yield
        return
    try:
        yield
    finally:
        rejoin()
