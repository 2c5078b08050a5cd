"""Compiled kernel: the codes of one sample by coordinate descent with exact active-set steps.

Slower than `_lawson_hanson` where few atoms are active, but it takes any number of them, starts
well from good codes, and copes with atoms that depend on each other.
"""

import numpy as np

from ..._compile import compiled

#: Coordinate descent sweeps, which find the active set, between two exact solves on it.
_SWEEPS_PER_SOLVE = 8
#: A pivot below this share of its diagonal entry makes the active set count as dependent.
_PIVOT_TOLERANCE = 1e-11


@compiled
def _prox_nonnegative(value, threshold):
    """Proximal operator of ``threshold * v`` on ``v >= 0``: shift down, then clip at zero."""
    return max(value - threshold, 0.0)


@compiled
def _sweep(v, gradient, G, alpha):
    """One cyclic pass of exact coordinate steps; the largest projected gradient met on the way."""
    n_components = v.shape[0]
    largest = 0.0
    for k in range(n_components):
        curvature = G[k, k]
        slope = gradient[k]
        if curvature <= 0.0:  # an atom that is zero explains nothing
            continue
        if v[k] == 0.0 and slope >= 0.0:
            continue
        largest = max(largest, abs(slope))
        # slope holds alpha already: this is the prox of the smooth part's Newton step
        new = _prox_nonnegative(v[k] - (slope - alpha) / curvature, alpha / curvature)
        step = new - v[k]
        if step != 0.0:
            v[k] = new
            for j in range(n_components):
                gradient[j] += step * G[k, j]
    return largest


@compiled
def _set_gradient(v, c, G, alpha, gradient):
    """``gradient = v G - c + alpha``, from scratch; the largest projected entry."""
    n_components = v.shape[0]
    for j in range(n_components):
        gradient[j] = alpha - c[j]
    for k in range(n_components):
        if v[k] != 0.0:
            for j in range(n_components):
                gradient[j] += v[k] * G[k, j]
    largest = 0.0
    for k in range(n_components):
        if G[k, k] > 0.0 and (v[k] > 0.0 or gradient[k] < 0.0):
            largest = max(largest, abs(gradient[k]))
    return largest


@compiled
def _cholesky(G, active, size, factor):
    """Lower Cholesky factor of ``G[active, active]``; the first dependent position, or `size`.

    Up to that position, its own row of forward-substituted entries included, `factor` is valid.
    """
    for i in range(size):
        for j in range(i + 1):
            value = G[active[i], active[j]]
            for m in range(j):
                value -= factor[i, m] * factor[j, m]
            if j < i:
                factor[i, j] = value / factor[j, j]
            elif value <= _PIVOT_TOLERANCE * G[active[i], active[i]]:
                return i
            else:
                factor[i, i] = np.sqrt(value)
    return size


@compiled
def _solve_transposed(factor, size, x):
    """Solve ``factor^T y = x`` in place."""
    for i in range(size - 1, -1, -1):
        for m in range(i + 1, size):
            x[i] -= factor[m, i] * x[m]
        x[i] /= factor[i, i]


@compiled
def _newton_direction(v, c, alpha, active, size, factor, direction):
    """From v to the minimum over the active codes, the others held at zero."""
    for i in range(size):
        direction[i] = c[active[i]] - alpha
        for m in range(i):
            direction[i] -= factor[i, m] * direction[m]
        direction[i] /= factor[i, i]
    _solve_transposed(factor, size, direction)
    for i in range(size):
        direction[i] -= v[active[i]]


@compiled
def _null_direction(c, alpha, active, dependent, factor, direction):
    """A direction in which the reconstruction stays the same and the penalty does not grow.

    It exists because the atom at position `dependent` is a combination of those before it; some
    entry is negative, so that following it ends at a bound.
    """
    for i in range(dependent):
        direction[i] = -factor[dependent, i]
    _solve_transposed(factor, dependent, direction)
    direction[dependent] = 1.0
    slope = 0.0
    lowest = 0.0
    for i in range(dependent + 1):
        slope += (alpha - c[active[i]]) * direction[i]
        lowest = min(lowest, direction[i])
    if slope > 0.0 or lowest == 0.0:
        for i in range(dependent + 1):
            direction[i] = -direction[i]


@compiled
def _move(v, active, size, direction, length):
    """Follow the direction so far, or to the first bound; whether a bound was met."""
    blocking = -1
    for i in range(size):
        k = active[i]
        if v[k] + length * direction[i] < 0.0:
            length = -v[k] / direction[i]
            blocking = i
    for i in range(size):
        v[active[i]] = max(v[active[i]] + length * direction[i], 0.0)
    if blocking >= 0:
        v[active[blocking]] = 0.0
    return blocking >= 0


@compiled
def _solve_on_face(v, c, G, alpha, active, factor, direction):
    """Move v to the minimum over its active codes; codes that reach zero on the way leave.

    The objective is convex and every leg goes downhill, so it never increases; each leg but the
    last one removes a code, so there are at most as many legs as active codes.
    """
    while True:
        size = 0
        for k in range(v.shape[0]):
            if v[k] > 0.0:
                active[size] = k
                size += 1
        independent = _cholesky(G, active, size, factor)
        if independent < size:
            _null_direction(c, alpha, active, independent, factor, direction)
            _move(v, active, independent + 1, direction, np.inf)
        else:
            _newton_direction(v, c, alpha, active, size, factor, direction)
            if not _move(v, active, size, direction, 1.0):
                return


@compiled
def descend(v, c, G, alpha, threshold, max_sweeps, gradient, active, factor, direction):
    """Minimise ``1/2 v G v - c v + alpha sum(v)`` over ``v >= 0``, from v, in place.

    Ends when the largest projected gradient is at most `threshold`, or after `max_sweeps` passes
    over the atoms; returns that gradient. `gradient`, `direction` (K,), `active` (K,) of integers
    and `factor` (K, K) are scratch.
    """
    for k in range(v.shape[0]):
        v[k] = max(v[k], 0.0) if G[k, k] > 0.0 else 0.0
    largest = _set_gradient(v, c, G, alpha, gradient)
    sweeps = 0
    while largest > threshold and sweeps < max_sweeps:
        for _ in range(_SWEEPS_PER_SOLVE):
            largest = _sweep(v, gradient, G, alpha)
            sweeps += 1
            if largest <= threshold or sweeps >= max_sweeps:
                break
        if largest > threshold:
            _solve_on_face(v, c, G, alpha, active, factor, direction)
        # Fresh: the running gradient has collected rounding errors.
        largest = _set_gradient(v, c, G, alpha, gradient)
    return largest
