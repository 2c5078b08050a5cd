"""Codes of many samples at once by active-set steps, written for any array namespace.

A device is fast when it does the same to many samples. So a round takes all samples that are not
done: gradients by one matrix product, then exact minima over small faces (the active codes and
those that gain most by becoming active) by batched linear solves. Each round is some tens of kernel
launches, whatever it does; this takes about as many as atoms enter one after the other.
"""

from array_api_compat import device

from .._objective import row_blocks

#: A code enters the face when its gradient is at least this share of the sample's worst one. More
#: at once saves little: of correlated atoms the first ones make the others superfluous.
_ENTRY_SHARE = 0.7
#: A face counts as settled when no gradient on it is above this share of the sample's worst one.
_SETTLED_SHARE = 1e-3
#: Added to the diagonal, which is near 1, of a face's Gram matrix for every code on the face (a few
#: roundings): linearly dependent atoms then give long steps, which bounds cut short, in place of
#: divisions by zero. Ten times more, and steps along nearly dependent atoms get short.
_RIDGE = 2.5e-15
#: A row is given up after this many rounds, and one more per atom, without a new lowest violation:
#: what is left is rounding (codes of nearly dependent atoms can be huge).
_PATIENCE = 20
#: Size of the smallest batch of faces; each next one holds faces up to twice as large.
_SMALLEST_FACE = 4


def solve_codes(xp, C, G, sizes, alpha, V, *, tol, max_rounds, batch_floats, banned=None):
    """Minimise ``1/2 v G v - c v + sum_k v_k alpha / sizes_k``, v >= 0, for every row c of C.

    Parameters
    ----------
    xp : namespace of array_api_compat
    C : (n, K) array, float64, finite
        Correlations of the samples with the scaled atoms ``u_k / sizes_k``.
    G : (K, K) array, float64
        Gram matrix of the scaled atoms; its diagonal is near 1.
    sizes : (K,) array, float64
        Positive; 0 for an atom that is not to be used.
    alpha : float
    V : (n, K) array, float64
        Starting codes of the scaled atoms, finite and non-negative.
    tol : float
        A row is done when its largest projected gradient, times the atom's size, is at most
        ``tol * max_k |c_k sizes_k|``.
    max_rounds : int
    batch_floats : int
        Bound on the floats in one batch of linear systems.
    banned : (n,) array of integers, default=None
        For every row an atom that stays out; its starting code is 0.

    Returns
    -------
    V : (n, K) array, float64
    violation : (n,) array, float64
        What is compared with tol.
    """
    unscaled = C * sizes
    scale = xp.max(xp.abs(unscaled), axis=1)
    scale = xp.where(scale > 0.0, scale, 1.0)
    violation = xp.max(unscaled, axis=1) / scale - alpha / scale  # of zero codes
    violation = xp.where(violation > 0.0, violation, 0.0)
    samples = xp.nonzero(violation > tol)[0]
    V = xp.where((violation > tol)[:, None], V, 0.0)
    rows = _Rows.build(xp, samples, scale[samples], C[samples], sizes, alpha, V[samples])
    if banned is not None:
        rows.b[xp.arange(samples.shape[0], device=device(C)), banned[samples]] = -xp.inf
    G, sizes = _padded_atoms(xp, G, sizes)
    for left in range(max_rounds, -1, -1):
        g = rows.v @ G - rows.b
        gradients = xp.where(rows.v > 0.0, xp.abs(g), xp.where(g < 0.0, -g, 0.0))
        worst = xp.max(gradients * sizes, axis=1)
        violation[rows.samples] = worst
        going_on = (worst > tol) & rows.still_improve(xp, worst)
        kept = xp.nonzero(going_on)[0]
        if kept.shape[0] < worst.shape[0]:
            rows.store(V, xp.nonzero(~going_on)[0])
            rows, g, gradients = rows.take(kept), g[kept], gradients[kept]
        if kept.shape[0] == 0 or left == 0:
            break
        face = _faces(xp, rows, gradients)
        _minimise_on_faces(xp, G, rows, g, face, batch_floats)
    rows.store(V, slice(None))
    return V, violation


class _Rows:
    """Rows that are not done, in units of their largest correlation: ``1/2 v G v - b v``.

    There is one code more than atoms, which stays zero: faces are padded with it. Rows turn
    `careful` when a step on their face did not end in its minimum; `age` counts the rounds since
    the `lowest` violation.
    """

    def __init__(self, samples, scale, v, b, careful, lowest, age):
        self.samples, self.scale, self.v, self.b = samples, scale, v, b
        self.careful, self.lowest, self.age = careful, lowest, age

    @classmethod
    def build(cls, xp, samples, scale, C, sizes, alpha, V):
        scale = scale[:, None]
        usable = sizes > 0.0
        price = alpha / xp.where(usable, sizes, 1.0)
        b = xp.where(usable, (C - price) / scale, -1.0)
        nothing = xp.zeros_like(scale)
        v = xp.concat([V / scale, nothing], axis=1)
        b = xp.concat([b, nothing], axis=1)
        return cls(samples, scale, v, b, scale[:, 0] < 0.0, nothing[:, 0] + xp.inf, 0 * samples)

    def take(self, kept):
        return _Rows(*(values[kept] for values in vars(self).values()))

    def still_improve(self, xp, violation):
        self.age = xp.where(violation < self.lowest, 0, self.age + 1)
        self.lowest = xp.where(violation < self.lowest, violation, self.lowest)
        return self.age <= _PATIENCE + self.v.shape[1]

    def store(self, V, which):
        V[self.samples[which]] = self.v[which][:, :-1] * self.scale[which]


