"""Partial ancestral graphs: what is known of a causal graph with hidden common causes."""

from dataclasses import dataclass

import numpy as np

from ._results import Result

#: What stands at the end of an edge.
NO_EDGE, CIRCLE, ARROW, TAIL = 0, 1, 2, 3
_LEFT = {CIRCLE: "o", ARROW: "<", TAIL: "-"}
_RIGHT = {CIRCLE: "o", ARROW: ">", TAIL: "-"}


@dataclass(eq=False, repr=False)
class PAG(Result):
    """A partial ancestral graph, with the tests that it comes from.

    An edge says that no set of the other variables makes two variables independent. A mark at its
    end says what all causal graphs that fit have in common: an arrowhead at j of i-j, that j does
    not cause i; a tail, that j causes i (or, without a known order, something that the data were
    selected by); a circle, that it differs between them. So ``-->`` is a cause (maybe through
    others), ``<->`` a hidden common cause, ``o->`` either or both.

    Attributes
    ----------
    marks : ndarray of int8, shape (n, n)
        ``marks[i, j]`` is the mark at j of the edge between i and j: 0 no edge, 1 circle, 2
        arrowhead, 3 tail.
    separating_sets : dict of frozenset of two ints to tuple of int
        For every pair without an edge: the variables, ascending, given which it is independent.
    p_values : ndarray of float64, shape (n, n)
        Largest p-value of the independence of a pair in all its tests: above alpha for pairs
        without an edge (then the one of the separating set), at most alpha for others; 0 on the
        diagonal.
    n_tests : int
        Number of tests of independence.
    """

    marks: np.ndarray
    separating_sets: dict
    p_values: np.ndarray
    n_tests: int

    plotter = "plot_pag"

    def __repr__(self):
        edges = self.edges()
        shown = ", ".join(edges[:8]) + (", ..." if len(edges) > 8 else "")
        return f"<PAG of {len(self.marks)} variables: {shown or 'no edges'}>"

    def edges(self, names=None):
        """The edges as text, such as ``"0 o-> 1"``.

        Parameters
        ----------
        names : list of str, default=None
            Names of the variables; their numbers by default.

        Returns
        -------
        list of str
            Ordered by the first variable, then the second.
        """
        n = len(self.marks)
        if names is not None and len(names) != n:
            raise ValueError(
                f"names must have {n} entries, one for each variable, got {len(names)}."
            )
        names = range(n) if names is None else names
        return [
            f"{names[i]} {_LEFT[self.marks[j, i]]}-{_RIGHT[self.marks[i, j]]} {names[j]}"
            for i, j in zip(*np.nonzero(np.triu(self.marks)), strict=True)
        ]

    def possible_d_sep(self, root, radius=None):
        """Distance of every variable from `root` in the tree of possible d-separation.

        A path belongs to the tree if every variable inside it is a collider on the path (both
        edges have an arrowhead there) or its two neighbours on the path have an edge, too. Only
        variables on such paths can be needed to separate `root` from another variable.

        Parameters
        ----------
        root : int
        radius : int, default=None
            Greatest length of a path; any by default.

        Returns
        -------
        ndarray of int64, shape (n,)
            Length of the shortest path; 0 for `root`, -1 for variables on none within the radius.
        """
        n = len(self.marks)
        if not 0 <= root < n:
            raise ValueError(f"root must be one of the {n} variables (0 to {n - 1}), got {root}.")
        return distances(self.marks, root, n if radius is None else radius)


def distances(marks, root, radius):
    """Length (n,) of the shortest path of possible d-separation from `root`; -1 above `radius`.

    Searched step by step, so that a path of more than three steps may cross itself: that can only
    add variables, and never within three steps.
    """
    marks = np.asarray(marks)
    edge, head = marks != NO_EDGE, marks == ARROW
    found = np.full(len(marks), -1)
    found[root] = 0
    step = np.zeros_like(edge)  # step[u, v]: u -> v is the last step of a path
    step[root] = edge[root]
    seen = step.copy()
    for length in range(1, radius + 1):
        reached = step.any(axis=0)
        if not reached.any():
            break
        found[reached & (found < 0)] = length
        longer = np.zeros_like(step)
        for v in np.flatnonzero(reached):
            before = np.flatnonzero(step[:, v])
            collider = head[before, v][:, None] & head[:, v]
            allowed = edge[v] & (collider | edge[before])
            allowed[np.arange(len(before)), before] = False
            longer[v] = allowed.any(axis=0)
        longer[:, root] = False
        step = longer & ~seen
        seen |= step
    return found
