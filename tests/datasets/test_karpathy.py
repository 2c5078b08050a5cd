"""The reader of Karpathy splits: which images, in which order, with which captions."""

import json
import shutil

import pytest

from semi_nmf_concepts.datasets import load_karpathy
from tests._karpathy_data import write_coco, write_flickr30k


@pytest.fixture
def coco(tmp_path):
    return tmp_path, write_coco(tmp_path)


def expected(entries, *splits):
    return [entry for entry in entries if entry["split"] in splits]


@pytest.mark.parametrize("split", ["train", "val", "test", "restval"])
def test_a_split_of_coco_has_its_images_and_captions_in_the_order_of_the_file(coco, split):
    folder, entries = coco
    data = load_karpathy(folder / "dataset_coco.json", folder, split)
    chosen = expected(entries, split)
    assert data.images == [folder / e["filepath"] / e["filename"] for e in chosen]
    assert data.captions == [[s["raw"].strip() for s in e["sentences"]] for e in chosen]
    assert all(path.is_file() for path in data.images) and len(data.captions[0]) == 5


def test_restval_joins_the_training_images(coco):
    folder, entries = coco
    data = load_karpathy(folder / "dataset_coco.json", str(folder), restval=True)
    assert [path.name for path in data.images] == [
        e["filename"] for e in expected(entries, "train", "restval")
    ]
    assert {path.parent.name for path in data.images} == {"train2014", "val2014"}


def test_the_images_of_coco_may_lie_in_one_folder(coco):
    folder, entries = coco
    together = folder / "all"
    together.mkdir()
    for below in ("train2014", "val2014"):
        for path in (folder / below).iterdir():
            shutil.copy(path, together)
    data = load_karpathy(folder / "dataset_coco.json", together, "test")
    assert data.images == [together / e["filename"] for e in expected(entries, "test")]


def test_flickr30k_names_no_folders(tmp_path):
    entries = write_flickr30k(tmp_path)
    images = tmp_path / "flickr30k-images"
    data = load_karpathy(tmp_path / "dataset_flickr30k.json", images, "train")
    assert data.images == [images / e["filename"] for e in expected(entries, "train")]
    with pytest.raises(ValueError, match=r"no image of split 'restval'; it has 'train' \(6\), "):
        load_karpathy(tmp_path / "dataset_flickr30k.json", images, restval=True)


def test_blank_captions_are_left_out(coco):
    folder, entries = coco
    for entry in entries:
        entry["sentences"][1]["raw"] = " \n"
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    data = load_karpathy(folder / "dataset_coco.json", folder)
    assert {len(captions) for captions in data.captions} == {4}
    assert all(caption.strip() for captions in data.captions for caption in captions)


def test_missing_images_are_counted_and_some_are_named(coco):
    folder, entries = coco
    gone = expected(entries, "test")
    for entry in gone[:2]:
        (folder / "val2014" / entry["filename"]).unlink()
    message = f"images: 2 of the 4 images of split 'test' .*val2014/{gone[0]['filename']}"
    with pytest.raises(FileNotFoundError, match=message):
        load_karpathy(folder / "dataset_coco.json", folder, "test")
    assert len(load_karpathy(folder / "dataset_coco.json", folder).images) == 6
    shutil.rmtree(folder / "train2014")
    with pytest.raises(FileNotFoundError, match="images: 6 of the 6 images"):
        load_karpathy(folder / "dataset_coco.json", folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "training"}, "split must be one of .*got 'training'"),
        ({"split": None}, "split must be one of"),
        ({"split": "test", "restval": True}, "restval=True adds images to split='train'"),
    ],
)
def test_splits_that_are_none(coco, options, message):
    folder, _ = coco
    with pytest.raises(ValueError, match=message):
        load_karpathy(folder / "dataset_coco.json", folder, **options)


def test_an_empty_split_lists_those_that_are_there(tmp_path):
    write_coco(tmp_path, n_test=0)
    with pytest.raises(ValueError, match=r"no image of split 'test'; it has .*'train' \(6\)"):
        load_karpathy(tmp_path / "dataset_coco.json", tmp_path, "test")
    (tmp_path / "dataset_coco.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="it has no image at all"):
        load_karpathy(tmp_path / "dataset_coco.json", tmp_path, "test")


GOOD = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ([GOOD], 'an object with a list "images"'),
        ({"annotations": []}, 'an object with a list "images"'),
        ({"images": [GOOD, {"id": 1, "file_name": "1.jpg"}]}, "image 2 has no 'filename'.*COCO"),
        ({"images": [GOOD | {"sentences": [{"tokens": ["a"]}]}]}, "image 1 has no 'raw'"),
        ({"images": [GOOD | {"sentences": ["a dog"]}]}, "image 1 is of another layout"),
        ({"images": [GOOD | {"sentences": [{"raw": None}]}]}, "image 1 is of another layout"),
        ({"images": [GOOD | {"filename": 3}]}, "image 1 .*: filepath, filename and split must be"),
        ({"images": [GOOD | {"split": ["test"]}]}, "image 1 .*must be texts"),
        ({"images": ["1.jpg"]}, "image 1 is of another layout"),
        ({"images": [GOOD, GOOD]}, "images are there more than once: 1.jpg"),
    ],
)
def test_files_of_another_layout(tmp_path, content, message):
    file = tmp_path / "dataset.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=f"file: cannot understand .*{message}"):
        load_karpathy(file, tmp_path, "test")


def test_things_that_are_not_there(coco):
    folder, _ = coco
    file = folder / "dataset_coco.json"
    with pytest.raises(FileNotFoundError, match="file: no such file"):
        load_karpathy(folder / "nowhere.json", folder)
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        load_karpathy(file, folder / "nowhere")
    with pytest.raises(NotADirectoryError, match="images: .* is a file"):
        load_karpathy(file, file)
