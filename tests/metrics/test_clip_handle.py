"""CLIP models: loaded when needed, embeddings remembered, and clear errors when there is none."""

import copy
import json
import pickle
import shutil
import sys

import numpy as np
import pytest

from semi_nmf_concepts._models import torch_device
from semi_nmf_concepts.metrics import _clip_handle, _clip_models
from semi_nmf_concepts.metrics._clip import clip_concept_scores, load_clip
from tests._tiny_clip import build_tiny_clip
from tests._tiny_llava import build_tiny_llava, tiny_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def images():
    return tiny_images(5)


@pytest.fixture
def runs(monkeypatch):
    """Sizes of the batches that reach a model."""
    seen = {"images": [], "texts": []}

    def spy(kind, original):
        def run(self, batch):
            seen[kind].append(len(batch))
            return original(self, batch)

        return run

    for kind in seen:
        name = f"encode_{kind}"
        run = spy(kind, getattr(_clip_models._Clip, name))
        monkeypatch.setattr(_clip_models._Clip, name, run)
    return seen


def test_embeddings_are_unit_rows(folder, images):
    encoder = load_clip(folder)
    for rows, n in ((encoder.encode_images(images), 5), (encoder.encode_texts(["dog"]), 1)):
        assert rows.shape == (n, 12)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 12)


def test_batch_size_does_not_matter(folder, images, runs):
    texts = ["dog", "a photo of the cat", "red " * 40]
    by_size = {
        size: (
            load_clip(folder, device="cpu").encode_images(images, batch_size=size),
            load_clip(folder, device="cpu").encode_texts(texts, batch_size=size),
        )
        for size in (1, 2, 64)
    }
    assert runs["images"] == [1, 1, 1, 1, 1, 2, 2, 1, 5]
    assert runs["texts"] == [1, 1, 1, 2, 1, 3]
    for rows in by_size.values():
        np.testing.assert_allclose(rows[0], by_size[64][0], atol=1e-6)
        np.testing.assert_allclose(rows[1], by_size[64][1], atol=1e-6)


def test_one_batch_of_images_is_asked_for_at_a_time(folder, images, runs):
    class Lazy:
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            assert i < 2 * (len(runs["images"]) + 1)
            return images[i]

    load_clip(folder).encode_images(Lazy(), batch_size=2)
    assert runs["images"] == [2, 2, 1]


def test_long_texts_are_cut_off(folder):
    rows = load_clip(folder).encode_texts(["red " * 15, "red " * 200, "red " * 14])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)  # 16 positions: 15 words and the end
    assert not np.allclose(rows[0], rows[2], atol=1e-3)


def test_texts_are_encoded_once(folder, images, runs, monkeypatch):
    encoder = load_clip(folder)
    encoder.encode_texts(["dog", "cat", "dog"])
    encoder.encode_texts(["cat", "dog", "bus"])
    assert runs["texts"] == [2, 1]
    clip_concept_scores(images, [["dog"]], model=encoder, template="{words}")
    assert runs["texts"] == [2, 1]
    monkeypatch.setattr(_clip_handle, "_REMEMBERED", 2)
    before = encoder.encode_texts(["dog", "cat", "bus", "red"])  # more than are remembered
    assert len(encoder._texts) == 2
    np.testing.assert_allclose(
        encoder.encode_texts(["dog", "cat", "bus", "red"]), before, atol=1e-6
    )


def test_weights_are_shared_in_the_process(folder, monkeypatch):
    loads = []
    original = _clip_models._TransformersClip.__init__
    monkeypatch.setattr(_clip_models, "_shared", {})
    monkeypatch.setattr(
        _clip_models._TransformersClip,
        "__init__",
        lambda self, *args: (loads.append(args), original(self, *args))[1],
    )
    first = load_clip(folder)
    assert not loads
    first.encode_texts(["dog"])
    load_clip(str(folder), device=torch_device("auto")).encode_texts(["cat"])
    assert len(loads) == 1


