"""The affine map between the input space and the space in which F is minimised.

Identity, centring, or centring plus projection on whitened principal components.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from ._arrays import as_float64, kind_of, like, move
from ._objective import row_blocks

#: Above this many rows and columns only the leading components are computed, iteratively.
_FULL_SVD_SIZE = 2000
#: Rows more than the rank asked for that are looked at first.
_SPARE_ROWS = 10
#: Bytes of X that are mapped at a time, but at least so many rows.
_BLOCK_BYTES = 2**26
_MIN_BLOCK_ROWS = 256


@dataclass
class AffineMap:
    """``to_factorised(X) = (X - offset) W`` and ``to_input(U) = U W^+`` for directions U.

    Without whitening W is the identity and is left out (`scale` and `axes` are None). With it
    ``W = axes^T / scale``, ``W^+ = scale * axes`` for r orthonormal principal axes and the standard
    deviations of X along them. All are float64 and where X is.
    """

    offset: Any  # (n_features,)
    scale: Any = None  # (r,)
    axes: Any = None  # (r, n_features)

    @classmethod
    def fit(cls, X, mean, *, center, whiten, random_state):
        """The map for data X with the given mean; ``whiten`` is r or None."""
        if whiten is None:
            return cls(mean if center else 0.0 * mean)
        scale, axes = _principal_axes(X, mean, whiten, random_state)
        return cls(mean, scale, axes)

    def at(self, kind):
        """The map for arrays of another kind."""
        arrays = (self.offset, self.scale, self.axes)
        return AffineMap(*(None if array is None else move(array, kind) for array in arrays))

    @property
    def is_identity(self):
        """Whether the map leaves samples as they are."""
        return self.axes is None and not bool((self.offset != 0.0).any())

    def blocks(self, X):
        """Slices of the rows of X that are small enough to be mapped without a burden on memory."""
        row_bytes = X.shape[1] * (4 if X.dtype == kind_of(X).xp.float32 else 8)
        return row_blocks(X.shape[0], max(_BLOCK_BYTES // row_bytes, _MIN_BLOCK_ROWS))

    def to_factorised(self, X):
        """Samples in the space of the dictionary; keeps the precision of X."""
        if self.is_identity:
            return X
        xp, device = kind_of(X)
        offset = xp.astype(self.offset, X.dtype)
        if self.axes is None:
            return X - offset
        W = xp.astype((self.axes / self.scale[:, None]).T, X.dtype)
        mapped = xp.empty((X.shape[0], W.shape[1]), dtype=X.dtype, device=device)
        for rows in self.blocks(X):
            mapped[rows] = (X[rows] - offset) @ W
        return mapped

    def directions_to_input(self, U):
        """Directions of the dictionary's space as directions of the input space."""
        return U if self.axes is None else (U * self.scale) @ self.axes

    def directions_to_factorised(self, U):
        """The other way; what U has outside the principal axes is lost."""
        return U if self.axes is None else (U @ self.axes.T) / self.scale


def _principal_axes(X, mean, n_axes, random_state):
    """Standard deviations and axes of the leading principal components, at most rank(X) of them.

    At least one is returned: constant data gets an arbitrary axis with unit scale.
    """
    xp = kind_of(X).xp
    n_axes = min(n_axes, *X.shape)
    if X.shape[0] == 1:  # one sample has no variance
        return like(np.ones(1), X), like(np.eye(1, X.shape[1]), X)
    if isinstance(X, np.ndarray):
        scale, axes = _components_by_sklearn(X, n_axes, random_state)
    else:
        scale, axes = _components_on_device(X, mean, n_axes)
    largest = max(float(scale[0]), float(xp.max(xp.abs(mean))))
    return _above(scale, axes, float(xp.finfo(X.dtype).eps) * max(X.shape) * largest)


def _components_by_sklearn(X, n_axes, random_state):
    iterative = min(X.shape) > _FULL_SVD_SIZE and n_axes < min(X.shape)
    pca = PCA(
        n_axes,
        svd_solver="arpack" if iterative else "full",
        random_state=random_state.randint(np.iinfo(np.int32).max),
    )
    # float64: the scale of the last axes would be rounding noise in float32
    with np.errstate(invalid="ignore"):  # constant data: shares of no variance, not used here
        pca.fit(np.asarray(X, dtype=np.float64))
    return np.sqrt(pca.explained_variance_), pca.components_


