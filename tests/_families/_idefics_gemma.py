"""Idefics, Gemma, BLIP-2, Mllama and Aria: prefixes that attend both ways, queries, tiles."""

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

_IDEFICS = {
    "user": "user:",
    "end": "<end_of_utterance>\n",
    "assistant": "assistant:",
}


def _siglip(**changes):
    from transformers import SiglipVisionConfig

    sizes = {**VISION, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    return SiglipVisionConfig(**{**sizes, **changes})


def _siglip_images(**changes):
    from transformers import SiglipImageProcessorPil

    return SiglipImageProcessorPil(**{"size": {"height": 32, "width": 32}, **changes})


def _idefics2(folder, *, seed=0):
    """Idefics2: native resolution, a perceiver makes 4 tokens of it; Mistral windows."""
    from transformers import (
        Idefics2Config,
        Idefics2ForConditionalGeneration,
        Idefics2ImageProcessorPil,
        Idefics2Processor,
        MistralConfig,
    )

    tokenizer = tokenizer_with(
        "\n", "<fake_token_around_image>", "<image>", "<end_of_utterance>", bos_token="<s>"
    )
    processor = Idefics2Processor(
        image_processor=Idefics2ImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=chat_template("<image>", **_IDEFICS),
    )
    config = Idefics2Config(
        vision_config={**VISION, "image_size": 64, "patch_size": 8},
        text_config=MistralConfig(**text_sizes(tokenizer, sliding_window=24)),
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        image_token_id=processor.image_token_id,
    )
    return save(folder, make_model(Idefics2ForConditionalGeneration, config, seed), processor)


def _idefics3(folder, *, seed=0, name="Idefics3"):
    """Idefics3 and SmolVLM: rows and columns of tiles, then the whole image; 4 tokens each."""
    import transformers
    from transformers import LlamaConfig

    tiles = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    tokenizer = tokenizer_with(
        "\n",
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
        "<global-img>",
        *tiles,
        bos_token="<|begin_of_text|>",
    )
    images = getattr(transformers, f"{name}ImageProcessorPil")(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
    )
    video = {}
    if name == "SmolVLM":
        video["video_processor"] = transformers.SmolVLMVideoProcessor(
            size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
        )
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=chat_template("<image>", system="<|begin_of_text|>", **_IDEFICS),
        **video,
    )
    config = getattr(transformers, f"{name}Config")(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=processor.image_token_id,
        scale_factor=2,
    )
    model = make_model(getattr(transformers, f"{name}ForConditionalGeneration"), config, seed)
    return save(folder, model, processor)


def _paligemma(folder, *, seed=0, version=1):
    """PaliGemma: image and prompt attend both ways; version 2: windows, softcapping, two norms."""
    from transformers import (
        Gemma2Config,
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
    )

    tokenizer = tokenizer_with("\n", bos_token="<bos>", image_token="<image>")
    images = _siglip_images()
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
    if version == 1:
        text = GemmaConfig(**text_sizes(tokenizer))
    else:
        text = Gemma2Config(
            **text_sizes(tokenizer, num_hidden_layers=4),
            sliding_window=24,
            query_pre_attn_scalar=8,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=10.0,
        )
    config = PaliGemmaConfig(
        vision_config=_siglip(),
        text_config=text,
        image_token_index=processor.image_token_id,
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
    )
    model = make_model(PaliGemmaForConditionalGeneration, config, seed)
    return save(folder, model, processor)


def _gemma3(folder, *, seed=0):
    """Gemma 3: image tokens attend both ways, windows in every second layer, crops."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
    )

    tokenizer = tokenizer_with(
        "\n",
        "\n\n",
        "<start_of_turn>",
        "<end_of_turn>",
        bos_token="<bos>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(
            size={"height": 32, "width": 32},
            do_pan_and_scan=True,
            pan_and_scan_min_crop_size=32,
            pan_and_scan_max_num_crops=3,
            pan_and_scan_min_ratio_to_activate=1.2,
        ),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chat_template(
            "<start_of_image>",
            system="<bos>",
            user="<start_of_turn>user\n",
            end="<end_of_turn>\n",
            assistant="<start_of_turn>model\n",
        ),
    )
    config = Gemma3Config(
        vision_config=_siglip(),
        text_config=Gemma3TextConfig(
            **text_sizes(tokenizer, num_hidden_layers=4),
            sliding_window=12,
            sliding_window_pattern=2,
            query_pre_attn_scalar=8,
        ),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        tie_word_embeddings=False,
    )
    model = make_model(Gemma3ForConditionalGeneration, config, seed)
    # Words are scaled up by the root of the width, image features are not.
    model.model.multi_modal_projector.mm_input_projection_weight.data *= 6
    return save(folder, model, processor)


def _qformer(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
    }


def _blip_images():
    from transformers import BlipImageProcessorPil

    return BlipImageProcessorPil(size={"height": 32, "width": 32})


def _t5(tokenizer):
    from transformers import T5Config

    return T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=3,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def _blip2(folder, *, seed=0, text_model="opt"):
    """BLIP-2: queries stand before the text, OPT or T5 writes."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        OPTConfig,
    )

    tokenizer = tokenizer_with(**({"bos_token": "</s>"} if text_model == "opt" else {}))
    processor = Blip2Processor(_blip_images(), tokenizer, num_query_tokens=4)
    if text_model == "opt":
        sizes = text_sizes(tokenizer)
        text = OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=32)
    else:
        text = _t5(tokenizer)
    config = Blip2Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        qformer_config=_qformer(tokenizer),
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save(folder, make_model(Blip2ForConditionalGeneration, config, seed), processor)


