"""Results of finished steps, found again by what they were computed from."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from .. import __version__
from .._files import write_atomically

# Part of every address: a change of what a step computes or stores changes it.
_FORMAT = 2


def address(request):
    """Hash of a request: whatever a step depends on, as JSON values, and this package's version.

    >>> address({"a": 1, "b": [2.5, None]}) == address({"b": [2.5, None], "a": 1})
    True
    """
    text = json.dumps([__version__, _FORMAT, request], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Arrays and JSON values of finished steps, in a folder (or, without one, in memory).

    A step appears whole or not at all, so that a run that was killed goes on with the first step
    that is missing. A file that cannot be read counts as missing.

    Parameters
    ----------
    folder : path-like or None
    """

    def __init__(self, folder):
        self.folder = None if folder is None else Path(folder)
        self._kept = {}

    def once(self, request, compute):
        """The (values, arrays) of a request, from the store or else from `compute()`."""
        key = address(request)
        found = self._get(key)
        if found is None:
            found = compute()
            self._put(key, *found)
        return found

    def _get(self, key):
        if self.folder is None:
            return self._kept.get(key)
        try:
            content = io.BytesIO((self.folder / f"{key}.npz").read_bytes())
            with np.load(content, allow_pickle=False) as entry:
                arrays = {name: entry[name] for name in entry.files if name != "values"}
                return json.loads(str(entry["values"])), arrays
        except Exception:  # absent, or damaged: computed again in any case
            return None

    def _put(self, key, values, arrays):
        if self.folder is None:
            self._kept[key] = values, arrays
            return
        content = io.BytesIO()
        # NaN is written as JSON's extension of that name, which the reader above knows.
        np.savez(content, values=json.dumps(values), **arrays)
        write_atomically(self.folder / f"{key}.npz", content.getvalue())


class NotFinished(LookupError):
    """A step that is not in the store."""


class FinishedSteps:
    """The steps of a store that are finished, and no others.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store):
        self._store = store

    def once(self, request, compute):
        """The (values, arrays) of a request; raises NotFinished instead of computing them."""

        def refuse():
            raise NotFinished

        return self._store.once(request, refuse)
