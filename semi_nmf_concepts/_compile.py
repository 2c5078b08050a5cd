"""How the kernels are compiled. Importing this module imports numba."""

import numba

_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}


def compiled(function):
    """``numba.njit`` without the GIL, with a cache on disk where a folder can be written."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return numba.njit(**_OPTIONS)(function)


def inlined(function):
    """A part of a compiled function. As a call of its own, passing arrays costs some 50 ns."""
    return numba.njit(inline="always", **_OPTIONS)(function)
