"""The CPU backend: BLAS for the products with X, compiled coordinate descent for the codes."""

import numpy as np

from .._objective import row_blocks
from ._base import Backend, Statistics
from ._numba_kernels import encode_rows

#: Rows coded at a time: the block, its correlations and its codes stay in cache together.
_BLOCK_ROWS = 512


class NumbaBackend(Backend):
    """Blocks of rows: correlations by BLAS, codes by the compiled kernel, sums by BLAS."""

    def encode(self, X, U, alpha, V, *, tol, max_sweeps):
        blocks = self._encode_blocks(X, U, alpha, V, tol, max_sweeps)
        return sum(n_unconverged for _, n_unconverged in blocks)

    def code_pass(self, X, U, alpha, V, *, tol, max_sweeps):
        A = np.zeros((U.shape[0], U.shape[0]))
        B = np.zeros(U.shape)
        sum_V = 0.0
        total_unconverged = 0
        for rows, n_unconverged in self._encode_blocks(X, U, alpha, V, tol, max_sweeps):
            codes = V[rows].astype(np.float64)
            A += codes.T @ codes
            B += V[rows].T @ X[rows]
            sum_V += float(codes.sum())
            total_unconverged += n_unconverged
        return Statistics(A, B, sum_V, total_unconverged)

    @staticmethod
    def _encode_blocks(X, U, alpha, V, tol, max_sweeps):
        """Encode block after block; yields each block's rows while they are still in cache."""
        G = U @ U.T
        atoms = np.ascontiguousarray(U.T, dtype=X.dtype)
        for rows in row_blocks(X.shape[0], _BLOCK_ROWS):
            C = np.ascontiguousarray(X[rows] @ atoms)
            yield rows, encode_rows(C, G, float(alpha), V[rows], tol, max_sweeps)