def _instructblip(folder, *, seed=0, text_model="vicuna"):
    """InstructBLIP: the queries read the prompt, too, by a tokenizer of their own; or with T5."""
    from transformers import (
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        LlamaConfig,
    )

    vicuna = text_model == "vicuna"
    tokenizer, questions = tokenizer_with(bos_token="<s>" if vicuna else None), tokenizer_with()
    processor = InstructBlipProcessor(_blip_images(), tokenizer, questions, num_query_tokens=4)
    config = InstructBlipConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        qformer_config=_qformer(questions),
        text_config=LlamaConfig(**text_sizes(tokenizer)) if vicuna else _t5(tokenizer),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save(folder, make_model(InstructBlipForConditionalGeneration, config, seed), processor)


def _mllama(folder, *, seed=0):
    """Llama 3.2 Vision: tiles, two of four blocks attend to the image and not to the text."""
    from transformers import (
        MllamaConfig,
        MllamaForConditionalGeneration,
        MllamaImageProcessorPil,
        MllamaProcessor,
    )

    tokenizer = tokenizer_with(
        "\n\n",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|image|>",
        bos_token="<|begin_of_text|>",
    )
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(
            size={"height": 32, "width": 32}, max_image_tiles=4
        ),
        tokenizer=tokenizer,
        chat_template=chat_template(
            "<|image|>",
            system="<|begin_of_text|>",
            user="<|start_header_id|>user<|end_header_id|>\n\n",
            end="<|eot_id|>",
            assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    )
    config = MllamaConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
        },
        text_config={
            **text_sizes(tokenizer, num_hidden_layers=4),
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_index=processor.image_token_id,
    )
    return save(folder, make_model(MllamaForConditionalGeneration, config, seed), processor)


def _aria(folder, *, seed=0):
    """Aria: padded squares, queries that read the unpadded part, a mixture of experts."""
    from transformers import (
        AriaConfig,
        AriaForConditionalGeneration,
        AriaImageProcessorPil,
        AriaProcessor,
        AriaTextConfig,
    )

    tokenizer = tokenizer_with(
        "\n", "<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>", image_token="<|img|>"
    )
    processor = AriaProcessor(
        image_processor=AriaImageProcessorPil(),
        tokenizer=tokenizer,
        size_conversion={490: 2, 980: 4},
        chat_template=chat_template(
            "<fim_prefix><|img|><fim_suffix>",
            user="<|im_start|>user\n",
            end="<|im_end|>\n",
            assistant="<|im_start|>assistant\n",
        ),
    )
    config = AriaConfig(
        vision_config={
            **VISION,
            "model_type": "idefics3_vision",
            "hidden_size": 8,
            "image_size": 980,
            "patch_size": 70,
        },
        text_config=AriaTextConfig(
            **text_sizes(tokenizer),
            moe_num_experts=4,
            moe_topk=2,
            moe_num_shared_experts=1,
        ),
        projector_patch_to_query_dict={49: 2, 196: 4},
        image_token_index=processor.image_token_id,
    )
    return save(folder, make_model(AriaForConditionalGeneration, config, seed), processor)


