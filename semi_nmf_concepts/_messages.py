"""Wording that several rooms share, and where warnings point to."""

import os
import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parent) + os.sep


def some(values, n=5):
    """The first `n` of a list, and that there are more.

    >>> some([3, 4, 5], n=2)
    '3, 4, ...'
    """
    return ", ".join(map(str, values[:n])) + (", ..." if len(values) > n else "")


def callers_level():
    """The `stacklevel` with which `warnings.warn` points to the line of the user.

    That is the first one outside of this package, and of what scikit-learn wraps its methods with.
    """
    passed_over = [_PACKAGE]
    if "sklearn" in sys.modules:
        passed_over.append(str(Path(sys.modules["sklearn"].__file__).parent) + os.sep)
    frame, level = sys._getframe(1), 1
    while frame is not None and (
        frame.f_code.co_filename.startswith(tuple(passed_over))
        or frame.f_globals.get("__name__") == "contextlib"
    ):
        frame, level = frame.f_back, level + 1
    return level
