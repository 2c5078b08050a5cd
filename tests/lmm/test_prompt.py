"""Prompts as real checkpoints have them, and what becomes of prompt and image."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from semi_nmf_concepts.lmm import load_model
from semi_nmf_concepts.lmm._prompt import (
    ImagesRefusedError,
    NotTogetherError,
    continuation_ids,
    encode_prompts,
    render_prompt,
    split_by_prefix,
)
from semi_nmf_concepts.lmm._records import Request
from semi_nmf_concepts.lmm._states import StateCollector
from tests._families import FAMILIES
from tests._families._parts import chat_template, tokenizer_with
from tests._tiny_llava import tiny_images

TEXTS_ONLY = (
    "{% for m in messages %}{{ 'USER: ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A LLaVA whose tokenizer puts "<s>" before every text."""
    return load_model(
        FAMILIES["llava"].build(tmp_path_factory.mktemp("llava")), device="cpu"
    ).loaded


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """A LLaVA-NeXT: tiles, sizes beside the pixels."""
    folder = FAMILIES["llava-next"].build(tmp_path_factory.mktemp("next"))
    return load_model(folder, device="cpu", dtype="bfloat16").loaded


@pytest.fixture
def processor(loaded):
    """A processor whose chat template may be changed, its tokenizer's too."""
    processor = copy.copy(loaded.processor)
    processor.tokenizer = copy.copy(loaded.processor.tokenizer)
    processor.chat_template = processor.tokenizer.chat_template = None
    return processor


# Chat templates


def test_processor_template_with_system_prompt(processor):
    processor.chat_template = chat_template(
        "<image>", system="[SYS] be kind [/SYS]", user="U:", end="\n", assistant="A:"
    )
    assert render_prompt(processor, "what?") == "[SYS] be kind [/SYS]U:<image>what?\nA:"
    assert render_prompt(processor, "") == "[SYS] be kind [/SYS]U:<image>\nA:"


def test_template_of_the_tokenizer_only(processor):
    processor.tokenizer.chat_template = chat_template("<image>", user="U:", assistant="A:")
    assert render_prompt(processor, "what?") == "U:<image>what?A:"


@pytest.mark.parametrize("owner", ["processor", "tokenizer"])
def test_template_that_knows_texts_only(processor, owner):
    target = processor if owner == "processor" else processor.tokenizer
    target.chat_template = TEXTS_ONLY
    assert render_prompt(processor, "what?") == "USER: <image>\nwhat? ASSISTANT:"


def test_no_template(processor):
    assert render_prompt(processor, "what?") == "<image>\nwhat?"


def test_whole_prompt_is_taken_as_it_is(processor):
    processor.chat_template = TEXTS_ONLY
    assert render_prompt(processor, "see <image> here") == "see <image> here"


def test_several_templates(processor):
    processor.chat_template = {"default": chat_template("<image>", assistant="A:"), "rag": "x"}
    assert render_prompt(processor, "hi") == "<image>hiA:"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('tools only') }}", "tools only"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves one of them out"),
        ("{% for m in %}", "Expected an expression"),
        ({"rag": "x"}, "none is called default"),
    ],
)
def test_template_that_cannot_be_used(processor, template, reason):
    processor.chat_template = template
    with pytest.raises(ValueError, match=f"chat template.*{reason}.*'<image>'"):
        render_prompt(processor, "what?")


def test_templates_neither_know_the_day_nor_ask_for_thoughts(processor):
    processor.chat_template = (
        "{% if strftime_now is defined %}{{ 'Today: ' + strftime_now('%d %b %Y') }}{% endif %}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
        + chat_template("<image>")
    )
    assert render_prompt(processor, "hi") == "Today: 01 Jan 2025<think></think><image>hi"


# The begin of the sequence


def _ids(loaded, prompt):
    return encode_prompts(loaded, tiny_images(1), [prompt])["input_ids"][0].tolist()


def test_one_begin_of_sequence_for_every_prompt(loaded):
    begin = loaded.tokenizer.bos_token_id
    plain = _ids(loaded, "USER: <image> dog ASSISTANT:")
    written_out = _ids(loaded, "<s>USER: <image> dog ASSISTANT:")
    assert plain == written_out
    assert plain.count(begin) == 1


def test_prompts_with_and_without_begin_in_one_batch(loaded):
    prompts = ["USER: <image> dog", "<s>a <image> cat on snow", "<image>", "<s><image> bus"]
    images = tiny_images(4)
    collector = StateCollector(
        loaded, Request(layers=(0, -1), tokens=("dog", "cat"), max_new_tokens=6)
    )
    together = collector(images, None, prompts)
    for image, prompt, row in zip(images, prompts, together, strict=True):
        alone = collector([image], None, [prompt])[0]
        for key, record in alone.items():
            assert row[key].caption == record.caption
            np.testing.assert_allclose(row[key].state, record.state, rtol=1e-4, atol=1e-5)


