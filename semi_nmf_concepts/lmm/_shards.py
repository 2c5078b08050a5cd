"""Extraction into a folder: part by part, so that a run may be stopped at any moment and go on.

While a run is under way the folder holds::

    manifest.json               what is asked, of which samples; status "running"
    shards/000000.safetensors   samples 0 to 63: states of the kept ones, all else as JSON
    shards/000001.safetensors   ...

A shard appears whole or not at all, says what it belongs to, and what is in it depends on the
samples of the shard alone: batches never reach over its end. So a run that goes on computes exactly
what the first one would have, and several processes may compute shards at a time. At the end the
shards are joined into one `TokenRepresentations` for each token and layer, the manifest says
"complete", and the shards are removed. Where they are not to be joined they stay, and the folder of
each token and layer has, instead of the states, a list of the shards that hold them (rows.json).
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import filelock
import numpy as np

from .._files import write_atomically
from .._safetensors import Blocks, map_arrays
from ._images import ON_ERROR_ADVICE, ImageReadError
from ._representations import MANIFEST, ROWS, read_results, write_without_states
from ._run import text_digest
from ._samples import digest_of_items, digest_of_sizes
from ._selection import Tables, TokenTable, representations
from ._shard_files import array_name, full_parts, read_shard, write_shard

_FORMAT = 1
# Samples of a shard, about: what a stopped run may have to do again, and what is in memory at once.
_SHARD = 64
_SHARDS = "shards"
# What a process that was killed while it wrote leaves behind, see `write_atomically`.
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{32}\.tmp")


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
        self._owners = {}  # range -> what its shard belongs to
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out={str(folder)!r} is a file; it must be a folder.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error
        self._lock = filelock.FileLock(self.folder / ".lock", blocking=False)

    def __enter__(self):
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                f"out={str(self.folder)!r} is in use by another process that extracts into it."
            ) from error
        except OSError as error:
            raise _unusable(self.folder, error) from error
        try:
            self._sizes = digest_of_sizes(self.run.images, 0, self.n_samples)
            self.manifest = self._manifest()
            self._remove_half_written()
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

    @property
    def joined(self):
        """Whether the results are files of their own, or, once complete, stay in the shards."""
        return self.manifest.get("joined", True)

    def _manifest(self):
        identity, path = json.loads(json.dumps(_identity(self.run))), self.folder / MANIFEST
        if not path.exists():
            return self._begin(identity)
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            known, format_ = dict(manifest["identity"]), manifest["format"]
            size, status = manifest["shard_size"], manifest["status"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no manifest of an extraction; choose another folder."
            ) from error
        if format_ != _FORMAT or not isinstance(size, int) or size < 1:
            raise ValueError(_conflict(self.folder, ["format"]))
        if known != identity and status == "running" and self._is_without_shards():
            # Nothing was done: a misspelt layer, say, which only the model could find.
            shutil.rmtree(self.folder / _SHARDS, ignore_errors=True)
            path.unlink()
            return self._begin(identity)
        if known != identity:
            n = manifest.get("n_samples")
            number = (
                [] if n == self.n_samples else [f"number of images ({n}, now {self.n_samples})"]
            )
            raise ValueError(_conflict(self.folder, number or _differences(known, identity)))
        if status == "complete" and manifest.get("sizes") != self._sizes:
            raise ValueError(_conflict(self.folder, ["images (the sizes of files)"]))
        return manifest

    def _is_without_shards(self):
        return not any((self.folder / _SHARDS).glob("*.safetensors"))

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
        self.manifest = manifest
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1))
        _to_disk(self.folder)

    def _remove_half_written(self):
        folders = {self.folder / name for name in ("", _SHARDS, *self._result_folders().values())}
        for folder in folders:
            for path in folder.glob(".*.tmp"):
                if _HALF_WRITTEN.fullmatch(path.name):
                    path.unlink()

    def _result_folders(self):
        """Key -> folder of the result, below that of the extraction; "" for a single one."""
        keys = self.run.request.keys
        if len(keys) == 1:
            return {keys[0]: ""}
        names = {}
        for token, layer in keys:
            word = "" if token is None else re.sub(r"\W+", "_", token) + "-"
            name = word + "layer_" + re.sub(r"[^\w.-]+", "_", str(layer))
            # Tokens that differ in punctuation only; some file systems do not tell case apart.
            while name.casefold() in map(str.casefold, names.values()):
                name += "_"
            names[token, layer] = name
        return names

    # The shards

    def ranges(self):
        """(start, stop) of every shard."""
        size = self.manifest["shard_size"]
        return [(i, min(i + size, self.n_samples)) for i in range(0, self.n_samples, size)]

    def missing(self, on_error):
        """The ranges whose shards are not there, or not whole; none once shards are joined.

        Raises
        ------
        ImageReadError
            If `on_error` is "raise" and an earlier call, with "skip", left an image out.
        """
        missing = []
        for bounds in () if self.complete and self.joined else self.ranges():
            content = self._read(*bounds)
            if content is None:
                missing.append(bounds)
            elif content.failed and on_error == "raise":
                raise ImageReadError(next(iter(content.failed.values())), ON_ERROR_ADVICE)
        return missing

    def shard_path(self, start):
        """The file of the shard that begins with a sample."""
        return self.folder / _SHARDS / f"{start // self.manifest['shard_size']:06d}.safetensors"

    def owner(self, start, stop):
        """What a shard belongs to; of another one, or of files that have changed, nothing is used.

        The sizes of files are those when they were first asked for in this call: a file that
        changes while the run is under way is seen by the next one.
        """
        if (start, stop) not in self._owners:
            sizes = digest_of_sizes(self.run.images, start, stop)
            self._owners[start, stop] = [self.manifest["identity"], start, stop, sizes]
        return self._owners[start, stop]

    def _read(self, start, stop):
        """Tables of a shard, or None if it is not there, damaged, or not of these samples."""
        content = read_shard(self.shard_path(start))
        if content is None or content.get("owner") != self.owner(start, stop):
            return None
        return _tables(content)

    def fill(self, ranges, *, on_error, progress):
        """Compute the shards of `ranges`."""
        self.check_image_processor()
        parts = full_parts(self.run, ranges, on_error=on_error, progress=progress)
        with contextlib.closing(parts):
            for part in parts:
                owner = self.owner(part.start, part.stop)
                write_shard(self.shard_path(part.start), part, owner)

    def check_image_processor(self):
        """A model may have two, and one run must not mix their pixels."""
        name = self.run.facts["image_processor"]
        known = self.manifest.get("image_processor", name)
        if known != name:
            what = f"image processor ({known!r}, now {name!r}: is torchvision installed?)"
            raise ValueError(_conflict(self.folder, [what]))
        self._write_manifest({**self.manifest, "image_processor": name})

    # The results

    def tables(self):
        """What is known of all samples besides the states, from the shards."""
        whole = Tables([], {}, [TokenTable() for _ in self.run.request.asked_tokens])
        for bounds in self.ranges():
            content = self._read(*bounds)
            if content is None:
                raise ValueError(
                    f"{self.shard_path(bounds[0])} was changed while the run was under way; call "
                    "extract again, and it goes on."
                )
            whole.extend(content)
        return whole

    def finish(self, tables, width, *, join):
        """Make the results of the shards.

        Parameters
        ----------
        tables : Tables
            Of all samples.
        width : callable
            Gives the number of features of a layer without samples.
        join : bool
            Whether the states are copied into one file for each result.
        """
        if self.complete:  # and is to be joined now, which may be interrupted
            self._write_manifest({**self.manifest, "status": "running"})
        for key, name in self._result_folders().items():
            folder, states = self.folder / name, self._states(key, tables, width)
            result = representations(self.run, tables, key, states)
            if join:
                result.save(folder)
                (folder / ROWS).unlink(missing_ok=True)
            else:
                write_atomically(folder / ROWS, json.dumps(self._index(key, states), indent=1))
                write_without_states(result, folder)
            _to_disk(folder)
        if not join:
            _to_disk(self.folder / _SHARDS)
        done = {"status": "complete", "joined": join, "sizes": self._sizes}
        self._write_manifest({**self.manifest, **done})

    def _states(self, key, tables, width):
        token = self.run.request.asked_tokens.index(key[0])
        n_kept = len(tables.tokens[token].indices)

        def make():
            return (Z for _, Z in self._arrays(key))

        first = next(make(), None)
        n_features = width(key[1]) if first is None else first.shape[1]
        return Blocks((n_kept, n_features), np.dtype(np.float32), make)

    def _arrays(self, key):
        """Pairs of a shard and its states of a key, mapped from the file, where it has some."""
        name = self._array_name(key)
        for start, _ in self.ranges():
            # Checked by `tables`: the sum over all arrays, for each of many keys, takes long.
            path = self.shard_path(start)
            arrays = map_arrays(path)
            if name in arrays:
                yield path, arrays[name]

    def _array_name(self, key):
        return array_name(self.run.request.keys.index(key))

    def _index(self, key, states):
        """Which rows of a result are in which shard (JSON types)."""
        folder = self.folder / self._result_folders()[key]
        return {
            "format": 1,
            "array": self._array_name(key),
            "dtype": states.dtype.name,
            "n_features": states.shape[1],
            "files": [
                {"file": Path(os.path.relpath(path, folder)).as_posix(), "n_rows": len(Z)}
                for path, Z in self._arrays(key)
            ],
        }

    def finished(self, *, join):
        """The results of a run that has ended, or None where there is something left to do.

        No shard is missing.
        """
        if not self.complete or (join and not self.joined):
            return None
        if self.joined:
            return self.results()
        # What is damaged besides the shards is made of them again.
        with contextlib.suppress(ValueError):
            return self.results()

    def results(self):
        """Key -> TokenRepresentations, mapped from the files.

        Shards are not checked: `missing` has read them.
        """
        results = {}
        for key, name in self._result_folders().items():
            results[key] = one = read_results(self.folder / name, verify_shards=False)
            first = next(iter(results.values()))
            if one.all_captions == first.all_captions:  # the same texts in memory once
                one.all_captions = first.all_captions
        if self.joined:
            # Not before the results have been read; those of a run stopped at this point as well.
            shutil.rmtree(self.folder / _SHARDS, ignore_errors=True)
        return results


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
        **run.model_identity,
        "token": list(request.tokens),
        "layer": list(request.layers),
        "forms": request.forms,
        "position": request.position,
        "prompt": request.prompt,
        "stop": request.stop,
        "max_new_tokens": request.max_new_tokens,
        "X": digest_of_items(run.images),
        "captions": None if run.references is None else text_digest(run.references),
        "prompts": None if run.prompts is None else text_digest(run.prompts),
    }


def _unusable(folder, error):
    reason = f"cannot be used ({error.strerror or error}); choose a folder that can be written"
    return OSError(error.errno, f"out {reason}", str(folder))


def _to_disk(folder):
    """Return when the files in `folder` are on the disk: a power cut takes what is not yet."""
    for path in (*folder.iterdir(), folder):
        # Windows, and some network drives, do this for files only.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# What digests stand for.
_DIGESTED = {
    "model": "model (its content)",
    "X": "images (their paths, or the content of those in memory)",
    "captions": "captions",
    "prompts": "prompts",
}


def _differences(known, asked):
    """What differs, with both values where they are short."""
    return [
        _DIGESTED.get(name, f"{name} ({known.get(name)!r}, now {asked[name]!r})")
        for name in asked
        if known.get(name) != asked[name]
    ]


def _conflict(folder, different):
    return (
        f"out={str(folder)!r} holds another extraction: it differs in "
        f"{', '.join(different) or 'format'}. Give the same arguments to go on with it, or another "
        "folder."
    )