def test_handles_are_light(folder, tmp_path):
    encoder = load_clip(folder, cache=tmp_path)
    encoder.encode_texts(["dog"])
    for twin in (pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        assert twin == encoder
        assert hash(twin) == hash(encoder)
        assert not twin._texts
    assert len(pickle.dumps(encoder)) < 1000
    assert load_clip(encoder) is encoder
    assert load_clip(encoder, cache=tmp_path / "other").cache == str(tmp_path / "other")
    assert load_clip(encoder, device="cpu").device == "cpu"


# Identity


def test_fingerprint_is_that_of_the_content(folder, copied):
    expected = load_clip(folder).fingerprint
    encoder = load_clip(copied)
    encoder.encode_texts(["dog " * 30, "cat"])  # which the tokenizer remembers in its state
    assert encoder.fingerprint == expected


@pytest.mark.parametrize("what", ["weights", "activation", "preprocessing", "tokenizer"])
def test_fingerprint_changes_with(what, folder, copied, tmp_path):
    if what == "weights":
        copied = build_tiny_clip(tmp_path / "other", seed=1)
    elif what == "activation":
        edit(copied / "config.json", lambda c: c["text_config"].update(hidden_act="gelu"))
    elif what == "preprocessing":
        edit(copied / "preprocessor_config.json", lambda c: c.update(image_mean=[0.5, 0.5, 0.5]))
    else:
        edit(copied / "tokenizer.json", lambda c: c.update(normalizer=None))
    assert load_clip(copied).fingerprint != load_clip(folder).fingerprint


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# The cache


def test_second_run_does_not_run_the_model(folder, images, tmp_path, runs):
    first = load_clip(folder, cache=tmp_path)
    rows, texts = first.encode_images(images), first.encode_texts(["dog", "cat"])
    counts = copy.deepcopy(runs)
    again = load_clip(folder, cache=tmp_path)
    np.testing.assert_array_equal(again.encode_images(images[::-1]), rows[::-1])
    np.testing.assert_array_equal(again.encode_texts(["cat", "dog"]), texts[::-1])
    assert runs == counts
    again.encode_images([*images, *tiny_images(1, seed=9)])
    assert runs["images"] == [*counts["images"], 1]


def test_known_files_are_not_decoded(folder, images, tmp_path, runs, monkeypatch):
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for image, path in zip(images, paths, strict=False):
        image.save(path)
    rows = load_clip(folder, cache=tmp_path / "cache").encode_images(paths)

    def fail(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr("semi_nmf_concepts.lmm.to_rgb", fail)
    moved = [path.rename(path.with_name(f"moved-{path.name}")) for path in paths]
    again = load_clip(folder, cache=tmp_path / "cache").encode_images([str(p) for p in moved])
    np.testing.assert_array_equal(again, rows)
    assert runs["images"] == [2]


def test_changed_file_is_another_image(folder, images, tmp_path):
    path = tmp_path / "image.png"
    encoder = load_clip(folder, cache=tmp_path / "cache")
    images[0].save(path)
    first = encoder.encode_images([path])
    images[1].save(path)
    assert not np.allclose(encoder.encode_images([path]), first, atol=1e-3)


@pytest.mark.parametrize("damage", ["truncated", "empty", "zeros", "pickle", "longer", "folder"])
def test_damaged_entries_are_written_again(folder, images, tmp_path, runs, damage):
    encoder = load_clip(folder, cache=tmp_path)
    rows = encoder.encode_images(images[:1])
    (entry,) = tmp_path.rglob("*.npy")
    if damage == "truncated":
        entry.write_bytes(entry.read_bytes()[:-4])
    elif damage == "empty":
        entry.write_bytes(b"")
    elif damage == "zeros":
        np.save(entry, np.zeros(12, np.float32))
    elif damage == "pickle":
        np.save(entry, np.array([{"not": "read"}], dtype=object), allow_pickle=True)
    elif damage == "longer":
        np.save(entry, np.eye(1, 13, dtype=np.float32)[0])
    else:
        entry.unlink()
    np.testing.assert_array_equal(encoder.encode_images(images[:1]), rows)
    encoder.encode_images(images[:1])
    assert runs["images"] == [1, 1]


def test_other_model_does_not_hit(folder, images, tmp_path, runs):
    other = build_tiny_clip(tmp_path / "other", seed=1)
    rows = [
        load_clip(model, cache=tmp_path / "cache").encode_images(images)
        for model in (folder, other)
    ]
    assert runs["images"] == [5, 5]
    assert not np.allclose(*rows, atol=1e-3)


def test_cache_that_is_no_folder(folder, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache=.*file.* is not a folder that can be used"):
        load_clip(folder, cache=tmp_path / "file").encode_images(images)


# Models that cannot be had


def test_unknown_id_without_network():
    with pytest.raises(OSError, match="openai/clip-vit-base-patch32.* cannot be reached"):
        load_clip().encode_texts(["dog"])


def test_folders_that_are_no_clip_model(tmp_path, copied):
    with pytest.raises(ValueError, match="there is no such folder"):
        load_clip(tmp_path / "nothing").fingerprint  # noqa: B018
    with pytest.raises(ValueError, match="is of type 'llava'; CLIP scores need"):
        load_clip(build_tiny_llava(tmp_path / "llava")).fingerprint  # noqa: B018
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="copied.* cannot be loaded"):
        load_clip(copied).fingerprint  # noqa: B018


def test_incomplete_weights(copied):
    from safetensors.numpy import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        load_clip(copied).fingerprint  # noqa: B018


def test_missing_open_clip(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r'pip install "semi_nmf_concepts\[clip\]"'):
        load_clip("open_clip:ViT-B-32/openai").fingerprint  # noqa: B018


def test_torchvision_that_does_not_fit_torch(monkeypatch, tmp_path):
    (tmp_path / "open_clip.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    with pytest.raises(ImportError, match="installed torchvision does not match"):
        load_clip("open_clip:ViT-B-32/openai").fingerprint  # noqa: B018


@pytest.mark.parametrize("name", ["open_clip:", "open_clip:ViT-B-32", "open_clip:/x.safetensors"])
def test_open_clip_names(name):
    with pytest.raises(ValueError, match="must be 'open_clip:NAME/PRETRAINED'"):
        load_clip(name).fingerprint  # noqa: B018


def test_wrong_arguments(folder):
    for model in (None, 3, ""):
        with pytest.raises(TypeError, match="model must be a hub id"):
            load_clip(model)
    with pytest.raises(ValueError, match="device='nonsense' is no device of torch"):
        load_clip(folder, device="nonsense").fingerprint  # noqa: B018
    for texts in ("dog", [3], [None]):
        with pytest.raises(TypeError, match="texts must be a list of strings"):
            load_clip(folder).encode_texts(texts)
