"""Figures of the results of one answer: the right axes and numbers, no global state."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from semi_nmf_concepts.attention import icd
from semi_nmf_concepts.report import plot_causal_graph, plot_image_map, plot_relevancy, plot_trace
from tests.report._answer_fixture import example_ablation, example_explanation


@pytest.fixture(scope="module")
def explanation():
    return example_explanation(nasty=True, n_images=2, tiles=True)


@pytest.fixture(scope="module")
def simple():
    return example_explanation()


def texts(figure):
    found = [text.get_text() for axis in figure.axes for text in axis.texts]
    found += [axis.get_title() for axis in figure.axes]
    return [*found, figure.get_suptitle()]


def results(explanation):
    trace = explanation.trace
    return [
        trace,
        explanation,
        trace.image_attention(),
        trace.words_for_patches([3]),
        trace.heads_by_layers("question"),
        explanation.relevancy["both"],
        explanation.causal[1],
        explanation.faithfulness[2],
        explanation.concepts,
        example_ablation(trace),
    ]


def test_every_result_draws_itself_and_markup_stays_text(explanation, tmp_path):
    """`$` and `<` of words are no mathematics and no markup."""
    for i, result in enumerate(results(explanation)):
        figure = result.plot()
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{i}.png", dpi=30)
        assert (tmp_path / f"{i}.png").stat().st_size > 1000


def test_maps_over_all_images_or_one(explanation):
    found = explanation.trace.image_attention("ball")
    figure = plot_image_map(found, scale="log", opacity=1.0)
    assert [len(axis.images) for axis in figure.axes] == [1, 1]
    assert "“ball”" in figure.get_suptitle()
    one = plot_image_map(found, 1)
    assert len(one.axes) == 1
    with pytest.raises(ValueError, match="image=2 does not exist: there are 2 images"):
        plot_image_map(found, 2)


def test_a_stronger_map_is_drawn_stronger_on_either_image(explanation):
    """Images share a scale: the one with the larger values has the brighter peak."""
    found = explanation.trace.image_attention()
    found.values = [np.ones_like(found.values[0]), 4 * np.ones_like(found.values[1])]
    axes = plot_image_map(found, opacity=1.0).axes
    dim, bright = (axis.images[0].get_array()[..., 0].mean() for axis in axes)
    assert bright > dim + 50


def test_the_heads_of_a_trace_are_sorted_by_their_mass(simple):
    trace = simple.trace
    titles = [axis.get_title() for axis in plot_trace(trace, "red", layer=2).axes]
    masses = trace.heads_by_layers(words="red").values[2]
    order = np.argsort(-masses)
    assert titles[2:7] == [f"head {head}, {masses[head]:.0%}" for head in order]


def test_the_table_of_heads_has_the_numbers(simple):
    masses = simple.trace.heads_by_layers()
    axis = masses.plot().axes[0]
    np.testing.assert_array_equal(axis.images[0].get_array(), masses.values)
    written = [int(text.get_text()) for text in axis.texts]
    np.testing.assert_allclose(written, 100 * masses.values.ravel(), atol=0.51)


def test_bars_of_words(simple):
    scores = simple.trace.words_for_patches([24, 25])
    axis = scores.plot().axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in axis.patches], scores.values)
    assert [text.get_text() for text in axis.get_xticklabels()] == scores.words


def test_relevancy_of_chosen_words(simple):
    found = simple.relevancy["language"]
    figure = plot_relevancy(found, ["ball", 0])
    assert len(figure.axes) == 4
    joined = " ".join(texts(figure))
    assert "“ball”" in joined and f"image {found.shares[2, 0]:.0%}" in joined
    assert found.top_words("ball", 1)[0][0] in joined
    with pytest.raises(ValueError, match="was not explained"):
        plot_relevancy(found, "beach")


@pytest.mark.parametrize("radius", [1, 3])
def test_the_graph_shows_the_nodes_within_the_radius(simple, radius):
    graph = simple.causal[1]
    figure = plot_causal_graph(graph, radius)
    inside = graph.explanation(radius)
    patches = [i for i in inside if graph.nodes[i]["kind"] == "image"]
    assert len(figure.axes[0].images) == len(patches)
    drawn = texts(figure)
    for i in inside:
        if graph.nodes[i]["kind"] != "image":
            assert graph.nodes[i]["label"] in drawn
    among = [*inside, len(graph.nodes) - 1]
    marks = graph.marks[np.ix_(among, among)]
    lines = figure.axes[0].lines
    assert sum(line.get_marker() == "o" for line in lines) == (marks == 1).sum()
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == (marks == 2).sum()


def test_nodes_outside_are_drawn_on_demand(simple):
    graph = simple.causal[1]
    images = [node for node in graph.nodes if node["kind"] == "image"]
    assert len(plot_causal_graph(graph, outside=True).axes[0].images) == len(images)


def test_a_pag_with_the_marks_of_its_edges():
    rho = np.array([[1, 0, 0.6], [0, 1, 0.6], [0.6, 0.6, 1]])
    pag = icd(rho, 5000, [0, 1, 2])
    assert pag.edges() == ["0 o-> 2", "1 o-> 2"]
    axis = pag.plot(names=["$a$", "<b>", "c"]).axes[0]
    assert {"$a$", "<b>", "c"} <= {text.get_text() for text in axis.texts}
    assert sum(line.get_marker() == "o" for line in axis.lines) == 2
    assert sum(getattr(text, "arrow_patch", None) is not None for text in axis.texts) == 2
    with pytest.raises(ValueError, match="names must have 3 entries"):
        pag.plot(names=["a"])


def test_curves_of_the_map_and_of_random_ones(simple):
    curves = simple.faithfulness[2]
    for axis, own in zip(curves.plot().axes, (curves.deletion, curves.insertion), strict=True):
        assert len(axis.lines) == 1 + len(curves.random_deletion)
        np.testing.assert_array_equal(axis.lines[-1].get_ydata(), own)
    labels = [t.get_text() for t in curves.plot().axes[0].get_legend().get_texts()]
    assert labels[0] == "area 0.240"


def test_concepts_in_the_order_of_their_activation(simple):
    found = simple.concepts
    axis = found.plot(n_concepts=3).axes[0]
    drawn = np.asarray(axis.images[0].get_array())
    assert drawn.shape == (3, len(found.words))
    peaks = np.sort(found.word_activations.max(axis=0))[::-1]
    np.testing.assert_allclose(drawn.max(axis=1), peaks[:3])


def test_an_ablation_shows_both_logits_and_both_answers(simple):
    ablation = example_ablation(simple.trace)
    figure = ablation.plot()
    before, after = figure.axes[0].lines[:2]
    np.testing.assert_array_equal(before.get_ydata(), ablation.logits_before)
    np.testing.assert_array_equal(after.get_ydata(), ablation.logits_after)
    assert "$blue$" in figure.get_suptitle()


def test_pyplot_is_not_needed(simple):
    import sys

    sys.modules.pop("matplotlib.pyplot", None)
    simple.trace.plot()
    simple.causal[1].plot()
    assert "matplotlib.pyplot" not in sys.modules


def test_patches_of_a_graph_are_named_and_edges_pass_other_nodes(simple):
    graph = simple.causal[1]
    axis = plot_causal_graph(graph, radius=3).axes[0]
    drawn = [text.get_text() for text in axis.texts]
    for i in graph.explanation(3):
        if graph.nodes[i]["kind"] == "image":
            assert any(text.startswith(graph.nodes[i]["label"] + " · ") for text in drawn)
    boxes = [image.get_extent() for image in axis.images]
    for line in axis.lines:
        x, y = np.asarray(line.get_data())
        for left, right, low, high in boxes:
            bottom, top = sorted((low, high))
            assert not ((x > left) & (x < right) & (y > bottom) & (y < top)).any()
