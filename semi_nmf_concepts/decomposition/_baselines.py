"""The decomposers that Semi-NMF is compared with, thin over scikit-learn.

They take the same calls as `SemiNMFConcepts` and clamp `n_components` to what the data allow.
"""

import warnings
from numbers import Integral

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import _fit_context
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from .._messages import callers_level
from ._arrays import kind_of, move, to_numpy
from ._base import Decomposer, check_codes
from ._objective import row_norms


class _Baseline(Decomposer):
    """Calls around what a subclass computes on NumPy arrays.

    `_fit_components` returns fitted attributes, `components_` among them; `_activations` and
    `_reconstruct` are one step of `transform` and `inverse_transform` each.
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, n_components=20, *, random_state=None):
        self.n_components = n_components
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Find the components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            float32 and float64 are kept; float16 becomes float32, other types float64.
        y : ignored

        Returns
        -------
        self
        """
        X, kind = self._validate(X, method="fit", reset=True)
        limit, what = self._largest_n_components(X)
        self.n_components_ = min(self.n_components, limit)
        if self.n_components_ < self.n_components:
            warnings.warn(
                f"{type(self).__name__}: n_components={self.n_components} is more than the "
                f"{limit} that {what} allow; using n_components_={limit}.",
                UserWarning,
                stacklevel=callers_level(),
            )
        mean = np.mean(X, axis=0, dtype=np.float64)
        self._set_fitted(kind, mean_=mean, **self._fit_components(X))
        return self

    def _validate(self, X, **options):
        """As for all decomposers; scikit-learn's algorithms behind these run on the CPU alone."""
        if not kind_of(X).on_host:
            raise ValueError(
                f"{type(self).__name__} runs on the CPU; X is an array of {kind_of(X)}. Move it to "
                "the CPU first."
            )
        return super()._validate(X, **options)

    def transform(self, X):
        """Activations of the components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        array of shape (n_samples, n_components_)
            Of the kind and precision of X.
        """
        check_is_fitted(self, "components_")
        X, kind = self._validate(X, method="transform")
        return move(self._activations(X), kind)

    def inverse_transform(self, V):
        """Samples that the activations V stand for.

        Parameters
        ----------
        V : array-like of shape (n_samples, n_components_)

        Returns
        -------
        array of shape (n_samples, n_features)
        """
        check_is_fitted(self, "components_")
        V, kind = check_codes(self, V, method="inverse_transform")
        return move(self._reconstruct(V), kind)


class _Prototypes(_Baseline):
    """Components are points: activation by closeness, reconstruction by the nearest one."""

    def _activations(self, X):
        # Differences, not products of rows: those cancel for rows close to a component.
        distances = cdist(X, to_numpy(self.components_))
        return (1.0 / (1.0 + distances)).astype(X.dtype)

    def _reconstruct(self, V):
        return to_numpy(self.components_).astype(V.dtype)[np.argmax(V, axis=1)]

    def __factorization_invariants__(self):
        return [*super().__factorization_invariants__(), "nonnegative_codes"]


class KMeansConcepts(_Prototypes):
    """Concepts as cluster centres of `sklearn.cluster.KMeans`.

    A sample activates a concept by ``1 / (1 + Euclidean distance)`` and is reconstructed as the
    nearest centre.

    Parameters
    ----------
    n_components : int, default=20
        Number of clusters; clamped to the number of distinct samples, with a warning.
    n_init : int, default=10
        Starts of k-means; the one with the lowest inertia wins.
    random_state : int, RandomState instance or None, default=None
        Draws the starts.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        Cluster centres.
    n_components_ : int
        Number of components in use.
    mean_ : ndarray of shape (n_features,)
        Mean of the training data, for `score`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Defined only where X has feature names that are all strings.

    Examples
    --------
    >>> from semi_nmf_concepts import KMeansConcepts
    >>> X = [[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]]
    >>> kmeans = KMeansConcepts(2, random_state=0).fit(X)
    >>> kmeans.transform([[0.0, 1.0]]).max()
    np.float64(1.0)
    >>> kmeans.inverse_transform(kmeans.transform([[1.0, 1.0]]))
    array([[0., 1.]])
    """

    _parameter_constraints = {
        **_Baseline._parameter_constraints,
        "n_init": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, n_components=20, *, n_init=10, random_state=None):
        super().__init__(n_components, random_state=random_state)
        self.n_init = n_init

    def _largest_n_components(self, X):
        return np.unique(X, axis=0).shape[0], "the distinct samples"

    def _fit_components(self, X):
        kmeans = KMeans(self.n_components_, n_init=self.n_init, random_state=self.random_state)
        return {"components_": kmeans.fit(X).cluster_centers_.astype(X.dtype)}


