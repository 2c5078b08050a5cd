"""LLaVA and its descendants, Qwen-VL, InternVL, Pixtral, and families built like these."""

from functools import partial

from tests._families._family import Family
from tests._families._parts import (
    VISION,
    chat_template,
    make_model,
    save,
    text_sizes,
    tokenizer_with,
)
from tests._tiny_llava import build_tiny_llava

# The turns of LLaVA-1.5 and of the models that talk ChatML.
_VICUNA = {"user": "USER: ", "end": " ", "assistant": "ASSISTANT:"}
_CHATML = {
    "user": "<|im_start|>user\n",
    "end": "<|im_end|>\n",
    "assistant": "<|im_start|>assistant\n",
}
_QWEN_SYSTEM = "<|im_start|>system\nyou are a dog .<|im_end|>\n"


def _clip(**changes):
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(**{**VISION, "image_size": 32, "patch_size": 8, **changes})


def _siglip(**changes):
    from transformers import SiglipVisionConfig

    sizes = {**VISION, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    return SiglipVisionConfig(**{**sizes, **changes})


def _clip_images(side=32):
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def _llava(folder, *, seed=0):
    """LLaVA-1.5: its tokenizer puts the begin of the sequence before a template without it."""
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tokenizer_with(bos_token="<s>")
    config = LlavaConfig(
        vision_config=_clip(patch_size=16),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    processor = LlavaProcessor(
        image_processor=_clip_images(),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>\n", **_VICUNA),
    )
    return save(folder, make_model(LlavaForConditionalGeneration, config, seed), processor)


def _vipllava(folder, *, seed=0):
    """VipLLaVA: features of five layers of the vision tower, side by side."""
    from transformers import (
        LlamaConfig,
        LlavaProcessor,
        VipLlavaConfig,
        VipLlavaForConditionalGeneration,
    )

    tokenizer = tokenizer_with(bos_token="<s>")
    config = VipLlavaConfig(
        vision_config=_clip(patch_size=16, num_hidden_layers=4),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-2, -3, -4, -5, 3],
        image_seq_length=4,
    )
    processor = LlavaProcessor(
        image_processor=_clip_images(),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>\n", user="###human: ", assistant="###assistant:"),
    )
    return save(folder, make_model(VipLlavaForConditionalGeneration, config, seed), processor)


def _llava_next(folder, *, seed=0):
    """LLaVA-NeXT: up to 4 tiles by the shape of the image, newline tokens; Mistral windows."""
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
        MistralConfig,
    )

    tokenizer = tokenizer_with(bos_token="<s>")
    grid = [[32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=MistralConfig(**text_sizes(tokenizer, sliding_window=24)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=16,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=grid,
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>\n", user="[INST] ", end=" [/INST]"),
    )
    return save(folder, make_model(LlavaNextForConditionalGeneration, config, seed), processor)


def _llava_onevision(folder, *, seed=0):
    """LLaVA-OneVision: SigLIP, tiles that are scaled down beyond a number of tokens."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
    )

    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>", "<video>")
    sides = (32, 64, 96)
    grid = [[height, width] for height in sides for width in sides]
    config = LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_4",
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size={"height": 32, "width": 32}, image_grid_pinpoints=grid
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=chat_template("<image>", **_CHATML),
    )
    model = make_model(LlavaOnevisionForConditionalGeneration, config, seed)
    return save(folder, model, processor)


_QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def _qwen_ids(tokenizer):
    """The ids that all configurations of the Qwen-VL line name."""
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        key: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for key, name in zip(keys, names, strict=True)
    }


_QWEN_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
# Three blocks of linear attention, then one that attends.
_QWEN_LINEAR = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
}
_QWEN_OLD_TOWER = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
_QWEN_NEW_TOWER = {**_QWEN_TOWER, "num_position_embeddings": 64}
_QWEN_DEEPSTACK = {**_QWEN_NEW_TOWER, "deepstack_visual_indexes": [0, 1]}
# Name in transformers -> (vision tower, what is special about the language model)
_QWEN = {
    "Qwen2VL": (_QWEN_OLD_TOWER, {}),
    "Qwen2_5_VL": ({**_QWEN_TOWER, "window_size": 32, "fullatt_block_indexes": [1]}, {}),
    "Qwen3VL": (_QWEN_DEEPSTACK, {}),
    "Qwen3VLMoe": (_QWEN_DEEPSTACK, {**_QWEN_EXPERTS, "decoder_sparse_step": 1}),
    "Qwen3_5": (_QWEN_NEW_TOWER, _QWEN_LINEAR),
    "Qwen3_5Moe": (_QWEN_NEW_TOWER, {**_QWEN_LINEAR, **_QWEN_EXPERTS}),
}


def _qwen_vl(folder, *, seed=0, name):
    """The Qwen-VL line: native resolution, 3-D positions."""
    import transformers

    linear = name.startswith("Qwen3_5")
    tokenizer = tokenizer_with(*_QWEN_TOKENS, byte_level=linear or name == "Qwen2_5_VL")
    vision, text = _QWEN[name]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    if name.startswith("Qwen3"):
        rope["mrope_interleaved"] = True
    if linear:
        rope["partial_rotary_factor"] = 0.5
    sizes = text_sizes(tokenizer, **text)
    if name.startswith("Qwen2"):
        del sizes["head_dim"]
    config = getattr(transformers, f"{name}Config")(
        text_config={**sizes, "rope_parameters": rope},
        vision_config={"patch_size": 8, "spatial_merge_size": 2, "in_channels": 3, **vision},
        **_qwen_ids(tokenizer),
    )
    model = make_model(getattr(transformers, f"{name}ForConditionalGeneration"), config, seed)
    return save(folder, model, _qwen_processor(tokenizer, name))


def _qwen_processor(tokenizer, name):
    import transformers

    new = name.startswith("Qwen3")
    settings = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    video = transformers.Qwen3VLVideoProcessor if new else transformers.Qwen2VLVideoProcessor
    return getattr(transformers, f"{'Qwen3VL' if new else name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(
            **settings, size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 12}
        ),
        tokenizer=tokenizer,
        video_processor=video(**settings),
        chat_template=chat_template(
            "<|vision_start|><|image_pad|><|vision_end|>",
            system="" if new else _QWEN_SYSTEM,
            **_CHATML,
        ),
    )


def _internvl(folder, *, seed=0):
    """InternVL: tiles and a thumbnail, four patches to a token; ChatML with a system prompt."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )

    tokenizer = tokenizer_with(
        "<|im_start|>",
        "<|im_end|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    side = {"height": 32, "width": 32}
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=[32, 32], patch_size=[8, 8]),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=side, crop_to_patches=True, min_patches=1, max_patches=6
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=chat_template("<IMG_CONTEXT>\n", system=_QWEN_SYSTEM, **_CHATML),
    )
    return save(folder, make_model(InternVLForConditionalGeneration, config, seed), processor)


def _pixtral_parts(merge):
    """Tokenizer, vision configuration and processor of Pixtral: a break token ends every row."""
    from transformers import PixtralImageProcessorPil, PixtralProcessor, PixtralVisionConfig

    tokenizer = tokenizer_with("[IMG]", "[IMG_BREAK]", "[IMG_END]", bos_token="<s>")
    vision = PixtralVisionConfig(**VISION, image_size=64, patch_size=8)
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessorPil(
            size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        spatial_merge_size=merge,
        # The template writes the begin of the sequence, which the tokenizer would add, too.
        chat_template=chat_template("[IMG]", system="<s>", user="[INST]", end="[/INST]"),
    )
    return tokenizer, vision, processor


def _pixtral(folder, *, seed=0):
    """Pixtral in the LLaVA format: one image token for every patch of an image of any shape."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig

    tokenizer, vision, processor = _pixtral_parts(merge=1)
    config = LlavaConfig(
        vision_config=vision,
        text_config=MistralConfig(**text_sizes(tokenizer)),
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )
    return save(folder, make_model(LlavaForConditionalGeneration, config, seed), processor)


def _mistral3(folder, *, seed=0):
    """Mistral 3: the vision tower of Pixtral, four patches to a token."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig

    tokenizer, vision, processor = _pixtral_parts(merge=2)
    config = Mistral3Config(
        vision_config=vision,
        text_config=MistralConfig(**text_sizes(tokenizer)),
        image_token_index=processor.image_token_id,
        tie_word_embeddings=False,
    )
    return save(folder, make_model(Mistral3ForConditionalGeneration, config, seed), processor)


def _glm4v(folder, *, seed=0, name="Glm4v"):
    """GLM-4.1V, GLM-4.6V: native resolution, 3-D positions, norms after attention and MLP, too."""
    import transformers

    tokenizer = tokenizer_with(
        "[gMASK]",
        "<sop>",
        "<|user|>",
        "<|assistant|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        image_token="<|image|>",
        video_token="<|video|>",
    )
    sizes = text_sizes(tokenizer, head_dim=16)
    ids = tokenizer.convert_tokens_to_ids
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **sizes,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
                "partial_rotary_factor": 0.5,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "out_hidden_size": 32,
            "intermediate_size": 32,
        },
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    settings = {
        "patch_size": 8,
        "merge_size": 2,
        "size": {"shortest_edge": 16 * 16 * 8, "longest_edge": 16 * 16 * 24},
    }
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=getattr(transformers, f"{name}ImageProcessor")(**settings),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, f"{name}VideoProcessor")(**settings),
        chat_template=chat_template(
            "<|begin_of_image|><|image|><|end_of_image|>",
            system="[gMASK]<sop>",
            user="<|user|>\n",
            assistant="<|assistant|>\n",
        ),
    )
    model = make_model(getattr(transformers, f"{name}ForConditionalGeneration"), config, seed)
    return save(folder, model, processor)


