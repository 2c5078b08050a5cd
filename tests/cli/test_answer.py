"""`explain`: one answer from the command line."""

import json

import pytest

from semi_nmf_concepts import cli
from semi_nmf_concepts.attention import AnswerExplanation
from semi_nmf_concepts.datasets import load_scenes
from tests.attention._report import dog_report
from tests.cli._commands import fails


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "a <b>dog.png"
    load_scenes("test", token="dog", n=1).images[0].save(path)
    return path


def test_a_page_and_what_else_is_asked_for(image, tmp_path, capsys):
    dog_report().save(tmp_path / "concepts")
    command = ["explain", "--image", str(image), "--concepts", str(tmp_path / "concepts")]
    command += ["--out", str(tmp_path / "page.html"), "--json", str(tmp_path / "page.json")]
    command += ["--save", str(tmp_path / "saved"), "--words", "dog,4", "--quiet"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "Answer: a dog that is white on the grass next to an umbrella" in printed.out
    for word in ("dog", "white"):
        assert f"\n  {word}: probability " in printed.out
    page = (tmp_path / "page.html").read_text()
    assert page.rstrip().endswith("</html>") and "<b>dog" not in page
    document = json.loads((tmp_path / "page.json").read_text())
    assert document["settings"]["words"] == [1, 4]
    saved = AnswerExplanation.load(tmp_path / "saved")
    assert saved.trace.image_names == ["a <b>dog.png"]
    assert len(saved.concept_report) == 8


def test_a_scene_and_a_given_answer(tmp_path, capsys):
    command = ["explain", "--scene", "3", "--answer", "three green buses", "--through", "language"]
    command += ["--no-causal", "--no-faithfulness", "--out", str(tmp_path / "page.html")]
    assert cli.main([*command, "--layers", "-1", "--quiet"]) == 0
    assert "Answer: three green buses" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    (
        (["--image", "no/such.png"], "such.png"),
        (["--scene", "0", "--words", "zebra"], "'zebra' is not in the answer; it has 0: 'three'"),
        (["--scene", "0", "--answer", " "], "the answer has no tokens"),
        (["--scene", "0", "--layers", "4"], "layer must be between -4 and 3"),
        (["--scene", "0", "--max-pixels", "99"], "too large (224 x 224 pixels)"),
        (["--scene", "0", "--concepts", "no/such"], "no/such"),
        (["--scene", "0", "--model", "no/such/model"], "no/such/model"),
    ),
)
def test_what_goes_wrong_is_said_in_a_line(options, message, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["explain", *options, "--out", str(out), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ([], "one of the arguments --image --scene is required"),
        (["--scene", "8000"], "--scene: there are 8000 scenes"),
        (["--scene", "abc"], "--scene: invalid scene value: 'abc'"),
        (["--scene", "0", "--through", "walls"], "--through: must be among language"),
        (["--scene", "0", "--top-p", "0"], "--top-p: must be above 0"),
        (["--scene", "0", "--temperature", "-1"], "--temperature: must be at least 0"),
        (["--scene", "0", "--image", "x.png"], "not allowed with"),
    ),
)
def test_wrong_usage(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["explain", *options, "--out", str(tmp_path / "x.html")])
    assert message in capsys.readouterr().err


def test_mistakes_show_before_the_model_runs(image, tmp_path, capsys, monkeypatch):
    from semi_nmf_concepts import attention

    monkeypatch.setattr(attention, "explain_answer", lambda *args, **options: pytest.fail("it ran"))
    (tmp_path / "file").write_text("no folder")
    text = tmp_path / "text.png"
    text.write_text("no image")
    good, page = ["--image", str(image)], ["--out", str(tmp_path / "page.html")]
    for options, message in (
        ([*good, "--out", str(tmp_path / "file" / "page.html")], "choose another with --out"),
        ([*good, *page, "--json", str(tmp_path / "file" / "x.json")], "another with --json"),
        (["--image", str(text), *page], "text.png"),
        ([*good, *page, "--concepts", str(tmp_path)], "holds no saved ConceptReport"),
    ):
        assert message in fails(["explain", *options, "--quiet"], capsys)


def test_concepts_inside_the_folder_of_a_run(tmp_path, capsys):
    dog_report().save(tmp_path / "out" / "concepts")
    command = [
        "explain",
        "--scene",
        "4",
        "--words",
        "bears, ,",
        "--concepts",
        str(tmp_path / "out"),
    ]
    command += ["--out", str(tmp_path / "page.html"), "--no-causal", "--quiet"]
    assert cli.main(command) == 0
    assert "\n  bears: probability " in capsys.readouterr().out


def test_out_must_be_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["explain", "--scene", "0", "--out", str(tmp_path)])
    assert "is a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["explain", "--scene", "0", "--out", "page.txt"])
    assert "--out: page.txt must be an .html file" in capsys.readouterr().err
