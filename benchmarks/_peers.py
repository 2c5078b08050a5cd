"""How each method is run: this package and its peers, each with the protocol that suits it best.

Every function takes a Problem and returns a Trajectory. All run on one thread. None starts with an
advantage: this package and SPAMS draw samples by the seed, scikit-learn and overcomplete start as
they do by default (from the singular vectors; from random codes).
"""

import contextlib
import importlib
import importlib.util
import sys
import time
import types
import warnings

import numpy as np
from sklearn.decomposition import DictionaryLearning, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd

from benchmarks._trajectories import Clock, Enough, Trajectory, is_flat
from semi_nmf_concepts import SemiNMFConcepts

OURS = "SemiNMFConcepts"
NO_END = 10**9  # iterations; the clock ends the run
_FOREVER = {"until_flat": False}
#: SPAMS is asked for this many iterations first, and twice as many in every further run.
_SPAMS_FIRST = 5
#: A time to a target is known when the numbers of iterations around it differ by this factor.
_SPAMS_RESOLUTION = 1.06


def ours(problem, *, limit=np.inf, spacing=1.05, **_):
    """SemiNMFConcepts with its defaults, from start to its own end."""

    def model():
        return SemiNMFConcepts(problem.n_components, alpha=problem.alpha, random_state=problem.seed)

    def again(number):
        clock = Clock(problem, **_FOREVER, spacing=np.inf)
        calls = 0

        def count(get_dictionary):
            nonlocal calls
            calls += 1
            if calls == number:
                clock.finish(None)
                raise Enough

        clock.start()
        with contextlib.suppress(Enough):
            clock.finish(model()._fit(problem.X, observer=count))
        return clock.trajectory.seconds

    clock = Clock(problem, **_FOREVER, spacing=spacing)
    fitted = model()
    clock.start()
    fitted._fit(problem.X, observer=clock.lap)
    clock.finish(fitted.components_)
    clock.trajectory.again = again
    return clock.trajectory


