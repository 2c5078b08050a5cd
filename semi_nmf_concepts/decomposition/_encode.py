"""Codes of given samples on a given dictionary."""

import warnings
from numbers import Real

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array

from ._solvers import get_backend

#: Largest relative KKT violation that codes may have, by precision (see `kkt_violation`).
CODE_TOLERANCE = {"float32": 1e-5, "float64": 1e-8}
#: Bound on the coordinate descent sweeps per sample; ordinary samples need some tens.
MAX_SWEEPS = 10_000


def encode(X, U, alpha):
    """Codes of X on U to tolerance, from zero, and the number of samples that missed it."""
    V = np.zeros((X.shape[0], U.shape[0]), dtype=X.dtype)
    return V, improve_codes(X, U, alpha, V)


def improve_codes(X, U, alpha, V):
    """Bring V to tolerance in place; the number of samples that missed it."""
    tol = CODE_TOLERANCE[X.dtype.name]
    U = np.asarray(U, dtype=np.float64)
    return get_backend().encode(X, U, alpha, V, tol=tol, max_sweeps=MAX_SWEEPS)


def unconverged_message(n_unconverged, n_samples):
    return (
        f"the codes of {n_unconverged} of {n_samples} samples missed the tolerance; the atoms are "
        "nearly linearly dependent: use a larger alpha, fewer components or float64 data"
    )


def sparse_encode_nonneg(X, components, *, alpha=1.0):
    """Non-negative sparse codes of X on a fixed dictionary.

    Solves ``min_v 1/2 ||x - v U||^2 + alpha * sum(v)`` over ``v >= 0`` for every row x of X: a
    non-negative lasso per sample, by coordinate descent on the Gram matrix with exact steps on the
    active set. The rows are independent of each other.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        float32 and float64 are kept, other types become float64.
    components : array-like of shape (n_components, n_features)
        Dictionary, one atom per row, of any norm.
    alpha : float, default=1.0
        Penalty on the sum of the codes; 0 gives non-negative least squares.

    Returns
    -------
    ndarray of shape (n_samples, n_components)
        The codes, in the dtype of X. Their relative KKT violation is at most 1e-8 in float64 and
        1e-5 in float32; where that cannot be reached there is a ConvergenceWarning.

    Examples
    --------
    >>> from semi_nmf_concepts.decomposition import sparse_encode_nonneg
    >>> sparse_encode_nonneg([[3.0, -2.0]], [[1.0, 0.0], [0.0, 1.0]], alpha=0.5)
    array([[2.5, 0. ]])
    """
    X = check_array(X, dtype=[np.float64, np.float32], order="C", input_name="X")
    components = check_array(components, dtype=np.float64, order="C", input_name="components")
    if components.shape[1] != X.shape[1]:
        raise ValueError(
            f"components must have as many columns as X, {X.shape[1]}; got {components.shape[1]}."
        )
    if not (isinstance(alpha, Real) and 0 <= alpha < np.inf):
        raise ValueError(f"alpha must be a finite number >= 0; got {alpha!r}.")
    V, n_unconverged = encode(X, components, alpha)
    if n_unconverged:
        message = unconverged_message(n_unconverged, X.shape[0])
        warnings.warn(f"sparse_encode_nonneg: {message}.", ConvergenceWarning, stacklevel=2)
    return V
