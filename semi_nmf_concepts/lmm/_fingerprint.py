"""The identity of a model's content, for cache keys and provenance."""

import hashlib
import re
from pathlib import Path

_WHOLE_FILE = 32 * 2**20
_SAMPLE = 64 * 2**10
_N_SAMPLES = 64
# What decides the features: weights, configuration, tokenizer, preprocessing, chat template.
_PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.py")


def folder_fingerprint(folder):
    """Hash of the files of a model folder, independent of where it lies and of modification times.

    Files up to 32 MiB are read whole. Of larger ones the size, the header of a safetensors file
    (its start) and 64 evenly spaced samples of 64 KiB count: enough to tell checkpoints apart, and
    quick for a folder of many gigabytes.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted({p for pattern in _PATTERNS for p in folder.glob(pattern) if p.is_file()}):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
                continue
            for i in range(_N_SAMPLES):
                file.seek(i * (size - _SAMPLE) // (_N_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return f"sha256:{digest.hexdigest()}"


def snapshot_fingerprint(model, folder):
    """Identity of a model from the hub: its id and commit, which name the content exactly."""
    commit = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{7,64})", str(folder))
    return f"hub:{model}@{commit.group(1)}" if commit else folder_fingerprint(folder)
