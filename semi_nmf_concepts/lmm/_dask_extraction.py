"""Extraction by the workers of a Dask cluster: each runs the model on ranges and writes shards.

This is the caller's side; what a worker does is in `_dask_tasks.py`. The caller keeps manifest,
lock and joining, and runs no model: what results say about it, a worker tells. Few tasks are under
way at a time, about as many as keep the workers busy, so that images in memory are sent when their
turn comes, and an error leaves little to cancel. A task whose worker dies is given to another one
by Dask.
"""

import contextlib
import logging
import os
import queue
import time
import uuid
import warnings
from concurrent.futures import CancelledError

import numpy as np

from .._dask_settings import WAIT_SETTING, patience
from .._messages import callers_level
from ._dask_tasks import (
    Job,
    NamedImage,
    Piece,
    check_agreement,
    tell_facts,
    tell_identity,
    unpack,
    write_range,
)
from ._images import ImageReadError, to_rgb

# Tasks under way for each worker: one that runs, one that reads ahead (on a second thread), and one
# that waits, so that no worker waits for this process.
_AHEAD = 3
# Seconds after which to look whether there is still a cluster, while nothing comes from it.
_LOOK_EVERY = 1.0
# Seconds that a shard may take to become visible: network drives remember that a file was absent.
_VISIBLE_AFTER = 60.0


@contextlib.contextmanager
def cluster_of(client):
    """The `Cluster` of a client or of the address of a scheduler; None for None.

    Parameters
    ----------
    client : distributed.Client, str or None
        A client of one's own is closed at the end.

    Raises
    ------
    ImportError
        If Dask is not installed.
    TypeError, ValueError
        For another kind of client, or something that is no address.
    ConnectionError
        If the client is closed, or no scheduler answers at the address.
    """
    if client is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "client= needs Dask: pip install 'semi_nmf_concepts[dask]'", name=error.name
        ) from error
    if isinstance(client, str):
        with _connected(client) as connected:
            yield Cluster(connected)
        return
    if not isinstance(client, Client):
        raise TypeError(
            "client must be a distributed.Client, or the address of a scheduler such as "
            f"'tcp://host:8786', got {type(client).__name__}: {client!r}."
        )
    if client.asynchronous:
        raise TypeError(
            "client must not be asynchronous: extract waits for the workers. Give the address of "
            "the scheduler instead."
        )
    if client.status != "running":
        raise ConnectionError(
            f"client={client!r} is {client.status}: no cluster is reachable through it; make a new "
            "Client, and give that one."
        )
    yield Cluster(client)


@contextlib.contextmanager
def _connected(address):
    from distributed import Client
    from distributed.comm import parse_host_port

    seconds = patience()
    try:
        if not address.startswith("inproc://"):
            parse_host_port(address.rpartition("://")[2])  # a Client that fails here hangs at exit
        client = Client(address, timeout=seconds, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"no Dask scheduler can be reached at {address!r} (tried for {seconds:g} s). Start "
            "one (`dask scheduler`, and `dask worker` on each machine), or check the address; "
            "without client= (--dask) this machine extracts alone."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"client={address!r} is no address of a Dask scheduler, such as 'tcp://host:8786': "
            f"{error}"
        ) from error
    try:
        yield client
    finally:
        with _quiet_client():
            client.close()


