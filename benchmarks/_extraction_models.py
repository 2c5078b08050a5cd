"""Models for the extraction benchmark, and the published way to collect states from one."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

MAX_NEW_TOKENS = 50  # of the published code
# name -> what decides about speed; the first is small enough for a CPU.
SHAPES = {
    "llava-12x768": {
        "vision": {"layers": 12, "width": 768, "heads": 12, "image": 224, "patch": 16},
        "text": {"layers": 12, "width": 768, "heads": 12, "inner": 2048},
    },
    "llava-1.5-7b": {
        "vision": {"layers": 24, "width": 1024, "heads": 16, "image": 336, "patch": 14},
        "text": {"layers": 32, "width": 4096, "heads": 32, "inner": 11008},
    },
}
VOCABULARY = 32_000
WORD = "dog"


def random_llava(folder, shape, *, dtype="float32", device="cpu"):
    """Save a LLaVA with random weights and words as tokens; returns `folder`."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    vision, text = SHAPES[shape]["vision"], SHAPES[shape]["text"]
    tokenizer = _word_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision["width"],
            intermediate_size=4 * vision["width"],
            num_hidden_layers=vision["layers"],
            num_attention_heads=vision["heads"],
            image_size=vision["image"],
            patch_size=vision["patch"],
        ),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=text["width"],
            intermediate_size=text["inner"],
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=getattr(torch, dtype))
    _liven(model, tokenizer)
    size = vision["image"]
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        tokenizer=tokenizer,
        patch_size=vision["patch"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from wordfreq import top_n_list

    words = [word for word in top_n_list("en", 2 * VOCABULARY) if word.isalpha()]
    entries = ["[PAD]", "[UNK]", "[EOS]", "<image>", *words[: VOCABULARY - 4]]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(entries)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )


def _liven(model, tokenizer):
    """Weights with which words depend on the image, and no caption ends before its time."""
    generator = torch.Generator(device=model.device).manual_seed(0)
    with torch.no_grad():
        head = model.lm_head.weight
        head.normal_(std=0.05, generator=generator)
        for token in (*tokenizer.all_special_tokens, "<image>"):
            head[tokenizer.convert_tokens_to_ids(token)] = 0.0


class PublishedProcedure:
    """One image at a time, every position of the hooked layer copied to the CPU.

    Parameters
    ----------
    loaded : LoadedModel
    module : str
        Name of the layer.
    prompt : str
        The whole prompt.
    stop_at_end : bool
        Whether a caption ends at the model's end token, or always has `MAX_NEW_TOKENS` tokens.
    """

    def __init__(self, loaded, module, prompt, stop_at_end=False):
        self.loaded, self.module, self.prompt = loaded, module, prompt
        self.min_new_tokens = None if stop_at_end else MAX_NEW_TOKENS

    def __call__(self, images):
        """State before the last token of every caption."""
        kept = []
        for image in images:
            states = self._states(image)
            kept.append(torch.cat([state[:, -1:] for state in states], dim=1)[0, -1].float())
        return torch.stack(kept).numpy()

    def _states(self, image):
        from semi_nmf_concepts.lmm import to_rgb

        loaded, states = self.loaded, []
        inputs = loaded.processor(images=to_rgb(image, 0), text=self.prompt, return_tensors="pt")
        inputs = inputs.to(loaded.device, loaded.dtype)

        def keep(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            states.append(output.cpu())

        hook = loaded.model.get_submodule(self.module).register_forward_hook(keep)
        try:
            with torch.inference_mode():
                loaded.model.generate(
                    **inputs,
                    max_new_tokens=MAX_NEW_TOKENS,
                    min_new_tokens=self.min_new_tokens,
                    do_sample=False,
                    pad_token_id=loaded.tokenizer.pad_token_id,
                )
        finally:
            hook.remove()
        return states


def common_words(captions, share=0.75):
    """Words of which at least `share` of the captions have one, the most frequent first.

    Random weights have no favourite word: so that the word of interest stands in most captions, as
    it does about images that are worth asking, several words count as it.
    """
    chosen, left = [], [set(text.split()) for text in captions]
    while len(left) > (1 - share) * len(captions):
        counts = Counter(word for words in left for word in words if word.isalpha())
        chosen.append(max(counts, key=lambda word: (counts[word], word)))
        left = [words for words in left if chosen[-1] not in words]
    return chosen


def photographs(folder, n, *, seed=0):
    """Write `n` JPEG files of usual shapes with coarse random content; their paths."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    paths = []
    for i in range(n):
        cells = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = ((640, 480), (480, 640), (500, 375))[i % 3]
        path = Path(folder, f"{i:05d}.jpg")
        Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def scene_files(folder, n, token="dog"):
    """Write `n` bundled scenes as PNG files; their paths."""
    from semi_nmf_concepts.datasets import load_scenes

    images = load_scenes("train", token=token, n=n).images
    paths = [Path(folder, f"{i:05d}.png") for i in range(n)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return paths


def describe(shape):
    """The shape in words."""
    return json.dumps(SHAPES[shape]).translate(str.maketrans("", "", '{}"'))


def temporary_folder():
    """A folder for the time of a block."""
    return tempfile.TemporaryDirectory(prefix="extraction-")
