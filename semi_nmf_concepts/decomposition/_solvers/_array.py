"""The backend for arrays on a device: PyTorch tensors and CuPy arrays (NumPy's work too).

Everything is written once, for any namespace of array_api_compat: products with X by blocks of
rows, codes by batched active-set steps (`_active_set`). CUDA tensors with few atoms take the Triton
kernels (`_triton_kernels`) first. CuPy arrays go the same way, as PyTorch tensors that share their
memory, if PyTorch can use CUDA. Only single numbers travel to the host.
"""

import warnings
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import array_api_compat
from array_api_compat import device

from ..._messages import callers_level
from .._arrays import to_numpy, torch_namespace
from .._objective import row_blocks
from ._active_set import solve_codes
from ._base import UNUSED_SHARE, Backend, Coding, Statistics
from ._torch import through_torch, torch_has_cuda, torch_scope

#: Atoms updated one by one between two products of A with U.
_ATOM_BLOCK = 32
#: Sweeps of the kernel before the rest is left to active-set steps.
_KERNEL_SWEEPS = 256
#: The kernels are compiled for this compute capability and later ones.
_KERNEL_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class _Sizes:
    """How much to do at a time: enough to keep a device busy, and memory bounded."""

    rows: int  # rows of X at most
    codes: int  # entries of their codes
    values: int  # entries of X that are cast to float64
    systems: int  # entries of the matrices of a batch of linear systems


_ON_CPU = _Sizes(rows=2**10, codes=2**17, values=2**18, systems=2**19)
_ON_DEVICE = _Sizes(rows=2**16, codes=2**23, values=2**25, systems=2**23)


def _scoped(method):
    """Run a method with PyTorch set up for it, or by the backend for PyTorch that stands in."""

    @wraps(method)
    def run(self, *arguments, **options):
        if self._stand_in is not None:
            return through_torch(getattr(self._stand_in, method.__name__), arguments, options)
        with torch_scope(arguments[0]):
            return method(self, *arguments, **options)

    return run


