"""Codes of given samples on a given dictionary."""

import warnings
from functools import partial
from math import isnan
from numbers import Integral, Real

import numpy as np
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._messages import callers_level
from ._arrays import BACKENDS, as_float64, kind_of, move, to_numpy, validated
from ._machine import Machine

#: Largest relative KKT violation that codes may have, by precision (see `kkt_violation`).
CODE_TOLERANCE = {"float32": 1e-5, "float64": 1e-8}
#: Bound on the coordinate descent sweeps of a sample that the active-set method leaves to it.
MAX_SWEEPS = 10_000


def exactly(X):
    """How to code X to tolerance: keyword arguments of `Backend.encode` and `code_pass`."""
    precision = "float32" if X.dtype == kind_of(X).xp.float32 else "float64"
    return {"tol": CODE_TOLERANCE[precision], "max_sweeps": MAX_SWEEPS}


def zero_codes(X, n_components):
    """Codes to start from: whatever X and the dictionary, they lead to the same result."""
    kind = kind_of(X)
    return kind.xp.zeros((X.shape[0], n_components), dtype=X.dtype, device=kind.device)


def encode(backend, X, U, alpha):
    """Codes of X on U to tolerance, from zero, and the `Coding`."""
    V = zero_codes(X, U.shape[0])
    return V, improve_codes(backend, X, U, alpha, V)


def improve_codes(backend, X, U, alpha, V):
    """Bring V to tolerance in place; the `Coding`."""
    with np.errstate(invalid="ignore", over="ignore"):  # entries that are not finite: see below
        return backend.encode(X, as_float64(U), float(alpha), V, **exactly(X))


def unconverged_message(n_unconverged, n_samples):
    return (
        f"the codes of {n_unconverged} of {n_samples} samples missed the tolerance; the atoms are "
        "nearly linearly dependent: use a larger alpha, fewer components or float64 data"
    )


def raise_not_finite(X, estimator_name=None):
    """Raise scikit-learn's error for the entries of X that are not finite.

    Called once the codes (NaN) show that there are some, which saves a pass over X that looks for
    them.
    """
    xp = kind_of(X).xp
    rows = ~xp.all(xp.isfinite(X), axis=1)
    with config_context(assume_finite=False):
        assert_all_finite(to_numpy(X[rows]), estimator_name=estimator_name, input_name="X")
    raise too_large(X.dtype, xp)


def too_large(dtype, xp=np):
    """The error for samples whose products overflow."""
    advice = ", or use float64" if dtype == xp.float32 else ""
    return ValueError(
        f"X is too large for its precision, {dtype}: sums of its products overflow. Divide X "
        f"(and an absolute alpha) by a constant{advice}."
    )


@validate_params(
    {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "backend": [StrOptions(BACKENDS)],
        "device": [str, None],
        "n_jobs": [Integral, None],
    },
    prefer_skip_nested_validation=True,
)
def sparse_encode_nonneg(X, components, alpha=1.0, *, backend="auto", device=None, n_jobs=None):
    """Non-negative sparse codes of X on a fixed dictionary.

    Solves ``min_v 1/2 ||x - v U||^2 + alpha * sum(v)`` over ``v >= 0`` for every row x of X: a
    non-negative lasso per sample, by an active-set method on the Gram matrix, or coordinate descent
    where many atoms are active. The rows are independent of each other.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        NumPy's, or tensors of torch, CuPy arrays ... float32 and float64 are kept, float16 and
        bfloat16 become float32, other types float64.
    components : array-like of shape (n_components, n_features)
        Dictionary, one atom per row, of any norm; of the same library and device as X.
    alpha : float, default=1.0
        Penalty on the sum of the codes; 0 gives non-negative least squares.
    backend : {"auto", "numba", "torch", "cupy"}, default="auto"
        What to compute with; "auto" goes by where X is (see `SemiNMFConcepts`).
    device : str, default=None
        Where "torch" or "cupy" put an X that is in host memory, such as "cuda:1".
    n_jobs : int, default=None
        Threads on the CPU; None is 1, -1 is all.

    Returns
    -------
    array of shape (n_samples, n_components)
        The codes, of the kind and precision of X. Their relative KKT violation is at most 1e-8 in
        float64 and 1e-5 in float32; where that cannot be reached there is a ConvergenceWarning.

    Examples
    --------
    >>> from semi_nmf_concepts.decomposition import sparse_encode_nonneg
    >>> sparse_encode_nonneg([[3.0, -2.0]], [[1.0, 0.0], [0.0, 1.0]], alpha=0.5)
    array([[2.5, 0. ]])
    """
    kind = kind_of(X)
    if kind_of(components) != kind:
        raise ValueError(
            f"components must be of the same library and device as X, {kind}; "
            f"got {kind_of(components)}."
        )
    X = validated(partial(check_array, input_name="X"), X, finite=False)
    components = validated(partial(check_array, input_name="components"), components)
    if components.shape[1] != X.shape[1]:
        raise ValueError(
            f"components must have as many columns as X, {X.shape[1]}; got {components.shape[1]}."
        )
    place, solver = Machine(backend, device, n_jobs).at(kind)
    U = as_float64(move(components, place))
    with solver.session():
        V, coding = encode(solver, move(X, place), U, alpha)
    if isnan(coding.violation):
        raise_not_finite(X)
    if coding.n_unconverged:
        message = unconverged_message(coding.n_unconverged, X.shape[0])
        warnings.warn(
            f"sparse_encode_nonneg: {message}.", ConvergenceWarning, stacklevel=callers_level()
        )
    return move(V, kind)
