"""What the builders of tiny models share: a tokenizer, random weights, saving."""

from pathlib import Path

from tests._tiny_llava import WORDS, tiny_tokenizer

# Vision towers of 2 layers; ids such as hidden_size are the same in all families.
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def text_sizes(tokenizer, **changes):
    """Keyword arguments of a tiny language model's configuration; `changes` replace some."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
        **changes,
    }


def tokenizer_with(*special_tokens, bos_token=None, byte_level=False, **named):
    """`tiny_tokenizer` with the special tokens of a family.

    Parameters
    ----------
    *special_tokens : str
        Written in prompts, such as "<|vision_start|>"; those that are there already are fine.
    bos_token : str, default=None
        Put before every text, as the tokenizers of the Llama family do.
    byte_level : bool, default=False
        Byte pairs as in GPT-2 and Qwen instead of word pieces: spaces belong to words.
    **named : str
        Special tokens that the family's processor looks up as attributes of the tokenizer:
        ``image_token="<image>"`` gives `tokenizer.image_token` and `tokenizer.image_token_id`.
    """
    from tokenizers import processors

    tokenizer = _byte_pairs() if byte_level else tiny_tokenizer()
    new = [*special_tokens, *named.values()]
    tokenizer.add_special_tokens(
        {
            "extra_special_tokens": list(dict.fromkeys(["<image>", *new])),
            **({"bos_token": bos_token} if bos_token else {}),
        }
    )
    if named:
        tokenizer._set_model_specific_special_tokens(named)
        tokenizer.init_kwargs["model_specific_special_tokens"] = named
    if bos_token:
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos_token} $A",
            pair=f"{bos_token} $A {bos_token} $B",
            special_tokens=[(bos_token, tokenizer.bos_token_id)],
        )
    return tokenizer


def _byte_pairs():
    """Byte-level BPE in which most of the tiny tokenizer's words are one token, with a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=["[PAD]", "[EOS]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" " + " ".join(WORDS.split())] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        eos_token="[EOS]",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(model_class, config, seed):
    """A model with random weights, the same for the same seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
    randomise(model, seed)
    return model


def randomise(model, seed):
    """Weights large enough that both the image and the words so far change the caption."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    lookups = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding)
    }
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.numel() == 1:  # gates, which are closed at first
                weight.copy_(0.7 + 0.1 * noise)
            elif name.endswith("A_log"):  # linear attention that forgets slowly
                weight.copy_(0.1 * noise - 3.0)
            elif weight.ndim < 2:  # norms stay near 1 (or 0, where 1 is added), biases near 0
                weight.add_(0.1 * noise)
            elif name in lookups or weight.shape[0] == 1:  # also learned queries and positions
                weight.copy_(noise)
            else:
                # Weights of experts are stacked: (experts, out, in).
                fan_in = weight.shape[-1] if weight.ndim == 3 else weight[0].numel()
                weight.copy_(noise * 1.5 / fan_in**0.5)


def shape_captions(model, tokenizer, *, gain=2.5, end=1.0):
    """Scale the unembedding: captions of words rather than letters, which end sooner or later.

    Parameters
    ----------
    gain : float, default=2.5
        Of all words.
    end : float, default=1.0
        Of the end token, relative to words: larger ends captions sooner.
    """
    import torch

    head = model.get_output_embeddings().weight
    special = set(tokenizer.all_special_ids) | {tokenizer.unk_token_id}
    special |= set(tokenizer.added_tokens_decoder)
    with torch.no_grad():
        head.mul_(gain / 1.5)
        head[len(tokenizer) :] = 0.0
        for token, index in tokenizer.get_vocab().items():
            if index == tokenizer.eos_token_id:
                head[index] *= end
            elif index in special:
                head[index] = 0.0
            elif len(token.removeprefix("##")) == 1 and token not in ("a", "##s"):
                # Letters, and bytes, half of which are no characters.
                head[index] *= 0.5 if token.isascii() else 0.0


def save(folder, model, processor, *, gain=2.5, end=1.0):
    """Shape the captions and save everything as a checkpoint; returns the folder."""
    folder, tokenizer = Path(folder), processor.tokenizer
    shape_captions(model, tokenizer, gain=gain, end=end)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def chat_template(image, *, user="", end="", assistant="", system=""):
    """A Jinja chat template: `system`, then turns between `user` and `end`, then `assistant`.

    Parameters
    ----------
    image : str
        What stands for an image, such as "<image>\\n".
    user, end : str
        What stands before and after the user's turn.
    assistant : str
        What asks for an answer.
    system : str
        The system prompt that the model was trained with, its marks included.
    """

    def literal(text):
        return "{{ " + repr(text) + " }}" if text else ""

    return (
        f"{literal(system)}{{% for message in messages %}}{literal(user)}"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{literal(image)}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        f"{literal(end)}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{literal(assistant)}{{% endif %}}"
    )
