"""Where things are inside a vision-language model: decoder blocks, final norm, image token.

Everything is found from the interfaces that transformers gives all families (`get_decoder`, the
text configuration, the processor's image token), so that a new family needs a line here at most.
"""

import difflib
from numbers import Integral

# Names that families give to the norm after the last block.
_FINAL_NORMS = (
    "norm",
    "final_layer_norm",
    "final_layernorm",
    "ln_f",
    "final_norm",
    "norm_f",
    "embedding_norm",  # LFM2: of what the unembedding gets
    "layer_norm",  # Kosmos-2
)
# What the generic path cannot read, by `model_type`, although transformers lists it, and why.
_BESIDE = "it reads the image beside its prompt, which has no place for one"
_OWN_FORM = "its processor takes images and prompts in a form of its own"
_UNREADABLE = {
    "blip": _BESIDE,
    "git": _BESIDE,
    "pix2struct": _BESIDE,
    "pp_formulanet": _BESIDE,
    "vision-encoder-decoder": _BESIDE,
    "fuyu": _OWN_FORM,
    "got_ocr2": _OWN_FORM,
    "udop": _OWN_FORM,
    "diffusion_gemma": "it does not write one token after the other",
    "evolla": "it reads proteins, not images",
    "pi0": "it moves a robot and writes nothing",
}
# Language models whose blocks end with a norm, so that none follows the last one.
_NORMED_BLOCKS = ("bart",)


def unreadable_because(config):
    """Why models of this configuration cannot be used, or None."""
    old = config.model_type in ("blip-2", "instructblip") and config.image_token_index is None
    if old:
        return (
            "its configuration does not say which token stands for the image (image_token_index), "
            "which transformers needs today; take a newer revision of the checkpoint"
        )
    return _UNREADABLE.get(config.model_type)


def text_config(config):
    """Configuration of the language model."""
    return config.get_text_config(decoder=True)


def is_encoder_decoder(config):
    """Whether the prompt is read by an encoder (T5, BART), so that the decoder begins empty."""
    return any(
        getattr(one, "is_encoder_decoder", False) is True for one in (config, text_config(config))
    )


def count_blocks(config):
    """Number of decoder blocks of the language model."""
    text = text_config(config)
    if is_encoder_decoder(config):
        for name in ("num_decoder_layers", "decoder_layers"):
            if getattr(text, name, None) is not None:
                return int(getattr(text, name))
    return int(text.num_hidden_layers)


def find_blocks(model):
    """(name, ModuleList) of the decoder blocks, the name as in `model.named_modules()`."""
    from torch.nn import ModuleList

    decoder = model.get_decoder()
    # That of BLIP-2 is a whole language model, and that of T5 has an encoder, too.
    while (inner := decoder.get_decoder()) is not decoder:
        decoder = inner
    n_layers = count_blocks(model.config)
    names = {module: name for name, module in model.named_modules()}
    for module in decoder.modules():
        if isinstance(module, ModuleList) and len(module) == n_layers:
            return names[module], module
    raise ValueError(
        f"no list of {n_layers} decoder blocks found in {type(decoder).__name__}; name the module "
        "by layer='<exact module name>'."
    )


def find_final_norm(model):
    """(name, module) of the norm between the last decoder block and the unembedding."""
    from torch.nn import Identity

    blocks_name, _ = find_blocks(model)
    parent_name = blocks_name.rpartition(".")[0]
    parent = model.get_submodule(parent_name)
    if text_config(model.config).model_type in _NORMED_BLOCKS:
        return f"{blocks_name}.{count_blocks(model.config) - 1}", Identity()
    for name in _FINAL_NORMS:
        module = getattr(parent, name, None)
        if module is not None:
            return f"{parent_name}.{name}".lstrip("."), module
    children = [name for name, _ in parent.named_children()]
    raise ValueError(
        f"no final norm found in {type(parent).__name__} (it has {children}); pass its exact "
        "module name as layer."
    )