def _florence2(folder, *, seed=0):
    """Florence-2: an encoder reads image and prompt, BART's decoder, without a final norm."""
    from transformers import (
        BartConfig,
        CLIPImageProcessorPil,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = tokenizer_with(bos_token="<s>", image_token="<image>")
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 5
    processor = Florence2Processor(image_processor=images, tokenizer=tokenizer)
    config = Florence2Config(
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [8, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [8, 16],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "window_size": 2,
            "projection_dim": 32,
        },
        text_config=BartConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=256,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=None,
            tie_word_embeddings=False,
        ),
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    return save(folder, make_model(Florence2ForConditionalGeneration, config, seed), processor)


def _llama4(folder, *, seed=0):
    """Llama 4: tiles with separators, attention in chunks, blocks without positions, experts."""
    from transformers import (
        Llama4Config,
        Llama4ForConditionalGeneration,
        Llama4ImageProcessor,
        Llama4Processor,
    )

    tokenizer = tokenizer_with(
        "\n\n",
        "<|header_start|>",
        "<|header_end|>",
        "<|eot|>",
        "<|image|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|patch|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
        bos_token="<|begin_of_text|>",
    )
    ids = tokenizer.convert_tokens_to_ids
    processor = Llama4Processor(
        image_processor=Llama4ImageProcessor(size={"height": 32, "width": 32}, max_patches=4),
        tokenizer=tokenizer,
        patch_size=8,
    )
    config = Llama4Config(
        vision_config={
            **VISION,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        text_config={
            **text_sizes(tokenizer, num_hidden_layers=4),
            "intermediate_size_mlp": 64,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 24,
            "floor_scale": 16,
        },
        boi_token_index=ids("<|image_start|>"),
        eoi_token_index=ids("<|image_end|>"),
        image_token_index=ids("<|patch|>"),
    )
    return save(folder, make_model(Llama4ForConditionalGeneration, config, seed), processor)


def _gemma3n(folder, *, seed=0):
    """Gemma 3n: four residual streams, inputs of its own for every block, timm's vision tower."""
    from transformers import (
        Gemma3nConfig,
        Gemma3nForConditionalGeneration,
        Gemma3nProcessor,
    )
    from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor

    tokenizer = tokenizer_with(
        "\n",
        "\n\n",
        "<start_of_turn>",
        "<end_of_turn>",
        bos_token="<bos>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        audio_token="<audio_soft_token>",
        boa_token="<start_of_audio>",
        eoa_token="<end_of_audio>",
    )
    processor = Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(),
        image_processor=_siglip_images(size={"height": 64, "width": 64}, do_normalize=False),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chat_template(
            "<image_soft_token>",
            system="<bos>",
            user="<start_of_turn>user\n",
            end="<end_of_turn>\n",
            assistant="<start_of_turn>model\n",
        ),
    )
    n_words = len(tokenizer)
    config = Gemma3nConfig(
        text_config={
            **text_sizes(tokenizer, num_hidden_layers=4),
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 24,
            "vocab_size_per_layer_input": n_words - 4,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        },
        vision_config={
            "architecture": "test_resnet",
            "hidden_size": 96,
            "vocab_size": 2,
            "vocab_offset": n_words,
            "do_pooling": False,
        },
        audio_config={
            "vocab_size": 2,
            "vocab_offset": n_words + 2,
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "input_feat_size": 32,
            "sscp_conv_channel_size": [8, 4],
        },
        vision_soft_tokens_per_image=4,
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        audio_token_id=tokenizer.audio_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_id=tokenizer.eoa_token_id,
        tie_word_embeddings=False,
    )
    return save(folder, make_model(Gemma3nForConditionalGeneration, config, seed), processor)


def _gemma4(folder, *, seed=0):
    """Gemma 4: native resolution, inputs of its own for every block, shared keys, wide heads."""
    from transformers import (
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4ImageProcessorPil,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor

    tokenizer = tokenizer_with(
        "\n",
        "<|turn>",
        "<turn|>",
        "<|video|>",
        bos_token="<bos>",
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessorPil(
            patch_size=4, max_soft_tokens=70, pooling_kernel_size=3
        ),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(),
        chat_template=chat_template(
            "<|image|>",
            system="<bos>",
            user="<|turn>user\n",
            end="<turn|>\n",
            assistant="<|turn>model\n",
        ),
    )
    config = Gemma4Config(
        vision_config={
            **VISION,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
            "pooling_kernel_size": 3,
            "position_embedding_size": 128,
        },
        text_config={
            **text_sizes(tokenizer, num_hidden_layers=6),
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "sliding_window": 24,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "final_logit_softcapping": 10.0,
            "use_bidirectional_attention": "vision",
        },
        audio_config=None,
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        audio_token_id=tokenizer.audio_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
        video_token_id=processor.video_token_id,
        tie_word_embeddings=False,
    )
    return save(folder, make_model(Gemma4ForConditionalGeneration, config, seed), processor)


def _kosmos2(folder, *, seed=0):
    """Kosmos-2: queries read the image; tokens for places; sinusoidal positions."""
    from transformers import (
        CLIPImageProcessorPil,
        Kosmos2Config,
        Kosmos2ForConditionalGeneration,
        Kosmos2Processor,
    )

    tokenizer = tokenizer_with(bos_token="<s>")
    processor = Kosmos2Processor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        num_patch_index_tokens=4,
    )
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(tokenizer),
            "embed_dim": 32,
            "layers": 3,
            "ffn_dim": 64,
            "attention_heads": 4,
            "max_position_embeddings": 256,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        },
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        latent_query_num=64,  # what its processor makes place for
        tie_word_embeddings=False,
    )
    return save(folder, make_model(Kosmos2ForConditionalGeneration, config, seed), processor)


