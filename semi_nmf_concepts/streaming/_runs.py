"""Which of some rows to read together."""

import numpy as np


def runs(indices, chunk, longest):
    """Slices of ascending `indices` that lie in one chunk or in neighbouring ones.

    Parameters
    ----------
    indices : ndarray of int
    chunk : int
        Rows that can only be read together.
    longest : int
        How many rows a slice may reach over.
    """
    chunks = indices // chunk
    new = (np.diff(chunks) > 1) | (np.diff(indices // longest) > 0)
    bounds = [0, *(np.flatnonzero(new) + 1), len(indices)]
    return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]
