"""Causal graphs of one word of an answer, on attention that is made for it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from semi_nmf_concepts.attention import AnswerWord, CausalGraph, causal_graph, icd, trace_answer
from semi_nmf_concepts.attention._words import find_words
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.lmm import Block, PatchGrid

# start, 6 image tokens (the last stands for no place), "what is it ?", then the answer.
N_PATCHES, N_PROMPT, N_ANSWER = 6, 11, 5
S = N_PROMPT + N_ANSWER


def grid(first=1, n=N_PATCHES):
    boxes = np.full((n, 4), np.nan)
    for k in range(n - 1):
        boxes[k] = k / (n - 1), 0.0, (k + 1) / (n - 1), 1.0
    tokens = Block("image", np.arange(n)[None])
    return PatchGrid(np.arange(first, first + n), boxes, [tokens], None, (50, 10))


def make_trace(A, grids=None):
    """What is needed of a trace; the answer is "a cat, A dog", its "cat," of two tokens."""
    words = [
        AnswerWord(*span) for span in (("a", 0, 1), ("cat,", 1, 3), ("A", 3, 4), ("dog", 4, 5))
    ]
    grids = [grid()] if grids is None else grids

    def full_attention(layer, head):
        if not -4 <= layer < 4:
            raise ValueError(f"layer={layer}: there are 4 layers")
        return A

    return SimpleNamespace(
        images=[Image.new("RGB", (50, 10))] * len(grids),
        image_names=[f"{k}.png" for k in range(len(grids))],
        grids=grids,
        n_prompt=N_PROMPT,
        n_tokens=N_ANSWER,
        n_heads=2,
        n_blocks=4,
        words=words,
        question_words=[
            AnswerWord("what", 7, 8),
            AnswerWord("is it", 8, 10),
            AnswerWord("?", 10, 11),
        ],
        find_words=lambda wanted: find_words(words, wanted),
        full_attention=full_attention,
    )


def random_attention(seed=0, n=S):
    A = np.tril(np.random.default_rng(seed).random((n, n)) ** 4) + 1e-3 * np.eye(n)
    return A / A.sum(axis=1, keepdims=True)


def labels(graph, kind=None):
    return [node["label"] for node in graph.nodes if kind in (None, node["kind"])]


def test_nodes_are_what_the_word_attended_to():
    A = random_attention()
    row = np.zeros(S)
    row[[1, 3, 6]] = 0.3, 0.2, 0.1  # 6 is the image token without a place
    row[[7, 8, 9, 11, 13]] = 0.1, 0.02, 0.03, 0.005, 0.245
    A[N_PROMPT - 1 + 4] = row  # the row that predicted "dog"
    graph = causal_graph(make_trace(A), "dog", 0, 0, threshold=0.05)
    assert labels(graph) == ["patch 0", "patch 2", "what", "is it", "cat,", "dog"]
    kinds = ["image", "image", "question", "question", "answer", "target"]
    assert [node["kind"] for node in graph.nodes] == kinds
    assert [node["position"] for node in graph.nodes] == [1, 3, 7, 8, 12, 15]
    assert [node["mass"] for node in graph.nodes[:-1]] == pytest.approx(
        [0.3, 0.2, 0.1, 0.05, 0.245]
    )
    assert graph.nodes[1]["image"] == 0 and graph.nodes[1]["patch"] == 2
    assert graph.nodes[-1]["mass"] is None and graph.nodes[2]["patch"] is None
    # By number, and never fewer than two patches.
    assert labels(causal_graph(make_trace(A), 3, 0, 0, n_patches=2), "image") == [
        "patch 0",
        "patch 2",
    ]
    assert len(labels(causal_graph(make_trace(A), 3, 0, 0, n_patches=50), "image")) == 5
    assert len(labels(causal_graph(make_trace(A), 3, 0, 0, threshold=1.0))) == 3
    # The last token of the prompt wrote the first of the answer: it is no node of its own.
    assert "?" not in labels(causal_graph(make_trace(A), "dog", 0, 0, threshold=0.0))


def test_at_most_fifty_patches_and_fifty_words():
    n = 200
    trace = make_trace(random_attention(n=n), [grid(1, 80)])
    trace.n_prompt = 190
    trace.question_words = [AnswerWord(f"w{k}", k, k + 1) for k in range(90, 170)]
    graph = causal_graph(trace, "dog", 0, 0, threshold=0.0, max_conditioning=1)
    assert len(labels(graph, "image")) == 50
    assert len(labels(graph, "question")) + len(labels(graph, "answer")) == 50
    least = min(node["mass"] for node in graph.nodes if node["kind"] == "image")
    row = trace.full_attention(0, 0)[190 - 1 + 4]
    assert np.count_nonzero(row[trace.grids[0].positions[:-1]] >= least) == 50


def test_the_correlation_is_that_of_the_rows():
    """rho by hand: rows that predicted the tokens of the answer, means over tokens, A A'."""
    A = random_attention(1)
    graph = causal_graph(make_trace(A), "dog", 0, 0, n_patches=4, threshold=0.0)
    rows = {"a": [10], "cat,": [11, 12], "A": [13], "dog": [14], "what": [7], "is it": [8, 9]}
    rows |= {f"patch {k}": [1 + k] for k in range(5)}
    M = np.stack([A[rows[label]].mean(axis=0) for label in labels(graph)])
    C = M @ M.T
    rho = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
    expected = icd(rho, 128, range(len(M)), 0.01, max_conditioning=3)
    np.testing.assert_array_equal(graph.marks, expected.marks)
    np.testing.assert_allclose(graph.p_values, expected.p_values)


