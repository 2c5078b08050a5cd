"""CLIP through open_clip itself, with a small model of its format (`make test-vision`)."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from semi_nmf_concepts.metrics._clip import clip_concept_scores, clip_score, load_clip
from tests._tiny_llava import tiny_images

try:
    import open_clip
except Exception as error:  # a torchvision that does not fit torch raises a RuntimeError
    pytest.skip(
        f"needs open_clip, which `make test-vision` installs apart ({error})",
        allow_module_level=True,
    )

import torch

pytestmark = pytest.mark.vision

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 2,
    },
}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "interpolation": "bilinear"}
WORDS = [["dog", "snow"], [], ["cat"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local-dir of open_clip: random weights as safetensors, and its configuration."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip") / "model"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = open_clip.CLIP(**CONFIG)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def architecture(monkeypatch, tmp_path):
    """ "tiny" as a name that open_clip knows, without pretrained tags."""
    from open_clip import factory

    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "tiny.json")
    return "tiny"


@pytest.fixture(scope="module")
def images():
    return tiny_images(4)


def load(name, **options):
    return load_clip(f"open_clip:{name}", device="cpu", **options)


def raw_scores(model, preprocess, tokenizer, images, texts):
    """2.5 max(cos, 0) from open_clip's own outputs, pair by pair."""
    scores = np.zeros((len(images), len(texts)))
    with torch.inference_mode():
        for i, image in enumerate(images):
            for k, text in enumerate(texts):
                u = model.encode_image(preprocess(image)[None], normalize=True)[0]
                v = model.encode_text(tokenizer([text]), normalize=True)[0]
                scores[i, k] = 2.5 * max(float(u @ v), 0.0)
    return scores


def raw(name, pretrained=None, **options):
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained, **options)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def test_scores_are_those_of_open_clip(folder, images):
    scores = clip_concept_scores(images, WORDS, model=load(f"local-dir:{folder}"))
    texts = [f"A photo is described by the words {words}." for words in ("dog, snow", "cat")]
    expected = raw_scores(*raw(f"local-dir:{folder}"), images, texts)
    assert np.count_nonzero(expected) > 2
    np.testing.assert_allclose(scores[:, [0, 2]], expected, atol=2e-6)
    assert not scores[:, 1].any()


