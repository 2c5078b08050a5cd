"""Factor recovery: do concepts detect the known factors of variation of the images?

For each value of each factor ("colour" = "black") the samples are split into positive and negative
ones. The atom that separates them best is chosen on a training part; what counts is how well the
same atom separates the samples of a held-out part.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api import types
from sklearn.utils import check_random_state

from ._auroc import auroc, auroc_interval

# A column with more distinct values than this is an identifier or a measurement, not a factor.
MAX_VALUES = 50
MEASURES = ("auroc", "disentanglement", "completeness")
_COLUMNS = (
    "factor",
    "value",
    "component",
    "sign",
    "auroc",
    "low",
    "high",
    "n_positive_train",
    "n_positive_test",
)


@dataclass(eq=False)
class FactorRecovery:
    """How well factor values are detected on held-out samples.

    Attributes
    ----------
    table : DataFrame
        One row per factor value: ``factor``, ``value`` (str), ``component`` (the chosen atom; -1
        for a linear probe), ``sign`` (-1 where the atom detects by low activations; only with
        ``either_sign``), ``auroc`` (held-out), ``low`` and ``high`` (bootstrap interval: sampling
        of the held-out part, given the chosen atom), ``n_positive_train`` and ``n_positive_test``.
    left_out : list of dict
        Values that were not scored: ``factor``, ``value``, ``reason``, ``n_positive_train`` and
        ``n_positive_test``.
    ignored_columns : list of str
        Columns of the factor tables that were not scored: not chosen, not in both tables, no
        factors by their look, or with missing values.
    """

    table: pd.DataFrame
    left_out: list[dict]
    ignored_columns: list[str] = field(default_factory=list)

    @property
    def per_factor(self):
        """Mean AUROC over the values of each factor, a Series in the order of the columns."""
        return self.table.groupby("factor", sort=False)["auroc"].mean()

    @property
    def macro(self):
        """Mean over factors of the mean over their values, so that each factor counts once; NaN
        where no value was scored."""
        return float(self.per_factor.mean())

    @property
    def macro_values(self):
        """Mean over all factor values; NaN where no value was scored."""
        return float(self.table["auroc"].mean())

    def __repr__(self):
        return (
            f"<FactorRecovery: macro {self.macro:.3f}, {len(self.table)} values of "
            f"{len(self.per_factor)} factors, {len(self.left_out)} left out>"
        )


def factor_recovery(
    activations_train,
    factors_train,
    activations_test,
    factors_test,
    *,
    columns=None,
    min_positives=15,
    either_sign=False,
    n_bootstrap=1000,
    confidence=0.95,
    random_state=0,
):
    """Measure how well single atoms detect each value of known factors.

    For each factor value the atom with the largest AUROC on the training part is chosen (the first
    of equals); its AUROC on the test part is reported, so that the choice among many atoms cannot
    flatter the result.

    Parameters
    ----------
    activations_train, activations_test : array-like of shape (n_train, K), (n_test, K)
        Concept activations; any sign.
    factors_train, factors_test : DataFrame of n_train, n_test rows (or dict of columns)
        Known factors, one column each, aligned with the activations by position (an index is not
        looked at).
    columns : list of str, default=None
        Columns to score. By default all that look like a factor: strings, categories, booleans or
        whole numbers with at most 50 distinct values and none missing. Lists (boxes) and real
        numbers do not. The others are listed in ``ignored_columns``.
    min_positives : int, default=15
        Smallest number of positive samples, and of negative ones, that a value must have in either
        part. Other values are listed in ``left_out``.
    either_sign : bool, default=False
        Let an atom also detect by low activations (AUROC below one half on the training part). It
        doubles the number of detectors; meant for signed codes such as PCA's.
    n_bootstrap : int, default=1000
        Resamples for the intervals; 0 leaves them NaN.
    confidence : float, default=0.95
        Mass of the intervals.
    random_state : int, RandomState or None, default=0
        Seed of the bootstrap.

    Returns
    -------
    FactorRecovery

    Raises
    ------
    ValueError
        If lengths or numbers of atoms differ, activations are not finite, or `columns` names a
        column that is unknown or has missing values.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> factors = pd.DataFrame({"colour": ["black", "white"] * 20})
    >>> activations = np.c_[np.zeros(40), factors["colour"] == "black"].astype(float)
    >>> recovery = factor_recovery(activations, factors, activations, factors)
    >>> recovery.table[["factor", "value", "component", "auroc"]]
       factor  value  component  auroc
    0  colour  black          1    1.0
    1  colour  white          0    0.5
    """
    train, test = _check_parts(activations_train, factors_train, activations_test, factors_test)
    values, left_out, ignored = candidates(train[1], test[1], columns, min_positives)
    found = pd.DataFrame(columns=_COLUMNS)
    if values:
        on_train = auroc(train[0], _labels(train[1], values))
        on_test = auroc(test[0], _labels(test[1], values))
        sign = np.where(either_sign & (on_train < 0.5), -1, 1)
        best = np.argmax(np.where(sign < 0, 1 - on_train, on_train), axis=1)
        rows = np.arange(len(values))
        sign = sign[rows, best]
        held_out = np.where(sign < 0, 1 - on_test[rows, best], on_test[rows, best])
        found = _table(
            values, best, sign, held_out, train[1], test[1], test[0][:, best] * sign,
            (n_bootstrap, confidence, random_state),
        )  # fmt: skip
    return FactorRecovery(found, left_out, ignored)


def factor_recovery_score(
    activations,
    factors,
    *,
    test_size=0.3,
    random_state=0,
    train=None,
    test=None,
    columns=None,
    min_positives=15,
    either_sign=False,
    average="factors",
    measure="auroc",
    return_recovery=False,
):
    """Score how well single atoms detect known factors, on a held-out part of the samples.

    Parameters
    ----------
    activations : array-like of shape (n_samples, K)
        Concept activations.
    factors : DataFrame of n_samples rows
        Known factors, aligned by position.
    test_size : float, default=0.3
        Fraction of the samples held out, at random.
    random_state : int, RandomState or None, default=0
        Seed of the split.
    train, test : array-like of int, default=None
        Row indices of the two parts, instead of a random split; give both.
    columns, min_positives, either_sign
        As for :func:`factor_recovery`, which also gives the values behind this number.
    average : {"factors", "values"}, default="factors"
        Mean over factors of the mean over their values, or mean over all values.
    measure : {"auroc", "disentanglement", "completeness"}, default="auroc"
        "auroc" asks whether there is an atom for each factor value. The others are those of
        :func:`dci`, from all atoms at once: "disentanglement" whether an atom tells of one factor
        only, "completeness" whether one atom tells all of a factor. `either_sign` and `average`
        are of the AUROC only.
    return_recovery : bool, default=False
        Also return what is behind the score.

    Returns
    -------
    score : float
        Macro-averaged held-out AUROC; one half is chance. The other measures lie between 0 and 1.
    recovery : FactorRecovery or DCI
        Only with `return_recovery`: each factor value with its atom, AUROC and bootstrap interval,
        and the values left out; for the other measures what :func:`dci` returns.

    Raises
    ------
    ValueError
        As :func:`factor_recovery`; also if no factor value has enough samples.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> factors = pd.DataFrame({"count": np.arange(300) % 3 + 1})
    >>> activations = np.eye(3)[factors["count"] - 1]
    >>> factor_recovery_score(activations, factors)
    1.0
    """
    if average not in ("factors", "values"):
        raise ValueError(f"average must be 'factors' or 'values', got {average!r}.")
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {MEASURES}, got {measure!r}.")
    if measure != "auroc":
        from ._dci import dci

        found = dci(
            activations,
            factors,
            test_size=test_size,
            random_state=random_state,
            train=train,
            test=test,
            columns=columns,
            min_positives=min_positives,
        )
        score = getattr(found, measure)
        return (score, found) if return_recovery else score
    activations, factors = check_part(activations, factors, "")
    train, test = split_parts(len(activations), test_size, random_state, train, test)
    recovery = factor_recovery(
        activations[train],
        factors.iloc[train],
        activations[test],
        factors.iloc[test],
        columns=columns,
        min_positives=min_positives,
        either_sign=either_sign,
        n_bootstrap=1000 if return_recovery else 0,
    )
    if recovery.table.empty:
        raise ValueError(
            f"No factor value has {min_positives} positive and negative samples in both parts "
            f"({len(train)} training and {len(test)} test samples): use more samples or a smaller "
            "min_positives."
        )
    score = recovery.macro if average == "factors" else recovery.macro_values
    return (score, recovery) if return_recovery else score


def linear_probe_recovery(
    Z_train,
    factors_train,
    Z_test,
    factors_test,
    *,
    C=1.0,
    columns=None,
    min_positives=15,
    n_bootstrap=1000,
    confidence=0.95,
    random_state=0,
):
    """Measure how well a logistic regression per factor value does: a ceiling for single atoms.

    One regression on the standardised representations for each value against the rest.

    Parameters
    ----------
    Z_train, Z_test : array-like of shape (n_train, d), (n_test, d)
        Representations.
    C : float, default=1.0
        Inverse strength of the L2 penalty, as in scikit-learn.
    factors_train, factors_test, columns, min_positives, n_bootstrap, confidence, random_state
        As for :func:`factor_recovery`.

    Returns
    -------
    FactorRecovery
        ``component`` is -1 in its table.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, test = _check_parts(Z_train, factors_train, Z_test, factors_test)
    values, left_out, ignored = candidates(train[1], test[1], columns, min_positives)
    if not values:
        return FactorRecovery(pd.DataFrame(columns=_COLUMNS), left_out, ignored)
    scaler = StandardScaler().fit(train[0])
    scaled = scaler.transform(train[0]), scaler.transform(test[0])
    on_train, on_test = _labels(train[1], values), _labels(test[1], values)
    scores, held_out = [], []
    for labels, test_labels in zip(on_train.T, on_test.T, strict=True):
        probe = LogisticRegression(C=C, max_iter=2000).fit(scaled[0], labels)
        scores.append(probe.decision_function(scaled[1]))
        held_out.append(float(auroc(scores[-1], test_labels)))
    found = _table(
        values, [-1] * len(values), [1] * len(values), held_out, train[1], test[1],
        np.column_stack(scores), (n_bootstrap, confidence, random_state),
    )  # fmt: skip
    return FactorRecovery(found, left_out, ignored)


