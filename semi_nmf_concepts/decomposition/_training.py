"""One call of fit: starts, restarts and the search for alpha."""

from ._alpha_search import TOLERANCE as N_ACTIVE_TOLERANCE
from ._alpha_search import search_alpha
from ._arrays import as_float64
from ._encode import improve_codes
from ._init import initial_dictionary
from ._solvers import fit_dictionary, sketch


class Trainer:
    """Finds a dictionary, and alpha where that is asked for.

    Parameters
    ----------
    estimator : SemiNMFConcepts
        For its parameters.
    backend : Backend
    X : working array of shape (n_samples, n_features)
        Data in the space of the factorisation.
    row_norms : working array of shape (n_samples,)
    given : working array or None
        Start in the place of the one that `init` names.
    random_state : numpy.random.RandomState
    callback, observer : callable or None
        See `fit_dictionary`.
    median_norm : float, optional
        That of the rows, where X is a sample of more of them.
    **options
        Of `fit_dictionary`, in the place of the estimator's parameters.
    """

    def __init__(
        self,
        estimator,
        backend,
        X,
        row_norms,
        given,
        random_state,
        callback=None,
        observer=None,
        median_norm=None,
        **options,
    ):
        self.estimator = estimator
        self.backend = backend
        self.X = X
        self.row_norms = row_norms
        self.given = given
        self.random_state = random_state
        self.median_norm = median(row_norms) if median_norm is None else median_norm
        self.options = {
            "n_components": estimator.n_components,
            "max_iter": estimator.max_iter,
            "tol": estimator.tol,
            "random_state": random_state,
            "callback": callback,
            "observer": observer,
            "batch_size": estimator.batch_size,
            "forgetting": estimator.forgetting,
            "squared_norm": float((row_norms**2).sum()),
            **options,
        }

    def run(self):
        """The best fit and its alpha."""
        U = self._first_dictionary()
        if self.estimator.n_active is None:
            alpha = self.fixed_alpha()
            return self._best_start(self._fit(U, alpha, warm_up=self.given is None), alpha), alpha
        fit, alpha = self.fit_n_active(U)
        best = self._best_start(fit, alpha)
        return (fit, alpha) if best is fit else self._adjusted(best, alpha)

    def first_guess(self):
        """A dictionary for online learning to start from, and the alpha to learn with.

        That of a short fit: learning on from it ends lower than from what `init` names, and sooner.
        A given start stays as it is, unless alpha has to be found.
        """
        if self.estimator.n_active is not None:
            fit, alpha = self.fit_n_active(self._first_dictionary())
            return fit.U, alpha
        alpha = self.fixed_alpha()
        if self.given is not None:
            return self.given, alpha
        return self._fit(self._first_dictionary(), alpha, moves=False).U, alpha

    def _first_dictionary(self):
        return self.given if self.given is not None else self._start(self.estimator.init)

    def fixed_alpha(self):
        """The penalty that `alpha` and `alpha_scale` stand for."""
        if self.estimator.alpha_scale == "absolute":
            return float(self.estimator.alpha)
        return float(self.estimator.alpha) * (self.median_norm or 1.0)

    def fit_n_active(self, U):
        """The fit with `n_active` active atoms, from the start U, and its alpha.

        Some samples in a small space show roughly which alpha that is; then all of X is fitted.
        """
        upper = float(self.row_norms.max())
        if upper == 0.0:
            return self._fit(U, 0.0), 0.0
        K = self.estimator.n_components
        X, basis = sketch(self.backend, self.X, K, self.random_state)
        small = U if U is None or basis is None else U @ basis
        _, alpha = self._search(X, small, None, upper, squared_norm=None)
        return self._adjusted(self._fit(U, alpha, warm_up=self.given is None), alpha)

    def _adjusted(self, fit, alpha):
        """The fit, or one near it with a better alpha where too many or too few are active."""
        target = self.estimator.n_active
        if abs(self._n_active(self.X, fit, alpha) - target) <= 0.5 * N_ACTIVE_TOLERANCE * target:
            return fit, alpha
        return self._search(self.X, fit.U, alpha, float(self.row_norms.max()))

    def _start(self, init):
        if init == "grow":
            return None  # the solver starts from nothing
        return initial_dictionary(self.X, self.estimator.n_components, init, self.random_state)

    def _fit(self, U, alpha, **options):
        return fit_dictionary(self.backend, self.X, U, alpha, **self.options, **options)

    def _best_start(self, fit, alpha):
        """The best of `fit` and of the further starts that n_init asks for."""
        if self.given is not None:
            return fit
        init = self.estimator.init
        for _ in range(self.estimator.n_init - 1):
            other = self._fit(self._start("k-means++" if init == "svd" else init), alpha)
            if other.history[-1] < fit.history[-1]:
                fit = other
        return fit

    def _search(self, X, U, alpha, upper, **options):
        """Search alpha, from a first guess or from nothing; every fit continues the last one."""
        options = {**self.options, **options, "callback": None, "observer": None}

        def fit_at(trial, previous):
            rough = previous is None and alpha is None and self.given is None
            start = U if previous is None else previous.U
            fit = fit_dictionary(
                self.backend, X, start, trial, warm_up=rough, moves=rough, **options
            )
            return fit, self._n_active(X, fit, trial)

        alpha, fit, _ = search_alpha(fit_at, upper, self.estimator.n_active, alpha)
        return fit, alpha

    def _n_active(self, X, fit, alpha):
        coding = improve_codes(self.backend, X, fit.U, alpha, fit.V)
        return coding.n_active / X.shape[0]


def median(values):
    """The median of a working array; the array API standard has none."""
    n = values.shape[0]
    ordered = as_float64(values)[values.argsort()]
    return 0.5 * float(ordered[(n - 1) // 2] + ordered[n // 2])
