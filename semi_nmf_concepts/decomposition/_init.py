"""Starting dictionaries. Every function returns K rows of unit norm (float64)."""

import numpy as np

from ._arrays import as_float64, kind_of, like, to_numpy
from ._objective import row_norms

#: Up to this many rows or columns the exact SVD is as quick as the iterative one, which takes so
#: many vectors more than are wanted and so many steps.
_EXACT_SVD_SIZE = 500
_SPARE_VECTORS = 10
_SUBSPACE_STEPS = 7


def initial_dictionary(X, n_components, init, random_state):
    """Starting dictionary by name; see `INITS` for the names."""
    U = INITS[init](X, n_components, random_state)
    missing = n_components - U.shape[0]
    if missing > 0:  # fewer directions in the data than atoms asked for
        U = kind_of(X).xp.concat([U, random_rows(X, missing, random_state)])
    return U


def singular_vectors(X, n_components, random_state):
    """Right singular vectors, each with the sign that most of its energy in X has.

    At most rank(X) of them: the rest would be noise.
    """
    xp = kind_of(X).xp
    _, atoms = leading_directions(X, n_components, random_state)
    scores = X @ xp.astype(atoms, X.dtype).T
    positive = (xp.clip(scores, 0.0, None) ** 2).sum(axis=0)
    negative = (xp.clip(scores, None, 0.0) ** 2).sum(axis=0)
    return xp.where((negative > positive)[:, None], -atoms, atoms)


def leading_directions(X, n_directions, random_state):
    """At most so many leading singular values and right singular vectors (rows), float64.

    At most rank(X) of them: the rest would be noise.
    """
    xp = kind_of(X).xp
    n_wanted = min(n_directions, *X.shape)
    if min(X.shape) <= _EXACT_SVD_SIZE:
        s, atoms = _all_singular_vectors(X)
    else:
        s, atoms = _leading_singular_vectors(X, n_wanted, random_state)
    resolution = s[0] * max(X.shape) * xp.finfo(X.dtype).eps
    n_kept = min(n_wanted, int((s > resolution).sum()))
    return s[:n_kept], atoms[:n_kept]


def _all_singular_vectors(X):
    """Singular values and right singular vectors, float64."""
    xp = kind_of(X).xp
    if X.shape[0] < X.shape[1] or X.dtype == xp.float64:
        _, s, atoms = xp.linalg.svd(as_float64(X), full_matrices=False)
        return s, atoms
    # Squares lose half of the digits: float64 has those of float32 twice over.
    X = as_float64(X)
    energies, vectors = xp.linalg.eigh(X.T @ X)
    return xp.flip(xp.sqrt(xp.clip(energies, 0.0, None)), axis=0), xp.flip(vectors, axis=1).T


def _leading_singular_vectors(X, n_vectors, random_state):
    """Leading singular values and right singular vectors, float64, by subspace iteration."""
    xp = kind_of(X).xp
    n_columns = min(n_vectors + _SPARE_VECTORS, *X.shape)
    start = random_state.standard_normal((X.shape[1], n_columns))
    Q = xp.astype(like(start, X), X.dtype)
    for _ in range(_SUBSPACE_STEPS):
        Q, _ = xp.linalg.qr(X @ Q)
        Q, _ = xp.linalg.qr(X.T @ Q)
    _, s, rotation = xp.linalg.svd(as_float64(X @ Q), full_matrices=False)
    return s, rotation @ as_float64(Q).T


def random_rows(X, n_components, random_state):
    """Rows of X drawn without replacement as long as there are any, normalised.

    Rows of zeros, and draws beyond the number of rows, become random directions.
    """
    rows = random_state.permutation(X.shape[0])[:n_components]
    atoms = like(np.zeros((n_components, X.shape[1])), X)
    atoms[: len(rows)] = as_float64(X[like(rows, X)])
    empty = np.flatnonzero(to_numpy(_norms(atoms)) == 0.0)
    if empty.size:
        directions = random_state.standard_normal((empty.size, X.shape[1]))
        atoms[like(empty, X)] = like(directions, X)
    return atoms / _norms(atoms)[:, None]


def spread_rows(X, n_components, random_state):
    """Rows of X drawn one after the other with probability ~ the energy not explained so far.

    The k-means++ idea for directions: the energy of a row that the atoms so far explain is the
    largest squared positive score that it has on one of them.
    """
    xp = kind_of(X).xp
    norms = row_norms(X)
    energy = norms**2
    explained = xp.zeros_like(energy)
    atoms = []
    while len(atoms) < n_components:
        left = xp.clip(energy - explained, 0.0, None)
        left = xp.where(left > 1e-10 * energy, left, 0.0)
        total = float(left.sum())
        if not total > 0.0:
            break
        row = _draw(left, random_state)
        atom = as_float64(X[row]) / norms[row]
        atoms.append(atom)
        scores = as_float64(xp.clip(X @ xp.astype(atom, X.dtype), 0.0, None))
        explained = xp.maximum(explained, scores**2)
    return xp.stack(atoms) if atoms else like(np.empty((0, X.shape[1])), X)


def _draw(weights, random_state):
    """An index drawn with probabilities proportional to the weights."""
    xp = kind_of(weights).xp
    bounds = xp.cumulative_sum(weights)
    row = int((bounds <= random_state.random_sample() * bounds[-1]).sum())
    return min(row, weights.shape[0] - 1)


def _norms(rows):
    return kind_of(rows).xp.linalg.vector_norm(rows, axis=1)


INITS = {"svd": singular_vectors, "k-means++": spread_rows, "random": random_rows}