def split_rows(n, test_size=0.3, random_state=0):
    """Split n rows at random, as :func:`factor_recovery_score` does.

    Parameters
    ----------
    n : int
        Number of rows.
    test_size : float, default=0.3
        Fraction of the rows in the test part.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    train, test : ndarray of int
        Sorted row indices of the two parts.

    Examples
    --------
    >>> train, test = split_rows(10, test_size=0.2)
    >>> len(train), len(test), sorted([*train, *test]) == list(range(10))
    (8, 2, True)
    """
    if not 0 < test_size < 1:
        raise ValueError(f"test_size must lie between 0 and 1, got {test_size!r}.")
    order = check_random_state(random_state).permutation(n)
    n_test = round(n * test_size)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def split_parts(n, test_size, random_state, train, test):
    """The two parts that were given, which must not share rows, or else a random split."""
    if (train is None) != (test is None):
        raise ValueError("Give both train and test, or neither.")
    if train is None:
        return split_rows(n, test_size, random_state)
    train, test = np.asarray(train), np.asarray(test)
    if np.intersect1d(train, test).size:
        raise ValueError("train and test share rows; the test part must be held out.")
    return train, test


def check_part(activations, factors, part):
    """Return finite activations (n, K) as float and factors as a DataFrame of n rows."""
    values = np.asarray(activations)
    if values.ndim != 2:
        raise ValueError(f"activations{part} must have two dimensions, got shape {values.shape}.")
    if values.dtype.kind not in "fiub":
        raise TypeError(f"activations{part} must hold numbers, got dtype {values.dtype}.")
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise ValueError(
            f"activations{part} contains NaN or infinity in {len(rows)} row(s), first in row "
            f"{rows[0]}: leave out the samples without a representation."
        )
    try:
        table = pd.DataFrame(factors)
    except ValueError as error:
        raise ValueError(f"factors{part} must be a DataFrame: {error}") from error
    if len(table) != len(values):
        raise ValueError(
            f"activations{part} has {len(values)} rows, but factors{part} has {len(table)}."
        )
    return values, table


