"""One pass over the images: batches, the way around the cache, and where the results come from."""

import contextlib
import gc
import hashlib
import importlib.metadata
import itertools
import json
import platform
import warnings
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from numbers import Integral

from .._messages import callers_level
from ._handle import ModelHandle
from ._images import ON_ERROR_ADVICE, ImageReadError, name_of
from ._loading import resolved_dtype
from ._prompt import ImagesRefusedError
from ._reading import MAX_WAITING_PIXELS, Reader
from ._words import word_forms

# Unreadable images that the warning about them names.
_NAMED = 5
# What a model raises for an image that it cannot take.
_MODEL_ERRORS = (RuntimeError, ValueError, IndexError)
# So many first images of a batch that all fail: perhaps it is not the images, a plain one tells.
_SUSPICIOUS = 3
# What the states, and the results made from them later, are computed with.
_DISTRIBUTIONS = (
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "torch",
    "transformers",
    "pillow",
    "torchvision",
)


@dataclass
class Run:
    """One pass over the images.

    Attributes
    ----------
    handle : ModelHandle
    request : Request
    images : sequence
    references : list of list of str, or None
    prompts : list of str, or None
        What the model is asked about each image; None: the request's prompt about all.
    cache_folder : path-like or None
        Folder for records.
    batch_size : int
        Images run together; smaller from the moment on when the device's memory was too small.
    n_jobs : int or None
        Threads that read images.
    """

    handle: ModelHandle
    request: object
    images: object
    references: list | None
    prompts: list | None = None
    cache_folder: object = None
    batch_size: int = 32
    n_jobs: int | None = None

    @cached_property
    def collector(self):
        """The StateCollector; made, and the model read, at the first use."""
        from ._states import StateCollector

        return StateCollector(self.handle.loaded, self.request)

    @cached_property
    def model_identity(self):
        """Which model it is, at which precision, as far as that is known before it is read."""
        return {"model": self.handle.fingerprint, "dtype": resolved_dtype(self.handle)}

    @cached_property
    def facts(self):
        """What results say about the model and what it is run with (JSON types).

        Another process that runs the model can tell: then it is not read in this one.
        """
        loaded, layers, n = self.collector.loaded, self.request.layers, self.handle.n_layers
        return {
            "commit": self.handle.commit,
            "fingerprint": self.handle.fingerprint,
            "modules": [self.collector.modules[layer] for layer in layers],
            "layers": [layer % n if isinstance(layer, Integral) else layer for layer in layers],
            "prompt": self.collector.prompt,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "image_processor": loaded.image_processor_name,
            "versions": dict(versions()),
        }

    @cached_property
    def cache(self):
        """The RecordCache, or None."""
        return None if self.cache_folder is None else _open_cache(self.cache_folder, self)

    def records(self, ranges, *, on_error, progress):
        """Pairs of index and records, range after range, within each in no particular order.

        For an unreadable image the ImageReadError takes the place of the records, or is raised.

        Parameters
        ----------
        ranges : list of (start, stop)
            Positions in X. Batches do not reach over the end of a range.
        on_error : {"raise", "skip"}
        progress : tqdm or None
            Told of every sample that is done.
        """
        _ = self.collector, self.cache  # errors of the model and of the folder before all others
        batch_size = self.batch_size
        reader = Reader(self, 2 * batch_size, self.n_jobs)
        indices = itertools.chain.from_iterable(range(*bounds) for bounds in ranges)
        starts = {start for start, _ in ranges}
        with contextlib.closing(reader(indices)) as samples:
            for done in self._batches(samples, starts, batch_size):
                failed = [one for _, one in done if isinstance(one, ImageReadError)]
                if failed and on_error == "raise":
                    raise failed[0]
                if progress is not None:
                    progress.update(len(done))
                yield from done

    def _batches(self, samples, starts, batch_size):
        """Lists of pairs of index and records."""
        batch = _Batch(self)
        for sample in samples:
            if sample.index in starts:
                yield batch.flush()
            if sample.error is not None:
                yield [(sample.index, sample.error)]
            elif sample.records is not None:
                yield [(sample.index, sample.records)]
            else:
                batch.add(sample)
            if len(batch.items) >= batch_size or batch.n_pixels > MAX_WAITING_PIXELS:
                yield batch.flush()
        yield batch.flush()

    def through_model(self, samples):
        """Records of samples that fit the device's memory, together or part by part.

        An ImageReadError takes the place of records where the model's processor cannot take the
        image: one that is a hundred times as wide as high, say.
        """
        done = []
        while len(done) < len(samples):
            part = samples[len(done) : len(done) + self.batch_size]
            try:
                records = self._attempt(part)
            except ImagesRefusedError as error:
                records = self._without(part, error.reasons)
            except _MODEL_ERRORS as error:
                records = self._one_by_one(part, error)
            if records is None:
                self._halve(len(part))
            else:
                done.extend(records)
        return done

    def _without(self, samples, refused):
        """Records of those that are not refused, in their places."""
        others = [sample for i, sample in enumerate(samples) if i not in refused]
        records = iter(self.through_model(others))
        return [
            self.not_taken(sample.index, refused[i]) if i in refused else next(records)
            for i, sample in enumerate(samples)
        ]

    def _one_by_one(self, samples, error):
        """Records where the model fails on single images of a batch; else its error is raised.

        Some models do for unusual shapes: a single patch, forty times as wide as high.
        """
        if _out_of_memory(error):
            raise error
        done, n_failed = [], 0
        for sample in samples:
            try:
                done.extend(self._attempt([sample]))
            except _MODEL_ERRORS as alone:
                if _out_of_memory(alone):
                    raise
                n_failed += 1
                done.append(self.not_taken(sample.index, _said_of_one(alone)))
                all_failed = n_failed == len(done) and len(done) in (_SUSPICIOUS, len(samples))
                if all_failed and not self._takes_another_image(sample):
                    raise error from None
        return done

    def _takes_another_image(self, sample):
        """Whether the model takes a plain image with the prompt and text of `sample`."""
        from PIL import Image

        try:
            self._attempt([replace(sample, image=Image.new("RGB", (64, 64), "grey"))])
        except _MODEL_ERRORS:
            return False
        return True

    def not_taken(self, index, reason):
        """The ImageReadError of a sample that the model, or its processor, refuses."""
        name = name_of(self.images[index], index)
        error = ImageReadError(
            f"{name} cannot be taken by the model: {reason.rstrip('.')}.", ON_ERROR_ADVICE
        )
        error.reason = reason
        return error

    def _attempt(self, samples):
        """Records, or None where the device's memory does not suffice.

        What failed is out of reach when this returns, and with it the memory that it held.
        """
        texts = None if samples[0].text is None else [sample.text for sample in samples]
        prompts = [sample.prompt for sample in samples]
        try:
            return self.collector([sample.image for sample in samples], texts, prompts)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or len(samples) == 1:
                raise
        return None

    def _halve(self, n):
        import torch

        smaller = max(1, n // 2)
        if not self._halved:
            warnings.warn(
                f"{n} images at a time do not fit into the memory of device "
                f"{str(self.collector.loaded.device)!r}; the run goes on with batches of {smaller} "
                f"(and smaller ones if need be). batch_size={smaller} avoids the attempt.",
                stacklevel=callers_level(),
            )
        self._halved, self.batch_size = True, smaller
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    _halved = False

    def cached(self, key):
        """The records of a sample from the cache, or None if one of them is not there."""
        found = {}
        for token, layer in self.request.keys:
            record = self.cache.get(key, token, self.collector.modules[layer])
            if record is None:
                return None
            found[token, layer] = record
        return found

    def to_cache(self, key, records):
        """Keep the records of a sample."""
        for (token, layer), record in records.items():
            self.cache.put(key, token, self.collector.modules[layer], record)

    def rendered(self, index):
        """The whole prompt of a sample."""
        return self.collector.prompt if self.prompts is None else self._render(self.prompts[index])

    @cached_property
    def _render(self):
        from ._prompt import render_prompt

        # Bounded: large data sets have as many questions as images.
        return lru_cache(10_000)(partial(render_prompt, self.collector.loaded.processor))

    def dictated(self, index):
        """The caption to dictate for a sample, or None if nothing is dictated."""
        if self.request.position != "forced":
            return None
        references = self.references[index]
        matcher = self.collector.matchers[self.request.tokens[0]]
        with_token = [text for text in references if matcher.find(text)]
        return (with_token or references or [""])[0]

    def why_dropped(self, index, token, record):
        """Why `extract` leaves a sample out, or None if it is kept."""
        if not record.found:
            return "not_in_reference" if self.request.position == "forced" else "not_generated"
        if self.references is None or token is None:
            return None
        in_reference = self.collector.matchers[token].in_any(self.references[index])
        return None if in_reference else "not_in_reference"

    def provenance(self, token, layer):
        """Everything needed to compute the records of `token` and `layer` again (JSON types)."""
        from .. import __version__

        request, own_prompts, facts = self.request, self.prompts is not None, self.facts
        which = request.layers.index(layer)
        return {
            "package_version": __version__,
            "model": self.handle.model,
            "revision": self.handle.revision,
            "commit": facts["commit"],
            "fingerprint": facts["fingerprint"],
            "module": facts["modules"][which],
            "layer": facts["layers"][which],
            "token": token,
            "forms": None if token is None else list(word_forms(token, request.forms)),
            "prompt": None if own_prompts else facts["prompt"],
            **({"prompts_sha256": text_digest(self.prompts)} if own_prompts else {}),
            "position": request.position,
            "stop": request.stop,
            "max_new_tokens": request.max_new_tokens,
            "dtype": facts["dtype"],
            "image_processor": facts["image_processor"],
            "versions": dict(facts["versions"]),
        }


def text_digest(texts):
    """SHA-256 of texts, or lists of texts."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def warn_of_failed(failed):
    """One warning about all images that were left out.

    Parameters
    ----------
    failed : dict of int to str
        Position in X -> what is wrong with the image.
    """
    if failed:
        messages = [failed[index] for index in sorted(failed)]
        some = " ".join(messages[:_NAMED]) + (" ..." if len(messages) > _NAMED else "")
        warnings.warn(f"{len(failed)} image(s) left out: {some}", stacklevel=callers_level())


def progress_bar(total, done=0, *, verbose):
    """A bar with images per second and the time left, or nothing; a context manager."""
    if not verbose:
        return contextlib.nullcontext()
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, desc="images", unit="image")


def _said_of_one(error):
    """What a model or its processor says about the only image it was given."""
    reasons = error.reasons if isinstance(error, ImagesRefusedError) else {}
    return reasons.get(0) or str(error) or repr(error)


def _out_of_memory(error):
    import torch

    # Devices other than CUDA's, the CPU among them, say it in words only.
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "out of memory" in said or "can't allocate memory" in said
    )


@cache
def versions():
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # installed in an unusual way
            continue
    return versions


class _Batch:
    """Samples that wait for the model, equal ones as one."""

    def __init__(self, run):
        self.run = run
        self.items = {}  # key -> (sample, positions in X)
        self.n_pixels = 0

    def add(self, sample):
        """Take up one sample."""
        if sample.key in self.items:
            self.items[sample.key][1].append(sample.index)
        else:
            self.items[sample.key] = (sample, [sample.index])
            self.n_pixels += sample.n_pixels

    def flush(self):
        """Run what waits; pairs of index and records."""
        if not self.items:
            return []
        samples, indices = zip(*self.items.values(), strict=True)
        records = self.run.through_model(samples)
        if self.run.cache is not None:
            for sample, one in zip(samples, records, strict=True):
                if not isinstance(one, ImageReadError):
                    self.run.to_cache(sample.key, one)
        self.items, self.n_pixels = {}, 0
        rows = zip(samples, indices, records, strict=True)
        return [(i, self._of(i, sample, one)) for sample, many, one in rows for i in many]

    def _of(self, index, sample, outcome):
        """The outcome of `sample` for the sample at `index`, which is equal: errors name theirs."""
        if index == sample.index or not isinstance(outcome, ImageReadError):
            return outcome
        return self.run.not_taken(index, outcome.reason)


def _open_cache(folder, run):
    from ._cache import RecordCache

    request = run.request
    common = {
        "fingerprint": run.handle.fingerprint,
        "dtype": str(run.collector.loaded.dtype),
        "image_processor": run.collector.loaded.image_processor_name,
        "prompt": run.collector.prompt if run.prompts is None else None,
        "position": request.position,
        "forms": request.forms,
    }
    if request.position == "generated":
        common["max_new_tokens"] = request.max_new_tokens
        # Several tokens end a caption later than one.
        common["stop"] = request.stop if request.stop == "caption" else sorted(request.tokens)
    return RecordCache(folder, common)
