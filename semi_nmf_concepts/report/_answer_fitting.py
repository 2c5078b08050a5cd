"""What makes the page of an answer smaller: coarser places, fewer words.

The page of a usual model needs neither. Where even the means over layers and heads do not fit (tens
of words about tens of thousands of image tokens), neighbouring places are summed, 2 x 2, 4 x 4 and
so on, while there are many; then the last words are left out.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(eq=False)
class PagePlaces:
    """The places of one image as the page has them.

    Attributes
    ----------
    boxes : ndarray of shape (m, 4)
        As of a PatchGrid; NaN for tokens without a place.
    blocks : list of (str, ndarray of shape (rows, cols))
        Names, and indices into `boxes`, -1 where there is none.
    of : ndarray of int, shape (n,)
        For each place of the PatchGrid, that of the page.
    """

    boxes: np.ndarray
    blocks: list
    of: np.ndarray


class Pool:
    """Places of all images of an answer, neighbours summed.

    Parameters
    ----------
    grids : list of PatchGrid
    side : int
        `side` x `side` places of a block become one; 1: they stay as they are.

    Attributes
    ----------
    images : list of PagePlaces
    n : int
        How many places there are, of all images.
    """

    def __init__(self, grids, side=1):
        from scipy.sparse import csr_array

        self.side = side
        self.images = [_pooled(grid, side) for grid in grids]
        starts = np.cumsum([0, *(len(image.boxes) for image in self.images)])
        self.n = int(starts[-1])
        of = [image.of + start for image, start in zip(self.images, starts[:-1], strict=True)]
        of = np.concatenate(of)
        entries = np.ones(len(of), dtype=np.float32), of, np.arange(len(of) + 1)
        self._sums = csr_array(entries, shape=(len(of), self.n))

    def sum(self, values):
        """Values (..., places) of all images, one after the other, as those of the page."""
        values = np.asarray(values, dtype=np.float32)
        if self.side == 1:
            return values
        return (values.reshape(-1, values.shape[-1]) @ self._sums).reshape(
            *values.shape[:-1], self.n
        )


def _pooled(grid, side):
    if side == 1:
        blocks = [(block.name, np.asarray(block.tokens)) for block in grid.blocks]
        return PagePlaces(grid.boxes, blocks, np.arange(len(grid.boxes)))
    placed = np.isfinite(grid.boxes).all(axis=1)
    cells = np.full(len(grid.boxes), -1)  # which cell of which block; -1: not in a block
    shapes, start = [], 0
    for block in grid.blocks:
        rows, cols = (-(-length // side) for length in block.tokens.shape)
        row, col = np.indices(block.tokens.shape) // side
        inside = block.tokens >= 0
        cells[block.tokens[inside]] = start + (row * cols + col)[inside]
        shapes.append((block.name, start, (rows, cols)))
        start += rows * cols
    alone = np.flatnonzero(placed & (cells < 0))
    cells[alone] = start + np.arange(len(alone))
    cells[~placed] = start + len(alone)  # one for all that have no place
    found, of = np.unique(cells, return_inverse=True)
    boxes = np.empty((len(found), 4))
    boxes[:, :2], boxes[:, 2:] = np.inf, -np.inf
    np.minimum.at(boxes[:, :2], of[placed], grid.boxes[placed, :2])
    np.maximum.at(boxes[:, 2:], of[placed], grid.boxes[placed, 2:])
    boxes[np.isinf(boxes).any(axis=1)] = np.nan
    index = np.full(start + len(alone) + 1, -1)
    index[found] = np.arange(len(found))
    blocks = [
        (name, index[first : first + rows * cols].reshape(rows, cols))
        for name, first, (rows, cols) in shapes
    ]
    return PagePlaces(boxes, blocks, of)


def first_words(explanation, n):
    """The explanation of the first `n` words of an answer, as if it ended there."""
    trace = explanation.trace
    if n >= len(trace.words):
        return explanation
    stop = trace.words[n - 1].stop
    in_answer = {name: getattr(trace, name)[:stop] for name in ("probabilities", "alternatives")}
    return replace(
        explanation,
        trace=replace(
            trace,
            words=trace.words[:n],
            tokens=trace.tokens[: trace.n_prompt + stop],
            token_ids=trace.token_ids[: trace.n_prompt + stop],
            attention=trace.attention[:, :, :stop],
            logits=trace.logits[:stop],
            **in_answer,
        ),
        relevancy={
            through: _relevancy_of_first(found, n)
            for through, found in explanation.relevancy.items()
            if min(found.word_indices, default=n) < n
        },
        causal={word: graph for word, graph in explanation.causal.items() if word < n},
        faithfulness={word: one for word, one in explanation.faithfulness.items() if word < n},
        concepts=_concepts_of_first(explanation.concepts, n, stop),
    )


def _relevancy_of_first(found, n):
    rows = [row for row, word in enumerate(found.word_indices) if word < n]
    return replace(
        found,
        words=[found.words[row] for row in rows],
        word_indices=[found.word_indices[row] for row in rows],
        image=[part[rows] for part in found.image],
        text=found.text[rows],
        shares=found.shares[rows],
    )


def _concepts_of_first(found, n, stop):
    if found is None:
        return None
    return replace(
        found,
        activations=found.activations[:stop],
        explained=found.explained[:stop],
        words=found.words[:n],
        spans=found.spans[:n],
        word_activations=found.word_activations[:n],
        image={key: value for key, value in found.image.items() if key[0] < n},
    )
