"""Which tokens of a prompt are an image, and which place of the image each of them stands for."""

from dataclasses import dataclass, field, replace

import numpy as np

from ._patch_layouts import Prepared, find_cross_layers, lay_out
from ._patch_pieces import Queries


@dataclass(eq=False)
class Block:
    """A rectangle of tokens that is drawn as one picture.

    Attributes
    ----------
    name : str
        "image", "whole image", "tile 1 of 4" and the like.
    tokens : ndarray of shape (rows, cols)
        Indices into `PatchGrid.boxes`, -1 where there is no token.
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
    boxes : ndarray of shape (m, 4), dtype float64
        The places: left, top, right and bottom of each, as shares of the width and the height of
        the image as it was before any processing. Place i is what token i stands for (m = n), but
        for queries, see `patches`. NaN for tokens that stand for no place (ends of rows, class
        tokens, padding). Parts of the image that the processor cuts off are in no box.
    blocks : list of Block
        The places as rectangles: one for most models, the whole image and its tiles for some.
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
        For queries: what they read, one place for each patch of the picture. Its ``positions`` are
        numbers of encoder states (as in `encoder`). What they read of each, attention says, which
        differs from image to image: `read_by` gives a grid that has it as `encoder`, and these
        patches as its places, of which there are not as many as tokens.

    cross_layers : list of str
        Empty, except where the language model reads images by cross-attention, beside its prompt
        (Mllama): names of the modules by which it does, in order. The tokens are then the keys of
        these modules, class tokens and padding included, and ``positions`` are numbers of keys;
        those of all images follow each other. An ``AnswerTrace`` counts them from the end of its
        sequence.

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

    Two queries that read the same two patches, the second one only the patch to the right, and both
    a class token that stands before them:

    >>> grid.encoder = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> grid.positions = np.array([1, 2])  # of states: the class token has number 0
    >>> queries = PatchGrid(
    ...     np.array([4, 5]), np.full((2, 4), np.nan), [], None, (4, 2), ["layer"], grid
    ... )
    >>> queries = queries.read_by([[0.2, 0.4, 0.4], [0.5, 0.0, 0.5]])
    >>> queries.to_places([1.0, 3.0])
    array([0.4, 1.9])
    """

    positions: np.ndarray
    boxes: np.ndarray
    blocks: list
    encoder: object
    size: tuple
    query_layers: list = field(default_factory=list)
    patches: object = None
    cross_layers: list = field(default_factory=list)

    @property
    def place_encoder(self):
        """scipy.sparse.csr_array of shape (m, n_states) or None: places as mixtures of states."""
        return self.encoder if self.patches is None else self.patches.encoder

    def read_by(self, weights):
        """The grid of queries that read their picture with certain weights.

        Parameters
        ----------
        weights : array-like of shape (n, n_states)
            What each query takes from the states of the encoder, numbered as in `encoder`; rows sum
            to 1.

        Returns
        -------
        PatchGrid
            With these weights as `encoder`, and the boxes and blocks of `patches`.

        Raises
        ------
        ValueError
            If the tokens are no queries, or the weights are not of that shape.
        """
        from scipy.sparse import csr_array

        if self.patches is None:
            raise ValueError("the image tokens are no queries: each of them has its own place.")
        weights = csr_array(np.asarray(weights, dtype=np.float64))
        shape = len(self.positions), self.patches.encoder.shape[1]
        if weights.shape != shape:
            raise ValueError(
                f"weights must have the shape {shape} (queries, states of the vision encoder), got "
                f"{weights.shape}."
            )
        return replace(self, boxes=self.patches.boxes, blocks=self.patches.blocks, encoder=weights)

    def to_places(self, values):
        """Values of the tokens as values of the places.

        For queries, a place has the sum over queries of their values times what they read of it.
        What they read of states without a place, such as the class token, is left out. For all
        other models, tokens and places are the same.

        Parameters
        ----------
        values : array-like of shape (..., n)

        Returns
        -------
        ndarray of shape (..., m)

        Raises
        ------
        ValueError
            If there is not one value for each token, or nothing is known of what queries read.
        """
        return self._carried(values, len(self.positions), "image tokens", transposed=False)

    def from_places(self, weights):
        """Weights of the places as weights of the tokens: the transpose of :meth:`to_places`.

        ``to_places(values) @ weights`` is ``values @ from_places(weights)``.

        Parameters
        ----------
        weights : array-like of shape (..., m)

        Returns
        -------
        ndarray of shape (..., n)

        Raises
        ------
        ValueError
            If there is not one weight for each place, or nothing is known of what queries read.
        """
        return self._carried(weights, len(self.boxes), "places", transposed=True)

    def _carried(self, values, n, of, transposed):
        values = np.asarray(values)
        self._check_read()
        if values.ndim < 1 or values.shape[-1] != n:
            raise ValueError(
                f"there must be one value for each of the {n} {of} along the last axis, got an "
                f"array of shape {values.shape}."
            )
        if self.patches is None:
            return values
        matrix = self.encoder[:, self.patches.positions].toarray()
        carried = values @ (matrix.T if transposed else matrix)
        return carried.astype(values.dtype) if values.dtype.kind == "f" else carried

    def _check_read(self):
        if self.query_layers and self.encoder is None:
            raise ValueError(
                "the image tokens are queries, which have no place in the image by themselves; "
                "what they read of grid.patches, the attention of grid.query_layers says (see "
                "grid.read_by)."
            )

    def to_pixels(self, values, size=None):
        """One value for each place as a density over the image.

        Every value is spread evenly over its box, and blocks that overlap add up.

        Parameters
        ----------
        values : array-like of shape (m,)
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
            If there is not one value for each place, or nothing is known of what queries read.
        """
        values = np.asarray(values, dtype=np.float64)
        self._check_read()
        if values.shape != (len(self.boxes),):
            raise ValueError(
                f"values must have one entry for each of the {len(self.boxes)} image places, got "
                f"an array of shape {values.shape}."
            )
        placed, (across, column), (down, row) = self._overlaps(self.size if size is None else size)
        areas = down.sum(axis=1)[row] * across.sum(axis=1)[column]
        densities = np.zeros((len(down), len(across)))
        np.add.at(densities, (row, column), values[placed] / areas)
        return down.T @ densities @ across

    def coverage(self, mask):
        """Share of each place's box that a region of the image covers.

        Parameters
        ----------
        mask : array-like of shape (height, width), dtype bool
            The region, in pixels of the image or of any other size. Of numbers in the place of bool
            every place gets the mean over its box.

        Returns
        -------
        ndarray of shape (m,), dtype float64
            0 for tokens without a place.

        Raises
        ------
        ValueError
            If the mask has not two dimensions, or nothing is known of what queries read.
        """
        mask = np.asarray(mask)
        self._check_read()
        if mask.ndim != 2:
            raise ValueError(f"mask must have the shape (height, width), got {mask.shape}.")
        placed, (across, column), (down, row) = self._overlaps(mask.shape[::-1])
        inside = (down @ mask.astype(np.float64) @ across.T)[row, column]
        shares = np.zeros(len(self.boxes))
        shares[placed] = inside / (down.sum(axis=1)[row] * across.sum(axis=1)[column])
        return shares

    def _overlaps(self, size):
        """How much of every column and every row of pixels the boxes cover.

        Boxes form grids, so that few of their sides differ: for either direction, an array (sides,
        pixels), and which of its rows belongs to each place.
        """
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
    layers = find_cross_layers(loaded.model)
    if layers:
        if len(positions) != len(images):
            raise ValueError(
                f"the prompt must have a place for each of the {len(images)} image(s), it has "
                f"{len(positions)}."
            )
        positions = np.arange(sum(counts))
    if sum(counts) != len(positions):
        raise ValueError(
            f"the patch grid does not fit the prompt: {_said(layouts)} make {sum(counts)} image "
            f"tokens, but the prompt has {len(positions)}."
        )
    grids = []
    for part, pieces, image in zip(
        np.split(positions, np.cumsum(counts)[:-1]), layouts, images, strict=True
    ):
        grid = _grid(part, pieces, n_states, image.size)
        grids.append(replace(grid, cross_layers=layers))
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
