"""Images on their way to the model: read and decoded in threads, ahead of their turn."""

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ._images import ON_ERROR_ADVICE, ImageReadError, read_bytes, to_rgb

# Decoded images that wait for the model, in pixels: a few huge photographs would otherwise fill
# the memory.
MAX_WAITING_PIXELS = 64_000_000
# More threads read no faster than a model runs.
_MAX_THREADS = 4


@dataclass
class Sample:
    """One sample that is ready for the model, or was found in the cache, or cannot be read.

    Attributes
    ----------
    index : int
        Position in X.
    key : hashable
        What the records of the sample depend on, beside the request.
    text : str or None
        The caption to dictate.
    prompt : str
        The rendered prompt.
    image : PIL.Image.Image or None
    records : dict or None
        From the cache.
    error : ImageReadError or None
    """

    index: int
    key: object = None
    text: str | None = None
    prompt: str = ""
    image: object = None
    records: dict | None = None
    error: ImageReadError | None = None

    @property
    def n_pixels(self):
        """Pixels of the decoded image."""
        return self.image.width * self.image.height if self.image is not None else 0


class Reader:
    """Reads the samples of a run, in order.

    Files (and bytes) are read and decoded in threads while the model runs. Anything else is taken
    up in the calling thread, because a sequence or an image of the caller may not be safe to use
    in several threads.

    Parameters
    ----------
    run : Run
    n_ahead : int
        Samples that are read ahead, at most.
    n_jobs : int or None
        Threads; None: as many as there are cores, up to four.
    """

    def __init__(self, run, n_ahead, n_jobs=None):
        self.run = run
        self.n_ahead = max(1, n_ahead)
        self.n_threads = min(os.cpu_count() or 1, _MAX_THREADS) if n_jobs is None else n_jobs
        self._n_decoded = self._n_pixels = 0

    def __call__(self, indices):
        """Samples at `indices`, one after the other."""
        pending, indices = deque(), iter(indices)
        pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="images")
        try:
            exhausted = False
            while True:
                while not exhausted and len(pending) < self._n_allowed():
                    index = next(indices, None)
                    exhausted = index is None
                    if not exhausted:
                        pending.append(self._start(pool, index))
                if not pending:
                    return
                yield self._taken(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _n_allowed(self):
        """How many samples may be under way, by the size of those read so far."""
        if not self._n_decoded:
            return min(self.n_ahead, 2 * self.n_threads)
        mean = max(1, self._n_pixels / self._n_decoded)
        return max(1, min(self.n_ahead, int(MAX_WAITING_PIXELS / mean)))

    def _start(self, pool, index):
        item = self._item(index)
        arguments = (index, item, self.run.dictated(index), self.run.rendered(index))
        return pool.submit(self._read, *arguments) if is_file(item) else arguments

    def _item(self, index):
        """An item of X, or the ImageReadError that a lazy sequence makes of it."""
        try:
            return self.run.images[index]
        except MemoryError:
            raise
        except Exception as error:  # such sequences open files, and raise what readers of those do
            reason = str(error).rstrip(".") or repr(error)
            return ImageReadError(f"image {index} cannot be read: {reason}.", ON_ERROR_ADVICE)

    def _taken(self, started):
        sample = started.result() if isinstance(started, Future) else self._read(*started)
        if sample.image is not None:
            self._n_decoded += 1
            self._n_pixels += sample.n_pixels
        return sample

    def _read(self, index, item, text, prompt):
        sample = Sample(index, index, text, prompt)
        try:
            if isinstance(item, ImageReadError):
                raise item
            if self.run.cache is None:
                sample.image = to_rgb(item, index)
            else:
                self._recognise(sample, item)
        except ImageReadError as error:
            sample.error = error
        return sample

    def _recognise(self, sample, item):
        """Give the sample a key by its content, and with that its records if they are cached."""
        content = None
        if is_file(item):
            # A file is recognised by its bytes, so that a cached one is never decoded.
            content = item if isinstance(item, bytes) else read_bytes(item, sample.index)
            kind, digest = "file", hashlib.sha256(content).hexdigest()
        else:
            sample.image = to_rgb(item, sample.index)
            kind, digest = "pixels", pixel_hash(sample.image)
        own_prompt = () if self.run.prompts is None else (sample.prompt,)
        sample.key = (kind, digest, sample.text, *own_prompt)
        sample.records = self.run.cached(sample.key)
        if sample.records is None and sample.image is None:
            sample.image = to_rgb(item, sample.index, content)


def is_file(item):
    """Whether an item of X is a path, or the content of a file."""
    return isinstance(item, (str, bytes)) or hasattr(item, "__fspath__")


def pixel_hash(image):
    """Hash of a PIL image's size and pixels."""
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
