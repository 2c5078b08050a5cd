"""The search for a good basin, in which batch iterations then find the bottom."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .._arrays import kind_of, like
from .._objective import mean_active
from ._descent import Descent, Record
from ._moves import grown_and_pruned, tournament
from ._online import online_dictionary
from ._problem import Problem, State

#: Samples to search on: so many for each atom, and at least. All where there are not many more.
_SAMPLES_PER_ATOM, _MIN_SAMPLES, _NOT_MANY_MORE = 32, 1024, 1.5
#: So many times as many where codes are dense: their dictionaries generalise less well.
_DENSE_FACTOR = 2
#: After so many iterations a share of active codes above this counts as dense.
_FIRST_ITERATIONS, _DENSE = 10, 1 / 4
#: Shares of its atoms by which a move enlarges the dictionary; a kind of move is repeated as long
#: as it lowers F by the relative amount.
_MOVE_SHARES, _MOVE_GAIN = (1 / 4, 1 / 16), 1e-4
#: Between moves iterations end at this relative decrease, and the outcome of a move has so many
#: to prove itself.
_COARSE_TOL, _TRIAL_ITERATIONS = 1e-4, 5
#: With at most so many atoms, so many further searches follow the first one.
_FEW_ATOMS, _FURTHER = 32, 2


def sample(problem, n_components, random_state, factor=1):
    """The problem for some of the samples, enough for so many atoms, or the problem itself."""
    n_samples = problem.X.shape[0]
    size = factor * max(_SAMPLES_PER_ATOM * n_components, _MIN_SAMPLES)
    if n_samples <= _NOT_MANY_MORE * size:
        return problem
    return problem.subset(like(random_state.permutation(n_samples)[:size], problem.X))


def moved(descent, state):
    """Repeat each kind of move as long as it lowers F; the state returned is the best one."""
    converged = descent.record.converged
    for share in _MOVE_SHARES:
        gains = True
        while gains and descent.left > 0:
            trial = grown_and_pruned(descent.problem, state, share, descent.random_state)
            if trial is None:
                break
            trial = descent.run(trial, _TRIAL_ITERATIONS)
            gains = descent.is_progress(state.F, trial.F, _MOVE_GAIN)
            if trial.F < state.F:
                state, converged = trial, descent.record.converged
    descent.record.converged = converged
    return state if converged else descent.run(state)


@dataclass
class Search:
    """Online steps on all data, then moves or a tournament on a sample of them."""

    problem: Problem
    n_components: int
    batch_size: int | None
    forgetting: float | None
    max_iter: int
    random_state: Any
    record: Record  # whose observer is told
    dense: bool | None = None  # what the first search found the codes to be

    def started(self, U=None):
        """A dictionary after online steps, from U or grown from nothing."""
        U = online_dictionary(
            self.problem,
            self.n_components,
            U=U,
            batch_size=self.batch_size,
            forgetting=self.forgetting,
            random_state=self.random_state,
            observe=self.record.observe,
        )
        return _completed(U, self.n_components, self.random_state)

    def found(self, U):
        """The best state on the sample that the search from U leads to."""
        record = Record(None, self.record.observer, self.record.basis)
        descent = Descent(self._sample, _COARSE_TOL, self.max_iter, self.random_state, record)
        state = descent.run(State.start(self._sample, U), _FIRST_ITERATIONS)
        if self.dense is None:
            self.dense = mean_active(state.V) > _DENSE * self.n_components
        if self.dense:
            larger = sample(self.problem, self.n_components, self.random_state, _DENSE_FACTOR)
            state = State.start(larger, state.U)
            return tournament(larger, state, self.random_state, record.observe)
        return moved(descent, descent.run(state))

    @property
    def n_further(self):
        """Further searches worth their time: with few atoms, the outcome is more up to chance."""
        return _FURTHER if self.n_components <= _FEW_ATOMS and not self.dense else 0

    @cached_property
    def _sample(self):
        return sample(self.problem, self.n_components, self.random_state)


def _completed(U, n_components, random_state):
    """U with random directions in the place of the atoms that nothing asked for."""
    n_missing = n_components - U.shape[0]
    if n_missing <= 0:
        return U
    xp = kind_of(U).xp
    atoms = like(random_state.standard_normal((n_missing, U.shape[1])), U)
    return xp.concat([U, atoms / xp.linalg.vector_norm(atoms, axis=1, keepdims=True)])