def chain_of_causes():
    """The rows of patch 0, patch 2 and "dog" are a chain; all others look at themselves alone."""
    A = np.eye(S)
    A[3, [1, 3]] = 0.5, 0.5  # patch 2 mixes patch 0 in
    A[14] = 0.5 * A[3]  # "dog" mixes patch 2 in, and the start of the sequence, which is no node
    A[14, 0] = 0.5
    return A


def test_explanations_by_radius():
    graph = causal_graph(make_trace(chain_of_causes()), "dog", 0, 0, 1000, threshold=0.05)
    assert labels(graph) == ["patch 0", "patch 2", "dog"]
    assert graph.edges() == ["patch 0 o-> patch 2", "patch 2 --> dog"]
    # Patch 0 is separated from the word by patch 2, which is a cause, not a collider.
    assert graph.radius.tolist() == [-1, 1, 0]
    assert [graph.explanation(r) for r in (1, 2, 3)] == [[1]] * 3
    assert graph.weights[1] == pytest.approx(1.0) and graph.weights[[0, 2]].tolist() == [0, 0]
    found = graph.map()
    np.testing.assert_allclose(found.values[0], [0, 0, graph.weights[1], 0, 0, 0])
    assert found.words == ["dog"] and found.share == 1.0 and found.entropy == 0.0
    assert "radius 3" in found.label and found.pixels().shape == (10, 50)


def test_weights_are_partial_correlations_given_the_rest():
    from scipy.stats import norm

    for seed in range(20):
        graph = causal_graph(make_trace(random_attention(seed)), "dog", 0, 0, 300, threshold=0.0)
        members = graph.explanation(3)
        if len(members) > 2:
            break
    assert len(members) > 2
    sizes = [len(graph.explanation(radius)) for radius in (1, 2, 3)]
    assert sizes == sorted(sizes)
    assert graph.explanation(1) == [i for i in members if graph.marks[i, -1]]
    rows = {"a": [10], "cat,": [11, 12], "A": [13], "what": [7], "is it": [8, 9]}
    rows |= {f"patch {k}": [1 + k] for k in range(5)}
    A = random_attention(seed)
    M = np.stack([A[rows[graph.nodes[i]["label"]]].mean(axis=0) for i in members] + [A[14]])
    C = M @ M.T
    precision = np.linalg.inv(C)
    r = -precision[-1, :-1] / np.sqrt(precision[-1, -1] * np.diag(precision)[:-1])
    z = np.sqrt(300 - (len(members) - 1) - 3) * np.abs(np.arctanh(r))
    np.testing.assert_allclose(graph.weights[members], 1 - 2 * norm.sf(z), atol=1e-8)
    outside = graph.radius < 1
    assert (graph.weights[outside] == 0).all() and not outside[members].any()
    share = sum(graph.weights[i] for i in members if graph.nodes[i]["kind"] == "image")
    assert graph.map().share == pytest.approx(share / graph.weights.sum())


def test_few_records_and_many_nodes():
    """Weights condition on what the records allow, and stay finite."""
    rng = np.random.default_rng(0)
    A = random_attention() + 0.2 * rng.random((S, 1)) * np.tril(np.ones((S, S)))
    for n_records in (4, 5, 8):
        graph = causal_graph(make_trace(A), "dog", 1, 1, n_records, alpha=0.9, threshold=0.0)
        assert np.isfinite(graph.p_values).all() and np.isfinite(graph.weights).all()
        assert ((graph.weights >= 0) & (graph.weights <= 1)).all()


def test_an_order_is_used_only_where_attention_is_causal():
    """With image tokens that see each other, none of them is known to come first."""
    A = random_attention(3)
    A[1:7, 1:7] = np.random.default_rng(0).random((6, 6)) ** 4
    graph = causal_graph(make_trace(A), "dog", 0, 0, 10_000, n_patches=5, threshold=0.0)
    image = [i for i, node in enumerate(graph.nodes) if node["kind"] == "image"]
    text = [i for i, node in enumerate(graph.nodes) if node["kind"] != "image"]
    assert len(image) == 5
    into_text = graph.marks[:, text]
    for k, j in enumerate(text):
        assert set(into_text[:j, k]) <= {0, 2}  # later: arrowheads
    causal = causal_graph(make_trace(np.tril(A)), "dog", 0, 0, 10_000, n_patches=5, threshold=0.0)
    upper = np.triu(np.ones((5, 5), dtype=bool), 1)
    assert set(causal.marks[:5, :5][upper]) <= {0, 2}
    assert not set(graph.marks[:5, :5][upper]) <= {0, 2}


