"""Batch iterations until the objective stands still, and the record of a fit."""

from dataclasses import dataclass, field
from typing import Any

from ._moves import step
from ._problem import Problem

#: The iterations end after this many in a row with a relative decrease of at most tol.
_PATIENCE = 2


@dataclass
class DictionaryFit:
    """What a fit hands back: the dictionary and how F came down to it."""

    U: Any  # (n_components, n_features), float64
    V: Any  # codes of the last iteration, close to optimal
    history: list  # lowest F so far, one entry per batch iteration on all samples
    converged: bool


@dataclass
class Record:
    """What is kept and told of a fit."""

    callback: Any = None
    observer: Any = None
    basis: Any = None  # of the subspace that dictionaries are in, or None
    history: list = field(default_factory=list)
    converged: bool = False
    keep: Any = None  # called with the state after each batch iteration, see `_checkpoint`

    def fit(self, state):
        """What the caller gets."""
        return DictionaryFit(state.U, state.V, self.history, self.converged)

    def projected(self, U):
        """U of the space of the data in the subspace."""
        return U if self.basis is None else U @ self.basis

    def lifted(self, U):
        """U in the space of the data."""
        return U if self.basis is None else U @ self.basis.T

    def observe(self, U):
        """Tell the observer of a dictionary."""
        if self.observer is not None:
            basis = self.basis
            self.observer(lambda: U if basis is None else U @ basis.T)

    def add(self, state, alpha):
        """Note a batch iteration."""
        self.history.append(min([state.F, *self.history[-1:]]))
        self.observe(state.U)
        if self.callback is not None:
            self.callback(self.lifted(state.U), state.V, state.F, alpha)
        if self.keep is not None:
            self.keep(state)


@dataclass
class Descent:
    """Runs batch iterations and keeps their record."""

    problem: Problem
    tol: float
    max_iter: int
    random_state: Any
    record: Record

    def run(self, state, iterations=None):
        """Iterate from `state` until F stands still, or for so many iterations."""
        quiet = 0
        self.record.converged = False
        for _ in range(self.left if iterations is None else min(self.left, iterations)):
            F_before = state.F
            state = step(self.problem, state, self.random_state)
            self.record.add(state, self.problem.alpha)
            quiet = 0 if self.is_progress(F_before, state.F) else quiet + 1
            if quiet >= _PATIENCE:
                self.record.converged = True
                break
        return state

    @property
    def left(self):
        """Iterations left."""
        return self.max_iter - len(self.record.history)

    def is_progress(self, F_before, F, tol=None):
        """Whether F has fallen by more than the tolerance and the rounding."""
        tol = self.tol if tol is None else tol
        return F_before - F > tol * F + self.problem.resolution
