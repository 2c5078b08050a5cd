"""Decoding as the caller asks, whatever a checkpoint's own generation settings say."""

import contextlib
import threading

# Settings of a shared model are put aside for one run at a time; others wait.
_lock = threading.RLock()


def end_ids(loaded):
    """Ids of the tokens that end a caption.

    Those of the checkpoint's generation settings and the tokenizer's end token: some checkpoints
    list only the end of a document there, and only their tokenizer knows the end of a turn.
    """
    with _lock:
        from_settings = loaded.model.generation_config.eos_token_id
    if not isinstance(from_settings, (list, tuple)):
        from_settings = [from_settings]
    ids = {*from_settings, loaded.tokenizer.eos_token_id} - {None}
    return {int(index) for index in ids}


def generate(model, **options):
    """`model.generate`, with the logits processors that are passed to it."""
    if model.config.model_type == "janus":
        # Its own `generate` drops them where text is asked for, and does nothing else then.
        from transformers import GenerationMixin

        return GenerationMixin.generate(model, **options)
    return model.generate(**options)


def _start_id(model):
    """Id of the token with which the decoder of an encoder-decoder begins, or None."""
    from ._architecture import text_config

    for owner in (model.generation_config, model.config, text_config(model.config)):
        index = getattr(owner, "decoder_start_token_id", None)
        if index is not None:
            return index
    return None


@contextlib.contextmanager
def decoding(loaded, *, max_new_tokens, temperature=0.0, top_p=1.0):
    """Within the block, the settings with which `loaded.model.generate` decodes.

    Greedily, or with a `temperature` above zero by sampling.

    `generate` fills in what the settings it is given leave open from the model's own: penalties,
    words that are forbidden or forced, several beams. The state at a position would then not be
    the one whose logits chose the token. So the model's own are put aside for the time of the
    block.
    """
    with _lock:
        settings = _settings(loaded, max_new_tokens, temperature, top_p)
        # BLIP-2 hands over to the language model inside, which has settings of its own.
        modules = [m for m in loaded.model.modules() if hasattr(m, "generation_config")]
        kept = [(module, module.generation_config) for module in modules]
        for module in modules:
            module.generation_config = type(settings)()
        try:
            yield settings
        finally:
            for module, its_own in kept:
                module.generation_config = its_own


def _settings(loaded, max_new_tokens, temperature, top_p):
    from transformers import GenerationConfig

    drawn = {"temperature": float(temperature), "top_p": float(top_p), "top_k": 0}
    own = loaded.model.generation_config
    settings = GenerationConfig(
        max_new_tokens=int(max_new_tokens),
        do_sample=temperature > 0,
        **(drawn if temperature > 0 else {}),
        num_beams=1,
        use_cache=True,
        return_dict_in_generate=False,
        eos_token_id=sorted(end_ids(loaded)) or None,
        pad_token_id=loaded.tokenizer.pad_token_id,
        decoder_start_token_id=_start_id(loaded.model),
    )
    if own.suppress_tokens and loaded.model.config.model_type == "depalm":
        # No setting of taste: the token that stands for the image has no embedding to go on with.
        settings.suppress_tokens = own.suppress_tokens
    return settings
