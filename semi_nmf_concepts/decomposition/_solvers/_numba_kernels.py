"""Compiled kernels over blocks of rows: codes, sums for the dictionary update, moments.

Importing this module imports numba; the rest of the package does so only when a solver runs.
"""

import numpy as np

from ..._compile import compiled, inlined
from ._coordinate_descent import descend
from ._lawson_hanson import MAX_ACTIVE, solve_active_set


@compiled
def _row_maxima(bits, sign_mask):
    """Largest entry and largest absolute entry of a row, as bit patterns (see `_steepest`)."""
    largest = bits[0]
    absolute = bits[0] & sign_mask
    for k in range(bits.shape[0]):
        largest = max(largest, bits[k])
        absolute = max(absolute, bits[k] & sign_mask)
    return largest, absolute


@compiled
def _gather(V, i, support, v):
    """Indices and values of the positive codes of row i, as many as there is room for."""
    m = 0
    for k in range(V.shape[1]):
        if V[i, k] > 0.0:
            if m < MAX_ACTIVE:
                support[m] = k
                v[m] = V[i, k]
            m += 1
    return m


@compiled
def _scatter(V, i, m, support, v):
    """Row i of V from m indices and values."""
    for k in range(V.shape[1]):
        V[i, k] = 0.0
    for j in range(m):
        V[i, support[j]] = v[j]


@inlined
def _solve_row(
    V, i, c, alpha, G, G_fine, threshold, max_sweeps,
    support, v, scratch, descent, descent_bits, index_mask,
):  # fmt: skip
    """Codes of one sample into row i of V, from those there; how many, and the gradient left."""
    m = _gather(V, i, support, v)
    largest = 0.0
    if m <= MAX_ACTIVE:
        m, largest = solve_active_set(
            m, v, support, c, alpha, G, G_fine, threshold,
            scratch, descent, descent_bits, index_mask,
        )  # fmt: skip
    else:
        m = -1
    if m >= 0:
        _scatter(V, i, m, support, v)
    else:
        largest = _descend_row(c, G_fine, alpha, V[i], threshold, max_sweeps)
        m = np.count_nonzero(V[i])
    return m, largest


@compiled
def encode_rows(C, C_bits, G, G_fine, alpha, V, tol, max_sweeps, index_mask, infinity):
    """Minimise ``1/2 v G v - c v + alpha sum(v)`` over ``v >= 0`` for every row of C, in place.

    Parameters
    ----------
    C : (n, P) array
        Correlations of the samples with the atoms, filled up with zeros from K to P columns.
    C_bits : (n, P) array of integers
        The same memory.
    G, G_fine : (K, P) and (K, K) arrays
        Gram matrix of the atoms in the dtype of C (filled up) and in float64.
    alpha : scalar of the dtype of C
    V : (n, K) array
        Starting codes on entry (clipped at zero), the solution on return; rows of NaN where C has
        entries that are not finite.
    tol : float
        A row is done when its largest projected gradient is at most ``tol * max_k |c_k|``.
    max_sweeps : int
        Bound on the coordinate descent passes over one row.
    index_mask, infinity : integers of the dtype of C_bits
        Ones in the bits that an index needs; the bit pattern of infinity.

    Returns
    -------
    n_unconverged : int
        Number of rows that were left above the tolerance.
    n_active : int
        Number of positive codes.
    violation : float
        Largest gradient left, relative as above; NaN where C has entries that are not finite.
    """
    maximum = np.empty(2, C.dtype)
    maximum_bits = maximum.view(C_bits.dtype)
    descent = np.empty(C.shape[1], C.dtype)
    descent_bits = descent.view(C_bits.dtype)
    support = np.empty(MAX_ACTIVE + 1, np.int64)
    v = np.empty(MAX_ACTIVE + 1)
    one = MAX_ACTIVE + 1
    scratch = (np.empty((one, one)), np.empty(one), np.empty(one), np.empty(one))
    n_unconverged = 0
    n_active = 0
    violation = 0.0
    finite = True
    for i in range(C.shape[0]):
        maximum_bits[0], maximum_bits[1] = _row_maxima(C_bits[i], infinity | (infinity - 1))
        if maximum_bits[1] >= infinity:
            V[i, :] = np.nan
            finite = False
            continue
        if not maximum[0] > alpha:  # no atom earns its price
            _scatter(V, i, 0, support, v)
            continue
        c = C[i]
        scale = np.float64(maximum[1])
        # `_solve_row` written out: as a function it makes the whole pass a tenth slower.
        m = _gather(V, i, support, v)
        largest = 0.0
        if m <= MAX_ACTIVE:
            m, largest = solve_active_set(
                m, v, support, c, alpha, G, G_fine, tol * scale,
                scratch, descent, descent_bits, index_mask,
            )  # fmt: skip
        else:
            m = -1
        if m >= 0:
            _scatter(V, i, m, support, v)
            n_active += m
        else:
            largest = _descend_row(c, G_fine, alpha, V[i], tol * scale, max_sweeps)
            n_unconverged += largest > tol * scale
            n_active += np.count_nonzero(V[i])
        violation = max(violation, largest / scale)
    return n_unconverged, n_active, violation if finite else np.nan