def test_two_images():
    A = random_attention(4)
    trace = make_trace(A, [grid(1, 3), grid(4, 3)])
    graph = causal_graph(trace, 3, -1, -1, alpha=0.5, n_patches=4)
    assert labels(graph, "image") == [f"image {i}, patch {k}" for i in (1, 2) for k in (0, 1)]
    assert (graph.layer, graph.head) == (3, 1)
    assert [len(part) for part in graph.map().values] == [3, 3]


def test_rows_that_are_copies():
    A = random_attention(5)
    A[:, :] = A[-1]
    graph = causal_graph(make_trace(A), "dog", 0, 0, threshold=0.0)
    assert np.isfinite(graph.p_values).all() and np.isfinite(graph.weights).all()
    A = random_attention(5)
    A[2], A[14] = A[3], A[3]
    graph = causal_graph(make_trace(A), "dog", 0, 0, threshold=0.0)
    assert np.isfinite(graph.p_values).all() and np.isfinite(graph.weights).all()


def test_plain_values_and_files(tmp_path):
    graph = causal_graph(make_trace(chain_of_causes()), "dog", 0, 0, 1000, threshold=0.05)
    content = json.loads(json.dumps(graph.to_dict(), allow_nan=False))
    assert content["word"] == "dog" and content["marks"] == graph.marks.tolist()
    assert content["nodes"] == graph.nodes
    graph.save(tmp_path / "graph.npz")
    again = CausalGraph.load(tmp_path / "graph.npz")
    assert again.edges() == graph.edges() and again.nodes == graph.nodes
    np.testing.assert_array_equal(again.map(1).values[0], graph.map(1).values[0])
    assert repr(again) == (
        "<CausalGraph of 'dog', layer 0, head 0: 3 nodes, 2 edges, 1 in the explanation>"
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"word": "bird"}, ValueError, "'bird' is not in the answer; it has 0: 'a'"),
        ({"word": 9}, ValueError, "there is no word 9"),
        ({"word": "a"}, ValueError, "give one of the indices 0, 2"),
        ({"word": None}, ValueError, "word must be one word"),
        ({"layer": 7}, ValueError, "there are 4 layers"),
        ({"n_records": 3}, ValueError, "n_records must be at least 4"),
        ({"alpha": 1.5}, ValueError, "alpha must be between 0 and 1"),
        ({"threshold": -0.1}, ValueError, "threshold must be between 0 and 1"),
        ({"threshold": "x"}, TypeError, "threshold must be a number"),
        ({"n_patches": 1}, ValueError, "n_patches must be between 2 and 50"),
        ({"n_patches": 51}, ValueError, "n_patches must be between 2 and 50"),
        ({"n_patches": 2.5}, TypeError, "n_patches must be an int or None"),
        ({"max_conditioning": -1}, ValueError, "max_conditioning must not be negative"),
        ({"max_radius": 0}, ValueError, "max_radius must be at least 1"),
        ({"max_radius": 1.0}, TypeError, "max_radius must be an int"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"word": "dog", "layer": 0, "head": 0} | changes
    with pytest.raises(error, match=message):
        causal_graph(make_trace(random_attention()), **arguments)


def test_bad_attention_and_radius():
    A = random_attention()
    A[3, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        causal_graph(make_trace(A), "dog", 0, 0)
    A[:] = 0
    with pytest.raises(ValueError, match="must not be 0"):
        causal_graph(make_trace(A), "dog", 0, 0)
    graph = causal_graph(make_trace(random_attention()), "dog", 0, 0)
    with pytest.raises(ValueError, match="radius must be at least 1"):
        graph.map(0)


def test_the_bundled_model():
    trace = trace_answer(images=load_scenes("test", token="dog", n=1).images[0])
    with pytest.raises(ValueError, match=r"layer=9 .* 4 layers"):
        causal_graph(trace, "dog", 9, 0)
    with pytest.raises(ValueError, match=r"head=5 .* 5 heads"):
        causal_graph(trace, "dog", 0, 5)
    n_explained = 0
    for head in range(3):
        graph = causal_graph(trace, "dog", -1, head)
        again = causal_graph(trace, "dog", 3, head)
        np.testing.assert_array_equal(graph.marks, again.marks)
        np.testing.assert_array_equal(graph.weights, again.weights)
        upper = np.triu(np.ones(graph.marks.shape, dtype=bool), 1)
        assert set(graph.marks[upper]) <= {0, 2}  # the order is respected
        n_explained += len(graph.explanation()) > 0
    assert n_explained > 0
