"""The reader of data sets of Hugging Face: lazy images, captions in the usual layouts."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_from_disk

from semi_nmf_concepts.datasets import load_hf_dataset
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, to_rgb
from tests._tiny_llava import build_tiny_llava, tiny_images

N = 6


def encoded(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def contents():
    """The images as files."""
    return [encoded(image) for image in tiny_images(N)]


@pytest.fixture
def dataset(contents):
    """As parquet files on a hub have it: the images' bytes, and a list of captions each."""
    columns = {
        "image": [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(contents)],
        "caption": [[f"a dog number {i}", " ", f"dog {i} "] for i in range(N)],
        "question": [f"What is number {i}?" for i in range(N)],
    }
    return Dataset.from_dict(columns).cast_column("image", Image())


def test_images_are_the_bytes_of_the_files_in_the_order_of_the_rows(dataset, contents):
    images = load_hf_dataset(dataset).images
    assert len(images) == N and list(images) == contents
    assert images[-1] == images[np.int64(N - 1)] == contents[-1]
    with pytest.raises(IndexError):
        images[N]


def test_a_slice_is_as_lazy(dataset, contents):
    images = load_hf_dataset(dataset).images
    part = images[1:5][::2]
    assert type(part) is type(images) and list(part) == contents[1:5:2]
    assert repr(part) == "DatasetImages('image', 2 images)"


def test_nothing_is_decoded_and_each_image_is_read_when_it_is_asked_for(dataset, monkeypatch):
    """A data set that counts which rows are read, and cannot decode."""
    read = []
    getitem = Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, i: read.append(i) or getitem(self, i))
    monkeypatch.setattr(Image, "decode_example", None)
    data = load_hf_dataset(dataset)
    assert not read
    data.images[3]
    assert read == [3]


def test_without_other_columns_there_are_no_captions_and_prompts(dataset):
    data = load_hf_dataset(dataset)
    assert data.captions is None and data.prompts is None


def test_captions_and_prompts(dataset):
    data = load_hf_dataset(dataset, caption_column="caption", prompt_column="question")
    assert data.captions == [[f"a dog number {i}", f"dog {i}"] for i in range(N)]
    assert data.prompts == [f"What is number {i}?" for i in range(N)]


TEXT = Value("string")


@pytest.mark.parametrize(
    ("feature", "cells"),
    [
        (TEXT, ["a dog", None]),
        (List(TEXT), [["a dog", "a dog"], []]),
        ({"raw": List(TEXT), "sentid": List(Value("int64"))}, [{"raw": ["a dog"]}, {"raw": []}]),
        ({"raw": TEXT, "tokens": List(TEXT)}, [{"raw": "a dog"}, {"raw": " "}]),
        (List({"raw": TEXT, "sentid": Value("int64")}), [[{"raw": "a dog", "sentid": 1}], []]),
        (List({"answer": TEXT}), [[{"answer": "a dog"}, {"answer": "a dog"}], [{"answer": ""}]]),
    ],
    ids=["text", "list", "COCO", "one sentence", "sentences", "VQAv2"],
)
def test_the_usual_layouts_of_captions(contents, feature, cells):
    if isinstance(feature, dict) and "sentid" in feature:
        cells = [cell | {"sentid": []} for cell in cells]
    if isinstance(feature, dict) and "tokens" in feature:
        cells = [cell | {"tokens": []} for cell in cells]
    dataset = Dataset.from_dict(
        {"image": contents[:2], "sentences": cells},
        features=Features({"image": Value("binary"), "sentences": feature}),
    )
    assert load_hf_dataset(dataset, caption_column="sentences").captions == [["a dog"], []]


def test_images_may_be_paths_contents_or_missing(tmp_path, contents):
    path = str(tmp_path / "0.png")
    Path(path).write_bytes(contents[0])
    paths = Dataset.from_dict({"photo": [path]})
    assert list(load_hf_dataset(paths, "photo").images) == [path]
    assert list(load_hf_dataset(paths.cast_column("photo", Image()), "photo").images) == [path]
    binary = Dataset.from_dict({"photo": [contents[1]]})
    assert list(load_hf_dataset(binary, "photo").images) == [contents[1]]
    records = Dataset.from_dict({"photo": [{"bytes": contents[2], "path": None}]})
    assert list(load_hf_dataset(records, "photo").images) == [contents[2]]
    gaps = Dataset.from_dict({"photo": [None, contents[3]]}).cast_column("photo", Image())
    assert list(load_hf_dataset(gaps, "photo").images) == [None, contents[3]]