def _check_parts(activations_train, factors_train, activations_test, factors_test):
    train = check_part(activations_train, factors_train, "_train")
    test = check_part(activations_test, factors_test, "_test")
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"activations_train has {train[0].shape[1]} columns, activations_test has "
            f"{test[0].shape[1]}."
        )
    return train, test


def _is_factor(column):
    """Tell whether a column looks like a factor: few distinct strings, booleans or integers."""
    if types.is_float_dtype(column) or types.is_datetime64_any_dtype(column):
        return False
    if types.is_object_dtype(column):
        kinds = str | bool | int | np.integer | np.bool_
        if not all(isinstance(value, kinds) for value in column.dropna()):
            return False
    return column.nunique() <= MAX_VALUES


def choose_columns(factors_train, factors_test, columns=None):
    """Tell which columns of two factor tables can be scored.

    Parameters
    ----------
    factors_train, factors_test : DataFrame
    columns : list of str, default=None
        Columns to score; by default all that look like a factor, see :func:`factor_recovery`.

    Returns
    -------
    chosen, ignored : list of str
        `columns`, or those found, and all others of the two tables.

    Raises
    ------
    ValueError
        If one of `columns` is not in both tables.
    TypeError
        If `columns` is a string.

    Examples
    --------
    >>> table = pd.DataFrame({"colour": ["red", "blue"], "width": [0.1, 0.2], "age": ["old", None]})
    >>> choose_columns(table, table)
    (['colour'], ['width', 'age'])
    """
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of column names, got the string {columns!r}.")
    tables = factors_train, factors_test
    shared = [name for name in factors_train.columns if name in factors_test.columns]
    unknown = [name for name in columns or () if name not in shared]
    if unknown:
        raise ValueError(f"columns {unknown} are not in both factor tables; there are {shared}.")
    if columns is None:
        complete = [name for name in shared if not any(t[name].isna().any() for t in tables)]
        columns = [name for name in complete if _is_factor(factors_train[name])]
    names = dict.fromkeys([*factors_train.columns, *factors_test.columns])
    return list(columns), [name for name in names if name not in columns]


