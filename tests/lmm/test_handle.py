import copy
import hashlib
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from semi_nmf_concepts._models import torch_device
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, ModelHandle, load_model
from semi_nmf_concepts.lmm import _handle as handles
from semi_nmf_concepts.lmm._fingerprint import folder_fingerprint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


def test_fingerprint_sees_every_byte(tmp_path):
    path = tmp_path / "model.safetensors"
    content = bytearray(np.random.default_rng(0).bytes(5_000_000))
    seen = []
    for change in (None, 1, 2_345_678, 4_999_999):
        if change is not None:
            content[change] ^= 1
        path.write_bytes(content)
        seen.append(folder_fingerprint(tmp_path))
    assert len(set(seen)) == 4
    assert folder_fingerprint(tmp_path) == seen[-1]


def test_fingerprint_reads_settled_files_once(copied_model, monkeypatch):
    for path in copied_model.iterdir():
        os.utime(path, (1e9, 1e9))
    first = folder_fingerprint(copied_model)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *args: pytest.fail("read again"))
        assert folder_fingerprint(copied_model) == first
    (copied_model / "chat_template.jinja").write_text("{{ 'other' }}")
    assert folder_fingerprint(copied_model) != first


def test_fingerprint_ignores_what_plays_no_part(tiny_model, copied_model):
    for name in ("README.md", "LICENSE.txt", "pytorch_model.bin", "consolidated.safetensors"):
        (copied_model / name).write_bytes(b"x")
    assert folder_fingerprint(copied_model) == folder_fingerprint(tiny_model)


def test_fingerprint_of_shards(tmp_path):
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    seen = set()
    for name in ("one.safetensors", "two.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
        seen.add(folder_fingerprint(tmp_path))
    assert len(seen) == 2


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
    with pytest.raises(ValueError, match="holds no weights. It needs model.safetensors"):
        _ = load_model(copied_model, dtype="float32").loaded


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", slice(-100), "is damaged or cut short .*Copy or download"),
        ("model.safetensors", b"x" * 1000, "is damaged or cut short"),
        ("model.safetensors", b"", "is damaged or cut short .*0 bytes"),
        ("model.safetensors", LFS_POINTER, "is a Git LFS pointer.*git lfs pull"),
        ("tokenizer.json", slice(-100), "is damaged or cut short"),
        ("tokenizer.json", b"{}", "is damaged or cut short"),
        ("tokenizer.json", b"\xff\x00", "is damaged or cut short"),
        ("tokenizer.json", LFS_POINTER, "is a Git LFS pointer"),
        ("tokenizer.json", None, "holds no tokenizer .tokenizer.json.*save_pretrained"),
        ("processor_config.json", slice(-20), "is damaged or cut short"),
        ("processor_config.json", LFS_POINTER, "is a Git LFS pointer"),
        ("processor_config.json", b"{}", "no image processor .in processor_config.json"),
        ("processor_config.json", None, "no image processor .in processor_config.json"),
    ],
)
def test_broken_files_are_named(copied_model, name, content, message):
    path = copied_model / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[content] if isinstance(content, slice) else content)
    with pytest.raises(ValueError, match=message) as caught:
        _ = load_model(copied_model).loaded
    text = str(caught.value)
    assert text.startswith(f"model={str(copied_model)!r} cannot be loaded")
    assert name in text
    assert "\n" not in text
    assert "http" not in text


def test_a_missing_shard_is_named(copied_model):
    (copied_model / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (copied_model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model-00001-of-00001.safetensors is missing, though"):
        _ = load_model(copied_model).loaded


def test_weights_of_another_shape_are_explained(copied_model):
    config = json.loads((copied_model / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (copied_model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="shapes are not those that its config.json describes"):
        _ = load_model(copied_model).loaded


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


@pytest.fixture
def downloaded_model(tiny_model, tmp_path, monkeypatch):
    """The tiny model as the hub id "org/tiny" in a cache folder; returns its snapshot."""
    import huggingface_hub.constants

    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(tiny_model, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    load_model("org/tiny").unload()
    yield snapshot
    load_model("org/tiny").unload()


def test_a_downloaded_model_is_found_offline(downloaded_model, tiny_model):
    handle = load_model("org/tiny")
    assert handle.width == 32
    assert handle.loaded.name == "org/tiny"
    assert handle.commit == COMMIT
    assert load_model(tiny_model).commit is None


def test_a_hub_id_and_its_folder_are_the_same_model(downloaded_model, tiny_model, images, tmp_path):
    assert load_model("org/tiny").fingerprint == load_model(tiny_model).fingerprint
    settings = {"position": "last", "prompt": "", "cache": tmp_path / "records"}
    reps = LMMTokenFeaturizer("org/tiny", **settings).extract(images[:2])
    assert (reps.provenance["model"], reps.provenance["commit"]) == ("org/tiny", COMMIT)
    n_files = len(list((tmp_path / "records").rglob("*.npz")))
    LMMTokenFeaturizer(tiny_model, **settings).transform(images[:2])
    assert len(list((tmp_path / "records").rglob("*.npz"))) == n_files == 2


def test_a_broken_download_is_named(downloaded_model):
    weights = downloaded_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="hf download org/tiny model.safetensors --force-download"):
        _ = load_model("org/tiny").loaded
    weights.unlink()
    with pytest.raises(ValueError, match="holds no weights. Complete the download .*org/tiny"):
        _ = load_model("org/tiny").loaded


def test_revisions_belong_to_hub_ids(tiny_model):
    assert load_model("org/tiny", revision="main").revision == "main"
    for model in ("bundled", tiny_model, load_model(tiny_model), "./nowhere"):
        with pytest.raises(ValueError, match="revision='main' belongs to ids"):
            load_model(model, revision="main")
    raises_everywhere(ModelHandle(tiny_model, revision="main"), ValueError, "leave revision out")


def test_wrong_arguments():
    for model in (None, 3, ""):
        with pytest.raises(TypeError, match="model must be"):
            load_model(model)
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_model("x", dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            torch_device("cuda")


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute 'from_pretrained'"),
        RuntimeError("operator torchvision::nms does not exist"),
        ImportError("this needs torchvision"),
        ImportError("PixtralProcessor requires the Torchvision library but it was not found"),
        ValueError("Could not load any image processor class. torchvision: Lfm2VlImageProcessor"),
    ],
)
def test_missing_torchvision_is_explained(copied_model, monkeypatch, error):
    from transformers import AutoProcessor

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fail)
    handle = load_model(copied_model)
    with pytest.raises(ImportError, match="torchvision, in the build that matches"):
        _ = handle.loaded


def test_transformers_settings_are_left_as_they_were(tiny_model):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    handle = load_model(tiny_model)
    handle.unload()
    _ = handle.loaded
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
