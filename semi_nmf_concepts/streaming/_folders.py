"""Which files of a folder have rows, and in which order."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._safetensors import BFLOAT16
from ._files import STATES, SUFFIXES, open_file

INDEX = "rows.json"
# Of extractions.
_MANIFEST = "manifest.json"
_JOINED = "representations.safetensors"
_FORMAT = 1


@dataclass
class Shard:
    """A file, and what is known of it beforehand."""

    path: Path
    array: str | None = None
    shape: tuple | None = None
    dtype: np.dtype | None = None

    def open(self):
        """Its rows.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not whole, or has something else than what is known.
        """
        rows = open_file(self.path, self.array)
        for what, found, known in (
            ("shape", rows.shape, self.shape),
            ("dtype", rows.stored, self.dtype),
        ):
            if known is not None and found != known:
                raise ValueError(f"{self.path} has {what} {found}, but {INDEX} says {known}.")
        return rows


def find_shards(folder):
    """The files of a folder that have rows, in order.

    Raises
    ------
    ValueError
        If there are none, or the folder is that of an extraction which has not ended, or which has
        several results.
    """
    results = _results(folder)
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    if (folder / _JOINED).is_file():
        return [Shard(folder / _JOINED, STATES)]
    if results:
        names = ", ".join(repr(str(folder / name)) for name in results)
        raise ValueError(
            f"{folder} holds several token representations, give one of them: {names}."
        )
    paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise ValueError(
            f"{folder} holds no rows: neither {INDEX} nor {_JOINED} nor files "
            f"{' or '.join(SUFFIXES)}."
        )
    return [Shard(path) for path in sorted(paths, key=_natural)]


def is_listed(folder):
    """Whether all files in a folder are its shards: none of them says which are."""
    return not (folder / INDEX).is_file() and not (folder / _JOINED).is_file()


def _natural(path):
    """Numbers in names are compared as numbers."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces], path.name


def _results(folder):
    """The folders of the results of an extraction that has ended; [] where there are none."""
    if not (folder / _MANIFEST).is_file():
        return []
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        status, names = manifest["status"], [entry["folder"] for entry in manifest["results"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no extraction
    if status != "complete":
        raise ValueError(
            f"{folder} holds a run of extract that has not ended: call extract with the same "
            "arguments again, and it goes on."
        )
    return [name for name in names if name]


def _indexed(index):
    """The shards that an index names."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r} is not known")
        array, width = _typed(content, "array", str), _typed(content, "n_features", int)
        dtype = _dtype(_typed(content, "dtype", str))
        entries = [(_typed(f, "file", str), _typed(f, "n_rows", int)) for f in content["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of shards: {error!r}.") from error
    if not entries:
        raise ValueError(f"{index} names no files: there are no rows.")
    folder = index.parent
    return [Shard(_below(folder, name), array, (n, width), dtype) for name, n in entries]


def _below(folder, name):
    """The path of a file, without ".." unless this leads elsewhere, as behind a link."""
    path = folder / name
    short = os.path.normpath(path)
    return Path(short) if os.path.realpath(short) == os.path.realpath(path) else path


def _typed(entry, key, type_):
    if not isinstance(entry[key], type_) or isinstance(entry[key], bool):
        raise ValueError(f"{key} must be of type {type_.__name__}, not {entry[key]!r}")
    return entry[key]


def _dtype(name):
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)
