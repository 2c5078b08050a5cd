"""A tiny DePALM with random weights, made from a tiny CLIP and a tiny language model.

As `tests/_tiny_llava.py`, whose tokenizer it shares: it knows nothing, but its captions depend on
the image. Made by `make_depalm` from saved parts and saved by the model itself, as users do it.
"""

from pathlib import Path

from tests._tiny_llava import _prefer_words, _randomise, _text_config, tiny_tokenizer

N_VISUAL_TOKENS = 3
TINY_CONNECTOR = {"connector_width": 16, "connector_layers": 2, "connector_heads": 2}


def build_tiny_depalm(folder, *, seed=0, text_model="llama"):
    """Save a tiny random DePALM under `folder` and return the folder.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    seed : int, default=0
        Seed of the weights; other seeds are other models.
    text_model : {"llama", "opt", "gpt2"}, default="llama"
        Architecture of the language model.
    """
    from semi_nmf_concepts.lmm import make_depalm

    folder = Path(folder)
    parts = folder.with_name(f"{folder.name}-parts")
    model = make_depalm(
        build_tiny_vision(parts / "vision", seed=seed),
        build_tiny_language(parts / "language", seed=seed, text_model=text_model),
        N_VISUAL_TOKENS,
        **TINY_CONNECTOR,
        seed=seed,
    )
    # An untrained connector says too little about the image to change a caption.
    model.model.connector.output.weight.mul_(6)
    model.save(folder)
    return folder


def build_tiny_vision(folder, *, seed=0, family="clip"):
    """Save a tiny random CLIP or SigLIP (both encoders) with its image processor."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
    )

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    size["num_attention_heads"] = 2
    settings = {
        "vision_config": {**size, "image_size": 32, "patch_size": 16},
        "text_config": {**size, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1},
    }
    if family == "clip":
        kind, config = CLIPModel, CLIPConfig(**settings)
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    else:
        kind, config = SiglipModel, SiglipConfig(**settings)
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    _randomise(model, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_tiny_language(
    folder, *, seed=0, text_model="llama", tokenizer=None, tied=False, n_layers=4, width=32
):
    """Save a tiny random causal language model with its tokenizer.

    Parameters
    ----------
    folder : path-like
    seed : int, default=0
    text_model : {"llama", "opt", "gpt2"}, default="llama"
    tokenizer : PreTrainedTokenizerFast, default=None
        None: `tiny_tokenizer()`, which knows "<image>". The vocabulary of the model ends where that
        of the tokenizer does.
    tied : bool, default=False
        Whether embedding and unembedding share their weights.
    n_layers, width : int, default=4, 32
    """
    import torch
    from transformers import AutoModelForCausalLM

    knows_images = tokenizer is None
    tokenizer = tiny_tokenizer() if knows_images else tokenizer
    config = _text_config(text_model, tokenizer, n_layers, width)
    config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
    _randomise(model, seed)
    if knows_images and not tied:
        _prefer_words(model.get_output_embeddings().weight, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text_tokenizer():
    """`tiny_tokenizer` with another word where it has the image token, and no padding token."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    text = tiny_tokenizer().backend_tokenizer.to_str()
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text.replace("<image>", "nothing")),
        unk_token="[UNK]",
        eos_token="[EOS]",
        model_input_names=["input_ids", "attention_mask"],
    )
