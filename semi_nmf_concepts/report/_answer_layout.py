"""Places of the nodes of a causal graph, in rings around the target, and the ways of its edges.

Figures and the page draw the same layout. An edge is straight unless it would touch a node between
its ends: then it would look like two edges of that node, and is bent around it.
"""

import math

import numpy as np

NODE = 0.34  # half the size of a node, in units of the layout
_GAP = 0.1  # between a node and the edges that pass it
_SPREADS = (1.0, 1.25, 1.6, 2.0, 2.6, 3.4)


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
        # Two stand at corners of a triangle, not opposite each other with the target between them.
        step = 2 * math.pi / max(len(members), 3)
        for k, i in enumerate(members):
            # Turned by the golden angle, so that no more edges than need be lie on each other.
            angle = step * k - math.pi / 2 + 2.4 * level
            x, y = distance * math.cos(angle), distance * math.sin(angle)
            places[i] = (round(x, 6) + 0.0, round(y, 6) + 0.0)
    return places


def lay_out(rings, edges, halves=None, stretch=1.0):
    """Place nodes and find a way for each edge that touches no third node.

    Parameters
    ----------
    rings : sequence of int or None
        As :func:`arrange` takes them.
    edges : sequence of (int, int)
        Indices of nodes.
    halves : array-like of shape (n, 2), default=None
        Half the width and height that each node is drawn with; None: those of a square of
        half the size ``NODE``.
    stretch : float, default=1.0
        How much wider than high the rings are.

    Returns
    -------
    places : list of (float, float)
        Those of :func:`arrange`, farther apart where nodes or edges would touch otherwise.
    controls : list of (float, float)
        For each edge, the control point of the quadratic curve between its nodes' centres; the
        middle between them where the edge is straight.

    Examples
    --------
    The edge between nodes on both sides of the target goes around it:

    >>> places, controls = lay_out([1, 1, 1, 1, 0], [(0, 2), (0, 1)])
    >>> abs(controls[0][0]) > 1, controls[1]
    (True, (0.7, -0.7))
    """
    n = len(rings)
    halves = np.full((n, 2), NODE) if halves is None else np.asarray(halves, dtype=np.float64)
    rooms = halves + _GAP
    base = np.array(arrange(rings), dtype=np.float64).reshape(-1, 2) * (stretch, 1.0)
    for spread in _SPREADS:
        places, controls = spread * base, []
        clear = _apart(places, halves)
        for i, j in edges:
            if not clear and spread != _SPREADS[-1]:
                break  # farther apart, then
            control, found = _way(places, rooms, i, j)
            controls.append(control)
            clear = clear and found
        if clear:
            break
    return [_point(place) for place in places], [_point(control) for control in controls]


def points_of(start, control, end, n=97):
    """Points of quadratic curves, shape (..., n, 2), at evenly spread parameters from 0 to 1."""
    t = np.linspace(0.0, 1.0, n)[:, None]
    start, control, end = (np.asarray(p, float)[..., None, :] for p in (start, control, end))
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def _way(places, rooms, i, j):
    """The control point of the least bent curve that touches no third node; whether there is one"""
    a, b = places[i], places[j]
    middle, along = (a + b) / 2, b - a
    length = float(np.hypot(*along)) or 1.0
    others = np.delete(np.arange(len(places)), [i, j])
    if not len(others):
        return middle, True
    if _clearance(points_of(a, middle, b)[None], places[others], rooms[others])[0] >= 1:
        return middle, True
    along = along / length
    across = np.array([-along[1], along[0]])
    reach = 2.2 * (np.abs(places).max() + 1)
    bends = np.arange(0.3, reach, 0.3)
    aside, forth = np.meshgrid(np.concatenate([bends, -bends]), length * np.linspace(-0.4, 0.4, 5))
    order = np.argsort((np.abs(aside) + np.abs(forth)).ravel(), kind="stable")
    aside, forth = aside.ravel()[order], forth.ravel()[order]
    controls = middle + aside[:, None] * across + forth[:, None] * along
    best, most = middle, 0.0
    for some in np.array_split(controls, max(len(controls) // 12, 1)):  # most need a small bend
        clear = _clearance(points_of(a, some, b), places[others], rooms[others])
        first = int(np.argmax(clear >= 1)) if (clear >= 1).any() else int(np.argmax(clear))
        if clear[first] > most:
            best, most = some[first], clear[first]
        if most >= 1:
            break
    return best, bool(most >= 1)


def _clearance(curves, centres, rooms):
    """Of each curve (..., points, 2), how near it comes to nodes; below 1: into their rooms."""
    away = np.abs(curves[..., None, :] - centres) / rooms
    return away.max(axis=-1).min(axis=(-2, -1))


def _apart(places, halves):
    """Whether no two nodes overlap."""
    away = np.abs(places[:, None] - places) / (halves[:, None] + halves)
    return bool((away.max(axis=-1) + 2 * np.eye(len(places)) > 1).all())


def _point(values):
    return tuple(round(float(value), 4) + 0.0 for value in values)
