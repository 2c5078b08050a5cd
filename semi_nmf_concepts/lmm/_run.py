"""One pass over the images: batches, the way around the cache, and where the results come from."""

import hashlib
import importlib.metadata
import platform
import warnings
from dataclasses import dataclass
from numbers import Integral

from ._handle import ModelHandle
from ._images import ImageReadError, read_bytes, to_rgb
from ._words import word_forms

# Images of one batch together, in pixels: a few huge photographs would otherwise fill the memory.
_MAX_BATCH_PIXELS = 64_000_000
# Unreadable images that the warning about them names.
_NAMED = 5
# What the states, and the results made from them later, are computed with.
_DISTRIBUTIONS = (
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "torch",
    "transformers",
    "pillow",
)


@dataclass
class Run:
    """One pass over the images.

    Attributes
    ----------
    handle : ModelHandle
    request : Request
    collector : StateCollector
    images : sequence
    references : list of list of str, or None
    cache : path-like or None
        Folder for records.
    """

    handle: ModelHandle
    request: object
    collector: object
    images: object
    references: list | None
    cache: object = None

    def __post_init__(self):
        if self.cache is not None:
            self.cache = _open_cache(self.cache, self)

    def records(self, *, batch_size, on_error, verbose):
        """Pairs of index and records (None for an unreadable image), in no particular order."""
        batch, unreadable = _Batch(self), []
        for index in _progress(range(len(self.images)), verbose):
            try:
                ready = batch.add(index)
            except ImageReadError as error:
                if on_error == "raise":
                    raise
                unreadable.append(error.summary)
                ready = [(index, None)]
            yield from ready
            if len(batch.items) >= batch_size or batch.n_pixels > _MAX_BATCH_PIXELS:
                yield from batch.flush()
        yield from batch.flush()
        if unreadable:
            some = " ".join(unreadable[:_NAMED]) + (" ..." if len(unreadable) > _NAMED else "")
            warnings.warn(f"{len(unreadable)} image(s) left out: {some}", stacklevel=4)

    def dictated(self, index):
        """The caption to dictate for a sample, or None if nothing is dictated."""
        if self.request.position != "forced":
            return None
        references = self.references[index]
        matcher = self.collector.matchers[self.request.tokens[0]]
        with_token = [text for text in references if matcher.find(text)]
        return (with_token or references or [""])[0]

    def in_reference(self, index, token):
        """Whether a reference caption of the sample has the token (True if none can be asked)."""
        if self.references is None or token is None:
            return True
        return self.collector.matchers[token].in_any(self.references[index])

    def provenance(self, token, layer):
        """Everything needed to compute the records of `token` and `layer` again (JSON types)."""
        from .. import __version__

        request = self.request
        return {
            "package_version": __version__,
            "model": self.handle.model,
            "revision": self.handle.revision,
            "commit": self.handle.commit,
            "fingerprint": self.handle.fingerprint,
            "module": self.collector.modules[layer],
            "layer": layer % self.handle.n_layers if isinstance(layer, Integral) else layer,
            "token": token,
            "forms": None if token is None else list(word_forms(token, request.forms)),
            "prompt": self.collector.prompt,
            "position": request.position,
            "stop": request.stop,
            "max_new_tokens": request.max_new_tokens,
            "dtype": str(self.collector.loaded.dtype).removeprefix("torch."),
            "versions": _versions(),
        }


def _versions():
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # installed in an unusual way
            continue
    return versions


class _Batch:
    """Images that wait for the model, and the way to it around the cache."""

    def __init__(self, run):
        self.run = run
        self.items = {}  # key of the image -> (image, dictated caption, positions in X)
        self.n_pixels = 0

    def add(self, index):
        """Take up one sample; returns its records at once if they are in the cache."""
        run = self.run
        item, text, content, image, key = run.images[index], run.dictated(index), None, None, index
        if run.cache is not None:
            # A file is recognised by its bytes, so that a cached one is never decoded.
            if isinstance(item, str) or hasattr(item, "__fspath__"):
                content = read_bytes(item, index)
                key = ("file", hashlib.sha256(content).hexdigest(), text)
            else:
                image = to_rgb(item, index)
                key = ("pixels", _pixel_hash(image), text)
            if key in self.items:
                self.items[key][2].append(index)
                return []
            found = self._from_cache(key)
            if found:
                return [(index, found)]
        image = to_rgb(item, index, content) if image is None else image
        self.items[key] = (image, text, [index])
        self.n_pixels += image.width * image.height
        return []

    def flush(self):
        """Run what waits; pairs of index and records."""
        if not self.items:
            return []
        images, texts, indices = zip(*self.items.values(), strict=True)
        forced = None if texts[0] is None else list(texts)
        records = self.run.collector(list(images), forced)
        if self.run.cache is not None:
            for key, one in zip(self.items, records, strict=True):
                self._to_cache(key, one)
        self.items, self.n_pixels = {}, 0
        return [(i, one) for many, one in zip(indices, records, strict=True) for i in many]

    def _from_cache(self, key):
        found = {}
        for token, layer in self.run.request.keys:
            record = self.run.cache.get(key, token, self.run.collector.modules[layer])
            if record is None:
                return None
            found[token, layer] = record
        return found

    def _to_cache(self, key, records):
        for (token, layer), record in records.items():
            self.run.cache.put(key, token, self.run.collector.modules[layer], record)


def _open_cache(folder, run):
    from ._cache import RecordCache

    request = run.request
    common = {
        "fingerprint": run.handle.fingerprint,
        "dtype": str(run.collector.loaded.dtype),
        "prompt": run.collector.prompt,
        "position": request.position,
        "forms": request.forms,
    }
    if request.position == "generated":
        common["max_new_tokens"] = request.max_new_tokens
        # Several tokens end a caption later than one.
        common["stop"] = request.stop if request.stop == "caption" else sorted(request.tokens)
    return RecordCache(folder, common)


def _pixel_hash(image):
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _progress(items, verbose):
    if not verbose:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc="images", unit="image")
