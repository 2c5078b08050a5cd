"""CLIP models in memory: through transformers or through open_clip, behind the same few methods.

Both classes have `model` (a torch module), `device`, `width` (of an embedding) and

    pixels(image)           PIL image in RGB -> tensor, ready for the model
    image_features(pixels)  batch of them -> tensor (n, width)
    text_features(texts)    list of str -> tensor (n, width)
    settings()              what besides the weights decides the embeddings, as JSON types
"""

import contextlib
import difflib
import hashlib
import json
import logging
import os
import threading
from functools import cached_property
from pathlib import Path

from .._messages import some
from .._models import no_connection, torch_device
from .._quiet import quiet_transformers

_OPEN_CLIP = "open_clip:"
# What open_clip itself calls its checkpoints; a folder may hold other safetensors files, too.
_CHECKPOINTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")

_lock = threading.RLock()
_shared = {}  # (model, device) -> loaded model


def loaded_clip(model, device):
    """The loaded model, read at the first call and shared by the process.

    Parameters
    ----------
    model : str
        Hub id, folder, "bundled" or "open_clip:...".
    device : str
    """
    device = torch_device(device)
    key = (model, str(device))
    with _lock:
        if key not in _shared:
            kind = _OpenClip if model.startswith(_OPEN_CLIP) else _TransformersClip
            _shared[key] = kind(model, device)
        return _shared[key]


class _Clip:
    """What both kinds of models share."""

    def encode_images(self, pixels):
        """Unit rows (n, width), float32, of a list of what `pixels` returned."""
        import torch

        return self._unit_rows(lambda: self.image_features(torch.stack(pixels).to(self.device)))

    def encode_texts(self, texts):
        """Unit rows (n, width), float32, of a list of str."""
        return self._unit_rows(lambda: self.text_features(texts))

    @staticmethod
    def _unit_rows(run):
        import torch

        with torch.inference_mode(), quiet_transformers():
            rows = run().float()
            return torch.nn.functional.normalize(rows, dim=-1).cpu().numpy()

    @cached_property
    def fingerprint(self):
        """Hash of every weight as it is in memory, and of :meth:`settings`."""
        import torch

        settings = json.dumps(self.settings(), sort_keys=True, default=str)
        digest = hashlib.blake2b(settings.encode(), digest_size=32)
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            flat = weight.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
        return f"blake2b:{digest.hexdigest()}"


class _TransformersClip(_Clip):
    """A CLIPModel of transformers with its image processor and tokenizer."""

    def __init__(self, name, device):
        location = _location(name)
        self.config = _clip_config(name, location)
        self.device, self.width = device, int(self.config.projection_dim)
        with quiet_transformers():
            from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

            with _naming(name):
                model, info = CLIPModel.from_pretrained(
                    location, dtype="float32", output_loading_info=True
                )
                # Pillow's resizing, which CLIP was trained with, whether or not torchvision is
                # there: the same image has the same embedding everywhere.
                self.image_processor = AutoImageProcessor.from_pretrained(location, backend="pil")
                self.tokenizer = AutoTokenizer.from_pretrained(location)
        if info["missing_keys"]:
            raise ValueError(
                f"the checkpoint of model {name!r} lacks {len(info['missing_keys'])} weights (such "
                f"as {some(sorted(info['missing_keys']), 3)}): it is incomplete."
            )
        self.model = model.to(device).eval().requires_grad_(False)

    def pixels(self, image):
        return self.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]

    def image_features(self, pixels):
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    def text_features(self, texts):
        inputs = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask")
        inputs = {name: inputs[name].to(self.device) for name in names}
        return _pooled(self.model.get_text_features(**inputs))

    def settings(self):
        return {
            "config": _without_origin(self.config.to_dict()),
            "images": _without_origin(self.image_processor.to_dict()),
            "tokenizer": _tokenizer_settings(self.tokenizer),
        }


def _pooled(output):
    """The embedding: the output itself in old versions of transformers, its pooled part in new."""
    return getattr(output, "pooler_output", output)


