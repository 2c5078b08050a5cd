"""make_depalm: a DePALM from the checkpoints of an image encoder and of a language model."""

import contextlib
import copy
from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, validate_params

from ..._models import torch_device
from ..._quiet import quiet_transformers
from .._architecture import complete_processor
from .._handle import load_model
from .._loading import LoadedModel, loading_error, read_weights, torch_dtype
from .._location import hub_options, location_of
from .._model_files import processor_fault

IMAGE_TOKEN = "<image>"
# Where the image encoder lies inside a vision-language model.
_INNER_TOWER = {r"^(model\.)?(vision_tower|vision_model|visual)\.(vision_model\.)?": ""}
# Poolings that some encoders have and the connector takes the place of.
_UNUSED = ("pooler.", "head.")


@validate_params(
    {
        "vision": "no_validation",  # load_model knows better
        "language": "no_validation",
        "n_visual_tokens": [Interval(Integral, 1, None, closed="left")],
        "connector_width": [Interval(Integral, 1, None, closed="left")],
        "connector_layers": [Interval(Integral, 1, None, closed="left")],
        "connector_heads": [Interval(Integral, 1, None, closed="left")],
        "connector_dropout": [Interval(Real, 0, 1, closed="left")],
        "seed": [Interval(Integral, 0, None, closed="left")],
        "dtype": "no_validation",
        "device": "no_validation",
    },
    prefer_skip_nested_validation=True,
)
def make_depalm(
    vision="openai/clip-vit-large-patch14",
    language="facebook/opt-6.7b",
    n_visual_tokens=10,
    *,
    connector_width=1024,
    connector_layers=2,
    connector_heads=8,
    connector_dropout=0.1,
    seed=0,
    dtype="auto",
    device="auto",
):
    """A DePALM with an untrained connector, from an image encoder and a language model.

    A DePALM puts a frozen image encoder and a frozen causal language model together by a small
    connector ("query pooling"), the only part that :func:`train_depalm` trains: vision tokens are
    projected to a small width, `n_visual_tokens` learned query tokens are put after them, a few
    transformer layers run over both, and the query outputs, projected to the width of the language
    model, stand before the text.

    Parameters
    ----------
    vision : str, path or ModelHandle, default="openai/clip-vit-large-patch14"
        Id or folder of a CLIP or SigLIP, of which the image encoder is taken (its text encoder is
        not read), of an image encoder alone (DINOv2, ViT, ...), or of a vision-language model with
        one. All tokens of its last layer are used.
    language : str, path or ModelHandle, default="facebook/opt-6.7b"
        Id or folder of a causal language model: what ``AutoModelForCausalLM`` loads.
    n_visual_tokens : int, default=10
        Tokens that an image becomes; 10 in the concept paper.
    connector_width, connector_layers, connector_heads : int, default=1024, 2, 8
        Size of the connector's transformer, as in the authors' code for captions of COCO.
    connector_dropout : float, default=0.1
        During training.
    seed : int, default=0
        Of the connector's first weights.
    dtype, device : default="auto"
        As in :func:`~semi_nmf_concepts.lmm.load_model`; "auto" on a GPU is the precision of the
        language model's checkpoint. All parts get the same one. The largest amount of memory is
        that of the model itself.

    Returns
    -------
    LoadedModel
        Its ``save(folder)`` writes a folder that is used as any other model is.

    Raises
    ------
    ValueError, OSError
        If `vision` is no image encoder or `language` no causal language model, or if they cannot
        be had; the message names the parameter.

    References
    ----------
    Vallaeys et al., "Improved Baselines for Data-efficient Perceptual Augmentation of LLMs",
    arXiv 2403.13499.

    Examples
    --------
    >>> from semi_nmf_concepts.lmm import LMMTokenFeaturizer, make_depalm, train_depalm
    >>> model = make_depalm(dtype="bfloat16")  # doctest: +SKIP
    >>> model, losses = train_depalm(model, images, captions, out="depalm")  # doctest: +SKIP
    >>> LMMTokenFeaturizer("depalm", token="dog").extract(images)  # doctest: +SKIP
    >>> make_depalm(vision="./nowhere")
    Traceback (most recent call last):
    ValueError: vision='./nowhere': there is no such folder.
    """
    if connector_width % connector_heads:
        raise ValueError(
            f"connector_width={connector_width} must be a multiple of "
            f"connector_heads={connector_heads}."
        )
    with _about("vision"):
        vision = load_model(vision, dtype=dtype, device=device)
        vision_config = _vision_config(vision)
    with _about("language"):
        language = load_model(language, dtype=dtype, device=device)
        _check_language(language)
        text, tokenizer = _load_language(language)
        image_token_id = _add_image_token(tokenizer)
    with _about("vision"):
        tower, image_processor = _load_vision(vision, vision_config, text)
    config = _config(
        tower,
        text,
        image_token_id=image_token_id,
        n_visual_tokens=n_visual_tokens,
        connector_width=connector_width,
        connector_layers=connector_layers,
        connector_heads=connector_heads,
        connector_dropout=connector_dropout,
    )
    return _assemble(
        config,
        tower,
        text,
        tokenizer,
        image_processor,
        seed=int(seed),
        name=f"DePALM of {vision.model} and {language.model}",
    )


