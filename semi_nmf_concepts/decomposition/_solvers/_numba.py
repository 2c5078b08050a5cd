"""The CPU backend: BLAS for the products with X, compiled kernels for the codes."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import cache

import numpy as np
from joblib import effective_n_jobs
from threadpoolctl import ThreadpoolController

from .._objective import row_blocks
from ._base import UNUSED_SHARE, Backend, Coding, Statistics, join_codings
from ._numba_kernels import (
    accumulate_rows,
    add_moments,
    add_removal_costs,
    encode_rows,
    update_atoms,
)

#: Entries of X handled at a time: a block, its correlations and its codes stay in cache together.
_BLOCK_SIZE = 2**19
_MIN_BLOCK_ROWS, _MAX_BLOCK_ROWS = 64, 512
#: A thread of its own is worth its cost from so many rows.
_MIN_SHARE_ROWS = 128
#: Sums over samples visit active codes alone where fewer than this share are active; the dense
#: product does more work, but faster.
_SPARSE_SHARE = 0.4
#: Columns of the correlations are filled up to a multiple of this, four vectors of eight floats.
_PADDING = 32
#: Atoms updated between two products with the whole dictionary.
_ATOM_BLOCK = 32


class NumbaBackend(Backend):
    """Blocks of rows, on as many threads as `n_jobs` says (joblib's meaning)."""

    xp = np

    def __init__(self, n_jobs=None):
        self.n_threads = effective_n_jobs(n_jobs)
        self._pool = None

    @contextmanager
    def session(self):
        if self.n_threads == 1:
            yield
            return
        # Each thread has blocks of its own: BLAS must not start more. Not even between the passes,
        # since its threads would then wait for further work in a busy loop.
        with _blas().limit(limits=1), ThreadPoolExecutor(self.n_threads) as self._pool:
            try:
                yield
            finally:
                self._pool = None

    def moments(self, X):
        norms = np.empty(X.shape[0])

        def work(rows):
            sums = np.zeros(X.shape[1])
            add_moments(_read_only(X[rows]), sums, norms[rows])
            return sums

        return sum(self._over_shares(X.shape[0], work)), norms

    def encode(self, X, U, alpha, V, *, tol, max_sweeps):
        shared = _Coder(X, U, alpha, tol, max_sweeps)

        def work(rows):
            coder = shared.with_own_scratch()
            return join_codings([coder.encode(block, V) for block in coder.blocks(rows)])

        return join_codings(self._over_shares(X.shape[0], work))

    def code_pass(self, X, U, alpha, V, *, tol, max_sweeps):
        shared = _Coder(X, U, alpha, tol, max_sweeps)

        def work(rows):
            coder = shared.with_own_scratch()
            sums = _Sums(U.shape, X.dtype)
            for block in coder.blocks(rows):
                sums.add(X[block], V[block], coder.encode(block, V))
            return sums

        shares = self._over_shares(X.shape[0], work)
        return Statistics(
            sum(share.A for share in shares),
            sum(share.B for share in shares),
            sum(share.sum_V for share in shares),
            join_codings([coding for share in shares for coding in share.codings]),
        )

    def removal_costs(self, X, U, alpha, V, *, tol, max_sweeps):
        shared = _Coder(X, U, alpha, tol, max_sweeps)

        def work(rows):
            coder = shared.with_own_scratch()
            costs = np.zeros(U.shape[0])
            for block in coder.blocks(rows):
                coder.add_removal_costs(block, V, costs)
            return costs

        return sum(self._over_shares(X.shape[0], work))

    def update_dictionary(self, U, A, B):
        unused = UNUSED_SHARE * np.trace(A)
        for start in range(0, U.shape[0], _ATOM_BLOCK):
            stop = min(start + _ATOM_BLOCK, U.shape[0])
            R = B[start:stop] - A[start:stop] @ U
            update_atoms(U, R, A, start, stop, unused)
        return U

    def _over_shares(self, n_rows, work):
        """Results of ``work(rows)`` for one contiguous share of the rows per thread, in order."""
        n_shares = min(self.n_threads, -(-n_rows // _MIN_SHARE_ROWS))
        if n_shares <= 1 or self._pool is None:
            return [work(slice(0, n_rows))]
        return list(self._pool.map(work, row_blocks(n_rows, -(-n_rows // n_shares))))


class _Coder:
    """Codes block after block on one dictionary."""

    def __init__(self, X, U, alpha, tol, max_sweeps):
        self.X = X
        self.n_components = U.shape[0]
        self.atoms = np.ascontiguousarray(U.T, dtype=X.dtype)
        self.G_fine = U @ U.T
        n_padded = -(-self.n_components // _PADDING) * _PADDING
        self.G = np.zeros((self.n_components, n_padded), X.dtype)
        self.G[:, : self.n_components] = self.G_fine
        self.C = None  # scratch: correlations of a block
        self.alpha = X.dtype.type(min(alpha, np.finfo(X.dtype).max))
        self.tol, self.max_sweeps = tol, max_sweeps
        self.integer = np.dtype(f"i{X.dtype.itemsize}").type
        self.index_mask = self.integer(2 ** (n_padded - 1).bit_length() - 1)
        self.infinity = X.dtype.type(np.inf).view(self.integer)

    def with_own_scratch(self):
        """The same for one thread: scratch of its own, all else shared."""
        own = copy(self)
        own.C = np.zeros((self.block_rows, self.G.shape[1]), self.X.dtype)
        return own

    @property
    def block_rows(self):
        """Rows whose products stay in cache."""
        size = _BLOCK_SIZE // max(self.X.shape[1], 1)
        return min(max(size, _MIN_BLOCK_ROWS), _MAX_BLOCK_ROWS)

    def blocks(self, rows):
        """Blocks of the rows."""
        blocks = row_blocks(rows.stop - rows.start, self.block_rows)
        return (slice(rows.start + b.start, rows.start + b.stop) for b in blocks)

    def encode(self, rows, V):
        """Improve ``V[rows]`` in place."""
        C = self._correlations(rows)
        return Coding(
            *encode_rows(
                C, C.view(self.integer), self.G, self.G_fine, self.alpha, V[rows],
                self.tol, self.max_sweeps, self.index_mask, self.infinity,
            )
        )  # fmt: skip

    def add_removal_costs(self, rows, V, costs):
        """Add the rows' share to the costs of doing without each atom."""
        C = self._correlations(rows)
        add_removal_costs(
            C, C.view(self.integer), self.G, self.G_fine, self.alpha, V[rows],
            self.tol, self.max_sweeps, self.index_mask, costs,
        )  # fmt: skip

    def _correlations(self, rows):
        C = self.C[: rows.stop - rows.start]
        # Entries that are not finite show in the codes. In threads of their own the caller's
        # settings do not hold.
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(self.X[rows], self.atoms, out=C[:, : self.n_components])
        return C


class _Sums:
    """Statistics of one share of the rows, block by block."""

    def __init__(self, shape, dtype):
        self.A = np.zeros((shape[0], shape[0]))
        self.B = np.zeros(shape)
        self.B_block = np.empty(shape, dtype)
        self.sum_V = 0.0
        self.codings = []

    def add(self, X, V, coding):
        self.codings.append(coding)
        if coding.n_active <= _SPARSE_SHARE * V.size:
            self.sum_V += accumulate_rows(_read_only(X), V, self.A, self.B, self.B_block)
            return
        codes = V.astype(np.float64)
        self.A += codes.T @ codes
        self.B += V.T @ X
        self.sum_V += float(codes.sum())


def _read_only(view):
    """A view as read-only, whatever X is: else the kernels would be compiled for either kind."""
    view.flags.writeable = False
    return view


@cache
def _blas():
    """The BLAS libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")
