"""A tiny LLaVA with random weights, saved in the standard format, for tests that need some model.

It has everything a real checkpoint has (CLIP vision tower, projector, Llama, WordPiece tokenizer,
Pillow image processor, chat template), 4 image tokens and about 60,000 parameters. It knows
nothing, so its captions are word salad; but they depend on the image, which is what the tests
need. Words are picked from what it does generate (see `tests/lmm/conftest.py`), or `bias_word`
makes it say one.
"""

from pathlib import Path

import numpy as np

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[EOS]", "<image>"]
WORDS = """
a an the two three of and with on in next to is are that this there : . ,
dog cat bus train car cake bear baby babies horse bird boat plane ball tree chair
red green blue black white brown yellow grass snow beach street night room caption what
"""
# "doghouse" is dog + ##house, "carrot" is car + ##rot: words that begin with another word's piece.
PIECES = "##s ##es ##house ##rot ##py pup"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}caption:{% endif %}"
)


def tiny_tokenizer():
    """WordPiece tokenizer over a few dozen words; single letters spell every other word."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*SPECIAL_TOKENS, *WORDS.split(), *PIECES.split()]
    vocabulary += [x for letter in letters for x in (letter, f"##{letter}") if x not in vocabulary]
    backend = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )


def build_tiny_llava(
    folder,
    *,
    seed=0,
    chat_template=True,
    bias_word=None,
    n_layers=4,
    width=32,
    text_model="llama",
):
    """Save a tiny random LLaVA under `folder` and return the folder.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    seed : int, default=0
        Seed of the weights; other seeds are other models.
    chat_template : bool, default=True
        Whether the processor comes with a chat template.
    bias_word : str, default=None
        A one-piece word that every caption is made to contain sooner or later.
    n_layers, width : int, default=4, 32
        Of the language model.
    text_model : {"llama", "opt", "gpt2"}, default="llama"
        Architecture of the language model.
    """
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ),
        text_config=_text_config(text_model, tokenizer, n_layers, width),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
    _randomise(model, seed)
    _prefer_words(model.lm_head.weight, tokenizer, bias_word)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE if chat_template else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _text_config(text_model, tokenizer, n_layers, width):
    from transformers import GPT2Config, LlamaConfig, OPTConfig

    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": False,
    }
    if text_model == "opt":
        return OPTConfig(**common, ffn_dim=2 * width, word_embed_proj_dim=width)
    if text_model == "gpt2":
        return GPT2Config(**common, n_inner=2 * width)
    return LlamaConfig(**common, intermediate_size=2 * width, num_key_value_heads=4)


def _randomise(model, seed):
    """Weights large enough that both the image and the words so far change the caption."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim < 2:
                continue  # norms stay 1, biases stay 0
            fan_in = weight[0].numel() if "embed" not in name else 1
            gain = 2.5 if "lm_head" in name else 1.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * gain / fan_in**0.5)


def _prefer_words(head, tokenizer, bias_word=None):
    """Captions of mixed length, made of words rather than of letters or special tokens."""
    import torch

    with torch.no_grad():
        for never in ("[PAD]", "[UNK]", "<image>"):
            head[tokenizer.convert_tokens_to_ids(never)] = 0.0
        head[tokenizer.eos_token_id] *= 1.7
        for token, index in tokenizer.get_vocab().items():
            if len(token.removeprefix("##")) == 1 and token not in ("a", "##s"):
                head[index] *= 0.5
        if bias_word is not None:
            head[tokenizer.convert_tokens_to_ids(bias_word)] *= 1.6


def tiny_images(n, *, seed=0, size=48):
    """`n` PIL images, each a different coarse pattern of colours."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    cells = generator.integers(0, 256, size=(n, 3, 3, 3), dtype=np.uint8)
    return [Image.fromarray(cell).resize((size, size), Image.Resampling.NEAREST) for cell in cells]
