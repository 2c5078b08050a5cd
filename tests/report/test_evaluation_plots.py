"""Figures of an evaluation: the numbers are where they belong, no window, no mathematics."""

import io
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from semi_nmf_concepts.report import (
    plot_concept_grid,
    plot_curves,
    plot_scatter,
    plot_stability,
    plot_table1,
)
from semi_nmf_concepts.report._drawing import svg_pair
from tests._example_evaluation import LEVELS, TOKENS, example_evaluation


@pytest.fixture(scope="module")
def evaluation():
    return example_evaluation()


def titles(figure):
    return [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]


def legend_texts(figure):
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + figure.legends
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def drawn(figure):
    figure.savefig(io.BytesIO(), dpi=30)
    return figure


def test_scatter_has_every_concept_on_equal_axes(evaluation):
    points = evaluation.points
    figure = drawn(plot_scatter(points))
    assert isinstance(figure, Figure)
    assert titles(figure) == ["MAS CLIPScore", "MAS BERTScore"]
    for axis, kind in zip(figure.axes[:2], ("clip", "bert"), strict=True):
        assert axis.get_aspect() == 1.0 and axis.get_xlim() == axis.get_ylim()
        # The diagonal, then points and mean of each method.
        lines = axis.lines[1:]
        x = np.concatenate([line.get_xdata() for line in lines[::2]])
        y = np.concatenate([line.get_ydata() for line in lines[::2]])
        assert sorted(zip(x, y, strict=True)) == sorted(
            zip(points[f"random_{kind}"], points[kind], strict=True)
        )


def test_scatter_counts_points_above_the_diagonal():
    points = pd.DataFrame(
        {
            "method": ["Semi-NMF"] * 4,
            "clip": [0.6, 0.6, 0.4, 0.5],
            "random_clip": [0.5, 0.5, 0.5, np.nan],
            "bert": [np.nan] * 4,
            "random_bert": [np.nan] * 4,
        }
    )
    figure = drawn(plot_scatter(points))
    assert titles(figure) == ["MAS CLIPScore"]
    assert legend_texts(figure) == ["Semi-NMF: 67% above"]


@pytest.mark.parametrize("points", [pd.DataFrame(), None])
def test_scatter_without_numbers_says_what_is_missing(evaluation, points):
    if points is None:
        points = evaluation.points.assign(clip=np.nan, bert=np.nan)
    with pytest.raises(ValueError, match="random_clip"):
        plot_scatter(points)


def test_curves_have_a_line_per_token_their_mean_and_random_words(evaluation):
    figure = drawn(plot_curves(evaluation.records, "layers", reference=4))
    shown = ["MAS CLIPScore", "MAS BERTScore", "Overlap of words", "Factor recovery"]
    shown += ["Variance explained", "Concepts per image", "Dead concepts"]
    assert titles(figure) == shown
    lines = figure.axes[0].lines
    records = evaluation.records.query("table == 'layers' and metric == 'mas_clip_score'")
    mean = records.query("method == 'Semi-NMF' and token == 'mean'").sort_values("layer")
    assert any(np.array_equal(line.get_ydata(), mean["mean"]) for line in lines)
    assert len(lines) == 1 + len(TOKENS) + 1 + 1  # random words, tokens, mean, reference
    assert legend_texts(figure)[0] == "Semi-NMF, mean over the tokens"


def test_the_weight_has_a_logarithmic_axis(evaluation):
    figure = plot_curves(evaluation.records, "alpha")
    assert {axis.get_xscale() for axis in figure.axes[:7]} == {"log"}
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["0.01", "0.03", "0.1", "0.3"]


def test_a_weight_of_zero_is_shown_too(evaluation):
    records = evaluation.records.copy()
    records.loc[(records["table"] == "alpha") & (records["alpha"] == 0.01), "alpha"] = 0.0
    figure = drawn(plot_curves(records, "alpha"))
    assert figure.axes[0].get_xscale() == "symlog"


def test_layers_without_a_scale_are_set_side_by_side(evaluation):
    records = evaluation.records.astype({"layer": object})
    records.loc[(records["table"] == "layers") & (records["layer"] == 4), "layer"] = "final_norm"
    figure = drawn(plot_curves(records, "layers", reference="final_norm"))
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["1", "2", "3", "final_norm"]


def test_curves_of_one_token_and_without_bert():
    bare = example_evaluation(tokens=("dog",), chosen_on=(), with_bert=False, with_factors=False)
    records = bare.records[bare.records["token"] != "mean"]
    figure = drawn(plot_curves(records, "n_components"))
    assert "MAS BERTScore" not in titles(figure)
    assert legend_texts(figure) == ["Semi-NMF, dog", "random words"]


def test_table1_has_a_panel_per_metric_and_top(evaluation):
    figure = drawn(plot_table1(evaluation.records))
    expected = ["CLIPScore, top 1", "CLIPScore, top 3", "BERTScore, top 1", "BERTScore, top 3"]
    assert titles(figure) == expected
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == list(LEVELS)


def test_stability_has_a_row_per_token(evaluation):
    figure = drawn(plot_stability(evaluation.records))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [*TOKENS, "mean"]


def test_concept_grid(evaluation):
    concepts = evaluation.concepts["dog"]
    figure = drawn(plot_concept_grid(concepts, n_images=3))
    assert len(figure.axes) == len(concepts)
    pictures = [len(axis.images) for axis in figure.axes]
    assert sum(pictures) == sum(min(len(concept["images"]), 3) for concept in concepts)
    texts = " ".join(text.get_text() for axis in figure.axes for text in axis.texts)
    assert "<script>alert(1)</script>" in texts and "(no words)" in texts
    assert len(plot_concept_grid([]).axes) == 0
    with pytest.raises(ValueError, match="n_images must be at least 1, got 0"):
        plot_concept_grid(concepts, n_images=0)


def test_wrong_or_empty_tables_are_named(evaluation):
    with pytest.raises(ValueError, match="table must be one of 'layers'.*got 'table1'"):
        plot_curves(evaluation.records, "table1")
    bare = example_evaluation(curves=False)
    with pytest.raises(ValueError, match="no number in the table 'layers'"):
        plot_curves(bare.records, "layers")
    with pytest.raises(ValueError, match="'stability'"):
        plot_stability(bare.records)
    with pytest.raises(ValueError, match="'table1'"):
        plot_table1(pd.DataFrame())


def test_svg_has_text_as_text_in_both_colours(evaluation):
    light, dark = svg_pair(plot_stability(evaluation.records))
    texts = {
        node.text for node in ElementTree.fromstring(light).iter() if node.tag.endswith("text")
    }
    assert set(TOKENS) <= texts  # markup and dollar signs among them
    assert light != dark and "#161a22" in light and "#161a22" not in dark
    assert svg_pair(plot_stability(evaluation.records)) == (light, dark)


def test_no_pyplot(evaluation):
    before = "matplotlib.pyplot" in sys.modules
    plot_table1(evaluation.records)
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda e: plot_scatter(e.points),
        lambda e: plot_curves(e.records, "layers"),
        lambda e: plot_table1(e.records),
        lambda e: plot_stability(e.records),
        lambda e: plot_concept_grid(e.concepts["dog"]),
    ],
)
def test_without_matplotlib_the_extra_is_named(evaluation, draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"semi_nmf_concepts\[plots\]"):
        draw(evaluation)
