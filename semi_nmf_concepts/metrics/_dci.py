"""Disentanglement, completeness and informativeness (DCI) of concepts with respect to factors.

Notation: importance R (K, F) of K concepts for F factors, not negative.

    P_kj = R_kj / sum_j R_kj    D_k = 1 - H_F(P_k.)    D = sum_k w_k D_k
    Q_kj = R_kj / sum_k R_kj    C_j = 1 - H_K(Q_.j)    C = 1/F sum_j C_j

The weight w_k is the share of concept k in all importance, sum_j R_kj / sum_kj R_kj. H_n is the
entropy to the base n, so that it lies in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from ._factors import candidates, check_part, split_parts

#: Trees of a forest: their mean importance hardly changes with more.
_N_TREES = 30
#: Smallest share of the training samples in a leaf: smaller leaves fit noise, and noise spreads
#: importance over all concepts.
_LEAF_SHARE = 0.01


@dataclass(eq=False)
class DCI:
    """Disentanglement, completeness and informativeness, with what they were computed from.

    Attributes
    ----------
    disentanglement : float
        Between 0 and 1: does a concept tell of one factor only? Mean over concepts, each weighted
        by its share of all importance.
    completeness : float
        Between 0 and 1: is a factor told by one concept only? Mean over factors.
    informativeness : float
        How well factors are predicted for held-out samples: 1 is perfect, 0 chance. Mean over
        factors of ``(r - 1/n) / (1 - 1/n)`` with r the mean over the n values of the share of
        their samples that are recognised (balanced accuracy, rescaled).
    importance : DataFrame of shape (K, F)
        Importance of every concept for every factor; each column sums to 1, or is 0 where no
        concept helps.
    concepts : DataFrame of K rows
        ``disentanglement`` of each concept (0 for one without importance) and its ``weight``.
    factors : DataFrame of F rows
        ``completeness`` (0 for a factor that no concept helps to predict) and ``informativeness``
        of each factor.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: pd.DataFrame
    concepts: pd.DataFrame
    factors: pd.DataFrame

    def __repr__(self):
        return (
            f"<DCI: disentanglement {self.disentanglement:.3f}, completeness "
            f"{self.completeness:.3f}, informativeness {self.informativeness:.3f}, "
            f"{len(self.concepts)} concepts, {len(self.factors)} factors>"
        )