@contextlib.contextmanager
def _quiet_client():
    """Without what a client logs when it closes after its scheduler: an error says so already."""
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Cluster:
    """The workers of a cluster, as a single extraction uses them.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client):
        self.client, self.address = client, client.scheduler.address
        self._id = uuid.uuid4().hex

    def identify(self, run):
        """Let a worker tell which model a run is about, at which precision."""
        (identity,) = self._results([(tell_identity, Job.of(run, self._id))])
        run.model_identity = identity

    def describe(self, run):
        """Let the workers tell what results say about the model; each of them then has it.

        Raises
        ------
        ValueError
            If they do not agree.
        """
        job, workers = Job.of(run, self._id), list(self._workers()) or [None]
        answers = list(self._results([(tell_facts, job)] * len(workers), workers))
        (first, facts), *others = answers
        for address, other in others:
            check_agreement(other, facts, address, first)
        differing = _differing_versions([facts for _, facts in answers])
        if differing:
            warnings.warn(
                f"the workers of {self.address} have different versions of {differing}; states "
                "may differ between them by more than rounding.",
                stacklevel=callers_level(),
            )
        run.facts = facts

    def fill(self, folder, ranges, *, on_error, progress):
        """Let the workers compute the shards of `ranges`.

        Parameters
        ----------
        folder : ShardFolder
        ranges : list of (start, stop)
        on_error : {"raise", "skip"}
        progress : tqdm or None

        Raises
        ------
        ImageReadError
            The first of an image that cannot be read, if `on_error` is "raise".
        ConnectionError, TimeoutError
            If the scheduler is gone, or there are no workers any more.
        OSError
            If a worker sees other files than this process, or none.
        """
        folder.check_image_processor()
        job = Job.of(folder.run, self._id, folder=folder, on_error=on_error)
        lazy = self._lazy_sequence(folder.run)
        pieces = ((write_range, job, _packed(folder, *bounds), lazy) for bounds in ranges)
        with contextlib.closing(self._results(pieces)) as results:
            for start, stop, batch_size, address in results:
                _wait_until_visible(folder.shard_path(start), address)
                self._warn_once(batch_size, job, address)
                if progress is not None:
                    progress.update(stop - start)

    def _lazy_sequence(self, run):
        """The images, on the workers, where they are not sent range by range; else None.

        It is the result of a task, which Dask makes again where it gets lost.
        """
        if _is_sent_in_pieces(run.images):
            return None
        import cloudpickle

        try:
            packed = cloudpickle.dumps(run.images)
        except Exception as error:  # pickling calls what the sequence defines
            raise TypeError(
                f"X is a lazy sequence ({type(run.images).__name__}) that cannot be pickled, so it "
                f"cannot be sent to workers: {error}. Give paths, or a sequence that opens its "
                "files when an item is asked for."
            ) from error
        return self._submit(unpack, packed)

    _warned = False

    def _warn_once(self, batch_size, job, address):
        if batch_size < job.batch_size and not self._warned:
            self._warned = True
            warnings.warn(
                f"{job.batch_size} images at a time do not fit into the memory of the worker "
                f"{address}; it goes on with batches of {batch_size}. batch_size={batch_size} "
                "avoids the attempts.",
                stacklevel=callers_level(),
            )

    # Tasks

    def _results(self, calls, workers=()):
        """Results of calls, (function, *arguments), in the order in which they end.

        `workers` names, call by call, the worker that should do it. What goes wrong in one of
        them is raised, and the others are cancelled.
        """
        calls, workers = iter(calls), iter(workers)
        under_way, done = set(), queue.SimpleQueue()
        try:
            while True:
                for call in self._next_calls(calls, len(under_way)):
                    future = self._submit(*call, worker=next(workers, None))
                    under_way.add(future)
                    future.add_done_callback(done.put)
                if not under_way:
                    return
                future = self._first_of(done)
                under_way.remove(future)
                yield self._result(future)
        finally:
            if under_way:
                with contextlib.suppress(Exception):  # of a cluster that is gone
                    self.client.cancel(list(under_way))

    def _next_calls(self, calls, n_under_way):
        n = max(1, _AHEAD * len(self._workers())) - n_under_way
        return [call for _, call in zip(range(n), calls, strict=False)]

    def _submit(self, function, *arguments, worker=None):
        import dask

        options = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
        # Dask warns of large arguments, which are meant for data that is read again and again.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            return self.client.submit(function, *arguments, pure=False, **options)

    def _first_of(self, done):
        """A future that has ended, unless the cluster is gone meanwhile."""
        since, seconds = time.monotonic(), patience()
        while True:
            with contextlib.suppress(queue.Empty):
                return done.get(timeout=min(_LOOK_EVERY, seconds))
            if self._workers():
                since = time.monotonic()
            elif time.monotonic() - since > seconds:
                raise TimeoutError(
                    f"the Dask scheduler at {self.address} has had no workers for {seconds:g} s. "
                    f"Start some (`dask worker {self.address}`) and call extract again; it goes on "
                    f"where it stopped. The setting {WAIT_SETTING} of dask.config is how "
                    "long to wait."
                )

    def _workers(self):
        """Address of every worker."""
        if self.client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                return self.client.nthreads()
        raise self._lost()

    def _lost(self):
        return ConnectionError(
            f"the connection to the Dask scheduler at {self.address} is lost. Call extract again "
            "when there is one; it goes on where it stopped."
        )

    def _result(self, future):
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        try:
            return future.result()
        except KilledWorker as error:
            raise ChildProcessError(
                f"workers of {self.address} died again and again over the same images (the last "
                f"was {error.last_worker.address}), perhaps for lack of memory: their logs may "
                "say more. Call extract again, with a smaller batch_size if so; it goes on where "
                "it stopped."
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise self._lost() from error


def _packed(folder, start, stop):
    """What a worker needs to know of a range, as bytes: the scheduler need not look into it."""
    import cloudpickle

    run = folder.run
    images = None
    if _is_sent_in_pieces(run.images):
        images = [_portable(run.images[index], index) for index in range(start, stop)]
    piece = Piece(
        start=start,
        stop=stop,
        images=images,
        references=run.references and run.references[start:stop],
        prompts=run.prompts and run.prompts[start:stop],
        path=folder.shard_path(start).absolute(),
        owner=folder.owner(start, stop),
    )
    return cloudpickle.dumps(piece)


def _is_sent_in_pieces(images):
    return isinstance(images, (list, tuple, np.ndarray))


def _portable(item, index):
    """An item of X as it is sent: a path, bytes, pixels, or what is wrong with it."""
    if isinstance(item, os.PathLike):
        return os.fsdecode(item)
    if isinstance(item, (str, bytes, np.ndarray)):
        return item
    # An image that Pillow has opened may be tied to its file, and loses what it knows of it.
    name = getattr(item, "filename", None) or None
    try:
        return NamedImage(to_rgb(item, index), name and os.fsdecode(name))
    except ImageReadError as error:
        return error


def _wait_until_visible(path, address):
    deadline = time.monotonic() + _VISIBLE_AFTER
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"the worker {address} has written {path}, but the file is not there for this "
                "process: out= must be a folder that all machines share."
            )
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # makes some network drives look again
        time.sleep(0.1)


def _differing_versions(answers):
    """Names of the packages that workers have in different versions."""
    known = [facts["versions"] for facts in answers]
    names = sorted({name for versions in known for name in versions})
    return ", ".join(n for n in names if len({versions.get(n) for versions in known}) > 1)
