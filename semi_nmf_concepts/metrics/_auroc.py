"""Area under the ROC curve of many scores for many labels at once, and its bootstrap interval.

Notation: scores S (n, K), one column per detector; labels Y (n, F), True for positive samples.
"""

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import check_random_state

# Largest number of entries of one block of bootstrap weights: bounds the memory at some 100 MB.
_BLOCK = 2_000_000


def auroc(scores, labels):
    """Compute the AUROC of every column of scores for every column of labels.

    It is the probability that a positive sample scores above a negative one, ties counting one
    half; by rank sums (Mann-Whitney), so that the scores are sorted once for all labels.

    Parameters
    ----------
    scores : array-like of shape (n, K) or (n,)
        Higher means more likely positive; finite.
    labels : array-like of bool, shape (n, F) or (n,)
        Each column needs at least one positive and one negative sample.

    Returns
    -------
    values : ndarray of float64, shape (F, K)
        Without the axis of an argument that has only one dimension.

    Examples
    --------
    >>> auroc([0.1, 0.4, 0.4, 0.9], [False, True, False, True])
    array(0.875)
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if len(scores) != len(labels):
        raise ValueError(f"scores have {len(scores)} rows, labels have {len(labels)}.")
    if not np.isfinite(scores).all():
        raise ValueError("scores contains NaN or infinity.")
    n_positive = labels.sum(axis=0)
    n_negative = len(labels) - n_positive
    if (n_positive == 0).any() or (n_negative == 0).any():
        raise ValueError("Every column of labels needs positive and negative samples.")
    rank_sums = labels.T.astype(np.float64) @ rankdata(scores, axis=0)
    if scores.ndim == 2 and labels.ndim == 2:
        n_positive, n_negative = n_positive[:, None], n_negative[:, None]
    return np.asarray((rank_sums - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auroc_interval(scores, labels, *, confidence=0.95, n_bootstrap=1000, random_state=None):
    """Compute a percentile bootstrap interval of the AUROC of one detector for one label.

    Positive and negative samples are resampled separately, so that their numbers stay.

    Parameters
    ----------
    scores : array-like of shape (n,)
    labels : array-like of bool, shape (n,)
    confidence : float, default=0.95
        Probability mass between the two ends.
    n_bootstrap : int, default=1000
        Number of resamples.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    low, high : float
    """
    rng = check_random_state(random_state)
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    order = np.argsort(scores, kind="stable")
    scores, labels = scores[order], labels[order]
    # Samples of equal score form one group; a group starts where the sorted score changes.
    starts = np.flatnonzero(np.r_[True, scores[1:] > scores[:-1]])
    block = max(1, _BLOCK // len(scores))
    values = []
    for done in range(0, n_bootstrap, block):
        n_draws = min(block, n_bootstrap - done)
        positive = np.add.reduceat(_resample(labels, n_draws, rng), starts, axis=1)
        negative = np.add.reduceat(_resample(~labels, n_draws, rng), starts, axis=1)
        # Each positive beats the negatives of lower groups and half of those of its own.
        beaten = np.cumsum(negative, axis=1) - negative / 2
        values.append((positive * beaten).sum(axis=1) / (labels.sum() * (~labels).sum()))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(values), [tail, 100 - tail])
    return float(low), float(high)


def _resample(chosen, n_draws, rng):
    """Draw as many samples as are chosen, from these; count each one: (n_draws, n)."""
    members = np.flatnonzero(chosen)
    drawn = members[rng.randint(len(members), size=(n_draws, len(members)))]
    offsets = np.arange(n_draws)[:, None] * len(chosen)
    counts = np.bincount((drawn + offsets).ravel(), minlength=n_draws * len(chosen))
    return counts.reshape(n_draws, len(chosen))