def _cohere_text(tokenizer):
    """Cohere 2: blocks with attention and MLP side by side, windows without positions, a scale."""
    from transformers import Cohere2Config

    sizes = text_sizes(tokenizer, num_hidden_layers=4, tie_word_embeddings=True)
    del sizes["head_dim"]
    return Cohere2Config(**sizes, sliding_window=16, logit_scale=0.5)


_COHERE = {
    "user": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
    "end": "<|END_OF_TURN_TOKEN|>",
    "assistant": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
}
_COHERE_TOKENS = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)


def _aya_vision(folder, *, seed=0):
    """Aya Vision: numbered tiles and a global one; the image token in the ids is another."""
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        GotOcr2ImageProcessorPil,
    )

    tokenizer = tokenizer_with(
        *_COHERE_TOKENS,
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE_GLOBAL",
        "TILE",
        bos_token="<BOS_TOKEN>",
    )
    config = AyaVisionConfig(
        vision_config=_siglip(),
        text_config=_cohere_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=6
        ),
        tokenizer=tokenizer,
        patch_size=8,
        img_size=32,
        downsample_factor=2,
        chat_template=chat_template("<image>", system="<BOS_TOKEN>", **_COHERE),
    )
    return save(folder, make_model(AyaVisionForConditionalGeneration, config, seed), processor)