def _location(name):
    """Folder or hub id from which transformers loads."""
    if name == "bundled":
        from ..datasets import bundled_clip_path

        return str(bundled_clip_path())
    path = os.path.expanduser(name)
    return path if os.path.isdir(path) else name


def _clip_config(name, location):
    from ..lmm import load_model

    config = load_model(location).config  # with the clear errors about a model that is not there
    if config.model_type != "clip":
        raise ValueError(
            f"model={name!r} is of type {config.model_type!r}; CLIP scores need a model of type "
            "'clip', such as openai/clip-vit-base-patch32, or one of open_clip ('open_clip:...')."
        )
    return config


@contextlib.contextmanager
def _naming(name):
    """Within the block, errors become ones that name the model and what to do."""
    try:
        yield
    except Exception as error:  # safetensors, tokenizers and torch raise what they like
        raise _loading_error(name, error) from error


def _loading_error(name, error):
    """What to raise when reading the files of model `name` failed with `error`."""
    import torch

    if isinstance(error, (ImportError, MemoryError, torch.OutOfMemoryError)):
        return error
    if no_connection(error):
        return OSError(
            f"model={name!r} is not (or not completely) on this machine and the Hugging Face hub "
            "cannot be reached (no network, or HF_HUB_OFFLINE is set). Download it where there is "
            "a network, or pass the folder of a local copy; model='bundled' needs no network."
        )
    # In one line, without what transformers says about names of hub repositories.
    reason = " ".join(str(error).split("If you were trying")[0].split()) or repr(error)
    return ValueError(f"model={name!r} cannot be loaded: {reason}")


def _without_origin(settings):
    """`settings` without what says where a model came from or which version wrote it down."""
    if not isinstance(settings, dict):
        return settings
    origin = ("transformers_version", "dtype", "architectures")
    return {
        str(key): _without_origin(value)  # labels have numbers as keys
        for key, value in settings.items()
        if key not in origin and not str(key).startswith("_")
    }


def _tokenizer_settings(tokenizer):
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    # Padding and truncation are remembered from the last call, so they say nothing.
    kept = json.loads(backend.to_str())
    return {key: value for key, value in kept.items() if key not in ("padding", "truncation")}


class _OpenClip(_Clip):
    """A model of open_clip with its evaluation transform and tokenizer."""

    def __init__(self, name, device):
        architecture, tag = _parse(name)
        open_clip = _import_open_clip()
        known = _tag_settings(open_clip, name, architecture, tag)
        self.device, self._quick_gelu = device, bool(known.get("quick_gelu"))
        with _quiet_logging(), quiet_transformers():
            with _naming(name):
                checkpoint = _find_checkpoint(open_clip, architecture, tag, known)
            _require_safetensors(name, checkpoint)
            with _naming(name):
                self.model, _, self.pixels = open_clip.create_model_and_transforms(
                    architecture,
                    pretrained=tag if known else None,  # decides mean and std
                    load_weights=False,
                    pretrained_text=False,
                    # Many tags were trained with QuickGELU though their architecture has GELU:
                    # open_clip warns and then computes something else.
                    force_quick_gelu=self._quick_gelu,
                    device=device,
                )
                open_clip.load_checkpoint(self.model, str(checkpoint))
                self.tokenizer = open_clip.get_tokenizer(architecture)
                self._config = open_clip.get_model_config(architecture)
        self.model.eval().requires_grad_(False)
        self.width = int(self._config["embed_dim"])

    def image_features(self, pixels):
        return self.model.encode_image(pixels)

    def text_features(self, texts):
        return self.model.encode_text(self.tokenizer(texts).to(self.device))

    def settings(self):
        inner = getattr(self.tokenizer, "tokenizer", None)  # one of transformers
        return {
            "config": self._config,
            "quick_gelu": self._quick_gelu,
            "images": self.model.visual.preprocess_cfg,
            "tokenizer": [type(self.tokenizer).__name__, self.tokenizer.context_length],
            "vocabulary": None if inner is None else _tokenizer_settings(inner),
        }