def candidates(train, test, columns, min_positives):
    """List the (factor, value) pairs that can be scored, those that cannot, the ignored columns."""
    if isinstance(min_positives, bool) or not min_positives >= 1:
        raise ValueError(f"min_positives must be at least 1, got {min_positives!r}.")
    chosen, ignored = choose_columns(train, test, columns)
    values, left_out = [], []
    for factor in chosen:
        if train[factor].isna().any() or test[factor].isna().any():
            raise ValueError(
                f"factor {factor!r} has missing values: leave those rows out, name the unknown "
                "value, or choose other columns."
            )
        counts = pd.DataFrame(
            {
                part: table[factor].astype(str).value_counts()
                for part, table in (("train", train), ("test", test))
            }
        ).fillna(0)
        for value in sorted(counts.index):
            n_train, n_test = (int(counts.loc[value, part]) for part in ("train", "test"))
            reason = _why_not(n_train, n_test, len(train), len(test), min_positives)
            if reason is None:
                values.append((factor, value))
            else:
                entry = {"factor": factor, "value": value, "reason": reason}
                left_out.append(entry | {"n_positive_train": n_train, "n_positive_test": n_test})
    return values, left_out, ignored


def _why_not(n_positive_train, n_positive_test, n_train, n_test, minimum):
    """Say why a value cannot be scored, or return None."""
    if min(n_positive_train, n_positive_test) < minimum:
        return f"fewer than {minimum} positive samples"
    if min(n_train - n_positive_train, n_test - n_positive_test) < minimum:
        return f"fewer than {minimum} negative samples"
    return None


def _labels(table, values):
    """Return booleans (n, F): does the sample have the factor value?"""
    text = {factor: table[factor].astype(str).to_numpy() for factor, _ in values}
    return np.column_stack([text[factor] == value for factor, value in values])


def _table(values, best, sign, held_out, train, test, test_scores, bootstrap):
    """Assemble the result table; column j of `test_scores` detects value j."""
    n_bootstrap, confidence, random_state = bootstrap
    rng = check_random_state(random_state)
    on_train, on_test = _labels(train, values), _labels(test, values)
    rows = []
    for j, (factor, value) in enumerate(values):
        low, high = np.nan, np.nan
        if n_bootstrap:
            low, high = auroc_interval(
                test_scores[:, j],
                on_test[:, j],
                confidence=confidence,
                n_bootstrap=n_bootstrap,
                random_state=rng,
            )
        counts = int(on_train[:, j].sum()), int(on_test[:, j].sum())
        rows.append(
            (factor, value, int(best[j]), int(sign[j]), float(held_out[j]), low, high, *counts)
        )
    return pd.DataFrame(rows, columns=_COLUMNS)
