"""Models as light handles: an id, loaded at first use and shared within the process."""

import dataclasses
import os
import threading
from dataclasses import dataclass

import numpy as np

from ._loading import LoadedModel, fingerprint_of, load, load_config, loads
from ._location import BUNDLED, checked, folder_of, is_bundled, local_folder

# What a model is asked when the caller says nothing; the bundled model needs no question.
DEFAULT_PROMPT = "Describe this image in one short sentence."
_DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")

_lock = threading.RLock()
_shared = {}  # (handle, what) -> configuration, fingerprint or LoadedModel


def load_model(
    model=BUNDLED, *, revision=None, dtype="auto", device="auto", trust_remote_code=False
):
    """Handle of a vision-language model; nothing is loaded until the handle is used.

    Parameters
    ----------
    model : str, path or ModelHandle, default="bundled"
        "bundled" is the small captioner that ships with the package; otherwise a folder in the
        Hugging Face format, or an id of the Hugging Face hub. A handle is returned as it is, except
        for arguments that differ from their defaults.
    revision : str, default=None
        Branch, tag or commit of a hub id; refused for "bundled" and for folders, which have one
        content only.
    dtype : {"auto", "float32", "float16", "bfloat16", "float64"} or torch.dtype, default="auto"
        Precision of the weights. "auto": float32 on a CPU, where half precision is slow, and for
        the bundled model, which is small; elsewhere the precision of the checkpoint.
    device : str or torch.device, default="auto"
        "auto": the first CUDA device if there is one, else the CPU.
    trust_remote_code : bool, default=False
        Whether Python files of the model's repository may run. Only for repositories you trust.

    Returns
    -------
    ModelHandle

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above. What is wrong with the model itself (no such model,
        a broken file) shows when the handle is used: a ValueError names the model and the file; an
        OSError says that the hub cannot be reached.

    Examples
    --------
    >>> from semi_nmf_concepts.lmm import load_model
    >>> load_model("some/folder", dtype="float32", device="cpu")
    ModelHandle('some/folder', dtype='float32', device='cpu')
    """
    if isinstance(model, ModelHandle):
        given = {
            "revision": revision if revision is not None else model.revision,
            "dtype": model.dtype if dtype == "auto" else _dtype_name(dtype),
            "device": model.device if device == "auto" else str(device),
            "trust_remote_code": trust_remote_code or model.trust_remote_code,
        }
        return checked(dataclasses.replace(model, **given))
    if isinstance(model, LoadedModel):
        raise TypeError(
            "model must be 'bundled', a folder, a hub id or a ModelHandle. A LoadedModel, such as "
            "make_depalm gives, is used by its folder: model.save(folder), then model=folder."
        )
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise TypeError(
            "model must be 'bundled', a folder, a hub id or a ModelHandle, got "
            f"{type(model).__name__}: {model!r}."
        )
    handle = ModelHandle(
        model=os.fspath(model),
        revision=revision,
        dtype=_dtype_name(dtype),
        device=str(device),
        trust_remote_code=bool(trust_remote_code),
    )
    return checked(handle)


def _dtype_name(dtype):
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {_DTYPES} or a torch floating type, got {dtype!r}.")
    return name


def load_count(handle=None):
    """How often weights were read in this process, of `handle` or of all models."""
    return loads[handle] if handle is not None else sum(loads.values())


@dataclass(frozen=True, repr=False)
class ModelHandle:
    """Which model, at which precision, on which device; made by :func:`load_model`.

    Handles compare, hash, pickle and copy by these fields alone. Weights are read when something
    first needs them and are shared by all equal handles of the process, until :meth:`unload`.

    Attributes
    ----------
    model : str
    revision : str or None
    dtype, device : str
    trust_remote_code : bool
    """

    model: str = BUNDLED
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False

    def __repr__(self):
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name != "model" and getattr(self, f.name) != f.default
        ]
        return f"ModelHandle({', '.join([repr(self.model), *changed])})"

    @property
    def loaded(self):
        """The loaded model (:class:`LoadedModel`), read at the first access."""
        return self._once("weights", load)

    @property
    def is_loaded(self):
        """Whether the weights are in memory."""
        return (self, "weights") in _shared

    @property
    def config(self):
        """The model's transformers configuration, read without the weights."""
        return self._once("config", load_config)

    @property
    def fingerprint(self):
        """str: identity of the content, a hash of the files that decide the results.

        The same for a hub id and for a folder with a copy of it. The first access reads the whole
        checkpoint; for a hub id it also loads the model, which downloads what is not here yet.
        """
        return self._once("fingerprint", fingerprint_of)

    @property
    def commit(self):
        """str or None: the commit that a hub id stands for on this machine; None for folders."""
        if folder_of(self) is not None:
            return None
        folder = local_folder(self)
        return folder.name if folder.parent.name == "snapshots" else None

    @property
    def n_layers(self):
        """int: number of decoder blocks of the language model."""
        from ._architecture import count_blocks

        return count_blocks(self.config)

    @property
    def width(self):
        """int: width of the residual stream of the language model."""
        from ._architecture import text_config

        return int(text_config(self.config).hidden_size)

    @property
    def default_prompt(self):
        """str: what the model is asked when no prompt is given.

        Nothing for the bundled model and for a DePALM, which caption an image unasked.
        """
        unasked = is_bundled(self) or self.config.model_type == "depalm"
        return "" if unasked else DEFAULT_PROMPT

    def unembedding(self):
        """Matrix that turns a normed state into logits.

        Returns
        -------
        weight : ndarray of shape (vocabulary, width), float32
        bias : ndarray of shape (vocabulary,), float32, or None
        """
        head = self.loaded.model.get_output_embeddings()
        if head is None:
            raise ValueError(f"model {self.model!r} has no output embeddings.")
        bias = getattr(head, "bias", None)
        return _to_numpy(head.weight), None if bias is None else _to_numpy(bias)

    def final_norm(self):
        """The norm before the unembedding, as a function of NumPy arrays.

        Returns
        -------
        callable
            Takes an array (n, width), returns float32 (n, width).
        """
        import torch

        from ._architecture import find_final_norm

        module = find_final_norm(self.loaded.model)[1]
        weight = next(module.parameters(), None)

        @torch.inference_mode()
        def norm(states):
            states = torch.as_tensor(np.asarray(states, dtype=np.float32))
            if weight is not None:
                states = states.to(weight.device, weight.dtype)
            return _to_numpy(module(states))

        return norm

    def unload(self):
        """Drop the weights of this handle from the process (they are read again when needed)."""
        with _lock:
            for key in [key for key in _shared if key[0] == self]:
                del _shared[key]

    def _once(self, what, make):
        key = (self, what)
        if key not in _shared:
            with _lock:
                if key not in _shared:
                    _shared[key] = make(self)
        return _shared[key]


def _to_numpy(tensor):
    """float32 NumPy copy of a tensor."""
    return tensor.detach().float().cpu().numpy()