def _padded_atoms(xp, G, sizes):
    """Gram matrix and sizes with an atom more, orthogonal to all others and of size 0."""
    column = xp.zeros_like(sizes)[:, None]
    G = xp.concat([G, column], axis=1)
    G = xp.concat([G, xp.zeros_like(G[:1, :])], axis=0)
    G[-1, -1] = 1.0
    return G, xp.concat([sizes, column[0, :]])


def _faces(xp, rows, gradients):
    """The codes to minimise over next: those that are active and some that want to be.

    For careful rows at most one enters, and only once the face is settled. From there the way to
    the face's minimum leads downhill and inwards, so that the method cannot go in circles.
    """
    is_active = rows.v > 0.0
    worst = xp.max(gradients, axis=1, keepdims=True)
    on_face = xp.max(xp.where(is_active, gradients, 0.0), axis=1, keepdims=True)
    careful_entry = (gradients >= worst) & (on_face <= _SETTLED_SHARE * worst)
    entry = xp.where(rows.careful[:, None], careful_entry, gradients >= _ENTRY_SHARE * worst)
    return is_active | entry


def _minimise_on_faces(xp, G, rows, g, face, batch_floats):
    """One step for every row; faces of similar size go together."""
    count = xp.sum(xp.astype(face, xp.int64), axis=1)
    largest = int(xp.max(count))
    smaller, size = 0, _SMALLEST_FACE
    while smaller < largest:
        size = min(size, face.shape[1] - 1)
        members = xp.nonzero((count > smaller) & (count <= size))[0]
        for batch in row_blocks(members.shape[0], max(1, batch_floats // size**2)):
            chosen = members[batch]
            where = (chosen[:, None], _positions(xp, face[chosen], size))
            rows.v[where], settled = _face_step(xp, G, rows.v[where], g[where], where[1])
            rows.careful[chosen] = rows.careful[chosen] | ~settled
        smaller, size = size, 2 * size


def _positions(xp, face, size):
    """The columns of every row's face, (n, size), padded with the last column."""
    count = xp.sum(xp.astype(face, xp.int64), axis=1)
    first = xp.cumulative_sum(count) - count
    row, column = xp.nonzero(face)
    place = xp.arange(row.shape[0], device=device(face)) - first[row]
    padding = face.shape[1] - 1
    positions = xp.full((face.shape[0], size), padding, dtype=xp.int64, device=device(face))
    positions[row, place] = column
    return positions


def _face_step(xp, G, v, g, positions):
    """New codes on the faces, and the rows whose codes are the minimum over what stayed active."""
    H = G[positions[:, :, None], positions[:, None, :]]
    free = positions < G.shape[0] - 1
    z = v - _solve(xp, H, free, g)
    settled = xp.min(z, axis=1) >= 0.0
    hard = xp.nonzero(~settled)[0]
    if hard.shape[0]:
        z[hard], settled[hard] = _bounded_step(xp, H[hard], v[hard], g[hard], z[hard], free[hard])
    return z, settled


def _solve(xp, H, free, right):
    """Solutions of the systems that H makes of its free rows and columns; 0 elsewhere."""
    size = H.shape[1]
    identity = xp.eye(size, dtype=H.dtype, device=device(H))
    H = xp.where(free[:, :, None] & free[:, None, :], H, identity) + size * _RIDGE * identity
    return xp.linalg.solve(H, xp.where(free, right, 0.0)[:, :, None])[:, :, 0]


def _bounded_step(xp, H, v, g, z, free):
    """A step downhill where the minimum z over the face has negative codes.

    The better one of two: the minimum over the codes that are positive in z (cut off at zero), or
    towards z as far as the first bound. Where neither leads down, the best single code is moved:
    that always does, so that no row ever stands still.
    """
    direction = z - v
    right = xp.where(free, (H @ v[:, :, None])[:, :, 0] - g, 0.0)
    reduced = _solve(xp, H, free & (z > 0.0), right)
    reduced = xp.where(reduced > 0.0, reduced, 0.0)
    blocking = direction < 0.0
    lengths = xp.where(blocking, v / xp.where(blocking, -direction, 1.0), xp.inf)
    length = xp.min(lengths, axis=1, keepdims=True)
    bounded = v + xp.where(length < 1.0, length, 1.0) * direction
    bounded = xp.where((lengths > length) & (bounded > 0.0), bounded, 0.0)
    single = _best_single_step(xp, H, v, g)
    steps = xp.stack([reduced - v, bounded - v, single], axis=2)
    change = xp.sum(steps * (g[:, :, None] + 0.5 * (H @ steps)), axis=1)
    best = xp.where(change[:, 1] < change[:, 0], 1, 0)
    falls = xp.min(change[:, :2], axis=1) < 0.0
    best = xp.where(falls, best, 2)
    ways = xp.stack([reduced, bounded, v + single], axis=1)
    chosen = ways[xp.arange(v.shape[0], device=device(v)), best]
    return xp.where(chosen > 0.0, chosen, 0.0), best == 0


def _best_single_step(xp, H, v, g):
    """The exact coordinate step (all other codes fixed) that lowers the objective most."""
    curvature = xp.linalg.diagonal(H)
    target = v - g / curvature
    step = xp.where(target > 0.0, target, 0.0) - v
    change = step * (g + 0.5 * curvature * step)
    best = xp.argmin(change, axis=1)
    is_best = xp.arange(v.shape[1], device=device(v))[None, :] == best[:, None]
    return xp.where(is_best, step, 0.0)
