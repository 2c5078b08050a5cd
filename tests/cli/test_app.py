"""`app`: what the command passes on, and how it fails."""

import pytest

from semi_nmf_concepts import app, cli
from tests.cli._commands import fails


@pytest.fixture
def launched(monkeypatch):
    """What `launch` was called with."""
    calls = []
    monkeypatch.setattr(
        app, "launch", lambda model, **options: calls.append({"model": model.model, **options})
    )
    return calls


def test_only_this_computer_by_default(launched):
    assert cli.main(["app"]) == 0
    assert launched == [
        {
            "model": "bundled",
            "concepts": None,
            "question": "",
            "max_new_tokens": 64,
            "host": "127.0.0.1",
            "port": None,
            "auth": None,
            "max_upload": 20.0,
        }
    ]


def test_options(launched, tmp_path):
    secret = tmp_path / "password.txt"
    secret.write_text("ada:correct horse\n")
    options = ["--concepts", "folder", "--prompt", "What is it?", "--max-new-tokens", "9"]
    options += ["--host", "0.0.0.0", "--port", "8000", "--max-upload", "1.5"]
    assert cli.main(["app", *options, "--auth-file", str(secret)]) == 0
    assert cli.main(["app", "--auth", "ada:x"]) == 0
    first, second = launched
    assert first["auth"] == "ada:correct horse" and second["auth"] == "ada:x"
    assert str(first["concepts"]) == "folder" and first["question"] == "What is it?"
    names = ("max_new_tokens", "host", "port", "max_upload")
    assert [first[name] for name in names] == [9, "0.0.0.0", 8000, 1.5]


@pytest.mark.parametrize(
    "options",
    [
        ["--max-upload", "0"],
        ["--max-upload", "nan"],
        ["--port", "0"],
        ["--auth", "a:b", "--auth-file", "x"],
        ["--share"],
    ],
)
def test_wrong_usage(launched, options, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["app", *options])
    assert not launched and options[0] in capsys.readouterr().err


def test_failures_are_one_line(tmp_path, capsys):
    pytest.importorskip("gradio")
    assert "missing.txt" in fails(["app", "--auth-file", str(tmp_path / "missing.txt")], capsys)
    assert "auth must be" in fails(["app", "--auth", "nobody"], capsys)
    assert "folder" in fails(["app", "--model", str(tmp_path / "no folder")], capsys)
    assert "port" in fails(["app", "--port", "99999"], capsys)
