"""Known factors of the images: which concept detects each of their values."""

from semi_nmf_concepts.metrics import (
    DETECTED,
    choose_columns,
    factor_recovery,
    naming_words,
    split_rows,
)

# Part of the training samples that factors are measured on when there are no test images.
_TEST_SHARE = 0.3


def check_columns(columns, factors, test):
    """Refuse columns that the factor tables do not have."""
    if columns is None:
        return
    if factors is None:
        raise ValueError("factor_columns needs factors.")
    try:
        choose_columns(factors, factors if test is None else test.factors, columns)
    except (TypeError, ValueError) as error:
        raise type(error)(f"factor_columns: {error}") from error


def score_factors(data, test, words, columns, factor_words, min_positives, random_state):
    """Find the concept of each factor value; nothing where the factors are not known."""
    if data.factors is None:
        return {"table": None, "left_out": [], "ignored": [], "macro": None, "protocol": None}
    if factor_words is None:
        from semi_nmf_concepts.datasets import FACTOR_WORDS as factor_words

    chosen, measured, protocol = _factor_parts(data, test, random_state)
    recovery = factor_recovery(
        *chosen,
        *measured,
        columns=columns,
        min_positives=min_positives,
        random_state=random_state,
    )
    table = []
    for row in recovery.table.to_dict("records"):
        names = naming_words(factor_words, row["factor"], row["value"])
        concept_words = words[row["component"]].words
        named_by = [word for word in concept_words if word in names]
        table.append(
            {
                "factor": row["factor"],
                "value": row["value"],
                "concept": row["component"],
                "auroc": row["auroc"],
                "low": row["low"],
                "high": row["high"],
                "n_positive": row["n_positive_test"],
                "words": concept_words,
                "named_by": named_by,
                "word_hit": bool(named_by) if names else None,
            }
        )
    return {
        "table": table,
        "left_out": recovery.left_out,
        "ignored": recovery.ignored_columns,
        "macro": recovery.macro if table else None,
        "protocol": protocol,
    }


def _factor_parts(data, test, random_state):
    """Choose the samples that atoms are chosen on and those that they are measured on."""
    if test is not None:
        chosen = data.activations, data.kept_factors()
        measured = test.activations, test.kept_factors()
        return chosen, measured, "chosen on training samples, measured on test samples"
    factors = data.kept_factors()
    first, second = split_rows(len(factors), _TEST_SHARE, random_state)
    chosen = data.activations[first], factors.iloc[first]
    measured = data.activations[second], factors.iloc[second]
    protocol = "chosen on 70% of the training samples, measured on the other 30%"
    return chosen, measured, protocol


def factor_settings(scored):
    """Summarise the factor table."""
    hits = [row["word_hit"] for row in scored["table"] or () if row["auroc"] > DETECTED]
    hits = [hit for hit in hits if hit is not None]
    return {
        "factor_macro": scored["macro"],
        "factor_protocol": scored["protocol"],
        "ignored_factor_columns": scored["ignored"],
        "word_hit_share": sum(hits) / len(hits) if hits else None,
    }
