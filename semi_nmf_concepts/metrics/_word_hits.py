"""Do the words of a concept name the factor value that its activation detects?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

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
    mode : {"direction", "shuffle"}, default="direction"
        "direction": words of random unit directions, one per concept, as many words as the concept
        has (or fewer, where the direction gives fewer). "shuffle": the concepts' own word lists,
        each passed on to another concept at random; it shows what belongs to the concept rather
        than to all of them.
    ground : callable, default=None
        Only for "direction": turns directions (K, `width`) of float32 into one word list (or
        ``WordGrounding``) each, with the options that the concepts were grounded with.
    width : int, default=None
        Only for "direction": number of features of a direction.
    n_draws : int, default=20
        Number of repetitions.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    shares : ndarray of float64, shape (n_draws,)
        The share of hits in each draw; its mean is the chance level.
    """
    if mode not in ("direction", "shuffle"):
        raise ValueError(f"mode must be 'direction' or 'shuffle', got {mode!r}.")
    if mode == "direction" and (ground is None or width is None):
        raise ValueError("mode='direction' needs ground and width.")
    rng = check_random_state(random_state)
    lists = [list(getattr(concept, "words", concept)) for concept in words]
    shares = []
    for _ in range(n_draws):
        if mode == "shuffle":
            drawn = [lists[k] for k in _derangement(len(lists), rng)]
        else:
            directions = rng.standard_normal((len(lists), width))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            drawn = [getattr(d, "words", d) for d in ground(directions.astype(np.float32))]
            drawn = [list(new)[: len(old)] for new, old in zip(drawn, lists, strict=True)]
        shares.append(factor_word_hits(recovery_table, drawn, factor_words, threshold).share)
    return np.array(shares)


def _derangement(n, rng):
    """Draw a permutation of n >= 2 entries that moves every one of them."""
    if n < 2:
        raise ValueError("mode='shuffle' needs at least two concepts.")
    while True:  # a permutation is one with probability 1/e
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order
