"""The bundled CLIP: plain transformers, small, and a judge of words for the bundled scenes."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, CLIPModel

from semi_nmf_concepts.datasets import (
    FACTOR_WORDS,
    _bundled,
    bundled_clip_path,
    bundled_model_path,
    load_scenes,
)

TEMPLATE = "A photo is described by the words {}."
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def clip():
    folder = bundled_clip_path()
    return AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("test", n=24)


@torch.inference_mode()
def embed_images(clip, images):
    model, processor = clip
    pixels = processor.image_processor(list(images), return_tensors="pt")
    return torch.nn.functional.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)


@torch.inference_mode()
def embed_texts(clip, texts):
    model, processor = clip
    tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    return torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


def cosines(clip, scenes, words):
    """Cosine of every scene with the word list at its place."""
    texts = [TEMPLATE.format(", ".join(of_scene)) for of_scene in words]
    return (embed_images(clip, scenes.images) * embed_texts(clip, texts)).sum(dim=1).numpy()


def own_words(factors):
    return [
        [f.object, f.colour, FACTOR_WORDS["background"][f.background][0]]
        for f in factors.itertuples()
    ]


def other_words(factors, n):
    """The first `n` of object, colour and background changed to the next value."""

    def following(factor, value):
        values = list(FACTOR_WORDS[factor])
        return FACTOR_WORDS[factor][values[(values.index(value) + 1) % len(values)]][0]

    wrong = [
        [following(k, getattr(f, k)) for k in ("object", "colour", "background")]
        for f in factors.itertuples()
    ]
    right = own_words(factors)
    return [w[:n] + r[n:] for w, r in zip(wrong, right, strict=True)]


def test_it_is_a_clip_model_in_single_precision(clip):
    model, processor = clip
    assert isinstance(model, CLIPModel)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert type(processor).__name__ == "CLIPProcessor"


def test_the_folder_is_small_and_holds_no_code_and_no_pickle():
    files = list(bundled_clip_path().iterdir())
    assert {f.suffix for f in files} == {".json", ".safetensors"}
    assert sum(f.stat().st_size for f in files) <= 6 * MEGABYTE


def test_a_text_ends_in_the_token_at_which_the_model_pools(clip):
    model, processor = clip
    end = model.config.text_config.eos_token_id
    assert end != 2 and end != processor.tokenizer.pad_token_id == 0
    short, long = processor.tokenizer(["dog", "zebra " * 100], truncation=True)["input_ids"]
    assert short[-1] == long[-1] == end and short.count(end) == long.count(end) == 1
    assert len(long) == model.config.text_config.max_position_embeddings


def test_right_words_score_above_wrong_ones(clip, scenes):
    right = cosines(clip, scenes, own_words(scenes.factors))
    wrong = cosines(clip, scenes, other_words(scenes.factors, 3))
    assert (right > wrong).all()
    assert right.min() > 0.3


def test_a_score_falls_with_every_wrong_word(clip, scenes):
    means = [cosines(clip, scenes, other_words(scenes.factors, n)).mean() for n in range(4)]
    assert (np.diff(means) < -0.05).all()


@pytest.mark.parametrize("factor", ["object", "colour", "background", "companion"])
def test_it_knows_the_words_of_every_factor(clip, scenes, factor):
    values = list(FACTOR_WORDS[factor])
    texts = [TEMPLATE.format(FACTOR_WORDS[factor][value][0]) for value in values]
    best = (embed_images(clip, scenes.images) @ embed_texts(clip, texts).T).argmax(dim=1)
    named = np.array(values)[best.numpy()]
    assert np.mean(named == scenes.factors[factor].astype(str).to_numpy()) > 0.8


def test_unrelated_words_score_low(clip, scenes):
    unrelated = [["government", "policy", "because"]] * len(scenes.images)
    wrong = cosines(clip, scenes, other_words(scenes.factors, 3))
    assert cosines(clip, scenes, unrelated).mean() < wrong.mean()


def test_a_caption_finds_its_scene(clip, scenes):
    similarity = (
        embed_images(clip, scenes.images)
        @ embed_texts(clip, [captions[0] for captions in scenes.captions]).T
    )
    assert (similarity.argmax(dim=1) == torch.arange(len(scenes.images))).float().mean() > 0.9


def test_embeddings_do_not_depend_on_the_batch(clip, scenes):
    together = embed_images(clip, scenes.images[:5])
    alone = torch.cat([embed_images(clip, [image]) for image in scenes.images[:5]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    texts = ["dog", TEMPLATE.format("red, grass, two"), scenes.captions[0][0]]
    padded, single = embed_texts(clip, texts), [embed_texts(clip, [text]) for text in texts]
    torch.testing.assert_close(padded, torch.cat(single), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "path, folder", [(bundled_clip_path, "CLIP_FOLDER"), (bundled_model_path, "MODEL_FOLDER")]
)
def test_an_installation_without_data_says_what_is_missing(monkeypatch, tmp_path, path, folder):
    monkeypatch.setattr(_bundled, folder, tmp_path)
    with pytest.raises(FileNotFoundError, match="bundled .* is missing .* install the package"):
        path()
