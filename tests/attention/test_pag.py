"""Partial ancestral graphs: edges as text, paths of possible d-separation, files."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semi_nmf_concepts.attention import PAG, icd

MARKS = {"o": 1, ">": 2, "<": 2, "-": 3}


def graph(n, *edges):
    """A PAG from edges such as "0 o-> 1"."""
    marks = np.zeros((n, n), dtype=np.int8)
    for edge in edges:
        i, line, j = edge.split()
        marks[int(i), int(j)], marks[int(j), int(i)] = MARKS[line[-1]], MARKS[line[0]]
    return PAG(marks, {}, np.zeros((n, n)), 0)


def test_edges_as_text():
    edges = ["0 o-o 1", "0 o-> 2", "0 --> 3", "1 <-> 2", "1 <-- 3", "1 <-o 4", "2 --- 4", "3 --o 4"]
    assert graph(5, *edges).edges() == edges
    assert graph(2, "0 o-> 1").edges(["a cat", "sits"]) == ["a cat o-> sits"]
    assert graph(3).edges() == []
    with pytest.raises(ValueError, match="names must have 2 entries"):
        graph(2).edges(["a"])


def test_a_short_repr():
    assert repr(graph(3, "0 o-> 1")) == "<PAG of 3 variables: 0 o-> 1>"
    assert repr(graph(3)) == "<PAG of 3 variables: no edges>"
    many = graph(12, *(f"0 o-> {j}" for j in range(1, 12)))
    assert repr(many).endswith("0 o-> 8, ...>")


def test_paths_go_through_colliders_and_triangles():
    chain = graph(4, "0 o-> 1", "1 --> 2", "2 --> 3")
    assert chain.possible_d_sep(3).tolist() == [-1, -1, 1, 0]  # 2 is no collider, no triangle
    colliders = graph(4, "0 o-> 1", "1 <-> 2", "2 <-> 3")
    assert colliders.possible_d_sep(3).tolist() == [3, 2, 1, 0]
    assert colliders.possible_d_sep(3, radius=2).tolist() == [-1, 2, 1, 0]
    triangle = graph(4, "0 o-> 1", "0 o-> 2", "1 o-> 2", "2 o-> 3", "1 o-> 3")
    assert triangle.possible_d_sep(3).tolist() == [3, 1, 1, 0]  # by 1 and 2: 3-2-0 has no edge 3-0
    for root in (-1, 4):
        with pytest.raises(ValueError, match=r"root must be one of the 4 variables"):
            chain.possible_d_sep(root)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_distances_are_those_of_all_paths(seed, n):
    """Up to three steps, which is where a search by steps and one by paths agree."""
    rng = np.random.default_rng(seed)
    edge = np.triu(rng.random((n, n)) < 0.6, 1)
    marks = np.where(edge | edge.T, rng.integers(1, 4, size=(n, n)), 0).astype(np.int8)
    expected = [-1] * n
    expected[0] = 0
    for length in range(min(n - 1, 3), 0, -1):
        for path in permutations(range(1, n), length):
            nodes = (0, *path)
            whole = all(marks[u, v] for u, v in zip(nodes[:-1], nodes[1:], strict=True))
            triples = zip(nodes[:-2], nodes[1:-1], nodes[2:], strict=True)
            if whole and all(
                marks[u, w] or (marks[u, v] == 2 and marks[w, v] == 2) for u, v, w in triples
            ):
                expected[path[-1]] = length
    found = PAG(marks, {}, np.zeros((n, n)), 0).possible_d_sep(0, radius=3)
    assert found.tolist() == expected


def test_saved_and_loaded(tmp_path):
    rho = [[1.0, 0.6, 0.36], [0.6, 1.0, 0.6], [0.36, 0.6, 1.0]]
    pag = icd(rho, 500, [0, 1, 2])
    pag.save(tmp_path / "pag.npz")
    again = PAG.load(tmp_path / "pag.npz")
    assert again.edges() == pag.edges() and again.separating_sets == pag.separating_sets
    np.testing.assert_array_equal(again.p_values, pag.p_values)