def test_prefix_of_several_tokens():
    from tokenizers import processors

    tokenizer = tokenizer_with("[gMASK]", "<sop>")
    prompts = ["[gMASK]<sop>a", "a", "[gMASK]b", "[gMASK]<sop>c"]
    assert split_by_prefix(tokenizer, prompts) == [[0, 1, 2, 3]]  # it adds nothing itself
    ids = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        pair="$A $B",
        special_tokens=list(zip(["[gMASK]", "<sop>"], ids, strict=True)),
    )
    assert split_by_prefix(tokenizer, prompts) == [[0, 3], [1, 2]]


@pytest.mark.parametrize(
    ("prompt", "first"),
    [("user\n", "dog"), ("a dog:", " dog"), ("<|end|>", "dog"), ("", "dog"), ("<|end|> x", " dog")],
)
def test_dictated_captions_begin_as_written_ones_do(prompt, first):
    tokenizer = tokenizer_with("<|end|>", byte_level=True)
    ids = continuation_ids(tokenizer, prompt, " dog train ")
    assert tokenizer.decode(ids) == first + " train"
    with_prompt = tokenizer.encode(prompt, add_special_tokens=False) + ids
    assert with_prompt == tokenizer.encode(prompt + first + " train", add_special_tokens=False)


# Places for the image


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a <image>", "a dog"], "prompt 'a dog' has no place for the image.*'<image>'"),
        (["<image> and <image>"], "'<image> and <image>' has 2 places"),
        (["<image> and <image>", "dog"], "prompt 'dog' has no place"),
    ],
)
def test_one_place_for_one_image(loaded, prompts, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts(loaded, tiny_images(len(prompts)), prompts)


def test_images_that_the_processor_refuses(loaded):
    class Picky:
        image_token = "<image>"

        def __call__(self, images, **kwargs):
            if any(image.width > 20 * image.height for (image,) in images):
                raise ValueError("absolute aspect ratio must be smaller than 20.")
            return loaded.processor(images=images, **kwargs)

    picky = dataclasses.replace(loaded, processor=Picky())
    images = [*tiny_images(2), Image.new("RGB", (100, 2)), Image.new("RGB", (3, 2))]
    with pytest.raises(ImagesRefusedError, match="1 image.*row 2.*smaller than 20") as caught:
        encode_prompts(picky, images, ["<image>"] * 4)
    assert caught.value.reasons == {
        2: "absolute aspect ratio must be smaller than 20 (100 x 2 pixels)"
    }
    with pytest.raises(ImagesRefusedError):
        encode_prompts(picky, images[2:3], ["<image>"])
    with pytest.raises(ValueError, match="smaller than 20") as caught:  # every one: no bad images
        encode_prompts(picky, images[2:3] * 2, ["<image>"] * 2)
    assert not isinstance(caught.value, ImagesRefusedError)


def test_lines_are_refused(loaded):
    """In the rows of the batch, also where its parts go through the model apart."""
    line = Image.new("RGB", (1, 90_000))
    prompts = ["<image> a", "<s><image> b", "<image> c", "<s><image> d"]
    collector = StateCollector(loaded, Request(layers=(-1,), position="last"))
    images = tiny_images(4)
    for row in range(4):
        batch = [*images[:row], line, *images[row + 1 :]]
        with pytest.raises(ImagesRefusedError, match="far too long.*1 x 90000") as caught:
            collector(batch, None, prompts)
        assert list(caught.value.reasons) == [row]
    collector([Image.new("RGB", (1, 700))], None, prompts[:1])


# Tensors


def test_only_floating_point_inputs_change_their_type(tiled):
    inputs = encode_prompts(tiled, tiny_images(2), ["<image> dog"] * 2)
    assert inputs["pixel_values"].dtype == torch.bfloat16
    for name in ("input_ids", "attention_mask", "image_sizes"):
        assert not inputs[name].is_floating_point(), name


@pytest.mark.vision
def test_grids_stay_integers(tmp_path):
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    folder = FAMILIES["qwen2.5-vl"].build(tmp_path)
    loaded = load_model(folder, device="cpu", dtype="bfloat16").loaded
    prompt = render_prompt(loaded.processor, "what")
    inputs = encode_prompts(loaded, tiny_images(2), [prompt] * 2)
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["image_grid_thw"].dtype == inputs["mm_token_type_ids"].dtype == torch.int64


def test_rows_are_padded_on_the_left(tiled):
    inputs = encode_prompts(
        tiled, [Image.new("RGB", (90, 40)), Image.new("RGB", (40, 40))], ["<image> a", "<image>"]
    )
    mask = inputs["attention_mask"]
    assert mask[:, -1].all()
    assert not mask.all()


def test_padding_at_the_end_is_an_error(loaded, processor):
    processor.tokenizer.padding_side = "right"
    right = dataclasses.replace(loaded, processor=processor)
    with pytest.raises(ValueError, match="pads rows at their end"):
        encode_prompts(right, tiny_images(2), ["<image> a dog on snow", "<image>"])


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 40), (40, 1), (3, 50), (2, 300), (300, 2)])
@pytest.mark.parametrize("name", ["loaded", "tiled"])
def test_tiny_and_narrow_images(request, name, size):
    loaded = request.getfixturevalue(name)
    image = Image.new("RGB", size, (200, 30, 30))
    collector = StateCollector(loaded, Request(layers=(-1,), position="last"))
    state = collector([image], None, ["USER: <image> dog"])[0][None, -1].state
    assert np.isfinite(state).all()
    other = collector([Image.new("RGB", size, (20, 30, 230))], None, ["USER: <image> dog"])
    assert not np.allclose(state, other[0][None, -1].state, atol=1e-3)