def _janus(folder, *, seed=0):
    """Janus: reads images by SigLIP and can draw them by codes, which is not asked for here."""
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusImageProcessorPil,
        JanusProcessor,
        LlamaConfig,
    )

    tokenizer = tokenizer_with(
        "\n\n",
        "<|User|>",
        "<|Assistant|>",
        bos_token="<s>",
        image_token="<image_placeholder>",
        boi_token="<begin_of_image>",
        eoi_token="<end_of_image>",
    )
    processor = JanusProcessor(
        image_processor=JanusImageProcessorPil(size={"height": 32, "width": 32}, min_size=8),
        tokenizer=tokenizer,
        num_image_tokens=16,
        chat_template=chat_template(
            "<image_placeholder>\n", user="<|User|>: ", end="\n\n", assistant="<|Assistant|>:"
        ),
    )
    config = JanusConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "mlp_ratio": 2.0,
            "projection_dim": 32,
            "num_image_tokens": 16,
        },
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 16,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "num_patches": 4,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    return save(folder, make_model(JanusForConditionalGeneration, config, seed), processor)


def _chameleon(folder, *, seed=0):
    """Chameleon: images as codes of the vocabulary, which is ruled out for captions."""
    from transformers import (
        ChameleonConfig,
        ChameleonForConditionalGeneration,
        ChameleonImageProcessorPil,
        ChameleonProcessor,
    )

    # The letters are the digits of a code's number.
    letters = [*"ABCDEFGHIJ", *(f"B{second}" for second in "ABCDEF")]
    codes = [f"IMGIMG{number}Z" for number in letters]
    named = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    tokenizer = tokenizer_with("<reserved08706>", *codes, bos_token="<s>", **named)
    tokenizer.sep_token = "<reserved08706>"
    processor = ChameleonProcessor(
        ChameleonImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer,
        image_seq_length=4,
    )
    config = ChameleonConfig(
        **text_sizes(tokenizer),
        vocabulary_map={
            token: tokenizer.convert_tokens_to_ids(token) for token in [*codes, *named.values()]
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "resolution": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1, 1],
            "num_res_blocks": 1,
        },
    )
    return save(folder, make_model(ChameleonForConditionalGeneration, config, seed), processor)


def _deepseek_vl_hybrid(folder, *, seed=0):
    """DeepSeek-VL 7B: the image at two resolutions, by SigLIP and by SAM."""
    from transformers import (
        DeepseekVLHybridConfig,
        DeepseekVLHybridForConditionalGeneration,
        DeepseekVLHybridImageProcessorPil,
        DeepseekVLHybridProcessor,
        LlamaConfig,
    )

    tokenizer = tokenizer_with("\n\n", bos_token="<s>", image_token="<image_placeholder>")
    processor = DeepseekVLHybridProcessor(
        DeepseekVLHybridImageProcessorPil(
            size={"height": 32, "width": 32},
            high_res_size={"height": 64, "width": 64},
            min_size=8,
        ),
        tokenizer,
        num_image_tokens=16,
        chat_template=chat_template(
            "<image_placeholder>", user="User: ", end="\n\n", assistant="Assistant:"
        ),
    )
    config = DeepseekVLHybridConfig(
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        vision_config=_siglip(),
        high_res_vision_config={
            "model_type": "sam_vision_model",
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 4,
            "mlp_dim": 32,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
        },
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    model = make_model(DeepseekVLHybridForConditionalGeneration, config, seed)
    return save(folder, model, processor)


FAMILIES = {
    "idefics2": Family(_idefics2),
    "idefics3": Family(_idefics3),
    "smolvlm": Family(partial(_idefics3, name="SmolVLM"), needs_torchvision=True),
    "paligemma": Family(_paligemma),
    "paligemma2": Family(partial(_paligemma, version=2)),
    "gemma3": Family(_gemma3),
    "blip2-opt": Family(partial(_blip2, seed=1)),
    "blip2-t5": Family(partial(_blip2, seed=3, text_model="t5")),
    "instructblip": Family(partial(_instructblip, seed=4)),
    "instructblip-t5": Family(partial(_instructblip, text_model="t5")),
    "mllama": Family(partial(_mllama, seed=1)),
    "aria": Family(_aria),
    "florence2": Family(partial(_florence2, seed=3)),
    "kosmos2": Family(_kosmos2),
    "janus": Family(_janus),
    "chameleon": Family(_chameleon),
    "deepseek-vl-hybrid": Family(_deepseek_vl_hybrid),
    "llama4": Family(_llama4, needs_torchvision=True),
    "gemma3n": Family(_gemma3n, needs_torchvision=True),
    "gemma4": Family(_gemma4, needs_torchvision=True),
}
