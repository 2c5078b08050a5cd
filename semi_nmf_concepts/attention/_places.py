"""Values for the places of images: maps of one's own, and regions that count."""

from numbers import Integral

import numpy as np


def own_values(trace, values):
    """One array per image with a value for each place."""
    if len(trace.grids) == 1 and (isinstance(values, np.ndarray) or np.ndim(values[0]) == 0):
        values = [values]
    parts = [np.asarray(part, dtype=np.float64) for part in values]
    if len(parts) != len(trace.grids):
        raise ValueError(
            f"a map must have one array for each of {len(trace.grids)} images, got {len(parts)}."
        )
    pairs = zip(trace.grids, trace.images, parts, strict=True)
    return [_of_places(grid, image, part) for grid, image, part in pairs]


def _of_places(grid, image, part):
    """A value for each place, from values of places, of a grid's cells, or of pixels."""
    n, pixels = len(grid.boxes), (image.height, image.width)
    if part.shape == (n,):
        return part
    if part.shape == pixels:
        return grid.coverage(part)  # the mean over each place
    cells = [block.tokens for block in grid.blocks]
    if len(cells) == 1 and part.shape == cells[0].shape:
        values = np.zeros(n)
        values[cells[0][cells[0] >= 0]] = np.nan_to_num(part[cells[0] >= 0])
        return values
    allowed = [f"({n},): a value for each place", f"{pixels}: one for each pixel"]
    allowed += [f"{cells[0].shape}: one for each cell of the grid"] if len(cells) == 1 else []
    raise ValueError(
        f"the map of an image must have the shape {'; or '.join(allowed)}. Got {part.shape}."
    )


def patch_weights(grid, patches, image):
    """float (m,): how much each place of an image counts."""
    n = len(grid.boxes)
    if isinstance(patches, np.ndarray) and patches.dtype == bool:
        if patches.shape != (image.height, image.width):
            raise ValueError(
                "patches: a mask must have the height and width of the image, "
                f"{(image.height, image.width)}, got {patches.shape}."
            )
        weights = grid.coverage(patches)
        if not weights.sum() > 0:
            raise ValueError("patches: the mask covers no place that an image token stands for.")
        return weights
    if np.ndim(patches) > 1:
        kind = np.asarray(patches).dtype
        raise ValueError(f"patches: a mask of the image must be an array of bool, got {kind}.")
    chosen = [patches] if np.ndim(patches) == 0 else list(patches)
    if not chosen or not all(isinstance(p, Integral) and -n <= p < n for p in chosen):
        raise ValueError(
            f"patches must be places of the image (0 to {n - 1}) or a mask, got {patches!r}."
        )
    weights = np.zeros(n)
    weights[[int(p) for p in chosen]] = 1.0
    return weights
