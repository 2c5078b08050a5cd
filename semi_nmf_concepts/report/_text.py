"""Numbers and words as a reader sees them. Escaping is not done here but by the templates."""

import base64
import math
import re

# Control characters have no place on a page; those that reverse or embed text directions could make
# a caption disturb the text around it, and a lone surrogate cannot be written as UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def clean(text):
    """Return `text` as one line of printable text; unprintable characters become U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", " ".join(str(text).split()))


def is_number(value):
    """Whether `value` is a finite real number (and not a bool)."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):
        return False


def number(value):
    """Format with about three significant digits; an unknown or infinite value becomes a dash.

    >>> [number(x) for x in (0.73124, 12.345, 4096, 0.00012, 0, None)]
    ['0.731', '12.3', '4,096', '0.00012', '0', '–']
    """
    if not is_number(value):
        return DASH
    value, size = float(value), abs(float(value))
    if value == int(value) and size < 1e15:
        text = f"{int(value):,}"
    elif size >= 100:
        text = f"{value:,.0f}"
    elif size >= 1:
        text = f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    else:
        text = f"{value:.3f}" if size >= 0.01 else f"{value:.2g}"
    return text.replace("-", MINUS) if text.startswith("-") else text


def mean_and_spread(values):
    """Format the mean of an array and, of more than one value, its standard deviation.

    >>> import numpy as np
    >>> mean_and_spread(np.array([0.2, 0.4])), mean_and_spread(np.array([0.2]))
    ('0.300 ± 0.141', '0.200')
    """
    spread = f" ± {number(float(values.std(ddof=1)))}" if values.size > 1 else ""
    return number(float(values.mean())) + spread if values.size else DASH


def percent(share):
    """Format a share as a percentage that says 0% and 100% only where this is exact.

    >>> [percent(x) for x in (0, 0.001, 0.234, 0.999, 1)]
    ['0%', '<1%', '23%', '>99%', '100%']
    """
    if not is_number(share):
        return DASH
    if 0 < share < 0.01:
        return "<1%"
    if 0.99 < share < 1:
        return ">99%"
    return f"{share:.0%}".replace("-", MINUS)


def auroc(value):
    """Format an AUROC with two decimals, the precision that some dozens of positives can carry."""
    return f"{value:.2f}" if is_number(value) else DASH


def interval(low, high):
    """Format an interval, or nothing where a limit is missing."""
    return f"{auroc(low)}{DASH}{auroc(high)}" if is_number(low) and is_number(high) else ""


def as_text(value):
    """Format any setting: numbers in full, sequences as lists, a missing value as a dash.

    >>> as_text(None), as_text(True), as_text(["a", 2]), as_text(0.1)
    ('–', 'yes', 'a, 2', '0.1')
    """
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return as_text(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(as_text(item) for item in value) or DASH
    if isinstance(value, float):
        return f"{value:.6g}"
    return clean(value)


def split_at_word(text, forms):
    """Cut `text` around the first whole-word occurrence of one of `forms`.

    >>> split_at_word("two hotdogs, a Dog", ["dog", "dogs"])
    [('two hotdogs, a ', False), ('Dog', True)]
    """
    forms = sorted((form for form in forms if form), key=len, reverse=True)
    found = forms and re.search(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)", text, re.IGNORECASE
    )
    if not found:
        return [(text, False)]
    start, end = found.span()
    pieces = [(text[:start], False), (text[start:end], True), (text[end:], False)]
    return [piece for piece in pieces if piece[0]]


def model_name(model):
    """Name a model as a reader would: a hub id as it is, a folder by its last part."""
    name = clean(model or "the model")
    if name == "bundled":
        return "the bundled model"
    parts = [part for part in re.split(r"[/\\]", name) if part]
    is_path = name[0] in "/\\.~" or "\\" in name or name[1:2] == ":" or len(parts) > 2
    return parts[-1] if is_path and parts else name


def tile(name, value, spec, unit="", note=""):
    """Format a key number; None where it is not known, so that the page leaves it out."""
    if not is_number(value):
        return None
    text = format(value, spec).replace("-", MINUS)
    return {"name": name, "value": text, "unit": unit, "note": note}


def named_rows(entries, prefix=""):
    """Flatten nested dictionaries into named rows; a nested name follows its parent's."""
    rows = []
    for key, value in entries.items():
        name = prefix + clean(key)
        if isinstance(value, dict):
            inner = "" if key in ("params", "grounding") else f"{name}: "
            rows += named_rows(value, inner) if value else [{"name": name, "value": as_text(None)}]
        else:
            rows.append({"name": name, "value": as_text(value)})
    return rows


def data_uri(data, kind):
    """Write the bytes of an image ("jpeg", "svg+xml") as an address that holds the image itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
