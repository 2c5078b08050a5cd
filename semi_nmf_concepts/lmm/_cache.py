"""Records on disk, addressed by what they were computed from."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from .._files import write_atomically
from ._records import Record

_FORMAT = 2


class RecordCache:
    """A folder of records: one small NPZ file for each image and request.

    The address of a record is a hash of everything that it depends on, so an entry is never wrong,
    only unused, and processes can share a folder. Files appear whole or not at all; one that
    cannot be read counts as absent and is written again.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    common : dict
        What all records of this run depend on (model, prompt, ...); JSON types.
    """

    def __init__(self, folder, common):
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cache={str(folder)!r} is not a folder that can be used: {error}."
            ) from (error)
        text = json.dumps({"format": _FORMAT, **common}, sort_keys=True)
        self._common = hashlib.sha256(text.encode()).digest()

    def _path(self, image_key, token, module):
        address = hashlib.sha256(self._common)
        address.update(json.dumps([image_key, token, module]).encode())
        name = address.hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, image_key, token, module):
        """The record, or None."""
        try:
            content = io.BytesIO(self._path(image_key, token, module).read_bytes())
            with np.load(content, allow_pickle=False) as entry:
                state, meta = entry["state"], json.loads(str(entry["meta"]))
        except Exception:  # absent, half a file of a full disk, garbage: computed again in any case
            return None
        if state.ndim != 1 or state.dtype != np.float32 or not isinstance(meta, dict):
            return None
        try:
            return Record(
                state=state,
                caption=meta["caption"],
                position=int(meta["position"]),
                probability=np.nan if meta["probability"] is None else float(meta["probability"]),
                found=bool(meta["found"]),
                prefix=meta["prefix"],
            )
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, image_key, token, module, record):
        """Store `record`."""
        meta = {name: value for name, value in vars(record).items() if name != "state"}
        if np.isnan(record.probability):
            meta["probability"] = None
        content = io.BytesIO()
        np.savez(content, state=record.state, meta=json.dumps(meta))
        write_atomically(self._path(image_key, token, module), content.getvalue())
