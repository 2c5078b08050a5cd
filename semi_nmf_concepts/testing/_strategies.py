"""Hypothesis strategies for data matrices: planted factors, and what solvers stumble over.

Entries are small multiples of 1/4, which float32 and float64 hold exactly and which shrink to 0,
plus, in some examples, noise of a drawn seed. Every example is determined by what Hypothesis draws.
"""

import inspect
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise ImportError(
        "The strategies of semi_nmf_concepts.testing need hypothesis; install it with: "
        'pip install "semi_nmf_concepts[test]"'
    ) from error

#: Precisions drawn from unless told otherwise.
DTYPES = ("float64", "float32")
#: Bounds on the sides of a matrix unless told otherwise.
MAX_SAMPLES, MAX_FEATURES = 20, 8
#: Number of components that "fewer samples" and "fewer features" refer to unless told otherwise.
N_COMPONENTS = 4

#: Largest absolute entry, in quarters.
_LARGEST = 32
#: Powers of two that huge and tiny data are scaled by: their squares keep their relative precision.
_EXPONENTS = {"float64": (20, 200), "float32": (20, 40)}


@dataclass(frozen=True, eq=False)
class PlantedFactors:
    """Data with a factorisation known: ``X = V U + noise``.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
    V : ndarray of shape (n_samples, n_components)
        Non-negative sparse codes.
    U : ndarray of shape (n_components, n_features)
        Atoms of norm 1.
    noise : float
        Standard deviation of the noise, 0 for none.
    """

    X: np.ndarray
    V: np.ndarray
    U: np.ndarray
    noise: float


@st.composite
def planted_factors(
    draw, *, max_components=4, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES
):
    """Sparse non-negative combinations of a few unit atoms of mixed sign, with or without noise.

    Parameters
    ----------
    max_components, max_samples, max_features : int, default=4, 20, 8
        Bounds on the sizes, each at least 1.
    dtypes : sequence of str, default=("float64", "float32")

    Returns
    -------
    SearchStrategy of PlantedFactors

    Examples
    --------
    >>> from hypothesis import find
    >>> from semi_nmf_concepts.testing import planted_factors
    >>> planted = find(planted_factors(), lambda planted: planted.V.any() and not planted.noise)
    >>> bool((planted.X == planted.V @ planted.U).all())
    True
    """
    n_components = draw(st.integers(1, max_components))
    n_samples = draw(st.integers(1, max_samples))
    n_features = draw(st.integers(1, max_features))
    U = _unit_rows(draw(_grids((n_components, n_features))))
    codes = hnp.arrays(
        np.int8, (n_samples, n_components), elements=st.integers(0, 16), fill=st.just(0)
    )
    V = draw(codes) / 4.0
    noise = draw(st.sampled_from([0.0, 0.01, 0.1]))
    X = V @ U
    if noise:
        X += noise * _random(draw).standard_normal(X.shape)
    dtype = draw(st.sampled_from(dtypes))
    return PlantedFactors(X.astype(dtype), V.astype(dtype), U.astype(dtype), noise)