@contextlib.contextmanager
def _about(parameter):
    """Errors of the loader speak of a "model"; here that is the `parameter`."""
    try:
        yield
    except (TypeError, ValueError, OSError) as error:
        kind = next(k for k in (TypeError, ValueError, OSError) if isinstance(error, k))
        raise kind(str(error).replace("model", parameter, 1)) from error


def _vision_config(handle):
    """Configuration of the image encoder that `handle` is or has."""
    config = getattr(handle.config, "vision_config", None) or handle.config
    with quiet_transformers():
        from transformers import AutoModel

        known = type(config) in AutoModel._model_mapping
        kind = AutoModel._model_mapping[type(config)] if known else None
    if getattr(kind, "main_input_name", None) != "pixel_values":
        raise ValueError(
            f"model={handle.model!r} is of type {handle.config.model_type!r}, which is no image "
            "encoder and has none. Use a CLIP or SigLIP, or an image encoder alone."
        )
    return copy.deepcopy(config)  # it becomes a part of another one


def _check_language(handle):
    config = handle.config
    with quiet_transformers():
        from transformers import AutoModelForCausalLM

        known = type(config) in AutoModelForCausalLM._model_mapping
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder"
    elif getattr(config, "vision_config", None) is not None:
        reason = "a model with image input"
    elif not known:
        reason = "no language model"
    elif getattr(config, "is_decoder", True) is False:
        reason = "an encoder, which reads text in both directions"
    if reason:
        raise ValueError(
            f"model={handle.model!r} is of type {config.model_type!r}, {reason}. Use a causal "
            "language model such as OPT, GPT-2 or Llama (what AutoModelForCausalLM loads)."
        )


def _load_language(handle):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = torch_device(handle.device)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(location_of(handle), **hub_options(handle))
        except Exception as error:
            raise loading_error(handle, error, "tokenizer", _tokenizer_fault) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"model={handle.model!r} has a tokenizer without an end token (eos_token), so a "
            "caption could not end."
        )
    model = read_weights(handle, AutoModelForCausalLM, torch_dtype(handle, device))
    # At once, so that the memory of the host holds one part at a time.
    return model.to(device).eval().requires_grad_(False), tokenizer


def _tokenizer_fault(folder):
    fault = processor_fault(folder)
    # A language model has no image processor, and needs none.
    return None if fault is None or "image processor" in fault[1] else fault


