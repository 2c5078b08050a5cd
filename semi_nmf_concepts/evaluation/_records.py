"""From finished runs to the records of the tables."""

import itertools

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from semi_nmf_concepts.metrics import stability_score

from ._judges import TOP
from ._methods import GROUND_TRUTH, NOISE, RANDOM

COLUMNS = (
    "table",
    "token",
    "method",
    "metric",
    "top",
    "layer",
    "n_components",
    "alpha",
    "seed",
    "mean",
    "std",
    "n",
)
#: Name of the rows that average over the reported tokens.
MEAN = "mean"
# Measures of the curves that are one number for a run.
_CURVE_CODES = ("reconstruction", "l0", "dead_fraction")


class Finished:
    """A run with what was measured."""

    def __init__(self, run, values, arrays):
        self.run, self.values, self.components = run, values, arrays["components"]

    def record(self, table, token, metric, samples, *, method=None, top=None):
        """A record of the mean of some numbers; NaN are left out, none at all gives NaN."""
        samples = np.asarray(samples, dtype=np.float64).ravel()
        samples = samples[np.isfinite(samples)]
        return {
            "table": table,
            "token": token,
            "method": method or self.run.method,
            "metric": metric,
            "top": top,
            "layer": self.run.layer,
            "n_components": self.values["n_components"],
            # The curve is over the relative weight asked for, which tokens have in common.
            "alpha": self.run.estimator.alpha if table == "alpha" else self.values["alpha"],
            "seed": self.run.seed,
            "mean": float(samples.mean()) if len(samples) else np.nan,
            "std": float(samples.std()) if len(samples) else np.nan,
            "n": len(samples),
        }


def judged(finished, main):
    """Scores on the test samples of the reference runs: {(method, metric, top): (n,)}."""
    scores = {}
    for one in finished:
        for metric, by_words in one.values.get("top", {}).items():
            for words, by_top in by_words.items():
                if words != "words" and one.run.method != main:
                    continue  # random words are drawn for the main method alone
                method = one.run.method if words == "words" else RANDOM[words]
                for top in TOP:
                    scores[method, metric, top] = np.asarray(by_top[str(top)], dtype=np.float64)
    return scores


def token_records(token, finished, ground_truth, main):
    """All records of one token.

    Parameters
    ----------
    token : str
    finished : list of Finished
        The reference run of the main method first.
    ground_truth : dict of str to ndarray
        Metric -> score of the reference captions, one per kept test sample.
    main : str
        The method of the curves.
    """
    reference, first = [f for f in finished if "reference" in f.run.tables], finished[0]
    records = []
    for (method, metric, top), values in judged(reference, main).items():
        records.append(_of(reference, method, first).record(
            "table1", token, metric, values, method=method, top=top))  # fmt: skip
    for metric, values in ground_truth.items():
        records += [
            first.record("table1", token, metric, values, method=GROUND_TRUTH, top=top)
            for top in TOP
        ]
    for one in reference:
        if one.run.source == "images":
            records += _of_run(one, token, "table2", "codes", main)
    for table in ("layers", "n_components", "alpha"):
        for one in finished:
            if table in one.run.tables:
                records += _curve(table, token, one)
    return records + _stability(token, finished)


def _of(reference, method, first):
    """The run that a row of table 1 belongs to."""
    return next((one for one in reference if one.run.method == method), first)


def _of_run(one, token, table2, codes, main):
    """Overlap, codes and the means of the scatter of one reference run."""
    values, records = one.values, []
    if values["overlap"] is not None:
        records.append(one.record(table2, token, "overlap", values["overlap"]))
    for name, value in values["codes"].items():
        if value is not None:
            records.append(one.record(codes, token, name, value))
    for metric, scores in values.get("mas", {}).items():
        records.append(one.record("scatter", token, f"mas_{metric}", _floats(scores["words"])))
        if one.run.method == main:
            records.append(
                one.record(
                    "scatter",
                    token,
                    f"mas_{metric}",
                    _floats(scores["direction"]),
                    method=RANDOM["direction"],
                )  # fmt: skip
            )
    return records + _recovery(one, token)


def _recovery(one, token):
    """Records of the known factors that single concepts detect."""
    found = one.values["recovery"]
    if not found or "tables" not in found:
        return []
    records = recovery_records(one, token, one.run.method, found["tables"])
    for name in ("disentanglement", "completeness"):
        records.append(one.record("recovery", token, name, _floats([found[name]])))
    return records


def recovery_records(one, token, method, tables):
    """Macro averages, overall and by factor, for all samples and those of the frequent prefix.

    `tables` maps "all" or a prefix to the rows of a recovery table.
    """
    records = []
    for prefix, rows in tables.items():
        by_factor = {}
        for row in rows:
            by_factor.setdefault(row["factor"], []).append(row["auroc"])
        means = {factor: float(np.mean(values)) for factor, values in by_factor.items()}
        if not means:
            continue
        if prefix != "all":
            label = f"auroc[prefix {prefix!r}]"
            records.append(
                one.record("recovery", token, label, np.mean(list(means.values())), method=method)
            )
            continue
        records.append(
            one.record("recovery", token, "auroc", np.mean(list(means.values())), method=method)
        )
        records += [
            one.record("recovery", token, f"auroc:{factor}", value, method=method)
            for factor, value in means.items()
        ]
    return records