class SimpleConcepts(_Prototypes):
    """Concepts as the training samples of largest Euclidean norm.

    A sample activates a concept by ``1 / (1 + Euclidean distance)`` and is reconstructed as the
    nearest one. Norms are computed in float64; the earlier of two equal ones comes first.

    Parameters
    ----------
    n_components : int, default=20
        Number of samples to keep; clamped to the number of samples, with a warning.
    random_state : ignored
        For the common face.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        The samples, as they are, largest norm first.
    sample_indices_ : ndarray of shape (n_components_,)
        Their rows in the training data.
    n_components_ : int
        Number of components in use.
    mean_ : ndarray of shape (n_features,)
        Mean of the training data, for `score`.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Defined only where X has feature names that are all strings.

    Examples
    --------
    >>> from semi_nmf_concepts import SimpleConcepts
    >>> SimpleConcepts(1).fit([[0.0, 1.0], [3.0, 4.0]]).components_
    array([[3., 4.]])
    """

    def _largest_n_components(self, X):
        return X.shape[0], "the samples"

    def _fit_components(self, X):
        order = np.argsort(-row_norms(X), kind="stable")
        rows = order[: self.n_components_]
        return {"sample_indices_": rows, "components_": X[rows]}


class PCAConcepts(_Baseline):
    """Concepts as principal components (`sklearn.decomposition.PCA`).

    Activations are the signed scores of the centred data.

    Parameters
    ----------
    n_components : int, default=20
        Number of components; clamped to min(n_samples, n_features), with a warning.
    random_state : int, RandomState instance or None, default=None
        Used by the randomised solver that scikit-learn chooses for large data.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features)
        Orthonormal directions, largest variance first.
    explained_variance_ratio_ : ndarray of shape (n_components_,)
        Share of the variance along each.
    n_components_ : int
        Number of components in use.
    mean_ : ndarray of shape (n_features,)
        Mean of the training data.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Defined only where X has feature names that are all strings.

    Examples
    --------
    >>> from semi_nmf_concepts import PCAConcepts
    >>> pca = PCAConcepts(1).fit([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    >>> abs(pca.transform([[5.0, 0.0]]))
    array([[3.]])
    """

    def _largest_n_components(self, X):
        return min(X.shape), f"{X.shape[0]} samples with {X.shape[1]} features"

    def _fit_components(self, X):
        pca = PCA(self.n_components_, random_state=self.random_state)
        with np.errstate(invalid="ignore", divide="ignore"):  # shares of no variance at all
            pca.fit(X)
        return {
            "components_": pca.components_.astype(X.dtype),
            "explained_variance_ratio_": np.nan_to_num(pca.explained_variance_ratio_),
        }

    def _activations(self, X):
        components, mean = (to_numpy(a).astype(X.dtype) for a in (self.components_, self.mean_))
        return (X - mean) @ components.T

    def _reconstruct(self, V):
        components, mean = (to_numpy(a).astype(V.dtype) for a in (self.components_, self.mean_))
        return V @ components + mean

    def __factorization_invariants__(self):
        return [*super().__factorization_invariants__(), "linear_reconstruction"]
