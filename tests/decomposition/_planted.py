"""Data with a known dictionary, and how well another one matches it."""

import numpy as np
from scipy.optimize import linear_sum_assignment


def planted(n_samples, n_features, n_components, seed=0):
    """Noisy sparse non-negative combinations of unit atoms around an offset, and the atoms."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((n_components, n_features))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    V = rng.gamma(2.0, 1.0, (n_samples, n_components))
    V *= rng.random((n_samples, n_components)) < 0.4
    noise = 0.1 * rng.standard_normal((n_samples, n_features))
    return V @ U + 0.3 * rng.standard_normal(n_features) + noise, U


def matched_cosines(atoms, others):
    """Cosines of pairs of atoms, paired so that their sum is largest."""
    cosines = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (atoms, others)]
    cosines = cosines[0] @ cosines[1].T
    return cosines[linear_sum_assignment(-cosines)]
