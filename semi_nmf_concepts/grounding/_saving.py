"""Reading and writing of concept reports: one JSON file, one safetensors file, nothing pickled."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from semi_nmf_concepts._files import write_atomically

FORMAT = "semi_nmf_concepts.ConceptReport"
FORMAT_VERSION = 1
ARRAYS_FILE = "report.safetensors"
JSON_FILE = "report.json"


def to_jsonable(value):
    """Turn `value` into what strict JSON can hold: NaN becomes null, unknown objects their repr."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_jsonable(value.tolist())
    return value if isinstance(value, bool | str) else repr(value)


def dump_json(value):
    """Strict JSON text, as UTF-8 bytes."""
    text = json.dumps(to_jsonable(value), indent=1, ensure_ascii=False, allow_nan=False)
    # A lone surrogate (an odd file name) is not UTF-8: it is written as its JSON escape, \udcXX.
    return text.encode(errors="backslashreplace")


def save_folder(folder, document, arrays):
    """Write `document` (JSON) and `arrays` (name -> ndarray) into `folder`.

    The JSON file is written last and holds the digest of the arrays, so that a save that was cut
    short is recognised on loading instead of being read as a whole report.
    """
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    document = head | {"arrays_sha256": hashlib.sha256(content).hexdigest()} | document
    text = dump_json(document)
    write_atomically(Path(folder) / ARRAYS_FILE, content)
    write_atomically(Path(folder) / JSON_FILE, text)


def load_folder(folder):
    """Read what :func:`save_folder` wrote; return (document, arrays)."""
    from safetensors.numpy import load

    folder = Path(folder)
    for name in (JSON_FILE, ARRAYS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no saved ConceptReport: no file {name}.")
    try:
        document = json.loads((folder / JSON_FILE).read_bytes())
    except ValueError as error:
        raise ValueError(f"{folder / JSON_FILE} is not valid JSON: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{folder / JSON_FILE} does not describe a ConceptReport.")
    if document.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder} has format version {document.get('format_version')!r}; this version of the "
            f"package reads version {FORMAT_VERSION}."
        )
    content = (folder / ARRAYS_FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != document.get("arrays_sha256"):
        raise ValueError(
            f"{folder / ARRAYS_FILE} does not belong to {JSON_FILE}: the save was cut short or a "
            "file was changed. Save the report again."
        )
    return document, load(content)
