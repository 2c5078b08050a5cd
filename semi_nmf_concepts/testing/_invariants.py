"""The invariants, one small function each; the first line of its docstring is its description."""

import copy
import pickle

import numpy as np
from sklearn.base import clone
from sklearn.utils import get_tags

from ._case import SAME, numeric_warnings, quiet, require, require_close
from ._problem import ROUNDINGS, dictionary_of, is_array, to_numpy

#: Name -> function of a `Case`, in the order in which they are checked.
CHECKS = {}
#: Name -> attributes or parameters that an estimator needs for the invariant to make sense.
NEEDS = {}
#: Group -> names: what holds for any scikit-learn transformer, and for an exact solver of F.
GROUPS = {"general": (), "semi_nmf": ()}

#: Rows up to which X is repeated, so that blocks of rows and threads come into play.
_MANY_ROWS = 2500
#: Exponents between which data are scaled, so that squares neither overflow nor vanish.
_EXPONENTS = {"float32": 44, "float64": 230}


def invariant(group, *, needs=()):
    """Register a function as the invariant of its name."""

    def register(function):
        name = function.__name__
        CHECKS[name] = function
        NEEDS[name] = needs
        GROUPS[group] += (name,)
        return function

    return register


# What holds for any scikit-learn transformer with components_


@invariant("general")
def shapes(case):
    """components_ is (n_components, n_features), codes are (n_samples, n_components)."""
    n_samples, n_features = case.values.shape
    require(case.components.ndim == 2, f"components_ has {case.components.ndim} dimensions")
    n_components = case.components.shape[0]
    expected = (n_components, n_features)
    require(
        case.components.shape == expected,
        f"components_ has shape {case.components.shape}, expected {expected}",
    )
    expected = (n_samples, n_components)
    require(
        case.codes.shape == expected, f"codes have shape {case.codes.shape}, expected {expected}"
    )
    if hasattr(case.fitted, "get_feature_names_out"):
        n_names = len(case.fitted.get_feature_names_out())
        require(n_names == n_components, f"{n_names} output names for {n_components} components")


@invariant("general")
def finite(case):
    """components_ and codes have neither NaN nor infinity."""
    for name, array in (("components_", case.components), ("codes", case.codes)):
        n_bad = int(np.sum(~np.isfinite(array)))
        require(n_bad == 0, f"{n_bad} of {array.size} entries of {name} are not finite")


@invariant("general")
def dtype(case):
    """Precisions that the estimator says it preserves are those of components_ and codes."""
    tags = get_tags(case.estimator).transformer_tags
    given = case.values.dtype
    if tags is None or given.name not in tags.preserves_dtype:
        return
    for name, array in (("components_", case.components), ("codes", case.codes)):
        require(array.dtype == given, f"{name} are {array.dtype} for {given} data")


@invariant("general")
def repeatable_transform(case):
    """fit and transform leave X as it is, and the same X gets the same codes again."""
    fitted, X = case.fitted, case.array(case.values)
    with quiet():
        first, second = to_numpy(fitted.transform(X)), to_numpy(fitted.transform(X))
    for name, after in (("fit", case.values_after_fit), ("transform", to_numpy(X))):
        changed = int(np.sum(after != case.values))
        require(changed == 0, f"{name} changes {changed} entries of X")
    require_close(second, first, SAME * case.eps, "a second transform")


@invariant("general", needs=("inverse_transform",))
def reconstruction(case):
    """inverse_transform gives finite samples of the shape of X."""
    X = case.reconstruct(case.fitted, case.codes)
    require(X.shape == case.values.shape, f"shape {X.shape}, expected {case.values.shape}")
    n_bad = int(np.sum(~np.isfinite(X)))
    require(n_bad == 0, f"{n_bad} of {X.size} entries are not finite")


@invariant("general")
def same_seed(case):
    """Two fits with the same random_state give the same result."""
    case.require_same_result(case.fit(case.new()), "a second fit with the same random_state")


@invariant("general")
def clone_round_trip(case):
    """A clone of the fitted estimator has its parameters, is not fitted, and fits the same."""
    copy_ = clone(case.fitted)
    _require_same_parameters(copy_, case.fitted, "the clone")
    require(not hasattr(copy_, "components_"), "the clone is fitted")
    case.require_same_result(case.fit(copy_), "a fit of the clone")


@invariant("general")
def set_params_round_trip(case):
    """set_params on a default instance does what the same parameters of the constructor do."""
    try:
        other = type(case.estimator)()
    except TypeError:  # some parameter has no default
        other = clone(case.estimator)
    other.set_params(**case.new().get_params(deep=False))
    _require_same_parameters(other, case.estimator, "after set_params the estimator")
    case.require_same_result(case.fit(other), "a fit after set_params")


@invariant("general")
def pickle_round_trip(case):
    """A pickled and loaded estimator has the same parameters and attributes, and gives the same."""
    try:
        loaded = pickle.loads(pickle.dumps(case.fitted))
    except Exception as error:
        raise AssertionError(f"cannot be pickled and loaded: {error!r}") from error
    _require_same_state(case, loaded)


@invariant("general")
def skops_round_trip(case):
    """An estimator stored by skops has the same parameters and attributes, and gives the same."""
    if is_array(case.X):
        return  # skops stores no arrays of other libraries than NumPy
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            'The invariant "skops_round_trip" needs skops; install it with: '
            'pip install "semi_nmf_concepts[test]", or name the invariants to check.'
        ) from error
    try:
        stored = skops.io.dumps(case.fitted)
        loaded = skops.io.loads(stored, trusted=skops.io.get_untrusted_types(data=stored))
    except Exception as error:
        raise AssertionError(f"cannot be saved and loaded: {error!r}") from error
    _require_same_state(case, loaded)


# What holds for sparse Semi-NMF, and in part for others


@invariant("semi_nmf")
def fit_transform(case):
    """fit_transform returns the codes that transform gives afterwards."""
    estimator = case.new()
    with quiet():
        V = to_numpy(estimator.fit_transform(case.array(case.values)))
    require_close(to_numpy(estimator.components_), case.components, SAME * case.eps, "components_")
    W = case.transform(estimator)
    case.require_same_codes(V, W, case.values, "fit_transform against transform")


@invariant("semi_nmf", needs=("score",))
def score(case):
    """score is ``1 - ||X - inverse_transform(transform(X))||^2 / ||X - mean||^2``, at most 1."""
    with quiet():
        actual = float(case.fitted.score(case.array(case.values)))
    X = case.values.astype(np.float64)
    error = np.sum((X - case.reconstruct(case.fitted, case.codes)) ** 2)
    total = np.sum((X - X.mean(axis=0)) ** 2)
    require(np.isfinite(actual) and actual <= 1.0, f"score is {actual}")
    rounding = SAME * case.eps * np.sqrt(X.size) * np.sum(X**2)
    if total > rounding:  # otherwise there is nothing to explain but rounding
        allowed = (rounding + SAME * case.eps * error) / total
        expected = 1.0 - error / total
        require(abs(actual - expected) <= allowed, f"score is {actual}, expected {expected}")


@invariant("semi_nmf", needs=("inverse_transform",))
def linear_reconstruction(case):
    """inverse_transform(V) is ``V @ components_`` plus what inverse_transform(0) is."""
    zeros = np.zeros_like(case.codes)
    actual = case.reconstruct(case.fitted, case.codes).astype(np.float64)
    offset = case.reconstruct(case.fitted, zeros).astype(np.float64)
    V, U = case.codes.astype(np.float64), case.components.astype(np.float64)
    sizes = np.abs(V) @ np.abs(U) + np.abs(offset)
    worst = float(np.max(np.abs(actual - V @ U - offset) - SAME * case.eps * sizes))
    require(worst <= 0.0, f"entries differ by {worst:.3g} more than rounding explains")


@invariant("semi_nmf")
def no_numeric_warnings(case):
    """fit, transform, inverse_transform and score divide by no zero and overflow nowhere."""
    fitted, X = case.fitted, case.array(case.values)
    with numeric_warnings() as messages:
        V = fitted.transform(X)
        if hasattr(fitted, "inverse_transform"):
            fitted.inverse_transform(V)
        if hasattr(fitted, "score"):
            fitted.score(X)
    messages = case.warnings_of_fit + messages
    require(not messages, f"warnings: {messages}")


@invariant("semi_nmf")
def row_order(case):
    """With the dictionary fixed, the codes of a sample do not depend on where it stands in X."""
    random = np.random.default_rng(0).permutation(len(case.values))
    for order in (np.arange(len(case.values))[::-1], random):
        V = case.transform(case.fitted, case.values[order])
        case.require_same_codes(V, case.codes[order], case.values[order], "rows in other order")


@invariant("semi_nmf")
def batch_split(case):
    """With the dictionary fixed, the codes of a sample do not depend on the rest of its batch."""
    n_samples = len(case.values)
    for n_parts in {min(2, n_samples), min(5, n_samples), n_samples}:
        parts = np.array_split(case.values, n_parts)
        V = np.vstack([case.transform(case.fitted, part) for part in parts])
        case.require_same_codes(V, case.codes, case.values, f"X in {n_parts} parts")
    many, codes = _repeated(case)
    V = case.transform(case.fitted, many)
    case.require_same_codes(V, codes, many, f"X repeated to {len(many)} rows")
    if "batch_size" in case.estimator.get_params():
        fitted = copy.deepcopy(case.fitted).set_params(batch_size=3)
        V = case.transform(fitted)
        case.require_same_codes(V, case.codes, case.values, "batch_size=3")


@invariant("semi_nmf", needs=("n_jobs",))
def threads(case):
    """With the dictionary fixed, the codes do not depend on n_jobs."""
    many, codes = _repeated(case)
    for n_jobs in (1, 2, 3):
        fitted = copy.deepcopy(case.fitted).set_params(n_jobs=n_jobs)
        case.require_same_codes(case.transform(fitted, many), codes, many, f"n_jobs={n_jobs}")


@invariant("semi_nmf")
def nonnegative_codes(case):
    """Codes are not negative: ``V >= 0``."""
    V = case.transform(case.fitted, case.more_values)
    lowest = np.unravel_index(np.argmin(V), V.shape)
    require(V[lowest] >= 0.0, f"the code of sample {lowest[0]}, atom {lowest[1]} is {V[lowest]}")


@invariant("semi_nmf")
def atom_norms(case):
    """Atoms are at most 1 long: ``norm(dictionary_[k]) <= 1``."""
    lengths = np.linalg.norm(dictionary_of(case.fitted), axis=1)
    k = int(np.argmax(lengths))
    require(lengths[k] <= 1.0 + ROUNDINGS * case.eps, f"atom {k} is {lengths[k]:.9g} long")


@invariant("semi_nmf")
def optimal_codes(case):
    """Codes minimise F: their KKT violation, computed in float64, is below the tolerance."""
    values = case.more_values
    V = case.transform(case.fitted, values).astype(np.float64)
    problem = case.problem(values)
    violations, allowed = problem.violations(V), problem.allowed_violations(V)
    i = int(np.argmax(violations - allowed))
    require(
        violations[i] <= allowed[i],
        f"the projected gradient of sample {i} is {violations[i]:.3g}; {allowed[i]:.3g} is allowed",
    )
    reported = getattr(case.fitted, "kkt_violation_", None)
    if reported is not None:
        scale = np.max(np.abs(problem.correlations), axis=1)
        limit = np.max(np.divide(allowed, scale, out=np.zeros_like(scale), where=scale > 0.0))
        require(reported <= limit, f"kkt_violation_ is {reported:.3g}; {limit:.3g} is allowed")


@invariant("semi_nmf")
def objective_history(case):
    """The objective never rises: objective_history_ falls, and each fit ends where its own ends.

    The history alone could not show a rise if it recorded lowest values only. So fits that stop
    early must end, by their components and the optimal codes, as low as their histories say.
    """
    fits = [case.fitted]
    if "max_iter" in case.estimator.get_params():
        fits += [case.fit(case.new(max_iter=max_iter)) for max_iter in (2, 5)]
    for fitted in fits:
        history = np.asarray(fitted.objective_history_, dtype=np.float64)
        require(history.ndim == 1 and history.size, f"history of shape {history.shape}")
        t = int(np.argmax(np.diff(history, prepend=history[0])))
        rise = history[t] - history[t - 1] if t else 0.0
        rounding = ROUNDINGS * np.finfo(np.float64).eps * history[t]
        require(rise <= rounding, f"F rises by {rise:.3g} to {history[t]:.9g} at iteration {t}")
        _require_objective(case, fitted, history)


def _require_objective(case, fitted, history):
    """`objective_`, and the end of the history, are F at the dictionary and its codes."""
    problem = case.problem(fitted=fitted)
    V = case.transform(fitted).astype(np.float64)
    F = problem.objective(V)
    n_iter = len(history) - 1
    slack = case.tolerance * F + problem.objective_rounding(V)
    require(
        abs(fitted.objective_ - F) <= slack,
        f"objective_ is {fitted.objective_:.9g} after {n_iter} iterations, but F is {F:.9g}",
    )
    slack += getattr(fitted, "tol", 0.0) * F
    require(
        history[-1] >= F - slack,
        f"F is {F:.9g} after {n_iter} iterations, above {history[-1]:.9g}, where the history ends",
    )


@invariant("semi_nmf")
def alpha_max(case):
    """Codes are all zero for ``alpha >= max(0, max X U^T)``, and not for slightly less."""
    problem = case.problem()
    limit = max(float(np.max(problem.correlations)), 0.0)
    rounding = float(np.max(problem.rounding(np.zeros((len(problem.X), len(problem.U))))))
    V = case.transform(case.altered(alpha=limit + rounding))
    n_active = np.count_nonzero(V)
    require(n_active == 0, f"{n_active} codes are not zero at the largest correlation, {limit:.9g}")
    below = limit * (1.0 - 4.0 * case.tolerance) - 2.0 * rounding
    if below > 0.0:
        V = case.transform(case.altered(alpha=below))
        require(V.any(), f"all codes are zero at alpha={below:.9g}, below {limit:.9g}")


@invariant("semi_nmf")
def orthogonal_atoms(case):
    """If u_k has norm 1 and is orthogonal to the other atoms, c u_k has the codes (c - alpha) e_k.

    Zeros for c <= alpha. The dictionary of a copy of the fitted estimator is made orthonormal, with
    atoms of zeros where there are more atoms than dimensions.
    """
    problem = case.problem()
    orthonormal = np.linalg.qr(problem.U.T)[0].T
    U = np.zeros_like(problem.U)
    U[: len(orthonormal)] = orthonormal
    typical = float(np.median(np.linalg.norm(problem.X, axis=1))) or 1.0
    alpha = problem.alpha
    lengths = np.array([0.5 * alpha, 2.0 * alpha, alpha + typical])
    directions, fitted = _with_dictionary(case, U)
    steps = np.repeat(lengths, len(orthonormal))
    rows = np.tile(directions[: len(orthonormal)], (len(lengths), 1)) * steps[:, None]
    values = (rows + to_numpy(getattr(case.fitted, "offset_", 0.0))).astype(case.values.dtype)
    expected = np.tile(np.eye(len(orthonormal), len(U)), (len(lengths), 1))
    expected *= np.maximum(steps - alpha, 0.0)[:, None]
    V = case.transform(fitted, values)
    problem = case.problem(values, fitted)
    allowed = 4.0 * np.sqrt(len(U)) * problem.allowed_violations(expected)
    worst = np.max(np.abs(V - expected), axis=1) - allowed
    i = int(np.argmax(worst))
    require(
        worst[i] <= 0.0,
        f"c={steps[i]:.9g}, alpha={alpha:.9g} gives {V[i]}, expected {expected[i]}",
    )


def _with_dictionary(case, U):
    """U as directions of the input space, and a copy of the fitted estimator that has it."""
    axes = getattr(case.fitted, "whitening_axes_", None)
    directions = U
    if axes is not None:
        directions = (U * to_numpy(case.fitted.whitening_scale_)) @ to_numpy(axes)
    dtype = case.components.dtype
    fitted = case.altered(components_=directions.astype(dtype), dictionary_=U.astype(dtype))
    return directions, fitted


@invariant("semi_nmf")
def zero_rows(case):
    """Samples of zeros (after centring, if there is any) have zero codes."""
    offset = to_numpy(getattr(case.fitted, "offset_", np.zeros(case.values.shape[1])))
    values = np.tile(offset.astype(case.values.dtype), (2, 1))
    V = case.transform(case.fitted, np.vstack([values, case.values]))[:2]
    require(not V.any(), f"the codes are {V[0]}")


@invariant("semi_nmf", needs=("alpha",))
def scale_equivariance(case):
    """(c X, c alpha) from the same start gives the same atoms and c times the codes.

    Exactly so for powers of two, which are exact in floating point. For other c rounding may lead
    the fit to another local minimum; there the codes on the same dictionary are compared. A
    relative alpha stays as it is. Whitened data do not depend on c at all: there the codes stay and
    components_ are scaled.
    """
    parameters = _fixed_alpha(case)
    first = case.fit(case.new(**parameters)) if parameters else case.fitted
    U, V = to_numpy(first.components_), case.transform(first)
    whitened = getattr(first, "whitening_axes_", None) is not None
    for c in _powers_of_two(case.values):
        estimator = case.new(**parameters)
        estimator.set_params(**_scaled_parameters(estimator, c, whitened))
        scaled = case.fit(estimator, c * case.values)
        factor = _scale_of_components(case, c, whitened)
        what = f"X times {c:.6g}"
        actual = to_numpy(scaled.components_) / factor
        require_close(actual, U, SAME * case.eps, f"{what}, components_")
        actual = case.transform(scaled, c * case.values) / (1.0 if whitened else c)
        require_close(actual, V, SAME * case.eps, f"{what}, codes")
    _require_scaled_codes(case, 3.0, whitened)


def _fixed_alpha(case):
    """Parameters that make alpha the one found, where it does not follow the scale exactly.

    A search for `n_active` ends within its tolerance; a median row norm of 0 has no scale.
    """
    estimator = case.estimator
    searched = getattr(estimator, "n_active", None) is not None
    relative = getattr(estimator, "alpha_scale", "absolute") == "relative"
    no_scale = not np.median(np.linalg.norm(case.problem().X, axis=1)) > 0.0
    if not (searched or (relative and no_scale)):
        return {}
    return {"n_active": None, "alpha": case.problem().alpha, "alpha_scale": "absolute"}


def _scale_of_components(case, c, whitened):
    """By what components_ are scaled; data without variance are whitened by an arbitrary scale."""
    return c if whitened and np.ptp(case.values, axis=0).any() else 1.0


def _require_scaled_codes(case, c, whitened):
    """The codes of c X on the same dictionary, for any c."""
    attributes = {
        name: c * to_numpy(getattr(case.fitted, name))
        for name in ("offset_", "whitening_scale_")
        if getattr(case.fitted, name, None) is not None
    }
    factor = 1.0 if whitened else c
    scaled = case.altered(alpha=factor * case.problem().alpha, **attributes)
    values = (c * case.values).astype(case.values.dtype)
    V = case.transform(scaled, values)
    what = f"X times {c:.6g} on the same dictionary"
    case.require_same_codes(V, factor * case.codes, values, what, case.problem(values, scaled))


def _powers_of_two(values):
    """A small and a large one, or that which leaves the squares of the entries in the range."""
    limit = _EXPONENTS[values.dtype.name]
    largest = float(np.max(np.abs(values), initial=0.0))
    exponent = np.frexp(largest)[1] if largest > 0.0 else 0
    exact = {s: np.array_equal(np.ldexp(np.ldexp(values, s), -s), values) for s in (-20, 20)}
    kept = [step for step in exact if exact[step] and abs(exponent + step) <= limit]
    return [2.0**step for step in kept or [int(-20 * np.sign(exponent))]]


def _scaled_parameters(estimator, c, whitened):
    """What the scale c of X asks of the parameters."""
    if whitened:  # directions of the input space become longer, the penalty stays
        given = not isinstance(getattr(estimator, "init", "random"), str)
        return {"init": c * np.asarray(estimator.init)} if given else {}
    relative = getattr(estimator, "alpha_scale", "absolute") == "relative"
    return {} if relative else {"alpha": c * estimator.alpha}


def _repeated(case):
    """X repeated to many rows, and its codes."""
    times = -(-_MANY_ROWS // len(case.values))
    return np.tile(case.values, (times, 1)), np.tile(case.codes, (times, 1))


def _require_same_state(case, loaded):
    """Parameters, numbers and arrays of the fitted estimator are those of the loaded one."""
    _require_same_parameters(loaded, case.fitted, "the loaded estimator")
    for name, value in vars(case.fitted).items():
        if name.endswith("_") and (is_array(value) or isinstance(value, np.ndarray | int | float)):
            require(hasattr(loaded, name), f"the loaded estimator has no {name}")
            found, expected = np.asarray(to_numpy(getattr(loaded, name))), to_numpy(value)
            require(
                np.array_equal(found, expected, equal_nan=True),
                f"{name} is {found}, not {expected}",
            )
    case.require_same_result(loaded, "the loaded estimator")


def _require_same_parameters(actual, expected, who):
    actual, expected = actual.get_params(deep=False), expected.get_params(deep=False)
    require(actual.keys() == expected.keys(), f"{who} has parameters {sorted(actual)}")
    for name, value in expected.items():
        found = actual[name]
        require(_same_parameter(found, value), f"{who} has {name}={found!r}, not {value!r}")


def _same_parameter(a, b):
    """Equal values; of objects such as estimators and random states only the types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b or not isinstance(a, int | float | str | bool | None | tuple | list | dict)
