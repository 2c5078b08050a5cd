"""The affine map between the input space and the space in which F is minimised.

Identity, centring, or centring plus projection on whitened principal components.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

#: Above this many rows and columns only the leading components are computed, iteratively.
_FULL_SVD_SIZE = 2000


@dataclass
class AffineMap:
    """``to_factorised(X) = (X - offset) W`` and ``to_input(U) = U W^+`` for directions U.

    Without whitening W is the identity and is left out (`scale` and `axes` are None). With it
    ``W = axes^T / scale``, ``W^+ = scale * axes`` for r orthonormal principal axes and the standard
    deviations of X along them.
    """

    offset: np.ndarray  # (n_features,), float64
    scale: np.ndarray | None = None  # (r,), float64
    axes: np.ndarray | None = None  # (r, n_features), float64

    @classmethod
    def fit(cls, X, mean, *, center, whiten, random_state):
        """The map for data X with the given mean; ``whiten`` is r or None."""
        if whiten is None:
            return cls(mean if center else np.zeros_like(mean))
        scale, axes = _principal_axes(X, whiten, random_state)
        return cls(mean, scale, axes)

    def to_factorised(self, X):
        """Samples in the space of the dictionary; keeps the dtype of X."""
        if not self.offset.any() and self.axes is None:
            return X
        X = X - self.offset.astype(X.dtype)
        if self.axes is None:
            return X
        return X @ np.divide(self.axes, self.scale[:, None]).T.astype(X.dtype)

    def directions_to_input(self, U):
        """Directions of the dictionary's space as directions of the input space."""
        return U if self.axes is None else (U * self.scale) @ self.axes

    def directions_to_factorised(self, U):
        """The other way; what U has outside the principal axes is lost."""
        return U if self.axes is None else (U @ self.axes.T) / self.scale


def _principal_axes(X, n_axes, random_state):
    """Standard deviations and axes of the leading principal components, at most rank(X) of them.

    At least one is returned: constant data gets an arbitrary axis with unit scale.
    """
    n_axes = min(n_axes, *X.shape)
    iterative = min(X.shape) > _FULL_SVD_SIZE and n_axes < min(X.shape)
    pca = PCA(
        n_axes,
        svd_solver="arpack" if iterative else "full",
        random_state=random_state.randint(np.iinfo(np.int32).max),
    )
    if X.shape[0] == 1:  # one sample has no variance
        return np.ones(1), np.eye(1, X.shape[1])
    # float64: the scale of the last axes would be rounding noise in float32
    with np.errstate(invalid="ignore"):  # constant data: shares of no variance, not used here
        pca.fit(np.asarray(X, dtype=np.float64))
    scale = np.sqrt(pca.explained_variance_)
    resolution = np.finfo(X.dtype).eps * max(X.shape) * max(scale[0], np.abs(pca.mean_).max())
    rank = max(int(np.sum(scale > resolution)), 1)
    scale = np.where(scale[:rank] > resolution, scale[:rank], 1.0)
    return scale, pca.components_[:rank]
