"""The representations of a token of interest, with everything needed to trace them back."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .._files import write_atomically
from .._safetensors import Blocks, file_digest, map_arrays, write_arrays

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
    "failed",
)
_FILES = ("representations.safetensors", "representations.json")
# Written by `extract(out=...)`, which may hold several representations or none yet.
MANIFEST = "manifest.json"
# Names the shards that have the states, where these are in no file of their own.
ROWS = "rows.json"


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
    Z : ndarray or RowBlocks of shape (m, width), float32
        The states. After `load`, and from `extract(out=...)`, it is mapped from the file: parts are
        read when they are used. From `extract(out=..., join=False)` it is a
        :class:`~semi_nmf_concepts.streaming.RowBlocks`, which decomposers take as it is, which is
        indexed like an array, and of which ``numpy.asarray`` makes one.
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
        forms, prompt (None where each sample had its own), position, stop, max_new_tokens, dtype,
        image_processor, versions.
    dropped : dict of str to list of int
        Why samples were left out: "unreadable" (image, only with on_error="skip"), "not_generated",
        "not_in_reference" (in the caption generated, but in no reference). The first reason that
        applies.
    failed : dict of int to str
        The unreadable images: position in X -> what is wrong with each.

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
    failed: dict = field(default_factory=dict)

    def __repr__(self):
        kept, width = self.Z.shape
        return (
            f"TokenRepresentations(token={self.token!r}, layer={self.layer!r}, {kept} of "
            f"{len(self.missing)} samples kept, width {width})"
        )

    def __len__(self):
        return len(self.Z)

    def summary(self):
        """How many samples were kept, dropped (why), and which images failed.

        Returns
        -------
        text : str
            Several lines; at most five of the failed images are named.

        Examples
        --------
        >>> import numpy as np
        >>> from semi_nmf_concepts.lmm import TokenRepresentations
        >>> reps = TokenRepresentations(
        ...     np.ones((1, 2)), np.array([1]), ["a dog"], [None, "a dog"], np.array([1]),
        ...     np.ones(1), np.array([True, False]), ["a"], "dog", 3, "layers.3",
        ...     dropped={"unreadable": [0]}, failed={0: "image 0 (a.jpg) is truncated."})
        >>> print(reps.summary())
        token 'dog', layer 3: 1 of 2 samples kept
          1 unreadable
            image 0 (a.jpg) is truncated.
        """
        what = "" if self.token is None else f"token {self.token!r}, "
        n_kept, n = len(self), len(self.missing)
        lines = [f"{what}layer {self.layer}: {n_kept:,} of {n:,} samples kept"]
        for reason, indices in self.dropped.items():
            if len(indices):
                lines.append(f"  {len(indices):,} {_REASONS.get(reason, reason)}")
            if reason == "unreadable":
                messages = [self.failed[index] for index in sorted(self.failed)]
                lines += [f"    {message}" for message in messages[:_NAMED]]
                lines += ["    ..."] if len(messages) > _NAMED else []
        return "\n".join(lines)

    def save(self, folder):
        """Write arrays (safetensors) and texts (JSON) into `folder`, which is made if needed.

        Raises
        ------
        OSError
            If the folder cannot be written; the message names the file.
        """
        _write(self, folder, _ARRAYS)

    @classmethod
    def load(cls, folder, *, verify=True):
        """Read what :meth:`save`, or `extract(out=folder)`, wrote.

        Parameters
        ----------
        folder : path-like
        verify : bool, default=True
            Whether to compare the checksum of the arrays, and of the shards where the states are in
            these. This reads the files once (the memory does not fill), about a second per
            gigabyte.

        Returns
        -------
        TokenRepresentations
            `Z` is mapped from the file; it may be changed in memory, the file stays as it is. A
            `RowBlocks` over shards can only be read.

        Raises
        ------
        ValueError
            If the folder holds no saved representations, several, damaged ones, or those of a run
            that has not ended; if a shard with states is missing or damaged, which is named.
        """
        return read_results(folder, verify=verify, verify_shards=verify)


def _write(representations, folder, names):
    """Arrays of these names, and all texts."""
    folder = Path(folder).expanduser()
    arrays = {name: _writable(getattr(representations, name)) for name in names}
    texts = {name: getattr(representations, name) for name in _TEXTS}
    texts["arrays_sha256"] = write_arrays(folder / _FILES[0], arrays)
    # The JSON last: its checksum then tells a finished save from an interrupted one.
    write_atomically(folder / _FILES[1], json.dumps(texts, indent=1))


def _writable(array):
    if isinstance(array, Blocks):
        return array
    if hasattr(array, "blocks"):  # RowBlocks: not in memory as a whole
        return Blocks(array.shape, array.dtype, lambda: (block for _, block in array.blocks()))
    return np.asarray(array)


def write_without_states(representations, folder):
    """What `TokenRepresentations.save` writes, where rows.json tells which shards have Z."""
    _write(representations, folder, [name for name in _ARRAYS if name != "Z"])


def read_results(folder, *, verify=True, verify_shards=True):
    """`TokenRepresentations.load`, with a choice for the shards."""
    folder = Path(folder).expanduser()
    path = folder / _FILES[0]
    try:
        texts = json.loads((folder / _FILES[1]).read_text(encoding="utf-8"))
        checksum = texts.pop("arrays_sha256")
        failed = {int(index): message for index, message in texts.pop("failed", {}).items()}
        damaged = verify and file_digest(path) != checksum
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(_nothing_saved(folder, error)) from error
    if damaged:
        raise ValueError(
            f"the token representations in {str(folder)!r} are damaged or half saved; "
            "make them again, in a new folder or after removing these files."
        )
    arrays = map_arrays(path)
    small = {name: np.array(arrays[name]) for name in _ARRAYS if name != "Z"}
    Z = arrays["Z"] if "Z" in arrays else _rows_of_shards(folder, verify_shards)
    if len(Z) != len(small["indices"]):
        raise ValueError(
            f"{folder / ROWS} lists {len(Z)} rows, but there are {len(small['indices'])} samples: "
            f"its files do not belong together; {_MAKE_AGAIN}"
        )
    return TokenRepresentations(Z=Z, **small, **texts, failed=failed)


_MAKE_AGAIN = "call extract with the same arguments again, and it makes what is missing."


def _rows_of_shards(folder, verify):
    """The states that rows.json lists."""
    from ..streaming import open_rows
    from ._shard_files import read_shard

    try:
        index = json.loads((folder / ROWS).read_text(encoding="utf-8"))
        files = [folder / entry["file"] for entry in index["files"]]
        shape, dtype = (0, int(index["n_features"])), np.dtype(index["dtype"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / ROWS} is damaged or not there; {_MAKE_AGAIN}") from error
    if not files:
        return np.empty(shape, dtype)
    try:
        rows = open_rows(folder)
    except (OSError, ValueError) as error:  # names the shard
        raise ValueError(f"{str(error).rstrip('.')}; {_MAKE_AGAIN}") from error
    for path in files if verify else ():
        if read_shard(path) is None:
            raise ValueError(f"the shard {path} is damaged; {_MAKE_AGAIN}")
    return rows


# How the summary puts the reasons.
_REASONS = {
    "unreadable": "unreadable",
    "not_generated": "without the token in the generated caption",
    "not_in_reference": "without the token in a reference caption",
}
_NAMED = 5


def _nothing_saved(folder, error):
    """Why a folder cannot be loaded."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        results = [entry["folder"] for entry in manifest["results"]]
        status = manifest["status"]
    except (OSError, ValueError, KeyError, TypeError):
        results, status = [""], "complete"
    if status != "complete":
        return (
            f"{str(folder)!r} holds a run of extract that has not ended: call extract with the "
            "same arguments again, and it goes on."
        )
    if results == [""]:  # there should be one in the folder itself
        return (
            f"{str(folder)!r} holds no saved token representations ({', '.join(_FILES)}): {error}"
        )
    inside = ", ".join(repr(str(folder / name)) for name in results)
    return f"{str(folder)!r} holds several token representations, load one of them: {inside}."
