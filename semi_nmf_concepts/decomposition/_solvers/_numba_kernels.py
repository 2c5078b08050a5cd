"""Compiled kernels: the codes of one sample by coordinate descent with exact active-set steps.

Importing this module imports numba; the rest of the package does so only when a solver runs.
"""

import numba
import numpy as np

#: Coordinate descent sweeps, which find the active set, between two exact solves on it.
_SWEEPS_PER_SOLVE = 8
#: A pivot below this share of its diagonal entry makes the active set count as dependent.
_PIVOT_TOLERANCE = 1e-11


def _compile(function):
    """``numba.njit`` with a cache on disk, or without one where no folder can be written."""
    options = {"error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return numba.njit(**options)(function)


@_compile
def _prox_nonnegative(value, threshold):
    """Proximal operator of ``threshold * v`` on ``v >= 0``: shift down, then clip at zero."""
    return max(value - threshold, 0.0)


@_compile
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


@_compile
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


@_compile
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


@_compile
def _solve_transposed(factor, size, x):
    """Solve ``factor^T y = x`` in place."""
    for i in range(size - 1, -1, -1):
        for m in range(i + 1, size):
            x[i] -= factor[m, i] * x[m]
        x[i] /= factor[i, i]


@_compile
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


@_compile
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


@_compile
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


@_compile
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


@_compile
def encode_rows(C, G, alpha, V, tol, max_sweeps):
    """Minimise ``1/2 v G v - c v + alpha sum(v)`` over ``v >= 0`` for every row of C, in place.

    Parameters
    ----------
    C : (n, K) array
        Correlations of the samples with the atoms.
    G : (K, K) float64 array
        Gram matrix of the atoms.
    alpha : float
    V : (n, K) array
        Starting codes on entry (clipped at zero), the solution on return.
    tol : float
        A row is done when its largest projected gradient is at most ``tol * max_k |c_k|``.
    max_sweeps : int
        Bound on the coordinate descent passes over one row.

    Returns
    -------
    int
        Number of rows that were left above the tolerance.
    """
    n_rows, n_components = C.shape
    v = np.empty(n_components)
    c = np.empty(n_components)
    gradient = np.empty(n_components)
    direction = np.empty(n_components)
    active = np.empty(n_components, dtype=np.int64)
    factor = np.empty((n_components, n_components))
    unconverged = 0
    for i in range(n_rows):
        scale = 0.0
        best = 0.0
        for k in range(n_components):
            c[k] = C[i, k]
            v[k] = max(V[i, k], 0.0) if G[k, k] > 0.0 else 0.0
            scale = max(scale, abs(c[k]))
            best = max(best, c[k])
        if best <= alpha:  # no atom earns its price
            for k in range(n_components):
                V[i, k] = 0.0
            continue
        threshold = tol * scale
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
        if largest > threshold:
            unconverged += 1
        for k in range(n_components):
            V[i, k] = v[k]
    return unconverged
