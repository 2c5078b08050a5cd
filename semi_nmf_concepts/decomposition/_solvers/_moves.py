"""Leaving points where alternating minimisation stands still."""

from math import ceil
from operator import attrgetter

import numpy as np

from .._arrays import as_float64, like
from ._growth import cheapest_atoms, new_atoms
from ._problem import State, batch_iteration, unused_atoms

#: Iterations for a larger dictionary to settle, rounds in which the surplus goes, and iterations
#: after each of them.
_GROWN_ITERATIONS = 3
_PRUNING_ROUNDS = 2
_PRUNED_ITERATIONS = 2
#: Starts that enter a tournament, and iterations before the better half of them goes on.
_RIVALS, _ROUNDS = 8, (25, 25, 50)


def settled(problem, state, iterations, random_state):
    """The state after so many batch iterations."""
    for _ in range(iterations):
        state = step(problem, state, random_state)
    return state


def step(problem, state, random_state):
    """One batch iteration; atoms that no sample uses take the direction of what is left over.

    As their codes are zero (but for rounding), this leaves F as it is.
    """
    state, A = batch_iteration(problem, state)
    unused = unused_atoms(problem.xp, A)
    if not unused.shape[0]:
        return state
    state.V = problem.cleared(state.V, unused)
    residual = problem.residual(state.U, state.V, random_state)
    atoms = new_atoms(residual, problem.alpha, unused.shape[0], random_state)
    if atoms.shape[0]:
        state.U[unused[: atoms.shape[0]]] = atoms
        state.U_before = problem.xp.asarray(state.U, copy=True)  # no direction to extrapolate
    return state


def with_new_atoms(problem, state, n_atoms, random_state):
    """The state with more atoms, of zero codes so far; None where none would be used."""
    xp = problem.xp
    residual = problem.residual(state.U, state.V, random_state)
    atoms = new_atoms(residual, problem.alpha, n_atoms, random_state)
    if not atoms.shape[0]:
        return None
    U = xp.concat([state.U, atoms])
    return State.start(problem, U, problem.with_more_atoms(state.V, atoms.shape[0]))


def grown_and_pruned(problem, state, share, random_state):
    """The state after adding a share of its atoms (at least one) and dropping the cheapest ones."""
    n_components = state.U.shape[0]
    state = with_new_atoms(problem, state, ceil(share * n_components), random_state)
    if state is None:
        return None
    per_round = ceil((state.U.shape[0] - n_components) / _PRUNING_ROUNDS)
    state = settled(problem, state, _GROWN_ITERATIONS, random_state)
    while state.U.shape[0] > n_components:
        state = _pruned(problem, state, min(per_round, state.U.shape[0] - n_components))
        state = settled(problem, state, _PRUNED_ITERATIONS, random_state)
    return state


def _pruned(problem, state, n_atoms):
    costs = problem.removal_costs(state.U, state.V)
    kept = np.ones(state.U.shape[0], dtype=bool)
    kept[cheapest_atoms(state.U, costs, n_atoms)] = False
    kept = like(np.flatnonzero(kept), state.U)
    return State.start(problem, state.U[kept], problem.restricted(state.V, kept))


def tournament(problem, state, random_state, observe):
    """The best of `state` and of random starts, where the worse half drops out round by round."""
    rivals = [state]
    while len(rivals) < _RIVALS:
        U = random_samples(problem, state.U.shape[0], random_state)
        rivals.append(State.start(problem, U))
    for iterations in _ROUNDS:
        rivals = [settled(problem, rival, iterations, random_state) for rival in rivals]
        rivals = sorted(rivals, key=attrgetter("F"))[: max(len(rivals) // 2, 1)]
        observe(rivals[0].U)
    return rivals[0]


def random_samples(problem, n_components, random_state):
    """Directions of samples drawn at random (random ones where there are none), as atoms."""
    xp, n_samples = problem.xp, problem.X.shape[0]
    rows = random_state.permutation(max(n_samples, n_components))[:n_components] % n_samples
    atoms = as_float64(problem.X[like(rows, problem.X)])
    random = like(random_state.standard_normal(tuple(atoms.shape)), atoms)
    atoms = xp.where(xp.any(atoms != 0.0, axis=1)[:, None], atoms, random)
    return atoms / xp.linalg.vector_norm(atoms, axis=1, keepdims=True)
