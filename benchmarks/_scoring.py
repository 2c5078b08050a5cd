"""Scores of dictionaries: F*(U) = min_V F(U, V) over V >= 0, in float64, and how exact they are.

The codes come from this package's own encoder at float64. A score need not take it on trust: weak
duality bounds how far any codes are from the best ones, whoever computed them (`Scorer.worst_gap`),
and `independent_difference` compares with solvers of scikit-learn and SciPy.
"""

import numpy as np
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

from semi_nmf_concepts.decomposition import sparse_encode_nonneg

_BLOCK_ROWS = 2048


class Scorer:
    """``scorer(U)`` is F*(U) on the data X (n_samples, n_features) with the penalty alpha.

    Atoms count as they are, within the unit ball; at alpha = 0, where their norms do not matter,
    they may have any.
    """

    def __init__(self, X, alpha):
        self.X = X
        self.alpha = float(alpha)
        #: Largest relative duality gap of all scores so far.
        self.worst_gap = 0.0

    def __call__(self, U):
        U = self._admissible(np.asarray(U, dtype=np.float64))
        F = gap = 0.0
        for start in range(0, len(self.X), _BLOCK_ROWS):
            X = self.X[start : start + _BLOCK_ROWS].astype(np.float64)
            V = sparse_encode_nonneg(X, U, alpha=self.alpha)
            residual = X - V @ U
            values = 0.5 * np.sum(residual**2, axis=1) + self.alpha * V.sum(axis=1)
            F += float(values.sum())
            gap += float(np.sum(values - dual_values(X, residual, U, self.alpha)))
        if self.alpha > 0.0:
            self.worst_gap = max(self.worst_gap, gap / F)
        return F

    def _admissible(self, U):
        norms = np.linalg.norm(U, axis=1, keepdims=True)
        if self.alpha == 0.0:
            return U / np.where(norms > 0.0, norms, 1.0)
        # Rounding in float32 leaves norms up to 1e-6 above 1; a method that goes further cheats.
        if norms.max() > 1.0 + 1e-5:
            raise ValueError(f"an atom has norm {norms.max():.6f}, above 1")
        return U / np.maximum(norms, 1.0)


def dual_values(X, residual, U, alpha):
    """A lower bound of min_v F for each row of X, from any residual ``x - v U``.

    The dual of the non-negative lasso is ``max 1/2 ||x||^2 - 1/2 ||x - t||^2`` over all t with
    ``u_k . t <= alpha``. The residual, scaled down until it is feasible, is such a t.
    """
    largest = np.maximum((residual @ U.T).max(axis=1), 0.0)
    scale = np.ones_like(largest)
    np.divide(alpha, largest, out=scale, where=largest > alpha)
    inner = np.einsum("ij,ij->i", X, residual)
    squares = np.einsum("ij,ij->i", residual, residual)
    return scale * inner - 0.5 * scale**2 * squares


def independent_difference(X, U, alpha, n_rows=40):
    """Largest relative difference of F* between the scorer and independent solvers, over rows.

    Those are scikit-learn's Lasso(positive=True) and, at alpha = 0, SciPy's nnls.
    """
    rows = np.linspace(0, len(X) - 1, min(n_rows, len(X))).astype(int)
    X = X[rows].astype(np.float64)
    U = Scorer(X, alpha)._admissible(np.asarray(U, dtype=np.float64))
    # Lasso divides the squared error by the length of its target.
    lasso = Lasso(
        alpha=alpha / X.shape[1], positive=True, fit_intercept=False, tol=1e-12, max_iter=1_000_000
    )
    worst = 0.0
    for x in X:
        v = lasso.fit(U.T, x).coef_ if alpha > 0.0 else nnls(U.T, x)[0]
        theirs = 0.5 * np.sum((x - v @ U) ** 2) + alpha * v.sum()
        ours = Scorer(x[np.newaxis], alpha)(U)
        worst = max(worst, abs(ours - theirs) / theirs)
    return worst
