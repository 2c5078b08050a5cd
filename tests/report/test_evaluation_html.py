"""The page of an evaluation as text: complete, honest, escaped, self-contained."""

import base64
import hashlib
import re
import sys
from html import unescape
from types import SimpleNamespace

import pandas as pd
import pytest

from semi_nmf_concepts.report import evaluation_tables, render_evaluation, write_evaluation_html
from semi_nmf_concepts.report._evaluation_findings import findings
from tests._example_evaluation import NASTY_WORDS, TOKENS, example_evaluation
from tests.report.test_html import Page


def changed(evaluation, **fields):
    return SimpleNamespace(**(vars(evaluation) | fields))


@pytest.fixture(scope="module")
def evaluation():
    return example_evaluation(n_concepts=4)


@pytest.fixture(scope="module")
def html(evaluation):
    return render_evaluation(evaluation)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def bare(**options):
    return example_evaluation(n_concepts=3, **({"curves": False} | options))


def test_every_number_of_the_tables_is_on_the_page(evaluation, page):
    for frame in evaluation_tables(evaluation.records, evaluation.tests).values():
        for column in frame.columns:
            for cell in frame[column].astype(str):
                number = cell.split(" ")[0].replace("-", "−")
                if re.fullmatch(r"[+−]?\d\.\d{3}", number):
                    assert number in page.content


def test_sections_in_order(page):
    ids = [attrs["id"] for attrs in page.all("section")]
    assert ids == [
        "findings", "scores", "overlap", "scatter", "layers", "n-components", "alpha", "stability",
        "factors", "concepts", "record", "samples",
    ]  # fmt: skip


def test_the_warning_stands_where_the_bundled_clip_scored(evaluation, page):
    assert "not comparable with the paper’s numbers" in page.content
    assert "BERTScore is not rescaled." in page.content  # a note
    settings = evaluation.settings | {"clip_bundled": False, "notes": []}
    other = Page(render_evaluation(changed(bare(), settings=settings)))
    assert "not comparable" not in other.content and "Notes" not in other.content


def test_the_best_value_is_bold_and_upper_references_never_are(evaluation, page):
    frame = evaluation_tables(evaluation.records)["table1"]
    block = frame[(frame["metric"] == "CLIPScore") & (frame["top"] == 1)]
    means = block.set_index("method")["mean"].str.split(" ").str[0]
    best = means.drop("GT-captions").astype(float).max()
    html = render_evaluation(changed(evaluation, points=pd.DataFrame(), concepts={}))
    assert f"<strong>{best:.3f}</strong>" in html
    for row in re.findall(r'<tr class="upper">.*?</tr>', html, flags=re.DOTALL):
        assert "<strong>" not in row


def test_strings_of_the_evaluation_make_no_markup(html, page):
    assert len(page.all("script")) == 1 == len(page.all("style"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert not page.all("i") and not page.all("b") and "<script>alert" not in html
    assert "{{ 7 * 7 }}" in page.content
    for word in NASTY_WORDS:
        assert " ".join(word.split()) in page.content
    assert TOKENS[2] in page.content and "<b>a note</b>" in page.content


def test_script_and_quotes_in_every_field(evaluation):
    poison = "</script></style></svg><img src=x onerror=alert(1)>'\"`<!--"

    def poisoned(value):
        if isinstance(value, str):
            return value + poison
        if isinstance(value, dict):
            return {key: poisoned(item) for key, item in value.items()}
        return [poisoned(item) for item in value] if isinstance(value, list | tuple) else value

    def frame(data, columns):
        return data.assign(**{column: data[column].map(poisoned) for column in columns})

    small = bare(tokens=("dog",), chosen_on=())
    bad = changed(
        small,
        records=frame(small.records, ["token", "method", "metric"]),
        points=frame(small.points, ["token", "method", "words"]),
        factors=frame(small.factors, ["token", "method", "factor", "value"]),
        tests=frame(small.tests, ["token", "method", "baseline", "metric"]),
        concepts={poisoned(token): poisoned(c) for token, c in small.concepts.items()},
        settings=poisoned(small.settings),
    )
    html = render_evaluation(bad)
    page = Page(html)
    assert {attrs["src"].split(":")[0] for attrs in page.all("img")} == {"data"}
    assert len(page.all("script")) == 1 == len(page.all("style"))
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert poison in unescape(html)


def test_nothing_points_outside_and_the_policy_fits(page):
    for attribute in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
        for value in page.values(attribute):
            assert value.startswith(("#", "data:image/"))
    (policy,) = [attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs]
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy and not page.values("style")


def test_references_names_and_heads(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert set(targets) | set(page.values("aria-labelledby")) <= set(ids)
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all("scope" in attrs for attrs in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs["aria-label"] for attrs in page.all("div", role="region"))
    heads = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert heads.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(heads, heads[1:], strict=False))


def test_same_evaluation_gives_the_same_page():
    assert render_evaluation(bare()) == render_evaluation(bare())


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"tokens": ("dog",), "chosen_on": ()}, ["left out of the averages"]),
        ({"tokens": ("dog",)}, []),  # the only token is the one that settings were chosen on
        ({"with_bert": False}, ["MAS BERTScore", "BERTScore 0."]),
        ({"with_factors": False}, ["Known factors", "AUROC"]),
        ({"n_test": 0}, ["paired test over"]),
    ],
    ids=["one token", "only chosen", "no BERT", "no factors", "no test samples"],
)
def test_parts_that_are_missing(options, missing):
    page = Page(render_evaluation(bare(**options)))
    words = page.content.split()
    assert "nan" not in words and "None" not in words
    for text in missing:
        assert text not in page.content
    assert not page.all("section", id="layers") and not page.all("section", id="stability")


