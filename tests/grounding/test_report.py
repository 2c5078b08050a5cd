"""The report object: access, saving, loading, JSON."""

import json
import pickletools
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from semi_nmf_concepts.grounding import ConceptReport, Samples
from semi_nmf_concepts.grounding._report import thumbnail
from semi_nmf_concepts.grounding._saving import to_jsonable
from tests._example_report import example_report


@pytest.fixture(scope="module")
def report():
    return example_report(n_concepts=6, n_train=40, n_local=5)


def assert_same(one, other):
    """Equality of all that a report holds."""
    for name in (
        "activations",
        "local_activations",
        "test_activations",
        "components",
        "dictionary",
    ):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    for name in ("settings", "provenance", "factor_table", "left_out", "thumbnails", "local_kind"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("samples", "local_samples", "test_samples"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.indices, b.indices)
            assert a.indices.dtype == b.indices.dtype
            assert {**vars(a), "indices": 0} == {**vars(b), "indices": 0}
    for a, b in zip(one.concepts, other.concepts, strict=True):
        np.testing.assert_array_equal(a.activation, b.activation)
        assert {**vars(a), "activation": 0} == {**vars(b), "activation": 0}


@pytest.mark.parametrize("with_factors", [True, False])
def test_save_and_load_give_the_same_report(tmp_path, with_factors):
    report = example_report(n_concepts=6, with_factors=with_factors, n_train=40, n_local=5)
    report.save(tmp_path / "new" / "folder")
    assert_same(report, ConceptReport.load(tmp_path / "new" / "folder"))


def test_save_and_load_without_test_samples_or_local_samples(tmp_path):
    report = example_report(n_concepts=3, n_train=8, n_local=0)
    report.test_samples = report.test_activations = None
    report.save(tmp_path)
    loaded = ConceptReport.load(tmp_path)
    assert loaded.n_local == 0
    assert_same(report, loaded)


def test_nothing_is_pickled(report, tmp_path):
    report.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.safetensors"]
    json.loads((tmp_path / "report.json").read_bytes())
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError), open(path, "rb") as file:
            list(pickletools.genops(file))