def dci(
    activations,
    factors,
    *,
    test_size=0.3,
    train=None,
    test=None,
    columns=None,
    min_positives=15,
    random_state=0,
):
    """Measure disentanglement, completeness and informativeness of concepts.

    A random forest predicts each factor from all activations; the importance of a concept is the
    share of the decrease of impurity that the forest owes to it. A forest, because it asks nothing
    of the scale of the activations, sees thresholds (is the concept active at all?), predicts
    factors of several values at once, and gives one importance per concept and factor; it tries
    all concepts at every split, so that a concept which tells all takes all importance.

    Parameters
    ----------
    activations : array-like of shape (n_samples, K)
        Concept activations; any sign.
    factors : DataFrame of n_samples rows (or dict of columns)
        Known factors, aligned by position.
    test_size : float, default=0.3
        Fraction of the samples held out for the informativeness, at random.
    train, test : array-like of int, default=None
        Row indices of the two parts, instead of a random split; give both.
    columns : list of str, default=None
        Factors to use; by default all columns that look like one, see :func:`factor_recovery`.
    min_positives : int, default=15
        Values with fewer samples in either part are left out, with these samples; factors with
        fewer than two values left are, too.
    random_state : int, RandomState or None, default=0
        Seed of the split and the forests.

    Returns
    -------
    DCI

    Raises
    ------
    ValueError
        As :func:`factor_recovery`; also if fewer than two factors are left: with one alone every
        concept would be disentangled.

    Notes
    -----
    A factor of n values that n concepts show, one each, is incomplete by this definition
    (``1 - log(n) / log(K)``), because several concepts share it. Dummy columns
    (``pandas.get_dummies``) make a factor of every value instead.

    The informativeness of the paper is a prediction error of numeric factors; values of factors
    are categories here, hence the accuracy. With one concept (K = 1) completeness is 1.

    References
    ----------
    Eastwood and Williams, "A Framework for the Quantitative Evaluation of Disentangled
    Representations", ICLR 2018.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> colour, count = rng.integers(2, size=300), rng.integers(3, size=300)
    >>> dci(np.c_[count, colour], pd.DataFrame({"colour": colour, "count": count}))
    <DCI: disentanglement 1.000, completeness 1.000, informativeness 1.000, 2 concepts, 2 factors>
    """
    activations, factors = check_part(activations, factors, "")
    rng = check_random_state(random_state)
    train, test = split_parts(len(activations), test_size, rng, train, test)
    parts = factors.iloc[train], factors.iloc[test]
    values = {}
    for factor, value in candidates(*parts, columns, min_positives)[0]:
        values.setdefault(factor, []).append(value)
    values = {factor: found for factor, found in values.items() if len(found) > 1}
    if len(values) < 2:
        raise ValueError(
            f"factors must have at least two columns with two values of {min_positives} samples in "
            f"both parts ({len(train)} training and {len(test)} test samples), got {list(values)}: "
            "use more samples, more factors or a smaller min_positives."
        )
    importance, informativeness = {}, {}
    for factor, kept in values.items():
        labels = (_with_values(part[factor], kept) for part in parts)
        importance[factor], informativeness[factor] = _predict(
            activations[train], activations[test], *labels, rng
        )
    return _summarise(pd.DataFrame(importance), pd.Series(informativeness))


def _with_values(column, kept):
    """Positions of the samples that have one of the kept values, and these values as text."""
    text = column.astype(str)
    rows = np.flatnonzero(text.isin(kept))
    return rows, text.to_numpy(dtype=object)[rows]


def _predict(on_train, on_test, train, test, rng):
    """Importance of every concept (K,) for one factor, and how well its values are recognised."""
    from sklearn.ensemble import RandomForestClassifier

    rows, labels = train
    forest = RandomForestClassifier(
        _N_TREES, max_features=None, min_samples_leaf=_LEAF_SHARE, random_state=rng
    ).fit(on_train[rows], labels)
    rows, labels = test
    right = forest.predict(on_test[rows]) == labels
    shares = [right[labels == value].mean() for value in forest.classes_]
    chance = 1 / len(shares)
    return forest.feature_importances_, (np.mean(shares) - chance) / (1 - chance)


def _summarise(importance, informativeness):
    """The three figures from the importance (K, F)."""
    R = importance.to_numpy()
    total = R.sum()
    disentanglement = 1 - _normalised_entropy(R)
    completeness = 1 - _normalised_entropy(R.T)
    # What has no importance tells nothing: it is neither disentangled nor complete.
    disentanglement[R.sum(axis=1) == 0] = 0
    completeness[R.sum(axis=0) == 0] = 0
    weight = R.sum(axis=1) / total if total > 0 else np.zeros(len(R))
    return DCI(
        disentanglement=float(weight @ disentanglement),
        completeness=float(completeness.mean()),
        informativeness=float(informativeness.mean()),
        importance=importance,
        concepts=pd.DataFrame({"disentanglement": disentanglement, "weight": weight}),
        factors=pd.DataFrame(
            {"completeness": completeness, "informativeness": informativeness},
            index=importance.columns,
        ),
    )


def _normalised_entropy(weights):
    """Entropy of every row, its weights scaled to sum to 1, over that of equal weights."""
    n = weights.shape[1]
    if n == 1:
        return np.zeros(len(weights))
    sums = weights.sum(axis=1, keepdims=True)
    p = weights / np.where(sums > 0, sums, 1)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1) / np.log(n)
    return np.clip(entropy, 0, 1)
