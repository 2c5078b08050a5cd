"""What is sent to the workers of a Dask cluster for an extraction, and what they do with it."""

import dataclasses
import os
import pickle
import threading
from dataclasses import dataclass
from pathlib import Path

from ._handle import ModelHandle
from ._location import folder_of, is_bundled
from ._representations import MANIFEST
from ._run import Run
from ._samples import digest_of_sizes
from ._shard_files import full_parts, write_shard


@dataclass(frozen=True)
class Job:
    """What all tasks of an extraction have in common.

    Attributes
    ----------
    id : str
    handle : ModelHandle
        With an absolute path, if it is a folder.
    request : Request
    cache_folder : str or None
    batch_size : int
    n_jobs : int or None
    cwd : str
        Where relative paths of images begin.
    package_version : str
    folder : str or None
        Of the extraction.
    on_error : {"raise", "skip"}
    facts : dict or None
        What the model must be.
    """

    id: str
    handle: ModelHandle
    request: object
    cache_folder: str | None
    batch_size: int
    n_jobs: int | None
    cwd: str
    package_version: str
    n_samples: int
    folder: str | None = None
    on_error: str = "raise"
    facts: dict | None = None

    @classmethod
    def of(cls, run, id, folder=None, on_error="raise"):
        """The job of a run, and of the folder that it fills, if it is that far."""
        from .. import __version__

        handle = run.handle
        if folder_of(handle) is not None and not is_bundled(handle):
            handle = dataclasses.replace(handle, model=str(folder_of(handle).absolute()))
        cache = run.cache_folder
        return cls(
            id=id,
            handle=handle,
            request=run.request,
            cache_folder=None if cache is None else str(Path(cache).expanduser().absolute()),
            batch_size=run.batch_size,
            n_jobs=run.n_jobs,
            cwd=os.getcwd(),
            package_version=__version__,
            n_samples=len(run.images),
            folder=None if folder is None else str(folder.folder.absolute()),
            on_error=on_error,
            facts=None if folder is None else run.facts,
        )


@dataclass
class Piece:
    """A range of samples, and where their shard goes.

    Attributes
    ----------
    start, stop : int
    images, references, prompts : list or None
        Of the range.
    path : pathlib.Path
    owner : list
    """

    start: int
    stop: int
    images: list | None
    references: list | None
    prompts: list | None
    path: Path
    owner: list


@dataclass
class NamedImage:
    """An image in memory, and the file that it once came from."""

    image: object
    filename: str | None


# However many threads a worker has: the model, and its tokenizer, are used by one at a time.
_model_lock = threading.Lock()
# A lazy sequence may not be safe to use in several threads.
_sequence_lock = threading.Lock()
# Of the job that this process works on: id -> batch size that fits the memory, as far as tried.
_fitting = {}


def tell_identity(job):
    """Task: which model it is."""
    _check_version(job)
    return _bare_run(job).model_identity


def tell_facts(job):
    """Task: what this worker has to say about the model."""
    _check_version(job)
    return _address(), _prepared(job).facts


def unpack(packed):
    """Task: a lazy sequence."""
    try:
        return pickle.loads(packed)
    except Exception as error:  # unpickling calls what the sequence defines
        raise TypeError(
            f"X is a lazy sequence that the worker {_address()} cannot unpickle: {error!r}. What "
            "it needs must be installed there, too."
        ) from error


def write_range(job, packed, lazy):
    """Task: run a range, and write its shard."""
    piece = pickle.loads(packed)
    _check_folder(job)
    run = _prepared(job)
    check_agreement(run.facts, job.facts, _address(), "the others")
    _take_up(run, job, piece, lazy)
    _check_files(run, piece)
    bounds = [(piece.start, piece.stop)]
    for part in full_parts(run, bounds, on_error=job.on_error, progress=None):
        write_shard(piece.path, part, piece.owner)
    _fitting[job.id] = min(_fitting.get(job.id, run.batch_size), run.batch_size)
    return piece.start, piece.stop, run.batch_size, _address()