def test_an_evaluation_of_nothing():
    empty = pd.DataFrame()
    nothing = changed(
        bare(), records=empty, points=empty, tests=empty, factors=None, concepts={}, settings={}
    )
    page = Page(render_evaluation(nothing))
    assert [attrs["id"] for attrs in page.all("section")] == ["findings", "record"]


def test_without_matplotlib_the_tables_remain(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(render_evaluation(bare()))
    assert "The figures are left out." in page.content
    assert not page.all("figure") and page.all("table")


def test_write(tmp_path):
    path = tmp_path / "new" / "evaluation.html"
    evaluation = changed(bare(), points=pd.DataFrame())
    write_evaluation_html(evaluation, path)
    assert path.read_bytes().decode() == render_evaluation(evaluation)
    assert [p.name for p in path.parent.iterdir()] == ["evaluation.html"]
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write"):
        write_evaluation_html(evaluation, tmp_path / "file" / "page.html")


# ---- findings: both ways ----


def against_random(differences, p_values, metrics=("clip_score",)):
    """Findings of an evaluation with these differences to random words."""
    rows, tests = [], []
    for metric, d, p in zip(metrics, differences, p_values, strict=True):
        base = {"table": "table1", "token": "dog", "metric": metric, "top": 1, "std": 0.1, "n": 90}
        rows += [base | {"method": "Semi-NMF", "mean": 0.5 + d}]
        rows += [base | {"method": "Rnd-Words (direction)", "mean": 0.5}]
        test = {"token": "dog", "metric": metric, "top": 1, "method": "Semi-NMF", "n": 90}
        tests.append(test | {"baseline": "Rnd-Words (direction)", "difference": d, "p_value": p})
    evaluation = bare()
    return findings(
        changed(
            evaluation,
            records=pd.DataFrame(rows),
            tests=pd.DataFrame(tests),
            points=pd.DataFrame(),
        )
    )


@pytest.mark.parametrize(
    ("difference", "p", "verdict", "how"),
    [
        (0.1, 1e-6, "yes", "better than random words"),
        (-0.1, 1 - 1e-6, "no", "worse than random words"),
        (0.1, 0.3, "open", "not measurably better than random words"),
        (-0.1, 0.7, "open", "not measurably better than random words"),
    ],
)
def test_a_finding_follows_the_test(difference, p, verdict, how):
    (finding,) = against_random([difference], [p])
    assert finding.verdict == verdict and finding.title.endswith(how)
    assert "paired test over 90 images" in finding.text
    assert f"{0.5 + difference:.3f} against 0.500" in finding.text


def test_metrics_that_disagree_are_told_apart():
    (finding,) = against_random([0.1, -0.1], [1e-6, 1.0], ("clip_score", "bert_score"))
    assert finding.verdict == "no"
    assert finding.title == (
        "By CLIPScore, Semi-NMF’s words fit the test images better than random words; "
        "by BERTScore, worse"
    )


def test_without_a_test_the_sentence_says_so():
    (finding,) = against_random([0.1], [float("nan")])
    assert finding.verdict == "fact" and "not tested" in finding.text
    assert finding.title.endswith("better on average than random words")


def test_methods_that_do_better_are_named(evaluation):
    told = {finding.title: finding for finding in findings(evaluation)}
    (overlap,) = [title for title in told if "share" in title]
    assert overlap.endswith("fewer words than those of Simple and KMeans, more than those of PCA")
    assert told[overlap].verdict == "open"
    records = evaluation.records.copy()
    ica = (records["method"] == "ICA, either sign") & (records["metric"] == "auroc")
    records.loc[ica, "mean"] = 0.99
    titles = [finding.title for finding in findings(changed(evaluation, records=records))]
    (recovery,) = [title for title in titles if "known factors" in title]
    assert recovery.endswith("less well than “ICA, either sign”")


def test_tokens_that_settings_were_chosen_on_do_not_count(evaluation):
    (finding,) = [f for f in findings(evaluation) if "random ones" in f.title]
    n = 4 * (len(TOKENS) - 1)
    assert f"of {n} concepts" in finding.text


def test_the_best_layer_is_named(evaluation):
    (finding,) = [f for f in findings(evaluation) if "layer" in f.title]
    layers = evaluation.records.query(
        "table == 'layers' and metric == 'mas_clip_score' and method == 'Semi-NMF'"
    )
    means = layers[layers["token"] == "mean"].set_index("layer")["mean"]
    assert finding.title == f"MAS CLIPScore is highest at layer {means.idxmax()}"
    assert f"{means.max():.3f} there" in finding.text
