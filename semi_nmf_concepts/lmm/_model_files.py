"""The files of a model folder: which of them decide the results, and which one is broken."""

import json

# What transformers takes the weights from: the first of these that is there.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
# Files from which a tokenizer is made where there is no tokenizer.json.
_VOCABULARIES = ("vocab*", "merges*", "*.model", "*.tiktoken")
_LFS_POINTER = b"version https://git-lfs"


def weight_files(folder):
    """Paths of the files with the weights, an index before its shards (whether they exist or not).

    Other weights in the folder, say the same ones in another format, are never read.
    """
    for name in _WEIGHTS:
        path = folder / name
        if path.is_file():
            break
    else:
        return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if path.suffix != ".json":
        return [path]
    try:
        shards = set(_read_json(path)["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError):
        return [path]
    return [path, *(folder / shard for shard in sorted(shards))]


def decisive_files(folder):
    """Paths of the files that decide what the model computes, in a fixed order."""
    files = [folder / name for name in ("config.json", "generation_config.json", *PROCESSOR_FILES)]
    patterns = ["adapter_*"]
    if not (folder / "tokenizer.json").is_file():
        patterns += _VOCABULARIES
    if _has_code(folder / "config.json"):
        patterns.append("*.py")
    files += [path for pattern in patterns for path in folder.glob(pattern)]
    files += weight_files(folder)
    return sorted({path for path in files if path.is_file()})


def weights_fault(folder):
    """What is wrong with the weights in `folder`: (path, what, remedy), or None."""
    files = weight_files(folder)
    if not files:
        return folder, "holds no weights", f"It needs {_WEIGHTS[0]}, or {_WEIGHTS[1]} and its files"
    return _first_fault(files)


def processor_fault(folder):
    """What is wrong with processor and tokenizer in `folder`: (path, what, remedy), or None."""
    fault = _first_fault([p for p in map(folder.joinpath, PROCESSOR_FILES) if p.is_file()])
    if fault:
        return fault
    both = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").is_file() and not (
        both.is_file() and "image_processor" in _read_json(both)
    ):
        what = "describes no image processor (in processor_config.json or preprocessor_config.json)"
    elif not ((folder / "tokenizer.json").is_file() or any(map(_any_of(folder), _VOCABULARIES))):
        what = "holds no tokenizer (tokenizer.json)"
    else:
        return None
    return folder, what, "Save the model's processor there too (processor.save_pretrained)"


def _first_fault(files):
    for path in files:
        fault = _fault(path)
        if fault:
            return path, *fault
    return None


def _fault(path):
    """(what, remedy) of one file that cannot be read, else None."""
    again = "Copy or download this file again"
    if not path.is_file():
        return "is missing, though the index of the weights names it", again
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return "is a Git LFS pointer, not the file itself", "Fetch it with `git lfs pull`"
    try:
        _read(path)
    except Exception as error:  # safetensors and tokenizers raise classes of their own
        reason = str(error).rstrip(".")
        size = f"{path.stat().st_size:,} bytes"
        return f"is damaged or cut short ({reason}; {size})", again
    return None


def _read(path):
    """Read as much of a file as shows that it is whole."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np"):
            pass
    elif path.name == "tokenizer.json":
        from tokenizers import Tokenizer

        _read_json(path)
        Tokenizer.from_file(str(path))
    elif path.suffix == ".json":
        _read_json(path)
    elif path.suffix == ".bin":
        import torch

        torch.load(path, map_location="meta", weights_only=True)


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _has_code(config):
    try:
        return "auto_map" in _read_json(config)
    except (OSError, ValueError, TypeError):
        return False


def _any_of(folder):
    return lambda pattern: any(folder.glob(pattern))
