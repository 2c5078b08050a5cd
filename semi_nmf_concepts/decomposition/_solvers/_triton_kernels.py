"""Triton kernels for CUDA tensors, each for a loop that would be thousands of small launches.

`coordinate_descent` finds the codes of all samples in one launch, `dictionary_steps` takes a block
of atoms one by one. In the first one a warp takes up to 32 samples and keeps their codes in
registers: samples lie along the lanes, so that a sum over atoms stays within a thread (or a few).
For the compiler to lay it out like that, samples are the last axis of all arrays, and the number of
samples is not specialised (knowing that 16 divides it, it gives a thread several samples).

Importing this module imports triton, which torch brings along where it can use it. Without a GPU
the kernels run under ``TRITON_INTERPRET=1``, set before the first import of triton.
"""

import torch
import triton
import triton.language as tl

#: More atoms than these do not fit into the registers of the threads that share a sample.
MAX_COMPONENTS = 128
#: Atoms that `dictionary_steps` takes at a time.
MAX_ATOMS = 32
#: Codes that the 32 threads of a warp hold: 32 registers each, and as many again to compute with.
_WARP_FLOATS = 32 * 32
#: Sweeps between two checks of the stopping rule; a check costs about as much as a sweep.
SWEEPS_PER_CHECK = 4


@triton.jit(do_not_specialize=["n_samples", "n_components", "max_sweeps"])
def _coordinate_descent(
    C,
    V,
    G,
    price,
    sizes,
    banned,
    violations,
    n_samples,
    n_components,
    tol,
    max_sweeps,
    SAMPLES: tl.constexpr,
    ATOMS: tl.constexpr,
    SWEEPS: tl.constexpr,
    BANS: tl.constexpr,
):
    samples = tl.program_id(0).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    atoms = tl.arange(0, ATOMS)
    is_atom = atoms < n_components
    is_sample = samples < n_samples
    inside = is_atom[:, None] & is_sample[None, :]
    size = tl.load(sizes + atoms, mask=is_atom, other=0.0)[:, None]
    cost = tl.where(size > 0.0, tl.load(price + atoms, mask=is_atom, other=0.0)[:, None], 1.0)
    c = tl.load(C + atoms[:, None] * n_samples + samples[None, :], mask=inside, other=0.0)
    scale = tl.max(tl.abs(c * size), axis=0)
    # NaN for rows that hold NaN or inf, and so never equal to zero for these
    is_finite = tl.sum(c * 0.0, axis=0) == 0.0
    scale = tl.where(scale > 0.0, scale, 1.0)
    # Where zero codes do not violate by more than tol, they are the answer.
    largest = tl.maximum(tl.max((c - cost) * size, axis=0), 0.0) / scale
    moving = is_sample & is_finite & (largest > tol)

    home = V + atoms[:, None] * n_samples + samples[None, :]
    v = tl.load(home, mask=inside, other=0.0) * size
    v = tl.where((v > 0.0) & (v < float("inf")) & moving[None, :], v, 0.0)
    out = tl.full([SAMPLES], -1, tl.int64)  # the atom that every sample has to do without
    if BANS:
        out = tl.load(banned + samples, mask=is_sample, other=-1)
    sweeps = 0
    while (sweeps < max_sweeps) & (tl.sum(moving.to(tl.int32), axis=0) > 0):
        for _ in range(SWEEPS):
            for k in range(n_components):
                row = tl.load(G + k * n_components + atoms, mask=is_atom, other=0.0)
                row = tl.where(atoms == k, 0.0, row)
                others = tl.sum(v * row[:, None], axis=0)
                c_k = tl.load(C + k * n_samples + samples, mask=is_sample, other=0.0)
                new = (c_k - tl.load(price + k) - others) / tl.load(G + k * n_components + k)
                new = tl.where(new > 0.0, new, 0.0)  # -inf or NaN for atoms of size 0
                changes = (atoms == k)[:, None] & (moving & (out != k))[None, :]
                v = tl.where(changes, new[None, :], v)
        sweeps += SWEEPS
        now = tl.zeros_like(scale)
        for k in range(n_components):
            row = tl.load(G + k * n_components + atoms, mask=is_atom, other=0.0)
            c_k = tl.load(C + k * n_samples + samples, mask=is_sample, other=0.0)
            gradient = tl.sum(v * row[:, None], axis=0) - (c_k - tl.load(price + k))
            v_k = tl.sum(tl.where((atoms == k)[:, None], v, 0.0), axis=0)
            counts = ((v_k > 0.0) | (gradient < 0.0)) & (out != k)
            violation = tl.where(counts, tl.abs(gradient), 0.0)
            size_k = tl.load(sizes + k)
            now = tl.maximum(now, tl.where(size_k > 0.0, violation * size_k, 0.0))
        largest = tl.where(moving, now / scale, largest)
        moving = moving & (largest > tol)

    v = tl.where(size > 0.0, v / tl.where(size > 0.0, size, 1.0), 0.0)
    v = tl.where(is_finite[None, :], v, float("nan"))
    tl.store(home, v, mask=inside)
    largest = tl.where(is_finite, largest, float("nan"))
    tl.store(violations + samples, largest, mask=is_sample)


