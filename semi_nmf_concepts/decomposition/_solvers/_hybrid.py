"""The algorithm: alternate between codes and dictionary, faster and further than plain alternation.

Minimising F over V for a fixed U is a convex problem per sample, and so is minimising it over U for
fixed V; together they are not convex, and plain alternation is slow and stops early. So

1. **Subspace** (`_subspace`). Data with many more features than atoms are first projected on their
   leading directions; step 4 is then repeated on the data themselves.
2. **Online steps** (`_online`): from a given start, or growing the dictionary by atoms for what is
   explained worst.
3. **Search** (`_search`, `_moves`) on a sample of the data, out of the points where alternation
   stands still. Where codes are sparse, moves: atoms are added, the larger dictionary settles, and
   those that cost least to do without go; with few atoms two further searches follow, each from a
   start of its own. Where codes are dense, so that many atoms share every job and moves lead
   nowhere, a tournament of random starts.
4. **Batch iterations** (`_problem`) on all data: codes are computed not at the dictionary U_t but
   at the extrapolated ``Y = U_t + beta (U_t - U_{t-1})``. If F at Y is higher than at U_t, the step
   is undone, beta is halved and the momentum restarts, so F never increases.
"""

from dataclasses import replace

from .._objective import project_atoms, row_norms
from ._cone import cone_dictionary
from ._descent import Descent, Record
from ._problem import Problem, State
from ._search import Search, moved, sample
from ._subspace import reduced

#: In the subspace iterations end at this relative decrease: those on the data themselves follow.
_SUBSPACE_TOL = 1e-5
#: Without a penalty, a fit this close to the lower bound is as good as any.
_BOUND_REACHED = 1e-5
#: What a further search finds on the sample is taken up if it is lower by this share.
_CLEARLY = 1e-3


def fit_dictionary(
    backend,
    X,
    U,
    alpha,
    *,
    n_components=None,
    squared_norm=None,
    max_iter,
    tol,
    random_state,
    warm_up=True,
    moves=True,
    batch_size=None,
    forgetting=None,
    callback=None,
    observer=None,
):
    """Minimise F over dictionary and codes, from the dictionary U.

    Parameters
    ----------
    backend : Backend
    X : (n_samples, n_features) array, float32 or float64
    U : (n_components, n_features) array or None
        Starting dictionary; not modified. None: one is grown (needs `warm_up`).
    alpha : float
        Penalty on the codes.
    n_components : int, optional
        Size of the dictionary where U is None.
    squared_norm : float, optional
        ``||X||^2`` where it is known.
    max_iter : int
        Bound on the batch iterations on all samples.
    tol : float
        The iterations end when F decreases by at most ``tol * F`` twice in a row.
    random_state : numpy.random.RandomState
        Draws mini-batches and candidates for new atoms.
    warm_up : bool
        Whether U is only a rough start (off where it is worth keeping as it is).
    moves : bool
        Whether to try moves out of stationary points.
    batch_size, forgetting : int and float, optional
        Of the online steps.
    callback : callable, optional
        Called as ``callback(U, V, F, alpha)`` after each batch iteration on all samples.
    observer : callable, optional
        Called often, with a function that returns the present dictionary.

    Returns
    -------
    DictionaryFit
    """
    if squared_norm is None:
        squared_norm = float((row_norms(X) ** 2).sum())
    problem = Problem(backend, X, float(alpha), squared_norm)
    record = Record(callback, observer)
    descent = Descent(problem, tol, max_iter, random_state, record)
    if not warm_up:
        return refined(descent, State.start(problem, project_atoms(U)), moves=moves)
    n_components = n_components if U is None else U.shape[0]
    if alpha == 0.0 and U is None:
        state = _bottom_of_plain(descent, n_components)
        if state is not None:
            return record.fit(state)
    small, record.basis = reduced(problem, n_components, random_state)
    search = Search(small, n_components, batch_size, forgetting, max_iter, random_state, record)
    U = search.started(None if U is None else project_atoms(record.projected(U)))
    state = _searched(descent, search, U) if moves else _descended(descent, small, U)
    return record.fit(state)


def refined(descent, state, *, moves):
    """The fit that batch iterations, and perhaps moves, lead to from a state worth keeping."""
    state = descent.run(state)
    return descent.record.fit(moved(descent, state) if moves else state)


def _bottom_of_plain(descent, n_components):
    """Without a penalty: a state whose F is the least possible, or None where none was found."""
    problem = descent.problem
    if not problem.squared_norm > 0.0:
        return None
    U, bound = cone_dictionary(problem, n_components, descent.random_state)
    if U.shape[0] < n_components:
        return None
    descent.record.observe(U)
    state = descent.run(State.start(problem, U))
    is_least = state.F - bound <= _BOUND_REACHED * bound + problem.resolution
    return state if is_least else None


def sketch(backend, X, n_components, random_state):
    """Some of the samples in a small space, for rough questions, and its basis (see `reduced`)."""
    problem = sample(Problem(backend, X, 0.0, 0.0), n_components, random_state)
    small, basis = reduced(problem, n_components, random_state)
    return small.X, basis


def _searched(descent, search, U):
    """The best state that searches from U and, with few atoms, from further starts lead to."""
    record = descent.record
    found = search.found(U)
    state = _descended(descent, search.problem, found.U)
    for _ in range(search.n_further):
        other = search.found(search.started())
        if descent.left > 0 and other.F < (1.0 - _CLEARLY) * found.F:
            converged, found = record.converged, other
            lower = _descended(descent, search.problem, other.U)
            if lower.F < state.F:
                state = lower
            else:
                record.converged = converged
    return state


def _descended(descent, small, U):
    """The state after batch iterations from U, in the subspace first where there is one."""
    record = descent.record
    if small is descent.problem:
        return descent.run(State.start(small, U))
    coarse = replace(descent, problem=small, tol=max(descent.tol, _SUBSPACE_TOL))
    state = coarse.run(State.start(small, U))
    basis = record.basis
    U, record.basis = record.lifted(state.U), None
    state = descent.run(State.start(descent.problem, U, state.V))
    record.basis = basis
    return state
