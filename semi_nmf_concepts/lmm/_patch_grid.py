"""Which tokens of a prompt are an image, and which place of the image each of them stands for."""

from dataclasses import dataclass, field

import numpy as np

from ._patch_layouts import Prepared, lay_out
from ._patch_pieces import Queries


@dataclass(eq=False)
class Block:
    """A rectangle of tokens that is drawn as one picture.

    Attributes
    ----------
    name : str
        "image", "whole image", "tile 1 of 4" and the like.
    tokens : ndarray of shape (rows, cols)
        Indices into `PatchGrid.positions`, -1 where there is no token.
    """

    name: str
    tokens: np.ndarray


@dataclass(eq=False)
class PatchGrid:
    """The tokens of one image of a prompt, and the places of the image that they stand for.

    Attributes
    ----------
    positions : ndarray of shape (n,), dtype int64
        Positions in the sequence of this image's tokens, ascending.
    boxes : ndarray of shape (n, 4), dtype float64
        Left, top, right and bottom of what a token stands for, as shares of the width and the
        height of the image as it was before any processing. NaN for tokens that stand for no place
        (ends of rows, class tokens, padding). Parts of the image that the processor cuts off are in
        no box.
    blocks : list of Block
        The tokens as rectangles: one for most models, the whole image and its tiles for some.
    encoder : scipy.sparse.csr_array of shape (n, n_states) or None
        Weights with which tokens are made of the states of the vision encoder. Rows sum to 1, or to
        0 for tokens without a place. States are numbered as the attention of one encoder layer sees
        them: by call, then by row of the batch, then by position, class token included; all images
        of the prompt count. None where a token is no mixture that is known beforehand.
    size : tuple of int
        Width and height of the image in pixels.
    query_layers : list of str
        Empty, except where the tokens are learned queries that read the whole image (BLIP-2,
        InstructBLIP) and stand for no place by themselves: names of the cross-attention modules by
        which they read it, in order. Row j of such a module's attention is query j of one image,
        its columns the states of that image's picture.
    patches : PatchGrid or None
        For queries: the places of what they read. Its ``positions`` are numbers of encoder states
        (as in `encoder`), its boxes those of their patches. Values of tokens become values of
        places by a matrix W (tokens, encoder states) that is made of the attention of
        `query_layers`: ``patches.to_pixels((W.T @ values)[patches.positions])``.

    Examples
    --------
    >>> import numpy as np
    >>> from semi_nmf_concepts.lmm import Block, PatchGrid
    >>> boxes = np.array([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    >>> block = Block("image", np.array([[0, 1]]))
    >>> grid = PatchGrid(np.array([4, 5]), boxes, [block], encoder=None, size=(4, 2))
    >>> grid.to_pixels([1.0, 3.0])
    array([[0.25, 0.25, 0.75, 0.75],
           [0.25, 0.25, 0.75, 0.75]])
    >>> grid.coverage([[True, False, False, False]])
    array([0.5, 0. ])
    """

    positions: np.ndarray
    boxes: np.ndarray
    blocks: list
    encoder: object
    size: tuple
    query_layers: list = field(default_factory=list)
    patches: object = None

    def to_pixels(self, values, size=None):
        """One value for each token as a density over the image.

        Every token spreads its value evenly over its box, and blocks that overlap add up.

        Parameters
        ----------
        values : array-like of shape (n,)
            Values of tokens without a place are left out.
        size : tuple of int, default=None
            Width and height of the result in pixels; None: those of the image.

        Returns
        -------
        ndarray of shape (height, width), dtype float64
            The sum is that of the values of all tokens with a place, whatever the size.

        Raises
        ------
        ValueError
            If there is not one value for each token, or if the tokens are queries.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(self.positions),):
            raise ValueError(
                f"values must have one entry for each of the {len(self.positions)} image tokens, "
                f"got an array of shape {values.shape}."
            )
        placed, (across, column), (down, row) = self._overlaps(self.size if size is None else size)
        areas = down.sum(axis=1)[row] * across.sum(axis=1)[column]
        densities = np.zeros((len(down), len(across)))
        np.add.at(densities, (row, column), values[placed] / areas)
        return down.T @ densities @ across

    def coverage(self, mask):
        """Share of each token's box that a region of the image covers.

        Parameters
        ----------
        mask : array-like of shape (height, width), dtype bool
            The region, in pixels of the image or of any other size.

        Returns
        -------
        ndarray of shape (n,), dtype float64
            0 for tokens without a place.

        Raises
        ------
        ValueError
            If the mask has not two dimensions, or if the tokens are queries.
        """
        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise ValueError(f"mask must have the shape (height, width), got {mask.shape}.")
        placed, (across, column), (down, row) = self._overlaps(mask.shape[::-1])
        inside = (down @ mask.astype(np.float64) @ across.T)[row, column]
        shares = np.zeros(len(self.positions))
        shares[placed] = inside / (down.sum(axis=1)[row] * across.sum(axis=1)[column])
        return shares

    def _overlaps(self, size):
        """How much of every column and every row of pixels the boxes cover.

        Boxes form grids, so that few of their sides differ: for either direction, an array (sides,
        pixels), and which of its rows belongs to each token with a place.
        """
        if self.query_layers:
            raise ValueError(
                "the image tokens are queries, which have no place in the image by themselves; "
                "their values must be carried to grid.patches by the attention of "
                "grid.query_layers."
            )
        placed = np.flatnonzero(~np.isnan(self.boxes[:, 0]))
        sides = []
        for axis, n in enumerate(size):
            pairs, which = np.unique(
                self.boxes[placed][:, [axis, axis + 2]], axis=0, return_inverse=True
            )
            sides.append((_overlap(*pairs.T, n), which.ravel()))
        return placed, *sides


def _overlap(start, stop, n):
    """(boxes, n): the part of each of `n` equal pixels that lies between start and stop."""
    edges = np.arange(n + 1)
    low = np.maximum(start[:, None] * n, edges[:-1])
    high = np.minimum(stop[:, None] * n, edges[1:])
    return np.maximum(high - low, 0.0)


def find_patch_grids(loaded, inputs, images):
    """Where the image tokens of a prompt stand, and what of the images each of them stands for.

    Parameters
    ----------
    loaded : LoadedModel
    inputs : mapping of str to tensor
        What the processor made of the prompt and its images: one row, without padding.
    images : list of PIL.Image.Image
        The images of the prompt, in their order.

    Returns
    -------
    list of PatchGrid
        One for each image.

    Raises
    ------
    ValueError
        If the patch grid of this type of model is not known; if its product is not the number of
        image tokens, which says both numbers; or if `inputs` have several rows.
    """
    if not len(images):
        raise ValueError("images must have at least one image, got none.")
    layouts, n_states = lay_out(Prepared(loaded, inputs, [image.size for image in images]))
    positions = _image_positions(loaded, inputs)
    counts = [sum(piece.n_tokens for piece in pieces) for pieces in layouts]
    if sum(counts) != len(positions):
        raise ValueError(
            f"the patch grid does not fit the prompt: {_said(layouts)} make {sum(counts)} image "
            f"tokens, but the prompt has {len(positions)}."
        )
    grids = []
    for part, pieces, image in zip(
        np.split(positions, np.cumsum(counts)[:-1]), layouts, images, strict=True
    ):
        grids.append(_grid(part, pieces, n_states, image.size))
    return grids


def _image_positions(loaded, inputs):
    """Positions of the image tokens of the one row of `inputs`."""
    ids = inputs["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"inputs must be those of one prompt, got {len(ids)} rows.")
    places = ids[0] == loaded.image_token_id
    kinds = inputs.get("mm_token_type_ids")
    if kinds is not None:  # tells images from videos, which may be written with the same token
        places &= kinds[0] == 1
    return places.cpu().numpy().nonzero()[0].astype(np.int64)


def _said(layouts):
    """The rectangles of all images in words: "4 x 4 + 6 x (8 + 1), 2 x 2"."""
    return ", ".join(
        " + ".join(_rectangle(piece) for piece in pieces if piece.n_tokens) for pieces in layouts
    )


def _rectangle(piece):
    rows, cols = piece.shape
    if not rows:
        return str(cols)
    return f"{rows} x ({cols} + {piece.row_ends})" if piece.row_ends else f"{rows} x {cols}"


def _grid(positions, pieces, n_states, size):
    """The PatchGrid of one image."""
    from scipy.sparse import csr_array

    if isinstance(pieces[0], Queries):
        queries = pieces[0]
        patches = _grid(queries.patches.states.ravel(), [queries.patches], n_states, size)
        nowhere = np.full((len(positions), 4), np.nan)
        return PatchGrid(positions, nowhere, [], None, tuple(size), queries.layers, patches)
    boxes = np.full((len(positions), 4), np.nan)
    blocks, rows, cols, weights, start = [], [], [], [], 0
    for piece in pieces:
        tokens = start + piece.places()
        start += piece.n_tokens
        if not tokens.size:
            continue
        boxes[tokens.ravel()] = piece.boxes
        lost = np.isnan(boxes[tokens, 0])
        blocks.append(Block(piece.name, np.where(lost, -1, tokens)))
        cell, state, weight = _weights(piece.states)
        kept = ~lost.ravel()[cell]
        rows.append(tokens.ravel()[cell[kept]])
        cols.append(state[kept])
        weights.append(weight[kept])
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(cols))
    encoder = csr_array(entries, shape=(len(positions), n_states))
    return PatchGrid(positions, boxes, blocks, encoder, tuple(size))


def _weights(states):
    """(cell, state, weight) of a piece."""
    if isinstance(states, tuple):
        return states
    n, k = states.shape
    return np.repeat(np.arange(n), k), states.ravel(), np.full(n * k, 1 / k)