def _cohere2_vision(folder, *, seed=0):
    """Command A Vision: tiles with a line break after each; a torchvision processor only."""
    from transformers import (
        Cohere2VisionConfig,
        Cohere2VisionForConditionalGeneration,
        Cohere2VisionImageProcessor,
        Cohere2VisionProcessor,
    )

    tokenizer = tokenizer_with(
        *_COHERE_TOKENS,
        bos_token="<BOS_TOKEN>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        image_token="<|IMG_PATCH|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    config = Cohere2VisionConfig(
        vision_config=_siglip(),
        text_config=_cohere_text(tokenizer),
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=64,
    )
    processor = Cohere2VisionProcessor(
        image_processor=Cohere2VisionImageProcessor(
            size={"height": 32, "width": 32}, max_patches=6, patch_size=2
        ),
        tokenizer=tokenizer,
        chat_template=chat_template("<|IMG_PATCH|>", system="<BOS_TOKEN>", **_COHERE),
    )
    model = make_model(Cohere2VisionForConditionalGeneration, config, seed)
    return save(folder, model, processor)


def _ovis2(folder, *, seed=0):
    """Ovis2: image tokens are mixtures of visual words; marks between rows and columns."""
    from transformers import (
        Ovis2Config,
        Ovis2ForConditionalGeneration,
        Ovis2ImageProcessorPil,
        Ovis2Processor,
        Ovis2VisionConfig,
        Qwen2Config,
    )

    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>", "<IMG_ATOM>", *marks)
    config = Ovis2Config(
        vision_config=Ovis2VisionConfig(
            **VISION, image_size=32, patch_size=8, hidden_stride=2, vocab_size=32
        ),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(marks),
        vocab_size=len(tokenizer),
        hidden_size=32,
        tie_word_embeddings=False,
    )
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessorPil(
            size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=6
        ),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chat_template("<image>\n", system=_QWEN_SYSTEM, **_CHATML),
    )
    return save(folder, make_model(Ovis2ForConditionalGeneration, config, seed), processor)