def dictionary_learning(problem, *, limit, spacing=1.05, **_):
    """scikit-learn's DictionaryLearning, one iteration at a time.

    Codes and dictionary are all its state, so that fits of one iteration, each from the codes and
    the dictionary of the last, are one fit of many, with a look at every iteration. Its start, the
    singular vectors, comes from the randomised algorithm: the full decomposition that it would
    compute takes longer and gives the same K vectors.
    """
    X, K = problem.X, problem.n_components
    random_state = np.random.RandomState(problem.seed)
    learner = DictionaryLearning(
        K,
        alpha=problem.alpha,
        positive_code=True,
        fit_algorithm="cd",
        transform_algorithm="lasso_cd",
        max_iter=1,
        tol=0.0,
        random_state=random_state,
    )
    clock = Clock(problem, limit=limit, spacing=spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # thousands of them
        clock.start()
        codes, singular, axes = randomized_svd(X, K, random_state=random_state)
        learner.set_params(code_init=codes, dict_init=singular[:, np.newaxis] * axes)
        try:
            while True:
                codes = learner.fit_transform(X)
                learner.set_params(code_init=codes, dict_init=learner.components_)
                clock.lap(lambda: learner.components_)
        except Enough:
            return clock.trajectory


def minibatch_dictionary_learning(problem, *, limit, spacing=1.05, **_):
    """scikit-learn's MiniBatchDictionaryLearning, its own tests of convergence off."""
    clock = Clock(problem, limit=limit, spacing=spacing)
    learner = MiniBatchDictionaryLearning(
        problem.n_components,
        alpha=problem.alpha,
        positive_code=True,
        fit_algorithm="cd",
        max_iter=NO_END,
        tol=0.0,
        max_no_improvement=None,
        random_state=problem.seed,
        callback=lambda state: clock.lap(lambda: state["dictionary"]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clock.start()
        with contextlib.suppress(Enough):
            learner.fit(problem.X)
    return clock.trajectory


class SpamsTrajectory(Trajectory):
    """Runs of SPAMS' trainDL, each from the start: it shows its dictionary only at the end.

    Its sums can be handed over to a next run, but not the order of the samples: only whole runs are
    what a user gets. `Lap.number` is the number of iterations.
    """

    def __init__(self, problem, batch):
        super().__init__(problem)
        self.batch = batch
        self.start = np.asfortranarray(problem.starting_atoms().T)
        self.again = lambda iterations: self.train(iterations)[0]

    def train(self, iterations):
        """(seconds, dictionary) of one run."""
        import spams

        started = time.process_time()
        atoms = spams.trainDL(
            self.problem.X.T,
            D=self.start.copy(order="F"),
            lambda1=self.problem.alpha,
            iter=iterations,
            posAlpha=True,
            modeD=0,
            batch=self.batch,
            numThreads=1,
            verbose=False,
        )
        return time.process_time() - started, atoms.T

    def run(self, limit):
        """Double the iterations until F* is flat or the limit is reached."""
        iterations, F_before = _SPAMS_FIRST, np.inf
        while True:
            seconds, U = self.train(iterations)
            self.add(iterations, seconds, U)
            F = self.score(-1)
            if is_flat(seconds, F_before, F):
                self.end = "converged"
                return self
            if seconds > 0.9 * limit:
                self.end = "censored"
                return self
            F_before = F
            iterations = int(np.ceil(iterations * min(2.0, 1.05 * limit / seconds)))

    def first_reaching(self, target):
        """As for any trajectory, after runs with numbers of iterations between those there are."""
        while True:
            # In order of iterations, whenever they were run.
            order = sorted(range(len(self.laps)), key=lambda index: self.laps[index].number)
            place = next((i for i, index in enumerate(order) if self.scores[index] <= target), None)
            if place is None:
                return None
            high = self.laps[order[place]].number
            low = self.laps[order[place - 1]].number if place else 1
            middle = int(round(np.sqrt(low * high)))
            if high <= _SPAMS_RESOLUTION * low or not low < middle < high:
                return order[place]
            self.add(middle, *self.train(middle))
            self.score(-1)


def spams_online(problem, *, limit, **_):
    """SPAMS' online algorithm, mini-batches of its default size."""
    return SpamsTrajectory(problem, batch=False).run(limit)


def spams_batch(problem, *, limit, **_):
    """SPAMS' batch algorithm."""
    return SpamsTrajectory(problem, batch=True).run(limit)


def overcomplete_mu(problem, *, limit, goal=-np.inf, **_):
    """overcomplete's SemiNMF by multiplicative updates (their state is codes and dictionary)."""
    import torch

    solvers = overcomplete_solvers()
    X = torch.from_numpy(problem.X)
    torch.manual_seed(problem.seed)
    model = solvers.SemiNMF(problem.n_components, solver="mu")
    clock = Clock(problem, limit=limit, goal=goal, **_FOREVER)
    clock.start()
    V = model.init_random_z(X)
    U = model.init_random_d(X, V)
    try:
        while True:
            V, U = solvers.snmf_multiplicative_update(X, V, U, max_iter=1, tol=0.0)
            clock.lap(U.numpy)
    except Enough:
        return clock.trajectory


def overcomplete_pgd(problem, *, limit, goal=-np.inf, **_):
    """overcomplete's SemiNMF by Adam with projection, watched through a hook on the optimiser."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    model = overcomplete_solvers().SemiNMF(problem.n_components, solver="pgd", tol=0.0)
    clock = Clock(problem, limit=limit, goal=goal, **_FOREVER)

    def look(optimizer, *_):
        clock.lap(lambda: optimizer.param_groups[0]["params"][1].detach().numpy())

    hook = register_optimizer_step_post_hook(look)
    torch.manual_seed(problem.seed)
    clock.start()
    try:
        model.fit(torch.from_numpy(problem.X), max_iter=NO_END)
    except Enough:
        pass
    finally:
        hook.remove()
    return clock.trajectory


def overcomplete_solvers():
    """overcomplete's module of SemiNMF, without the vision models that its package imports."""
    if "overcomplete" not in sys.modules:
        package = types.ModuleType("overcomplete")
        spec = importlib.util.find_spec("overcomplete")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
        sys.modules["overcomplete"] = package
    return importlib.import_module("overcomplete.optimization.semi_nmf")


#: Methods by name for alpha > 0, this package first, and for alpha = 0.
SPARSE = {
    OURS: ours,
    "SPAMS online": spams_online,
    "SPAMS batch": spams_batch,
    "DictionaryLearning": dictionary_learning,
    "MiniBatchDictionaryLearning": minibatch_dictionary_learning,
}
PLAIN = {OURS: ours, "overcomplete mu": overcomplete_mu, "overcomplete pgd": overcomplete_pgd}
_NEEDS = {"SPAMS": "spams", "overcomplete": "overcomplete"}


def missing(method):
    """Why a method cannot run here, or None."""
    module = _NEEDS.get(method.split()[0])
    if module is None or importlib.util.find_spec(module) is not None:
        return None
    return "not installed (see benchmarks/requirements.txt)"


def warm_up(methods):
    """Run every method on very little: compiles kernels, imports what is imported late."""
    from benchmarks._trajectories import Problem

    X = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    for alpha in (1.0, 0.0):
        problem = Problem(X, 3, alpha, seed=0)
        for method in (SPARSE if alpha else PLAIN).keys() & methods:
            (SPARSE if alpha else PLAIN)[method](problem, limit=0.02).score_all()
