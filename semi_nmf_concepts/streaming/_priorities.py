"""Samples of rows that do not depend on how the rows are cut into blocks."""

import numpy as np

# SplitMix64 (Steele, Lea and Flood, 2014): a counter times an odd number, mixed.
_STEP = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BITS = 0xFFFFFFFFFFFFFFFF


def row_priorities(seed, start, stop):
    """A pseudo-random number for every row, which depends on the seed and its index alone.

    The m rows with the smallest numbers are a sample without replacement, whichever blocks, files
    or workers the rows come from, and can be kept up to date block by block.

    Parameters
    ----------
    seed : int
        Its lowest 64 bits count.
    start, stop : int
        The rows from `start` up to, not including, `stop`.

    Returns
    -------
    priorities : ndarray of shape (stop - start,), uint64

    Notes
    -----
    SplitMix64 [1]_, started at the mixed seed, so that neighbouring seeds have nothing in common.

    References
    ----------
    .. [1] G. L. Steele, D. Lea, C. H. Flood. "Fast splittable pseudorandom number generators".
       OOPSLA 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from semi_nmf_concepts.streaming import row_priorities
    >>> whole = row_priorities(0, 0, 1000)
    >>> bool(np.all(whole[300:310] == row_priorities(0, 300, 310)))
    True
    >>> np.sort(np.argsort(whole)[:5])  # a sample of five rows
    array([281, 462, 591, 773, 950])
    """
    first = _mixed(np.array([(int(seed) + _STEP) & _BITS], np.uint64))
    counts = np.arange(start + 1, stop + 1, dtype=np.uint64)
    return _mixed(first + counts * np.uint64(_STEP))


def _mixed(x):
    for shift, factor in _MIX:
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
