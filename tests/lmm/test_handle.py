import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from semi_nmf_concepts.lmm import LMMTokenFeaturizer, ModelHandle, load_model
from semi_nmf_concepts.lmm import _handle as handles


@pytest.fixture
def copied_model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_handles_are_values(tiny_model):
    handle = load_model(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    assert handle == load_model(tiny_model, dtype="float32", device="cpu")
    assert handle != load_model(tiny_model)
    assert {handle: 1}[pickle.loads(pickle.dumps(handle))] == 1
    assert copy.deepcopy(handle) == handle
    assert load_model(handle) == handle
    assert load_model(handle, dtype="float64").dtype == "float64"
    assert load_model(handle, dtype="float64").device == "cpu"
    assert eval(repr(handle), {"ModelHandle": ModelHandle}) == handle
    assert load_model().model == "bundled"


def test_weights_are_read_once_when_needed(copied_model):
    handle = load_model(copied_model)
    assert (handle.n_layers, handle.width) == (4, 32)
    assert handle.default_prompt
    assert handle.fingerprint
    assert not handle.is_loaded
    loaded = handle.loaded
    assert load_model(str(copied_model)).loaded is loaded
    assert handles.load_count(handle) == 1
    assert loaded.dtype == torch.float32
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.image_token_id) == "<image>"
    with pytest.raises(TypeError, match="pickle its ModelHandle"):
        pickle.dumps(loaded)
    handle.unload()
    assert not handle.is_loaded
    assert handle.loaded is not loaded
    assert handles.load_count(handle) == 2


def test_unembedding_and_final_norm(tiny_model):
    handle = load_model(tiny_model)
    weight, bias = handle.unembedding()
    model = handle.loaded.model
    assert bias is None
    assert weight.dtype == np.float32
    assert weight.shape == (model.config.text_config.vocab_size, 32)
    states = np.random.default_rng(0).normal(size=(5, 32))
    normed = handle.final_norm()(states)
    assert normed.dtype == np.float32
    np.testing.assert_allclose(
        normed, states / np.sqrt((states**2).mean(axis=1, keepdims=True)), rtol=1e-4
    )


def test_fingerprint_is_of_the_content(tiny_model, copied_model, tmp_path):
    assert load_model(copied_model).fingerprint == load_model(tiny_model).fingerprint
    assert load_model(tiny_model, dtype="float64").fingerprint == load_model(tiny_model).fingerprint
    other = shutil.copytree(copied_model, tmp_path / "other")
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert load_model(other).fingerprint != load_model(tiny_model).fingerprint


def test_fingerprint_of_large_files_is_sampled(tmp_path, monkeypatch):
    from semi_nmf_concepts.lmm import _fingerprint

    monkeypatch.setattr(_fingerprint, "_WHOLE_FILE", 1000)
    monkeypatch.setattr(_fingerprint, "_SAMPLE", 10)
    content = bytearray(np.random.default_rng(0).bytes(5000))
    path = tmp_path / "model.safetensors"
    seen = set()
    for change in (None, 0, 4999):
        if change is not None:
            content[change] ^= 1
        path.write_bytes(content)
        seen.add(_fingerprint.folder_fingerprint(tmp_path))
    assert len(seen) == 3


def raises_everywhere(model, error, message):
    for get in (lambda h: h.config, lambda h: h.loaded, lambda h: h.fingerprint):
        with pytest.raises(error, match=message):
            get(load_model(model))


def test_folders_that_are_no_models(tmp_path, tiny_model, copied_model):
    raises_everywhere(tmp_path / "nowhere", ValueError, "no such folder")
    raises_everywhere("./nowhere", ValueError, "no such folder")
    (tmp_path / "empty").mkdir()
    raises_everywhere(tmp_path / "empty", ValueError, "without a config.json.*nothing")
    (tmp_path / "empty" / "photo.jpg").touch()
    raises_everywhere(tmp_path / "empty", ValueError, "it holds.*photo.jpg")
    config = copied_model / "config.json"
    good = config.read_text()
    for text in ("{", "{}", json.dumps({"model_type": "nonsense"})):
        config.write_text(text)
        with pytest.raises(ValueError, match="its config.json is not one"):
            _ = load_model(copied_model).loaded
    config.write_text(good)
    (copied_model / "model.safetensors").unlink()
    with pytest.raises((ValueError, OSError), match="safetensors"):
        _ = load_model(copied_model, dtype="float32").loaded


def test_incomplete_checkpoints_are_refused(copied_model):
    from safetensors.torch import load_file, save_file

    path = copied_model / "model.safetensors"
    weights = load_file(path)
    dropped = next(name for name in weights if "layers.2.mlp" in name)
    del weights[dropped]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        _ = load_model(copied_model).loaded


def test_text_only_models_are_refused(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'llama', which takes no images"):
        _ = load_model(tmp_path).loaded


def test_hub_ids_without_a_hub():
    """The test run is offline (HF_HUB_OFFLINE)."""
    raises_everywhere("some-org/some-model", OSError, "cannot be reached.*Download it first")
    with pytest.raises(OSError, match="hf download some-org/some-model"):
        LMMTokenFeaturizer("some-org/some-model", token="dog").transform([np.zeros((2, 2))])


def test_a_downloaded_model_is_found_offline(tiny_model, tmp_path, monkeypatch):
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    handle = load_model("org/tiny")
    assert handle.fingerprint == f"hub:org/tiny@{commit}"
    assert handle.width == 32
    assert handle.loaded.name == "org/tiny"


def test_wrong_arguments():
    for model in (None, 3, ""):
        with pytest.raises(TypeError, match="model must be"):
            load_model(model)
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_model("x", dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            handles._device(load_model("x", device="cuda"))


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute 'from_pretrained'"),
        RuntimeError("operator torchvision::nms does not exist"),
        ImportError("this needs torchvision"),
    ],
)
def test_missing_torchvision_is_explained(tiny_model, monkeypatch, error):
    from transformers import AutoProcessor

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fail)
    handle = load_model(tiny_model, revision="not loaded yet")
    with pytest.raises(ImportError, match="torchvision, in the build that matches"):
        _ = handle.loaded


def test_transformers_settings_are_left_as_they_were(tiny_model):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    handle = load_model(tiny_model)
    handle.unload()
    _ = handle.loaded
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
