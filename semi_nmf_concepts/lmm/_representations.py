"""The representations of a token of interest, with everything needed to trace them back."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .._files import write_atomically

_ARRAYS = ("Z", "indices", "positions", "token_probability", "missing")
_TEXTS = (
    "captions",
    "all_captions",
    "prefixes",
    "token",
    "layer",
    "module",
    "provenance",
    "dropped",
)
_FILES = ("representations.safetensors", "representations.json")


class NoSampleKeptError(ValueError):
    """No sample is about the token of interest; the message says which words do occur.

    Attributes
    ----------
    dropped : dict of str to list of int
        Reason -> positions in X, as in :class:`TokenRepresentations`.
    """

    def __init__(self, message, dropped):
        super().__init__(message, dropped)
        self.dropped = dropped

    def __str__(self):
        return self.args[0]


@dataclass(eq=False)
class TokenRepresentations:
    """States that predict a token of interest, one row per kept sample.

    Made by :meth:`LMMTokenFeaturizer.extract`. With n samples given and m kept:

    Attributes
    ----------
    Z : ndarray of shape (m, width), float32
        The states.
    indices : ndarray of shape (m,), int
        Position of every row in X, ascending.
    captions : list of str
        Generated caption of every kept sample ("forced": the dictated one; positions of the
        prompt: "").
    all_captions : list of length n
        Caption of every sample given; None where there is none (unreadable image, position in the
        prompt, no reference to dictate).
    positions : ndarray of shape (m,), int
        Index of the token of interest within the caption, 0 for its first token. For positions of
        the prompt: the index in the prompt (-1 for the mean).
    token_probability : ndarray of shape (m,), float32
        Probability that the model gave to the first piece of the token; NaN for prompt positions.
    missing : ndarray of shape (n,), bool
        Which of *all* samples do not have the token in their caption (or have no caption).
    prefixes : list of str
        The caption before the token, per kept sample.
    token : str or None
    layer : int or str
        Block index counted from 0, "final_norm", or a module name.
    module : str
        Full name of the module whose output Z is.
    provenance : dict
        package_version, model, revision, commit (of a hub id), fingerprint, module, layer, token,
        forms, prompt, position, stop, max_new_tokens, dtype, versions.
    dropped : dict of str to list of int
        Why samples were left out: "unreadable" (image, only with on_error="skip"), "not_generated",
        "not_in_reference" (in the caption generated, but in no reference). The first reason that
        applies.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from semi_nmf_concepts.lmm import TokenRepresentations
    >>> reps = TokenRepresentations(
    ...     Z=np.eye(2, dtype=np.float32), indices=np.array([0, 2]), captions=["a dog", "dogs"],
    ...     all_captions=["a dog", "a cat", "dogs"], positions=np.array([1, 0]),
    ...     token_probability=np.ones(2, np.float32), missing=np.array([False, True, False]),
    ...     prefixes=["a", ""], token="dog", layer=3, module="layers.3",
    ...     dropped={"not_generated": [1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reps.save(folder)
    ...     TokenRepresentations.load(folder)
    TokenRepresentations(token='dog', layer=3, 2 of 3 samples kept, width 2)
    """

    Z: np.ndarray
    indices: np.ndarray
    captions: list
    all_captions: list
    positions: np.ndarray
    token_probability: np.ndarray
    missing: np.ndarray
    prefixes: list
    token: str | None
    layer: int | str
    module: str
    provenance: dict = field(default_factory=dict)
    dropped: dict = field(default_factory=dict)

    def __repr__(self):
        kept, width = self.Z.shape
        return (
            f"TokenRepresentations(token={self.token!r}, layer={self.layer!r}, {kept} of "
            f"{len(self.missing)} samples kept, width {width})"
        )

    def __len__(self):
        return len(self.Z)

    def save(self, folder):
        """Write arrays (safetensors) and texts (JSON) into `folder`, which is made if needed.

        Raises
        ------
        OSError
            If the folder cannot be written; the message names the file.
        """
        from safetensors.numpy import save

        arrays = save({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS})
        texts = {name: getattr(self, name) for name in _TEXTS}
        texts["arrays_sha256"] = hashlib.sha256(arrays).hexdigest()
        folder = Path(folder)
        # The JSON last: its checksum then tells a finished save from an interrupted one.
        write_atomically(folder / _FILES[0], arrays)
        write_atomically(folder / _FILES[1], json.dumps(texts, indent=1).encode())

    @classmethod
    def load(cls, folder):
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If the folder holds no saved representations, or damaged ones.
        """
        from safetensors.numpy import load

        folder = Path(folder)
        try:
            arrays = (folder / _FILES[0]).read_bytes()
            texts = json.loads((folder / _FILES[1]).read_text(encoding="utf-8"))
            checksum = texts.pop("arrays_sha256")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(folder)!r} holds no saved token representations ({', '.join(_FILES)}): "
                f"{error}"
            ) from error
        if hashlib.sha256(arrays).hexdigest() != checksum:
            raise ValueError(
                f"the token representations in {str(folder)!r} are damaged or half saved."
            )
        return cls(**load(arrays), **texts)
