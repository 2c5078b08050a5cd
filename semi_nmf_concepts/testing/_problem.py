"""The coding problem that a fitted estimator states, in float64, and how exact its codes can be.

For a sample x, mapped to the space of the factorisation, the codes are ::

    v(x) = argmin_{v >= 0}  1/2 ||x - v U||^2 + alpha * sum(v),     g(v) = v U U^T - x U^T + alpha

optimal exactly when g_k = 0 where v_k > 0, and g_k >= 0 where v_k = 0. Computed here from public
attributes, apart from the solvers, so that these do not vouch for themselves.
"""

from dataclasses import dataclass

import numpy as np

#: Roundings that a sum of products may go through, next to the square root of its length.
ROUNDINGS = 8


@dataclass
class CodingProblem:
    """One non-negative lasso per row of X, and what floating point leaves open of it."""

    X: np.ndarray  # (n_samples, r): the samples in the space of the factorisation
    U: np.ndarray  # (n_components, r)
    alpha: float
    noise: np.ndarray  # (n_samples,): error of the rows of X that mapping them there may cause
    eps: float  # of the precision that the estimator computes in
    tolerance: float  # of the codes, relative

    @classmethod
    def of(cls, fitted, values, tolerance):
        """What `fitted` has to solve for the samples `values`, a NumPy array of the input space."""
        eps = float(np.finfo(values.dtype).eps)
        offset = _to_float64(getattr(fitted, "offset_", None), np.zeros(values.shape[1]))
        X = values.astype(np.float64) - offset
        sizes = np.linalg.norm(values.astype(np.float64), axis=1) + np.linalg.norm(offset)
        noise = np.zeros(len(X)) if not offset.any() else ROUNDINGS * eps * sizes
        axes = getattr(fitted, "whitening_axes_", None)
        if axes is not None:
            W = (_to_float64(axes) / _to_float64(fitted.whitening_scale_)[:, None]).T
            X = X @ W
            noise = ROUNDINGS * eps * np.sqrt(values.shape[1]) * sizes * np.linalg.norm(W, 2)
        return cls(X, dictionary_of(fitted), penalty_of(fitted), noise, eps, tolerance)

    @property
    def correlations(self):
        return self.X @ self.U.T

    def gradient(self, V):
        return V @ (self.U @ self.U.T) - self.correlations + self.alpha

    def violations(self, V):
        """Largest entry of the projected gradient, for every row."""
        gradient = self.gradient(V)
        return np.max(np.abs(np.where(V > 0.0, gradient, np.minimum(gradient, 0.0))), axis=1)

    def allowed_violations(self, V):
        """The tolerance, relative to ``max_k |x . u_k|``, and the rounding of x, V and products."""
        return self.tolerance * np.max(np.abs(self.correlations), axis=1) + self.rounding(V)

    def rounding(self, V):
        """What floating point alone may do to the gradient at V, for every row."""
        lengths = np.linalg.norm(self.U, axis=1)
        sizes = np.linalg.norm(self.X, axis=1) + np.abs(V) @ lengths
        products = ROUNDINGS * self.eps * np.sqrt(self.U.shape[1]) * sizes
        return (products + self.noise) * lengths.max()

    def objective(self, V):
        """``F = 1/2 ||X - V U||_F^2 + alpha * sum(V)``."""
        return 0.5 * float(np.sum((self.X - V @ self.U) ** 2)) + self.alpha * float(np.sum(V))

    def objective_rounding(self, V):
        """What floating point alone may do to F, expanded into sums of squares and products."""
        sizes = np.linalg.norm(self.X, axis=1) + np.abs(V) @ np.linalg.norm(self.U, axis=1)
        return float(np.sum(2 * ROUNDINGS * self.eps * sizes**2 + 2 * self.noise * sizes))

    def differing_rows(self, V, W):
        """Rows of which V and W cannot both hold the optimal codes.

        Codes are not unique where atoms depend on each other, and ill-determined where they nearly
        do, so that equality would ask too much. But if the projected gradients at v and w are at
        most e then, with D = v - w, convexity gives ``D G D^T <= 2 e ||D||_1`` and
        ``|F(v) - F(w)| <= 2 e ||D||_1``.
        """
        D = V - W
        G = self.U @ self.U.T
        e = np.maximum(self.allowed_violations(V), self.allowed_violations(W))
        bound = 2.0 * e * np.sum(np.abs(D), axis=1)
        curvature = np.sum((D @ G) * D, axis=1)
        change = np.sum(self.gradient(V) * D, axis=1) - 0.5 * curvature
        return np.flatnonzero((curvature > bound) | (np.abs(change) > bound) | np.isnan(bound))


def dictionary_of(fitted):
    """The atoms in the space of the factorisation, in float64."""
    return _to_float64(fitted.dictionary_ if hasattr(fitted, "dictionary_") else fitted.components_)


def penalty_of(fitted):
    """The penalty that `transform` uses."""
    name = penalty_name(fitted)
    return float(getattr(fitted, name))


def penalty_name(fitted):
    """Where `fitted` keeps its penalty."""
    for name in ("alpha_", "alpha"):
        if hasattr(fitted, name):
            return name
    raise AssertionError("there is neither an attribute alpha_ nor a parameter alpha")


def is_array(X):
    """Whether X is an array of another library than NumPy, to be handed on as it is."""
    foreign = hasattr(X, "__array_namespace__") or hasattr(X, "detach")
    return foreign and not isinstance(X, np.ndarray)


def to_numpy(array):
    """A NumPy array of what an estimator takes or gives, wherever it is."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "to_numpy"):  # data frames
        return array.to_numpy()
    if hasattr(array, "detach"):  # torch
        array = array.detach().cpu()
    elif hasattr(array, "get"):  # CuPy
        array = array.get()
    return np.from_dlpack(array) if hasattr(array, "__dlpack__") else np.asarray(array)


def like(values, array):
    """`values`, a NumPy array, as an array of the kind and on the device of `array`."""
    if not is_array(array):
        return values
    from array_api_compat import array_namespace, device

    return array_namespace(array).asarray(values, device=device(array))


def _to_float64(array, default=None):
    return default if array is None else to_numpy(array).astype(np.float64)
