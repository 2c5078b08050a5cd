"""Places of the nodes of a causal graph, in rings around the target."""

import math


def arrange(rings):
    """Place nodes on rings around the target.

    Parameters
    ----------
    rings : sequence of int or None
        Distance of each node from the target (0: the target itself); None: outside all rings.

    Returns
    -------
    list of (float, float)
        Rings are at least 1.4 apart, and far enough out that neighbours on a ring are at least 1
        apart.

    Examples
    --------
    >>> arrange([1, 0])
    [(0.0, -1.4), (0.0, 0.0)]
    """
    places, distance = [(0.0, 0.0)] * len(rings), 0.0
    levels = sorted({ring for ring in rings if ring})
    levels += [None] if None in rings else []
    for level, ring in enumerate(levels):
        members = [i for i, one in enumerate(rings) if one == ring]
        apart = 1.1 / (2 * math.sin(math.pi / len(members))) if len(members) > 1 else 0.0
        distance = max(distance + 1.4, apart)
        for k, i in enumerate(members):
            # Turned by the golden angle, so that no more edges than need be lie on each other.
            angle = 2 * math.pi * k / len(members) - math.pi / 2 + 2.4 * level
            x, y = distance * math.cos(angle), distance * math.sin(angle)
            places[i] = (round(x, 6) + 0.0, round(y, 6) + 0.0)
    return places
