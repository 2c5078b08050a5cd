"""Extraction into a folder: part by part, so that a run may be stopped at any moment and go on.

While a run is under way the folder holds::

    manifest.json               what is asked, of which samples; status "running"
    shards/000000.safetensors   samples 0 to 255: states of the kept ones, all else as JSON
    shards/000001.safetensors   ...

A shard appears whole or not at all, and what is in it depends on the samples of the shard alone:
batches never reach over its end. So a run that goes on computes exactly what the first one would
have. At the end the shards are joined into one `TokenRepresentations` for each token and layer, the
manifest says "complete", and the shards are removed.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np

from .._files import write_atomically
from ._arrays import Blocks, map_arrays, write_arrays
from ._handle import resolved_dtype
from ._images import ON_ERROR_ADVICE, ImageReadError
from ._representations import MANIFEST, TokenRepresentations
from ._run import text_digest
from ._selection import Part, Tables, TokenTable, representations

_FORMAT = 1
# Samples of a shard, about: what a stopped run may have to do again, and what is in memory at once.
_SHARD = 256
_SHARDS = "shards"


class ShardFolder:
    """The folder of one extraction.

    Parameters
    ----------
    folder : path-like
    run : Run

    Raises
    ------
    ValueError
        If the folder belongs to another extraction, or holds something else.
    """

    def __init__(self, folder, run):
        self.folder, self.run = Path(folder).expanduser(), run
        self.n_samples = len(run.images)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out={str(folder)!r} is a file; it must be a folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / ".lock", blocking=False)

    def __enter__(self):
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                f"out={str(self.folder)!r} is in use by another process that extracts into it."
            ) from error
        try:
            self.manifest = self._manifest()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error):
        self._lock.release()

    # What the folder holds

    @property
    def complete(self):
        """Whether everything is done."""
        return self.manifest["status"] == "complete"

    def _manifest(self):
        identity, path = _identity(self.run), self.folder / MANIFEST
        if not path.exists():
            return self._begin(identity)
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            known, format_ = manifest["identity"], manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no manifest of an extraction; choose another folder."
            ) from error
        if format_ != _FORMAT or known != json.loads(json.dumps(identity)):
            raise ValueError(_conflict(self.folder, known, identity))
        return manifest

    def _begin(self, identity):
        strangers = sorted(p.name for p in self.folder.iterdir() if not p.name.startswith("."))
        if strangers:
            raise ValueError(
                f"out={str(self.folder)!r} holds something else ({strangers[0]}); give an empty or "
                "new folder, or that of an extraction that is to go on."
            )
        batch = self.run.batch_size
        manifest = {
            "format": _FORMAT,
            "status": "running",
            "identity": identity,
            "n_samples": self.n_samples,
            "shard_size": max(batch, _SHARD // batch * batch),
            "results": [
                {"token": token, "layer": layer, "folder": name}
                for (token, layer), name in self._result_folders().items()
            ],
        }
        self._write_manifest(manifest)
        return manifest

    def _write_manifest(self, manifest):
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1))

    def _result_folders(self):
        """Key -> folder of the result, below that of the extraction; "" for a single one."""
        keys = self.run.request.keys
        if len(keys) == 1:
            return {keys[0]: ""}
        names = {}
        for token, layer in keys:
            word = "" if token is None else re.sub(r"\W+", "_", token) + "-"
            name = word + "layer_" + re.sub(r"[^\w.-]+", "_", str(layer))
            while name in names.values():  # tokens that differ in punctuation only
                name += "_"
            names[token, layer] = name
        return names

    # The shards

    def ranges(self):
        """(start, stop) of every shard."""
        size = self.manifest["shard_size"]
        return [(i, min(i + size, self.n_samples)) for i in range(0, self.n_samples, size)]

    def missing(self, on_error):
        """The ranges whose shards are not there, or not whole.

        Raises
        ------
        ImageReadError
            If `on_error` is "raise" and an earlier call, with "skip", left an image out.
        """
        missing = []
        for bounds in self.ranges():
            content = self._read(*bounds)
            if content is None:
                missing.append(bounds)
            elif content[0].failed and on_error == "raise":
                raise ImageReadError(next(iter(content[0].failed.values())), ON_ERROR_ADVICE)
        return missing

    def _path(self, start):
        return self.folder / _SHARDS / f"{start // self.manifest['shard_size']:06d}.safetensors"

    def write(self, part):
        """Keep the shard of a part."""
        states = [part.states(key) for key in self.run.request.keys]
        arrays = {f"Z{i}": Z for i, Z in enumerate(states) if Z is not None}
        texts = json.dumps(asdict(part.tables())).encode()
        digest = hashlib.sha256(texts)
        for Z in arrays.values():
            digest.update(np.ascontiguousarray(Z).data)
        arrays["texts"] = np.frombuffer(texts, np.uint8)
        arrays["sha256"] = np.frombuffer(digest.digest(), np.uint8)
        write_arrays(self._path(part.start), arrays)

    def _read(self, start, stop):
        """(Tables, key -> states) of a shard, or None if it is not there or damaged."""
        try:
            arrays = map_arrays(self._path(start))
            texts = arrays.pop("texts").tobytes()
            expected = arrays.pop("sha256").tobytes()
        except (OSError, ValueError, KeyError):
            return None
        digest = hashlib.sha256(texts)
        for Z in arrays.values():
            digest.update(Z.data)
        if digest.digest() != expected:
            return None
        states = {key: arrays.get(f"Z{i}") for i, key in enumerate(self.run.request.keys)}
        return _tables(json.loads(texts)), states

    def fill(self, ranges, *, on_error, progress):
        """Compute the shards of `ranges`."""
        parts = (Part(self.run, *bounds) for bounds in ranges)
        part = next(parts)
        for index, outcome in self.run.records(ranges, on_error=on_error, progress=progress):
            if index >= part.stop:
                self.write(part)
                part = next(parts)
            part.add(index, outcome)
        self.write(part)

    # The results

    def tables(self):
        """What is known of all samples besides the states, from the shards."""
        whole = Tables([], {}, [TokenTable() for _ in self.run.request.tokens or (None,)])
        for bounds in self.ranges():
            whole.extend(self._read(*bounds)[0])
        return whole

    def finish(self, tables, width):
        """Join the shards; `width` gives the number of features of a layer without samples."""
        for key, name in self._result_folders().items():
            Z = self._blocks(key, tables, width)
            representations(self.run, tables, key, Z).save(self.folder / name)
        self.manifest = {**self.manifest, "status": "complete"}
        self._write_manifest(self.manifest)
        self._remove_shards()

    def _blocks(self, key, tables, width):
        token = (self.run.request.tokens or (None,)).index(key[0])
        n_kept = len(tables.tokens[token].indices)

        def make():
            for bounds in self.ranges():
                Z = self._read(*bounds)[1][key]
                if Z is not None:
                    yield Z

        first = next(make(), None)
        n_features = width(key[1]) if first is None else first.shape[1]
        return Blocks((n_kept, n_features), np.dtype(np.float32), make)

    def _remove_shards(self):
        shutil.rmtree(self.folder / _SHARDS, ignore_errors=True)

    def results(self):
        """Key -> TokenRepresentations, mapped from the files."""
        self._remove_shards()  # those of a run that was stopped between its last two steps
        return {
            key: TokenRepresentations.load(self.folder / name)
            for key, name in self._result_folders().items()
        }


def _tables(content):
    """Tables from their JSON."""
    return Tables(
        captions=content["captions"],
        failed={int(index): message for index, message in content["failed"].items()},
        tokens=[TokenTable(**table) for table in content["tokens"]],
    )


def _identity(run):
    """What two calls must have in common to be the same extraction (JSON types)."""
    request = run.request
    return {
        "model": run.handle.fingerprint,
        "dtype": resolved_dtype(run.handle),
        "token": list(request.tokens),
        "layer": list(request.layers),
        "forms": request.forms,
        "position": request.position,
        "prompt": request.prompt,
        "stop": request.stop,
        "max_new_tokens": request.max_new_tokens,
        "X": _digest_of_items(run.images),
        "captions": None if run.references is None else text_digest(run.references),
        "prompts": None if run.prompts is None else text_digest(run.prompts),
    }


def _digest_of_items(images):
    """What tells these images from others, as far as it can be told without reading them.

    Of a file that is its path and size. Of a lazy sequence it is the length: its items may be
    costly.
    """
    digest = hashlib.sha256(str(len(images)).encode())
    if isinstance(images, (list, tuple)):
        for item in images:
            digest.update(f"{_sketch(item)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _sketch(item):
    if isinstance(item, (str, os.PathLike)):
        path = os.path.abspath(item)
        try:
            return path, os.stat(path).st_size
        except OSError:
            return path, None
    size = getattr(item, "size", None)  # of PIL images and arrays
    return type(item).__name__, len(item) if isinstance(item, bytes) else str(size)


def _conflict(folder, known, asked):
    asked = json.loads(json.dumps(asked))
    different = [name for name in asked if known.get(name) != asked[name]]
    told = [
        f"{name} ({known.get(name)!r}, now {asked[name]!r})"
        if name not in ("X", "captions", "prompts", "model")
        else name
        for name in different
    ]
    return (
        f"out={str(folder)!r} holds another extraction: it differs in "
        f"{', '.join(told) or 'format'}. Give the same arguments to go on with it, or another "
        "folder."
    )