def _import_open_clip():
    try:
        import open_clip
    except Exception as error:
        # A torchvision of another build fails in ways of its own, and differently the second time.
        if "torchvision" in str(error) and not isinstance(error, ModuleNotFoundError):
            raise ImportError(
                "open_clip cannot be imported because the installed torchvision does not match the "
                "installed torch: install the matching build (see pytorch.org/get-started)."
            ) from error
        if isinstance(error, ImportError):
            raise ImportError(
                "CLIP through open_clip needs open_clip_torch; install it with: "
                f'pip install "semi_nmf_concepts[clip]" ({error})'
            ) from error
        raise
    return open_clip


def _parse(name):
    """(architecture, tag or file) of "open_clip:..."; the second is None for hubs and folders."""
    rest = name.removeprefix(_OPEN_CLIP)
    schema, colon, place = rest.partition(":")
    if colon and schema == "local-dir":
        return f"local-dir:{os.path.expanduser(place)}", None
    if colon and schema == "hf-hub":
        return rest, None
    architecture, _, tag = rest.partition("/")
    if not architecture or not tag:
        raise ValueError(
            f"model={name!r} must be 'open_clip:NAME/PRETRAINED' (such as "
            "open_clip:ViT-B-32/openai), with a tag of open_clip or the path of a .safetensors "
            "file as PRETRAINED; 'open_clip:hf-hub:ORGANISATION/NAME'; or "
            "'open_clip:local-dir:FOLDER'."
        )
    return architecture, tag


def _tag_settings(open_clip, name, architecture, tag):
    """What open_clip knows of a pretrained tag; empty for files, folders and hub ids."""
    if tag is None:
        return {}
    known = open_clip.list_models()
    if architecture not in known:
        close = difflib.get_close_matches(architecture, known, n=3)
        hint = f"; close ones are {close}" if close else ""
        raise ValueError(
            f"model={name!r}: open_clip knows no architecture {architecture!r}{hint} (see "
            "open_clip.list_models())."
        )
    settings = open_clip.get_pretrained_cfg(architecture, tag)
    if not settings and not Path(tag).expanduser().is_file():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ValueError(
            f"model={name!r}: {tag!r} is neither a file nor a tag of {architecture!r} in "
            f"open_clip; its tags are {tags}."
        )
    return settings


def _find_checkpoint(open_clip, architecture, tag, settings):
    """Path of the weights (None where there are none); downloads what is not here."""
    if settings:
        return open_clip.download_pretrained(settings)
    if tag is not None:
        return Path(tag).expanduser()
    schema, _, place = architecture.partition(":")
    if schema == "hf-hub":
        return open_clip.download_pretrained({"hf_hub": f"{place}/"})
    folder = Path(place)
    if not (folder / "open_clip_config.json").is_file():
        raise ValueError(f"{folder} is no folder with an open_clip_config.json")
    named = [path for path in map(folder.joinpath, _CHECKPOINTS) if path.is_file()]
    return next(iter([*named, *sorted(folder.glob("*.safetensors"))]), None)


def _require_safetensors(name, checkpoint):
    """Everything else would have to be unpickled."""
    if checkpoint is None or Path(checkpoint).suffix != ".safetensors":
        found = "there are none" if checkpoint is None else f"they are {checkpoint}"
        raise ValueError(
            f"model={name!r}: its weights must be a .safetensors file, but {found}. Other formats "
            "can run code and are not read: save the weights with safetensors.torch.save_file, and "
            "pass open_clip:NAME/FILE.safetensors."
        )


@contextlib.contextmanager
def _quiet_logging():
    """Keep what open_clip tells the root logger while loading from the console.

    Among it is the warning that weights are random, before they are read. Without a handler, the
    first message of a library to the root logger would also set up logging for the whole process.
    """
    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(max(level, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)
