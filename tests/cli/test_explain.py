"""`demo` and `concepts`: what they write, what they say, and how they fail."""

import json
import signal
import sys
import warnings

import numpy as np
import pytest

from semi_nmf_concepts import cli
from semi_nmf_concepts.cli import _explain
from semi_nmf_concepts.cli._options import METHODS
from semi_nmf_concepts.decomposition import RECOMMENDED
from semi_nmf_concepts.grounding import ConceptReport
from tests._example_report import example_report
from tests._tiny_llava import build_tiny_llava, tiny_images
from tests.cli._commands import fails

N_IMAGES = 24
TOKEN = "blue"  # what the untrained model likes to write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(tiny_images(N_IMAGES)):
        image.save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def command(model, images, tmp_path):
    """Arguments of a run that succeeds; a test changes one of them."""

    def build(**changes):
        options = {
            "model": model,
            "images": images,
            "token": TOKEN,
            "n-components": 3,
            "n-active": 1,
            "whiten": 4,
            "max-new-tokens": 12,
            "out": tmp_path / "out",
        } | changes
        words = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
        return ["concepts", "--quiet", *(word for pair in words for word in pair)]

    return build


def test_a_run_writes_page_record_and_concepts(command, tmp_path, capsys):
    assert cli.main(command()) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "concepts",
        "concepts.json",
        "report.html",
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    record = json.loads((out / "concepts.json").read_text(encoding="utf-8"))
    report = ConceptReport.load(out / "concepts")
    assert len(record["concepts"]) == len(report.concepts) == 3
    assert report.components.shape == (3, 32)
    assert report.settings["n_seen"] == N_IMAGES - round(0.2 * N_IMAGES)
    captured = capsys.readouterr()
    assert f"Page: {out / 'report.html'}" in captured.out
    assert repr(TOKEN) in captured.out and "together" in captured.out
    assert all(f"\n{k:>3}  " in captured.out for k in range(3))
    assert "Traceback" not in captured.err


def test_a_second_run_replaces_the_first_and_repeats_it(command, tmp_path):
    page = tmp_path / "out" / "report.html"
    assert cli.main(command()) == 0
    first = ConceptReport.load(tmp_path / "out" / "concepts")
    page.write_text("old")
    assert cli.main(command()) == 0
    second = ConceptReport.load(tmp_path / "out" / "concepts")
    np.testing.assert_array_equal(first.components, second.components)
    assert page.read_text(encoding="utf-8") != "old"


@pytest.mark.parametrize("method", ["kmeans", "pca", "simple"])
def test_other_methods(command, tmp_path, method):
    assert cli.main(command(method=method, whiten=None, **{"n-active": None})) == 0
    report = ConceptReport.load(tmp_path / "out" / "concepts")
    assert report.settings["decomposer"] == METHODS[method]


def test_captions_and_no_test_images(command, images, tmp_path):
    captions = tmp_path / "captions.json"
    names = [path.name for path in sorted(images.iterdir())]
    captions.write_text(json.dumps({name: [f"two {TOKEN}s"] for name in names}))
    assert cli.main(command(captions=captions, **{"test-fraction": 0})) == 0
    report = ConceptReport.load(tmp_path / "out" / "concepts")
    assert report.local_kind == "train"
    assert report.settings["n_seen"] == N_IMAGES
    assert report.samples.references[0] == [f"two {TOKEN}s"]


def options(*words):
    argv = ["concepts", "--model", "m", "--images", "i", "--token", "dog", "--out", "o", *words]
    return cli.build_parser().parse_args(argv)


def test_the_recommended_setting_is_the_default_and_each_part_can_be_changed():
    params = _explain.build_decomposer(options("--seed", "7")).get_params()
    assert params.items() >= RECOMMENDED.items()
    assert params["random_state"] == 7 and params["n_components"] == 20
    published = _explain.build_decomposer(options("--published")).get_params()
    default = type(_explain.build_decomposer(options()))(20, random_state=0).get_params()
    assert published == default
    params = _explain.build_decomposer(options("--alpha", "0.5", "--whiten", "0")).get_params()
    assert params["alpha"] == 0.5 and params["n_active"] is None and params["whiten"] is None
    params = _explain.build_decomposer(options("--n-active", "3", "--no-center")).get_params()
    assert params["n_active"] == 3 and params["center"] is False
    few = _explain.build_decomposer(options("--n-components", "5")).get_params()
    assert few["n_active"] == RECOMMENDED["n_active"] / 4
    many = _explain.build_decomposer(options("--n-components", "30")).get_params()
    assert many.items() >= RECOMMENDED.items()


def test_layers_and_forms():
    assert options("--layer", "-2").layer == -2
    assert options("--layer", "final_norm").layer == "final_norm"
    assert options("--forms", "exact").forms == "exact"
    assert options("--forms", "dog,puppy").forms == ["dog", "puppy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required"),
        (["unknown"], "invalid choice"),
        (["concepts", "--token", "dog"], "required"),
        (["demo", "--n-images", "0"], "at least 1"),
        (["demo", "--seed", "-1"], "at least 0"),
        (["demo", "--n-components", "many"], "invalid"),
        (["demo", "--alpha", "1", "--n-active", "3"], "not allowed with"),
        (["demo", "--method", "pca", "--alpha", "1"], "only for --method semi-nmf"),
        (["demo", "--method", "other"], "invalid choice"),
    ],
)
def test_wrong_usage_leaves_with_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_reported_before_the_run(
    command, tmp_path, capsys
):
    (tmp_path / "file").write_text("in the way")
    argv = command(model="no/such/model", out=tmp_path / "file" / "out")
    message = fails(argv, capsys)
    assert "cannot write to the output folder" in message and "--out" in message


