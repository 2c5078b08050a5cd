"""The published experiments: what they say, and how they find their data."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from semi_nmf_concepts.decomposition import SemiNMFConcepts
from semi_nmf_concepts.evaluation import PRESETS, Preset
from tests._karpathy_data import write_coco, write_flickr30k


def names(entries, *splits):
    return [entry["filename"] for entry in entries if entry["split"] in splits]


def listed(data):
    return [path.name for path in data.images]


def test_the_presets_are_those_of_the_paper():
    assert {name: (p.model, p.dataset) for name, p in PRESETS.items()} == {
        "depalm-coco": (None, "coco"),
        "llava-coco": ("llava-hf/llava-1.5-7b-hf", "coco"),
        "llava-flickr30k": ("llava-hf/llava-1.5-7b-hf", "flickr30k"),
    }
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.tokens == ("dog", "bus", "train", "cat")
        assert set(preset.methods) == {"semi-nmf", "kmeans", "pca", "simple"}
        assert (preset.layer, preset.n_components) == (31, 20)
        assert (preset.train_split, preset.test_split, preset.restval) == ("train", "test", False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.layer = 3


def test_the_setting_is_the_published_objective():
    params = SemiNMFConcepts(**PRESETS["llava-coco"].setting).get_params()
    assert params["alpha"] == 1 and params["n_active"] is None
    assert params["center"] is False and params["whiten"] is None


def test_coco_as_it_is_downloaded(tmp_path):
    entries = write_coco(tmp_path)
    train, test = PRESETS["llava-coco"].load(str(tmp_path))
    assert listed(train) == names(entries, "train") and listed(test) == names(entries, "test")
    assert all(path.is_file() for path in (*train.images, *test.images))
    assert len(train.captions) == 6 and len(test.captions[0]) == 5
    more, _ = dataclasses.replace(PRESETS["llava-coco"], restval=True).load(tmp_path)
    assert listed(more) == names(entries, "train", "restval")
    other, _ = dataclasses.replace(PRESETS["llava-coco"], train_split="val").load(tmp_path)
    assert listed(other) == names(entries, "val")


def test_images_that_can_not_be_kept_are_left_out(tmp_path):
    entries = write_coco(tmp_path, n_train=4)
    for entry in entries[1:]:  # whole words in any reference, and no others
        entry["sentences"][0]["raw"] = "A doghouse."
        for sentence in entry["sentences"][1:]:
            sentence["raw"] = "Somebody's cathedral."
    entries[-1]["sentences"][-1]["raw"] = "Two cats!"
    content = {"images": entries, "dataset": "coco"}
    (tmp_path / "dataset_coco.json").write_text(json.dumps(content), encoding="utf-8")
    train, test = PRESETS["llava-coco"].load(tmp_path)
    expected = {entries[0]["filename"], entries[-1]["filename"]}
    assert set(listed(train)) | set(listed(test)) == expected & {
        *names(entries, "train"),
        *names(entries, "test"),
    }
    only_dogs = dataclasses.replace(PRESETS["llava-coco"], tokens=("dog",))
    assert entries[-1]["filename"] not in {
        n for part in only_dogs.load(tmp_path) for n in listed(part)
    }


def test_flickr30k_as_it_is_downloaded(tmp_path):
    entries = write_flickr30k(tmp_path)
    train, test = PRESETS["llava-flickr30k"].load(tmp_path)
    assert listed(train) == names(entries, "train") and listed(test) == names(entries, "test")
    assert test.images[0].parent == tmp_path / "flickr30k-images"


def move(folder, what, where):
    (folder / where).mkdir(parents=True, exist_ok=True)
    for path in what:
        shutil.move(path, folder / where)


@pytest.mark.parametrize("where", ["images", "."])
@pytest.mark.parametrize("together", [False, True])
def test_other_places_of_the_images_of_coco(tmp_path, where, together):
    entries = write_coco(tmp_path)
    folders = [tmp_path / "train2014", tmp_path / "val2014"]
    if together:
        move(tmp_path, [path for folder in folders for path in folder.iterdir()], where)
    elif where != ".":
        move(tmp_path, folders, where)
    move(tmp_path, [tmp_path / "dataset_coco.json"], "annotations")
    train, test = PRESETS["depalm-coco"].load(tmp_path)
    assert listed(train) == names(entries, "train") and listed(test) == names(entries, "test")
    assert all(path.is_file() for path in (*train.images, *test.images))


@pytest.mark.parametrize("where", ["flickr30k_images", "images", "."])
def test_other_places_of_the_images_of_flickr30k(tmp_path, where):
    write_flickr30k(tmp_path, images=where)
    _, test = PRESETS["llava-flickr30k"].load(tmp_path)
    assert test.images[0].parent == tmp_path / where


def test_the_number_of_images_can_be_limited(tmp_path):
    entries = write_coco(tmp_path, n_train=12)

    def load(**limits):
        return dataclasses.replace(PRESETS["llava-coco"], **limits).load(tmp_path)

    train, test = load(n_train=5, n_test=2)
    assert (len(train.images), len(train.captions), len(test.images)) == (5, 5, 2)
    assert listed(train) == listed(load(n_train=5)[0])
    order = names(entries, "train")
    assert listed(train) == sorted(listed(train), key=order.index) != order[:5]
    assert set(listed(train)) < set(listed(load(n_train=8)[0]))
    everything, _ = load(n_train=99)
    assert listed(everything) == order
    of = dict(zip(listed(everything), everything.captions, strict=True))
    assert train.captions == [of[name] for name in listed(train)]
    with pytest.raises(ValueError, match="n_test must be at least 1 or None, got 0"):
        load(n_test=0)


def test_what_is_not_there_is_said_with_all_places_looked_at(tmp_path):
    preset = PRESETS["llava-coco"]
    with pytest.raises(NotADirectoryError, match="data must be the folder of coco, .* not there"):
        preset.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as error:
        preset.load(tmp_path)
    for place in ("dataset_coco.json", "annotations", "train2014", "images"):
        assert str(Path(tmp_path, place)) in str(error.value)
    write_coco(tmp_path)
    shutil.rmtree(tmp_path / "val2014")
    with pytest.raises(
        FileNotFoundError, match="images: 4 of the 4 images of split 'test' .*val2014"
    ):
        preset.load(tmp_path)
    (tmp_path / "dataset_coco.json").unlink()
    with pytest.raises(FileNotFoundError) as error:
        preset.load(tmp_path)
    assert "dataset_coco.json" in str(error.value) and "train2014" not in str(error.value)


def test_a_preset_of_ones_own(tmp_path):
    write_flickr30k(tmp_path)
    mine = Preset("mine", model="some/model", dataset="flickr30k", tokens=("dog",), n_train=3)
    train, test = mine.load(tmp_path)
    assert len(train.images) == 3 and len(test.images) == 4