def _load_vision(handle, config, text):
    """Image encoder and image processor; the encoder where and as precise as `text` is."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText

    with quiet_transformers():
        try:
            image_processor = AutoImageProcessor.from_pretrained(
                location_of(handle), **hub_options(handle)
            )
        except Exception as error:
            raise loading_error(handle, error, "image processor", lambda folder: None) from error
    inner = type(handle.config) in AutoModelForImageTextToText._model_mapping
    options = {"key_mapping": _INNER_TOWER} if inner else {}
    tower = read_weights(handle, AutoModel, text.dtype, optional=_UNUSED, config=config, **options)
    tower = tower.to(text.device).eval().requires_grad_(False)
    with torch.inference_mode(), quiet_transformers():
        pixels = image_processor(images=_blank_image(), return_tensors="pt")["pixel_values"]
        states = tower(pixel_values=pixels.to(tower.device, tower.dtype)).last_hidden_state
    wanted = (1, getattr(config, "hidden_size", None))
    if states.ndim != 3 or (len(states), states.shape[-1]) != wanted:
        raise ValueError(
            f"model={handle.model!r} gives states of the shape {tuple(states.shape)} for an image, "
            "where one row of tokens is needed: (1, tokens, hidden_size). Use a vision transformer."
        )
    return tower, image_processor


def _blank_image():
    from PIL import Image

    return Image.new("RGB", (64, 64))


def _add_image_token(tokenizer):
    """Id of the image token, which the tokenizer has or gets.

    The language model's embeddings stay as they are: the model looks no placeholder up, and an id
    outside the vocabulary can neither be generated nor change a logit.
    """
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        from tokenizers import AddedToken

        token = AddedToken(IMAGE_TOKEN, special=True, normalized=False)
        tokenizer.add_tokens([token], special_tokens=True)
    index = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    ids = tokenizer(IMAGE_TOKEN)["input_ids"]
    if ids[-1] != index:
        raise ValueError(
            f"the tokenizer of the model ends every text by {ids[-1]} "
            f"({tokenizer.decode(ids[-1:])!r}), so nothing could be written after a prompt."
        )
    return index


def _config(tower, text, **settings):
    from ._configuration import DePALMConfig

    config = DePALMConfig(vision_config=tower.config, text_config=text.config, **settings)
    width = text.get_input_embeddings().weight.shape[1]
    if width != config.text_embedding_width:
        raise ValueError(
            f"language of type {text.config.model_type!r} has embeddings of the width {width}, but "
            f"its configuration says {config.text_embedding_width}: this family is not supported."
        )
    return config


def _assemble(config, tower, text, tokenizer, image_processor, *, seed, name):
    import torch

    from ._modeling import DePALMForConditionalGeneration, QueryPooling
    from ._processing import DePALMProcessor
    from ._register import register_classes

    register_classes()
    with quiet_transformers():
        with torch.device("meta"):  # the parts are here already
            model = DePALMForConditionalGeneration(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            connector = QueryPooling(config)
            connector.fit_scale(text.get_input_embeddings().weight)
        model.vision_tower, model.language_model = tower, text
        model.connector = connector.to(text.device, text.dtype)
        processor = DePALMProcessor(image_processor, tokenizer, config.n_visual_tokens, IMAGE_TOKEN)
    model.generation_config = _generation_config(config, text, tokenizer)
    return LoadedModel(
        model=model.eval().requires_grad_(False),
        processor=complete_processor(processor, config),
        tokenizer=tokenizer,
        device=text.device,
        dtype=text.dtype,
        image_token_id=config.image_token_id,
        name=name,
    )


def _generation_config(config, text, tokenizer):
    """Greedy, and ended by what ends a text of the language model."""
    from transformers import GenerationConfig

    ends = text.generation_config.eos_token_id
    ends = list(ends) if isinstance(ends, (list, tuple)) else [ends]
    ends = list(dict.fromkeys(i for i in [*ends, tokenizer.eos_token_id] if i is not None))
    in_vocabulary = config.image_token_id < config.text_config.vocab_size
    return GenerationConfig(
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # An id that the language model has logits for must not be written as a word.
        suppress_tokens=[config.image_token_id] if in_vocabulary else None,
    )
