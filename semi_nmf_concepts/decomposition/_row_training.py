"""One call of fit where the rows are visited block by block.

1. A look at all rows: how many, their mean, how long they are.
2. A fit to a sample of them, in memory: starts, moves, the search for alpha.
3. Batch iterations on all rows from there. From a start that was given, these come first, and
   moves follow, as in memory.
"""

from dataclasses import replace

import numpy as np

from ._alpha_search import TOLERANCE as N_ACTIVE_TOLERANCE
from ._alpha_search import search_alpha
from ._checkpoint import Progress
from ._objective import project_atoms, row_norms
from ._row_work import CodePass
from ._solvers import Descent, DictionaryFit, Record, State, refined, sampled_rows
from ._training import Trainer, median

#: Rows of the sample: so many for each atom, as long as they take so many bytes; at least, and so
#: many for each atom in any case.
_PER_ATOM, _SAMPLE_BYTES, _MIN_SAMPLE, _MIN_PER_ATOM = 64, 2**27, 8192, 2


def sample_size(n_components, n_features, dtype):
    """Rows to fit to in memory before all are looked at."""
    affordable = _SAMPLE_BYTES // (n_features * np.dtype(dtype).itemsize)
    wanted = max(_PER_ATOM * n_components, _MIN_SAMPLE)
    return max(min(wanted, affordable), _MIN_PER_ATOM * n_components)


def sample_of(passes, n_components, random_state):
    """Some of the rows, drawn at random, as they are (not mapped)."""
    n_samples, n_features = passes.shape
    size = min(sample_size(n_components, n_features, passes.dtype), n_samples)
    return passes.take(sampled_rows(n_samples, size, random_state))


class RowTrainer:
    """Finds a dictionary, and alpha where that is asked for.

    Parameters
    ----------
    estimator : SemiNMFConcepts
        For its parameters.
    problem : RowProblem
        Its alpha does not count.
    overview : Overview
        Of the rows in the space of the factorisation.
    sample : ndarray
        Some of these rows.
    given : ndarray or None
        Start in the place of the one that `init` names.
    random_state : numpy.random.RandomState
    callback, observer : callable or None
        See `fit_dictionary`.
    checkpoint : Checkpoint or None
    """

    def __init__(
        self,
        estimator,
        problem,
        overview,
        sample,
        given,
        random_state,
        callback=None,
        observer=None,
        checkpoint=None,
    ):
        self.estimator, self.problem, self.overview = estimator, problem, overview
        self.given, self.random_state = given, random_state
        self.callback, self.observer = callback, observer
        self.checkpoint = checkpoint
        self.on_sample = Trainer(
            estimator,
            problem.backend,
            sample,
            row_norms(sample),
            given,
            random_state,
            median_norm=median(overview.norms),
            batch_size=None,
        )

    def run(self):
        """The best fit and its alpha."""
        progress = None if self.checkpoint is None else self.checkpoint.load()
        if progress is None:
            U, alpha = self._first_guess()
            progress = Progress(alpha, self._started(U), [], moved=self.given is None)
        if progress.reached is not None and progress.reached <= self.estimator.tol:
            state = progress.state
            return DictionaryFit(state.U, state.V, progress.history, True), progress.alpha
        fit, alpha = self._fit(progress, keep=True), progress.alpha
        moved = progress.moved or fit.converged
        if self.estimator.n_active is not None:
            fit, alpha = self._adjusted(fit, alpha)
        if self.checkpoint is not None:
            end = State(fit.U, fit.U, None, fit.history[-1])
            reached = self.estimator.tol if fit.converged else None
            end = Progress(alpha, end, fit.history, moved, reached)
            self.checkpoint.keep(end, always=True)
        return fit, alpha

    def _first_guess(self):
        """A dictionary to start from, and the alpha to go on with."""
        if self.given is None:
            fit, alpha = self.on_sample.run()
            return fit.U, alpha
        if self.estimator.n_active is None:
            return self.given, self.on_sample.fixed_alpha()
        _, alpha = self.on_sample.fit_n_active(self.given)
        return self.given, alpha

    def _started(self, U):
        return State.start(self.problem, project_atoms(U))

    def _fit(self, progress, *, keep=False):
        """The fit that goes on from `progress`; the checkpoint is told of its iterations or not."""
        alpha, state, history, moved, _ = progress
        record = Record(self.callback, self.observer, history=list(history))

        def kept(state):
            if record.history[-1] >= state.F:  # what a move leads to is higher at first
                self.checkpoint.keep(Progress(alpha, state, record.history, moved))

        if keep and self.checkpoint is not None:
            record.keep = kept
        descent = Descent(
            replace(self.problem, alpha=alpha),
            self.estimator.tol,
            self.estimator.max_iter,
            self.random_state,
            record,
        )
        return refined(descent, state, moves=not moved)

    def _adjusted(self, fit, alpha):
        """The fit, or one near it with a better alpha where too many or too few are active."""
        target, upper = self.estimator.n_active, self.overview.longest
        missed_by = abs(self._n_active(fit, alpha) - target)
        if upper == 0.0 or missed_by <= 0.5 * N_ACTIVE_TOLERANCE * target:
            return fit, alpha

        def fit_at(trial, previous):
            start = fit if previous is None else previous
            found = self._fit(Progress(trial, self._started(start.U), [], moved=True))
            return found, self._n_active(found, trial)

        alpha, fit, _ = search_alpha(fit_at, upper, target, alpha)
        return fit, alpha

    def _n_active(self, fit, alpha):
        work = self.problem.work(CodePass, fit.U, alpha, exact=True)
        coding = self.problem.passes.reduce(work).statistics.coding
        return coding.n_active / self.problem.passes.shape[0]
