"""Starting dictionaries. Every function returns K rows of unit norm (float64)."""

import numpy as np
from sklearn.utils.extmath import randomized_svd

from ._objective import row_norms

#: Up to this many rows or columns the exact SVD is as quick as the randomised one.
_EXACT_SVD_SIZE = 500


def initial_dictionary(X, n_components, init, random_state):
    """Starting dictionary by name; see `INITS` for the names."""
    U = INITS[init](X, n_components, random_state)
    missing = n_components - U.shape[0]
    if missing > 0:  # fewer directions in the data than atoms asked for
        U = np.vstack([U, random_rows(X, missing, random_state)])
    return U


def singular_vectors(X, n_components, random_state):
    """Right singular vectors, each with the sign that most of its energy in X has.

    At most rank(X) of them: the rest would be noise.
    """
    n_wanted = min(n_components, *X.shape)
    if min(X.shape) <= _EXACT_SVD_SIZE:
        _, s, Vt = np.linalg.svd(np.asarray(X, dtype=np.float64), full_matrices=False)
    else:
        _, s, Vt = randomized_svd(X, n_wanted, random_state=random_state)
    resolution = s[0] * max(X.shape) * np.finfo(X.dtype).eps
    n_kept = min(n_wanted, int(np.sum(s > resolution)))
    atoms = np.asarray(Vt[:n_kept], dtype=np.float64)
    scores = X @ atoms.T.astype(X.dtype)
    positive = np.sum(np.maximum(scores, 0.0) ** 2, axis=0)
    negative = np.sum(np.minimum(scores, 0.0) ** 2, axis=0)
    return np.where((negative > positive)[:, None], -atoms, atoms)


def random_rows(X, n_components, random_state):
    """Rows of X drawn without replacement as long as there are any, normalised.

    Rows of zeros, and draws beyond the number of rows, become random directions.
    """
    n_rows = min(n_components, X.shape[0])
    atoms = random_state.standard_normal((n_components, X.shape[1]))
    rows = np.asarray(X[random_state.permutation(X.shape[0])[:n_rows]], dtype=np.float64)
    nonzero = row_norms(rows) > 0.0
    atoms[:n_rows][nonzero] = rows[nonzero]
    return _normalised(atoms)


def spread_rows(X, n_components, random_state):
    """Rows of X drawn one after the other with probability ~ the energy not explained so far.

    The k-means++ idea for directions: the energy of a row that the atoms so far explain is the
    largest squared positive score that it has on one of them.
    """
    norms = row_norms(X)
    energy = norms**2
    explained = np.zeros_like(energy)
    atoms = []
    while len(atoms) < n_components:
        left = np.maximum(energy - explained, 0.0)
        left[left <= 1e-10 * energy] = 0.0
        if not left.sum() > 0.0:
            break
        row = random_state.choice(X.shape[0], p=left / left.sum())
        atom = np.asarray(X[row], dtype=np.float64) / norms[row]
        atoms.append(atom)
        scores = np.maximum(X @ atom.astype(X.dtype), 0.0).astype(np.float64)
        explained = np.maximum(explained, scores**2)
    return np.array(atoms).reshape(-1, X.shape[1])


def _normalised(atoms):
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / np.where(norms > 0.0, norms, 1.0)


INITS = {"svd": singular_vectors, "k-means++": spread_rows, "random": random_rows}