# Processors of all kinds


@pytest.mark.parametrize("name", ["llava", "vipllava", "llava-next"])
def test_processor_of_an_old_checkpoint(name, tmp_path):
    """What processors say today was once left to the model's configuration."""
    folder = FAMILIES[name].build(tmp_path)
    prompt, images = "USER: <image> dog", [Image.new("RGB", (90, 40))]
    expected = encode_prompts(load_model(folder, device="cpu").loaded, images, [prompt])
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    for name in ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy"):
        del settings[name]
    path.write_text(json.dumps(settings))
    load_model(folder, device="cpu").unload()
    inputs = encode_prompts(load_model(folder, device="cpu").loaded, images, [prompt])
    assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()


class OneShape:
    """A processor that stacks the pixels of images, which must then have one shape."""

    image_token = "<image>"

    def __init__(self, processor):
        self.processor, self.tokenizer = processor, processor.tokenizer

    def __call__(self, images, text, **kwargs):
        inputs = self.processor(images=images, text=text, **kwargs)
        shapes = {image.size for (image,) in images}
        if len(shapes) > 1:
            raise ValueError("stack expects each tensor to be equal size")
        inputs["pixel_values"] = torch.zeros(len(images), 3, *shapes.pop())
        return inputs


def test_images_that_do_not_go_together(loaded, monkeypatch):
    """They go through the model apart, and come back in order."""
    sizes = [(64, 32), (32, 64), (64, 32), (128, 16), (32, 64)]
    images = [image.resize(s) for image, s in zip(tiny_images(5), sizes, strict=True)]
    prompts = ["<image> dog", "a <image>", "<image>", "<image> cat on snow", "<s>the <image>"]
    apart = dataclasses.replace(loaded, processor=OneShape(loaded.processor))
    with pytest.raises(NotTogetherError) as caught:
        encode_prompts(apart, images, prompts)
    assert caught.value.groups == [[0, 2], [1, 4], [3]]

    collector = StateCollector(loaded, Request(layers=(-1,), position="last"))
    expected = [record[None, -1].state for record in collector(images, None, prompts)]
    calls = []

    def encode(loaded, images, prompts):
        calls.append(len(images))
        if len({image.size for image in images}) > 1:
            return encode_prompts(apart, images, prompts)  # raises
        return encode_prompts(loaded, images, prompts)

    monkeypatch.setattr("semi_nmf_concepts.lmm._states.encode_prompts", encode)
    found = [record[None, -1].state for record in collector(images, None, prompts)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert calls == [4, 2, 1, 1, 1]


@pytest.mark.vision
def test_pillow_and_torchvision_give_the_same_pixels(tmp_path):
    """Up to a few grey levels where they resize; where both exist transformers takes the latter."""
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    from transformers import AutoProcessor

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 150, 3), dtype=np.uint8)).resize((200, 120))
    for name in ("llava", "llava-next", "aya-vision", "ovis2", "deepseek-vl"):
        folder = FAMILIES[name].build(tmp_path / name)
        pixels = []
        for backend in ("pil", "torchvision"):
            processor = AutoProcessor.from_pretrained(folder, backend=backend)
            assert ("Pil" in type(processor.image_processor).__name__) == (backend == "pil")
            inputs = processor.image_processor(images=[image], return_tensors="pt")
            pixels.append(inputs["pixel_values"].numpy())
        assert pixels[0].shape == pixels[1].shape
        assert abs(pixels[0] - pixels[1]).mean() < 2e-3
        assert abs(pixels[0] - pixels[1]).max() < 0.15
