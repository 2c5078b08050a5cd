"""A small space to do most of the work in: where X has many more features than a fit needs.

The atoms of a good dictionary lie (nearly) in the span of the leading principal directions of X.
There an iteration costs a small part of one on X; a few iterations on X itself then make up for
what the span misses. F of a dictionary in the span is exact, since what X has outside adds the same
number to every F.
"""

from dataclasses import replace

from .._arrays import as_float64, like

#: Dimensions: so many for each atom, and at least.
_PER_ATOM, _MIN_DIMENSIONS = 3, 64
#: Worth it where the data have at least this many times as many features and samples.
_MIN_FACTOR = 4
#: Samples per dimension that the directions are found from.
_SAMPLES = 10
#: Directions whose share of the energy is below this are rounding.
_RESOLUTION = 1e-6


def reduced(problem, n_components, random_state):
    """The problem in a subspace, and an orthonormal basis of it (n_features, r).

    (problem, None) where there is nothing to gain.
    """
    n_dimensions = max(_PER_ATOM * n_components, _MIN_DIMENSIONS)
    if min(problem.X.shape) < _MIN_FACTOR * n_dimensions:
        return problem, None
    basis = _leading_directions(problem, n_dimensions, random_state)
    if basis is None:
        return problem, None
    return replace(problem, X=problem.X @ problem.xp.astype(basis, problem.X.dtype)), basis


def _leading_directions(problem, n_dimensions, random_state):
    """About the leading right singular vectors of some of the samples, by one power iteration.

    None where these samples are zero.
    """
    xp, X = problem.xp, problem.X
    n_rows = min(X.shape[0], _SAMPLES * n_dimensions)
    X = X[like(random_state.permutation(X.shape[0])[:n_rows], X)]
    largest = float(xp.max(xp.abs(X)))
    if not largest > 0.0:
        return None
    X = X / largest  # only directions matter, and fourth powers of X must not overflow
    start = like(random_state.standard_normal((X.shape[1], n_dimensions)), X)
    sketch = as_float64(X.T @ (X @ xp.astype(start, X.dtype)))
    # Orthonormal through the small Gram matrix: as accurate as needed, and far quicker than QR.
    energy, vectors = xp.linalg.eigh(sketch.T @ sketch)
    kept = energy > _RESOLUTION**2 * energy[-1]
    basis = sketch @ (vectors[:, kept] / xp.sqrt(energy[kept]))
    return _orthonormal(xp, basis)


def _orthonormal(xp, basis):
    """Remove what rounding left of inner products."""
    energy, vectors = xp.linalg.eigh(basis.T @ basis)
    return basis @ ((vectors / xp.sqrt(energy)) @ vectors.T)
