"""Representations of every family against a slow reference, and that the check itself can fail."""

import numpy as np
import pytest
import torch

from semi_nmf_concepts._quiet import quiet_transformers
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, _states, load_model
from semi_nmf_concepts.testing import check_lmm
from tests._families._marks import family_params
from tests._tiny_llava import tiny_images

MAX_NEW_TOKENS = 6


@pytest.mark.parametrize("name", family_params())
def test_family_is_read_exactly(name, build):
    folder = build(name)
    check = check_lmm(folder, max_new_tokens=MAX_NEW_TOKENS)
    # Otherwise the comparison would be an empty one.
    assert check.notes["different captions"] >= 4
    assert check.notes["longest prompt, in tokens"] > check.notes["shortest prompt, in tokens"]
    for layer in (0, -1, "final_norm"):
        for what in ("generated", "one at a time", "forced", "batch against one at a time"):
            assert f"Z of layer {layer!r}, {what}" in check.figures
    load_model(folder, device="cpu", dtype="float32").unload()


# Faults that the check must find, each as anyone might make it.


def _no_fault(monkeypatch, loaded):
    pass


def _attend_to_padding(monkeypatch, loaded):
    encode = _states.encode_prompts

    def encode_prompts(*args):
        inputs = encode(*args)
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        return inputs

    monkeypatch.setattr(_states, "encode_prompts", encode_prompts)


def _read_one_position_late(monkeypatch, loaded):
    recording = _states.StateCollector._recording

    def _recording(self, reduce, *args):
        return recording(self, lambda states: reduce(states.roll(1, dims=1)), *args)

    monkeypatch.setattr(_states.StateCollector, "_recording", _recording)


def _read_the_block_before(monkeypatch, loaded):
    resolve = _states.resolve_layer

    def resolve_layer(model, layer):
        return resolve(model, layer - 1 if isinstance(layer, int) and layer else layer)

    monkeypatch.setattr(_states, "resolve_layer", resolve_layer)


def _take_the_norm_for_the_last_block(monkeypatch, loaded):
    resolve = _states.resolve_layer

    def resolve_layer(model, layer):
        return resolve(model, "final_norm" if layer == -1 else layer)

    monkeypatch.setattr(_states, "resolve_layer", resolve_layer)


def _ignore_the_prompts(monkeypatch, loaded):
    encode = _states.encode_prompts

    def encode_prompts(loaded, images, prompts):
        return encode(loaded, images, [prompts[0]] * len(prompts))

    monkeypatch.setattr(_states, "encode_prompts", encode_prompts)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (_no_fault, None),
        (_attend_to_padding, "captions of a batch of 4"),
        (_read_one_position_late, "Z of layer 0, prompt, position 'last'"),
        (_read_the_block_before, "Z of layer -1, generated"),
        (_take_the_norm_for_the_last_block, "Z of layer -1, one at a time"),
        (_ignore_the_prompts, "captions of a batch of 4"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_check_finds_faults(fault, found, tiny_model, monkeypatch):
    loaded = load_model(tiny_model, device="cpu", dtype="float32").loaded
    fault(monkeypatch, loaded)
    check = check_lmm(
        tiny_model,
        tiny_images(4),
        prompts=["", "what is this ?", "a dog", "the red car in this street ?"],
        batch_size=4,
        max_new_tokens=5,
        raise_on_failure=False,
    )
    assert check.passed == (found is None)
    assert found is None or any(failure.startswith(found) for failure in check.failures)


def test_check_raises_with_its_record(tiny_model, monkeypatch):
    _read_the_block_before(monkeypatch, None)
    images = tiny_images(2)
    with pytest.raises(AssertionError, match=r"FAIL .*Z of layer -1, generated"):
        check_lmm(tiny_model, images, prompts=["", "a"], layers=[-1], max_new_tokens=4)


def test_check_refuses_what_it_cannot_compare(tiny_model):
    with pytest.raises(ValueError, match="one entry per image: got 1 for 2 images"):
        check_lmm(tiny_model, tiny_images(2), prompts=["a"])


def test_check_of_a_given_word(tiny_model):
    check = check_lmm(tiny_model, tiny_images(2), prompts=["", "a"], max_new_tokens=6)
    word = check.words[-1]
    again = check_lmm(tiny_model, tiny_images(2), prompts=["", "a"], max_new_tokens=6, token=word)
    assert again.words == [word]
    assert again.captions == check.captions
    assert "ok" in str(again)
    assert "FAIL" not in str(again)


# Half precision


@pytest.mark.parametrize("name", ["idefics3", "paligemma2", "blip2-opt"])
def test_half_precision(name, build):
    """Captions of a bfloat16 model are those of a plain `generate`; states are float32."""
    folder, images = build(name), tiny_images(6)
    handle = load_model(folder, device="cpu", dtype="bfloat16")
    loaded = handle.loaded
    assert {p.dtype for p in loaded.model.get_decoder().parameters()} == {torch.bfloat16}
    expected = []
    for image in images:
        with quiet_transformers():
            inputs = _inputs(loaded.processor, image, "what is this ?").to(torch.bfloat16)
            written = loaded.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        ids = written[0, inputs["input_ids"].shape[1] :]
        expected.append(loaded.tokenizer.decode(ids, skip_special_tokens=True).strip())
    found = LMMTokenFeaturizer(
        handle,
        token="dog",
        prompt="what is this ?",
        batch_size=1,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    assert found.extract(images, on_empty="keep").all_captions == expected
    Z = found.transform(images)
    assert Z.dtype == np.float32
    assert np.isfinite(Z).all()
    # In float32 nearly the same: rounding of bfloat16 is 2^-9.
    exact = LMMTokenFeaturizer(
        load_model(folder, dtype="float32"), position="last", prompt="what is this ?"
    ).transform(images)
    half = LMMTokenFeaturizer(handle, position="last", prompt="what is this ?").transform(images)
    error = np.linalg.norm(half - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() < 0.1
    handle.unload()


def _inputs(processor, image, text):
    if processor.chat_template is None:
        inputs = processor(images=[[image]], text=[text], return_tensors="pt")
        inputs.pop("labels", None)
        return inputs
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_prompt_of_an_encoder_has_no_positions(build):
    featurizer = LMMTokenFeaturizer(build("blip2-t5"), position="last", dtype="float32")
    with pytest.raises(ValueError, match="'last' has no meaning .* read by an encoder"):
        featurizer.transform(tiny_images(1))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("BlipConfig", "type 'blip' and cannot be used here: it reads the image beside"),
        ("FuyuConfig", "type 'fuyu' and cannot be used here: its processor"),
        ("Blip2Config", "does not say which token stands for the image"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(config, reason, tmp_path):
    import transformers

    getattr(transformers, config)().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason):
        load_model(tmp_path).loaded  # noqa: B018
