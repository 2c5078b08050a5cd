"""Reading a model: configuration, processor, weights, and what to say where that fails."""

from collections import Counter
from dataclasses import dataclass, field

from .._models import no_connection, torch_device
from .._quiet import quiet_transformers
from ._fingerprint import folder_fingerprint
from ._location import (
    folder_of,
    hub_file,
    hub_options,
    is_bundled,
    local_folder,
    location_of,
)
from ._model_files import PROCESSOR_FILES, processor_fault, weights_fault

loads = Counter()  # handle -> how often its weights were read


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


def load(handle):
    """Read weights and processor of `handle`."""
    location = location_of(handle)
    config = handle.config
    with quiet_transformers():
        from transformers import AutoModelForImageTextToText

        from .depalm._register import register_classes

        register_classes()
        _require_image_text(handle, config)
        device = torch_device(handle.device)
        processor = _load_processor(handle, location)
    import torch

    from ._architecture import complete_processor, find_image_token_id

    # Weights that are made under a caller's inference mode could take part in no gradient later.
    with torch.inference_mode(False):
        model = read_weights(handle, AutoModelForImageTextToText, torch_dtype(handle, device))
        model = model.to(device).eval().requires_grad_(False)
    loads[handle] += 1
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
    location = location_of(handle)
    with quiet_transformers():
        try:
            model, info = auto_class.from_pretrained(
                location,
                dtype=dtype,
                output_loading_info=True,
                **hub_options(handle),
                **options,
            )
        except Exception as error:  # safetensors, pickle, zip and torch raise what they like
            raise loading_error(handle, error, "weights", weights_fault) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(optional))
    if missing:
        raise ValueError(
            f"the checkpoint of model {handle.model!r} lacks {len(missing)} weights "
            f"(such as {', '.join(missing[:3])}): it is incomplete or of another architecture."
        )
    return model


def load_config(handle):
    """The transformers configuration of `handle`."""
    location = location_of(handle)
    with quiet_transformers():
        from transformers import AutoConfig

        from .depalm._register import register_config

        register_config()
        try:
            return AutoConfig.from_pretrained(location, **hub_options(handle))
        except (OSError, ValueError, KeyError) as error:
            raise _config_error(handle, error) from error


def _config_error(handle, error):
    if "trust_remote_code" in str(error) and not handle.trust_remote_code:
        return _untrusted(handle)
    if folder_of(handle) is not None:
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


def loading_error(handle, error, part, find_fault):
    """What to raise when reading `part` of a model failed with `error`."""
    import torch

    if isinstance(error, (ImportError, MemoryError, torch.OutOfMemoryError)):
        return error
    if no_connection(error):
        return _unreachable(handle)
    if "trust_remote_code" in str(error) and not handle.trust_remote_code:
        return _untrusted(handle)
    fault = find_fault(local_folder(handle))
    if fault is not None:
        path, what, remedy = fault
        if folder_of(handle) is None:
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
        processor = AutoProcessor.from_pretrained(location, **hub_options(handle))
    except Exception as error:
        if _wants_torchvision(error) and processor_fault(local_folder(handle)) is None:
            raise ImportError(
                f"the processor of model {handle.model!r} needs torchvision, in the build that "
                "matches the installed torch (see pytorch.org/get-started)."
            ) from error
        raise loading_error(handle, error, "processor", processor_fault) from error
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


def fingerprint_of(handle):
    """Identity of the content of `handle`."""
    location_of(handle)
    if folder_of(handle) is None:
        _complete_snapshot(handle)
    return folder_fingerprint(local_folder(handle))


def _complete_snapshot(handle):
    """Have all files of a hub id here that take part in its fingerprint."""
    handle.loaded  # noqa: B018 - downloads the weights and nearly all else
    for name in PROCESSOR_FILES:
        hub_file(
            handle,
            name,
            handle.commit or handle.revision,  # with the commit, what is here is not asked for
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )


def torch_dtype(handle, device):
    """Precision to load with on `device`: a torch.dtype, or "auto" for that of the checkpoint."""
    import torch

    if handle.dtype != "auto":
        return getattr(torch, handle.dtype)
    return torch.float32 if device.type == "cpu" or is_bundled(handle) else "auto"


def resolved_dtype(handle):
    """Name of the precision with which `handle` loads; "auto": that of the checkpoint."""
    return str(torch_dtype(handle, torch_device(handle.device))).removeprefix("torch.")
