"""Finding the alpha at which a chosen mean number of atoms is active."""

import numpy as np

#: The number reached may be off by this share of the target; the search aims closer.
TOLERANCE = 0.10
_AIM = 0.03
#: Bound on the trials; width of the bracket of log(alpha) at which they end; and the share of the
#: upper limit below which alpha is as good as zero.
_MAX_TRIALS = 40
_NARROWEST = 1e-4
_SMALLEST_SHARE = 1e-7


def search_alpha(fit_at, upper, target, start=None):
    """Find alpha in [0, upper] such that ``fit_at(alpha, previous_fit)`` has `target` active atoms.

    The mean number of active atoms falls (on the whole) as alpha grows. A bracket of log(alpha) is
    narrowed by interpolation that stays clear of its ends, after growing steps towards an end that
    was not seen yet. Each fit continues from the last one.

    Parameters
    ----------
    fit_at : callable
        ``fit_at(alpha, previous) -> (fit, n_active)``; `previous` is a fit or None.
    upper : float
        An alpha at which nothing is active.
    target : float
    start : float, optional
        First alpha to try; a tenth of `upper` by default.

    Returns
    -------
    alpha, fit, n_active
        Of the trial closest to the target.
    """
    low, high = np.log(upper * _SMALLEST_SHARE), np.log(upper)
    low_active = high_active = None  # the numbers seen at the ends of the bracket
    position = np.log(start) if start else np.log(0.1 * upper)
    step = 1.0
    best = previous = None
    for _ in range(_MAX_TRIALS):
        alpha = float(np.exp(position))
        previous, n_active = fit_at(alpha, previous)
        if best is None or abs(n_active - target) < abs(best[2] - target):
            best = alpha, previous, n_active
        if abs(n_active - target) <= _AIM * target:
            break
        if n_active > target:
            low, low_active = position, n_active
        else:
            high, high_active = position, n_active
        if high - low < _NARROWEST:
            break
        if low_active is None:
            position = max(high - step, low)
        elif high_active is None:
            position = min(low + step, high)
        else:
            share = (low_active - target) / (low_active - high_active)
            position = low + np.clip(share, 0.15, 0.85) * (high - low)
        step *= 2.0
    return best
