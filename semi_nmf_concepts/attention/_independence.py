"""Tests of conditional independence from a correlation matrix.

Notation: correlation rho (n, n) of n variables, N records, r the partial correlation of two
variables given a set Z of others.

    z = atanh(r)        p = 2 (1 - Phi(sqrt(N - |Z| - 3) |z|))

p is the p-value of "independent given Z" where the variables are jointly normal; Phi is the normal
distribution function.
"""

from numbers import Integral, Real

import numpy as np
from scipy.special import erfc

#: Least eigenvalue that a correlation matrix is given, see `regularised`. Large against rounding
#: (1e-16), so that every submatrix has a Cholesky factor; too small to change any decision.
_FLOOR = 1e-8
#: What rounding may do to a correlation matrix that was computed in single precision.
_ROUNDING = 1e-5
#: Numbers in the largest temporary array, which bounds the memory of many tests at once.
_CHUNK = 2_000_000
#: Partial correlations stay this far from +-1, so that z is finite.
_NEXT_TO_ONE = np.finfo(np.float64).eps
#: Degrees of freedom N - |Z| - 3 are at least 1: smallest N with |Z| = 0.
LEAST_RECORDS = 4


class FisherZ:
    """p-values of independence, for many conditioning sets at once.

    Parameters
    ----------
    correlation : ndarray of float64, shape (n, n)
        A valid correlation matrix, see `check_correlation`; it is regularised here.
    n_records : int
        N; at least |Z| + 4 for the largest conditioning set.

    Attributes
    ----------
    correlation : ndarray of shape (n, n)
        Regularised.
    """

    def __init__(self, correlation, n_records):
        self.correlation = regularised(correlation)
        self.n_records = n_records

    def p_values(self, root, others, sets):
        """p-values of the independence of one variable from others, given each of some sets.

        Parameters
        ----------
        root : int
        others : ndarray of int, shape (k,)
            Without `root`.
        sets : ndarray of int, shape (m, size)
            Conditioning sets of one size, without `root`.

        Returns
        -------
        ndarray of shape (m, k)
            In [0, 1]; meaningless (but finite) where the other variable is in the set.
        """
        size = sets.shape[1]
        rows = max(1, _CHUNK // ((len(others) + 1) * max(size, 1)))
        chunks = [sets[start : start + rows] for start in range(0, len(sets), rows)]
        found = [self._partial(root, others, chunk) for chunk in chunks]
        return self._p(np.concatenate(found), size)

    def _partial(self, root, others, sets):
        """Partial correlations (m, k): covariances of what linear regression on the set leaves."""
        columns = np.array([root, *others])
        within = self.correlation[sets[:, :, None], sets[:, None, :]]
        across = self.correlation[sets[:, :, None], columns]
        explained = np.linalg.solve(np.linalg.cholesky(within), across)  # (m, size, 1 + k)
        # No variance left is below the least eigenvalue, but for rounding.
        left = np.maximum(1.0 - np.sum(explained**2, axis=1), _FLOOR / 2)
        shared = np.einsum("ms,msk->mk", explained[:, :, 0], explained[:, :, 1:])
        return (self.correlation[root, others] - shared) / np.sqrt(left[:, :1] * left[:, 1:])

    def _p(self, partial, size):
        limit = 1.0 - _NEXT_TO_ONE
        z = np.arctanh(np.clip(partial, -limit, limit))
        return erfc(np.sqrt((self.n_records - size - 3) / 2) * np.abs(z))


def regularised(correlation):
    """The correlation matrix, moved towards independence as little as makes it regular.

    Where the least eigenvalue e is below 1e-8 (duplicated or linearly dependent variables), the
    result is ``(1 - s) correlation + s I`` with the s that lifts e to 1e-8. The diagonal stays 1;
    all correlations shrink by the same tiny factor.
    """
    least = np.linalg.eigvalsh(correlation)[0]
    if least >= _FLOOR:
        return correlation
    s = (_FLOOR - least) / (1.0 - least)
    return (1.0 - s) * correlation + s * np.eye(len(correlation))


def check_correlation(correlation):
    """The correlation matrix in float64, exactly symmetric, or a ValueError that says why not."""
    rho = np.array(correlation, dtype=np.float64)
    if rho.ndim != 2 or rho.shape[0] != rho.shape[1] or not len(rho):
        raise ValueError(f"correlation must be a square matrix, got shape {rho.shape}.")
    if not np.isfinite(rho).all():
        raise ValueError("correlation must be finite; it has NaN or infinite entries.")
    if np.abs(rho - rho.T).max() > _ROUNDING:
        raise ValueError(
            "correlation must be symmetric; entries differ from those across the diagonal by up "
            f"to {np.abs(rho - rho.T).max():.3g}."
        )
    off = np.abs(np.diagonal(rho) - 1.0).max()
    if off > _ROUNDING:
        raise ValueError(
            f"correlation must have ones on its diagonal, got values that differ by up to {off:.3g}"
            "; divide a covariance by the standard deviations first."
        )
    rho = (rho + rho.T) / 2
    np.fill_diagonal(rho, 1.0)
    least = np.linalg.eigvalsh(rho)[0]
    if least < -_ROUNDING * len(rho):
        raise ValueError(
            "correlation must be positive semi-definite, as that of any data is; its least "
            f"eigenvalue is {least:.3g}."
        )
    return rho


def check_test(n_records, alpha):
    """ValueError or TypeError if a test cannot be made with these."""
    if not isinstance(n_records, Integral) or isinstance(n_records, bool):
        raise TypeError(f"n_records must be an int, got {n_records!r}.")
    if n_records < LEAST_RECORDS:
        raise ValueError(
            f"n_records must be at least {LEAST_RECORDS}, so that a test has a degree of freedom "
            f"(n_records - 3), got {n_records}."
        )
    if not isinstance(alpha, Real) or isinstance(alpha, bool):
        raise TypeError(f"alpha must be a number, got {alpha!r}.")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be between 0 and 1, both excluded, got {alpha}.")
