"""Iterative causal discovery (ICD): a causal graph from tests of independence.

Rohekar, Nisimov, Gurwicz and Novik, "Iterative Causal Discovery in the Possible Presence of Latent
Confounders and Selection Bias", NeurIPS 2021; with a known order as in Rohekar, Gurwicz, Yu,
Aflalo and Lal, "A Causal World Model Underlying Next Token Prediction in GPT", 2024.
"""

from itertools import combinations
from math import comb
from numbers import Integral

import numpy as np

from ._independence import LEAST_RECORDS, FisherZ, check_correlation, check_test
from ._orientation import orient
from ._pag import ARROW, NO_EDGE, PAG, distances

#: Conditioning sets that are looked at together, which bounds memory.
_SETS = 50_000


def icd(correlation, n_records, order=None, alpha=0.01, *, max_conditioning=None):
    """Find a causal graph by iterative causal discovery.

    All pairs of variables have an edge at first. For r = 0, 1, 2, ... an edge is removed if some r
    variables near one of its ends, within r steps in the tree of possible d-separation, make the
    two independent (the p-value of Fisher's z is above `alpha`); then the edges are oriented anew,
    by what separates what, Zhang's rules and the order. All tests of one r see the same graph, and
    the set with the largest p-value is kept, so that the result does not depend on the numbering of
    the variables.

    Parameters
    ----------
    correlation : array-like of shape (n, n)
        Correlation matrix. Worked on in float64; one that is singular, or nearly so, is moved
        towards independence until its least eigenvalue is 1e-8.
    n_records : int
        Number of records that the correlation comes from, or stands for; at least 4.
    order : array-like of int, shape (n,), default=None
        Place of every variable: ``order[i] < order[j]`` says that j does not cause i. Equal places
        say nothing of each other. The numbers matter only by their order, so that a list of
        positions (of tokens, say) will do. Without selection: the data must not have been picked by
        something that the variables cause. None: nothing is known, and selection is possible.
    alpha : float, default=0.01
        Level of the tests, above 0 and below 1. A larger one keeps more edges.
    max_conditioning : int, default=None
        Largest number of variables that are conditioned on. By default as many as there are, which
        finds the true graph if the tests are right, but may take long for more than about 20
        variables with many edges. Whatever is given, a test keeps a degree of freedom:
        ``n_records - size - 3`` is at least 1.

    Returns
    -------
    PAG
        With a strict order every edge has an arrowhead at the later variable. What is expected of
        the textbook graphs, for variables in this order:

        - chain 0 -> 1 -> 2: ``0 o-> 1`` (0 may cause 1, or share a hidden cause with it) and
          ``1 --> 2`` (1 does cause 2, as nothing else explains that it separates 0 and 2);
        - fork 1 <- 0 -> 2: ``0 o-> 1``, ``0 o-> 2``;
        - collider 0 -> 2 <- 1: ``0 o-> 2``, ``1 o-> 2``;
        - 0 -> 2, 1 -> 3 and a hidden cause of 2 and 3: ``0 o-> 2``, ``1 o-> 3``, ``2 <-> 3``.

    Raises
    ------
    ValueError, TypeError
        For a matrix that is no correlation matrix (square, finite, symmetric, ones on the diagonal,
        no negative eigenvalue), fewer than 4 records, an `alpha` outside (0, 1), an order that is
        not one number for each variable, a negative `max_conditioning`.

    Examples
    --------
    >>> from semi_nmf_concepts.attention import icd
    >>> chain = [[1.0, 0.6, 0.36], [0.6, 1.0, 0.6], [0.36, 0.6, 1.0]]
    >>> icd(chain, n_records=500, order=[0, 1, 2])
    <PAG of 3 variables: 0 o-> 1, 1 --> 2>
    """
    rho = check_correlation(correlation)
    check_test(n_records, alpha)
    n = len(rho)
    tiers = _check_order(order, n)
    most = min(_check_max_conditioning(max_conditioning, n), n_records - LEAST_RECORDS)
    # Sorted, ties between equal p-values fall alike however the variables are numbered.
    by_place = np.arange(n) if tiers is None else np.argsort(tiers, kind="stable")
    test = FisherZ(rho[np.ix_(by_place, by_place)], n_records)
    pag = search(test, n, None if tiers is None else tiers[by_place], alpha, most)
    return _renumbered(pag, by_place)


def search(test, n, tiers, alpha, most):
    """The PAG of n variables, sorted by their tiers.

    Parameters
    ----------
    test : object
        With a method ``p_values(root, others, sets)`` as of :class:`FisherZ`.
    n : int
    tiers : ndarray of int, shape (n,), ascending, or None
    alpha : float
    most : int
        Largest number of variables that are conditioned on.
    """
    edge = ~np.eye(n, dtype=bool)
    largest = np.zeros((n, n))
    separating_sets, n_tests = {}, 0
    marks = orient(edge, separating_sets, tiers, complete=False)
    for size in range(most + 1):
        found, count = {}, 0
        for root in range(n):
            count += _tests_from(root, size, marks, tiers, test, alpha, largest, found)
        if not count:
            break  # no edge has so many variables near it
        n_tests += count
        for pair, given in found.items():
            separating_sets[pair] = given
            a, b = pair
            edge[a, b] = edge[b, a] = False
        marks = orient(edge, separating_sets, tiers, complete=False)
    marks = orient(edge, separating_sets, tiers)
    return PAG(marks, separating_sets, largest, n_tests)


