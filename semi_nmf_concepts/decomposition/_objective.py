"""The mathematics of the decomposition, each formula in one small function.

Notation, used throughout this sub-package (rows are samples)::

    X (n_samples, n_features)     data
    U (n_components, n_features)  dictionary; its rows are the atoms u_k, ||u_k||_2 <= 1
    V (n_samples, n_components)   codes (activations), V >= 0
    G = U U^T                     Gram matrix of the atoms
    C = X U^T                     correlation of the samples with the atoms
    A = V^T V,  B = V^T X         all that the dictionary update needs to know of X and V

    F(U, V) = 1/2 ||X - V U||_F^2 + alpha * sum(V)

Everything here is plain NumPy in float64 and written to be read and trusted; the solvers are
tested against these functions.
"""

import numpy as np

#: Rows handled at a time where a float64 copy or a residual is formed.
_BLOCK_ROWS = 1024


def row_blocks(n_rows, size=_BLOCK_ROWS):
    """Slices that cover ``range(n_rows)`` in order, ``size`` rows at a time."""
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def squared_error(X, V, U):
    """``||X - V U||_F^2`` accumulated in float64, a block of rows at a time."""
    total = 0.0
    U = np.asarray(U, dtype=np.float64)
    for rows in row_blocks(X.shape[0]):
        residual = X[rows] - np.asarray(V[rows], dtype=np.float64) @ U
        total += float(np.vdot(residual, residual))
    return total


def objective(X, V, U, alpha):
    """``F(U, V) = 1/2 ||X - V U||_F^2 + alpha * sum(V)`` (V is taken to be non-negative)."""
    return 0.5 * squared_error(X, V, U) + alpha * float(np.sum(V, dtype=np.float64))


def objective_from_statistics(squared_norm_X, sum_V, A, B, U, alpha):
    """The same F from ``||X||^2``, ``sum(V)``, ``A = V^T V`` and ``B = V^T X``; no pass over X.

    It subtracts large numbers, so it is accurate relative to ``||X||^2``, not to F.
    """
    U = np.asarray(U, dtype=np.float64)
    error = squared_norm_X - 2.0 * float(np.vdot(B, U)) + float(np.vdot(A, U @ U.T))
    return 0.5 * max(error, 0.0) + alpha * sum_V


def project_atoms(U):
    """Euclidean projection of every row of U onto the unit ball."""
    norms = np.linalg.norm(U, axis=1, keepdims=True)
    return U / np.maximum(norms, 1.0)


def alpha_max(X, U):
    """Smallest alpha for which all codes of X on the dictionary U are zero.

    At ``V = 0`` the gradient with respect to ``v_ik`` is ``alpha - x_i . u_k``; zero codes are
    optimal exactly when none of these is negative.
    """
    return max(float(np.max(X @ U.T, initial=0.0)), 0.0)


def kkt_violation(X, V, U, alpha):
    """Largest relative violation of the optimality conditions of the codes, over all samples.

    With ``g_i = v_i G - x_i U^T + alpha`` the codes of sample i are optimal exactly when
    ``g_ik = 0`` where ``v_ik > 0`` and ``g_ik >= 0`` where ``v_ik = 0``. The largest absolute
    entry of this projected gradient is divided by ``max_k |x_i . u_k|`` (a sample for which
    that is 0 counts as 0), so the figure does not depend on the scale of X.
    """
    U = np.asarray(U, dtype=np.float64)
    G = U @ U.T
    worst = 0.0
    for rows in row_blocks(X.shape[0]):
        V_rows = np.asarray(V[rows], dtype=np.float64)
        C = np.asarray(X[rows], dtype=np.float64) @ U.T
        gradient = V_rows @ G - C + alpha
        projected = np.where(V_rows > 0.0, gradient, np.minimum(gradient, 0.0))
        largest = np.max(np.abs(projected), axis=1, initial=0.0)
        scale = np.max(np.abs(C), axis=1, initial=0.0)
        relative = np.divide(largest, scale, out=np.zeros_like(largest), where=scale > 0.0)
        worst = max(worst, float(np.max(relative, initial=0.0)))
    return worst


def row_norms(X):
    """Euclidean norms of the rows of X in float64."""
    norms = np.empty(X.shape[0])
    for rows in row_blocks(X.shape[0]):
        norms[rows] = np.linalg.norm(np.asarray(X[rows], dtype=np.float64), axis=1)
    return norms


def mean_active(V):
    """Mean number of active (positive) atoms per sample."""
    return float(np.count_nonzero(V)) / max(V.shape[0], 1)