@st.composite
def rank_deficient(draw, *, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices of a rank below both of their sides, exactly so (sides of 2 at least).

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    n_samples = draw(st.integers(2, max_samples))
    n_features = draw(st.integers(2, max_features))
    rank = draw(st.integers(0, min(n_samples, n_features, 4) - 1))
    X = draw(_grids((n_samples, rank))) @ draw(_grids((rank, n_features)))
    return X.astype(draw(st.sampled_from(dtypes)))


@st.composite
def duplicated_rows(draw, *, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices of which at least one row occurs more than once.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    n_samples = draw(st.integers(2, max_samples))
    n_distinct = draw(st.integers(1, n_samples - 1))
    X = draw(_entries((n_distinct, draw(st.integers(1, max_features))), dtypes))
    rows = st.lists(st.integers(0, n_distinct - 1), min_size=n_samples, max_size=n_samples)
    return X[draw(rows)]


@st.composite
def zero_rows(draw, *, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices with at least one row of zeros; all rows may be.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    X = draw(_sized_entries(1, max_samples, 1, max_features, dtypes))
    rows = st.lists(st.integers(0, len(X) - 1), min_size=1, max_size=len(X))
    X[draw(rows)] = 0.0
    return X


@st.composite
def huge_scale(draw, *, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices scaled by a large power of two, up to 2^40 in float32 and 2^200 in float64.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    X = draw(_sized_entries(1, max_samples, 1, max_features, dtypes))
    return np.ldexp(X, draw(st.integers(*_EXPONENTS[X.dtype.name])))


@st.composite
def tiny_scale(draw, *, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices scaled by a small power of two, down to 2^-40 in float32 and 2^-200 in float64.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    X = draw(_sized_entries(1, max_samples, 1, max_features, dtypes))
    return np.ldexp(X, -draw(st.integers(*_EXPONENTS[X.dtype.name])))


def fewer_samples_than_components(
    *, n_components=N_COMPONENTS, max_features=MAX_FEATURES, dtypes=DTYPES
):
    """Matrices with fewer rows than `n_components`, which is at least 2.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    return _sized_entries(1, n_components - 1, 1, max_features, dtypes)


def fewer_features_than_components(
    *, n_components=N_COMPONENTS, max_samples=MAX_SAMPLES, dtypes=DTYPES
):
    """Matrices with fewer columns than `n_components`, which is at least 2.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    return _sized_entries(1, max_samples, 1, n_components - 1, dtypes)


@st.composite
def constant_columns(draw, *, max_samples=MAX_SAMPLES, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices with at least one column of equal entries; all columns may be.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    X = draw(_sized_entries(1, max_samples, 1, max_features, dtypes))
    n_features = X.shape[1]
    columns = st.lists(st.integers(0, n_features - 1), min_size=1, max_size=n_features)
    for j in draw(columns):
        X[:, j] = X[0, j]
    return X


def one_sample(*, max_features=MAX_FEATURES, dtypes=DTYPES):
    """Matrices of one row.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)

    Examples
    --------
    >>> from hypothesis import find
    >>> from semi_nmf_concepts.testing import one_sample
    >>> find(one_sample(), lambda X: X.shape[1] > 2).shape
    (1, 3)
    """
    return _sized_entries(1, 1, 1, max_features, dtypes)


def one_feature(*, max_samples=MAX_SAMPLES, dtypes=DTYPES):
    """Matrices of one column.

    Parameters are those of `matrices`.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
    """
    return _sized_entries(1, max_samples, 1, 1, dtypes)


#: Kind of matrix -> function that makes the strategy for it.
_KINDS = {
    "planted_factors": planted_factors,
    "rank_deficient": rank_deficient,
    "duplicated_rows": duplicated_rows,
    "zero_rows": zero_rows,
    "huge_scale": huge_scale,
    "tiny_scale": tiny_scale,
    "fewer_samples_than_components": fewer_samples_than_components,
    "fewer_features_than_components": fewer_features_than_components,
    "constant_columns": constant_columns,
    "one_sample": one_sample,
    "one_feature": one_feature,
}
#: Kind of matrix -> what it is, in one line. Each is also a strategy of that name.
MATRIX_KINDS = MappingProxyType({name: f.__doc__.splitlines()[0] for name, f in _KINDS.items()})


def matrices(
    kinds="all",
    *,
    n_components=N_COMPONENTS,
    max_samples=MAX_SAMPLES,
    max_features=MAX_FEATURES,
    dtypes=DTYPES,
    nonnegative=False,
):
    """Data matrices of any of several kinds.

    Parameters
    ----------
    kinds : "all", str or list of str, default="all"
        Names of `MATRIX_KINDS`.
    n_components : int, default=4
        For the kinds with fewer samples or features than components, at least 2.
    max_samples, max_features : int, default=20, 8
        Bounds on the sizes, at least 2. Small ones find as much, sooner.
    dtypes : sequence of str, default=("float64", "float32")
        Precisions to draw from.
    nonnegative : bool, default=False
        Whether to take absolute values, for estimators such as scikit-learn's NMF.

    Returns
    -------
    SearchStrategy of ndarray of shape (n_samples, n_features)
        Finite matrices of float64 or float32, C-contiguous.

    Examples
    --------
    >>> from hypothesis import find
    >>> from semi_nmf_concepts.testing import matrices
    >>> find(matrices(["zero_rows", "rank_deficient"]), lambda X: len(X) > 1).any()
    np.False_
    """
    names = list(_KINDS) if isinstance(kinds, str) and kinds == "all" else kinds
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in _KINDS]
    if unknown or not names:
        raise ValueError(f"kinds must be among {list(_KINDS)}; got {kinds!r}.")
    if n_components < 2:
        raise ValueError(f"n_components must be at least 2; got {n_components!r}.")
    sizes = {
        "n_components": n_components,
        "max_samples": max_samples,
        "max_features": max_features,
        "dtypes": dtypes,
    }
    strategy = st.one_of([_of_kind(name, sizes) for name in names])
    return strategy.map(np.abs) if nonnegative else strategy


def _of_kind(name, sizes):
    """The strategy of that name with those of the sizes that it takes."""
    make = _KINDS[name]
    taken = inspect.signature(make).parameters
    strategy = make(**{key: value for key, value in sizes.items() if key in taken})
    return strategy.map(lambda planted: planted.X) if make is planted_factors else strategy


def _grids(shape):
    """Matrices of multiples of 1/4."""
    entries = st.integers(-_LARGEST, _LARGEST)
    return hnp.arrays(np.int8, shape, elements=entries).map(lambda X: X / 4.0)


@st.composite
def _entries(draw, shape, dtypes):
    """Matrices of multiples of 1/4, with or without noise."""
    X = draw(_grids(shape))
    noise = draw(st.sampled_from([0.0, 0.125, 1.0]))
    if noise:
        X = X + noise * _random(draw).standard_normal(shape)
    return X.astype(draw(st.sampled_from(dtypes)))


@st.composite
def _sized_entries(draw, min_samples, max_samples, min_features, max_features, dtypes):
    n_samples = draw(st.integers(min_samples, max_samples))
    n_features = draw(st.integers(min_features, max_features))
    return draw(_entries((n_samples, n_features), dtypes))


def _random(draw):
    """A generator whose seed is part of the example."""
    return np.random.default_rng(draw(st.integers(0, 2**16)))


def _unit_rows(U):
    """Rows scaled to norm 1; those of zeros become unit vectors."""
    for k in np.flatnonzero(~U.any(axis=1)):
        U[k, k % U.shape[1]] = 1.0
    return U / np.linalg.norm(U, axis=1, keepdims=True)
