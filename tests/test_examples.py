"""The examples of the documentation run, and find what the pages say that they find.

What they print is kept beside them, where the pages include it, and so are their figures. After a
change that moves the numbers, ``python -m tests.test_examples [NAME ...]`` writes all or some of
them again; the numbers themselves are not compared.
"""

import contextlib
import io
import os
import re
import runpy
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semi_nmf_concepts.attention import ablate_concept

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


def test_the_pages_show_every_script_with_its_output():
    pages = [FOLDER.parent / name for name in ("examples.md", "case_study.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shown = re.findall(r"^```\{literalinclude\} examples/(\S+)$", text, re.MULTILINE)
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


@pytest.mark.slow
def test_case_study():
    found, printed = run_as_kept("case_study")
    assert "chair" in found["trace"].answer and found["factors"].companion[4738] == "none"
    # One token has the relevancy of the wrong word, and is the only one that it cannot do without.
    values = found["found"]["language"].map("chair").values[0]
    assert values.argmax() == found["occluded"].argmin() == 33 and values[33] > 0.8
    assert found["occluded"][33] < 0.3 and np.delete(found["occluded"], 33).min() > 0.99
    for curves in found["curves"].values():
        assert curves.deletion_area < curves.random_deletion_areas.mean()
    # The concept of chairs is most active at "dog"; without it the word loses its probability.
    concept = found["report"].concepts[found["k"]]
    assert concept.words[0] == "chair" and set(found["of_images"]) == {"chair"}
    removed = ablate_concept(found["trace"], found["report"], found["k"], regenerate=False)
    assert removed.word_changes[-1] < min(found["controls"])
    assert "times 2" in printed and "'a chair and a dog" in printed
    for name in found["figures"]:
        kept = FOLDER.parent / "images" / f"{name}.png"
        assert 0 < kept.stat().st_size < 100_000
        assert f"images/{name}.png" in (FOLDER.parent / "case_study.md").read_text("utf-8")


def refresh(*names):
    """Write what every script (or those named) prints beside it, and draw its figures."""
    warnings.simplefilter("error")
    for script in SCRIPTS:
        if names and script.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            found, printed = run(script.stem)
        script.with_suffix(".txt").write_text(printed, encoding="utf-8")
        for name, figure in found.get("figures", {}).items():
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=84)
            path = FOLDER.parent / "images" / f"{name}.png"
            Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE).save(
                path, optimize=True
            )
        print(f"{script.stem}: {len(printed.splitlines())} lines")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    refresh(*sys.argv[1:])