def _tests_from(root, size, marks, tiers, test, alpha, largest, found):
    """Test the edges of `root` with variables that may come before it, given sets near it.

    Writes the largest p-values to `largest` and separating sets to `found`; returns the number of
    tests.
    """
    # What comes after both ends of an edge is never needed to separate them.
    known = np.arange(len(marks)) if tiers is None else np.flatnonzero(tiers <= tiers[root])
    here = int(np.searchsorted(known, root))
    near = marks[np.ix_(known, known)]
    others = np.flatnonzero(near[here] != NO_EDGE)
    count = 0
    if not len(others):
        return count
    for sets in _conditioning_sets(near, here, size):
        p = test.p_values(root, known[others], known[sets])
        p[(sets[:, :, None] == others).any(axis=1)] = -1.0  # conditions on itself
        count += int((p >= 0).sum())
        best = p.argmax(axis=0)
        for k, other in enumerate(known[others]):
            value = p[best[k], k]
            if value > largest[root, other]:
                largest[root, other] = largest[other, root] = value
                if value > alpha:
                    pair = frozenset((root, int(other)))
                    found[pair] = tuple(int(v) for v in np.sort(known[sets[best[k]]]))
    return count


def _conditioning_sets(marks, root, size):
    """Sets (m, size) that may separate `root` from another variable, in blocks.

    Every variable of a set is on a path of the tree of possible d-separation whose other variables
    (but for `root`) are in the set, too; so it is within `size` steps.
    """
    steps = distances(marks, root, size)
    near = np.flatnonzero(steps > 0)
    if len(near) < size:
        return
    edge, head = marks != NO_EDGE, marks == ARROW
    every = combinations(near.tolist(), size)
    for start in range(0, comb(len(near), size), _SETS):
        wanted = min(_SETS, comb(len(near), size) - start)
        flat = (v for _, one in zip(range(wanted), every, strict=False) for v in one)
        sets = np.fromiter(flat, dtype=np.int64, count=wanted * size).reshape(wanted, size)
        sets = sets[_connected(sets, root, steps, edge, head)]
        if len(sets):
            yield sets


def _connected(sets, root, steps, edge, head):
    """Whether every set (m, size) is reached from `root` by paths inside it."""
    whole = (steps[sets] == 1).all(axis=1)  # neighbours are
    rest = np.flatnonzero(~whole)
    if not len(rest):
        return whole
    chosen = sets[rest]
    size = sets.shape[1]
    u, v, w = chosen[:, :, None, None], chosen[:, None, :, None], chosen[:, None, None, :]
    follows = edge[u, v] & edge[v, w] & (u != w) & (edge[u, w] | (head[u, v] & head[w, v]))
    v, w = chosen[:, :, None], chosen[:, None, :]
    step = edge[root][v] & edge[v, w] & (edge[root][w] | (head[root][v] & head[w, v]))
    reached = edge[root][chosen]
    for _ in range(size * size):  # one more pair (v, w) at least each time
        longer = step | (step[:, :, :, None] & follows).any(axis=1)
        if np.array_equal(longer, step):
            break
        step = longer
    whole[rest] = (reached | step.any(axis=1)).all(axis=1)
    return whole


def _renumbered(pag, by_place):
    """The PAG of the variables as they were numbered before they were sorted."""
    n = len(by_place)
    back = np.empty(n, dtype=np.int64)
    back[by_place] = np.arange(n)
    separating_sets = {
        frozenset(int(by_place[v]) for v in pair): tuple(sorted(int(by_place[v]) for v in given))
        for pair, given in pag.separating_sets.items()
    }
    again = np.ix_(back, back)
    return PAG(pag.marks[again], separating_sets, pag.p_values[again], pag.n_tests)


def _check_order(order, n):
    """Tiers (n,) from 0 up, or None."""
    if order is None:
        return None
    places = np.asarray(order)
    if places.shape != (n,):
        raise ValueError(
            f"order must have one place for each of the {n} variables, got an array of shape "
            f"{places.shape}."
        )
    if places.dtype.kind not in "iuf" or not np.isfinite(places).all():
        raise ValueError(f"order must be finite numbers (smaller is earlier), got {order!r}.")
    return np.unique(places, return_inverse=True)[1]


def _check_max_conditioning(max_conditioning, n):
    if max_conditioning is None:
        return n
    if not isinstance(max_conditioning, Integral) or isinstance(max_conditioning, bool):
        raise TypeError(f"max_conditioning must be an int or None, got {max_conditioning!r}.")
    if max_conditioning < 0:
        raise ValueError(f"max_conditioning must not be negative, got {max_conditioning}.")
    return int(max_conditioning)
