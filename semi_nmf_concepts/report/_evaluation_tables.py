"""The records of an evaluation as tables for people, and such tables as Markdown."""

import ast
import re

from ._records import (
    MEAN,
    in_order,
    in_steps,
    measure,
    methods_of,
    metrics_of,
    rows_of,
    tokens_of,
)
from ._text import clean, is_number

# Table -> the columns that tell its rows apart, outermost first.
_ROWS = {
    "table1": ("metric", "top", "method"),
    "table2": ("metric", "method"),
    "scatter": ("metric", "method"),
    "layers": ("metric", "method", "layer"),
    "n_components": ("metric", "method", "n_components"),
    "alpha": ("metric", "method", "alpha"),
    "stability": ("metric", "method"),
    "codes": ("metric", "method"),
}
# The prefix is written as Python writes a string; the mean over tokens has none of its own.
_PREFIX = re.compile(r"auroc\[prefix ?(.*)\]", re.DOTALL)
_PER_FACTOR = "auroc:"


def evaluation_tables(records, tests=None):
    """Lay the records of an evaluation out as wide tables for people.

    Cells are texts, "0.610 +/- 0.081" (mean and standard deviation) or "0.610" where it is the mean
    of one number, and "" where there is none. Rows follow a fixed order of metrics and methods;
    columns of tokens follow the records, the mean over tokens last (none for a single token).

    Parameters
    ----------
    records : DataFrame
        ``Evaluation.records``: columns table, token, method, metric, top, layer, n_components,
        alpha, seed, mean, std, n. Of repetitions (several seeds) the first counts.
    tests : DataFrame, optional
        ``Evaluation.tests``: columns token, metric, top, method, baseline, difference, p_value
        (one-sided: that the difference is positive), n.

    Returns
    -------
    tables : dict of str to DataFrame
        Those of the following that the records have; their columns are plain strings:

        - ``table1``: CLIPScore and BERTScore; metric, top, method, then tokens
        - ``tests``: differences to each baseline and their p-values; metric, top, baseline, n,
          then tokens (n: test images of the last column)
        - ``table2``: overlap of words; metric, method, then tokens
        - ``scatter``, ``stability``, ``codes``: metric, method, then tokens
        - ``layers``, ``n_components``, ``alpha``: metric, method, the setting, then tokens
        - ``recovery``: token, method, AUROC, AUROC of each factor, disentanglement, completeness
        - ``recovery_prefix``: AUROC among images whose text before the token is the same; token,
          prefix ("the most frequent" for the mean over tokens), then methods

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"table": "table2", "token": "dog", "method": "PCA", "metric": "overlap"}
    >>> records = pd.DataFrame([row | {"mean": 0.004, "std": 0.0312}])
    >>> evaluation_tables(records)["table2"].to_dict("records")
    [{'metric': 'Overlap of words', 'method': 'PCA', 'dog': '0.004 +/- 0.031'}]
    """
    tables = {}
    for name, keys in _ROWS.items():
        rows = _reported(rows_of(records, name))
        if len(rows):
            tables[name] = _pivot(rows, keys, "token", _tokens(rows), _cells(rows))
    rows = _reported(rows_of(records, "recovery"))
    if len(rows):
        prefixes = [_PREFIX.fullmatch(metric) for metric in rows["metric"]]
        whole = [found is None for found in prefixes]
        tables["recovery"] = _recovery(rows[whole])
        within = rows.assign(prefix=[_unquoted(found[1]) if found else None for found in prefixes])
        within = within[[found is not None for found in prefixes]]
        if len(within):
            keys, methods = ("token", "prefix"), methods_of(within)
            tables["recovery_prefix"] = _pivot(within, keys, "method", methods, _cells(within))
    if tests is not None and len(tests):
        tables["tests"] = _tests(_reported(tests))
    return tables


def to_markdown_table(frame):
    """Write a DataFrame as a Markdown table, without its index.

    Characters that would end a cell or start markup are escaped, line breaks become spaces, and
    columns of numbers or of scores are aligned at the right.

    Parameters
    ----------
    frame : DataFrame

    Returns
    -------
    text : str
        Lines that end with a line break; only the heads if the table has no rows.

    Examples
    --------
    >>> import pandas as pd
    >>> print(to_markdown_table(pd.DataFrame({"word": ["a|b"], "n": [3]})), end="")
    | word | n |
    |---|---:|
    | a\\|b | 3 |
    """
    cells = [[_markdown(value) for value in row] for row in frame.itertuples(index=False)]
    numeric = [bool(cells) and all(_looks_numeric(row[i]) for row in cells)
               for i in range(frame.shape[1])]  # fmt: skip
    lines = [
        [_markdown(name) for name in frame.columns],
        ["---:" if right else "---" for right in numeric],
        *cells,
    ]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    texts[1] = "|" + "|".join(lines[1]) + "|"
    return "".join(text + "\n" for text in texts)