def tile_of(n_components, itemsize):
    """Samples that a warp takes at a time, and the length of their codes in registers."""
    n_atoms = max(4, triton.next_power_of_2(n_components))
    return {"SAMPLES": max(4, min(32, 4 * _WARP_FLOATS // (n_atoms * itemsize))), "ATOMS": n_atoms}


def coordinate_descent(C, G, sizes, alpha, V, *, tol, max_sweeps, banned=None):
    """Cyclic coordinate descent on the codes of every sample, in place.

    Parameters
    ----------
    C : (K, n) tensor
        Correlations of the scaled atoms ``u_k / sizes_k`` with the samples; K at most
        `MAX_COMPONENTS`.
    G : (K, K) float64 tensor
        Gram matrix of the scaled atoms, its diagonal near 1.
    sizes : (K,) float64 tensor
        Positive; 0 for an atom that is not to be used.
    alpha : float
    V : (n, K) tensor of C's dtype
        Codes of the unscaled atoms: starting values on entry. Rows with correlations that are not
        finite get NaN.
    tol : float
        A sample is done when its largest projected gradient in units of the unscaled atoms is at
        most ``tol * max_k |c_k sizes_k|``. It is measured in the dtype of C.
    max_sweeps : int
    banned : (n,) int64 tensor, default=None
        For every sample an atom that stays out; its starting code is 0.

    Returns
    -------
    (n,) tensor of C's dtype
        What is compared with tol; NaN for rows of NaN.
    """
    n_components, n_samples = C.shape
    violations = torch.empty(n_samples, dtype=C.dtype, device=C.device)
    tile = tile_of(n_components, C.element_size())
    codes = V.T.contiguous()
    _coordinate_descent[(triton.cdiv(n_samples, tile["SAMPLES"]),)](
        C.contiguous(),
        codes,
        *(values.to(C.dtype).contiguous() for values in (G, alpha / sizes, sizes)),
        violations if banned is None else banned,
        violations,
        n_samples,
        n_components,
        tol * (1.0 - 1e-6),  # Triton takes it in float32: not above tol
        max_sweeps,
        **tile,
        SWEEPS=SWEEPS_PER_CHECK,
        BANS=banned is not None,
        num_warps=1,
        enable_fp_fusion=True,
    )
    V.copy_(codes.T)
    return violations


@triton.jit(do_not_specialize=["n_atoms"])
def _dictionary_steps(products, coupling, is_used, mixture, n_atoms, ATOMS: tl.constexpr):
    WIDE: tl.constexpr = 2 * ATOMS
    atoms = tl.arange(0, ATOMS)
    wide = tl.arange(0, WIDE)
    is_wide = wide < 2 * n_atoms
    places = wide[:, None] * 2 * n_atoms + wide[None, :]
    products = tl.load(products + places, mask=is_wide[:, None] & is_wide[None, :], other=0.0)
    moved = tl.zeros((ATOMS, WIDE), dtype=tl.float64)
    for k in range(n_atoms):
        before = tl.load(coupling + k * n_atoms + atoms, mask=atoms < k, other=0.0)
        atom = ((wide == k) | (wide == n_atoms + k)).to(tl.float64)
        atom -= tl.sum(before[:, None] * moved, axis=0)
        squared = tl.sum(tl.sum(products * atom[None, :], axis=1) * atom, axis=0)
        atom /= tl.sqrt(tl.maximum(squared, 1.0))
        step = tl.where(tl.load(is_used + k) != 0, atom - (wide == k).to(tl.float64), 0.0)
        moved = tl.where((atoms == k)[:, None], step[None, :], moved)
    moved += (atoms[:, None] == wide[None, :]).to(tl.float64)
    inside = (atoms < n_atoms)[:, None] & is_wide[None, :]
    tl.store(mixture + atoms[:, None] * 2 * n_atoms + wide[None, :], moved, mask=inside)


def dictionary_steps(atoms, residual, coupling, is_used):
    """Atoms after one step each, in order: each step knows of those before.

    Every new atom is a linear combination of the rows of `atoms` and `residual`; the kernel finds
    the coefficients from the inner products of these rows, whatever the number of features.

    Parameters
    ----------
    atoms : (b, d) float64 tensor, b at most `MAX_ATOMS`
    residual : (b, d) float64 tensor
        Steps of the atoms if all the others stay: ``(B - A U)_k / A_kk``.
    coupling : (b, b) float64 tensor
        ``A_kj / A_kk``.
    is_used : (b,) bool tensor
        The others keep their value.

    Returns
    -------
    (b, d) float64 tensor
    """
    n_atoms = atoms.shape[0]
    rows = torch.cat([atoms, residual])
    mixture = torch.empty((n_atoms, 2 * n_atoms), dtype=rows.dtype, device=rows.device)
    _dictionary_steps[(1,)](
        rows @ rows.T,
        coupling.contiguous(),
        is_used.to(torch.uint8),
        mixture,
        n_atoms,
        ATOMS=MAX_ATOMS,
        num_warps=8,
        enable_fp_fusion=True,
    )
    return mixture @ rows


def try_out(device):
    """Run a kernel on one sample, to see whether Triton works on the device."""
    one = torch.ones((1, 1), dtype=torch.float64, device=device)
    codes = torch.zeros_like(one)
    coordinate_descent(one, one, one[0], 0.5, codes, tol=1e-6, max_sweeps=8)
    if float(codes) != 0.5:
        raise RuntimeError(f"it finds {float(codes)} where 0.5 is right")
