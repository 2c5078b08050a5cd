"""Commands that go wrong."""

from semi_nmf_concepts import cli


def fails(argv, capsys):
    """Run a command that must fail in one line, and return the line."""
    assert cli.main(argv) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ") and len(last) > len("error: ")
    assert "Page:" not in captured.out
    return last