def axes_of_scatter(scatter, n_samples, mean, n_axes, dtype):
    """The same from ``(X - mean)^T (X - mean)``, for data of this precision (NumPy)."""
    n_features = len(scatter)
    s, axes = _axes_of_products(scatter, min(n_axes, n_samples, n_features))
    scale = s / max(n_samples - 1, 1) ** 0.5
    largest = max(float(scale[0]), float(np.abs(mean).max()))
    return _above(scale, axes, float(np.finfo(dtype).eps) * n_features * largest)


def _above(scale, axes, resolution):
    """The axes along which the data vary by more than their rounding; at least one.

    Constant data get an arbitrary axis with unit scale.
    """
    rank = max(int((scale > resolution).sum()), 1)
    if float(scale[0]) <= resolution:
        return like(np.ones(1), scale), axes[:1]
    return scale[:rank], axes[:rank]


def _components_on_device(X, mean, n_axes):
    """The same on any device, by the exact decomposition that the size allows, in float64."""
    centred = as_float64(X) - mean
    if min(X.shape) <= _FULL_SVD_SIZE:
        _, s, axes = kind_of(X).xp.linalg.svd(centred, full_matrices=False)
        s, axes = s[:n_axes], _turned(axes[:n_axes])
    else:  # resolves scales down to 1e-8 of the largest, which is less than float32 data have
        s, axes = _axes_of_products(centred.T @ centred, n_axes)
    return s / (X.shape[0] - 1) ** 0.5, axes


def _axes_of_products(products, n_axes):
    """Leading singular values and right singular vectors of X, from ``X^T X``."""
    xp = kind_of(products).xp
    squares, axes = xp.linalg.eigh(products)
    s, axes = xp.sqrt(xp.clip(xp.flip(squares), 0.0, None)), xp.flip(axes.T, axis=0)
    return s[:n_axes], _turned(axes[:n_axes])


def _turned(axes):
    """The axes with the sign that makes their largest entry positive."""
    kind = kind_of(axes)
    xp, rows = kind.xp, kind.xp.arange(axes.shape[0], device=kind.device)
    largest = axes[rows, xp.argmax(xp.abs(axes), axis=1)]
    return axes * xp.sign(largest)[:, None]


def forked(random_state):
    """A generator for what is drawn while the data are looked at.

    How much that is depends on where the data are. With a generator of its own, what the fit draws
    afterwards does not, and fits in memory, from files and on workers take the same path.
    """
    return np.random.RandomState(random_state.randint(np.iinfo(np.int32).max))


def rank_up_to(X, offset, limit, random_state):
    """The numerical rank of X - offset, or `limit` where it is at least that.

    A few rows usually show that it is; only where they do not are all of them looked at, on a
    random projection to a few more than `limit` dimensions.
    """
    xp = kind_of(X).xp
    resolution = max(X.shape) * float(xp.finfo(X.dtype).eps)
    n_few = limit + _SPARE_ROWS
    if n_few < X.shape[0]:
        rows = like(random_state.choice(X.shape[0], n_few, replace=False), X)
        few = as_float64(X[rows]) - offset
        # Squares of singular values, hence the floor: what is below it is rounding.
        squares = xp.linalg.eigvalsh(few @ few.T)
        if int((squares > max(resolution, 1e-6) ** 2 * squares[-1]).sum()) >= limit:
            return limit
    if n_few < X.shape[1]:
        projection = like(random_state.standard_normal((X.shape[1], n_few)), X)
        X, offset = X @ xp.astype(projection, X.dtype), offset @ projection
    gram = 0.0
    for rows in row_blocks(X.shape[0]):
        block = as_float64(X[rows]) - offset
        gram = gram + block.T @ block
    squares = xp.linalg.eigvalsh(gram)
    rank = int((squares > max(resolution, 1e-6) ** 2 * squares[-1]).sum())
    return min(rank, limit)
