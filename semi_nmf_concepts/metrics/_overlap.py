"""Overlap of the word lists of concepts: how disentangled they are."""

import numpy as np

from ._ranking import word_lists


def overlap_matrix(words):
    """Compute which part of concept i's words concept j has too.

    Parameters
    ----------
    words : list of (list of str)
        Words of each concept; objects with an attribute ``words`` (``Concept``, ``WordGrounding``)
        are accepted. Repeated words count once.

    Returns
    -------
    overlap : ndarray of float64, shape (K, K)
        ``overlap[i, j] = |T_i & T_j| / |T_i|`` for the word sets T. It is not symmetric where the
        sets differ in size. The row of a concept without words is 0; otherwise the diagonal is 1.

    Examples
    --------
    >>> overlap_matrix([["dog", "snow"], ["dog"], []])
    array([[1. , 0.5, 0. ],
           [1. , 1. , 0. ],
           [0. , 0. , 0. ]])
    """
    sets = [set(concept) for concept in word_lists(words)]
    column = {word: j for j, word in enumerate(sorted(set().union(*sets)))}
    has_word = np.zeros((len(sets), len(column)))
    for i, concept in enumerate(sets):
        has_word[i, [column[word] for word in concept]] = 1
    sizes = has_word.sum(axis=1, keepdims=True)
    return has_word @ has_word.T / np.maximum(sizes, 1)


def overlap_score(words):
    """Compute the mean overlap between the words of two different concepts.

    ``1 / (K (K - 1)) * sum over i != j of |T_i & T_j| / |T_i|``, where a concept without words
    contributes 0. Lower is better: 0 when no two concepts share a word, 1 when all have the same.

    Parameters
    ----------
    words : list of (list of str)
        Words of each of at least two concepts, as for :func:`overlap_matrix`.

    Returns
    -------
    score : float
        Between 0 and 1.

    References
    ----------
    Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", 2024.

    Examples
    --------
    >>> overlap_score([["dog", "snow"], ["dog", "grass"]])
    0.5
    """
    overlap = overlap_matrix(words)
    n = len(overlap)
    if n < 2:
        raise ValueError(f"words must have at least two concepts to compare, got {n}.")
    return float((overlap.sum() - np.trace(overlap)) / (n * (n - 1)))
