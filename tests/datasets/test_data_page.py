"""The examples of the page on data run as they stand, on files that have the names used there."""

import gc
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch

from semi_nmf_concepts.datasets import load_scenes
from tests._data_layouts import (
    write_flickr30k_csv,
    write_flickr30k_token,
    write_json,
    write_vqav2,
    xl_vlms_features,
)
from tests._karpathy_data import write_coco, write_flickr30k

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """All that the page opens, in the working folder."""
    monkeypatch.chdir(tmp_path)
    _write_photos(tmp_path)
    _write_coco(tmp_path / "coco")
    for write in (write_flickr30k, write_flickr30k_token, write_flickr30k_csv):
        write(tmp_path / "flickr30k")
    write_vqav2(tmp_path / "vqa")
    shutil.copytree(tmp_path / "vqa" / "train2014", tmp_path / "coco", dirs_exist_ok=True)
    torch.save(xl_vlms_features(), tmp_path / "features.pth")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _write_photos(folder):
    """Scenes, with captions beside them, and again as Hugging Face labels a folder of images."""
    scenes = load_scenes("test", token="dog", n=4)
    captions, labels = ["image,caption"], ["file_name,text"]
    for i, (image, texts) in enumerate(zip(scenes.images, scenes.captions, strict=True)):
        for name in ("photos", "labelled"):
            (folder / name).mkdir(exist_ok=True)
            image.save(folder / name / f"{i}.png")
        captions += [f"{i}.png,{text}" for text in texts]
        labels.append(f"{i}.png,{texts[0]}")
    (folder / "captions.csv").write_text("\n".join(captions))
    (folder / "labelled" / "metadata.csv").write_text("\n".join(labels))


def _write_coco(folder):
    write_coco(folder)
    shutil.copytree(folder / "val2014", folder / "val2017")
    names = sorted(path.name for path in (folder / "val2017").iterdir())
    (folder / "annotations").mkdir()
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "caption": "a dog"} for i in range(len(names))],
    }
    write_json(folder / "annotations" / "captions_val2017.json", content)


# The package leaves the label file to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    "ignore:Exception ignored in.*metadata.csv:pytest.PytestUnraisableExceptionWarning",
)
def test_the_examples_of_the_page_run(files):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    variables, n_kept = {}, []
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), variables)
        n_kept.append(len(variables["states"]))
    assert n_kept[:2] == [4, 3], "the model writes of dogs here"
    assert len(variables["train"].images) == 6 and len(variables["more"].images) == 8
    assert list(variables["table"].columns) == ["image", "caption", "prompt"]
    assert len(variables["data"].images) == 4 and "dog" in variables["data"].captions[0][0]
    assert variables["Z"].shape == (2, 6) and len(variables["kept"]) == 2
    variables.clear()
    gc.collect()  # here, where the warning is ignored, and not in the middle of another test
