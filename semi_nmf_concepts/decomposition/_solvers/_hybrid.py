"""The algorithm: alternate between codes and dictionary, faster and further than plain alternation.

Minimising F over V for a fixed U is a convex problem per sample, and so is minimising it over U for
fixed V; together they are not convex, and plain alternation is slow and stops early. So

1. **Warm-up.** With many samples, online epochs: the dictionary follows sums over mini-batches
   that forget their past, which makes fast progress and passes by poor stationary points. With few,
   batch iterations in which alpha rises to its value: at first all atoms find use.
2. **Batch iterations**: one pass over X per iteration. Codes are computed not at the dictionary U_t
   but at the extrapolated ``Y = U_t + beta (U_t - U_{t-1})``. If F at Y is higher than at U_t, the
   step is undone, beta is halved and the momentum restarts, so F never increases.
3. **Reseeding**: an atom that no sample uses takes the direction of what is explained worst. As its
   codes are zero, this leaves F as it is.
4. **Moves** out of a stationary point, each kept only if F ends lower. *Grow and prune*: a quarter
   more atoms are added in the same way, settle, and those that cost least to do without are dropped
   again. *Swap*: the cheapest atom (two often share one job) is replaced.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from .._objective import objective, objective_from_statistics, project_atoms, row_norms
from ._base import UNUSED_SHARE, Statistics

#: Samples per online step, and the factor by which a step forgets the sums of the one before.
_ONLINE_BATCH = 256
_ONLINE_FORGETTING = 0.9
_ONLINE_EPOCHS = 3
#: With fewer samples than this many mini-batches alpha is raised in batch iterations instead: its
#: shares, and the iterations spent at each.
_ONLINE_MIN_BATCHES = 8
_RAMP = (0.05, 0.1, 0.2, 0.4, 0.7)
_RAMP_ITERATIONS = 5

#: Within the iterations the codes need not be exact: they start where the last ones ended.
_LOOSE_CODES = {"tol": 1e-3, "max_sweeps": 100}

#: Extrapolation: first weight, growth after a success, shrinkage after a restart.
_BETA_START, _BETA_GROWTH, _BETA_SHRINK = 0.5, 1.1, 0.5
#: The iterations end after this many in a row with a relative decrease of at most tol.
_PATIENCE = 3

#: Share of atoms that a move adds, iterations for the larger dictionary to settle, rounds in which
#: the surplus goes, and iterations after each but the last.
_GROWTH = 0.25
_GROWN_ITERATIONS = 10
_PRUNING_ROUNDS = 3
_PRUNED_ITERATIONS = 5
#: Share of the removal cost that the new atom of a swap must win back at once for the swap to be
#: tried (the iterations win more).
_SWAP_SHARE = 0.3
#: Iterations that the outcome of a move has to prove itself.
_TRIAL_ITERATIONS = 20

#: Samples whose residuals are tried as new directions, and refinement steps of the best one.
_CANDIDATES = 64
_POWER_STEPS = 10


@dataclass
class DictionaryFit:
    """What a fit hands back: the dictionary and how F came down to it."""

    U: np.ndarray  # (n_components, n_features), float64
    V: np.ndarray  # codes of the last iteration, close to optimal
    history: list  # lowest F so far, one entry per batch iteration
    converged: bool


@dataclass
class _Problem:
    """The fixed part of a fit: data, penalty, machine, and the resolution of the objective."""

    backend: object
    X: np.ndarray
    alpha: float
    squared_norm: float
    resolution: float  # absolute changes of F below this are rounding

    @classmethod
    def build(cls, backend, X, alpha):
        squared_norm = float(np.sum(row_norms(X) ** 2))
        resolution = squared_norm * (1e-9 if X.dtype == np.float32 else 1e-14)
        return cls(backend, X, float(alpha), squared_norm, resolution)

    def empty_codes(self, n_components):
        return np.zeros((self.X.shape[0], n_components), dtype=self.X.dtype)

    def code_pass(self, U, V):
        return self.backend.code_pass(self.X, U, self.alpha, V, **_LOOSE_CODES)

    def objective(self, statistics: Statistics, U):
        A, B, sum_V, _ = statistics
        return objective_from_statistics(self.squared_norm, sum_V, A, B, U, self.alpha)


@dataclass
class _State:
    """A point of the descent."""

    U: np.ndarray
    U_before: np.ndarray  # the dictionary one iteration earlier
    V: np.ndarray
    F: float  # at (U, V)
    beta: float = _BETA_START  # weight of the extrapolation

    @classmethod
    def start(cls, problem, U, V=None):
        V = problem.empty_codes(U.shape[0]) if V is None else V
        statistics = problem.code_pass(U, V)
        return cls(U, U.copy(), V, problem.objective(statistics, U))


def fit_dictionary(
    backend,
    X,
    U,
    alpha,
    *,
    max_iter,
    tol,
    random_state,
    warm_up=True,
    moves=True,
    callback=None,
):
    """Minimise F over dictionary and codes, from the dictionary U.

    Parameters
    ----------
    backend : Backend
    X : (n_samples, n_features) array, float32 or float64
    U : (n_components, n_features) array
        Starting dictionary; not modified.
    alpha : float
        Penalty on the codes.
    max_iter : int
        Bound on the batch iterations with all n_components atoms after the warm-up.
    tol : float
        The iterations end when F decreases by at most ``tol * F`` three times in a row.
    random_state : numpy.random.RandomState
        Draws the order of the mini-batches.
    warm_up : bool
        Whether U is only a rough start (off where it is worth keeping as it is).
    moves : bool
        Whether to try moves out of the stationary point at the end.
    callback : callable, optional
        Called as ``callback(U, V, F, alpha)`` after each of these.

    Returns
    -------
    DictionaryFit
    """
    problem = _Problem.build(backend, X, alpha)
    U = project_atoms(np.array(U, dtype=np.float64))
    if warm_up and X.shape[0] >= _ONLINE_MIN_BATCHES * _ONLINE_BATCH:
        U = _online_epochs(problem, U, random_state)
    elif warm_up:
        U = _rising_penalty(problem, U)
    descent = _Descent(problem, tol, max_iter, callback)
    state = descent.run(_State.start(problem, U))
    if moves:
        state = _moves(descent, state)
    return DictionaryFit(state.U, state.V, descent.history, descent.converged)


def _rising_penalty(problem, U):
    """A few batch iterations at each of several penalties below alpha."""
    for share in _RAMP:
        easier = replace(problem, alpha=share * problem.alpha)
        state = _State.start(easier, U)
        for _ in range(_RAMP_ITERATIONS):
            state = _batch_iteration(easier, state)
        U = state.U
    return U


def _online_epochs(problem, U, random_state):
    """Mini-batch steps on forgetting sums; unused atoms are reseeded after every epoch."""
    X, n_samples, n_components = problem.X, problem.X.shape[0], U.shape[0]
    V = problem.empty_codes(n_components)
    A, B = np.zeros((n_components, n_components)), np.zeros(U.shape)
    for _ in range(_ONLINE_EPOCHS):
        order = random_state.permutation(n_samples)
        for rows in np.array_split(order, -(-n_samples // _ONLINE_BATCH)):
            codes = V[rows]
            step = problem.backend.code_pass(X[rows], U, problem.alpha, codes, **_LOOSE_CODES)
            V[rows] = codes
            A = _ONLINE_FORGETTING * A + step.A
            B = _ONLINE_FORGETTING * B + step.B
            problem.backend.update_dictionary(U, A, B)
        _reseed_unused(problem, U, V, problem.code_pass(U, V).A)
    return U


@dataclass
class _Descent:
    """Runs batch iterations and keeps their record."""

    problem: _Problem
    tol: float
    max_iter: int
    callback: object = None
    history: list = field(default_factory=list)  # lowest F so far, one entry per iteration
    converged: bool = False

    def run(self, state, iterations=None):
        """Iterate from `state` until F stands still, or for so many iterations."""
        quiet = 0
        self.converged = False
        for _ in range(self.left if iterations is None else min(self.left, iterations)):
            F_before = state.F
            state = _batch_iteration(self.problem, state)
            self.history.append(min([state.F, *self.history[-1:]]))
            if self.callback is not None:
                self.callback(state.U, state.V, state.F, self.problem.alpha)
            quiet = 0 if self.is_progress(F_before, state.F) else quiet + 1
            if quiet >= _PATIENCE:
                self.converged = True
                break
        return state

    @property
    def left(self):
        """Iterations left."""
        return self.max_iter - len(self.history)

    def is_progress(self, F_before, F):
        """Whether F has fallen by more than the tolerance and the rounding."""
        return F_before - F > self.tol * F + self.problem.resolution


def _batch_iteration(problem, state):
    """Codes at the extrapolated dictionary, or at U itself where that is better; then the atoms."""
    Y = project_atoms(state.U + state.beta * (state.U - state.U_before))
    V = state.V.copy()
    statistics = problem.code_pass(Y, V)
    if problem.objective(statistics, Y) <= state.F:
        beta = min(1.0, state.beta * _BETA_GROWTH)
    else:
        beta = state.beta * _BETA_SHRINK
        Y, V = state.U.copy(), state.V
        statistics = problem.code_pass(Y, V)
    U = problem.backend.update_dictionary(Y, statistics.A, statistics.B)
    reseeded = _reseed_unused(problem, U, V, statistics.A)
    before = U.copy() if reseeded else state.U  # a jump is no direction to extrapolate
    return _State(U, before, V, problem.objective(statistics, U), beta)


def _moves(descent, state):
    """Repeat each kind of move as long as it lowers F; the state returned is the best one."""
    converged, improved = descent.converged, False
    for move in (_grown_and_pruned, _swapped):
        while converged and descent.left > 0:
            trial = move(descent.problem, state)
            if trial is None:
                break
            trial = descent.run(trial, _TRIAL_ITERATIONS)
            if not descent.is_progress(state.F, trial.F):
                break
            state, improved = trial, True
    if improved:
        return descent.run(state)
    descent.converged = converged
    return state


def _grown_and_pruned(problem, state):
    """The state after adding atoms for what is explained worst and dropping the cheapest ones."""
    n_components = state.U.shape[0]
    surplus = int(np.ceil(_GROWTH * n_components))
    atoms, codes = _new_atoms(problem, state.U, state.V, surplus)
    if not atoms:
        return None
    V = np.ascontiguousarray(np.column_stack([state.V, *codes]))
    state = _State.start(problem, np.vstack([state.U, *atoms]), V)
    per_round = -(-len(atoms) // _PRUNING_ROUNDS)
    iterations = _GROWN_ITERATIONS
    while state.U.shape[0] > n_components:
        for _ in range(iterations):
            state = _batch_iteration(problem, state)
        order = np.argsort(_removal_costs(problem, state.U, state.V), kind="stable")
        kept = np.sort(order[min(per_round, state.U.shape[0] - n_components) :])
        state = _State.start(problem, state.U[kept], np.ascontiguousarray(state.V[:, kept]))
        iterations = _PRUNED_ITERATIONS
    return state


def _swapped(problem, state):
    """The state after replacing the atom that costs least, or None where that cannot pay."""
    costs = _removal_costs(problem, state.U, state.V)
    k = int(np.argmin(costs))
    _, U, V = _without_atom(problem, state.U, state.V, k)
    atom, gain = best_new_atom(problem.X - V @ U.astype(V.dtype), problem.alpha)
    if gain <= max(_SWAP_SHARE * costs[k], problem.resolution):
        return None
    U[k] = atom
    return _State.start(problem, U, V)


def _removal_costs(problem, U, V):
    """By how much F rises without each atom, once the samples that used it are coded again."""
    return [_without_atom(problem, U, V, k)[0] for k in range(U.shape[0])]


def _without_atom(problem, U, V, k):
    """Rise of F, dictionary and codes when atom k is zero and its samples are coded again."""
    rows = np.flatnonzero(V[:, k])
    U_without, V_without = U.copy(), V.copy()
    U_without[k] = 0.0
    X, codes = problem.X[rows], V[rows]
    before = objective(X, codes, U, problem.alpha)
    codes[:, k] = 0.0
    problem.backend.encode(X, U_without, problem.alpha, codes, **_LOOSE_CODES)
    V_without[rows] = codes
    return objective(X, codes, U_without, problem.alpha) - before, U_without, V_without


def _reseed_unused(problem, U, V, A):
    """Give every unused atom the direction of what is explained worst; how many got one.

    Unused atoms for which there is no direction worth taking are no loss and stay.
    """
    usage = np.diag(A)
    unused = np.flatnonzero(usage <= UNUSED_SHARE * usage.sum())
    if not unused.size:
        return 0
    V[:, unused] = 0.0
    atoms, _ = _new_atoms(problem, U, V, unused.size)
    for k, atom in zip(unused, atoms, strict=False):
        U[k] = atom
    return len(atoms)


def _new_atoms(problem, U, V, n_atoms):
    """Atoms for what U and V explain worst, one after the other, and the codes that fit them.

    Fewer than asked for where no further one would be used: an atom is worth having only if some
    residual is longer than alpha.
    """
    residual = problem.X - V @ U.astype(V.dtype)
    atoms, codes = [], []
    for _ in range(n_atoms):
        atom, gain = best_new_atom(residual, problem.alpha)
        if gain <= problem.resolution:
            break
        atoms.append(atom)
        codes.append(_gains(residual, atom, problem.alpha))
        residual -= np.outer(codes[-1], atom.astype(residual.dtype))
    return atoms, codes


def best_new_atom(residual, alpha):
    """A unit vector that lowers F much when added to the dictionary, and by how much it would.

    With all other codes fixed, sample i gives the new atom u the code ``max(0, r_i . u - alpha)``
    and F falls by half the sum of the squares of these. The directions of the longest residuals
    are tried; the best one is improved by a few power steps, each of which raises that sum.
    """
    norms = row_norms(residual)
    longest = np.argsort(-norms, kind="stable")[:_CANDIDATES]
    longest = longest[norms[longest] > alpha]
    if not longest.size:
        return np.zeros(residual.shape[1]), 0.0
    directions = residual[longest].astype(np.float64) / norms[longest, None]
    gains = np.maximum(residual @ directions.T.astype(residual.dtype) - alpha, 0.0)
    atom = directions[np.argmax(np.sum(gains**2, axis=0))]
    for _ in range(_POWER_STEPS):
        longer = _gains(residual, atom, alpha) @ residual
        length = np.linalg.norm(longer)
        if not length > 0.0:
            break
        atom = longer.astype(np.float64) / length
    return atom, 0.5 * float(np.sum(_gains(residual, atom, alpha) ** 2))


def _gains(residual, atom, alpha):
    """Codes that the samples would give a new atom, all others fixed."""
    return np.maximum(residual @ atom.astype(residual.dtype) - alpha, 0.0)
