"""Without a penalty there is a best dictionary in closed form, if the samples share a direction.

At alpha = 0 no dictionary of K atoms explains more than the K leading singular directions do. All
of that is explained as soon as every sample, seen in these directions, is a non-negative
combination of the atoms: as soon as the samples lie in the cone of the atoms. Hidden states share a
large offset, so that they lie around one ray, and K atoms around that ray, apart far enough, span
such a cone.
"""

import numpy as np
from scipy.linalg import helmert

from .._arrays import as_float64, like
from .._init import leading_directions

#: Widest cone, by precision: codes grow with its width, and so does rounding.
_WIDEST = {"float32": 100.0, "float64": 1e4}


def cone_dictionary(problem, n_components, random_state):
    """Atoms whose cone holds the samples, or as many of them as a cone of bounded width can.

    Returns
    -------
    U : (n_components, n_features) array, float64; fewer rows where X has a lower rank
    bound : float
        What F is at least, for all dictionaries of this size at alpha = 0.
    """
    xp, X = problem.xp, problem.X
    values, directions = leading_directions(X, n_components, random_state)
    bound = 0.5 * max(problem.squared_norm - float(xp.sum(values**2)), 0.0)
    scores = as_float64(X @ xp.astype(directions.T, X.dtype))
    along, aside = scores[:, 0], xp.linalg.vector_norm(scores[:, 1:], axis=1)
    if float(xp.sum(along)) < 0.0:
        along, directions = -along, -directions
    n_atoms = directions.shape[0]
    if n_atoms == 1:
        return directions, bound
    # The samples lie within this angle (its tangent) of the ray; a simplex holds a ball around
    # its centre whose radius is its own divided by its dimension.
    inside = along > 0.0
    spread = xp.where(inside, aside / xp.where(inside, along, 1.0), xp.inf)
    widest = _WIDEST["float32" if X.dtype == xp.float32 else "float64"]
    width = min((n_atoms - 1) * float(xp.max(spread)), widest)
    simplex = helmert(n_atoms).T * np.sqrt(n_atoms / (n_atoms - 1))
    corners = np.column_stack([np.ones(n_atoms), width * simplex])
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    return like(corners, directions) @ directions, bound
