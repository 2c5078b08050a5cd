"""Marks at the ends of edges: what independence and a known order say of causes.

Rules R0 to R10 of Zhang (2008), "On the completeness of orientation rules for causal discovery in
the presence of latent confounders and selection bias", Artificial Intelligence 172. With the
arrowheads of a known order (tiers) to start with, and no selection, R0 to R4 and R8 to R10 find all
marks that can be known: Andrews, Spirtes and Cooper (2020), "On the completeness of causal
discovery in the presence of latent confounding with tiered background knowledge", AISTATS.

Notation: M[i, j] is the mark at j of the edge i-j; ``*`` stands for any mark. Every rule looks at
all places before it changes any, so that the numbering of the variables does not matter.
"""

from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ._pag import ARROW, CIRCLE, NO_EDGE, TAIL


def orient(edge, separating_sets, tiers, *, complete=True):
    """Marks of a graph whose edges are known.

    Parameters
    ----------
    edge : ndarray of bool, shape (n, n)
        Symmetric.
    separating_sets : dict of frozenset of two ints to tuple of int
        One for every pair without an edge.
    tiers : ndarray of int, shape (n,), or None
        Place of every variable in the order: none causes one of a lower tier. None where nothing is
        known; the data may then have been selected by something that the variables cause.
    complete : bool, default=True
        False: only what stays true when edges are removed later (arrowheads, and the tails opposite
        to them: R0 to R4).

    Returns
    -------
    ndarray of int8, shape (n, n)
    """
    M = np.where(edge, CIRCLE, NO_EDGE).astype(np.int8)
    if tiers is not None:
        M[edge & (tiers[:, None] < tiers)] = ARROW
    _unshielded_colliders(M, separating_sets)
    _until_still(M, _r1, _r2, _r3, lambda M: _r4(M, separating_sets))
    if complete:
        if tiers is None:
            _r5(M)
            _until_still(M, _r6, _r7)
        pairs = _reachable(M)
        _until_still(M, _r8, lambda M: _r9(M, pairs), lambda M: _r10(M, pairs))
    return M


def _until_still(M, *rules):
    """Apply rules in turn, the first again after any change, until none changes a mark."""
    while any(rule(M) for rule in rules):
        pass


def _put(M, where, mark):
    """Put the mark in the place of circles; whether there were any."""
    where = where & (M == CIRCLE)
    M[where] = mark
    return bool(where.any())


def _any(A, B):
    """Boolean matrix product."""
    return A.astype(np.float32) @ B.astype(np.float32) > 0


def _apart(M):
    """Pairs of different variables without an edge."""
    return (M == NO_EDGE) & ~np.eye(len(M), dtype=bool)


def _directed(M):
    return (M == ARROW) & (M.T == TAIL)


def _unshielded_colliders(M, separating_sets):
    """R0: a *-* b *-* c without an edge a-c, b not in the set that separates a and c."""
    edge = M != NO_EDGE
    heads = np.zeros_like(edge)
    for pair, given in separating_sets.items():
        a, c = pair
        between = edge[a] & edge[c]
        between[list(given)] = False
        heads[a] |= between
        heads[c] |= between
    _put(M, heads, ARROW)


def _r1(M):
    """a *-> b o-* c without an edge a-c: b -> c."""
    found = _any((M == ARROW).T, _apart(M)) & (M.T == CIRCLE)  # [b, c]
    _put(M, found, ARROW)
    return _put(M, found.T, TAIL)


def _r2(M):
    """a -> b *-> c or a *-> b -> c, and a *-o c: a *-> c."""
    head, directed = M == ARROW, _directed(M)
    return _put(M, _any(directed, head) | _any(head, directed), ARROW)


def _r3(M):
    """a *-> b <-* c, a *-o d o-* c without an edge a-c, d *-o b: d *-> b."""
    head, circle, apart = M == ARROW, M == CIRCLE, _apart(M)
    found = np.zeros_like(head)
    for d, b in zip(*np.nonzero(circle), strict=True):
        both = np.flatnonzero(head[:, b] & circle[:, d])
        found[d, b] = apart[np.ix_(both, both)].any()
    return _put(M, found, ARROW)


def _r4(M, separating_sets):
    """The end of a discriminating path (t, ..., a, b, c) for b, where b o-* c.

    All between t and b are colliders on the path and parents of c, and t has no edge with c. If b
    is in the set that separates t and c, b -> c; else a <-> b <-> c.
    """
    head, directed, apart = M == ARROW, _directed(M), _apart(M)
    collider, parent = np.zeros_like(head), np.zeros_like(head)
    for b, c in zip(*np.nonzero(M.T == CIRCLE), strict=True):
        end = _discriminating(b, c, head, directed[:, c], apart[:, c])
        if end is None:
            continue
        a, t = end
        if b in separating_sets[frozenset((int(t), int(c)))]:
            parent[b, c] = True
        else:
            collider[a, b] = collider[b, c] = collider[c, b] = True
    changed = _put(M, collider, ARROW)
    _put(M, parent, ARROW)
    return _put(M, parent.T, TAIL) or changed


