"""Geometry of the small inline drawings, in the units of their SVG view boxes."""

import numpy as np

from ._text import auroc, interval, is_number, number

# View box of a histogram: 240 wide, bars stand on y = 56, marks below.
_HIST_WIDTH, _HIST_HEIGHT, _HIST_BINS = 240.0, 56.0, 30
# View box of an AUROC bar: AUROC 0.5 at x = 2, AUROC 1 at x = 102.
_AUROC_LEFT, _AUROC_WIDTH = 2.0, 100.0
# View box of a curve: 240 wide, its limits at y = 110 (low) and y = 4 (high).
_CURVE_WIDTH, _CURVE_LOW, _CURVE_HIGH = 240.0, 110.0, 4.0


def histogram(values, marks=()):
    """Lay out the histogram of one concept's activations.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Activations of all samples. Zeros are left out when nothing is negative: for sparse codes
        they are most of the samples and would flatten all other bars.
    marks : sequence of float
        Activations to mark below the axis (those of the images shown).

    Returns
    -------
    shape : dict or None
        ``bars``, ``ticks``, ``low``, ``high``, ``label``; None where there is nothing to draw.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    signed = bool((values < 0).any())
    drawn = values if signed else values[values > 0]
    if drawn.size == 0:
        return None
    # Sparse codes start at zero; dense ones (distances) would waste the axis.
    low = 0.0 if not signed and drawn.size < values.size else float(drawn.min())
    high = float(drawn.max())
    span = high - low or 1.0
    # Binned by hand: np.histogram refuses ranges that are too narrow for their floating-point type.
    cells = np.minimum(((drawn - low) / span * _HIST_BINS).astype(int), _HIST_BINS - 1)
    counts = np.bincount(cells, minlength=_HIST_BINS)
    step = _HIST_WIDTH / _HIST_BINS
    heights = counts / counts.max() * (_HIST_HEIGHT - 2)
    bars = [
        {
            "x": round(i * step + 0.5, 2),
            "y": round(_HIST_HEIGHT - max(height, 1.2), 2),
            "w": round(step - 1, 2),
            "h": round(max(height, 1.2), 2),  # a single sample among thousands stays visible
        }
        for i, height in enumerate(heights)
        if counts[i]
    ]
    ticks = [(float(mark) - low) / span * _HIST_WIDTH for mark in marks if is_number(mark)]
    which = "" if signed else " above zero"
    limits = f"from {number(low)} to {number(high)}"
    return {
        "bars": bars,
        "ticks": sorted({round(min(max(tick, 3.0), _HIST_WIDTH - 3), 1) for tick in ticks}),
        "low": number(low),
        "high": number(high),
        "label": f"Histogram of {drawn.size} activations{which}, {limits}",
    }


def auroc_bar(value, low=None, high=None):
    """Lay out an AUROC and its interval on the scale from chance (0.5) to perfect (1)."""

    def place(score):
        return _AUROC_LEFT + _AUROC_WIDTH * (min(max(float(score), 0.5), 1.0) - 0.5) / 0.5

    known = is_number(low) and is_number(high)
    limits = f", interval {interval(low, high)}" if known else ""
    return {
        "dot": round(place(value), 1) if is_number(value) else _AUROC_LEFT,
        "x": round(place(low), 1) if known else None,
        "width": round(max(place(high) - place(low), 0.0), 1) if known else None,
        "label": f"AUROC {auroc(value)}{limits}",
    }


def strengths(scores, n_levels=5):
    """Grade word scores from `n_levels` (the strongest) down to 1.

    Scores are compared with the best one; where some are negative, with the range that they span.

    >>> strengths([8.0, 6.0, 1.0]), strengths([1.0, -1.0]), strengths([])
    ([5, 4, 1], [5, 1], [])
    """
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64))
    if scores.size == 0:
        return []
    low = min(float(scores.min()), 0.0)
    span = float(scores.max()) - low
    part = (scores - low) / span if span > 0 else np.ones_like(scores)
    return [int(level) for level in np.clip(np.ceil(part * n_levels), 1, n_levels)]


def curve(x, y, limits):
    """Lay out a curve over [0, 1] as the points of an SVG polyline; unknown values are left out.

    >>> curve([0.0, 0.5, 1.0], [1.0, float("nan"), 0.0], (0.0, 1.0))
    '0.0,4.0 240.0,110.0'
    """
    low, high = limits
    shares = (np.asarray(y, dtype=np.float64) - low) / (high - low)
    across = np.asarray(x, dtype=np.float64) * _CURVE_WIDTH
    down = _CURVE_LOW + shares * (_CURVE_HIGH - _CURVE_LOW)
    known = np.isfinite(across) & np.isfinite(down)
    points = zip(across[known].round(1), down[known].round(1), strict=True)
    return " ".join(f"{a},{b}" for a, b in points)
