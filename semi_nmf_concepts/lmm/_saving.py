"""Writing a model folder."""

import os
import shutil
import tempfile
from pathlib import Path

from .._quiet import quiet_transformers

# Small enough for any file system, and for a machine that reads one after the other.
_SHARD = "5GB"


def save_model(model, processor, folder):
    """Write model and processor in the layout of Hugging Face, config.json last.

    Everything is written beside its place first and then moved there, so that a folder with a
    config.json is a whole model, and a model can be saved over the files it was loaded from.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} is a file; choose a folder for the model.")
    folder.mkdir(parents=True, exist_ok=True)
    _forget_last_call(processor)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        with quiet_transformers():
            processor.save_pretrained(temporary)
            model.save_pretrained(temporary, max_shard_size=_SHARD)
        written = sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json")
        for path in written:
            if path.name == "config.json":
                for old in _weights(folder) - {path.name for path in written}:
                    (folder / old).unlink()
            if path.is_dir():  # further chat templates
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
            else:
                os.replace(path, folder / path.name)


def _forget_last_call(processor):
    """Tokenizers store how they last padded and cut; the same model must give the same files."""
    backend = getattr(getattr(processor, "tokenizer", None), "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


def _weights(folder):
    """Names of the weights in `folder`, which would be read instead of new ones of other names."""
    patterns = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*")
    return {path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
