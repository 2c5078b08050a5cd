"""Wording that several rooms share."""


def some(values, n=5):
    """The first `n` of a list, and that there are more.

    >>> some([3, 4, 5], n=2)
    '3, 4, ...'
    """
    return ", ".join(map(str, values[:n])) + (", ..." if len(values) > n else "")
