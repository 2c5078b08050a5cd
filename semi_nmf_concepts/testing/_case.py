"""An estimator with data: its fits and transforms, run quietly, and once where that is enough."""

import copy
import warnings
from contextlib import contextmanager
from functools import cached_property

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_array

from ._problem import CodingProblem, is_array, like, penalty_name, to_numpy

#: Relative accuracy that codes should have, by precision.
TOLERANCE = {"float32": 1e-4, "float64": 1e-7}
#: Multiple of the machine precision up to which two runs of the same computation count as equal.
SAME = 100


class Case:
    """What the invariants are checked on.

    Parameters
    ----------
    estimator : estimator
        Stays as it is; its clones get ``random_state=0`` where it is None.
    X : array-like of shape (n_samples, n_features)
    tolerance : float or None
        Relative accuracy of the codes; None stands for `TOLERANCE`.
    declared : collection of str
        Invariants that apply to the estimator.
    """

    def __init__(self, estimator, X, tolerance, declared):
        self.estimator = _seeded(estimator)
        self.X = X if is_array(X) else check_array(X, dtype=[np.float64, np.float32])
        self.values = to_numpy(X).copy()
        self.eps = float(np.finfo(self.values.dtype).eps)
        self.tolerance = TOLERANCE[self.values.dtype.name] if tolerance is None else tolerance
        self.declared = declared

    def new(self, **parameters):
        """An unfitted clone, with some parameters changed."""
        return clone(self.estimator).set_params(**parameters)

    def fit(self, estimator, values=None):
        with quiet():
            return estimator.fit(self.array(self.values if values is None else values))

    def transform(self, fitted, values=None):
        """Codes as a NumPy array."""
        with quiet():
            V = fitted.transform(self.array(self.values if values is None else values))
        return to_numpy(V)

    def reconstruct(self, fitted, V):
        """Reconstructed samples as a NumPy array."""
        with quiet():
            return to_numpy(fitted.inverse_transform(self.array(V)))

    def array(self, values):
        """A copy of `values` of the kind and on the device of X."""
        return like(np.array(values, order="C"), self.X)

    @cached_property
    def fitted(self):
        """The estimator fitted on X; not to be changed."""
        X, fitted = self.array(self.values), self.new()
        with numeric_warnings() as self.warnings_of_fit:
            fitted.fit(X)
        self.values_after_fit = to_numpy(X)
        if not hasattr(fitted, "components_"):
            raise TypeError(
                "check_factorization_invariants needs an estimator with components_ after fit; "
                f"{type(fitted).__name__} has none."
            )
        return fitted

    @cached_property
    def components(self):
        return to_numpy(self.fitted.components_)

    @cached_property
    def codes(self):
        """The codes of X."""
        return self.transform(self.fitted)

    @property
    def more_values(self):
        """The rows of X and the means of neighbours, which are no training samples."""
        return np.vstack([self.values, 0.5 * self.values + 0.5 * np.roll(self.values, 1, axis=0)])

    def problem(self, values=None, fitted=None):
        """The coding problem of the fitted estimator for some samples."""
        values = self.values if values is None else values
        return CodingProblem.of(fitted or self.fitted, values, self.tolerance)

    def altered(self, *, alpha=None, **attributes):
        """A copy of the fitted estimator with other fitted attributes, or another penalty."""
        fitted = copy.deepcopy(self.fitted)
        if alpha is not None:
            setattr(fitted, penalty_name(fitted), alpha)
        for name, value in attributes.items():
            if hasattr(fitted, name):
                setattr(fitted, name, like(value, getattr(fitted, name)))
        return fitted

    def require_same_codes(self, V, W, values, what, problem=None):
        """V and W, both said to be the codes of `values`, are the same to tolerance."""
        require(V.shape == W.shape, f"{what}: codes of shape {V.shape}, expected {W.shape}")
        V, W = V.astype(np.float64), W.astype(np.float64)
        if "optimal_codes" in self.declared:
            differing = (problem or self.problem(values)).differing_rows(V, W)
        else:
            differing = np.flatnonzero(~self._close_rows(V, W, values))
        if differing.size:
            i = differing[0]
            raise AssertionError(
                f"{what}: the codes of {differing.size} of {len(V)} samples differ; "
                f"those of sample {i} are {V[i]} instead of {W[i]}"
            )

    def _close_rows(self, V, W, values):
        """Rows equal to the tolerance; products of samples and components round by their sizes."""
        allowed = self.tolerance * np.max(np.abs(W), initial=0.0)
        if "linear_reconstruction" in self.declared or not declares(self.estimator):
            mean = to_numpy(getattr(self.fitted, "mean_", np.zeros(1)))
            sizes = np.linalg.norm(values.astype(np.float64), axis=1) + np.linalg.norm(mean)
            lengths = np.linalg.norm(self.components.astype(np.float64), axis=1)
            allowed = allowed + SAME * self.eps * sizes * lengths.max(initial=0.0)
        return np.max(np.abs(V - W), axis=1) <= allowed

    def require_same_result(self, other, what):
        """`other` has the components of the fitted estimator and gives the same codes."""
        components, codes = to_numpy(other.components_), self.transform(other)
        require_close(components, self.components, SAME * self.eps, f"{what}, components_")
        require_close(codes, self.codes, SAME * self.eps, f"{what}, codes of X")


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def require_close(actual, expected, relative, what):
    """Equal up to a share of the largest entry expected."""
    require(
        actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    )
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    largest = float(np.max(np.abs(expected), initial=0.0))
    difference = float(np.max(np.abs(actual - expected), initial=0.0))
    require(
        difference <= relative * largest,
        f"{what}: entries differ by up to {difference:.3g}, where the largest is {largest:.3g} and "
        f"{relative * largest:.3g} is allowed",
    )


@contextmanager
def quiet():
    """Without warnings: few samples, dependent atoms or few iterations are part of the game."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def numeric_warnings():
    """The list that numeric warnings (division by zero, overflow, NaN) go to."""
    messages = []
    with (
        warnings.catch_warnings(record=True) as caught,
        np.errstate(all="warn", under="ignore"),
    ):
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]


def declares(estimator):
    """Whether the estimator says which invariants apply to it."""
    return hasattr(estimator, "__factorization_invariants__")


def _seeded(estimator):
    """A clone in which nothing is left to chance."""
    estimator = clone(estimator)
    names = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
    unset = {name: 0 for name in names if estimator.get_params()[name] is None}
    return estimator.set_params(**unset)
