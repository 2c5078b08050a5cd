"""Stability: do other seeds or other samples give the same concepts?"""

from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment


def stability_score(dictionaries, *, return_pairs=False):
    """Compute how similar the directions of several fits are, after matching them in pairs.

    For every two dictionaries the atoms are matched one to one so that the sum of their cosines is
    largest (Hungarian algorithm), and the cosines of the matched atoms are averaged; the score is
    the mean over all pairs of dictionaries. The cosine keeps its sign: under non-negative
    activations a direction and its opposite are different concepts.

    Parameters
    ----------
    dictionaries : sequence of (array-like of shape (K_i, n_features) or fitted estimator)
        At least two; estimators with ``components_``. Of dictionaries with different numbers of
        atoms the smaller one decides: min(K_i, K_j) atoms are matched, and those of the larger
        one that are left over do not count. A zero atom has cosine 0 with every atom.
    return_pairs : bool, default=False
        Also return the value of every pair.

    Returns
    -------
    score : float
        Between -1 and 1; 1 where all dictionaries have the same directions, in whatever order and
        of whatever length. Random directions do not give 0, because the best match is taken.
    pairs : ndarray of float64, shape (n * (n - 1) / 2,)
        Only with `return_pairs`: the values of the pairs (0, 1), (0, 2), ..., (1, 2), ..., as
        ``itertools.combinations`` orders them.

    Raises
    ------
    ValueError
        If there are fewer than two dictionaries, they differ in the number of features, or one has
        no atoms or entries that are not finite.

    References
    ----------
    Fel et al., "Archetypal SAE: Adaptive and Stable Dictionary Learning for Concept Extraction in
    Large Vision Models", 2025 (arXiv 2502.12892): the same matching, for sparse autoencoders.

    Examples
    --------
    >>> stability_score([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [2.0, 0.0]]])
    1.0
    >>> stability_score([[[1.0, 0.0]], [[-1.0, 0.0]]])
    -1.0
    """
    if isinstance(dictionaries, np.ndarray) and dictionaries.ndim != 3:
        raise ValueError(
            "dictionaries must be a sequence of dictionaries (or an array with 3 dimensions), got "
            f"an array of shape {dictionaries.shape}."
        )
    units = [_unit_atoms(dictionary, i) for i, dictionary in enumerate(dictionaries)]
    if len(units) < 2:
        raise ValueError(f"dictionaries must be at least two to compare, got {len(units)}.")
    widths = sorted({atoms.shape[1] for atoms in units})
    if len(widths) > 1:
        raise ValueError(f"dictionaries must have the same number of features, got {widths}.")
    pairs = np.array([_matched_cosine(first, second) for first, second in combinations(units, 2)])
    score = float(pairs.mean())
    return (score, pairs) if return_pairs else score


def _unit_atoms(dictionary, index):
    """Atoms of unit length, (K, n_features) in float64; zero atoms stay zero."""
    atoms = np.asarray(getattr(dictionary, "components_", dictionary))
    if atoms.dtype.kind not in "fiub":
        raise TypeError(
            f"dictionaries[{index}] must be an array of numbers or a fitted estimator with "
            f"components_, got {type(dictionary).__name__}."
        )
    if atoms.ndim != 2 or 0 in atoms.shape:
        raise ValueError(
            f"dictionaries[{index}] must have the shape (K, n_features), got {atoms.shape}."
        )
    if not np.isfinite(atoms).all():
        raise ValueError(f"dictionaries[{index}] contains NaN or infinity.")
    atoms = atoms.astype(np.float64)
    # By the largest entry first, so that squares of very small or very large ones stay in range.
    for order in (np.inf, 2):
        norms = np.linalg.norm(atoms, ord=order, axis=1, keepdims=True)
        atoms = atoms / np.where(norms > 0, norms, 1)
    return atoms


def _matched_cosine(first, second):
    """Mean cosine of the best one-to-one match of min(K) atoms."""
    cosines = first @ second.T
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return float(np.clip(cosines[rows, columns], -1, 1).mean())
