"""One run: fit a decomposer on the states of a token, read its words, and score all of it."""

import inspect
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from semi_nmf_concepts.grounding import ground_images, ground_text
from semi_nmf_concepts.metrics import (
    choose_columns,
    dci,
    dead_fraction,
    factor_recovery,
    linear_probe_recovery,
    overlap_score,
    random_words,
    reconstruction_score,
    sparsity,
)

from ._judges import mas_judgement, top_judgement
from ._methods import describe
from ._states import most_frequent_prefix
from ._store import address

# What a run measures; each level contains the one before.
#   "words": words, overlap, codes, recovery of factors as one number
#   "mas":   words against the most activating samples of each concept, beside random words
#   "full":  words against the test samples; recovery in full
LEVELS = ("words", "mas", "full")
N_IMAGES = 5
# Random words are drawn so often for the tables; one draw is enough for a point of a curve.
N_DRAWS = 3


@dataclass(frozen=True, eq=False)
class Run:
    """One decomposer on the states of one layer.

    Attributes
    ----------
    method : str
        Name in the tables.
    estimator : estimator
        Not fitted; number of components and random state are set.
    layer : int or str
    seed : int
    level : str
        One of `LEVELS`.
    source : {"images", "noise"}
        Which states the dictionary and the activations come from.
    tables : tuple of str
        The tables that the run belongs to.
    is_main : bool
        Whether random words are compared with it on the test samples.
    """

    method: str
    estimator: object
    layer: object
    seed: int
    level: str = "words"
    source: str = "images"
    tables: tuple = field(default=())
    is_main: bool = False

    def at_least(self, level):
        """Whether the run measures what belongs to `level`."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all runs share: the model, the judges and the options.

    Attributes
    ----------
    handle : ModelHandle
    judges : list
    grounding : dict
        Options of `ground_text`.
    factors : dict
        Options of `factor_recovery`: ``columns`` and ``min_positives``.
    random_state : int
    """

    handle: object
    judges: list
    grounding: dict
    factors: dict
    random_state: int

    def request(self, data, run):
        """Everything that the result of a run depends on, as JSON values."""
        return {
            "states": [data.parts[part].key for part in ("train", "test")],
            "provenance": _stable(data.states(run.source, "train", run.layer).provenance),
            "run": [describe(run.estimator), run.layer, run.level, run.source, run.is_main],
            "token": data.token,
            "judges": {judge.metric: judge.identity for judge in self.judges},
            "grounding": {name: _key_of(value) for name, value in self.grounding.items()},
            "factors": self.factors,
            "known_factors": _digest_of(data),
            "random_state": self.random_state,
        }

    def check(self, estimators, parts, width):
        """Find what is wrong with models, options and parameters before the captioner runs."""
        self.words(np.eye(2, width, dtype=np.float32), None)
        for value in self.grounding.values():
            _key_of(value)
        for judge in self.judges:
            _ = judge.identity
        for estimator in estimators:
            if hasattr(estimator, "_parameter_constraints"):
                estimator._validate_params()
        for one in parts:
            tables = one["train"].factors, one["test"].factors
            if all(table is not None for table in tables):
                choose_columns(*tables, self.factors["columns"])

    def words(self, directions, provenance):
        """Words of directions, with the options that all methods share."""
        found = ground_text(directions, self.handle, provenance=provenance, **self.grounding)
        return [concept.words for concept in found]

    def measure(self, data, run):
        """Fit and measure a run; the values and arrays that the tables are made of."""
        train = data.states(run.source, "train", run.layer)
        test = data.states(run.source, "test", run.layer)
        estimator = run.estimator.fit(train.Z)
        V = np.asarray(estimator.transform(train.Z), dtype=np.float64)
        V_test = np.empty((0, V.shape[1]))
        if len(test):
            V_test = np.asarray(estimator.transform(test.Z), dtype=np.float64)
        values = {
            "n_components": len(estimator.components_),
            "alpha": _number(getattr(estimator, "alpha_", None)),
            "words": self.words(estimator.components_, train.provenance),
            "images": ground_images(V, N_IMAGES),
            "share": (V > 0).mean(axis=0).tolist(),
        }
        values["overlap"] = overlap_score(values["words"]) if len(values["words"]) > 1 else None
        values["codes"] = _codes(estimator, train, test, V_test if len(test) else V)
        values["recovery"] = self._recovery(data, train, test, V, V_test, run)
        if run.at_least("mas"):
            values |= self._judged(data, train, values, V_test, run)
        return values, {"components": np.asarray(estimator.components_, dtype=np.float32)}

    def _judged(self, data, train, values, V_test, run):
        """Words, and random words beside them, in the eyes of the judges."""
        random = {"direction": self._random_words(values["words"], "direction", data, train, run)}
        if run.is_main and len(values["words"]) > 1:
            random["shuffle"] = self._random_words(values["words"], "shuffle", data, train, run)
        mas, top = {}, {}
        for judge in self.judges:
            if run.source == "images":
                score = partial(mas_judgement, judge, data, values["images"])
                draws = [score(words) for words in random["direction"]]
                mas[judge.metric] = {
                    "words": score(values["words"]).tolist(),
                    "direction": np.mean(draws, axis=0).tolist(),
                }
            if run.at_least("full"):
                score = partial(top_judgement, judge, data, V_test)
                top[judge.metric] = {"words": _lists(score(values["words"]))}
                for mode, draws in random.items() if run.is_main else ():
                    draws = [score(words) for words in draws]
                    means = {n: np.mean([one[n] for one in draws], axis=0) for n in draws[0]}
                    top[judge.metric][mode] = _lists(means)
        return {"mas": mas, "top": top}

    def _random_words(self, words, mode, data, train, run):
        """Draws of the words of a baseline, other ones for every token, method and setting."""
        origin = [data.token, describe(run.estimator), run.layer, run.source, mode]
        rng = np.random.RandomState(int(address(origin)[:8], 16))
        ground = partial(self.words, provenance=None)
        options = {"ground": ground, "width": train.Z.shape[1]} if mode == "direction" else {}
        n_draws = N_DRAWS if run.is_main and run.at_least("full") else 1
        return [random_words(words, mode=mode, random_state=rng, **options) for _ in range(n_draws)]

    def _recovery(self, data, train, test, V, V_test, run):
        """Which known factors the concepts detect; None where none are known."""
        if not self.knows_factors(data) or run.source == "noise":
            return None
        factors = data.factors("train"), data.factors("test")
        full = run.at_least("full")
        options = self.factors | {"n_bootstrap": 1000 if full else 0, "random_state": 0}
        recovery = factor_recovery(V, factors[0], V_test, factors[1], **options)
        out = {"macro": _number(recovery.macro)}
        if not full:
            return out
        prefix, rows, rows_test = _same_prefix(train, test)
        first = factor_recovery(
            V[rows], factors[0][rows], V_test[rows_test], factors[1][rows_test], **options
        )
        return out | {
            "tables": {"all": _table(recovery), prefix: _table(first)},
            "n_left_out": len(recovery.left_out),
            **self._entanglement(V, factors[0], V_test, factors[1]),
        }

    def _entanglement(self, V, factors, V_test, factors_test):
        """Disentanglement and completeness; unknown with too few samples of too few factors."""
        rows = np.arange(len(V) + len(V_test))
        try:
            scores = dci(
                np.concatenate([V, V_test]),
                pd.concat([factors, factors_test], ignore_index=True),
                train=rows[: len(V)],
                test=rows[len(V) :],
                random_state=0,
                **self.factors,
            )
        except ValueError:
            return {"disentanglement": None, "completeness": None}
        return {
            "disentanglement": _number(scores.disentanglement),
            "completeness": _number(scores.completeness),
        }

    @staticmethod
    def knows_factors(data):
        """Whether factors of training and test samples are there to be detected."""
        known = data.factors("train") is not None and data.factors("test") is not None
        return known and len(data.rows["test"]) > 0

    def detectors(self, data, layer, n_components, seed):
        """Recovery of detectors that are not concepts: with either sign, and the linear ceiling.

        They bound what single, one-signed concepts can reach, and are shown where they win, too.
        """
        train, test = (data.states("images", part, layer) for part in ("train", "test"))
        factors = data.factors("train"), data.factors("test")
        prefix, rows, rows_test = _same_prefix(train, test)
        parts = {
            "all": (slice(None), slice(None)),
            prefix: (rows, rows_test),
        }
        options = self.factors | {"random_state": 0}
        codes = _unsigned_codes(train.Z, test.Z, n_components, seed)
        out = {}
        for name, (here, there) in parts.items():
            known = factors[0][here], factors[1][there]
            for method, (V, V_test) in codes.items():
                recovery = factor_recovery(
                    V[here], known[0], V_test[there], known[1], either_sign=True, **options
                )
                out.setdefault(method, {})[name] = _table(recovery)
            recovery = linear_probe_recovery(
                train.Z[here], known[0], test.Z[there], known[1], **options
            )
            out.setdefault("linear probe", {})[name] = _table(recovery)
        return out


