"""The examples of the documentation run, and find what the pages say that they find.

What they print is kept beside them, where the pages include it. After a change that moves the
numbers, ``python -m tests.test_examples`` writes it again; the numbers themselves are not compared.
"""

import contextlib
import io
import os
import re
import runpy
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def run(name):
    """Run a script in the working folder; returns its variables and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        variables = runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return variables, printed.getvalue()


def run_as_kept(name):
    """The same, for a script whose kept output must have as many lines."""
    variables, printed = run(name)
    kept = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert len(printed.splitlines()) == len(kept.splitlines()), "see the docstring of this module"
    return variables, printed


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.iterdir())  # an example leaves nothing behind


def test_the_page_shows_every_script_with_its_output():
    page = (FOLDER.parent / "examples.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{literalinclude\} examples/(\S+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(p.name for s in SCRIPTS for p in (s, s.with_suffix(".txt")))
    assert all((FOLDER / name).is_file() for name in shown)


@pytest.mark.slow
def test_grid_search(n_run):
    found, printed = run_as_kept("grid_search")
    # Eight candidates, two folds and the refit: every distinct image went through the model once.
    assert n_run() == len({image.tobytes() for image in found["images"]["image"]})
    table = found["table"]
    assert list(table.index) == [
        (f"{name}Concepts", K) for name in ("SemiNMF", "KMeans", "PCA", "Simple") for K in (10, 20)
    ]
    assert np.isfinite(table.to_numpy()).all()
    assert table["clip_score"].between(0, 2.5).all() and table["recovery"].between(0, 1).all()
    # PCA reconstructs best, and the words of Semi-NMF repeat each other less than those of clusters
    for K in (10, 20):
        of = table.xs(K, level="K")
        assert of["reconstruction"].idxmax() == "PCAConcepts"
        overlap = of["neg_overlap"]
        assert overlap["SemiNMFConcepts"] > max(overlap[["KMeansConcepts", "SimpleConcepts"]])
    assert printed.endswith(f"best by CLIPScore: {found['search'].best_estimator_['concepts']}\n")


@pytest.mark.slow
def test_score_words():
    found, printed = run_as_kept("score_words")
    assert len(found["words"]) == found["K"] and all(found["words"])
    lines = [line for line in printed.splitlines() if line.startswith(tuple(found["word_lists"]))]
    concepts, directions, shuffled = (np.array(line.split()[-4:], dtype=float) for line in lines)
    assert (concepts > directions).all() and (concepts > shuffled).all()
    assert found["of_concepts"].shape == (found["K"],)


@pytest.mark.slow
def test_evaluate_two_words():
    found, printed = run_as_kept("evaluate_two_words")
    tests = found["pooled"].set_index("baseline")
    chance = ["Rnd-Words (direction)", "Rnd-Words (shuffle)"]
    assert (tests.loc[chance, "difference"] > 0).all()
    assert (tests.loc[chance, "p_value"] < 0.01).all()
    overlap = found["records"].query("table == 'table2'").set_index(["token", "method"])["mean"]
    for token in found["tokens"]:
        assert overlap[token, "Semi-NMF"] < overlap[token, "KMeans"]
    assert len(found["stability"]) == 2 and (found["stability"]["mean"] <= 1).all()
    assert "csv, html, json, md, png, svg files" in printed
    assert "<Evaluation: " in printed


@pytest.mark.slow
def test_own_decomposer():
    found, printed = run_as_kept("own_decomposer")
    rows = found["rows"]
    assert rows["codes", "l0", "ICA, halves"] == found["K"] / 2  # a half of every source is active
    for method in found["methods"]:
        assert rows["recovery", "auroc", method] > 0.5
        assert rows["table1", "clip_score", method] > rows[
            "table1", "clip_score", "Rnd-Words (direction)"
        ]  # fmt: skip
    assert len(printed.splitlines()) == 5


def refresh():
    """Write what every script prints beside it."""
    warnings.simplefilter("error")
    for script in SCRIPTS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            printed = run(script.stem)[1]
        script.with_suffix(".txt").write_text(printed, encoding="utf-8")
        print(f"{script.stem}: {len(printed.splitlines())} lines")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    refresh()
