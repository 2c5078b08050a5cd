"""Models as light handles: an id, loaded at first use and shared within the process."""

import dataclasses
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .._models import no_connection, torch_device
from .._quiet import quiet_transformers
from ._fingerprint import folder_fingerprint
from ._model_files import PROCESSOR_FILES, processor_fault, weights_fault

BUNDLED = "bundled"
# What a model is asked when the caller says nothing; the bundled model needs no question.
DEFAULT_PROMPT = "Describe this image in one short sentence."
_DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")

_lock = threading.RLock()
_shared = {}  # (handle, what) -> configuration, fingerprint or LoadedModel
_loads = Counter()  # handle -> how often its weights were read


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
        return _checked(dataclasses.replace(model, **given))
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
    return _checked(handle)


def _checked(handle):
    """`handle`, if its revision can mean something."""
    if handle.revision is not None and (handle.model == BUNDLED or _folder(handle) is not None):
        kind = "the bundled model" if handle.model == BUNDLED else "a folder"
        raise ValueError(
            f"revision={handle.revision!r} belongs to ids of the Hugging Face hub, but "
            f"model={handle.model!r} is {kind}: leave revision out."
        )
    return handle


def _dtype_name(dtype):
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {_DTYPES} or a torch floating type, got {dtype!r}.")
    return name


def load_count(handle=None):
    """How often weights were read in this process, of `handle` or of all models."""
    return _loads[handle] if handle is not None else sum(_loads.values())


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
        return self._once("weights", _load)

    @property
    def is_loaded(self):
        """Whether the weights are in memory."""
        return (self, "weights") in _shared

    @property
    def config(self):
        """The model's transformers configuration, read without the weights."""
        return self._once("config", _load_config)

    @property
    def fingerprint(self):
        """str: identity of the content, a hash of the files that decide the results.

        The same for a hub id and for a folder with a copy of it. The first access reads the whole
        checkpoint; for a hub id it also loads the model, which downloads what is not here yet.
        """
        return self._once("fingerprint", _fingerprint)

    @property
    def commit(self):
        """str or None: the commit that a hub id stands for on this machine; None for folders."""
        if _folder(self) is not None:
            return None
        folder = _local_folder(self)
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
        unasked = _is_bundled(self) or self.config.model_type == "depalm"
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


@dataclass(eq=False, repr=False)
class LoadedModel:
    """A model in memory with everything that belongs to it.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode, without gradients.
    processor : transformers.ProcessorMixin
    tokenizer : transformers.PreTrainedTokenizerBase
        Pads on the left.
    device : torch.device
    dtype : torch.dtype
    image_token_id : int or None
        The token that stands for the image in the prompt.
    """

    model: object
    processor: object
    tokenizer: object
    device: object
    dtype: object
    image_token_id: int | None
    name: str = field(default="")

    @property
    def image_processor_name(self):
        """str: class of the image processor, of which transformers may have two for one model.

        Their pixels differ a little: one computes with Pillow, one with torchvision where it is
        installed.
        """
        return type(self.processor.image_processor).__name__

    def save(self, folder):
        """Write model and processor to a folder, from which everything here uses them.

        Parameters
        ----------
        folder : path-like
            Made if it does not exist. Weights are stored in safetensors files of at most 5 GB, in
            the precision that they have in memory.

        Raises
        ------
        ValueError
            If `folder` is a file.
        OSError
            If it cannot be written.
        """
        from ._saving import save_model

        save_model(self.model, self.processor, folder)

    def __repr__(self):
        return f"LoadedModel({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"

    def __reduce__(self):
        raise TypeError("a LoadedModel cannot be pickled; pickle its ModelHandle instead.")


def _load(handle):
    """Read weights and processor of `handle`."""
    location = _location(handle)
    config = handle.config
    with quiet_transformers():
        from transformers import AutoModelForImageTextToText

        from .depalm._register import register_classes

        register_classes()
        _require_image_text(handle, config)
        device = torch_device(handle.device)
        processor = _load_processor(handle, location)
    model = read_weights(handle, AutoModelForImageTextToText, _torch_dtype(handle, device))
    from ._architecture import complete_processor, find_image_token_id

    model = model.to(device).eval().requires_grad_(False)
    _loads[handle] += 1
    return LoadedModel(
        model=model,
        processor=complete_processor(processor, config),
        tokenizer=processor.tokenizer,
        device=device,
        dtype=model.dtype,
        image_token_id=find_image_token_id(processor, config),
        name=handle.model,
    )


