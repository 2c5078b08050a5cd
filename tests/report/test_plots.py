"""Figures: right axes and pictures, no window, no global state."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from semi_nmf_concepts.report import plot_concepts, plot_local
from tests._example_report import example_report


@pytest.fixture(scope="module")
def report():
    return example_report(n_concepts=6, n_local=4)


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_one_row_per_concept(report, tmp_path):
    figure = plot_concepts(report)
    assert isinstance(figure, Figure)
    pictures = [len(axis.images) for axis in figure.axes]
    assert pictures == [len(c.image_indices) for c in report.concepts]
    for axis in figure.axes:  # in the figure, side by side, and not distorted
        assert axis.get_position().x0 >= 0 and axis.get_position().y1 <= 1 + 1e-9
        extents = [image.get_extent() for image in axis.images]
        assert all(a[1] < b[0] for a, b in zip(extents, extents[1:], strict=False))
        for image, (left, right, bottom, top) in zip(axis.images, extents, strict=True):
            height, width = image.get_array().shape[:2]
            np.testing.assert_allclose((right - left) / (top - bottom), width / height)
            assert (
                axis.get_xlim()[1] > right
                and axis.get_ylim()[0] < bottom < top < axis.get_ylim()[1]
            )
    joined = " ".join(texts(figure)).replace("\n", " ")
    assert all(word in joined for word in report.concepts[1].words[:5])
    assert "(no words)" in joined  # the dead concept
    figure.savefig(tmp_path / "concepts.png", dpi=40)


def test_chosen_concepts_and_fewer_images(report):
    figure = plot_concepts(report, [4, 1], n_images=2, n_words=1)
    assert [len(axis.images) for axis in figure.axes] == [
        min(len(report.concepts[k].image_indices), 2) for k in (4, 1)
    ]
    assert texts(figure)[0].startswith("4 ")
    assert texts(figure)[1] == report.concepts[4].words[0]
    assert len(report.plot(concepts=[0]).axes) == 1


def test_local_sample(report, tmp_path):
    local = report.local(2)
    figure = plot_local(report, 2)
    assert len(figure.axes) == 2 + 3 * len(local.items)
    bars = [patch.get_width() for patch in figure.axes[1].patches]
    np.testing.assert_allclose(bars, [item["share"] for item in local.items])
    assert len(report.plot_local(2, r=1).axes) == 2 + 3
    figure.savefig(tmp_path / "local.png", dpi=40)


def test_sample_without_active_concepts(report, tmp_path):
    silent = replace(report, local_activations=np.zeros_like(report.local_activations))
    figure = plot_local(silent, 0)
    assert len(figure.axes) == 2
    assert "no concept is active" in texts(figure)
    figure.savefig(tmp_path / "silent.png", dpi=40)


def test_dollar_signs_are_not_mathematics(report, tmp_path):
    captions = ["$\\frac{1}$ a $5 dog"] * report.n_local
    odd = replace(
        report,
        local_samples=replace(report.local_samples, captions=captions),
        concepts=[
            replace(c, words=["$\\x$", "_^{"], word_scores=[1.0, 0.5]) for c in report.concepts
        ],
    )
    plot_local(odd, 0).savefig(tmp_path / "local.png", dpi=40)
    plot_concepts(odd, [0]).savefig(tmp_path / "concepts.png", dpi=40)


def test_no_pyplot(report):
    before = "matplotlib.pyplot" in sys.modules
    plot_concepts(report, [0])
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_wrong_arguments(report):
    with pytest.raises(ValueError, match=r"concepts must lie in 0\.\.5.*got 6"):
        plot_concepts(report, [6])
    with pytest.raises(ValueError, match="n_images must be at least 1"):
        plot_concepts(report, n_images=0)
    with pytest.raises(ValueError, match="i must be below the 4 local samples"):
        plot_local(report, 4)


@pytest.mark.parametrize("draw", [plot_concepts, lambda report: plot_local(report, 0)])
def test_without_matplotlib_the_extra_is_named(report, draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"semi_nmf_concepts\[plots\]"):
        draw(report)
