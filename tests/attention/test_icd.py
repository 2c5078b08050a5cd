"""Iterative causal discovery, against definitions that share no code with it."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks._causal_data import (
    CASES,
    draw_coefficients,
    population_correlation,
    share_recovered,
    simulate,
)
from semi_nmf_concepts.attention import icd
from semi_nmf_concepts.attention._icd import search
from semi_nmf_concepts.attention._independence import FisherZ, regularised
from semi_nmf_concepts.attention._orientation import _r6, _r7, _r8, _r10, _reachable, orient
from tests.attention._independence_models import (
    ARROW,
    CIRCLE,
    TAIL,
    Oracle,
    all_maximal_ancestral_graphs,
    d_separated,
    equivalence_classes,
    subsets,
)

#: Records at which exact correlations tell dependence from independence almost without error.
EXACT = 10**14


# The four graphs that everybody knows


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_exact_correlations_give_the_expected_graph(name, data):
    case = CASES[name]
    size = st.floats(0.5, 1.0)
    coefficients = [
        data.draw(size) * data.draw(st.sampled_from([-1, 1])) for _ in range(len(case.causes))
    ]
    rho = population_correlation(case.n_observed, case.n_variables, case.causes, coefficients)
    for n_records in (5000, 10**6):
        found = icd(rho, n_records, range(case.n_observed), 0.01)
        assert tuple(found.edges()) == case.expected


@pytest.mark.parametrize("name", CASES)
def test_simulated_records_give_the_expected_graph(name):
    assert share_recovered(CASES[name], n_runs=200, n_records=5000, alpha=0.01) >= 0.93


def test_without_an_order_less_is_known():
    rho = {
        name: population_correlation(
            case.n_observed, case.n_variables, case.causes, [0.7] * len(case.causes)
        )
        for name, case in CASES.items()
    }
    found = {name: icd(matrix, 5000, None).edges() for name, matrix in rho.items()}
    assert found["chain"] == ["0 o-o 1", "1 o-o 2"]
    assert found["fork"] == ["0 o-o 1", "0 o-o 2"]
    assert found["collider"] == ["0 o-> 2", "1 o-> 2"]
    assert found["latent confounder"] == ["0 o-> 2", "1 o-> 3", "2 <-> 3"]


# All small graphs, by definition


def kinds(tiers, selection=False):
    """The kinds of edges that a MAG may have, given an order (or None), for every pair i < j."""
    forwards, backwards, both = (TAIL, ARROW), (ARROW, TAIL), (ARROW, ARROW)

    def edges(i, j):
        if tiers is not None and tiers[i] < tiers[j]:
            return [forwards, both]
        return [forwards, backwards, both, *([(TAIL, TAIL)] if selection else [])]

    return edges


@pytest.mark.parametrize(
    ("tiers", "selection"),
    [
        ([0, 1, 2, 3], False),
        ([0, 0, 1, 1], False),
        ([0, 1, 1, 2], False),
        (None, True),
    ],
    ids=["ordered", "two tiers", "three tiers", "no order, selection"],
)
def test_all_graphs_of_four_variables(tiers, selection):
    """The marks found are those that all graphs with the same independences share."""
    graphs = all_maximal_ancestral_graphs(4, kinds(tiers, selection))
    classes = list(equivalence_classes(graphs))
    assert len(classes) > 100
    for graph, expected in classes:
        places = None if tiers is None else np.array(tiers)
        pag = search(Oracle(graphs, graph), 4, places, 0.5, 4)
        np.testing.assert_array_equal(pag.marks, expected)


def test_ordered_graphs_of_five_variables():
    graphs = all_maximal_ancestral_graphs(5, kinds(range(5)))
    classes = list(equivalence_classes(graphs))
    rng = np.random.default_rng(0)
    for k in rng.choice(len(classes), size=150, replace=False):
        graph, expected = classes[k]
        pag = search(Oracle(graphs, graph), 5, np.arange(5), 0.5, 5)
        np.testing.assert_array_equal(pag.marks, expected)


# Random graphs with hidden variables, and selection


def random_parents(rng, n_observed, n_hidden, n_selected):
    """Parents of every variable: observed ones in order, then hidden, then selection variables."""
    n = n_observed + n_hidden + n_selected
    parents = {v: set() for v in range(n)}
    for a, b in combinations(range(n_observed), 2):
        if rng.random() < 0.35:
            parents[b].add(a)
    for hidden in range(n_observed, n_observed + n_hidden):
        for child in rng.choice(n_observed, size=2, replace=False):
            parents[int(child)].add(hidden)
    for selected in range(n_observed + n_hidden, n):
        parents[selected] |= set(rng.choice(n_observed, size=2, replace=False).tolist())
    return parents


def ancestors(parents, of):
    found, wanted = set(), list(of)
    while wanted:
        v = wanted.pop()
        if v not in found:
            found.add(v)
            wanted += parents[v]
    return found


class Separation:
    """The tests of an oracle that knows the graph; what was selected is always given."""

    def __init__(self, parents, selected):
        self.parents, self.selected = parents, selected

    def p_values(self, root, others, sets):
        return np.array([[self._p(root, int(v), given) for v in others] for given in sets])

    def _p(self, root, other, given):
        given = {int(v) for v in given}
        if other in given:
            return 0.0
        return float(d_separated(self.parents, root, other, given | self.selected))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(4, 6), st.integers(0, 3))
def test_random_graphs(seed, ordered, n, n_hidden):
    """Edges join what nothing separates; arrowheads and tails are true of the graph."""
    rng = np.random.default_rng(seed)
    n_selected = 0 if ordered else int(rng.integers(0, 2))
    parents = random_parents(rng, n, n_hidden, n_selected)
    selected = set(range(n + n_hidden, n + n_hidden + n_selected))
    tiers = np.arange(n) if ordered else None
    pag = search(Separation(parents, selected), n, tiers, 0.5, n)
    for i, j in combinations(range(n), 2):
        rest = [v for v in range(n) if v not in (i, j)]
        separable = any(
            d_separated(parents, i, j, set(given) | selected) for given in subsets(rest)
        )
        assert (pag.marks[i, j] == 0) == separable
        if separable:
            given = pag.separating_sets[frozenset((i, j))]
            assert d_separated(parents, i, j, set(given) | selected)
        for a, b in ((i, j), (j, i)):
            causes = b in ancestors(parents, {a, *selected})
            if pag.marks[a, b] == ARROW:
                assert not causes
            elif pag.marks[a, b] == TAIL:
                assert causes


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.integers(0, 3))
def test_exact_correlations_of_random_graphs(seed, n, n_hidden):
    """Numbers in, the same graph as from the oracle that knows it."""
    rng = np.random.default_rng(seed)
    parents = random_parents(rng, n, n_hidden, 0)
    causes = [(a, b) for b, of in parents.items() for a in sorted(of)]
    coefficients = draw_coefficients(len(causes), rng)
    rho = population_correlation(n, n + n_hidden, causes, coefficients)
    found = icd(rho, EXACT, range(n))
    expected = search(Separation(parents, set()), n, np.arange(n), 0.5, n)
    assert found.edges() == expected.edges()


def test_rules_that_small_graphs_do_not_need():
    """R6, R7, R8 and R10 by their wording, on marks that are put there by hand."""
    M = np.zeros((3, 3), dtype=np.int8)
    M[0, 1], M[1, 0], M[2, 1], M[1, 2] = TAIL, TAIL, CIRCLE, ARROW  # 0 --- 1 o-> 2
    assert _r6(M) and M[2, 1] == TAIL and not _r6(M)
    M[0, 1], M[1, 0], M[2, 1], M[1, 2] = CIRCLE, TAIL, CIRCLE, CIRCLE  # 0 --o 1 o-o 2
    assert _r7(M) and M[2, 1] == TAIL and not _r7(M)
    for mark in (ARROW, CIRCLE):  # 0 --> 1 or 0 --o 1, 1 --> 2, 0 o-> 2
        M[0, 1], M[1, 0], M[2, 1], M[1, 2] = mark, TAIL, TAIL, ARROW
        M[0, 2], M[2, 0] = ARROW, CIRCLE
        assert _r8(M) and M[2, 0] == TAIL and not _r8(M)
    M = np.zeros((5, 5), dtype=np.int8)
    for a, b, at_a, at_b in (
        (0, 1, CIRCLE, CIRCLE),  # 0 o-o 1 --> 4
        (0, 2, CIRCLE, CIRCLE),  # 0 o-o 2 o-> 3 --> 4
        (2, 3, CIRCLE, ARROW),
        (1, 4, TAIL, ARROW),
        (3, 4, TAIL, ARROW),
        (0, 4, CIRCLE, ARROW),
    ):
        M[b, a], M[a, b] = at_a, at_b
    for a, b, mark in ((1, 2, CIRCLE), (0, 3, ARROW)):  # joins the starts; covers the second path
        covered = M.copy()
        covered[a, b] = covered[b, a] = mark
        assert not _r10(covered, _reachable(covered))
    assert _r10(M, _reachable(M)) and M[4, 0] == TAIL and not _r10(M, _reachable(M))


# Properties


def random_correlation(rng, n):
    X = rng.standard_normal((n + 2, n)) @ rng.standard_normal((n, n))
    return np.corrcoef(X.T)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_numbering_does_not_matter(seed, n):
    rng = np.random.default_rng(seed)
    rho, places = random_correlation(rng, n), rng.permutation(n)
    pag = icd(rho, 100, places, 0.05)
    new = rng.permutation(n)  # variable i of the new numbering is variable new[i] of the old
    again = icd(rho[np.ix_(new, new)], 100, places[new], 0.05)
    np.testing.assert_array_equal(again.marks, pag.marks[np.ix_(new, new)])
    np.testing.assert_array_equal(again.p_values, pag.p_values[np.ix_(new, new)])
    renamed = {
        frozenset(int(new[v]) for v in pair): {int(new[v]) for v in given}
        for pair, given in again.separating_sets.items()
    }
    assert renamed == {pair: set(given) for pair, given in pag.separating_sets.items()}
    assert again.n_tests == pag.n_tests
    # Only the order of the places counts.
    np.testing.assert_array_equal(icd(rho, 100, places * 7 - 3, 0.05).marks, pag.marks)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_later_variables_cause_no_earlier_ones(seed, n):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 4, size=n)
    pag = icd(random_correlation(rng, n), 60, places, 0.2)
    edge = pag.marks != 0
    np.testing.assert_array_equal(edge, edge.T)
    later = places[:, None] < places
    assert (pag.marks[edge & later] == ARROW).all()
    for pair, others in pag.separating_sets.items():
        assert max(places[list(others)], default=0) <= max(places[list(pair)])


def hard_matrices():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6))
    yield "duplicates", np.corrcoef(np.c_[X, X].T)
    yield "all the same", np.ones((5, 5))
    yield "opposites", np.corrcoef(np.c_[X, -X].T)
    yield "a sum of others", np.corrcoef(np.c_[X, X.sum(axis=1)].T)
    yield "fewer records than variables", np.corrcoef(X[:4].T)
    yield "nearly copies", np.corrcoef(np.c_[X, X + 1e-9 * rng.standard_normal(X.shape)].T)
    yield "nothing", np.eye(5)
    yield "single precision", np.corrcoef(np.c_[X, X].T).astype(np.float32)
    rows = np.tril(rng.random((30, 30))) ** 8 + 1e-3 * np.eye(30)
    rows[:, 0] += 20  # a sink: all rows nearly alike
    C = rows @ rows.T
    yield "attention to a sink", C / np.sqrt(np.outer(np.diag(C), np.diag(C)))


@pytest.mark.parametrize("rho", [pytest.param(rho, id=name) for name, rho in hard_matrices()])
@pytest.mark.parametrize("n_records", [4, 6, 128, 10**6])
def test_every_p_value_is_finite(rho, n_records):
    n = len(rho)
    pag = icd(rho, n_records, range(n), max_conditioning=3)
    assert pag.p_values.shape == (n, n) and np.isfinite(pag.p_values).all()
    assert ((pag.p_values >= 0) & (pag.p_values <= 1)).all()
    # An edge is what no test removed, and no test had fewer than one degree of freedom.
    off = ~np.eye(n, dtype=bool)
    np.testing.assert_array_equal(pag.marks[off] == 0, pag.p_values[off] > 0.01)
    sizes = [len(given) for given in pag.separating_sets.values()]
    assert max(sizes, default=0) <= min(3, n_records - 4)


def test_alpha_and_the_largest_set_count():
    rng = np.random.default_rng(1)
    rho = random_correlation(rng, 8)
    edges = [(icd(rho, 50, range(8), alpha).marks != 0).sum() for alpha in (0.9, 0.1, 1e-6)]
    assert edges[0] > edges[1] > edges[2]
    none = icd(rho, 50, range(8), max_conditioning=0)
    assert all(given == () for given in none.separating_sets.values())
    assert none.n_tests == 28
    # The first of a chain is separated from the third by the second only.
    chain = population_correlation(3, 3, ((0, 1), (1, 2)), (1.0, 1.0))
    assert len(icd(chain, 5000, range(3), max_conditioning=0).edges()) == 3
    assert icd(chain, 5000, range(3), max_conditioning=1).separating_sets == {
        frozenset((0, 2)): (1,)
    }


def test_sixty_variables_take_little_time():
    rng = np.random.default_rng(0)
    X = rng.random((60, 60)) + 3 * np.eye(60)
    C = X @ X.T
    rho = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
    start = time.perf_counter()
    pag = icd(rho, 128, range(60), max_conditioning=2)
    assert time.perf_counter() - start < 5.0  # about 0.25 s on one core
    assert pag.n_tests > 100_000


# Tests of independence


def test_p_values_are_those_of_regressions():
    rng = np.random.default_rng(0)
    coefficients = draw_coefficients(4, rng)
    X = simulate(4, 5, ((0, 2), (1, 3), (4, 2), (4, 3)), coefficients, 300, rng)
    test = FisherZ(np.corrcoef(X.T), len(X))
    for root, other in ((2, 3), (0, 1), (3, 0)):
        rest = [v for v in range(4) if v not in (root, other)]
        for others in subsets(rest):
            Z = np.c_[np.ones(len(X)), X[:, list(others)]]
            left = X - Z @ np.linalg.lstsq(Z, X, rcond=None)[0]
            r = np.corrcoef(left[:, root], left[:, other])[0, 1]
            z = np.sqrt(len(X) - len(others) - 3) * np.arctanh(r)
            found = test.p_values(root, np.array([other]), np.array([others], dtype=int))
            assert found[0, 0] == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-8, abs=1e-300)


def test_p_values_are_uniform_where_variables_are_independent():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        X = simulate(3, 3, ((0, 1), (1, 2)), (0.8, 0.8), 100, rng)
        test = FisherZ(np.corrcoef(X.T), 100)
        p.append(test.p_values(0, np.array([2]), np.array([[1]]))[0, 0])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_regularising_changes_as_little_as_it_must():
    rho = random_correlation(np.random.default_rng(0), 5)
    assert regularised(rho) is rho
    lifted = regularised(np.ones((4, 4)))
    np.testing.assert_allclose(lifted, 1.0, atol=2e-8)
    np.testing.assert_array_equal(np.diagonal(lifted), 1.0)
    assert np.linalg.eigvalsh(lifted)[0] == pytest.approx(1e-8, rel=1e-3)


def test_chunks_of_sets_give_the_same(monkeypatch):
    rho = random_correlation(np.random.default_rng(2), 9)
    whole = icd(rho, 200, range(9), 0.3)
    monkeypatch.setattr("semi_nmf_concepts.attention._independence._CHUNK", 1)
    monkeypatch.setattr("semi_nmf_concepts.attention._icd._SETS", 2)
    parts = icd(rho, 200, range(9), 0.3)
    np.testing.assert_array_equal(parts.marks, whole.marks)
    np.testing.assert_allclose(parts.p_values, whole.p_values, rtol=1e-9, atol=1e-12)
    assert parts.n_tests == whole.n_tests


def test_orientation_does_not_need_a_true_graph():
    """Independences that contradict each other, as in data, still give one mark for each end."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        edge = np.triu(rng.random((6, 6)) < 0.5, 1)
        edge |= edge.T
        sets = {
            frozenset((i, j)): tuple(v for v in range(6) if v not in (i, j) and rng.random() < 0.4)
            for i, j in combinations(range(6), 2)
            if not edge[i, j]
        }
        for tiers in (None, np.arange(6)):
            M = orient(edge, sets, tiers)
            np.testing.assert_array_equal(M != 0, edge)
            if tiers is not None:
                assert (M[edge & (tiers[:, None] < tiers)] == ARROW).all()