class ArrayBackend(Backend):
    """Blocks of rows, on the device that holds the arrays.

    Parameters
    ----------
    xp : namespace of array_api_compat
        ``array_api_compat.torch``, ``array_api_compat.cupy`` or ``array_api_compat.numpy``.
    use_triton : "auto" or bool, default="auto"
        "auto": the kernels for CUDA tensors, if they work there. True: for CPU tensors too, for
        Triton's interpreter.
    """

    def __init__(self, xp, use_triton="auto"):
        self.xp = xp
        self.use_triton = use_triton
        self._stand_in = None
        if array_api_compat.is_cupy_namespace(xp) and torch_has_cuda():
            self._stand_in = ArrayBackend(torch_namespace(), use_triton)

    @_scoped
    def moments(self, X):
        xp = self.xp
        column_sums = xp.zeros(X.shape[1], dtype=xp.float64, device=device(X))
        norms = xp.empty(X.shape[0], dtype=xp.float64, device=device(X))
        for rows in row_blocks(X.shape[0], max(1, _sizes(X).values // X.shape[1])):
            block = xp.astype(X[rows], xp.float64)
            column_sums += xp.sum(block, axis=0)
            norms[rows] = xp.linalg.vector_norm(block, axis=1)
        return column_sums, norms

    @_scoped
    def encode(self, X, U, alpha, V, *, tol, max_sweeps):
        blocks = self._encoded_blocks(X, U, alpha, V, tol, max_sweeps)
        return _totals(self.xp, [summary for _, summary in blocks])[1]

    @_scoped
    def code_pass(self, X, U, alpha, V, *, tol, max_sweeps):
        xp = self.xp
        A, B, summaries = 0.0, 0.0, []
        for rows, summary in self._encoded_blocks(X, U, alpha, V, tol, max_sweeps):
            codes = xp.astype(V[rows], xp.float64)
            A = A + codes.T @ codes
            B = B + xp.astype(V[rows].T @ X[rows], xp.float64)
            summaries.append(summary)
        return Statistics(A, B, *_totals(xp, summaries))

    @_scoped
    def removal_costs(self, X, U, alpha, V, *, tol, max_sweeps):
        coder = self._coder(X, U, alpha, tol, max_sweeps)
        costs = sum(coder.removal_costs(X[rows], V[rows]) for rows in coder.blocks(X))
        return to_numpy(costs)

    @_scoped
    def update_dictionary(self, U, A, B):
        xp, kernels = self.xp, self._kernels(U)
        usage = xp.linalg.diagonal(A)
        is_used = usage > UNUSED_SHARE * xp.sum(usage)
        curvature = xp.where(is_used, usage, 1.0)[:, None]
        for block in row_blocks(U.shape[0], _ATOM_BLOCK):
            residual = (B[block] - A[block] @ U) / curvature[block]
            coupling = A[block, block] / curvature[block]
            step = (U[block], residual, coupling, is_used[block])
            atoms = kernels.dictionary_steps(*step) if kernels else _dictionary_steps(xp, *step)
            norms = xp.linalg.vector_norm(atoms, axis=1)  # by rounding some are just above 1
            norms = xp.where(is_used[block] & (norms > 1.0), norms, 1.0)
            U[block] = atoms / norms[:, None]
        return U

    def _encoded_blocks(self, X, U, alpha, V, tol, max_sweeps):
        """Encode block after block; yields each block's rows and how its coding went."""
        coder = self._coder(X, U, alpha, tol, max_sweeps)
        for rows in coder.blocks(X):
            violation = coder.encode(coder.correlations(X[rows]), V[rows])
            yield rows, _summary(self.xp, violation, tol, V[rows])

    def _coder(self, X, U, alpha, tol, max_sweeps):
        kernels = self._kernels(X)
        if kernels and U.shape[0] > kernels.MAX_COMPONENTS:
            kernels = None
        atoms = _Atoms.build(self.xp, U, X.dtype)
        return _Coder(self.xp, kernels, atoms, float(alpha), tol, max_sweeps)

    def _kernels(self, x):
        """The module of kernels, or None where they cannot or shall not run on the array x."""
        if self.use_triton is False or not array_api_compat.is_torch_array(x):
            return None
        if self.use_triton is True or x.is_cuda:
            return _working_kernels(x.device)
        return None


@dataclass(frozen=True)
class _Atoms:
    """A dictionary in units in which all atoms have a norm near 1.

    The units are powers of two, so that nothing is rounded on the way.
    """

    unit: Any  # u_k / sizes_k, in the dtype of the data; zero where sizes_k is
    gram: Any  # its Gram matrix, float64
    sizes: Any  # float64; 0 for atoms too short to correlate with anything

    @classmethod
    def build(cls, xp, U, dtype):
        lengths = xp.linalg.vector_norm(U, axis=1)
        usable = lengths > 1e8 * float(xp.finfo(dtype).smallest_normal)
        sizes = 2.0 ** xp.round(xp.log2(xp.where(usable, lengths, 1.0)))
        unit = xp.where(usable[:, None], U / sizes[:, None], 0.0)
        return cls(xp.astype(unit, dtype), unit @ unit.T, xp.where(usable, sizes, 0.0))


class _Coder:
    """Codes on one dictionary; correlations with it are (n_components, n), in the dtype of X."""

    def __init__(self, xp, kernels, atoms, alpha, tol, max_sweeps):
        self.xp, self.kernels, self.atoms = xp, kernels, atoms
        self.alpha, self.tol, self.max_sweeps = alpha, tol, max_sweeps

    def blocks(self, X):
        """Rows to take at a time."""
        sizes = _sizes(X)
        return row_blocks(X.shape[0], max(1, min(sizes.rows, sizes.codes // self.n_components)))

    @property
    def n_components(self):
        return self.atoms.sizes.shape[0]

    def correlations(self, X):
        return self.atoms.unit @ X.T

    def encode(self, C, V, banned=None):
        """Improve V in place; returns what is compared with the tolerance.

        `banned` names for every sample an atom that stays out.
        """
        if self.kernels is None:
            return self._active_set_steps(C, V, self.max_sweeps, banned)
        xp, atoms = self.xp, self.atoms
        n_sweeps = min(self.max_sweeps, _KERNEL_SWEEPS)
        options = {"tol": self.tol, "max_sweeps": n_sweeps, "banned": banned}
        violation = self.kernels.coordinate_descent(
            C, atoms.gram, atoms.sizes, self.alpha, V, **options
        )
        if n_sweeps == self.max_sweeps:
            return violation
        left = xp.nonzero(violation > self.tol)[0]
        if left.shape[0]:
            codes = V[left]
            banned = None if banned is None else banned[left]
            steps = self._active_set_steps(C[:, left], codes, self.max_sweeps - n_sweeps, banned)
            violation[left] = xp.astype(steps, violation.dtype)
            V[left] = codes
        return violation

    def _active_set_steps(self, C, V, max_rounds, banned):
        xp, atoms = self.xp, self.atoms
        C = xp.astype(C.T, xp.float64)
        is_finite = xp.all(xp.isfinite(C), axis=1)
        C = xp.where(is_finite[:, None], C, 0.0)
        start = xp.astype(V, xp.float64) * atoms.sizes
        start = xp.where((start > 0.0) & (start < xp.inf), start, 0.0)
        limits = {"tol": self.tol, "max_rounds": max_rounds, "batch_floats": _sizes(V).systems}
        codes, violation = solve_codes(
            xp, C, atoms.gram, atoms.sizes, self.alpha, start, banned=banned, **limits
        )
        codes = codes / xp.where(atoms.sizes > 0.0, atoms.sizes, 1.0)
        V[...] = xp.astype(xp.where(is_finite[:, None], codes, xp.nan), V.dtype)
        return xp.where(is_finite, violation, xp.nan)

    def removal_costs(self, X, V):
        """By how much the objective of these samples rises without each atom; (n_components,)."""
        xp = self.xp
        C, codes = self.correlations(X), xp.asarray(V, copy=True)
        self.encode(C, codes)
        with_all = self._objectives(C, codes)
        numbers = xp.arange(self.n_components, device=device(V))
        costs = xp.zeros_like(self.atoms.sizes)
        sample, atom = xp.nonzero(codes > 0.0)
        pairs_at_a_time = max(1, _sizes(V).codes // self.n_components)
        for pairs in row_blocks(sample.shape[0], pairs_at_a_time):
            of, without = sample[pairs], atom[pairs]
            is_without = numbers[None, :] == without[:, None]
            others = xp.where(is_without, 0.0, codes[of])
            self.encode(C[:, of], others, without)
            cost = self._objectives(C[:, of], others) - with_all[of]
            costs += xp.sum(xp.where(is_without, cost[:, None], 0.0), axis=0)
        return costs

    def _objectives(self, C, V):
        """Every sample's objective, less half its squared norm."""
        xp, atoms = self.xp, self.atoms
        codes = xp.astype(V, xp.float64)
        slope = 0.5 * (codes * atoms.sizes) @ atoms.gram - xp.astype(C.T, xp.float64)
        return xp.sum(codes * (slope * atoms.sizes + self.alpha), axis=1)


def _summary(xp, violation, tol, V):
    """Of a block: numbers of samples above tol and of active codes, sum of codes, worst violation.

    They stay on the device, so that the host can go on.
    """
    sums = [xp.sum(values, dtype=xp.float64) for values in (violation > tol, V > 0.0, V)]
    return xp.stack([*sums, xp.astype(xp.max(violation), xp.float64)])


def _totals(xp, summaries):
    """The sum of all codes, and the `Coding`."""
    summaries = to_numpy(xp.stack(summaries))
    n_unconverged, n_active, sum_V, _ = summaries.sum(axis=0).tolist()
    return sum_V, Coding(int(n_unconverged), int(n_active), float(summaries[:, 3].max()))


def _dictionary_steps(xp, atoms, residual, coupling, is_used):
    """Atoms after one step each, in order: each step knows of those before.

    `residual` holds the steps if all the others stayed, ``(B - A U)_k / A_kk``, and `coupling` how
    they depend on the others, ``A_kj / A_kk``.
    """
    moved = xp.zeros_like(atoms)
    for k in range(atoms.shape[0]):
        atom = atoms[k] + residual[k] - coupling[k] @ moved
        norm = xp.linalg.vector_norm(atom)
        atom = atom / xp.where(norm > 1.0, norm, 1.0)
        moved[k] = xp.where(is_used[k], atom - atoms[k], 0.0)
    return atoms + moved


def _sizes(x):
    is_on_cpu = array_api_compat.is_numpy_array(x) or str(device(x)) == "cpu"
    return _ON_CPU if is_on_cpu else _ON_DEVICE


@cache
def _working_kernels(device):
    """The module of kernels if Triton is there and runs on the device, else None."""
    import torch

    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _KERNEL_CAPABILITY:
        return None
    try:
        from . import _triton_kernels
    except ImportError:
        return None
    try:  # Triton needs more than a GPU: a C compiler, a folder that it can write to
        _triton_kernels.try_out(device)
    except Exception as error:  # whatever that raises, there is a slower way
        message = f"The Triton kernels do not run on {device} and are not used: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=callers_level())
        return None
    return _triton_kernels
