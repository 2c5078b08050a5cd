"""Maps over images: scales, colours, and the overlay that figures, the page and the app draw.

A map gives every patch a value. Spread over the patches' boxes it is a density, which a scale
brings to [0, 1], and a colour map to a colour and an opacity. The page does the same in its script
from the same stops, so that one map looks alike wherever it is drawn.
"""

import numpy as np

SCALES = ("linear", "sqrt", "log")
_LOG_RANGE = 99.0  # the logarithmic scale shows values down to about a hundredth of the maximum

# Stops of (value, red, green, blue, opacity): the opacity of the overlay is multiplied by it.
# "heat" darkens what has no weight and lights what has; "red" and "blue" leave what has no weight
# as it is; "spotlight" shows the picture alone, and only where there is weight.
COLOURS = {
    "heat": (
        (0.0, 13, 8, 40, 0.45),
        (0.25, 87, 16, 110, 0.6),
        (0.5, 188, 55, 84, 0.75),
        (0.75, 249, 142, 9, 0.9),
        (1.0, 252, 240, 130, 1.0),
    ),
    "red": ((0.0, 214, 24, 36, 0.0), (1.0, 214, 24, 36, 1.0)),
    "blue": ((0.0, 20, 92, 210, 0.0), (1.0, 20, 92, 210, 1.0)),
    "spotlight": ((0.0, 10, 12, 16, 1.0), (1.0, 10, 12, 16, 0.0)),
}


def scaled(values, scale="linear", maximum=None):
    """Bring values to [0, 1] for drawing.

    Parameters
    ----------
    values : array-like
        Negative and unknown (NaN) values are drawn as 0.
    scale : {"linear", "sqrt", "log"}, default="linear"
        With v the value as a share of the maximum: v, the root of v, or log(1 + 99 v) / log(100).
        The latter two show the small values of a map whose maximum stands alone.
    maximum : float, default=None
        What is drawn as 1; larger values are, too. None: the largest value. Maps that are to be
        compared are given the same one.

    Returns
    -------
    ndarray of float64, of the shape of `values`

    Raises
    ------
    ValueError
        If the scale is none of the three, or the maximum is not a number of at least 0.

    Examples
    --------
    >>> from semi_nmf_concepts.report import scaled
    >>> scaled([0.0, 1.0, 4.0], "sqrt").tolist()
    [0.0, 0.5, 1.0]
    >>> scaled([0.0, 1.0, 4.0], maximum=8).tolist()
    [0.0, 0.125, 0.5]
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}.")
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), posinf=0.0, neginf=0.0)
    values = np.maximum(values, 0.0)
    if maximum is None:
        maximum = values.max(initial=0.0)
    elif not (np.isscalar(maximum) and np.isfinite(maximum) and maximum >= 0):
        raise ValueError(f"maximum must be a number of at least 0, or None, got {maximum!r}.")
    if maximum == 0:
        return np.zeros(values.shape)
    shares = np.minimum(values / maximum, 1.0)
    if scale == "sqrt":
        return np.sqrt(shares)
    return np.log1p(_LOG_RANGE * shares) / np.log1p(_LOG_RANGE) if scale == "log" else shares


def overlay(image, density, opacity=0.8, scale="linear", *, maximum=None, colours="heat"):
    """Draw a map over an image.

    Parameters
    ----------
    image : PIL.Image.Image
    density : array-like of shape (height, width)
        The map in pixels, as ``ImageMap.pixels`` and ``PatchGrid.to_pixels`` give it. One of
        another size than the image is enlarged or reduced to it without smoothing.
    opacity : float, default=0.8
        0 shows the image alone, 1 the map as strongly as its colours allow.
    scale : {"linear", "sqrt", "log"}, default="linear"
    maximum : float, default=None
        As :func:`scaled` takes them; None: the largest value of this map. The unit is that of the
        density (value per pixel).
    colours : {"heat", "red", "blue", "spotlight"}, default="heat"
        "heat" darkens the image where the map is low and lights it where it is high; "red" and
        "blue" tint it where it is high; "spotlight" leaves the image as it is where the map is high
        and darkens the rest.

    Returns
    -------
    PIL.Image.Image
        RGB, of the size of the image.

    Raises
    ------
    ValueError
        If the opacity is not in [0, 1], the density has not two dimensions, or a name is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from PIL import Image
    >>> from semi_nmf_concepts.report import overlay
    >>> grey = Image.new("RGB", (4, 2), "grey")
    >>> drawn = overlay(grey, np.eye(2), opacity=1.0, colours="spotlight")
    >>> drawn.size, drawn.getpixel((0, 0)), drawn.getpixel((3, 0))
    ((4, 2), (128, 128, 128), (10, 12, 16))
    """
    from PIL import Image

    density = np.asarray(density, dtype=np.float64)
    if density.ndim != 2 or not density.size:
        raise ValueError(f"density must have the shape (height, width), got {density.shape}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity!r}.")
    if colours not in COLOURS:
        raise ValueError(f"colours must be one of {', '.join(map(repr, COLOURS))}, got {colours!r}")
    image = image.convert("RGB")
    levels = np.rint(255 * scaled(density, scale, maximum)).astype(np.uint8)
    levels = np.asarray(Image.fromarray(levels).resize(image.size, Image.Resampling.NEAREST))
    colour = colour_table(colours)[levels]
    alpha = opacity * colour[..., 3:]
    mixed = alpha * colour[..., :3] + (1 - alpha) * np.asarray(image, dtype=np.float64)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def colour_table(colours):
    """Return red, green, blue (0 to 255) and opacity (0 to 1) at 256 steps, shape (256, 4)."""
    stops = np.array(COLOURS[colours], dtype=np.float64)
    at = np.linspace(0.0, 1.0, 256)
    return np.stack([np.interp(at, stops[:, 0], column) for column in stops[:, 1:].T], axis=1)


def patch_picture(image, box, size=64):
    """Cut a patch out of an image and enlarge it to at most `size` pixels a side.

    Returns
    -------
    PIL.Image.Image or None
        None for a token that stands for no place.
    """
    if not np.isfinite(box).all():
        return None
    # Whole pixels: a filter that reaches beyond them would mix in the patches around.
    left, top, right, bottom = (round(edge) for edge in np.asarray(box) * np.tile(image.size, 2))
    cut = image.convert("RGB").crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    scale = size / max(cut.size)
    return cut.resize(tuple(max(round(side * scale), 1) for side in cut.size))
