"""The mathematics of the decomposition, each formula in one small function.

Notation, used throughout this sub-package (rows are samples)::

    X (n_samples, n_features)     data
    U (n_components, n_features)  dictionary; its rows are the atoms u_k, ||u_k||_2 <= 1
    V (n_samples, n_components)   codes (activations), V >= 0
    G = U U^T                     Gram matrix of the atoms
    C = X U^T                     correlation of the samples with the atoms
    A = V^T V,  B = V^T X         all that the dictionary update needs to know of X and V

    F(U, V) = 1/2 ||X - V U||_F^2 + alpha * sum(V)

Everything here is written to be read and trusted, in float64 and for arrays of any library; the
solvers are tested against these functions.
"""

from ._arrays import as_float64, kind_of

#: Rows handled at a time where a float64 copy or a residual is formed.
_BLOCK_ROWS = 1024


def row_blocks(n_rows, size=_BLOCK_ROWS):
    """Slices that cover ``range(n_rows)`` in order, ``size`` rows at a time."""
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def squared_error(X, V, U):
    """``||X - V U||_F^2`` accumulated in float64, a block of rows at a time."""
    xp = kind_of(X).xp
    total = 0.0
    U = as_float64(U)
    for rows in row_blocks(X.shape[0]):
        residual = as_float64(X[rows]) - as_float64(V[rows]) @ U
        total += float(xp.sum(residual * residual))
    return total


def objective(X, V, U, alpha):
    """``F(U, V) = 1/2 ||X - V U||_F^2 + alpha * sum(V)`` (V is taken to be non-negative)."""
    xp = kind_of(V).xp
    return 0.5 * squared_error(X, V, U) + alpha * float(xp.sum(V, dtype=xp.float64))


def objective_from_statistics(squared_norm_X, sum_V, A, B, U, alpha):
    """The same F from ``||X||^2``, ``sum(V)``, ``A = V^T V`` and ``B = V^T X``; no pass over X.

    It subtracts large numbers, so it is accurate relative to ``||X||^2``, not to F.
    """
    return 0.5 * squared_error_from_statistics(squared_norm_X, A, B, U) + alpha * sum_V


def squared_error_from_statistics(squared_norm_X, A, B, U):
    """``||X - V U||_F^2`` from the same sums, as accurate."""
    xp = kind_of(U).xp
    U = as_float64(U)
    error = squared_norm_X - 2.0 * float(xp.sum(B * U)) + float(xp.sum(A * (U @ U.T)))
    return max(error, 0.0)


def project_atoms(U):
    """Euclidean projection of every row of U onto the unit ball."""
    xp = kind_of(U).xp
    norms = xp.linalg.vector_norm(U, axis=1, keepdims=True)
    return U / xp.clip(norms, min=1.0)


def alpha_max(X, U):
    """Smallest alpha for which all codes of X on the dictionary U are zero.

    At ``V = 0`` the gradient with respect to ``v_ik`` is ``alpha - x_i . u_k``; zero codes are
    optimal exactly when none of these is negative.
    """
    return max(float(kind_of(X).xp.max(X @ U.T)), 0.0)


def kkt_violation(X, V, U, alpha):
    """Largest relative violation of the optimality conditions of the codes, over all samples.

    With ``g_i = v_i G - x_i U^T + alpha`` the codes of sample i are optimal exactly when
    ``g_ik = 0`` where ``v_ik > 0`` and ``g_ik >= 0`` where ``v_ik = 0``. The largest absolute
    entry of this projected gradient is divided by ``max_k |x_i . u_k|`` (a sample for which
    that is 0 counts as 0), so the figure does not depend on the scale of X.
    """
    xp = kind_of(X).xp
    U = as_float64(U)
    G = U @ U.T
    worst = 0.0
    for rows in row_blocks(X.shape[0]):
        V_rows = as_float64(V[rows])
        C = as_float64(X[rows]) @ U.T
        gradient = V_rows @ G - C + alpha
        projected = xp.where(V_rows > 0.0, gradient, xp.clip(gradient, max=0.0))
        largest = xp.max(xp.abs(projected), axis=1)
        scale = xp.max(xp.abs(C), axis=1)
        relative = xp.where(scale > 0.0, largest / xp.where(scale > 0.0, scale, 1.0), 0.0)
        worst = max(worst, float(xp.max(relative)))
    return worst


def row_norms(X):
    """Euclidean norms of the rows of X in float64."""
    xp = kind_of(X).xp
    return xp.concat(
        [xp.linalg.vector_norm(as_float64(X[rows]), axis=1) for rows in row_blocks(X.shape[0])]
    )


def mean_active(V):
    """Mean number of active (positive) atoms per sample."""
    xp = kind_of(V).xp
    return float(xp.sum(xp.astype(V > 0, xp.int64))) / max(V.shape[0], 1)
