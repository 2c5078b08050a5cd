"""Visual grounding: the samples that activate a concept most, the concepts of one sample."""

from numbers import Integral

import numpy as np


def check_count(name, value, minimum=1):
    """Return `value` as int, or raise a ValueError that names the parameter."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}.")
    return int(value)


def check_activations(activations, *, ndim=2, name="activations"):
    """Return a finite float array with `ndim` dimensions (float32 and float64 are kept)."""
    values = np.asarray(activations)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got an array of dtype {values.dtype}.")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return values


def ground_images(activations, n=5):
    """Find, for every concept, the samples that activate it most.

    Parameters
    ----------
    activations : array-like of shape (n_samples, K)
        Concept activations V.
    n : int, default=5
        Number of samples per concept (5 as in the paper).

    Returns
    -------
    indices : list of list of int
        For each concept the rows of its `n` largest activations, best first; ties keep the order of
        the rows. Rows whose activation is not positive do not show the concept and are left out,
        so that a list may be shorter than `n`, or empty.

    Examples
    --------
    >>> ground_images([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]], n=2)
    [[2, 1], [0]]
    """
    values = check_activations(activations)
    n = check_count("n", n)
    best = np.argsort(-values, axis=0, kind="stable")[:n]
    return [[int(i) for i in best[:, k] if values[i, k] > 0] for k in range(values.shape[1])]


def explain_sample(activations_row, r=5):
    """Find the concepts that one sample activates most.

    Parameters
    ----------
    activations_row : array-like of shape (K,)
        Activations of one sample.
    r : int, default=5
        Number of concepts at most.

    Returns
    -------
    items : list of (int, float, float)
        Concept, activation, and share of the sample's total positive activation; largest first.
        Only concepts with a positive activation are listed.

    Examples
    --------
    >>> explain_sample([0.0, 1.0, 3.0, 0.0])
    [(2, 3.0, 0.75), (1, 1.0, 0.25)]
    """
    row = check_activations(activations_row, ndim=1, name="activations_row").astype(np.float64)
    r = check_count("r", r)
    total = row[row > 0].sum()
    best = np.argsort(-row, kind="stable")[:r]
    return [(int(k), float(row[k]), float(row[k] / total)) for k in best if row[k] > 0]