def resolve_layer(model, layer):
    """Module name of `layer`: a block index, "final_norm", or an exact module name."""
    if isinstance(layer, Integral) and not isinstance(layer, bool):
        name, blocks = find_blocks(model)
        return f"{name}.{layer_index(layer, len(blocks))}"
    if layer == "final_norm":
        return find_final_norm(model)[0]
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return layer
    raise ValueError(
        f"layer={layer!r} is no module of {type(model).__name__}. {_candidates(layer, names)} "
        "Also allowed: an integer (decoder block) and 'final_norm'."
    )


def padding_is_exact(config, length):
    """Whether rows that are padded to `length` positions give the states of unpadded rows.

    Llama 4 scales attention by where a token stands in the padded row, from `floor_scale` on.
    Kosmos-2 counts padding when it numbers the positions of the words that it writes.
    """
    if config.model_type in ("kosmos-2", "kosmos-2.5"):
        return False
    text = text_config(config)
    scaled = text.model_type == "llama4_text" and text.attn_temperature_tuning
    return not scaled or length < text.floor_scale


def active_stream(config):
    """Which of several residual streams that go through the blocks is the state, or None.

    Gemma 3n has four; attention and MLP read and write one of them, and the others are predicted
    from it. Before the final norm they are merged, so that the last block's state alone does not
    give the normed one.
    """
    return getattr(text_config(config), "altup_active_idx", None)


def skips_positions(config):
    """Whether blocks at the end only see the last position of a prompt while `generate` runs.

    Gemma 4's blocks that share keys and values do, unless all hidden states are asked for.
    """
    return bool(getattr(text_config(config), "num_kv_shared_layers", 0))


def layer_index(layer, n_layers):
    """`layer` as a non-negative block index."""
    if not -n_layers <= layer < n_layers:
        raise ValueError(
            f"layer must be between {-n_layers} and {n_layers - 1} for a model of {n_layers} "
            f"decoder blocks, got {layer}."
        )
    return int(layer) % n_layers


def _candidates(wanted, names, n=8):
    """A sentence with the modules that `wanted` may mean."""
    inside = [name for name in names if name.endswith(f".{wanted}")]
    inside = inside or [name for name in names if wanted and wanted in name]
    close = inside or difflib.get_close_matches(wanted, names, n=n, cutoff=0.4)
    if not close:
        return "No module has a similar name."
    kind = "It is ambiguous, did you mean one of" if len(inside) > 1 else "Did you mean"
    more = f" (and {len(close) - n} more)" if len(close) > n else ""
    return f"{kind} {', '.join(map(repr, close[:n]))}{more}?"


def find_image_token_id(processor, config):
    """Id of the token that stands for (a piece of) the image in the prompt, or None.

    The model's own first: it puts image features there, while the processor's may be one that is
    replaced before the model sees the prompt (Ovis2).
    """
    for owner, attribute in (
        (config, "image_token_id"),
        (config, "image_token_index"),
        (processor, "image_token_id"),
    ):
        value = getattr(owner, attribute, None)
        if isinstance(value, int):
            return value
    return None


def complete_processor(processor, config):
    """Fill in what the processors of older checkpoints leave to the model's configuration."""
    if config.model_type in ("llava", "llava_next", "vipllava"):
        vision = config.vision_config
        if getattr(processor, "patch_size", None) is None:
            processor.patch_size = vision.patch_size
            # CLIP puts a class token before the patches.
            processor.num_additional_image_tokens = int("clip" in vision.model_type)
        if getattr(processor, "vision_feature_select_strategy", None) is None:
            # VipLLaVA always leaves the class token out, which its configuration does not say.
            processor.vision_feature_select_strategy = getattr(
                config, "vision_feature_select_strategy", "default"
            )
    # The state that predicts the next token must be the last one of every row of a batch. Said
    # here and not in every call, because a call would also turn the Q-Former's tokenizer of
    # InstructBLIP round, whose positions count from the left; what the checkpoint says of it would
    # be handed to every call. An encoder, whose positions count from the left, is padded behind.
    processor.tokenizer.padding_side = "right" if is_encoder_decoder(config) else "left"
    processor.tokenizer.init_kwargs.pop("padding_side", None)
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor
