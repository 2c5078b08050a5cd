"""Where things are inside a vision-language model: decoder blocks, final norm, image token.

Everything is found from the interfaces that transformers gives all families (`get_decoder`, the
text configuration, the processor's image token), so that a new family needs a line here at most.
"""

import difflib
from numbers import Integral

# Names that families give to the norm after the last block.
_FINAL_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "final_norm", "norm_f")


def text_config(config):
    """Configuration of the language model."""
    return config.get_text_config(decoder=True)


def find_blocks(model):
    """(name, ModuleList) of the decoder blocks, the name as in `model.named_modules()`."""
    from torch.nn import ModuleList

    decoder = model.get_decoder()
    n_layers = text_config(model.config).num_hidden_layers
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
    blocks_name, _ = find_blocks(model)
    parent_name = blocks_name.rpartition(".")[0]
    parent = model.get_submodule(parent_name)
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
    """Id of the token that stands for (a piece of) the image in the prompt, or None."""
    for owner, attribute in (
        (processor, "image_token_id"),
        (config, "image_token_id"),
        (config, "image_token_index"),
    ):
        value = getattr(owner, attribute, None)
        if isinstance(value, int):
            return value
    return None


def complete_processor(processor, config):
    """Fill in what the processors of older checkpoints leave to the model's configuration."""
    if config.model_type in ("llava", "llava_next"):
        vision = config.vision_config
        if getattr(processor, "patch_size", None) is None:
            processor.patch_size = vision.patch_size
            # CLIP puts a class token before the patches.
            processor.num_additional_image_tokens = int("clip" in vision.model_type)
        if getattr(processor, "vision_feature_select_strategy", None) is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    # The state that predicts the next token must be the last one of every row of a batch.
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor
