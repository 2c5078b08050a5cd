"""What all decomposers have in common."""

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import validate_data

from ._objective import row_blocks


class Decomposer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Validation, output names and the score; `components_`, `mean_` come from the subclass."""

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def _validate(self, X, *, reset=False):
        """Data as a C-contiguous float32 or float64 array; float16 becomes float32."""
        if getattr(X, "dtype", None) == np.float16:
            X = X.astype(np.float32)
        return validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], order="C")

    def score(self, X, y=None):
        """Share of the variation of X that the reconstruction explains; 1 is best.

        ``1 - ||X - inverse_transform(transform(X))||^2 / ||X - mean_||^2`` with the mean of the
        *training* data. It is negative where the reconstruction is worse than that mean. Where X
        is that mean, so that there is nothing to explain, it is 1 or 0 (exact or not).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
        """
        V = check_codes(self, self.transform(X))
        X = self._validate(X)
        error = total = 0.0
        for rows in row_blocks(X.shape[0]):
            block = np.asarray(X[rows], dtype=np.float64)
            error += float(np.sum((block - self.inverse_transform(V[rows])) ** 2))
            total += float(np.sum((block - self.mean_) ** 2))
        if total == 0.0:
            return float(error == 0.0)
        return 1.0 - error / total

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def check_codes(estimator, V):
    """V as a 2-d float array with one column per component of the fitted `estimator`."""
    V = V.to_numpy() if hasattr(V, "to_numpy") else np.asarray(V)
    n_components = estimator.components_.shape[0]
    if V.ndim != 2 or V.shape[1] != n_components:
        raise ValueError(
            f"V must have shape (n_samples, {n_components}), one column per component; "
            f"got an array of shape {V.shape}."
        )
    return V if V.dtype in (np.float32, np.float64) else V.astype(np.float64)
