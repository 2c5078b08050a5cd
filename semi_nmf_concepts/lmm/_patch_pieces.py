"""Rectangles of image tokens, and where they lie in the image before it was processed.

A processed picture (scaled, cropped, padded, cut into tiles) is seen through a :class:`View`; the
layout of an image is a list of :class:`Piece`, in the order of its tokens.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class View:
    """Where the pixels of a processed picture come from: share = origin + pixel * step.

    Attributes
    ----------
    origin : tuple of float
        (x, y) of the picture's upper left corner, in shares of the original's width and height.
        Outside of 0 to 1 there is padding.
    step : tuple of float
        Width and height of a pixel, in the same shares.
    """

    origin: tuple
    step: tuple

    @classmethod
    def whole(cls, size):
        """The original itself, of `size` (width, height)."""
        return cls((0.0, 0.0), (1 / size[0], 1 / size[1]))

    def resized(self, size, new_size):
        """All of a picture of `size`, scaled to `new_size`; both (width, height)."""
        pairs = zip(self.step, size, new_size, strict=True)
        return View(self.origin, tuple(step * old / new for step, old, new in pairs))

    def moved(self, left, top):
        """The picture from pixel (`left`, `top`) on; negative where it was padded."""
        pairs = zip(self.origin, self.step, (left, top), strict=True)
        return View(tuple(origin + step * by for origin, step, by in pairs), self.step)

    def boxes(self, rows, cols, width, height):
        """Boxes of `rows` x `cols` cells of `width` x `height` pixels, row-major, in shares.

        Cut to the image; NaN for cells that are padding and nothing else.
        """
        x = self.origin[0] + self.step[0] * width * np.arange(cols + 1)
        y = self.origin[1] + self.step[1] * height * np.arange(rows + 1)
        x, y = _snapped(x), _snapped(y)
        left, top = np.meshgrid(x[:-1], y[:-1])
        right, bottom = np.meshgrid(x[1:], y[1:])
        boxes = np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)
        empty = (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])
        boxes[empty] = np.nan
        return boxes


def _snapped(edges):
    """Edges cut to the image; those that rounding left a hair beside its border lie on it."""
    edges = np.clip(edges, 0.0, 1.0)
    for border in (0.0, 1.0):
        edges[np.abs(edges - border) < 1e-9] = border
    return edges


@dataclass
class Piece:
    """A rectangle of image tokens, row by row.

    Attributes
    ----------
    name : str
        What is drawn above it.
    shape : tuple of int
        Rows and columns; (0, n) stands for n tokens that have no place.
    boxes : ndarray of shape (rows * cols, 4)
    states : ndarray of shape (rows * cols, k) or tuple of ndarray
        The encoder states of which a token is the mean; or triples (cell, state, weight).
    row_ends : int, default=0
        Tokens without a place after every row.
    """

    name: str
    shape: tuple
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    states: object = None
    row_ends: int = 0

    @classmethod
    def gap(cls, n):
        """`n` tokens that stand for no place."""
        return cls("", (0, n))

    @property
    def n_tokens(self):
        """int: how many positions of the prompt it takes."""
        rows, cols = self.shape
        return cols if rows == 0 else rows * (cols + self.row_ends)

    def places(self):
        """Index of every cell among the piece's tokens, of shape (rows, cols)."""
        rows, cols = self.shape
        return np.arange(rows)[:, None] * (cols + self.row_ends) + np.arange(cols)


@dataclass
class Queries:
    """Image tokens that are learned queries.

    Attributes
    ----------
    n_tokens : int
    patches : Piece
        What they read, one encoder state for each patch.
    layers : list of str
        Names of the modules by which they read it.
    """

    n_tokens: int
    patches: Piece
    layers: list

    @property
    def shape(self):
        """tuple of int: as of tokens without a place."""
        return 0, self.n_tokens


@dataclass(frozen=True)
class Encoder:
    """How the vision encoder cuts one picture into patches, and numbers its states.

    Attributes
    ----------
    size : tuple of int
        Width and height of every picture that it is given, in pixels.
    patch : int
        Side of a patch; what is left over at the right and lower border is not seen.
    n_before, n_after : int, default=0
        States before those of the patches (class token, registers), and behind them (padding).
    """

    size: tuple
    patch: int
    n_before: int = 0
    n_after: int = 0

    @property
    def shape(self):
        """tuple of int: rows and columns of patches."""
        return self.size[1] // self.patch, self.size[0] // self.patch

    @property
    def n_states(self):
        """int: of one picture."""
        return self.n_before + self.shape[0] * self.shape[1] + self.n_after

    def states(self, index):
        """Numbers of the states of the patches of picture `index`, of shape (rows, columns)."""
        rows, cols = self.shape
        return index * self.n_states + self.n_before + np.arange(rows * cols).reshape(rows, cols)

    def piece(self, name, view, index, merge=1):
        """Picture `index`, seen by `view`, as tokens of `merge` x `merge` patches."""
        rows, cols = (n // merge for n in self.shape)
        side = merge * self.patch
        states = pooled(self.states(index), merge)
        return Piece(name, (rows, cols), view.boxes(rows, cols, side, side), states)


def pooled(states, side):
    """Squares of `side` x `side` of a grid of states: (rows // side * columns // side, side**2).

    What does not fill a square is left out.
    """
    rows, cols = (n // side for n in states.shape)
    squares = states[: rows * side, : cols * side].reshape(rows, side, cols, side)
    return squares.transpose(0, 2, 1, 3).reshape(rows * cols, side * side)
