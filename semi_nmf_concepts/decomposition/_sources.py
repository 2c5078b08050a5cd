"""What the methods of an estimator are given: an array, rows to read block by block, or Dask's."""

import os
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import is_dask_array
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_n_features

from ..streaming import CodesWriter, default_batch_size, is_row_source, open_codes, open_rows
from ._row_passes import StreamedPasses, naming_rows
from ._solvers import join_codings

#: The Gram matrix of the atoms is made for every block: so many rows for each atom make up for it,
#: as long as they take so many bytes.
_ROWS_PER_ATOM, _LARGEST_BLOCK = 16, 2**28
#: Bytes of the rows of a Dask chunk that are worked on at a time.
_PIECE = 2**23


@dataclass
class Source:
    """Data that were opened.

    Attributes
    ----------
    X : array-like
        The data, where they are (now) in memory.
    passes : RowPasses or None
        Else the way to their rows.
    skipped : dict
        What was left out, and why, by name of the file.
    """

    X: Any = None
    passes: Any = None
    skipped: dict = field(default_factory=dict)


def is_by_rows(X):
    """Whether X is visited block by block."""
    return is_dask_array(X) or is_row_source(X)


@contextmanager
def opened(estimator, X, *, on_error="raise", rechunk=True, by_rows=False):
    """The data as a `Source`; what is no more than one block becomes an array.

    `by_rows` asks for passes also where X is an array (which has to be NumPy's, or become so).
    """
    if is_dask_array(X):
        from ._dask import DaskPasses, check_dask

        X = check_dask(X, rechunk)
        source = Source(passes=DaskPasses(X, **dask_options(estimator.n_components, X.shape[1])))
    elif by_rows or is_row_source(X):
        source = _opened_rows(estimator, X, on_error, by_rows)
    else:
        source = Source(X)
    try:
        yield source
    finally:
        if source.passes is not None:
            source.passes.close()


def _opened_rows(estimator, X, on_error, by_rows):
    rows = _rows_of(estimator, X, on_error)
    batch_size = rows_at_a_time(estimator, rows)
    if len(rows) <= batch_size and not by_rows:
        return Source(rows[:], skipped=rows.skipped)
    return Source(passes=StreamedPasses(rows, batch_size), skipped=rows.skipped)


def _rows_of(estimator, X, on_error):
    if is_row_source(X):
        return open_rows(X, on_error=on_error)
    X, kind = estimator._validate(X, method="fit", reset=True, finite=False)
    if not isinstance(X, np.ndarray):
        raise TypeError(
            f"A checkpoint needs X in host memory, on disk or in Dask; it is an array of {kind}."
        )
    return open_rows(X)


def dask_options(n_components, n_features):
    """Options of `DaskPasses` for a dictionary of this shape."""
    n_at_once = max(_PIECE // (4 * n_features), _ROWS_PER_ATOM * n_components)
    return {"bytes_per_row": np.float64().itemsize * n_components, "n_at_once": n_at_once}


def rows_at_a_time(estimator, rows):
    """Rows of a block."""
    if estimator.batch_size is not None:
        return estimator.batch_size
    default = default_batch_size(rows.shape[1], rows.dtype)
    affordable = _LARGEST_BLOCK // (rows.dtype.itemsize * rows.shape[1])
    return max(default, min(_ROWS_PER_ATOM * estimator.n_components, affordable))


def check_n_features(estimator, rows, *, reset=False):
    """Set or compare the number of features as scikit-learn does."""
    _check_n_features(estimator, _Shaped(rows.shape[1]), reset=reset)
    if reset:
        vars(estimator).pop("feature_names_in_", None)


class _Shaped:
    """What scikit-learn asks the number of features of."""

    def __init__(self, n_features):
        self.shape = (1, n_features)


def check_options(on_error, layout="dense", out=None):
    """Raise for values that are no options, whatever X is."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'; got {on_error!r}.")
    if layout not in ("dense", "csr"):
        raise ValueError(f"layout must be 'dense' or 'csr'; got {layout!r}.")
    if layout == "csr" and out is None:
        raise ValueError("layout='csr' is that of codes on disk: name a file with out=.")


# Codes -------------------------------------------------------------------------------------------


@contextmanager
def blocks_of(estimator, X, on_error="raise", *, reset=False):
    """The rows of X, and its blocks as pairs of first row and block: one pass.

    X may be one that can be read only once.
    """
    rows = open_rows(X, on_error=on_error, once=True)
    check_n_features(estimator, rows, reset=reset)
    with (
        closing(rows.blocks(rows_at_a_time(estimator, rows))) as blocks,  # and what reads ahead
        naming_rows(blocks, rows.locate) as blocks,
    ):
        yield rows, blocks


def coded_rows(estimator, X, out, layout, on_error):
    """Codes of rows that are read block by block, how that went, and how many they are.

    In memory, or, with `out`, in a file or store.
    """
    codings = []

    def coded(blocks):
        for _, block in blocks:
            V, coding = estimator._codes_of(block)
            codings.append(coding)
            yield V

    with blocks_of(estimator, X, on_error) as (rows, blocks):
        shape = (rows.shape[0], estimator.components_.shape[0])
        if out is None:
            codes = _joined(coded(blocks), shape, rows.dtype)
        else:
            _check_out(estimator, rows, out)
            with CodesWriter(out, shape, rows.dtype, layout=layout) as writer:
                for V in coded(blocks):
                    writer.append(V)
    if out is not None:
        codes = open_codes(out)
    return codes, join_codings(codings), codes.shape[0]


def _joined(blocks, shape, dtype):
    """Blocks of codes as one array."""
    if shape[0] is None:
        return np.concatenate(list(blocks))
    codes, start = np.empty(shape, dtype), 0
    for V in blocks:
        codes[start : start + len(V)] = V
        start += len(V)
    return codes


def _check_out(estimator, rows, out):
    """Raise where codes on disk cannot be what was asked for, or would replace the data."""
    check_container(estimator, "out= leaves the codes on disk")
    if not isinstance(out, str | os.PathLike):
        return  # CodesWriter says what it has to be
    new = _resolved(out)
    for place in rows.places:
        old = _resolved(place)
        if new == old or new in old.parents or old in new.parents:
            raise ValueError(
                f"out={str(out)!r} is where X is read from ({place}); name a file elsewhere."
            )


def _resolved(path):
    return Path(os.path.normcase(os.path.realpath(os.path.expanduser(path))))


def check_container(estimator, reason):
    """Raise where set_output asks for a container that would hold all codes in memory."""
    container = _get_output_config("transform", estimator)["dense"]
    if container != "default":
        raise ValueError(
            f"{reason}, but set_output asks for {container!r}. Call "
            "set_output(transform='default')."
        )


class Codes:
    """Codes of blocks by a fitted estimator as it is now, for Dask's workers."""

    def __init__(self, estimator):
        self.estimator = copy(estimator)

    def __call__(self, block):
        return self.estimator._codes_of(block)[0]


class Reconstruction:
    """Samples that blocks of codes stand for, for Dask's workers."""

    def __init__(self, estimator):
        self.estimator = copy(estimator)

    def __call__(self, V):
        return self.estimator._reconstruct(V)