def _lfm2_vl(folder, *, seed=0):
    """LFM2-VL: native resolution or tiles, short convolutions instead of attention in most."""
    from transformers import (
        Lfm2Config,
        Lfm2VlConfig,
        Lfm2VlForConditionalGeneration,
        Lfm2VlImageProcessor,
        Lfm2VlProcessor,
        Siglip2VisionConfig,
    )

    tiles = [f"<|img_row_{i}_col_{j}|>" for i in range(1, 5) for j in range(1, 5)]
    tokenizer = tokenizer_with(
        "<|im_start|>",
        "<|im_end|>",
        *tiles,
        bos_token="<|startoftext|>",
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    sizes = text_sizes(tokenizer)
    del sizes["head_dim"]
    config = Lfm2VlConfig(
        vision_config=Siglip2VisionConfig(**VISION, patch_size=8, num_patches=64),
        text_config=Lfm2Config(
            **sizes, layer_types=["conv", "full_attention", "conv"], block_multiple_of=32
        ),
        image_token_id=tokenizer.image_token_id,
        projector_hidden_size=64,
        tie_word_embeddings=False,
    )
    processor = Lfm2VlProcessor(
        image_processor=Lfm2VlImageProcessor(
            encoder_patch_size=8,
            tile_size=32,
            size={"height": 32, "width": 32},
            min_image_tokens=4,
            max_image_tokens=12,
            max_tiles=4,
        ),
        tokenizer=tokenizer,
        chat_template=chat_template("<image>", system="<|startoftext|>", **_CHATML),
    )
    return save(folder, make_model(Lfm2VlForConditionalGeneration, config, seed), processor)


def _deepseek_vl(folder, *, seed=0):
    """DeepSeek-VL: SigLIP, one square of image tokens."""
    from transformers import (
        DeepseekVLConfig,
        DeepseekVLForConditionalGeneration,
        DeepseekVLImageProcessorPil,
        DeepseekVLProcessor,
        LlamaConfig,
    )

    tokenizer = tokenizer_with(bos_token="<|begin_of_sentence|>", image_token="<image_placeholder>")
    config = DeepseekVLConfig(
        vision_config=_siglip(),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    processor = DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessorPil(size={"height": 32, "width": 32}, min_size=8),
        tokenizer=tokenizer,
        num_image_tokens=16,
        chat_template=chat_template(
            "<image_placeholder>", user="User: ", end="\n\n", assistant="Assistant:"
        ),
    )
    return save(folder, make_model(DeepseekVLForConditionalGeneration, config, seed), processor)


def _fast_vlm(folder, *, seed=0):
    """FastVLM: a convolutional tower of timm, whose last feature map gives the tokens."""
    from transformers import (
        FastVlmConfig,
        FastVlmForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
        TimmWrapperConfig,
    )

    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>")
    config = FastVlmConfig(
        vision_config=TimmWrapperConfig(
            architecture="test_efficientnet",
            do_pooling=True,
            global_pool="avg",
            hidden_size=256,
            num_labels=2,
        ),
        text_config=Qwen2Config(**text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    processor = LlavaProcessor(
        image_processor=_clip_images(64),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>\n", system=_QWEN_SYSTEM, **_CHATML),
    )
    model = make_model(FastVlmForConditionalGeneration, config, seed)
    return save(folder, model, processor)


def _perception_lm(folder, *, seed=0):
    """Perception-LM: a timm vision transformer, tiles and a thumbnail, pooled two by two."""
    from transformers import (
        LlamaConfig,
        PerceptionLMConfig,
        PerceptionLMForConditionalGeneration,
        PerceptionLMImageProcessor,
        PerceptionLMProcessor,
        PerceptionLMVideoProcessor,
        TimmWrapperConfig,
    )

    tokenizer = tokenizer_with(
        bos_token="<|begin_of_text|>", image_token="<|image|>", video_token="<|video|>"
    )
    config = PerceptionLMConfig(
        vision_config=TimmWrapperConfig(
            architecture="test_vit",
            do_pooling=False,
            num_labels=2,
            model_args={
                "img_size": [32, 32],
                "patch_size": 8,
                "embed_dim": 16,
                "depth": 2,
                "num_heads": 2,
                "global_pool": "",
            },
            hidden_size=16,
        ),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    side = {"height": 32, "width": 32}
    processor = PerceptionLMProcessor(
        image_processor=PerceptionLMImageProcessor(
            vision_input_type="thumb+tile", tile_size=32, max_num_tiles=4, size=side
        ),
        video_processor=PerceptionLMVideoProcessor(size=side),
        tokenizer=tokenizer,
        patch_size=8,
        pooling_ratio=2,
        chat_template=chat_template(
            "<|image|>", system="<|begin_of_text|>", user="user ", end=" ", assistant="assistant "
        ),
    )
    model = make_model(PerceptionLMForConditionalGeneration, config, seed)
    return save(folder, model, processor)


FAMILIES = {
    "llava": Family(_llava),
    "llava-opt": Family(partial(build_tiny_llava, text_model="opt")),
    "llava-gpt2": Family(partial(build_tiny_llava, text_model="gpt2")),
    "vipllava": Family(_vipllava),
    "llava-next": Family(_llava_next),
    "llava-onevision": Family(_llava_onevision, needs_torchvision=True),
    "qwen2-vl": Family(partial(_qwen_vl, name="Qwen2VL"), needs_torchvision=True),
    "qwen2.5-vl": Family(partial(_qwen_vl, name="Qwen2_5_VL"), needs_torchvision=True),
    "qwen3-vl": Family(partial(_qwen_vl, name="Qwen3VL"), needs_torchvision=True),
    "qwen3-vl-moe": Family(partial(_qwen_vl, name="Qwen3VLMoe"), needs_torchvision=True),
    "qwen3.5": Family(partial(_qwen_vl, name="Qwen3_5"), needs_torchvision=True),
    "qwen3.5-moe": Family(partial(_qwen_vl, name="Qwen3_5Moe"), needs_torchvision=True),
    "internvl": Family(_internvl, needs_torchvision=True),
    "pixtral": Family(_pixtral, needs_torchvision=True),
    "mistral3": Family(_mistral3, needs_torchvision=True),
    "glm4v": Family(_glm4v, needs_torchvision=True),
    "glm4.6v": Family(partial(_glm4v, name="Glm46V"), needs_torchvision=True),
    "aya-vision": Family(_aya_vision),
    "cohere2-vision": Family(_cohere2_vision, needs_torchvision=True),
    "ovis2": Family(_ovis2),
    "lfm2-vl": Family(_lfm2_vl, needs_torchvision=True),
    "deepseek-vl": Family(_deepseek_vl),
    "fast-vlm": Family(_fast_vlm, needs_torchvision=True),
    "perception-lm": Family(_perception_lm, needs_torchvision=True),
}
