"""The reader of image folders: what it lists, how it joins captions, what it refuses."""

import json

import pytest
from PIL import Image

from semi_nmf_concepts.datasets import load_image_folder

CAPTIONS = {
    "b.png": ["a dog", "a brown dog"],
    "a.JPG": ["a cat"],
    "deep/er/c.webp": ["nan"],
}


@pytest.fixture
def folder(tmp_path):
    """Three images among things that are none."""
    root = tmp_path / "images"
    for name in [*CAPTIONS, ".hidden.png", ".thumbs/t.png"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (root / "notes.txt").write_text("not an image")
    (root / "folder.png").mkdir()
    return root


def write(tmp_path, suffix, content):
    path = tmp_path / f"captions{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def names(data, folder):
    return [path.relative_to(folder).as_posix() for path in data.images]


def test_images_are_listed_recursively_in_the_order_of_their_names(folder):
    data = load_image_folder(folder)
    assert names(data, folder) == ["a.JPG", "b.png", "deep/er/c.webp"]
    assert data.captions is None


COCO = {
    "images": [{"id": i, "file_name": name} for i, name in enumerate(CAPTIONS)],
    "annotations": [
        {"image_id": i, "caption": text} for i, ts in enumerate(CAPTIONS.values()) for text in ts
    ],
}
RECORDS = [{"image": name, "captions": texts} for name, texts in CAPTIONS.items()]
LINES = [{"image": name, "caption": text} for name, texts in CAPTIONS.items() for text in texts]
ROWS = [f'{line["image"]},"{line["caption"]}"' for line in LINES]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".json", COCO),
        (".json", CAPTIONS),
        (".json", RECORDS),
        (".jsonl", "\n".join(map(json.dumps, LINES)) + "\n\n"),
        (".csv", "\ufeff" + "\n".join(["image,caption", *ROWS])),
        (".tsv", "\n".join(["caption\timage", *(f"{x['caption']}\t{x['image']}" for x in LINES)])),
    ],
    ids=["coco", "object", "records", "jsonl", "csv with byte order mark", "tsv"],
)
def test_every_layout_of_the_captions_file_reads_the_same(folder, tmp_path, suffix, content):
    data = load_image_folder(folder, write(tmp_path, suffix, content))
    assert data.captions == [["a cat"], ["a dog", "a brown dog"], ["nan"]]


def test_captions_may_hold_what_python_takes_for_an_end_of_line(folder, tmp_path):
    texts = {"a.JPG": "a\u2028b", "b.png": "a\x85b", "deep/er/c.webp": "a\x0cb"}
    lines = [json.dumps({"image": i, "caption": t}, ensure_ascii=False) for i, t in texts.items()]
    file = write(tmp_path, ".jsonl", "\ufeff" + "\r\n".join(lines).replace("\x0c", "\\f"))
    assert load_image_folder(folder, file).captions == [[text] for text in texts.values()]


def test_a_table_may_have_quoted_texts_and_more_columns(folder, tmp_path):
    table = 'image,caption,by\r\na.JPG,"a, ""b""\nc",1\r\n\r\nb.png,NA,2\r\nc.webp,3,\r\n'
    data = load_image_folder(folder, write(tmp_path, ".csv", table))
    assert data.captions == [['a, "b"\nc'], ["NA"], ["3"]]


def test_a_coco_file_may_cover_more_than_the_folder(folder, tmp_path):
    more = {
        "images": [*COCO["images"], {"id": 99, "file_name": "elsewhere.jpg"}],
        "annotations": [*COCO["annotations"], {"image_id": 99, "caption": "a bus"}],
    }
    data = load_image_folder(folder, write(tmp_path, ".json", more))
    assert data.captions == load_image_folder(folder, write(tmp_path, ".json", COCO)).captions


def test_an_image_may_be_named_by_another_path_with_the_same_end(folder, tmp_path):
    other = {"c.webp": "c", "val/a.JPG": "a", "./b.png": "b"}
    data = load_image_folder(folder, write(tmp_path, ".json", other))
    assert data.captions == [["a"], ["b"], ["c"]]


def test_a_path_with_another_folder_is_another_image(folder, tmp_path):
    other = {**CAPTIONS, "else/where/c.webp": "c"}
    with pytest.raises(ValueError, match="1 images that are not in the folder .else/where/c.webp"):
        load_image_folder(folder, write(tmp_path, ".json", other))


def test_an_ambiguous_file_name_is_refused(folder, tmp_path):
    Image.new("RGB", (4, 4)).save(folder / "deep" / "c.webp")
    with pytest.raises(ValueError, match="'c.webp' could be any of deep/c.webp, deep/er/c.webp"):
        load_image_folder(folder, write(tmp_path, ".json", {"c.webp": "c"}))


def test_images_without_captions_are_listed(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no caption for 2 of 3 images \(b.png, deep/er/c.webp\)"):
        load_image_folder(folder, write(tmp_path, ".json", {"a.JPG": "a"}))


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".json", "{", "cannot understand"),
        (".json", '"text"', "expected an object or a list"),
        (".json", {"a.JPG": [""]}, "not empty"),
        (".json", {"a.JPG": {"caption": "a"}}, "a text or a list of texts"),
        (".json", {"annotations": [{"image_id": 1, "caption": "a"}]}, "no entry 'images'"),
        (".json", COCO | {"images": COCO["images"] * 2}, "the same id more than once: 0, 1, 2"),
        (".json", [{"caption": "a"}], "record 1"),
        (".json", [{"image": "a.JPG"}], "no entry 'caption'"),
        (".csv", "file,caption\na.JPG,a", "no column image among"),
        (".csv", "", "it is empty"),
        (".csv", "image,caption\nb.png,b\na.JPG", "line 3 has not 2 values"),
        (".csv", "image,caption\na.JPG,a dog, brown", "line 2 has not 2 values.*quotation marks"),
        (".csv", 'image,caption\na.JPG,"' + "a dog\n" * 30_000, "field larger than field limit"),
        (".csv", "image,caption\na.JPG, ", "not empty, got 'a.JPG': ' '"),
        (".jsonl", '{"image": "a.JPG", "caption": "a"}\n{"image": ', "line 2 is no JSON object"),
        (".xml", "<a/>", "must end in one of .json, .jsonl, .csv, .tsv"),
    ],
)
def test_captions_files_that_cannot_be_read(folder, tmp_path, suffix, content, message):
    with pytest.raises(ValueError, match=message):
        load_image_folder(folder, write(tmp_path, suffix, content))


def test_things_that_are_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        load_image_folder(folder / "b.png")
    with pytest.raises(FileNotFoundError, match="captions: no such file"):
        load_image_folder(folder, tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        load_image_folder(folder, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in .*known suffixes"):
        load_image_folder(tmp_path / "empty")
