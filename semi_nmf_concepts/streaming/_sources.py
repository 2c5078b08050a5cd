"""What rows can come from, told without importing any library that is not loaded."""

import os
from collections.abc import MappingView, Set

import numpy as np

from ._row_blocks import RowBlocks

# What tells arrays, tables and sparse matrices that are computed with as they are.
_COMPUTED_WITH = (
    "__array_namespace__",
    "__array_ufunc__",
    "__array_function__",
    "__cuda_array_interface__",
    "__dask_graph__",
    "tocsr",
)


def is_row_source(X):
    """Whether `X` is read block by block, rather than computed with as it is.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool
        True for :class:`RowBlocks`, paths and lists of paths, memory-mapped arrays, Zarr arrays and
        other arrays in files (h5py), objects that yield blocks of rows, and functions that return
        such. False for arrays in memory of any library, other lists, tables, sparse matrices, Dask
        arrays, and anything else.

    Examples
    --------
    >>> import numpy as np
    >>> from semi_nmf_concepts.streaming import is_row_source
    >>> is_row_source("states/dog"), is_row_source(np.eye(2)), is_row_source([[1.0, 2.0]])
    (True, False, False)
    """
    return (
        isinstance(X, RowBlocks | str | os.PathLike | np.memmap)
        or is_list_of_paths(X)
        or is_array_in_file(X)
        or yields_blocks(X)
        or is_function(X)
    )


def is_list_of_paths(X):
    """Whether it names files to be read one below the other."""
    return (
        isinstance(X, list | tuple)
        and len(X) > 0
        and all(isinstance(x, str | os.PathLike) for x in X)
    )


def is_array_in_file(X):
    """Zarr arrays, data sets of h5py and their like: a shape, a type, and reading by slices."""
    if isinstance(X, type):
        return False
    if type(X).__module__.partition(".")[0] in ("zarr", "h5py"):
        return hasattr(X, "shape") and hasattr(X, "dtype")
    return (
        not any(hasattr(X, name) for name in _COMPUTED_WITH)
        and hasattr(X, "__getitem__")
        and isinstance(getattr(X, "dtype", None), np.dtype)
        and isinstance(getattr(X, "shape", None), tuple)
        and len(X.shape) == 2
    )


def yields_blocks(X):
    """Whether it can be iterated over, but not indexed, as lists, arrays and tables can."""
    return (
        hasattr(X, "__iter__")
        and not isinstance(X, type | Set | MappingView)
        and not any(hasattr(X, name) for name in ("__getitem__", "__array__", *_COMPUTED_WITH))
    )


def is_function(X):
    """Whether it is something to call for an iterator: no class, array or model."""
    return (
        callable(X)
        and not isinstance(X, type)
        and not any(hasattr(X, name) for name in ("__getitem__", "__array__", *_COMPUTED_WITH))
    )