@compiled
def _descend_row(c, G, alpha, codes, threshold, max_sweeps):
    """`descend` for one row, in float64; allocates, which is little beside its work."""
    n_components = codes.shape[0]
    v = codes.astype(np.float64)
    gradient = np.empty(n_components)
    direction = np.empty(n_components)
    active = np.empty(n_components, np.int64)
    factor = np.empty((n_components, n_components))
    largest = descend(
        v, c.astype(np.float64), G, np.float64(alpha), threshold, max_sweeps,
        gradient, active, factor, direction,
    )  # fmt: skip
    for k in range(n_components):
        codes[k] = v[k]
    return largest


@compiled
def accumulate_rows(X, V, A, B, B_block):
    """Add V^T V to A and V^T X to B, visiting active codes alone; returns sum(V).

    B_block (the shape of B, the dtype of X) collects the block, so that float32 sums stay short.
    """
    n_components = V.shape[1]
    active = np.empty(n_components, np.int64)
    total = 0.0
    B_block[:] = 0.0
    for i in range(X.shape[0]):
        m = 0
        for k in range(n_components):
            if V[i, k] > 0.0:
                active[m] = k
                m += 1
        row = X[i]
        for a in range(m):
            k = active[a]
            value = V[i, k]
            total += value
            for b in range(m):
                A[k, active[b]] += np.float64(value) * np.float64(V[i, active[b]])
            out = B_block[k]
            for j in range(row.shape[0]):
                out[j] += value * row[j]
    for k in range(n_components):
        for j in range(X.shape[1]):
            B[k, j] += B_block[k, j]
    return total


@compiled
def add_moments(X, column_sums, row_norms):
    """Add the rows of X to `column_sums`, and set their Euclidean norms."""
    for i in range(X.shape[0]):
        row = X[i]
        square = 0.0
        # Four at a time: a single running sum would be a chain of dependent additions.
        s0 = s1 = s2 = s3 = 0.0
        n_whole = row.shape[0] - row.shape[0] % 4
        for j in range(0, n_whole, 4):
            x0, x1 = np.float64(row[j]), np.float64(row[j + 1])
            x2, x3 = np.float64(row[j + 2]), np.float64(row[j + 3])
            s0 += x0 * x0
            s1 += x1 * x1
            s2 += x2 * x2
            s3 += x3 * x3
        for j in range(n_whole, row.shape[0]):
            square += np.float64(row[j]) * np.float64(row[j])
        row_norms[i] = np.sqrt(square + s0 + s1 + s2 + s3)
        for j in range(row.shape[0]):
            column_sums[j] += row[j]


@compiled
def update_atoms(U, R, A, start, stop, unused):
    """Cyclic block coordinate steps over the atoms ``start <= k < stop``, in place.

    R (stop - start, d) holds ``B - A U`` for these atoms at the U given; it is kept up to date
    within them as they move.
    """
    n_features = U.shape[1]
    step = np.empty(n_features)
    for k in range(start, stop):
        if not A[k, k] > unused:
            continue
        square = 0.0
        atom = U[k]
        residual = R[k - start]
        scale = 1.0 / A[k, k]
        for j in range(n_features):
            step[j] = residual[j] * scale
            new = atom[j] + step[j]
            square += new * new
        shrink = 1.0 / max(np.sqrt(square), 1.0)
        for j in range(n_features):
            new = (atom[j] + step[j]) * shrink
            step[j] = new - atom[j]
            atom[j] = new
        for other in range(k + 1, stop):
            weight = A[other, k]
            if weight != 0.0:
                row = R[other - start]
                for j in range(n_features):
                    row[j] -= weight * step[j]


@compiled
def add_removal_costs(C, C_bits, G, G_fine, alpha, V, tol, max_sweeps, index_mask, costs):
    """Add to costs[k] by how much the rows' objective rises without atom k.

    V holds the codes of the rows (close to optimal). The rows that use atom k are coded again
    without it, starting from their other codes. C is used as scratch and restored.
    """
    n_components = V.shape[1]
    descent = np.empty(C.shape[1], C.dtype)
    descent_bits = descent.view(C_bits.dtype)
    active = np.empty(n_components, np.int64)
    support = np.empty(MAX_ACTIVE + 1, np.int64)
    v = np.empty(MAX_ACTIVE + 1)
    one = MAX_ACTIVE + 1
    scratch = (np.empty((one, one)), np.empty(one), np.empty(one), np.empty(one))
    codes = np.empty((1, n_components), V.dtype)
    for i in range(C.shape[0]):
        c = C[i]
        scale = 0.0
        for k in range(n_components):
            scale = max(scale, abs(c[k]))
        n_active = 0
        with_all = 0.0
        # First with all atoms, which yields the active ones, then without each of these.
        a = -1
        while a < n_active:
            for k in range(n_components):
                codes[0, k] = V[i, k]
            banned = -1
            if a >= 0:
                banned = active[a]
                codes[0, banned] = 0.0
                correlation = c[banned]
                c[banned] = -np.inf  # it never enters
            _solve_row(
                codes, 0, c, alpha, G, G_fine, tol * scale, max_sweeps,
                support, v, scratch, descent, descent_bits, index_mask,
            )  # fmt: skip
            # At the minimum over the active set F is ||x||^2 / 2 less this.
            gain = 0.0
            for k in range(n_components):
                if codes[0, k] > 0.0:
                    gain += 0.5 * (c[k] - alpha) * codes[0, k]
            if a < 0:
                with_all = gain
                for k in range(n_components):
                    if codes[0, k] > 0.0:
                        active[n_active] = k
                        n_active += 1
            else:
                costs[banned] += with_all - gain
                c[banned] = correlation
            a += 1
