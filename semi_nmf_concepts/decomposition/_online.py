"""Online learning: the dictionary follows sums over mini-batches that forget their past.

The dictionary update needs nothing of the samples but ``A = V^T V`` and ``B = V^T X``. A step codes
one mini-batch, lets the sums of the steps before it shrink by the factor `forgetting`, adds those
of the mini-batch, and improves the dictionary for them: what was learned stays, old codes fade.
As every mini-batch comes only once, it is used well: codes and dictionary take turns.
"""

import numpy as np

from ._arrays import as_float64, kind_of, like
from ._encode import zero_codes
from ._objective import row_blocks, row_norms
from ._solvers._problem import LOOSE_CODES, unused_atoms

#: Turns of codes and dictionary on one mini-batch, and passes over the atoms in each.
_ALTERNATIONS, _DICTIONARY_PASSES = 2, 3
#: A residual that exceeds alpha by less than this share of the longest sample is not worth an atom.
_MARGIN = 1e-6


def mini_batches(n_samples, size):
    """Slices of nearly equal length, at most `size` (None: all), that cover the samples."""
    n_batches = 1 if size is None else -(-n_samples // size)
    return row_blocks(n_samples, -(-n_samples // n_batches))


def online_step(backend, X, U, alpha, A, B, forgetting):
    """Learn from the mini-batch X: updates the dictionary U and the sums A and B in place."""
    V = zero_codes(X, U.shape[0])
    A *= forgetting
    B *= forgetting
    for _ in range(_ALTERNATIONS):
        step = backend.code_pass(X, U, alpha, V, **LOOSE_CODES)
        A_now, B_now = A + step.A, B + step.B
        for _ in range(_DICTIONARY_PASSES):
            backend.update_dictionary(U, A_now, B_now)
    A += step.A
    B += step.B
    unused = unused_atoms(kind_of(A).xp, A)
    if unused.shape[0]:
        threshold = alpha + _MARGIN * float(row_norms(X).max())
        residual = X - V @ kind_of(V).xp.astype(U, V.dtype)
        atoms = _badly_explained(residual, alpha, threshold, unused.shape[0])
        for k, atom in zip(unused, atoms, strict=False):
            U[k] = as_float64(atom)


def _badly_explained(residual, alpha, threshold, n_atoms):
    """Directions of the longest residuals, each without what those before it explain.

    Fewer than asked for where no further residual is longer than the threshold, alpha or a little
    more: an atom would not earn its price.
    """
    xp = kind_of(residual).xp
    atoms = []
    for _ in range(n_atoms):
        norms = row_norms(residual)
        worst = int(norms.argmax())
        length = float(norms[worst])
        if not length > threshold:
            break
        atom = residual[worst] / length
        atoms.append(atom)
        codes = xp.clip(residual @ atom - alpha, 0.0, None)
        residual = residual - codes[:, None] * atom
    return atoms


def sums_to_continue(A, B, U):
    """Copies of the sums to go on from: those kept, fresh ones, or those that hold U in place.

    After a fit only A is known. ``B = A U`` makes U optimal for the sums, as it was for the data.
    """
    xp = kind_of(U).xp
    if A is None:
        A = like(np.zeros((U.shape[0], U.shape[0])), U)
    return xp.asarray(A, copy=True), A @ U if B is None else xp.asarray(B, copy=True)
