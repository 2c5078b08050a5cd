"""What all decomposers have in common."""

import os
from functools import partial

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ._arrays import as_float64, check_same_kind, kind_of, move, validated, widened, working
from ._objective import row_blocks


class Decomposer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Validation, output names and the score; `components_`, `mean_` come from the subclass."""

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def _validate(self, X, *, method, reset=False, finite=True):
        """The working array of X (see `_arrays`) and the kind of array that X is.

        `method` is the method's name, for messages; `finite` asks for a pass over X that looks for
        entries that are not finite.
        """
        if not reset:
            check_same_kind(self, X, method=method)
        check = partial(validate_data, self, reset=reset)
        return validated(check, X, finite=finite), kind_of(X)

    def score(self, X, y=None):
        """Share of the variation of X that the reconstruction explains; 1 is best.

        ``1 - ||X - inverse_transform(transform(X))||^2 / ||X - mean_||^2`` with the mean of the
        *training* data. It is negative where the reconstruction is worse than that mean. Where X
        is that mean, so that there is nothing to explain, it is 1 or 0 (exact or not).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            `SemiNMFConcepts` also takes what is read block by block, and Dask arrays, which are
            computed (see its `fit`).
        y : ignored

        Returns
        -------
        float
        """
        check_is_fitted(self)
        error, total = self._errors_over(X)
        if total == 0.0:
            return float(error == 0.0)
        return float(1.0 - error / total)

    def _errors_over(self, X):
        """Squared errors of the reconstruction of X, and of the mean of the training data."""
        V, _ = check_codes(self, self.transform(X), method="score")
        X, _ = self._validate(X, method="score", finite=False)
        return self._squared_errors(X, V)

    def _squared_errors(self, X, V):
        """The same for a working array and its codes."""
        kind = kind_of(X)
        mean = move(working(self.mean_), kind)
        error = total = 0.0
        for rows in row_blocks(X.shape[0]):
            block = as_float64(X[rows])
            error += _sum_of_squares(block - self._reconstruct(V[rows]))
            total += _sum_of_squares(block - mean)
        return error, total

    def __factorization_invariants__(self):
        """What of `semi_nmf_concepts.testing.INVARIANTS` holds: names of invariants and groups."""
        common = ["fit_transform", "score", "no_numeric_warnings", "row_order", "batch_split"]
        return ["general", *common]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _set_fitted(self, kind, **attributes):
        """Set fitted attributes; those that are arrays become arrays of the given kind."""
        for name, value in attributes.items():
            if isinstance(value, np.ndarray) and value.ndim > 1:
                # Row by row in memory, as they are after saving and loading: BLAS rounds products
                # of the two layouts differently.
                value = np.ascontiguousarray(value)
            setattr(self, name, move(value, kind) if hasattr(value, "shape") else value)


def check_codes(estimator, V, *, method):
    """V as a 2-d float working array with one column per component, and the kind it came as."""
    if isinstance(V, str | os.PathLike):
        raise TypeError(f"V must be an array of codes; open_codes({str(V)!r}) opens those on disk.")
    V = V.toarray() if issparse(V) else V
    V = V.to_numpy() if hasattr(V, "to_numpy") else V
    V = V if hasattr(V, "shape") else np.asarray(V)
    check_same_kind(estimator, V, method=method)
    kind, V = kind_of(V), working(widened(V))
    check_codes_shape(estimator, V)
    xp = kind_of(V).xp
    return (V if V.dtype in (xp.float32, xp.float64) else as_float64(V)), kind


def check_codes_shape(estimator, V):
    """Raise where V has another number of columns than there are components."""
    n_components = estimator.components_.shape[0]
    if V.ndim != 2 or V.shape[1] != n_components:
        raise ValueError(
            f"V must have shape (n_samples, {n_components}), one column per component; "
            f"got an array of shape {tuple(V.shape)}."
        )


def _sum_of_squares(block):
    return float((block * block).sum())
