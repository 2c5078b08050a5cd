"""Layers and heads as users choose them: a number, several, "mean" or "max"."""

from numbers import Integral


def reduced(rows, choice, name, index):
    """Rows with the first axis (layers or heads) reduced as `choice` says."""
    if isinstance(choice, str):
        if choice not in ("mean", "max"):
            raise ValueError(f"{name} must be a number, a list, 'mean' or 'max', got {choice!r}.")
        return rows.mean(axis=0) if choice == "mean" else rows.max(axis=0)
    chosen = [choice] if isinstance(choice, Integral) else list(choice)
    if not chosen:
        raise ValueError(f"{name} is an empty list.")
    return rows[[index(one_integer(name, item)) for item in chosen]].mean(axis=0)


def one_integer(name, value):
    """`value` as an int, or a TypeError that names the parameter."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    return int(value)


def counted(layers):
    """How many there are, and which, for messages."""
    return f"{len(layers)} ({', '.join(map(str, layers))})"
