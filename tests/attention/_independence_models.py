"""What m-separation says of small graphs, by definition: all paths, all sets, all graphs.

An independent reference for causal discovery; nothing here comes from the package. Marks are coded
as in its PAGs (0 no edge, 1 circle, 2 arrowhead, 3 tail), which is how results are compared.
"""

from itertools import chain, combinations, permutations, product

import numpy as np

NO_EDGE, CIRCLE, ARROW, TAIL = range(4)


def subsets(items):
    items = list(items)
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


class MixedGraphs:
    """Many graphs of n variables at once: ``marks`` (G, n, n)."""

    def __init__(self, marks):
        self.marks = marks
        self.n = marks.shape[1]
        directed = (marks == ARROW) & (marks.transpose(0, 2, 1) == TAIL)
        above = directed | np.eye(self.n, dtype=bool)  # above[i, j]: i is an ancestor of j, or j
        for _ in range(self.n):
            above = (above[:, :, :, None] & above[:, None, :, :]).any(axis=2)
        self.above = above
        self.independent = {
            (i, j, given): ~self.connected(i, j, given)
            for i, j in combinations(range(self.n), 2)
            for given in subsets(v for v in range(self.n) if v not in (i, j))
        }

    def connected(self, i, j, given):
        """Which graphs (G,) have a path between i and j that m-connects them given a set."""
        inner = [v for v in range(self.n) if v not in (i, j)]
        paths = (p for size in range(len(inner) + 1) for p in permutations(inner, size))
        found = np.zeros(len(self.marks), dtype=bool)
        into = self.above[:, :, list(given)].any(axis=2)  # has a descendant in the set
        for path in paths:
            nodes = (i, *path, j)
            active = np.ones(len(self.marks), dtype=bool)
            for u, v in zip(nodes[:-1], nodes[1:], strict=True):
                active &= self.marks[:, u, v] != NO_EDGE
            for u, v, w in zip(nodes[:-2], nodes[1:-1], nodes[2:], strict=True):
                collider = (self.marks[:, u, v] == ARROW) & (self.marks[:, w, v] == ARROW)
                active &= np.where(collider, into[:, v], v not in given)
            found |= active
        return found

    def are_maximal_ancestral(self):
        """Which (G,) are maximal ancestral graphs, by the definition of Richardson and Spirtes."""
        marks, back = self.marks, self.marks.transpose(0, 2, 1)
        strictly = self.above & ~np.eye(self.n, dtype=bool)
        cyclic = (strictly & strictly.transpose(0, 2, 1)).any(axis=(1, 2))
        spouse_above = ((marks == ARROW) & (back == ARROW) & strictly).any(axis=(1, 2))
        plain = ((marks == TAIL) & (back == TAIL)).any(axis=1)
        head_at_plain = ((marks == ARROW).any(axis=1) & plain).any(axis=1)
        maximal = np.ones(len(marks), dtype=bool)
        for i, j in combinations(range(self.n), 2):
            separable = np.zeros(len(marks), dtype=bool)
            for (a, b, _), independent in self.independent.items():
                if (a, b) == (i, j):
                    separable |= independent
            maximal &= separable | (marks[:, i, j] != NO_EDGE)
        return ~cyclic & ~spouse_above & ~head_at_plain & maximal

    def keep(self, which):
        kept = object.__new__(MixedGraphs)
        kept.n, kept.marks, kept.above = self.n, self.marks[which], self.above[which]
        kept.independent = {key: value[which] for key, value in self.independent.items()}
        return kept


def all_maximal_ancestral_graphs(n, edges):
    """All of them with edges of the given kinds.

    `edges` holds for every pair i < j the allowed (mark at i, mark at j).
    """
    pairs = list(combinations(range(n), 2))
    kinds = [[(NO_EDGE, NO_EDGE), *edges(i, j)] for i, j in pairs]
    choices = np.array(list(product(*(range(len(kind)) for kind in kinds))))
    marks = np.zeros((len(choices), n, n), dtype=np.int8)
    for k, (i, j) in enumerate(pairs):
        table = np.array(kinds[k], dtype=np.int8)
        marks[:, j, i], marks[:, i, j] = table[choices[:, k]].T
    graphs = MixedGraphs(marks)
    return graphs.keep(graphs.are_maximal_ancestral())


def equivalence_classes(graphs):
    """For each set of independences: one of its graphs, and the marks all its graphs share."""
    table = np.stack(list(graphs.independent.values()), axis=1)
    _, first, part = np.unique(table, axis=0, return_index=True, return_inverse=True)
    by_class = np.argsort(part.ravel(), kind="stable")
    for graph, members in zip(
        first, np.split(by_class, np.cumsum(np.bincount(part.ravel()))[:-1]), strict=True
    ):
        marks = graphs.marks[members]
        same = (marks == marks[0]).all(axis=0)
        yield int(graph), np.where(same, marks[0], CIRCLE)


class Oracle:
    """Independence tests that are never wrong: those of one of the graphs."""

    def __init__(self, graphs, index):
        self.known = {key: bool(value[index]) for key, value in graphs.independent.items()}

    def p_values(self, root, others, sets):
        return np.array([[self._p(root, int(other), given) for other in others] for given in sets])

    def _p(self, root, other, given):
        i, j = sorted((int(root), other))
        return float(self.known.get((i, j, tuple(sorted(int(v) for v in given))), False))


def d_separated(parents, i, j, given):
    """Whether i and j are d-separated in a directed acyclic graph: the moral graph of ancestors.

    `parents` holds for every variable the set of its parents.
    """
    kept, wanted = set(), [i, j, *given]
    while wanted:
        v = wanted.pop()
        if v not in kept:
            kept.add(v)
            wanted += parents[v]
    beside = {v: set() for v in kept}
    for v in kept:
        family = {v, *parents[v]}
        for u in family:
            beside[u] |= family - {u}
    reached, wanted = set(), [i]
    while wanted:
        v = wanted.pop()
        if v not in reached and v not in given:
            reached.add(v)
            wanted += beside[v]
    return j not in reached
