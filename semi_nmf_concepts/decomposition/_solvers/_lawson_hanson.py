"""Compiled kernel: the codes of one sample by an active-set method, for few active atoms.

The method of Lawson and Hanson for non-negative least squares, with the penalty: the atom with the
steepest descent enters the active set, the codes move to the minimum over the active set, atoms
whose codes reach zero on the way leave. A Cholesky factor of the active atoms' Gram matrix grows by
a row as an atom enters. A sample with m active atoms of K costs about m passes over m rows of the
Gram matrix, where coordinate descent visits all K atoms in every sweep.
"""

import numpy as np

from ..._compile import compiled, inlined

#: Most active atoms. Beyond, coordinate descent is faster, as it starts from the last codes.
MAX_ACTIVE = 32
#: Bound on the atoms that enter; a sample that needs more is left to coordinate descent.
_MAX_STEPS = 4 * MAX_ACTIVE
#: A pivot below this share of its diagonal entry makes the active atoms count as dependent.
_PIVOT_TOLERANCE = 1e-9


@inlined
def _append_atom(m, support, c, alpha, G, factor, inverse, rhs):
    """Add row m, atom ``support[m]``, to the factor; False where it depends on those before.

    `factor` holds the rows left of the diagonal, `inverse` one over the diagonal and `rhs` the
    forward-substituted right-hand side ``c - alpha``.
    """
    k = support[m]
    pivot = G[k, k]
    right = c[k] - alpha
    for i in range(m):
        value = G[k, support[i]]
        for j in range(i):
            value -= factor[m, j] * factor[i, j]
        value *= inverse[i]
        factor[m, i] = value
        pivot -= value * value
        right -= value * rhs[i]
    if not pivot > _PIVOT_TOLERANCE * G[k, k]:
        return False
    inverse[m] = 1.0 / np.sqrt(pivot)
    rhs[m] = right * inverse[m]
    return True


@inlined
def _solve(m, factor, inverse, rhs, target):
    """The codes at the minimum over the active set, into ``target[:m]``."""
    for i in range(m - 1, -1, -1):
        value = rhs[i]
        for j in range(i + 1, m):
            value -= factor[j, i] * target[j]
        target[i] = value * inverse[i]


@compiled
def _step_towards(m, v, target, support):
    """Move v to `target` or to the first bound; drop what is zero there.

    Returns the number of active atoms left and the first position whose factor row is stale.
    """
    length = 1.0
    for i in range(m):
        if target[i] <= 0.0:
            length = min(length, v[i] / (v[i] - target[i]))
    left = 0
    stale = m
    for i in range(m):
        value = v[i] + length * (target[i] - v[i])
        if target[i] <= 0.0 and value <= 1e-12 * v[i]:
            stale = min(stale, i)
        else:
            support[left] = support[i]
            v[left] = value
            left += 1
    return left, min(stale, left)


@inlined
def _settle(m, v, support, c, alpha, G, factor, inverse, rhs, target):
    """Move v to the minimum over its active set, atoms leaving on the way; their number, or -1."""
    while m > 0:
        _solve(m, factor, inverse, rhs, target)
        inside = True
        for i in range(m):
            inside = inside and target[i] > 0.0
        if inside:
            for i in range(m):
                v[i] = target[i]
            return m
        before = m
        m, stale = _step_towards(m, v, target, support)
        if m == before:  # rounding: no atom left although the target is out of bounds
            return -1
        for i in range(stale, m):
            if not _append_atom(i, support, c, alpha, G, factor, inverse, rhs):
                return -1
    return m


@inlined
def _set_descent(m, v, support, c, alpha, G, descent):
    """``descent = c - v G - alpha``: how steeply the objective falls with each code."""
    for k in range(c.shape[0]):
        descent[k] = c[k] - alpha
    for i in range(m):
        atom = support[i]
        value = descent.dtype.type(v[i])
        for k in range(c.shape[0]):
            descent[k] -= value * G[atom, k]


@inlined
def _steepest(bits, index_mask):
    """Index of the largest positive number, or -1, from their bit patterns as integers.

    Positive floats are ordered as their bit patterns are. The lowest bits make room for the index,
    so that one maximum of integers, which compiles to vector instructions, yields both; it may miss
    the largest number by a relative 1e-4, which does not matter for the choice.
    """
    best = bits[0] & ~index_mask
    for k in range(bits.shape[0]):
        best = max(best, (bits[k] & ~index_mask) | bits.dtype.type(k))
    if best <= index_mask:
        return -1
    return best & index_mask


@compiled
def solve_active_set(
    m, v, support, c, alpha, G, G_fine, threshold, scratch, descent, bits, index_mask
):
    """Minimise ``1/2 v G v - c v + alpha sum(v)`` over ``v >= 0`` from m active codes.

    Parameters
    ----------
    m : int
        Number of active atoms at the start; `support` (their indices) and `v` (their codes) have
        room for MAX_ACTIVE + 1 entries and hold the solution on return.
    c : (P,) array
        Correlations of the sample with the atoms, filled up with zeros from K to P entries: loops
        over a multiple of the vector length are much faster.
    alpha : scalar of the dtype of c
    G, G_fine : (K, P) and (K, K) arrays
        Gram matrix in the dtype of c (filled up), for the gradient, and in float64, for the exact
        solves.
    threshold : float
        Largest descent that may be left.
    scratch : tuple of float64 arrays
        Of shapes (MAX_ACTIVE + 1, MAX_ACTIVE + 1) and three times (MAX_ACTIVE + 1,).
    descent : (P,) array of the dtype of c
    bits : the same memory as integers
    index_mask : integer
        Ones in the bits that an index needs.

    Returns
    -------
    m : int
        Number of active atoms of the solution, or -1 where there are too many, or they depend on
        each other: then nothing is said about v.
    largest : float
        The largest descent left.
    """
    factor, inverse, rhs, target = scratch
    for i in range(m):
        if not _append_atom(i, support, c, alpha, G_fine, factor, inverse, rhs):
            return -1, 0.0
    for _ in range(_MAX_STEPS):
        m = _settle(m, v, support, c, alpha, G_fine, factor, inverse, rhs, target)
        if m < 0:
            return -1, 0.0
        _set_descent(m, v, support, c, alpha, G, descent)
        k = _steepest(bits, index_mask)
        if k < 0:
            return m, 0.0
        if descent[k] <= threshold:
            return m, np.float64(descent[k])
        if m == MAX_ACTIVE:
            return -1, 0.0
        support[m] = k
        v[m] = 0.0
        if not _append_atom(m, support, c, alpha, G_fine, factor, inverse, rhs):
            return -1, 0.0
        m += 1
    return -1, 0.0
