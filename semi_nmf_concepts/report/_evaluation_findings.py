"""What an evaluation found, as sentences: each says so, too, where a hope was not met."""

from typing import NamedTuple

from ._evaluation_plots import share_above
from ._evaluation_tables import p_text
from ._records import (
    CHANCE,
    EITHER_SIGN,
    MEAN,
    RANDOM,
    UPPER,
    in_steps,
    main_method,
    measure,
    methods_of,
    metrics_of,
    overall_token,
    rows_of,
    value_of,
)
from ._text import MINUS, clean, is_number, percent

_LEVEL = 0.05  # of the paired tests
_LEVEL_SCORES = 0.0005  # scores that agree to three decimals are level
YES, NO, OPEN, FACT = "yes", "no", "open", "fact"
_AHEAD, _BEHIND = "ahead", "behind"  # differences that were not tested


# What a layer is judged by: the first of these that was computed.
_OF_LAYERS = ("mas_clip_score", "mas_bert_score", "recovery")


class Finding(NamedTuple):
    """A sentence and the numbers behind it; `verdict`: "yes", "no", "open", or "fact"."""

    verdict: str
    title: str
    text: str


def findings(evaluation):
    """State the main results of an evaluation, those that cannot be told from its records not."""
    records = evaluation.records
    found = [
        _against(evaluation, RANDOM, "random words"),
        _against(evaluation, CHANCE[1], "the same words dealt to other concepts"),
        _against(evaluation, CHANCE[2], "the words found when noise takes the place of the images"),
        _against_methods(evaluation),
        _points(reported_points(evaluation)),
        _overlap(rows_of(records, "table2")),
        _layers(rows_of(records, "layers")),
        _stability(rows_of(records, "stability")),
        _recovery(rows_of(records, "recovery")),
    ]
    return [finding for finding in found if finding]


def reported_points(evaluation):
    """Return the points without those of tokens on which settings were chosen."""
    points, chosen = evaluation.points, list(evaluation.settings.get("chosen_on") or ())
    return points[~points["token"].isin(chosen)] if len(points) and chosen else points


def score(value):
    """Write a score with three decimals and a true minus sign."""
    return f"{value:.3f}".replace("-", MINUS)


def names(items):
    """Join names as a sentence does; those that hold a comma are quoted.

    >>> names(["PCA"]), names(["PCA", "KMeans", "ICA, either sign"])
    ('PCA', 'PCA, KMeans and “ICA, either sign”')
    """
    items = [f"“{clean(item)}”" if "," in str(item) else clean(item) for item in items]
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def _against(evaluation, baseline, words):
    """Compare with one baseline by every metric, top 1."""
    rows = rows_of(evaluation.records, "table1", top=1)
    if len(rows) == 0 or main_method(rows) is None:
        return None
    main, token = main_method(rows), overall_token(rows)
    verdicts, texts = {}, []
    for metric in metrics_of(rows):
        own, other = (value_of(rows, method, metric, token) for method in (main, baseline))
        if own is None or other is None:
            continue
        verdict, test = _tested(evaluation.tests, metric, baseline, token, own - other)
        verdicts[measure(metric).name] = verdict
        texts.append(f"{measure(metric).name} {score(own)} against {score(other)} ({test})")
    return _verdict(main, words, verdicts, texts)


def _against_methods(evaluation):
    """Compare with the best of the other decompositions by every metric, top 1."""
    rows = rows_of(evaluation.records, "table1", top=1)
    if len(rows) == 0 or main_method(rows) is None:
        return None
    main, token = main_method(rows), overall_token(rows)
    others = [method for method in methods_of(rows) if method not in (*CHANCE, *UPPER, main)]
    verdicts, texts = {}, []
    for metric in metrics_of(rows):
        own, values = _values(rows, metric, token, main, others)
        if own is None or not values:
            continue
        best = max(values, key=values.get)
        verdict, test = _tested(evaluation.tests, metric, best, token, own - values[best])
        verdicts[measure(metric).name] = verdict
        listed = ", ".join(f"{clean(method)} {score(value)}" for method, value in values.items())
        name = measure(metric).name
        texts.append(f"{name} {score(own)}; {listed} (against {clean(best)}: {test})")
    return _verdict(main, "those of the best other method", verdicts, texts)


def _values(rows, metric, token, main, others):
    """Return the score of the main method, and those of the others that have one."""
    found = {method: value_of(rows, method, metric, token) for method in others}
    known = {method: value for method, value in found.items() if value is not None}
    return value_of(rows, main, metric, token), known


def _tested(tests, metric, baseline, token, difference):
    """Return the verdict on a difference, and the test behind it in words."""
    sign = "+" if difference >= 0 else ""
    text = f"difference {sign}{score(difference)}"
    if tests is not None and len(tests):
        wanted = {"metric": metric, "top": 1, "baseline": baseline, "token": token}
        for column, value in wanted.items():
            tests = tests[tests[column] == value]
    if tests is None or len(tests) == 0 or not is_number(tests["p_value"].iloc[0]):
        level = abs(difference) <= _LEVEL_SCORES
        return OPEN if level else _AHEAD if difference > 0 else _BEHIND, f"{text}, not tested"
    # One-sided: a value near 1 speaks for the baseline as one near 0 does against it.
    p, n = float(tests["p_value"].iloc[0]), int(tests["n"].iloc[0])
    better, worse = p < _LEVEL and difference > 0, p > 1 - _LEVEL and difference < 0
    verdict = YES if better else NO if worse else OPEN
    return verdict, f"{text}; one-sided paired test over {n:,} images, {p_text(p)}"


_HOW = {
    YES: "better",
    NO: "worse",
    OPEN: "not measurably better",
    _AHEAD: "better on average",
    _BEHIND: "worse on average",
}