def _unsigned_codes(Z, Z_test, n_components, seed):
    """Codes of PCA and ICA, whose signs have no meaning."""
    import warnings

    from sklearn.decomposition import PCA, FastICA
    from sklearn.exceptions import ConvergenceWarning

    n = min(n_components, *Z.shape)
    makers = {
        "PCA, either sign": PCA(n, random_state=seed),
        "ICA, either sign": FastICA(n, random_state=seed, max_iter=2000, tol=1e-3),
    }
    codes = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # shown as it comes
        for name, estimator in makers.items():
            codes[name] = estimator.fit_transform(Z), estimator.transform(Z_test)
    return codes


def _codes(estimator, train, test, V):
    """How well and how sparsely the codes of the test states describe them (of the training states
    where there are no others)."""
    values = {
        "l0": sparsity(V),
        "hoyer": sparsity(V, measure="hoyer"),
        "dead_fraction": dead_fraction(V),
        "reconstruction": None,
    }
    if len(test) and hasattr(estimator, "inverse_transform"):
        rebuilt = estimator.inverse_transform(V.astype(test.Z.dtype))
        values["reconstruction"] = reconstruction_score(test.Z, rebuilt, train.Z.mean(axis=0))
    return {name: _number(value) for name, value in values.items()}


def _same_prefix(train, test):
    """The most frequent caption before the token, and where it stands in both parts."""
    prefix = most_frequent_prefix(train)
    return prefix, *(np.array([p == prefix for p in part.prefixes]) for part in (train, test))


def _table(recovery):
    """Rows of a recovery table as JSON values."""
    return recovery.table.astype(object).where(recovery.table.notna(), None).to_dict("records")


def _lists(scores):
    return {str(top): values.tolist() for top, values in scores.items()}


def _key_of(value):
    """An option as a JSON value; a function by its name and source."""
    if callable(value):
        try:
            source = inspect.getsource(value)
        except (OSError, TypeError) as error:
            raise ValueError(
                f"grounding: {value!r} must be a function defined in a file, so that steps which "
                "used it are told from others."
            ) from error
        return [getattr(value, "__module__", ""), getattr(value, "__qualname__", ""), source]
    return value.item() if hasattr(value, "item") else value


def _number(value):
    """A float, or None for what is not known."""
    return None if value is None else float(value)


def _stable(provenance):
    """Provenance without what does not decide the states."""
    return {k: v for k, v in provenance.items() if k not in ("versions", "package_version")}


def _digest_of(data):
    """Known factors of the kept samples, as text for an address."""
    tables = data.factors("train"), data.factors("test")
    return [None if table is None else table.to_csv(index=False) for table in tables]