def test_saving_again_replaces_and_leaves_other_files_alone(report, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    report.save(tmp_path)
    smaller = example_report(n_concepts=3, n_train=20, n_local=2)
    smaller.save(tmp_path)
    assert_same(smaller, ConceptReport.load(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written(report, tmp_path):
    (tmp_path / "file").write_text("")
    for action in (report.save, report.to_json):
        with pytest.raises(OSError, match="choose a folder that can be written"):
            action(tmp_path / "file" / "out")


def test_a_failed_write_keeps_the_old_content(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    report.to_json(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        report.to_json(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_loading_what_is_no_report(report, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved ConceptReport"):
        ConceptReport.load(tmp_path)
    report.save(tmp_path)
    document = json.loads((tmp_path / "report.json").read_bytes())

    def with_document(text):
        (tmp_path / "report.json").write_text(text)
        return ConceptReport.load(tmp_path)

    with pytest.raises(ValueError, match="not valid JSON"):
        with_document("{")
    with pytest.raises(ValueError, match="does not describe"):
        with_document("[]")
    with pytest.raises(ValueError, match="format version 99"):
        with_document(json.dumps(document | {"format_version": 99}))
    with pytest.raises(ValueError, match="cut short"):
        with_document(json.dumps(document | {"arrays_sha256": "0"}))
    with pytest.raises(ValueError, match="damaged"):
        with_document(json.dumps({k: v for k, v in document.items() if k != "samples"}))
    with pytest.raises(ValueError, match="damaged|argument 2 is"):
        with_document(json.dumps(document | {"concepts": document["concepts"][1:]}))


def test_json_holds_concepts_and_local_explanations(report, tmp_path):
    report.to_json(tmp_path / "out" / "report.json")
    document = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [c["words"] for c in document["concepts"]] == [c.words for c in report.concepts]
    np.testing.assert_allclose(document["concepts"][1]["activation"], report.activations[:, 1])
    assert document["local"][2]["items"] == report.local(2).items
    assert document["settings"] == report.settings


def test_strict_json_of_awkward_values(tmp_path):
    report = example_report(n_concepts=3, n_train=8, n_local=1)
    report.settings |= {"none": float("nan"), "array": np.arange(2), "name": "caf\udce9.png"}
    report.to_json(tmp_path / "x.json")
    settings = json.loads((tmp_path / "x.json").read_bytes())["settings"]
    assert settings["none"] is None
    assert settings["array"] == [0, 1]
    assert settings["name"] == "caf\udce9.png"
    values = to_jsonable({1: np.float32(0.5), "t": (np.True_, np.int64(3), np.str_("a"), object)})
    assert values == {"1": 0.5, "t": [True, 3, "a", repr(object)]}


def test_local_explanation(report):
    local = report.local(3, r=2)
    row = report.local_activations[3]
    assert local.sample == 3
    assert local.image_index == report.local_samples.indices[3]
    assert local.caption == report.local_samples.captions[3]
    assert local.factors == report.local_samples.factors[3]
    assert [item["concept"] for item in local.items] == list(np.argsort(-row)[: len(local.items)])
    assert len(local.items) == min(2, (row > 0).sum())
    for i in (5, -1, 2.0):
        with pytest.raises(ValueError, match="i must be"):
            report.local(i)


def test_images_of_the_report(report):
    for concept in report.concepts:
        for i in concept.image_indices:
            image = report.image("train", i)
            assert image.mode == "RGB"
            assert max(image.size) == 160
    assert report.image("local", 0).size
    with pytest.raises(ValueError, match="kind must be one of"):
        report.image("test", 0)
    with pytest.raises(ValueError, match="no local image 99"):
        report.image("local", 99)


def test_repr_and_length(report):
    assert len(report) == 6
    assert repr(report) == "<ConceptReport: 6 concepts of 'dog', 40 samples>"
    assert repr(report.concepts[1]).startswith("Concept(1, words=[")


def test_the_report_methods_delegate_to_the_report_room(report, tmp_path, monkeypatch):
    calls = []
    room = pytest.importorskip("semi_nmf_concepts.report")
    for name in ("plot_concepts", "plot_local", "write_html"):
        monkeypatch.setattr(room, name, lambda *a, name=name, **k: calls.append((name, a, k)))
    report.plot()
    report.plot_local(2)
    report.to_html(tmp_path / "page.html")
    assert calls == [
        ("plot_concepts", (report,), {}),
        ("plot_local", (report, 2), {}),
        ("write_html", (report, tmp_path / "page.html"), {}),
    ]


def test_samples_check_their_lengths_and_take_rows():
    samples = Samples(np.arange(3), ["a", "b", "c"], [[], ["x"], []], ["", "", "the"])
    assert asdict(samples.take([2, 0]))["captions"] == ["c", "a"]
    assert samples.take([]).factors is None
    with pytest.raises(ValueError, match="'captions': 2"):
        Samples(np.arange(3), ["a", "b"], [[], [], []], ["", "", ""])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_thumbnails_of_any_mode(mode):
    assert thumbnail(Image.new(mode, (400, 1)))[:2] == b"\xff\xd8"


def test_thumbnails_shrink_but_never_enlarge_and_leave_the_image_alone(tmp_path):
    import io

    def size(image):
        return Image.open(io.BytesIO(thumbnail(image))).size

    big, small = Image.new("RGB", (800, 400)), Image.new("RGB", (20, 30))
    assert size(big) == (160, 80)
    assert big.size == (800, 400)
    assert size(small) == (20, 30)
    assert size(np.zeros((320, 160, 3), dtype=np.uint8)) == (80, 160)
    big.save(tmp_path / "big.jpg")
    assert size(tmp_path / "big.jpg") == (160, 80)
