"""The identity of a model's content, for cache keys and provenance."""

import hashlib
import time
from pathlib import Path

from ._model_files import decisive_files

_SETTLED = 2_000_000_000  # nanoseconds
_digests = {}  # (path, size, modification time) -> digest


def folder_fingerprint(folder):
    """Hash of the files that decide what a model computes, wherever the folder lies.

    Weights, configuration, tokenizer, preprocessing and chat template count, every byte of them:
    two models with the same fingerprint give the same results. Files that play no part (a licence,
    the same weights in another format) do not count, so that a partial download is recognised as
    the same model. The first call reads the whole checkpoint; later calls of the process read only
    files that have changed.
    """
    digest = hashlib.blake2b(digest_size=32)
    for path in decisive_files(Path(folder)):
        digest.update(path.name.encode() + b"\0" + _file_digest(path))
    return f"blake2b:{digest.hexdigest()}"


def _file_digest(path):
    path = path.resolve()
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns)
    if key in _digests:
        return _digests[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()
    # Clocks of file systems are coarse: a file that has just been written may change once more
    # without a change of its modification time.
    if time.time_ns() - stat.st_mtime_ns > _SETTLED:
        _digests[key] = digest
    return digest