def _verdict(main, words, verdicts, texts):
    """Sum up the verdicts of several metrics; where they differ, the title tells which is which."""
    if not verdicts:
        return None
    kinds = {FACT if kind in (_AHEAD, _BEHIND) else kind for kind in verdicts.values()}
    verdict = NO if NO in kinds else kinds.pop() if len(kinds) == 1 else OPEN
    (name, first), *rest = verdicts.items()
    title = f"{clean(main)}’s words fit the test images {_HOW[first]} than {words}"
    if all(kind == first for _, kind in rest):
        return Finding(verdict, title, _sentence(texts))
    others = "; ".join(f"by {other}, {_HOW[kind]}" for other, kind in rest)
    return Finding(verdict, f"By {name}, {title}; {others}", _sentence(texts))


def _sentence(texts):
    return "; ".join(texts) + "."


def _compared(value, others, better, phrases):
    """Put a value among others: whether it is the best, and a phrase that names all of them.

    `phrases` introduce those that it is better than, worse than, and level with.
    """
    gains = {name: better * (value - other) for name, other in others.items()}
    groups = (
        [name for name, gain in gains.items() if gain > _LEVEL_SCORES],
        [name for name, gain in gains.items() if gain < -_LEVEL_SCORES],
        [name for name, gain in gains.items() if abs(gain) <= _LEVEL_SCORES],
    )
    told = [
        f"{start} {names(group)}" for start, group in zip(phrases, groups, strict=True) if group
    ]
    beaten, ahead, _ = groups
    verdict = OPEN if bool(beaten) == bool(ahead) else YES if beaten else NO
    return verdict, ", ".join(told)


def _overlap(rows):
    if len(rows) == 0 or main_method(rows) is None:
        return None
    main, token = main_method(rows), overall_token(rows)
    others = [method for method in methods_of(rows) if method != main]
    own, values = _values(rows, "overlap", token, main, others)
    if own is None or not values:
        return None
    phrases = ("fewer words than those of", "more than those of", "as many as those of")
    verdict, phrase = _compared(own, values, -1, phrases)
    listed = [f"Overlap {score(own)}", *(f"{clean(m)} {score(v)}" for m, v in values.items())]
    return Finding(verdict, f"{clean(main)}’s concepts share {phrase}", ", ".join(listed) + ".")


def _points(points):
    if len(points) == 0 or main_method(points) is None:
        return None
    main = main_method(points)
    rows = points[points["method"] == main]
    shares, texts = [], []
    for kind in ("clip", "bert"):
        share, n = share_above(rows, kind)
        if n:
            shares.append(share)
            name = measure(f"mas_{kind}_score").name
            texts.append(f"{percent(share)} of {n:,} concepts by {name}")
    if not shares:
        return None
    most = [share > 0.5 for share in shares]
    verdict = YES if all(most) else OPEN if any(most) else NO
    start = {YES: "Most", NO: "Not most", OPEN: "By one score but not the other, most"}[verdict]
    title = f"{start} of {clean(main)}’s concepts have words that fit better than random ones"
    return Finding(
        verdict,
        title,
        f"The words beat random ones on the most activating images for {' and '.join(texts)}.",
    )


def _layers(rows):
    if len(rows) == 0 or main_method(rows) is None:
        return None
    metrics = [metric for metric in metrics_of(rows) if metric in _OF_LAYERS]
    if not metrics:
        return None
    main, token, metric = main_method(rows), overall_token(rows), metrics[0]
    values = {
        layer: value_of(rows, main, metric, token, layer=layer)
        for layer in in_steps(rows["layer"].tolist())
    }
    values = {layer: value for layer, value in values.items() if value is not None}
    if len(values) < 2:
        return None
    high, low = max(values, key=values.get), min(values, key=values.get)
    name = measure(metric).name
    text = f"{score(values[high])} there, {score(values[low])} at layer {clean(low)}"
    random = value_of(rows, RANDOM, metric, token, layer=high)
    text += f"; random words {score(random)}." if random is not None else "."
    return Finding(FACT, f"{name} is highest at layer {clean(high)}", text)


def _stability(rows):
    if len(rows) == 0 or main_method(rows) is None:
        return None
    main, token = main_method(rows), overall_token(rows)
    value = value_of(rows, main, "matched_cosine", token)
    if value is None:
        return None
    n = rows[(rows["method"] == main) & (rows["token"] != MEAN)]["n"].max()
    pairs = f" over {int(n):,} {'pair' if n == 1 else 'pairs'} of runs" if is_number(n) else ""
    title = f"Runs with different seeds find concepts with a cosine of {score(value)} to each other"
    return Finding(FACT, title, f"Mean{pairs}, concepts matched one to one; 1: the same concepts.")


def _recovery(rows):
    if len(rows) == 0 or main_method(rows) is None:
        return None
    main, token = main_method(rows), overall_token(rows)
    others = [method for method in methods_of(rows) if method not in (*UPPER, main)]
    own, values = _values(rows, "auroc", token, main, others)
    if own is None or not values:
        return None
    verdict, phrase = _compared(own, values, 1, ("better than", "less well than", "as well as"))
    listed = [f"Mean AUROC {score(own)}", *(f"{names([m])} {score(v)}" for m, v in values.items())]
    top = value_of(rows, UPPER[1], "auroc", token)
    ceiling = f"; a linear probe, the ceiling, reaches {score(top)}" if top is not None else ""
    if any(method in values for method in EITHER_SIGN):
        ceiling += ". “Either sign” rows may use a direction both ways, which concepts cannot"
    title = f"{clean(main)}’s concepts detect the known factors {phrase}"
    return Finding(verdict, title, f"{', '.join(listed)}{ceiling}.")
