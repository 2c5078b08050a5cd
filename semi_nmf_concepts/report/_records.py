"""Finding one's way in the records of an evaluation: order, names and single numbers.

A record is a row of ``Evaluation.records``: one mean of one metric, for one method and token.
"""

from typing import NamedTuple

from ._text import is_number

MEAN = "mean"  # the token of records that average over tokens
MAIN = "Semi-NMF"
RANDOM = "Rnd-Words (direction)"
UPPER = ("GT-captions", "linear probe")  # references that no method is expected to reach
CHANCE = (RANDOM, "Rnd-Words (shuffle)", "Noise-Imgs")
EITHER_SIGN = ("PCA, either sign", "ICA, either sign")
_METHODS = (*CHANCE, "Simple", "PCA", "KMeans", MAIN, *EITHER_SIGN, *UPPER)


class Measure(NamedTuple):
    """How a metric is shown; `better` is 1 where higher is better, -1 where lower, 0 if neither."""

    name: str
    better: int

    @property
    def note(self):
        return {1: "higher is better", -1: "lower is better", 0: ""}[self.better]


# In the order of tables and figures.
MEASURES = {
    "clip_score": Measure("CLIPScore", 1),
    "bert_score": Measure("BERTScore", 1),
    "mas_clip_score": Measure("MAS CLIPScore", 1),
    "mas_bert_score": Measure("MAS BERTScore", 1),
    "overlap": Measure("Overlap of words", -1),
    "recovery": Measure("Factor recovery", 1),
    "auroc": Measure("Mean AUROC", 1),
    "disentanglement": Measure("Disentanglement", 1),
    "completeness": Measure("Completeness", 1),
    "reconstruction": Measure("Variance explained", 1),
    "l0": Measure("Concepts per image", 0),
    "hoyer": Measure("Hoyer sparsity", 0),
    "dead_fraction": Measure("Dead concepts", -1),
    "matched_cosine": Measure("Matched cosine", 1),
}


def measure(metric):
    """Describe a metric; one that is not known here goes by its own name."""
    return MEASURES.get(metric, Measure(str(metric), 0))


def rows_of(records, table, **wanted):
    """Select the records of a table, further by columns such as ``method="Semi-NMF"``."""
    if len(records) == 0:
        return records
    chosen = records["table"] == table
    for column, value in wanted.items():
        chosen &= records[column] == value
    return records[chosen]


def in_order(values, known):
    """Return unique values: those of `known` first, in its order, then others as they come."""
    found = list(dict.fromkeys(values))
    known = [value for value in known if value in found]
    return known + [value for value in found if value not in known]


def methods_of(rows, column="method"):
    return in_order(rows[column], _METHODS)


def metrics_of(rows):
    return in_order(rows["metric"], MEASURES)


def tokens_of(rows):
    """Return the tokens in the order of the records, without the mean over them."""
    return [token for token in dict.fromkeys(rows["token"]) if token != MEAN]


def overall_token(rows):
    """Return the token that stands for all: the only one there is, or the mean over several."""
    tokens = tokens_of(rows)
    return tokens[0] if len(tokens) == 1 else MEAN


def main_method(rows):
    """Return the method that an evaluation is about: Semi-NMF, else the first that was compared."""
    methods = list(dict.fromkeys(rows["method"]))
    compared = [m for m in methods if m not in (*CHANCE, *UPPER, *EITHER_SIGN)]
    return MAIN if MAIN in methods else compared[0] if compared else None


def value_of(rows, method, metric, token, **setting):
    """Return one mean, None where it is missing or not a number. Of repetitions the first counts.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"method": ["PCA"], "metric": "l0", "token": "dog", "mean": 3.0})
    >>> value_of(rows, "PCA", "l0", "dog"), value_of(rows, "PCA", "l0", "cat")
    (3.0, None)
    """
    wanted = {"method": method, "metric": metric, "token": token} | setting
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return float(rows["mean"].iloc[0]) if len(rows) and is_number(rows["mean"].iloc[0]) else None


def in_steps(values):
    """Order the values of a setting: numbers by size, then counts from the end, then names.

    >>> in_steps([20, -1, 3, "final_norm", 3])
    [3, 20, -1, 'final_norm']
    """

    def place(value):
        if not is_number(value):
            return (2, 0.0, str(value))
        return (int(value < 0), float(value), "")

    return sorted(dict.fromkeys(values), key=place)