# Bad input


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"correlation": np.zeros((2, 3))}, ValueError, r"square matrix, got shape \(2, 3\)"),
        ({"correlation": np.zeros((0, 0))}, ValueError, "square matrix"),
        ({"correlation": [[1.0, np.nan], [np.nan, 1.0]]}, ValueError, "must be finite"),
        ({"correlation": [[1.0, 0.5], [0.1, 1.0]]}, ValueError, "must be symmetric"),
        ({"correlation": [[2.0, 0.5], [0.5, 2.0]]}, ValueError, "ones on its diagonal"),
        ({"correlation": [[1.0, 2.0], [2.0, 1.0]]}, ValueError, "least eigenvalue is -1"),
        ({"n_records": 3}, ValueError, "n_records must be at least 4"),
        ({"n_records": 10.5}, TypeError, "n_records must be an int"),
        ({"n_records": True}, TypeError, "n_records must be an int"),
        ({"alpha": 0.0}, ValueError, "alpha must be between 0 and 1"),
        ({"alpha": 1.0}, ValueError, "alpha must be between 0 and 1"),
        ({"alpha": np.nan}, ValueError, "alpha must be between 0 and 1"),
        ({"alpha": "small"}, TypeError, "alpha must be a number"),
        ({"order": [0, 1]}, ValueError, "one place for each of the 3 variables"),
        ({"order": [0, 1, np.nan]}, ValueError, "order must be finite numbers"),
        ({"order": ["a", "b", "c"]}, ValueError, "order must be finite numbers"),
        ({"max_conditioning": -1}, ValueError, "max_conditioning must not be negative"),
        ({"max_conditioning": 1.5}, TypeError, "max_conditioning must be an int or None"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"correlation": GOOD, "n_records": 100, "order": [0, 1, 2], "alpha": 0.01}
    with pytest.raises(error, match=message):
        icd(**(arguments | changes))


def test_one_variable_and_two():
    assert icd([[1.0]], 10, [0]).edges() == []
    assert icd([[1.0, 0.9], [0.9, 1.0]], 100, [5, 2]).edges() == ["0 <-o 1"]
    assert icd([[1.0, 0.0], [0.0, 1.0]], 100, None).separating_sets == {frozenset((0, 1)): ()}