def read_weights(handle, auto_class, dtype, *, optional=(), **options):
    """The model of `handle` as `auto_class` reads it, on the CPU.

    Parameters
    ----------
    handle : ModelHandle
    auto_class : class of transformers with `from_pretrained`
    dtype : torch.dtype or "auto"
    optional : tuple of str, default=()
        Beginnings of the names of weights that the checkpoint may lack.
    **options
        For `from_pretrained`.
    """
    location = _location(handle)
    with quiet_transformers():
        try:
            model, info = auto_class.from_pretrained(
                location,
                dtype=dtype,
                output_loading_info=True,
                **_hub_options(handle),
                **options,
            )
        except Exception as error:  # safetensors, pickle, zip and torch raise what they like
            raise _loading_error(handle, error, "weights", weights_fault) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(optional))
    if missing:
        raise ValueError(
            f"the checkpoint of model {handle.model!r} lacks {len(missing)} weights "
            f"(such as {', '.join(missing[:3])}): it is incomplete or of another architecture."
        )
    return model


def _load_config(handle):
    location = _location(handle)
    with quiet_transformers():
        from transformers import AutoConfig

        from .depalm._register import register_config

        register_config()
        try:
            return AutoConfig.from_pretrained(location, **_hub_options(handle))
        except (OSError, ValueError, KeyError) as error:
            raise _config_error(handle, error) from error


def _config_error(handle, error):
    if "trust_remote_code" in str(error) and not handle.trust_remote_code:
        return _untrusted(handle)
    if _folder(handle) is not None:
        return ValueError(
            f"model={handle.model!r}: its config.json is not one that transformers can use: {error}"
        )
    if no_connection(error):
        return _unreachable(handle)
    return ValueError(
        f"model={handle.model!r} is neither a folder with a model nor a usable id of the Hugging "
        f"Face hub: {error}"
    )


def _untrusted(handle):
    return ValueError(
        f"model={handle.model!r} needs Python code that comes with it. trust_remote_code=True "
        "(--trust-remote-code) lets that code run: only for models whose authors you trust."
    )


def _unreachable(handle):
    return OSError(
        f"model={handle.model!r} is not (or not completely) on this machine and the Hugging Face "
        "hub cannot be reached (no network, or HF_HUB_OFFLINE is set). Download it first where "
        f"there is a network (`hf download {handle.model}`), or pass the folder of a local copy; "
        "model='bundled' needs no network."
    )


def _loading_error(handle, error, part, find_fault):
    """What to raise when reading `part` of a model failed with `error`."""
    import torch

    if isinstance(error, (ImportError, MemoryError, torch.OutOfMemoryError)):
        return error
    if no_connection(error):
        return _unreachable(handle)
    if "trust_remote_code" in str(error) and not handle.trust_remote_code:
        return _untrusted(handle)
    fault = find_fault(_local_folder(handle))
    if fault is not None:
        path, what, remedy = fault
        if _folder(handle) is None:
            remedy = (
                f"Download it again: `hf download {handle.model} {path.name} --force-download`"
                if path.is_file()
                else f"Complete the download (`hf download {handle.model}`) or use a whole copy"
            )
        return ValueError(f"model={handle.model!r} cannot be loaded: {path} {what}. {remedy}.")
    if "mismatched_sizes" in str(error):
        reason = "their shapes are not those that its config.json describes"
    else:  # without what transformers says about names of hub repositories
        reason = str(error).split("If you were trying")[0].strip() or repr(error)
    return ValueError(f"model={handle.model!r} cannot be loaded, because of its {part}: {reason}")


def _load_processor(handle, location):
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(location, **_hub_options(handle))
    except Exception as error:
        if _wants_torchvision(error) and processor_fault(_local_folder(handle)) is None:
            raise ImportError(
                f"the processor of model {handle.model!r} needs torchvision, in the build that "
                "matches the installed torch (see pytorch.org/get-started)."
            ) from error
        raise _loading_error(handle, error, "processor", processor_fault) from error
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        raise ValueError(
            f"model {handle.model!r} comes without an image processor "
            f"(its processor is a {type(processor).__name__})."
        )
    return processor


