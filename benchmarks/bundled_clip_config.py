"""Architecture, tokenizer and processor of the bundled CLIP."""

from __future__ import annotations

from tokenizers import processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from benchmarks.bundled_model_config import (
    IMAGE_SIZE,
    PATCH,
    build_image_processor,
    vocabulary,
    wordpiece,
)
from benchmarks.bundled_model_config import SPECIAL as MODEL_SPECIAL

# The end token must not have the id 2: transformers then pools at the highest id of a text.
SPECIAL = ("[PAD]", "[EOS]", "[BOS]", "[UNK]")
TEMPLATE = "A photo is described by the words {words}."
MAX_TOKENS = 128
WIDTH, TEXT_WIDTH, PROJECTION = 160, 128, 128


def entries() -> list[str]:
    """The bundled model's vocabulary with this tokenizer's special tokens and the template's
    words."""
    template = TEMPLATE.format(words="").lower().strip(" .").split()
    return list(dict.fromkeys([*SPECIAL, *vocabulary()[len(MODEL_SPECIAL) :], *template]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = wordpiece(entries(), SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", SPECIAL.index("[EOS]"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        padding_side="right",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> CLIPProcessor:
    return CLIPProcessor(image_processor=build_image_processor(), tokenizer=build_tokenizer())


def build_model() -> CLIPModel:
    """Random weights; seed torch before."""
    tokenizer = build_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=PROJECTION,
        hidden_act="gelu",
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=PROJECTION,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION
        )
    )
