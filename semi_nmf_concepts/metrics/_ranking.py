"""From the score of every concept on every sample to one number per sample or per concept.

Scores S (n_samples, K): how well the words of concept k fit sample i (by CLIP its image, by BERT
its captions). Activations V (n_samples, K) say which concepts of a sample count.
"""

from numbers import Integral

import numpy as np


def word_lists(words):
    """The words of each concept as lists of str.

    Parameters
    ----------
    words : sequence
        A list of strings for each concept, or an object that has it as its attribute ``words``
        (``Concept``, ``WordGrounding``).

    Returns
    -------
    lists : list of list of str

    Raises
    ------
    TypeError
        If an entry is a string or holds something else than strings.
    """
    lists = [getattr(concept, "words", concept) for concept in words]
    for i, concept in enumerate(lists):
        if isinstance(concept, str) or not all(isinstance(word, str) for word in concept):
            raise TypeError(f"words[{i}] must be a list of strings, got {concept!r}.")
    return [list(concept) for concept in lists]


def top_concepts(activations, n):
    """Which concepts of each sample are among its `n` most active ones.

    Parameters
    ----------
    activations : ndarray of shape (n_samples, K)
    n : int

    Returns
    -------
    chosen : ndarray of bool, shape (n_samples, K)
        At most `n` a row. Only concepts with a positive activation count; of equal activations the
        concept of the lower index comes first.

    Examples
    --------
    >>> top_concepts(np.array([[0.0, 2.0, 2.0], [0.0, 0.0, 0.0]]), 1)
    array([[False,  True, False],
           [False, False, False]])
    """
    order = np.argsort(-activations, axis=1, kind="stable")[:, :n]
    chosen = np.zeros(activations.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen & (activations > 0)


def top_scores(scores, activations, top=(1, 3)):
    """Mean score of the most active concepts of every sample.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, K)
        Only the entries of the most active concepts are looked at.
    activations : ndarray of shape (n_samples, K)
    top : sequence of int, default=(1, 3)

    Returns
    -------
    values : dict of int to ndarray of shape (n_samples,)
        For each number in `top` the mean over that many most active concepts, or over those with a
        positive activation where there are fewer; 0 for a sample that activates none: nothing was
        said about it.

    Examples
    --------
    >>> top_scores(np.array([[0.2, 0.6]]), np.array([[1.0, 3.0]]), top=(1, 2))
    {1: array([0.6]), 2: array([0.4])}
    """
    values = {}
    for n in top:
        chosen = top_concepts(activations, n)
        total = np.where(chosen, scores, 0.0).sum(axis=1)
        values[n] = total / np.maximum(chosen.sum(axis=1), 1)
    return values


def mas_scores(scores, image_indices):
    """Mean score of every concept over its most activating samples (MAS).

    Parameters
    ----------
    scores : ndarray of shape (n_samples, K)
    image_indices : list of K lists of int
        Rows of the most activating samples of each concept, as of ``ground_images``.

    Returns
    -------
    values : ndarray of shape (K,)
        NaN for a concept without samples: one that is never active shows nothing to compare with.

    Examples
    --------
    >>> mas_scores(np.array([[0.2, 0.0], [0.4, 0.0]]), [[0, 1], []])
    array([0.3, nan])
    """
    means = [
        scores[rows, k].mean() if len(rows) else np.nan for k, rows in enumerate(image_indices)
    ]
    return np.array(means, dtype=np.float64)


def check_top(top):
    """`top` as a tuple of distinct integers of at least 1."""
    values = (top,) if isinstance(top, Integral) else tuple(top)
    if not values or any(
        isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in values
    ):
        raise ValueError(f"top must be integers of at least 1, got {top!r}.")
    return tuple(dict.fromkeys(int(n) for n in values))


def check_matching(activations, n_samples, n_concepts, *, samples):
    """Finite activations (n_samples, K) as float64, if they fit the samples and the word lists.

    `samples` is how messages call what there is one of per row ("images", "references").
    """
    values = np.asarray(activations, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"activations must have 2 dimensions, got shape {values.shape}.")
    if len(values) != n_samples:
        raise ValueError(
            f"{samples} and activations must have the same length: got {n_samples} {samples} and "
            f"{len(values)} rows of activations."
        )
    if values.shape[1] != n_concepts:
        raise ValueError(
            "words must have one list per concept: got "
            f"{n_concepts} lists for {values.shape[1]} columns of activations."
        )
    if not np.isfinite(values).all():
        raise ValueError("activations contains NaN or infinity.")
    return values


def check_indices(image_indices, n_samples, n_concepts, *, samples):
    """Lists of rows of the samples, one list per concept."""
    lists = [[int(i) for i in rows] for rows in image_indices]
    if len(lists) != n_concepts:
        raise ValueError(
            f"image_indices and words must have one list per concept each: got {len(lists)} and "
            f"{n_concepts}."
        )
    wrong = [i for rows in lists for i in rows if not 0 <= i < n_samples]
    if wrong:
        raise ValueError(
            f"image_indices must be positions among the {n_samples} {samples}, got {wrong[0]}."
        )
    return lists
