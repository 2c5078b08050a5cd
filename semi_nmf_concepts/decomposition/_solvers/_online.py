"""Online steps: a first dictionary from a look or two at the samples, a mini-batch at a time.

The dictionary follows sums over mini-batches that forget their past. That makes fast progress and
passes by poor stationary points, as every step minimises a slightly different objective.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

from .._arrays import like
from ._growth import new_atoms
from ._problem import LOOSE_CODES, Problem

#: Samples per step: so many for each atom within these bounds, but at least one for each atom (an
#: update of many atoms costs more than the codes of few samples) and at most this share of all.
_BATCH_PER_ATOM, _MIN_BATCH, _MAX_BATCH, _BATCH_SHARE = 3, 64, 256, 1 / 8
#: Step t keeps the share t / (t + 3) of the sums before it: later steps weigh more, as their codes
#: are better, yet the dictionary comes to rest.
_MEMORY = 3.0
#: A mean shorter than this share of the samples (they were centred, say) has no direction.
_SAME_WAY = 1e-3
#: Share of its final size by which a growing dictionary grows per step.
_GROWTH = 1 / 8
#: Steps on a dictionary of full size: so many samples for each atom, and at least so many steps.
_SAMPLES_PER_ATOM, _MIN_STEPS = 120, 20


def share_kept(forgetting, n_steps):
    """The factor on the sums of the steps before, after so many (not necessarily whole) of them."""
    return n_steps / (n_steps + _MEMORY) if forgetting is None else forgetting


@dataclass
class OnlineLearner:
    """A dictionary, the sums it follows, and the order in which mini-batches come."""

    problem: Problem
    U: Any
    batch_size: int
    forgetting: float | None  # factor on the sums at each step; None: `_MEMORY`
    random_state: Any

    def __post_init__(self):
        self.A = self.problem.zeros((self.U.shape[0], self.U.shape[0]))
        self.B = self.problem.zeros(self.U.shape)
        self.n_steps = 0
        self._batches = iter(())

    def step(self):
        """Learn from the next mini-batch; returns it and its codes before the update."""
        X, V = self.next_batch()
        problem = self.problem
        step = problem.backend.code_pass(X, self.U, problem.alpha, V, **LOOSE_CODES)
        kept = share_kept(self.forgetting, self.n_steps)
        self.A = kept * self.A + step.A
        self.B = kept * self.B + step.B
        self.n_steps += 1
        problem.backend.update_dictionary(self.U, self.A, self.B)
        return X, V

    def next_batch(self):
        """The next mini-batch, in a new random order after every epoch, and empty codes."""
        rows = next(self._batches, None)
        if rows is None:
            n_samples = self.problem.X.shape[0]
            order = like(self.random_state.permutation(n_samples), self.problem.X)
            size = min(self.batch_size, n_samples)
            starts = range(0, n_samples - size + 1, size)
            self._batches = (order[start : start + size] for start in starts)
            rows = next(self._batches)
        X = self.problem.X[rows]
        return X, self.problem.empty_codes(self.U.shape[0], n_samples=X.shape[0])

    def append(self, atoms):
        """Add atoms that no sample used so far."""
        xp, n_old, n_new = self.problem.xp, self.U.shape[0], atoms.shape[0]
        self.U = xp.concat([self.U, atoms])
        A = self.problem.zeros((n_old + n_new, n_old + n_new))
        A[:n_old, :n_old] = self.A
        self.A = A
        self.B = xp.concat([self.B, xp.zeros_like(atoms)])


def online_dictionary(
    problem, n_components, *, U=None, batch_size=None, forgetting=None, random_state, observe
):
    """A dictionary after online steps, from U, or grown from the mean direction where U is None.

    A growing dictionary gets, at every step, atoms for what the mini-batch shows is explained
    worst. It may stay smaller than `n_components` where no other atom would be used.
    """
    n_samples = problem.X.shape[0]
    if batch_size is None:
        batch_size = min(max(_BATCH_PER_ATOM * n_components, _MIN_BATCH), _MAX_BATCH)
        batch_size = min(max(batch_size, n_components), max(int(_BATCH_SHARE * n_samples), 8))
    start = _mean_direction(problem) if U is None else U
    learner = OnlineLearner(problem, start, batch_size, forgetting, random_state)
    if U is None:
        _grow(learner, n_components, observe)
    for _ in range(max(_MIN_STEPS, ceil(_SAMPLES_PER_ATOM * n_components / batch_size))):
        learner.step()
        observe(learner.U)
    return learner.U


def _grow(learner, n_components, observe):
    problem, random_state = learner.problem, learner.random_state
    misses = 0
    while learner.U.shape[0] < n_components and misses < 2:
        X, V = learner.step()
        observe(learner.U)
        residual = X - V @ problem.xp.astype(learner.U, X.dtype)
        n_atoms = min(ceil(_GROWTH * n_components), n_components - learner.U.shape[0])
        atoms = new_atoms(residual, problem.alpha, n_atoms, random_state)
        if atoms.shape[0]:
            learner.append(atoms)
        else:
            misses += 1


def _mean_direction(problem):
    """The direction of the mean, or of the longest sample where there is no mean; one row."""
    xp, X = problem.xp, problem.X
    mean = xp.mean(xp.astype(X[:4096], xp.float64), axis=0)
    length = float(xp.linalg.vector_norm(mean))
    if not length > _SAME_WAY * float(xp.mean(xp.linalg.vector_norm(X[:4096], axis=1))):
        norms = xp.linalg.vector_norm(X, axis=1)
        mean = xp.astype(X[int(xp.argmax(norms))], xp.float64)
        length = float(xp.linalg.vector_norm(mean)) or 1.0
    return (mean / length)[None, :]