def test_formats_transforms_and_chosen_rows(dataset, contents):
    for other in (
        dataset.with_format("numpy"),
        dataset.with_transform(lambda rows: {"image": [0] * len(rows["image"])}),
    ):
        data = load_hf_dataset(other, caption_column="caption", prompt_column="question")
        assert list(data.images) == contents
        assert data.captions[1] == ["a dog number 1", "dog 1"] and isinstance(data.prompts[0], str)
    data = load_hf_dataset(dataset.select([4, 1]), caption_column="caption")
    assert list(data.images) == [contents[4], contents[1]]
    assert data.captions == [["a dog number 4", "dog 4"], ["a dog number 1", "dog 1"]]


def test_images_on_disk_go_to_other_processes_and_threads(tmp_path):
    files = [bytes([i]) * 50_000 for i in range(N)]
    dataset = Dataset.from_dict({"image": files}).cast_column("image", Image())
    dataset.save_to_disk(tmp_path / "saved")
    images = load_hf_dataset(load_from_disk(str(tmp_path / "saved"))).images[1:]
    pickled = pickle.dumps(images)
    assert len(pickled) < 20_000, "the files went with it"
    assert list(pickle.loads(pickled)) == files[1:]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(images.__getitem__, [*range(N - 1)] * 20)) == files[1:] * 20


def test_the_featurizer_gives_the_states_of_the_decoded_images(dataset, tmp_path):
    model = build_tiny_llava(tmp_path / "model")
    featurizer = LMMTokenFeaturizer(model, position="last", prompt="")
    data = load_hf_dataset(dataset)
    np.testing.assert_array_equal(
        featurizer.transform(data.images), featurizer.transform(dataset[:]["image"])
    )
    assert to_rgb(data.images[2], 2).size == (48, 48)


def test_a_damaged_image_is_an_error_of_the_one_who_decodes_it(contents):
    damaged = [contents[0], b"no image", contents[1][:100]]
    images = load_hf_dataset(
        Dataset.from_dict({"image": damaged}).cast_column("image", Image())
    ).images
    assert list(images) == damaged
    for i in (1, 2):
        with pytest.raises(ValueError, match=f"image {i} cannot be read as an image"):
            to_rgb(images[i], i)


def test_what_is_no_data_set(dataset):
    with pytest.raises(TypeError, match=r"a dict of splits; choose one of \['train'\].*'train'"):
        load_hf_dataset(DatasetDict({"train": dataset}))
    with pytest.raises(TypeError, match="got a stream .IterableDataset.* without streaming=True"):
        load_hf_dataset(dataset.to_iterable_dataset())
    with pytest.raises(TypeError, match="must be a datasets.Dataset, got str; load_image_folder"):
        load_hf_dataset("nlphuji/flickr30k")
    with pytest.raises(TypeError, match="must be a datasets.Dataset, got list"):
        load_hf_dataset(tiny_images(2))


def test_the_advice_for_streams_works(dataset, contents):
    stream = dataset.to_iterable_dataset()
    part = Dataset.from_list(list(stream.take(2)), features=stream.features)
    assert len(load_hf_dataset(part, caption_column="caption").images) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "img"}, r"image_column: .*'img'; its columns are \['image', 'caption'"),
        ({"image_column": None}, "image_column: the data set has no column None"),
        ({"caption_column": "captions"}, "caption_column: the data set has no column 'captions'"),
        ({"prompt_column": "prompt"}, "prompt_column: the data set has no column 'prompt'"),
        ({"image_column": "caption"}, "image_column: column 'caption' must hold an image in each"),
        ({"prompt_column": "caption"}, "prompt_column: row 0 of column 'caption' must be a text"),
        ({"caption_column": "label"}, "caption_column: row 0 of column 'label': .* got 0"),
        ({"caption_column": "box"}, r"caption_column: row 0 .* one of raw, .* got \['x'\]"),
        ({"image_column": "label"}, "image_column: column 'label' must hold an image"),
        ({"prompt_column": "blank"}, "prompt_column: row 2 .* not blank, got ' '"),
    ],
)
def test_columns_that_are_not_there_or_hold_something_else(dataset, options, message):
    dataset = dataset.add_column("label", [0] * N, feature=ClassLabel(names=["dog"]))
    dataset = dataset.add_column("box", [{"x": 1}] * N)
    dataset = dataset.add_column("blank", ["what", "what", " ", "what", "what", "what"])
    with pytest.raises(ValueError, match=message):
        load_hf_dataset(dataset, **options)


def test_no_rows(dataset):
    with pytest.raises(ValueError, match="dataset has no rows"):
        load_hf_dataset(dataset.select([]))
