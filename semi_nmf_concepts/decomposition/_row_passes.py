"""Passes over the rows of data that are never in one place: work on every block, added up."""

from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from functools import reduce

from ._arrays import kind_of


class RowPasses(ABC):
    """Rows that are visited block by block, wherever they are.

    Attributes
    ----------
    shape : tuple of int
        (n_samples, n_features)
    dtype : numpy.dtype
        Of the blocks that work is given: float32 or float64.
    n_passes : int
        How often all rows were visited.
    """

    n_passes = 0

    @abstractmethod
    def reduce(self, work):
        """The sum of ``work(block, start, memory)`` over all blocks.

        Parameters
        ----------
        work : Work
            Called with a block of rows, the index of its first row, and a dict that is handed to
            it again when the same rows come in a later pass, or None where there is none. What is
            in the dict may be lost, or old: it may make work faster, never change what it means.

        Returns
        -------
        object
            What `work` returned for the blocks, combined by ``work.add(one, other)`` in a fixed
            order.
        """

    @abstractmethod
    def take(self, rows):
        """The samples at these indices, which are sorted, as one ndarray."""

    def close(self):
        """Nothing more will be asked: what was kept between passes can go."""
        return None


class StreamedPasses(RowPasses):
    """One block after the other, read ahead.

    Parameters
    ----------
    rows : RowBlocks
    batch_size : int or None
        Rows in memory at a time.
    """

    def __init__(self, rows, batch_size):
        self.rows, self.batch_size = rows, batch_size
        self.shape, self.dtype = rows.shape, rows.dtype

    def reduce(self, work):
        with (
            closing(self.rows.blocks(self.batch_size)) as blocks,
            naming_rows(blocks, self.rows.locate) as blocks,
        ):
            total = reduce(work.add, (work(block, start, None) for start, block in blocks))
        self.n_passes += 1
        return total

    def take(self, rows):
        return self.rows.take(rows)


@contextmanager
def naming_rows(blocks, locate):
    """The blocks again; an error over one of them says which row is not finite, if one is.

    Parameters
    ----------
    blocks : iterable of tuple
        Pairs of the index of the first row, and an array of rows.
    locate : callable
        What to call the row with an index, such as `RowBlocks.locate`.
    """
    in_use = None

    def followed():
        nonlocal in_use
        for in_use in blocks:
            yield in_use
            in_use = None  # its memory may be used for the next one

    try:
        yield followed()
    except ValueError as error:
        if in_use is None:
            raise
        start, block = in_use
        xp = kind_of(block).xp
        rows = xp.nonzero(~xp.all(xp.isfinite(block), axis=1))[0]
        if not rows.shape[0]:
            raise
        raise ValueError(f"Not finite: {locate(start + int(rows[0]))}. {error}") from error