def test_a_folder_that_is_no_model(command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "empty" in fails(command(model=tmp_path / "empty"), capsys)


def test_a_hub_model_without_network(command, capsys):
    assert "nobody/nothing" in fails(command(model="nobody/nothing"), capsys)


def test_no_images(command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no images" in fails(command(images=tmp_path / "empty"), capsys)
    assert "no such folder" in fails(command(images=tmp_path / "nowhere"), capsys)


def test_an_unreadable_image_is_named(command, images, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "05.png").write_bytes((images / "05.png").read_bytes()[:40])
    assert "05.png" in fails(command(images=folder), capsys)
    assert cli.main(command(images=folder, **{"on-error": "skip"})) == 0


def test_a_token_that_never_occurs_lists_words_that_did(command, capsys):
    message = fails(command(token="zebra"), capsys)
    assert "zebra" in message and TOKEN in message


def test_captions_that_do_not_fit_the_images(command, tmp_path, capsys):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"00.png": ["a dog"]}))
    message = fails(command(captions=captions), capsys)
    assert f"no caption for {N_IMAGES - 1} of {N_IMAGES} images" in message


def test_more_concepts_than_samples(command, images, tmp_path, capsys):
    assert "--n-components" in fails(command(**{"n-components": N_IMAGES + 1}), capsys)
    # Enough images, but references that leave two of them.
    names = [path.name for path in sorted(images.iterdir())]
    captions = tmp_path / "captions.json"
    texts = {name: [TOKEN if i < 2 else "nothing"] for i, name in enumerate(names)}
    captions.write_text(json.dumps(texts))
    argv = command(captions=captions, **{"test-fraction": 0})
    message = fails(argv, capsys)
    assert "kept" in message and "3 concepts" in message
    assert "dropped: " in message and " not in reference" in message
    assert not (tmp_path / "out" / "report.html").exists()


def test_more_concepts_than_different_images(command, images, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02}.png").write_bytes((images / f"{i % 2:02}.png").read_bytes())
    argv = command(images=folder, whiten=None, **{"n-active": None})
    assert "n_components=3" in fails(argv, capsys)


def test_the_demo_names_the_tokens_it_knows_and_leaves_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = fails(["demo", "--token", "zebra"], capsys)
    assert "zebra" in message and "dog" in message and "bus" in message
    assert "--n-components" in fails(["demo", "--n-images", "5"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_finished_leaves_the_old_one(command, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert cli.main(command()) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()

    def full(self, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(ConceptReport, "to_html", full)
    assert "No space left" in fails(command(), capsys)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def raising(error):
    def run(*args, **kwargs):
        raise error

    return run


def test_interrupted(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_explain, "explain", raising(KeyboardInterrupt()))
    assert cli.main(command()) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_that_python_drops_still_ends_the_run(command, tmp_path, monkeypatch):
    class Noisy:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def interrupted_inside_a_destructor(*args, **kwargs):
        noisy = Noisy()
        del noisy  # Python reports and drops what a destructor raises
        return report

    report = example_report(n_concepts=3)
    monkeypatch.setattr(_explain, "explain", interrupted_inside_a_destructor)
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: dropped.append(args.exc_type))
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    assert cli.main(command()) == 130
    assert dropped == [KeyboardInterrupt]
    assert list((tmp_path / "out").iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_debug_and_bugs_keep_their_traceback(command, monkeypatch):
    monkeypatch.setattr(_explain, "explain", raising(ValueError("bad data")))
    with pytest.raises(ValueError, match="bad data"):
        cli.main([*command(), "--debug"])
    monkeypatch.setattr(_explain, "explain", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(command())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory.")])
def test_out_of_memory_says_what_to_try(command, capsys, monkeypatch, error):
    monkeypatch.setattr(_explain, "explain", raising(error))
    assert "--batch-size" in fails(command(), capsys)


def test_warnings_are_one_line_each(command, capsys, monkeypatch):
    def warn(*args, **kwargs):
        for _ in range(2):
            warnings.warn("first line\n  second line", UserWarning, stacklevel=1)
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        raise ValueError("end")

    monkeypatch.setattr(_explain, "explain", warn)
    fails(command(), capsys)
    cli.main(command())
    err = capsys.readouterr().err
    assert err.count("warning: first line second line\n") == 1
    assert "for developers" not in err


@pytest.mark.slow
def test_the_demo_on_the_bundled_model(tmp_path, capsys):
    words = ["demo", "--quiet", "--token", "bus", "--n-images", "160", "--n-test", "160"]
    assert cli.main([*words, "--n-components", "8", "--out", str(tmp_path)]) == 0
    report = ConceptReport.load(tmp_path / "concepts")
    assert len(report.concepts) == 8 and report.local_kind == "test"
    assert {row["factor"] for row in report.factor_table} >= {"colour", "background"}
    out = capsys.readouterr().out
    assert "detects" in out and str(tmp_path / "report.html") in out