def _discriminating(b, c, head, is_parent, is_apart):
    """The neighbour a of b and the far end t of a shortest discriminating path, or None."""
    first = np.flatnonzero(is_parent & head[b])  # arrowhead at a from b
    origin = {int(a): int(a) for a in first if a != b}
    level = list(origin)
    while level:
        following = []
        for v in level:
            far = np.flatnonzero(head[:, v] & is_apart)
            if len(far):
                return origin[v], far[0]
            for u in np.flatnonzero(head[:, v] & head[v] & is_parent):
                if u != b and int(u) not in origin:
                    origin[int(u)] = origin[v]
                    following.append(int(u))
        level = following
    return None


def _r5(M):
    """a o-o b on a circle of o-o edges, none of its neighbours but one having an edge: a --- b."""
    circle = (M == CIRCLE) & (M.T == CIRCLE)
    steps = _uncovered(M, circle)
    index = {step: k for k, step in enumerate(steps)}
    links = [(index[a], index[b]) for a, after in steps.items() for b in after]
    if not links:
        return
    rows, columns = np.array(links).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(steps), len(steps)))
    _, part = connected_components(graph, connection="strong")
    together = np.bincount(part)[part] > 1
    on_circle = np.zeros_like(circle)
    for (a, b), k in index.items():
        on_circle[a, b] = on_circle[b, a] = on_circle[a, b] or together[k]
    _put(M, on_circle, TAIL)


def _r6(M):
    """a --- b o-* c: b -* c."""
    plain = (M == TAIL) & (M.T == TAIL)
    return _put(M, np.broadcast_to(plain.any(axis=0), M.shape), TAIL)


def _r7(M):
    """a -o b o-* c without an edge a-c: b -* c."""
    found = _any(((M == CIRCLE) & (M.T == TAIL)).T, _apart(M))  # [b, c]
    return _put(M, found.T, TAIL)


def _r8(M):
    """a -> b -> c or a -o b -> c, and a o-> c: a -> c."""
    through = (M.T == TAIL) & (M != TAIL)  # a -> b or a -o b
    return _put(M, (_any(through, _directed(M)) & (M == ARROW)).T, TAIL)


def _r9(M, pairs):
    """a o-> c, and an uncovered potentially directed path a, b, ..., c without an edge b-c."""
    apart = _apart(M)
    found = np.zeros_like(apart)
    for a, c in zip(*np.nonzero((M == ARROW) & (M.T == CIRCLE)), strict=True):
        found[c, a] = any(
            pairs[a, b] >> int(c) & 1 for b in np.flatnonzero(apart[c]) if (a, b) in pairs
        )
    return _put(M, found, TAIL)


def _r10(M, pairs):
    """a o-> c <- b and c <- d, reached from a by uncovered potentially directed paths that start
    with m and w, different and without an edge: a -> c.
    """
    apart, directed = _apart(M), _directed(M)
    after = [[m for m in range(len(M)) if (a, m) in pairs] for a in range(len(M))]
    found = np.zeros_like(apart)
    for a, c in zip(*np.nonzero((M == ARROW) & (M.T == CIRCLE)), strict=True):
        parents = sum(1 << int(b) for b in np.flatnonzero(directed[:, c]))
        for m, w in combinations(after[a], 2):
            first, second = pairs[a, m] & parents, pairs[a, w] & parents
            # Two different parents, one for each path.
            if apart[m, w] and first and second and (first | second).bit_count() > 1:
                found[c, a] = True
                break
    return _put(M, found, TAIL)


def _reachable(M):
    """What uncovered potentially directed paths reach, by their first two variables.

    Potentially directed: no step has an arrowhead at its start or a tail at its end. Uncovered: of
    three variables in a row the outer two have no edge. The values are sets as bits of an int. A
    path may cross itself: the rules that use it conclude from a first step that is directed to all
    others being so, whatever they are.
    """
    steps = _uncovered(M, (M != NO_EDGE) & (M != TAIL) & (M.T != ARROW))
    pairs = {step: 1 << step[1] for step in steps}
    changed = True
    while changed:
        changed = False
        for step in reversed(steps):
            bits = pairs[step]
            for following in steps[step]:
                bits |= pairs[following]
            if bits != pairs[step]:
                pairs[step] = bits
                changed = True
    return pairs


def _uncovered(M, allowed):
    """Allowed steps (a, b), each with those that may follow: (b, c) without an edge a-c."""
    apart = _apart(M)
    return {
        (int(a), int(b)): [(int(b), int(c)) for c in np.flatnonzero(allowed[b] & apart[a])]
        for a, b in zip(*np.nonzero(allowed), strict=True)
    }