def test_clip_score_through_open_clip(folder, images, tmp_path):
    encoder = load(f"local-dir:{folder}", cache=tmp_path)
    activations = np.array([[3.0, 0.0, 1.0], [0.0, 0.0, 2.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    concepts = clip_concept_scores(images, WORDS, model=encoder)
    scores = clip_score(images, activations, WORDS, model=encoder)
    expected = [concepts[0, 0], concepts[1, 2], 0.0, 0.0]
    np.testing.assert_allclose(scores[1], expected, atol=1e-6)
    expected = [concepts[0, [0, 2]].mean(), concepts[1, 2], concepts[2, 0] / 2, 0.0]
    np.testing.assert_allclose(scores[3], expected, atol=1e-6)
    assert len(list(tmp_path.rglob("*.npy"))) == 6


def test_preprocessing_of_the_folder_is_used(folder, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    os.link(folder / "open_clip_model.safetensors", other / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": {**PREPROCESS, "mean": [0.1, 0.1, 0.1]}}
    (other / "open_clip_config.json").write_text(json.dumps(config))
    here, there = (load(f"local-dir:{place}") for place in (folder, other))
    assert not np.allclose(here.encode_images(images), there.encode_images(images), atol=1e-3)
    np.testing.assert_array_equal(here.encode_texts(["dog"]), there.encode_texts(["dog"]))
    assert here.fingerprint != there.fingerprint


def test_file_as_pretrained(folder, architecture, images):
    checkpoint = folder / "open_clip_model.safetensors"
    encoder = load(f"{architecture}/{checkpoint}")
    assert "//" in encoder.model
    expected = raw_scores(*raw(architecture, str(checkpoint)), images, ["a dog", "a cat"])
    scores = clip_concept_scores(images, [["dog"], ["cat"]], model=encoder, template="a {words}")
    np.testing.assert_allclose(scores, expected, atol=2e-6)


def test_tag_trained_with_quickgelu_gets_it(folder, architecture, images, monkeypatch):
    """open_clip alone warns that the activation is another one, and goes on."""
    from open_clip import pretrained

    tag = {
        "file": str(folder / "open_clip_model.safetensors"),
        "quick_gelu": True,
        "mean": [0.2, 0.2, 0.2],
    }
    monkeypatch.setitem(pretrained._PRETRAINED, architecture, {"openai": tag})
    encoder = load(f"{architecture}/openai")
    scores = clip_concept_scores(images, [["dog"], ["cat"]], model=encoder, template="a {words}")
    reference = raw(architecture, "openai", force_quick_gelu=True)
    np.testing.assert_allclose(
        scores, raw_scores(*reference, images, ["a dog", "a cat"]), atol=2e-6
    )
    plain = load(f"{architecture}/{tag['file']}")
    assert not np.allclose(encoder.encode_texts(["dog"]), plain.encode_texts(["dog"]), atol=1e-4)
    assert encoder.fingerprint != plain.fingerprint


def test_long_texts_are_cut_off(folder):
    rows = load(f"local-dir:{folder}").encode_texts(["red " * 18, "red " * 400])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)  # 20 positions less start and end


def test_loading_is_quiet(folder, capfd):
    handlers = list(logging.getLogger().handlers)
    load(f"local-dir:{folder}/").encode_texts(["dog"])  # under another name, so loaded anew
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert logging.root.manager.disable == 0


# What cannot be loaded


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("ViT-B-3/openai", ValueError, r"no architecture 'ViT-B-3'; close ones are \['ViT-B-32'"),
        ("ViT-B-32/opnai", ValueError, "neither a file nor a tag of 'ViT-B-32'.*'openai'"),
        ("ViT-B-32//no/such.safetensors", ValueError, "neither a file nor a tag"),
        ("ViT-B-32/openai", OSError, "ViT-B-32/openai.* hub cannot be reached"),
        ("hf-hub:no-such/model", OSError, "no-such/model.* hub cannot be reached"),
        ("local-dir:/no/such/folder", ValueError, "no folder with an open_clip_config.json"),
    ],
)
def test_unknown_models(name, error, message):
    with pytest.raises(error, match=message):
        load(name).fingerprint  # noqa: B018


def test_nothing_is_unpickled(folder, architecture, tmp_path):
    """Neither a file that is named nor what lies in a folder, whatever its name promises."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    for name in ("open_clip_pytorch_model.bin", "weights.pt", "weights.safetensors"):
        torch.save({"state_dict": Bomb()}, tmp_path / name)
        for model in (f"{architecture}/{tmp_path / name}", f"local-dir:{tmp_path}"):
            with pytest.raises(ValueError, match="open_clip:"):
                load(model).fingerprint  # noqa: B018
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_beside_safetensors_are_left_alone(folder, images, tmp_path):
    """open_clip by itself would take this .bin."""
    os.link(folder / "open_clip_model.safetensors", tmp_path / "model.safetensors")
    os.link(folder / "open_clip_config.json", tmp_path / "open_clip_config.json")
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"not weights")
    np.testing.assert_array_equal(
        load(f"local-dir:{tmp_path}").encode_images(images),
        load(f"local-dir:{folder}").encode_images(images),
    )


def test_weights_of_another_architecture(folder, tmp_path):
    os.link(folder / "open_clip_model.safetensors", tmp_path / "model.safetensors")
    config = {"model_cfg": {**CONFIG, "embed_dim": 8}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be loaded: .*size mismatch"):
        load(f"local-dir:{tmp_path}").fingerprint  # noqa: B018


@pytest.mark.skipif(torch.version.cuda is not None, reason="torchvision fits this torch")
def test_torchvision_that_does_not_fit_torch(folder):
    """Without the operators that the plugin declares, as a user with such a pair meets it."""
    program = (
        "from semi_nmf_concepts.metrics._clip import load_clip\n"
        "for _ in range(2):\n"
        "    try:\n"
        f"        load_clip('open_clip:local-dir:{folder}').fingerprint\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.count("installed torchvision does not match") == 2, done
