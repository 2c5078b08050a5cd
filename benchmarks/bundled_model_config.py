"""Architecture, tokenizer and processor of the bundled model."""

from __future__ import annotations

from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from wordfreq import top_n_list

from semi_nmf_concepts.datasets._captions import article
from semi_nmf_concepts.datasets._vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COMPANIONS,
    OBJECTS,
    PLURALS,
    plural,
)

IMAGE_SIZE, PATCH = 112, 16
GRID = IMAGE_SIZE // PATCH
N_IMAGE_TOKENS = GRID * GRID
RESAMPLE = Image.Resampling.BICUBIC
PROMPT = "caption:"
SPECIAL = ("[PAD]", "[UNK]", "[EOS]", "<image>")
# Beside the grammar's words, so that naming a concept is not a choice among a hundred words.
N_FREQUENT_WORDS = 1000
# The image, what the user asks (the model was trained with nothing there), and the words that start
# its answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['text'] %}{{ part['text'] }} {% endif %}"
    "{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}" + PROMPT + "{% endif %}"
)


def vocabulary() -> list[str]:
    """Entries of the WordPiece tokenizer; the regular plural is a piece of its own."""
    nouns = sorted({noun for v in OBJECTS.values() for _, noun in v.values()} | set(OBJECTS))
    whole = [n for n in nouns] + sorted(v for k, v in PLURALS.items() if not v.startswith(k))
    phrases = [p for groups in BACKGROUNDS.values() for group in groups for p in group]
    phrases += [article(c) for c in COMPANIONS if c != "none"] + list(COLOURS)
    phrases += ["a pair of", "a group of three", "two", "there is", "there are", "lone", "single"]
    phrases += ["that is", "are in", "colored", "next to", "beside", "near", "with", "alone", "and"]
    phrases += ["caption : . , ' - !"]
    grammar = sorted({w for p in phrases for w in p.split()} - set(whole))
    regular_plurals = {plural(n) for n in [*nouns, *COMPANIONS]} - set(PLURALS.values())
    split = regular_plurals | {v for k, v in PLURALS.items() if v.startswith(k)}
    frequent = [w for w in top_n_list("en", 2 * N_FREQUENT_WORDS) if w.isalpha() and w.isascii()]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
    pieces = ["##s", "##es", *(f"##{c}" for c in letters if c != "s")]
    entries = [*SPECIAL, *whole, *grammar, *pieces, *letters]
    taken = set(entries) | split
    extra = [w for w in frequent if w not in taken and len(w) > 1][:N_FREQUENT_WORDS]
    return list(dict.fromkeys([*entries, *extra]))


def wordpiece(entries: list[str], special: tuple[str, ...]) -> Tokenizer:
    """Lower-case WordPiece tokenizer whose ids are the places in `entries`."""
    tokenizer = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(entries)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece(vocabulary(), SPECIAL),
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )


def build_image_processor() -> CLIPImageProcessorPil:
    """Resized to the square as a whole: the scenes are square, and nothing is cut off."""
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        resample=RESAMPLE,
        image_mean=half,
        image_std=half,
    )


def build_processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model() -> LlavaForConditionalGeneration:
    """Random weights; seed torch before."""
    tokenizer = build_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=160,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=N_IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
