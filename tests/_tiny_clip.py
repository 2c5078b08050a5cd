"""A tiny CLIP with random weights, saved in the standard format, for tests that need some CLIP.

It has what a real checkpoint has (vision and text tower, projections, word tokenizer that adds the
end token, Pillow image processor) and 16 text positions, so that long texts are cut off. It knows
nothing; but its embeddings depend on image and text, which is what the tests need.
"""

from pathlib import Path

WORDS = """
a photo is described by the words dog cat bus train snow grass beach red . ,
"""


def build_tiny_clip(folder, *, seed=0, image_size=32, hidden_act="quick_gelu"):
    """Save a tiny random CLIP under `folder` and return the folder.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    seed : int, default=0
        Seed of the weights; other seeds are other models.
    image_size : int, default=32
        Side of the images that the processor makes; a multiple of 16.
    hidden_act : str, default="quick_gelu"
        Activation of the text tower.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = _tokenizer()
    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = CLIPConfig(
        text_config={
            **common,
            "hidden_size": 24,
            "hidden_act": hidden_act,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "bos_token_id": None,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**common, "hidden_size": 24, "image_size": image_size, "patch_size": 16},
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config).eval()
        for weight in model.parameters():  # so large that every input changes the embedding
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
    ).save_pretrained(folder)
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # The end token comes last: a CLIP whose end token is number 2 pools at the largest number.
    vocabulary = ["[PAD]", "[UNK]", *WORDS.split(), "[EOS]"]
    vocabulary = {word: i for i, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", vocabulary["[EOS]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )
