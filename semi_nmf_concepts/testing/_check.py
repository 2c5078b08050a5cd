"""What users call: which invariants apply, and what is said of one that is violated."""

from types import MappingProxyType

import numpy as np
from sklearn.utils import get_tags

from ._case import TOLERANCE, Case, declares
from ._invariants import CHECKS, NEEDS
from ._invariants import GROUPS as _GROUPS

#: Name of every invariant -> what it says, in one line.
INVARIANTS = MappingProxyType({name: f.__doc__.splitlines()[0] for name, f in CHECKS.items()})
#: Groups of invariants that an estimator can declare by one name: "general" holds for any
#: scikit-learn transformer with ``components_``, "semi_nmf" for an exact solver of sparse Semi-NMF.
GROUPS = MappingProxyType(_GROUPS)

#: Up to so many entries X is printed in full in the message of a violation.
_PRINTED_SIZE = 300


def check_factorization_invariants(estimator, X, invariants="all", *, tolerance=None):
    """Check what should hold of a decomposer on the data X.

    Clones of `estimator` are fitted on X some ten times; the estimator itself stays as it is.
    Parameters ``random_state`` that are None become 0. X should be small: the point is many kinds
    of data, such as `matrices` draws, and not large data.

    **Which invariants apply** the estimator says itself, in a method that returns names of
    `INVARIANTS` and `GROUPS` (and may look at its parameters)::

        def __factorization_invariants__(self):
            return ["general", "nonnegative_codes", "row_order"]

    For one that does not say, those of the group "general" are checked, and "nonnegative_codes"
    where the tags of the estimator ask for non-negative data or its parameter ``positive_code`` is
    set. Invariants of a group that need a method or parameter that the estimator does not have are
    left out.

    Those of the group "semi_nmf" read ``dictionary_`` (atoms in the space of the factorisation,
    otherwise ``components_``), ``alpha_`` (otherwise the parameter ``alpha``), ``offset_`` (what is
    subtracted from X, otherwise nothing), ``whitening_axes_`` and ``whitening_scale_`` (otherwise
    no whitening), ``objective_`` and ``objective_history_``; "with the dictionary fixed" means that
    these are changed in a copy of the fitted estimator.

    Parameters
    ----------
    estimator : estimator
        With ``fit``, ``transform`` and, once fitted, ``components_``.
    X : array-like of shape (n_samples, n_features)
        Arrays of torch, CuPy and other array API libraries are handed on as they are.
    invariants : "all", str or list of str, default="all"
        Names of invariants or groups; "all" stands for those that apply.
    tolerance : float, default=None
        Accuracy of the codes relative to ``max_k |x . u_k|``; None stands for 1e-4 in float32 and
        1e-7 in float64. What rounding may do beyond it is worked out from the data.

    Raises
    ------
    AssertionError
        An invariant is violated: its name, the figures, and how to see it again.
    ValueError
        A name is unknown, or an invariant asked for by name cannot be checked on this estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from semi_nmf_concepts.testing import check_factorization_invariants
    >>> X = np.random.default_rng(0).standard_normal((20, 4))
    >>> check_factorization_invariants(PCA(2), X)
    >>> check_factorization_invariants(PCA(2), X, ["nonnegative_codes"])
    Traceback (most recent call last):
        ...
    AssertionError: PCA violates 'nonnegative_codes'...
    """
    names = applicable_invariants(estimator)
    try:
        case = Case(estimator, X, tolerance, declared=names)
    except RuntimeError as error:  # what scikit-learn's clone raises
        who = type(estimator).__name__
        raise AssertionError(f"{who} violates 'clone_round_trip': {error}") from error
    if not (isinstance(invariants, str) and invariants == "all"):
        names = _expand(invariants, estimator, "invariants")
    for name in names:
        try:
            CHECKS[name](case)
        except AssertionError as error:
            raise AssertionError(_report(name, error, case)) from error
        except Exception as error:
            error.add_note(f"While checking {name!r}. {_how_to_reproduce(name, case)}")
            raise


def applicable_invariants(estimator):
    """Names of the invariants that ``check_factorization_invariants(estimator, X)`` checks.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> from sklearn.decomposition import NMF, PCA
    >>> from semi_nmf_concepts.testing import applicable_invariants
    >>> set(applicable_invariants(NMF())) - set(applicable_invariants(PCA()))
    {'nonnegative_codes'}
    """
    if declares(estimator):
        who = f"{type(estimator).__name__}.__factorization_invariants__"
        return _expand(estimator.__factorization_invariants__(), estimator, who)
    names = ["general"]
    if get_tags(estimator).input_tags.positive_only or getattr(estimator, "positive_code", False):
        names.append("nonnegative_codes")
    return _expand(names, estimator, "invariants")


def _expand(names, estimator, who):
    """Names of invariants, in the order of `INVARIANTS`, for names of invariants and groups."""
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in CHECKS and name not in GROUPS]
    if unknown:
        raise ValueError(
            f"{who} names {unknown}; known are the invariants {list(CHECKS)} and the groups "
            f"{list(GROUPS)}."
        )
    wanted = set()
    for name in names:
        missing = [what for what in NEEDS.get(name, ()) if not hasattr(estimator, what)]
        if missing:
            raise ValueError(
                f"{who} names {name!r}, which needs {missing}; {type(estimator).__name__} has no "
                "such method or parameter."
            )
        members = GROUPS.get(name, (name,))
        wanted.update(m for m in members if all(hasattr(estimator, n) for n in NEEDS[m]))
    return tuple(name for name in CHECKS if name in wanted)


def _report(name, error, case):
    return (
        f"{type(case.estimator).__name__} violates {name!r} ({INVARIANTS[name]}): {error}.\n"
        f"{_how_to_reproduce(name, case)}"
    )


def _how_to_reproduce(name, case):
    values = case.values
    if values.size <= _PRINTED_SIZE:
        X = f"np.array({values.tolist()}, dtype=np.{values.dtype.name})"
    else:
        X = f"...  # the X of this call, {values.shape} of {values.dtype.name}"
        X += f" with sum {np.sum(values, dtype=np.float64)!r}"
    if type(case.X) is not np.ndarray:
        X += f"  # as {type(case.X).__module__}.{type(case.X).__name__}"
    given = TOLERANCE[values.dtype.name] != case.tolerance
    tolerance = f", tolerance={case.tolerance!r}" if given else ""
    return (
        f"To see it again:\n    X = {X}\n    estimator = {case.estimator!r}\n"
        f"    check_factorization_invariants(estimator, X, [{name!r}]{tolerance})"
    )
