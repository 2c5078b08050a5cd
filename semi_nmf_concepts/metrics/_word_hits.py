"""Do the words of a concept name the factor value that its activation detects?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from ._baselines import random_words

#: AUROC above which a factor value counts as detected, halfway from chance (0.5) to perfect (1).
DETECTED = 0.75


@dataclass(eq=False)
class WordHits:
    """Detected factor values, and which of them their concept's words name.

    Attributes
    ----------
    table : DataFrame
        One row per detected value: ``factor``, ``value``, ``component``, ``auroc``, ``hit`` (bool)
        and ``word`` (the first of the concept's words that names the value, "" without a hit).
    unknown : list of (str, str)
        Detected values for which no naming words are known; they are not counted.
    """

    table: pd.DataFrame
    unknown: list[tuple[str, str]]

    @property
    def n_detected(self):
        """Number of detected values whose naming words are known."""
        return len(self.table)

    @property
    def n_hits(self):
        """Number of them that are named by a word of their concept."""
        return int(self.table["hit"].sum())

    @property
    def share(self):
        """``n_hits / n_detected``; NaN when nothing was detected."""
        return self.n_hits / self.n_detected if self.n_detected else float("nan")


def factor_word_hits(recovery_table, words, factor_words, threshold=DETECTED):
    """Check whether concepts that detect a factor value are also described by its words.

    Parameters
    ----------
    recovery_table : DataFrame
        ``FactorRecovery.table`` (columns ``factor``, ``value``, ``component`` and ``auroc``).
    words : list of (list of str)
        Words of each concept; objects with an attribute ``words`` are accepted.
    factor_words : dict
        factor -> value (str) -> words that name it (a str or an iterable of str).
    threshold : float, default=DETECTED
        Values with an AUROC above it (0.75) count as detected.

    Returns
    -------
    WordHits

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {"factor": ["colour"], "value": ["black"], "component": [1], "auroc": [0.9]}
    ... )
    >>> words, factor_words = [["snow"], ["dark", "black"]], {"colour": {"black": "black"}}
    >>> factor_word_hits(table, words, factor_words).share
    1.0
    """
    lists = [list(getattr(concept, "words", concept)) for concept in words]
    detected = recovery_table[recovery_table["auroc"] > threshold]
    rows, unknown = [], []
    for row in detected.itertuples():
        if not 0 <= row.component < len(lists):
            raise ValueError(
                f"component {row.component} has no words: there are {len(lists)} lists."
            )
        names = naming_words(factor_words, row.factor, row.value)
        if not names:
            unknown.append((row.factor, row.value))
            continue
        word = next((word for word in lists[row.component] if word in names), "")
        rows.append((row.factor, row.value, row.component, row.auroc, word != "", word))
    columns = ("factor", "value", "component", "auroc", "hit", "word")
    table = pd.DataFrame(rows, columns=columns).astype({"hit": bool})
    return WordHits(table, unknown)


def naming_words(factor_words, factor, value):
    """Look up the words that name a factor value.

    Parameters
    ----------
    factor_words : dict
        factor -> value (str) -> words that name it (a str or an iterable of str).
    factor : str
    value : object
        Compared by its text.

    Returns
    -------
    names : set of str
        Empty where no words are known.

    Examples
    --------
    >>> naming_words({"count": {"2": "two"}}, "count", 2)
    {'two'}
    """
    names = factor_words.get(factor, {}).get(str(value), ())
    return {names} if isinstance(names, str) else set(names)


def chance_word_hits(
    recovery_table,
    words,
    factor_words,
    *,
    mode="direction",
    ground=None,
    width=None,
    threshold=DETECTED,
    n_draws=20,
    random_state=0,
):
    """Estimate the share of :func:`factor_word_hits` that arbitrary words would reach.

    The detected values and the number of words of each concept stay; only the words change.

    Parameters
    ----------
    recovery_table, words, factor_words, threshold
        As for :func:`factor_word_hits`.
    mode, ground, width
        How the words are drawn, see :func:`random_words`.
    n_draws : int, default=20
        Number of repetitions.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    shares : ndarray of float64, shape (n_draws,)
        The share of hits in each draw; its mean is the chance level.
    """
    rng = check_random_state(random_state)
    shares = []
    for _ in range(n_draws):
        drawn = random_words(words, mode=mode, ground=ground, width=width, random_state=rng)
        shares.append(factor_word_hits(recovery_table, drawn, factor_words, threshold).share)
    return np.array(shares)
