"""A fit on its way, in a file: what a fit that was interrupted goes on from."""

import hashlib
import io
import json
import os
import time
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._files import write_atomically
from ._arrays import to_numpy
from ._solvers import State

_FORMAT = 2
#: Writing may take this share of the time of a fit.
_WRITING_SHARE = 0.1
#: What may differ between the call that was interrupted and that which goes on.
_FREE = {"max_iter", "tol", "backend", "device", "batch_size", "n_jobs", "verbose", "warm_start"}
#: Sums over the data are the same up to this: blocks may be added up in another way.
_SAME = 1e-6
_ARRAYS = ("U", "U_before", "history", "mean")


class Progress(NamedTuple):
    """Where a fit is."""

    alpha: float
    state: Any
    history: list
    moved: bool = False  # whether all moves have been tried
    reached: float | None = None  # the `tol` to which the fit has ended, if it has


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : path-like
    estimator : SemiNMFConcepts
    shape : tuple of int
        Of the data.
    random_state : numpy.random.RandomState
        Kept with the state, and set when the fit goes on.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or that of another fit.
    OSError
        If it cannot be written.
    """

    def __init__(self, path, estimator, shape, random_state):
        self.path = Path(path).expanduser()
        self.random_state = random_state
        self.identity = {
            "format": _FORMAT,
            "shape": list(shape),
            "parameters": _parameters(estimator),
        }
        self.mean, self.measures = None, {}
        self._written = self._seconds = 0.0
        self._found = self._read() if self.path.exists() else None
        self._check_writable()

    def _read(self):
        """Arrays and numbers of the file."""
        try:
            with open(self.path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                texts = json.loads(bytes(file["texts"]))
                found = {name: file[name] for name in _ARRAYS}
            found |= texts["numbers"] | {"random_state": texts["random_state"]}
            known, now = texts["identity"], self.identity
            differences = [name for name in ("format", "shape") if known[name] != now[name]]
            known, now = known["parameters"], now["parameters"]
            differences += [name for name in now if known.get(name) != now[name]]
        except Exception as error:  # a file that is none of ours can raise anything
            raise ValueError(
                f"checkpoint={str(self.path)!r} is no checkpoint of a fit, or a damaged one. Name "
                "another file, or remove this one."
            ) from error
        self._raise_other(differences)
        return found

    def _raise_other(self, differences):
        if differences:
            raise ValueError(
                f"checkpoint={str(self.path)!r} belongs to another fit: {', '.join(differences)} "
                "differ. Name another file, or remove this one."
            )

    def _check_writable(self):
        """Raise now what would be raised after the first iteration, which may be hours later."""
        probe = self.path.with_name(f"{self.path.name}.probe")
        write_atomically(probe, b"")
        os.unlink(probe)

    def check_data(self, overview):
        """Raise ValueError unless these are the data that the fit was on its way with.

        Parameters
        ----------
        overview : Overview
            Of the data as they came.
        """
        self.mean = overview.mean
        norms = overview.norms
        self.measures = {
            "squared_norm": overview.squared_norm,
            "longest": overview.longest,
            "order": float(norms @ np.arange(1, len(norms) + 1)),  # of the rows
        }
        found = self._found
        if found is None:
            return
        # Of data that are centred the mean is nothing but rounding.
        atol = _SAME * (overview.squared_norm / overview.n_samples) ** 0.5
        same = np.allclose(found["mean"], self.mean, rtol=_SAME, atol=atol) and all(
            abs(found[name] - value) <= _SAME * value for name, value in self.measures.items()
        )
        self._raise_other([] if same else ["data"])

    def load(self):
        """The `Progress`, or None where there is no file yet."""
        found = self._found
        if found is None:
            return None
        if self.random_state is not np.random.mtrand._rand:  # which is not for us to set
            self.random_state.set_state(found["random_state"])
        state = State(found["U"], found["U_before"], None, found["F"], found["beta"])
        history = found["history"].tolist()
        return Progress(found["alpha"], state, history, found["moved"], found["reached"])

    def keep(self, progress, *, always=False):
        """Write where the fit is, unless that would take much of its time."""
        now = time.monotonic()
        if not always and now - self._written < self._seconds / _WRITING_SHARE:
            return
        alpha, state, history, moved, reached = progress
        texts = {
            "identity": self.identity,
            "numbers": {
                "alpha": alpha,
                "F": state.F,
                "beta": state.beta,
                "moved": moved,
                "reached": reached,
                **self.measures,
            },
            "random_state": self.random_state.get_state(legacy=False),
        }
        content = io.BytesIO()
        np.savez(
            content,
            texts=np.frombuffer(json.dumps(texts, default=_as_json).encode(), np.uint8),
            U=state.U,
            U_before=state.U_before,
            history=np.array(history),
            mean=self.mean,
        )
        write_atomically(self.path, content.getbuffer())
        self._written = time.monotonic()
        self._seconds = self._written - now


def _parameters(estimator):
    """The parameters that decide what a fit finds, as JSON."""
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        if name in _FREE:
            continue
        if name == "init" and not isinstance(value, str):
            array = np.ascontiguousarray(to_numpy(value), dtype=np.float64)
            value = hashlib.sha256(array.data).hexdigest()
        if name == "random_state" and not (value is None or isinstance(value, Integral)):
            value = type(value).__name__
        parameters[name] = value
    return json.loads(json.dumps(parameters, default=_as_json))


def _as_json(value):
    """Arrays and numbers of NumPy for JSON."""
    return value.tolist()