def _wants_torchvision(error):
    """Whether a processor could not be made because torchvision is absent (or not usable).

    transformers says so by name, or it misses a video processor, which do not exist without
    torchvision, sometimes with a bare AttributeError.
    """
    from transformers.utils import is_torchvision_available

    absent = not is_torchvision_available()
    while error is not None:
        text = str(error).lower().replace("_", " ")
        no_video = "video processor" in text or (
            isinstance(error, AttributeError) and "nonetype" in text
        )
        if "torchvision" in text or (absent and no_video):
            return True
        error = error.__cause__ or error.__context__
    return False


def _require_image_text(handle, config):
    from transformers import AutoModelForImageTextToText

    from ._architecture import unreadable_because

    known = AutoModelForImageTextToText._model_mapping
    remote = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if type(config) not in known and not (remote and handle.trust_remote_code):
        raise ValueError(
            f"model {handle.model!r} is of type {config.model_type!r}, which takes no images "
            "together with text. Use a vision-language model such as LLaVA (any that "
            "AutoModelForImageTextToText loads)."
        )
    reason = unreadable_because(config)
    if reason is not None:
        raise ValueError(
            f"model {handle.model!r} is of type {config.model_type!r} and cannot be used here: "
            f"{reason}."
        )


def _location(handle):
    """Folder or hub id from which transformers loads."""
    folder = _folder(_checked(handle))
    if folder is None:
        return handle.model
    if not folder.is_dir():
        raise ValueError(f"model={handle.model!r}: there is no such folder.")
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:5]
        raise ValueError(
            f"model={handle.model!r} is a folder without a config.json, so it is no model in the "
            f"Hugging Face format; it holds {found or 'nothing'}."
        )
    return str(folder)


def _folder(handle):
    """The folder that `handle` means, or None if it is a hub id."""
    if handle.model == BUNDLED:
        from ..datasets import bundled_model_path

        return Path(bundled_model_path())
    path = Path(handle.model).expanduser()
    looks_local = path.is_absolute() or handle.model.startswith((".", "~")) or "\\" in handle.model
    if path.exists() or looks_local or len(path.parts) > 2:
        return path
    return None


def _is_bundled(handle):
    if handle.model == BUNDLED:
        return True
    folder = _folder(handle)
    if folder is None:
        return False
    from ..datasets import bundled_model_path

    try:
        return Path(bundled_model_path()).resolve() == folder.resolve()
    except FileNotFoundError:  # a checkout without the model's files
        return False


def _hub_options(handle):
    options = {"trust_remote_code": handle.trust_remote_code}
    if _folder(handle) is None and handle.revision is not None:
        options["revision"] = handle.revision
    return options


def _local_folder(handle):
    """The folder with the model's files; that of a hub id once its configuration is here."""
    folder = _folder(handle)
    if folder is None:
        folder = Path(_hub_file(handle, "config.json", handle.revision)).parent
    return folder


def _hub_file(handle, name, revision, **options):
    from transformers.utils import cached_file

    handle.config  # noqa: B018 - the clear errors about a model that cannot be had
    return cached_file(handle.model, name, revision=revision, **options)


def _fingerprint(handle):
    _location(handle)
    if _folder(handle) is None:
        _complete_snapshot(handle)
    return folder_fingerprint(_local_folder(handle))


def _complete_snapshot(handle):
    """Have all files of a hub id here that take part in its fingerprint."""
    handle.loaded  # noqa: B018 - downloads the weights and nearly all else
    for name in PROCESSOR_FILES:
        _hub_file(
            handle,
            name,
            handle.commit or handle.revision,  # with the commit, what is here is not asked for
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )


def _torch_dtype(handle, device):
    import torch

    if handle.dtype != "auto":
        return getattr(torch, handle.dtype)
    return torch.float32 if device.type == "cpu" or _is_bundled(handle) else "auto"


def resolved_dtype(handle):
    """Name of the precision with which `handle` loads; "auto": that of the checkpoint."""
    return str(_torch_dtype(handle, torch_device(handle.device))).removeprefix("torch.")


def _to_numpy(tensor):
    """float32 NumPy copy of a tensor."""
    return tensor.detach().float().cpu().numpy()
