"""Changing the atoms of a dictionary: adding those that help most, dropping those that help least.

Alternating minimisation keeps to the basin it starts in: two atoms that share one job never part,
and a direction that no atom explains stays so. Atoms chosen by what the others leave over, and
dropped by what it costs to do without them, are how a fit starts and how it leaves such points.
"""

import numpy as np

from .._arrays import as_float64, kind_of, like

#: Candidates for new atoms: so many for each one wanted, and at least.
_CANDIDATES_PER_ATOM, _MIN_CANDIDATES = 4, 32
#: Atoms this alike may replace each other, so that only one of them is dropped at a time.
_ALIKE = 0.3


def new_atoms(residual, alpha, n_atoms, random_state):
    """At most `n_atoms` unit vectors that lower F much when they join the dictionary.

    With all other codes fixed, sample i gives a new atom u the code ``max(0, r_i . u - alpha)`` and
    F falls by half its square. Directions of residuals are drawn with probability proportional to
    what they would gain for themselves; of these, those are taken one by one that add most, a
    sample counting for the best atom it has. Fewer are returned where no other gains anything.

    Returns
    -------
    (n, n_features) array, float64
    """
    xp = kind_of(residual).xp
    norms = xp.linalg.vector_norm(residual, axis=1)
    own_gain = xp.clip(norms - alpha, min=0.0) ** 2
    n_candidates = max(_MIN_CANDIDATES, _CANDIDATES_PER_ATOM * n_atoms)
    candidates = _draw(own_gain, n_candidates, random_state)
    directions = residual[candidates] / norms[candidates][:, None]
    gains = xp.clip(residual @ directions.T - alpha, min=0.0) ** 2
    best = xp.zeros_like(norms)
    chosen = []
    for _ in range(min(n_atoms, directions.shape[0])):
        added = xp.sum(xp.clip(gains - best[:, None], min=0.0), axis=0)
        k = int(xp.argmax(added))
        if not float(added[k]) > 0.0:
            break
        chosen.append(k)
        best = xp.maximum(best, gains[:, k])
    return as_float64(directions[like(np.array(chosen, dtype=np.int64), residual)])


def _draw(weights, n, random_state):
    """Indices of at most n entries, drawn without replacement by weight; never one of weight 0."""
    xp = kind_of(weights).xp
    # The smallest of exponential waiting times with these rates are such a draw.
    waiting = like(random_state.exponential(size=weights.shape[0]), weights)
    positive = weights > 0.0
    rate = xp.where(positive, as_float64(weights), 1.0)
    waiting = xp.where(positive, waiting / rate, xp.inf)
    n = min(n, int(xp.sum(xp.astype(positive, xp.int64))))
    return xp.argsort(waiting)[:n]


def cheapest_atoms(U, costs, n_atoms):
    """Indices of the atoms to drop: lowest costs first, but of those alike only one at a time.

    The cost of an atom counts on the others; where two can stand in for each other, both are cheap
    and one is needed. So there may be fewer than asked for, at least one.
    """
    xp = kind_of(U).xp
    norms = xp.linalg.vector_norm(U, axis=1)
    cosines = U @ U.T / xp.clip(norms[:, None] * norms[None, :], min=1e-300)
    blocked = xp.zeros(U.shape[0], dtype=xp.bool, device=kind_of(U).device)
    dropped = []
    for k in np.argsort(costs, kind="stable"):
        if len(dropped) == n_atoms:
            break
        if not dropped or not bool(blocked[int(k)]):
            dropped.append(int(k))
            blocked = blocked | (cosines[int(k)] > _ALIKE)
    return dropped
