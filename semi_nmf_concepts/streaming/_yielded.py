"""Rows of objects that yield blocks."""

import contextlib
import inspect
from collections.abc import Iterator
from types import GeneratorType

import numpy as np

from ._row_blocks import RowBlocks
from ._up_cast import as_rows, handed_out, up_cast

_END = object()


def open_yielded(source, name, once):
    """Rows of an object that yields blocks, or of a function that returns such an object.

    Unless they will be read only once, all blocks are looked at: for how many rows there are, and
    whether they fit together.
    """

    def make():
        return iter(source) if hasattr(source, "__iter__") else _iterator_of(source, name)

    if once:
        return OnceRows(make(), name)
    if isinstance(source, Iterator):
        raise TypeError(
            f"{name} is an iterator, which can be read only once; give an object that can be "
            "iterated over again and again, or a function that returns a new iterator."
        )
    return YieldedRows(make, name)


def _iterator_of(function, name):
    """What a function returns that takes no arguments."""
    if not _needs_nothing(function):
        raise TypeError(
            f"{name} is of type {type(function).__name__}, which cannot be called without "
            "arguments; rows come from a function without arguments that returns an iterator of "
            "blocks (2-d arrays), from arrays, paths, and objects that yield such blocks."
        )
    made = function()
    if hasattr(made, "shape") or not hasattr(made, "__iter__"):
        raise TypeError(
            f"{name} is a function that returned {type(made).__name__}; it must return an iterator "
            "of blocks (2-d arrays)."
        )
    return iter(made)


def _needs_nothing(function):
    if any(c.__module__.startswith("torch.nn.modules") for c in type(function).__mro__):
        return False  # its signature does not tell
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # it has none that is known
        return True
    return True


class YieldedRows(RowBlocks):
    """Rows of an iterator that can be made again for every pass.

    Parameters
    ----------
    make : callable
        Returns a new iterator over the same blocks.
    name : str
    """

    def __init__(self, make, name):
        self._make = make
        blocks = _Blocks(make(), name)
        n, dtypes = 0, set()
        while (rows := blocks.next()) is not None:
            n += len(rows)
            dtypes.add(handed_out(rows.dtype, name))
        if not n:
            raise ValueError(_nothing(name))
        super().__init__((n, blocks.n_features), np.result_type(*dtypes), name)

    @contextlib.contextmanager
    def _pass(self):
        n_left, blocks = len(self), _Blocks(self._make(), self.name, self.shape[1])

        def read(out):
            nonlocal n_left
            n_read = blocks.read(out)
            n_left -= n_read
            if n_read < len(out) or (n_left == 0 and not blocks.at_end()):
                raise ValueError(
                    f"{self.name} must yield the same rows in every pass: {len(self)} at first, "
                    f"now {'more' if n_left == 0 else len(self) - n_left}."
                )
            return n_read

        try:
            yield read
        finally:
            blocks.close()


class OnceRows(RowBlocks):
    """Rows of an iterator, for a single pass; their number is known when it has ended.

    The first block is asked for at once, for the number of features and the type.
    """

    def __init__(self, iterator, name):
        self._blocks_left = _Blocks(iterator, name)
        rows = self._blocks_left.peek()
        if rows is None:
            raise ValueError(_nothing(name))
        super().__init__((None, rows.shape[1]), handed_out(rows.dtype, name), name)

    @contextlib.contextmanager
    def _pass(self):
        if self._blocks_left is None:
            raise ValueError(f"{self.name} can be read only once, and has been.")
        blocks, self._blocks_left = self._blocks_left, None
        n = 0

        def read(out):
            nonlocal n
            n_read = blocks.read(out)
            n += n_read
            if n_read < len(out):
                self.shape = (n, self.shape[1])
            return n_read

        yield read


class _Blocks:
    """Blocks of an iterator, checked, and cut as they are asked for."""

    def __init__(self, iterator, name, n_features=None):
        self._iterator, self._name, self.n_features = iterator, name, n_features
        self._n_blocks, self._rest = 0, None

    def close(self):
        if isinstance(self._iterator, GeneratorType):
            self._iterator.close()

    def next(self):
        """The rest of a block, or the next one; None at the end."""
        rows, self._rest = self.peek(), None
        return rows

    def peek(self):
        if self._rest is None:
            block = next(self._iterator, _END)
            self._rest = None if block is _END else self._checked(block)
        return self._rest

    def _checked(self, block):
        what = f"block {self._n_blocks} of {self._name}"
        rows = as_rows(block, what)
        if rows.shape[1] != (self.n_features or rows.shape[1]):
            raise ValueError(
                f"{what} has {rows.shape[1]} features, those before have {self.n_features}."
            )
        self._n_blocks, self.n_features = self._n_blocks + 1, rows.shape[1]
        return rows

    def at_end(self):
        return self.peek() is None

    def read(self, out):
        """Fill `out`, as far as there are rows."""
        done = 0
        while done < len(out) and (rows := self.next()) is not None:
            if not np.can_cast(handed_out(rows.dtype, self._name), out.dtype):
                raise ValueError(
                    f"block {self._n_blocks - 1} of {self._name} has dtype {rows.dtype}, which "
                    f"{out.dtype}, the type of those before, cannot hold."
                )
            n = min(len(rows), len(out) - done)
            up_cast(rows[:n], out[done : done + n])
            self._rest = rows[n:] if n < len(rows) else None
            done += n
        return done


def _nothing(name):
    return f"Found array with 0 sample(s) while a minimum of 1 is required: {name} yields no block."