def _markdown(value):
    text = "" if value is None or value != value else clean(value)
    return re.sub(r"([\\|`*\[\]$]|<(?=[a-zA-Z/!?]))", r"\\\1", text)


def _looks_numeric(text):
    return re.fullmatch(r"[-+]?[\d.,]+([ e+/-].*)?( \(p .*)?", text) is not None or text == ""


def _pivot(rows, keys, across, columns, cells):
    """Make one line for each combination of `keys`, with a column for each value of `across`."""
    import pandas as pd

    lines = {}
    for *key, column, cell in zip(*(rows[key] for key in (*keys, across)), cells, strict=True):
        lines.setdefault(tuple(key), {}).setdefault(column, cell)
    places = {key: _places(rows, key) for key in keys}

    def place(line):
        # An unknown value (NaN) equals nothing, itself included: it comes last.
        return [places[k].get(value, len(rows)) for k, value in zip(keys, line, strict=True)]

    table = [
        [*map(_label, keys, line), *(lines[line].get(column, "") for column in columns)]
        for line in sorted(lines, key=place)
    ]
    return pd.DataFrame(table, columns=[*keys, *columns])


def _places(rows, key):
    """Number the values of a column in the order of tables."""
    if key == "metric":
        values = metrics_of(rows)
    elif key in ("method", "baseline"):
        values = methods_of(rows, key)
    elif key == "token":
        values = _tokens(rows)
    elif key == "prefix":
        values = rows[key].unique()  # as the records have them: the most frequent first
    else:
        values = in_steps(rows[key].tolist())
    return {value: i for i, value in enumerate(values)}


def _tokens(rows):
    tokens = tokens_of(rows)
    return [*tokens, MEAN] if MEAN in set(rows["token"]) else tokens


def _reported(rows):
    """Leave out the mean over the tokens where there is but one."""
    single = len(rows) > 0 and len(tokens_of(rows)) == 1
    return rows[rows["token"] != MEAN] if single else rows


def _label(key, value):
    if key == "metric":
        return measure(value).name
    return int(value) if is_number(value) and float(value) == int(value) else value


def _cells(rows):
    counts = rows["n"] if "n" in rows else [None] * len(rows)
    return [
        cell_text(mean, None if n == 1 else std)  # a single number has no deviation
        for mean, std, n in zip(rows["mean"], rows["std"], counts, strict=True)
    ]


def cell_text(mean, std=None):
    """Write mean and standard deviation; "" for what is not a number.

    >>> cell_text(0.61, 0.0812), cell_text(0.61), cell_text(float("nan"), 0.1)
    ('0.610 +/- 0.081', '0.610', '')
    """
    if not is_number(mean):
        return ""
    return f"{mean:.3f} +/- {std:.3f}" if is_number(std) else f"{mean:.3f}"


def p_text(p):
    """Write a p-value.

    >>> p_text(0.00001), p_text(0.0234), p_text(0.4), p_text(0.99996)
    ('p < 0.001', 'p = 0.023', 'p = 0.40', 'p > 0.999')
    """
    if p < 0.001 or p > 0.999:
        return "p < 0.001" if p < 0.5 else "p > 0.999"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _tests(tests):
    keys, tokens = ["metric", "top", "baseline"], _tokens(tests)
    cells = [
        f"{difference:+.3f}" + (f" ({p_text(p)})" if is_number(p) else "")
        if is_number(difference)
        else ""
        for difference, p in zip(tests["difference"], tests["p_value"], strict=True)
    ]
    table = _pivot(tests, keys, "token", tokens, cells)
    counts = _pivot(tests, keys, "token", tokens, tests["n"])
    table.insert(len(keys), "n", counts[tokens[-1]])
    return table


def _recovery(rows):
    """Scores of each token and method side by side: over all factors, and of each."""
    rows = rows[[is_number(mean) for mean in rows["mean"]]]
    known = [metric for metric in rows["metric"] if metric.startswith(_PER_FACTOR)]
    metrics = in_order(rows["metric"], ["auroc", *dict.fromkeys(known)])
    table = _pivot(rows, ["token", "method"], "metric", metrics, _cells(rows))
    return table.rename(columns={metric: _recovery_name(metric) for metric in metrics})


def _unquoted(text):
    """Read a prefix as it stands in the name of a metric.

    >>> _unquoted("'a black '"), _unquoted("")
    ('a black ', 'the most frequent')
    """
    try:
        return ast.literal_eval(text) if text else "the most frequent"
    except (ValueError, SyntaxError):
        return text


def _recovery_name(metric):
    if metric.startswith(_PER_FACTOR):
        return f"AUROC of {clean(metric.removeprefix(_PER_FACTOR))}"
    return "AUROC" if metric == "auroc" else metric
