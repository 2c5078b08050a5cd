"""What the activations alone say: how much they explain, how sparse they are, which are dead.

Notation: data X (n_samples, n_features), activations V (n_samples, K).
"""

import numpy as np

# Rows that are widened to float64 at a time, so that large float32 data are never copied whole.
_BLOCK_ROWS = 1024
_MEASURES = ("l0", "hoyer")


def reconstruction_score(X, reconstruction, mean=None):
    """Compute the share of the variation of X that a reconstruction explains.

    ``1 - ||X - reconstruction||^2 / ||X - mean||^2``, accumulated in float64. Higher is better: 1
    is exact, 0 is no better than the mean, below 0 is worse than it. Where X is that mean, so that
    there is nothing to explain, it is 1 or 0 (exact or not), as the ``score`` of the decomposers.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
    reconstruction : array-like of shape (n_samples, n_features)
        What ``inverse_transform`` makes of the activations of X.
    mean : array-like of shape (n_features,), default=None
        What the reconstruction is compared with. By default the mean of X. For held-out X give
        the mean of the training data (``mean_`` of the decomposers): the reconstruction does not
        know the mean of X either.

    Returns
    -------
    score : float
        At most 1.

    Raises
    ------
    ValueError
        If shapes do not fit, there are no samples, or something is not finite.

    Examples
    --------
    >>> reconstruction_score([[0.0], [2.0]], [[0.0], [1.0]])
    0.5
    """
    X, reconstruction = _numbers(X, "X"), _numbers(reconstruction, "reconstruction")
    if X.shape != reconstruction.shape:
        raise ValueError(
            f"X and reconstruction must have the same shape, got {X.shape} and "
            f"{reconstruction.shape}."
        )
    mean = np.mean(X, axis=0, dtype=np.float64) if mean is None else _numbers(mean, "mean", ndim=1)
    if len(mean) != X.shape[1]:
        raise ValueError(f"mean must have {X.shape[1]} entries as X has columns, got {len(mean)}.")
    error = total = 0.0
    for start in range(0, len(X), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        block = X[rows].astype(np.float64)
        error += float(np.sum((block - reconstruction[rows]) ** 2))
        total += float(np.sum((block - mean) ** 2))
    if total == 0.0:
        return float(error == 0.0)
    return 1.0 - error / total


def sparsity(activations, measure="l0"):
    """Compute how few concepts a sample activates, in the mean over samples.

    Parameters
    ----------
    activations : array-like of shape (n_samples, K)
        Of either sign: a concept is active where its activation is not 0.
    measure : {"l0", "hoyer"}, default="l0"
        "l0": number of active concepts. *Lower* is sparser; between 0 and K. It is the figure that
        reads most easily, but sees no difference between strong and almost vanishing activations,
        and is always K for dense codes (distances to centres, principal components). "hoyer":
        ``(sqrt(K) - ||v||_1 / ||v||_2) / (sqrt(K) - 1)`` of the activations v of a sample.
        *Higher* is sparser: 0 where all concepts are equally active, 1 where a single one is. It
        does not change with the scale of a sample's activations. A sample that activates nothing
        counts as 0, so that dead codes never look good, and any other as 1 where K is 1.

    Returns
    -------
    value : float

    Raises
    ------
    ValueError
        If `measure` is none of these, there are no samples or concepts, or an activation is not
        finite.

    References
    ----------
    Hoyer, "Non-negative Matrix Factorization with Sparseness Constraints", JMLR 5, 2004.

    Examples
    --------
    >>> sparsity([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    2.5
    >>> sparsity([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], "hoyer")
    0.5
    """
    if measure not in _MEASURES:
        raise ValueError(f"measure must be one of {_MEASURES}, got {measure!r}.")
    V = _numbers(activations, "activations")
    if measure == "l0":
        return float(np.count_nonzero(V, axis=1).mean())
    V = np.abs(V.astype(np.float64))
    largest = V.max(axis=1)
    active, root = largest > 0, np.sqrt(V.shape[1])
    if root == 1:
        return float(active.mean())
    V = V[active] / largest[active, None]  # squares of very small or large ones stay in range
    values = (root - V.sum(axis=1) / np.linalg.norm(V, axis=1)) / (root - 1)
    # Rounding may leave the interval.
    return float(np.clip(values, 0, 1).sum() / len(active))


def dead_fraction(activations):
    """Compute the share of the concepts that no sample activates.

    Parameters
    ----------
    activations : array-like of shape (n_samples, K)
        Of either sign: a concept is active where its activation is not 0.

    Returns
    -------
    share : float
        Between 0 and 1; lower is better.

    Raises
    ------
    ValueError
        If there are no samples or concepts, or an activation is not finite.

    Examples
    --------
    >>> dead_fraction([[0.0, 2.0], [0.0, 0.0]])
    0.5
    """
    return float((_numbers(activations, "activations") == 0).all(axis=0).mean())


def _numbers(values, name, ndim=2):
    """`values` as a finite array of numbers that is not empty (floats keep their precision)."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got dtype {values.dtype}.")
    if values.ndim != ndim or 0 in values.shape:
        raise ValueError(
            f"{name} must have {ndim} dimension(s), none of length 0, got shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return values