def _curve(table, token, one):
    """One point of the curves of a table."""
    values = one.values
    numbers = {"overlap": values["overlap"]}
    if values["recovery"] is not None:
        numbers["recovery"] = values["recovery"]["macro"]
    numbers |= {name: values["codes"][name] for name in _CURVE_CODES}
    records = [
        one.record(table, token, name, value)
        for name, value in numbers.items()
        if value is not None
    ]
    for metric, scores in values.get("mas", {}).items():
        for words, method in (("words", None), ("direction", RANDOM["direction"])):
            records.append(
                one.record(table, token, f"mas_{metric}", _floats(scores[words]), method=method)
            )
    return records


def _stability(token, finished):
    """Matched cosine between the dictionaries of different seeds, for each method with several."""
    records, by_method = [], {}
    for one in finished:
        if "stability" in one.run.tables:
            by_method.setdefault(one.run.method, []).append(one)
    for runs in by_method.values():
        pairs = [
            stability_score([a.components, b.components])
            for a, b in itertools.combinations(runs, 2)
        ]
        if pairs:
            records.append(runs[0].record("stability", token, "matched_cosine", pairs))
    return records


def paired_tests(scores, main, tokens):
    """Is the main method above its baselines on the same test images?

    Parameters
    ----------
    scores : dict of str to dict
        Token -> what :func:`judged` returns.
    main : str
    tokens : list of str
        The reported tokens, which the rows of token "mean" pool.

    Returns
    -------
    tests : DataFrame
        token, metric, top, method, baseline, difference (mean over images), p_value (one-sided
        Wilcoxon signed-rank test that the difference is positive), n.
    """
    rows = []
    found_methods = dict.fromkeys(method for found in scores.values() for method, _, _ in found)
    others = [method for method in found_methods if method != main]
    chance = [*RANDOM.values(), NOISE]
    for baseline in sorted(others, key=lambda method: method not in chance):
        for metric in ("clip_score", "bert_score"):
            for top in TOP:
                differences = {
                    token: found[main, metric, top] - found[baseline, metric, top]
                    for token, found in scores.items()
                    if (main, metric, top) in found and (baseline, metric, top) in found
                }
                pooled = [differences[token] for token in tokens if token in differences]
                if pooled:
                    differences[MEAN] = np.concatenate(pooled)
                rows += [
                    {
                        "token": token,
                        "metric": metric,
                        "top": top,
                        "method": main,
                        "baseline": baseline,
                        **_signed_rank(values),
                    }  # fmt: skip
                    for token, values in differences.items()
                ]
    columns = ("token", "metric", "top", "method", "baseline", "difference", "p_value", "n")
    return pd.DataFrame(rows, columns=columns)


def _signed_rank(differences):
    """Mean difference and its p-value; 1 where nothing differs or there is nothing to compare."""
    values = differences[np.isfinite(differences)]
    p_value = 1.0
    if np.any(values != 0):
        p_value = float(wilcoxon(values, alternative="greater").pvalue)
    mean = float(values.mean()) if len(values) else np.nan
    return {"difference": mean, "p_value": p_value, "n": len(values)}


def with_means(records, tokens):
    """Records as a DataFrame, with the averages over the reported tokens as rows of token "mean".

    Their mean and standard deviation are those of the tokens' means; n is the number of tokens.
    """
    table = pd.DataFrame(records, columns=COLUMNS)
    table["top"] = table["top"].astype("Int64")
    reported = table[table["token"].isin(tokens)].copy()
    # The weight of a run with a wanted sparsity is searched for, and differs from token to token.
    fixed = reported["table"] != "alpha"
    reported.loc[fixed, "alpha"] = np.nan
    # A prefix belongs to its token.
    reported["metric"] = reported["metric"].str.replace(r"\[prefix .*\]", "[prefix]", regex=True)
    keys = [name for name in COLUMNS if name not in ("token", "mean", "std", "n")]
    groups = reported.groupby(keys, dropna=False, sort=False)["mean"]
    means = groups.agg(["mean", lambda v: v.std(ddof=0), "count"]).reset_index()
    means.columns = [*keys, "mean", "std", "n"]
    means["token"] = MEAN
    parts = [part for part in (table, means[list(COLUMNS)]) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table


def concept_points(token, finished):
    """A row per concept of the reference runs: what the scatter figure shows."""
    rows = []
    for one in finished:
        if "reference" not in one.run.tables or one.run.source != "images":
            continue
        mas = one.values.get("mas", {})
        columns = {
            prefix + short: _floats(mas[metric][words]) if metric in mas else None
            for metric, short in (("clip_score", "clip"), ("bert_score", "bert"))
            for words, prefix in (("words", ""), ("direction", "random_"))
        }
        for k, words in enumerate(one.values["words"]):
            row = {"token": token, "method": one.run.method, "concept": k}
            row["words"] = ", ".join(words)
            rows.append(row | {
                name: np.nan if v is None else v[k] for name, v in columns.items()
            })  # fmt: skip
    return rows


def factor_rows(token, method, tables):
    """Recovery tables as rows with token, method and prefix."""
    return [
        {"token": token, "method": method, "prefix": prefix, **row}
        for prefix, rows in tables.items()
        for row in rows
    ]


def _floats(values):
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