def check_agreement(facts, expected, address, where):
    """Raise a ValueError where one worker would compute something else than another."""
    differing = [
        f"{name} ({expected[name]!r} on {where}, {facts[name]!r} on {address})"
        for name in expected
        if name != "versions" and facts[name] != expected[name]
    ]
    if differing:
        raise ValueError(
            f"the Dask workers differ in {', '.join(differing)}. All must have the same packages "
            "and the same model; dtype= fixes the precision."
        )


def _check_files(run, piece):
    """An image that only this worker does not see must not count as one that is unreadable."""
    *_, sizes = piece.owner
    if sizes is not None and sizes != digest_of_sizes(run.images.items, 0, len(run.images.items)):
        raise FileNotFoundError(
            f"the worker {_address()} does not see the image files {piece.start} to "
            f"{piece.stop - 1} as the calling process does: some are missing there, or of another "
            "size. All machines must see the same files under the same paths; if files were "
            "changed meanwhile, call extract again."
        )


def _take_up(run, job, piece, lazy):
    """Give a run the samples of a piece."""
    if lazy is None:
        items = [_located(item, job.cwd) for item in piece.images]
        run.images = Stretch(items, piece.start, job.n_samples)
    else:
        run.images = LazyStretch(lazy, job.cwd)
    for name in ("references", "prompts"):
        part = getattr(piece, name)
        if part is not None:
            setattr(run, name, Stretch(part, piece.start, job.n_samples))


def _bare_run(job):
    """The run of a job, without samples."""
    return Run(
        job.handle,
        job.request,
        images=[],
        references=None,
        cache_folder=job.cache_folder,
        batch_size=job.batch_size,
        n_jobs=job.n_jobs,
    )


def _prepared(job):
    """The run of a job, without samples; the process reads the model when it first comes here."""
    run = _bare_run(job)
    with _model_lock:
        run.facts  # noqa: B018 - asks the model and its tokenizer
        run.collector = _OneAtATime(run.collector)
        if job.id not in _fitting:
            _fitting.clear()  # of an earlier job
            _fitting[job.id] = job.batch_size
        run.batch_size = _fitting[job.id]
    return run


class _OneAtATime:
    """A StateCollector that waits while another thread uses the model."""

    def __init__(self, collector):
        self._collector = collector

    def __call__(self, *arguments):
        with _model_lock:
            return self._collector(*arguments)

    def __getattr__(self, name):
        return getattr(self._collector, name)


@dataclass
class Stretch:
    """Items of a sequence, from one on, under the positions that they have in it."""

    items: list
    start: int
    n: int

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.items[index - self.start]


@dataclass
class LazyStretch:
    """A lazy sequence of the caller's."""

    items: object
    cwd: str

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        with _sequence_lock:
            return _located(self.items[index], self.cwd)


class PathThere(os.PathLike):
    """A relative path of the caller, wherever this process runs."""

    def __init__(self, given, cwd):
        self.given, self.path = given, os.path.join(cwd, given)

    def __fspath__(self):
        return self.path


def _located(item, cwd):
    """An item of X as the caller means it."""
    if isinstance(item, NamedImage):
        if item.filename is not None:
            item.image.filename = item.filename
        return item.image
    if isinstance(item, (str, os.PathLike)) and not os.path.isabs(item):
        return PathThere(os.fsdecode(item), cwd)
    return item


def _check_version(job):
    from .. import __version__

    if job.package_version != __version__:
        raise ImportError(
            f"the worker {_address()} has semi_nmf_concepts {__version__}, the calling process "
            f"{job.package_version}: install the same version everywhere."
        )


def _check_folder(job):
    if not Path(job.folder, MANIFEST).is_file():
        raise FileNotFoundError(
            f"the worker {_address()} does not see the folder {job.folder} that the calling "
            "process has made: out= must be a folder that all machines share."
        )


def _address():
    from distributed import get_worker

    return get_worker().address
