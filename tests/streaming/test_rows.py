"""Rows are the same wherever they come from and however they are cut."""

import gc
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semi_nmf_concepts.streaming import (
    RowBlocks,
    default_batch_size,
    is_row_source,
    open_rows,
    row_priorities,
)
from tests.streaming._made import (
    SOURCES,
    InFile,
    Loader,
    as_list,
    as_list_of_paths,
    as_memmap,
    as_npy,
    as_npy_shards,
    save_bfloat16,
)

CUTS = st.lists(st.integers(0, 40), min_size=1, max_size=4)
DTYPES = ["float16", "float32", "float64", "int16", "uint8"]
HANDED_OUT = {"float16": "float32", "float32": "float32"}


def data(n, d=3, dtype="float32", seed=0):
    return (np.random.default_rng(seed).standard_normal((n, d)) * 50).astype(dtype)


def blocks_of(rows, *args, **kwargs):
    return [(start, block.copy()) for start, block in rows.blocks(*args, **kwargs)]


@pytest.mark.parametrize("make", SOURCES)
@settings(max_examples=25)
@given(
    n=st.integers(1, 30),
    dtype=st.sampled_from(DTYPES),
    cuts=CUTS,
    batch_size=st.integers(1, 35),
    read_ahead=st.booleans(),
    indices=st.lists(st.integers(0, 29), max_size=8),
)
def test_blocks_do_not_depend_on_the_source(make, n, dtype, cuts, batch_size, read_ahead, indices):
    Z = data(n, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        rows = open_rows(make(Z, Path(folder), cuts))
        expected = Z.astype(HANDED_OUT.get(dtype, "float64"))
        assert isinstance(rows, RowBlocks) and not rows.skipped
        assert rows.shape == Z.shape and len(rows) == n and rows.ndim == 2
        assert rows.dtype == expected.dtype
        for _ in range(2):
            blocks = blocks_of(rows, batch_size, read_ahead=read_ahead)
            assert [start for start, _ in blocks] == list(range(0, n, batch_size))
            for start, block in blocks:
                assert block.dtype == rows.dtype and block.flags.c_contiguous
                np.testing.assert_array_equal(block, expected[start : start + batch_size])
        indices = sorted(i % n for i in indices)
        np.testing.assert_array_equal(rows.take(indices), expected[indices])
        np.testing.assert_array_equal(np.asarray(rows), expected)
        del rows  # Windows does not remove files that are open


KEYS = st.one_of(
    st.integers(-9, 8),
    st.lists(st.integers(-9, 8), max_size=12),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.slices(9),
)


@given(key=KEYS)
def test_rows_are_indexed_as_those_of_an_array(key):
    Z = data(9)
    rows = open_rows([Z[:4], Z[4:]])
    np.testing.assert_array_equal(rows[key], Z[key])
    if isinstance(key, list) and key:
        np.testing.assert_array_equal(rows[np.array(key)], Z[key])


@pytest.mark.parametrize(
    "key",
    [
        9,
        -10,
        [0, 9],
        (0, 3),
        (0, 1, 2),
        (None, 0),
        (0, None),
        (0, 0.5),
        ([0], [0]),
        (..., ...),
        (0, "a"),
        (0, True),
        0.5,
        [0.5],
        [[0]],
        "a",
        [True],
        None,
    ],
)
def test_other_keys_are_errors(key):
    rows = open_rows([data(4), data(5)])
    with pytest.raises(IndexError):
        rows[key]


COLUMNS = st.one_of(
    st.integers(-3, 2),
    st.lists(st.integers(-3, 2), max_size=4),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.slices(3),
)


@given(key=KEYS, columns=COLUMNS)
def test_columns_are_indexed_on_top(key, columns):
    Z = data(9)
    rows = open_rows([Z[:4], Z[4:]])
    for whole in ((key,), (key, ...), (..., key, slice(None)), (key, slice(None))):
        np.testing.assert_array_equal(rows[whole], Z[key])
    np.testing.assert_array_equal(rows[..., columns], Z[..., columns])
    if isinstance(key, int | slice) or isinstance(columns, int | slice):
        np.testing.assert_array_equal(rows[key, columns], Z[key][..., columns])
        np.testing.assert_array_equal(rows[key, ..., columns], Z[key][..., columns])
    np.testing.assert_array_equal(rows[...], Z)
    np.testing.assert_array_equal(rows[()], Z)
    assert rows.size == Z.size


def test_splits_of_scikit_learn():
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV, train_test_split

    Z = data(40)
    rows = open_rows([Z[:7], Z[7:]])
    for found, expected in zip(
        train_test_split(rows, random_state=0), train_test_split(Z, random_state=0), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    searches = [GridSearchCV(PCA(), {"n_components": [1, 2]}, cv=3).fit(X) for X in (rows, Z)]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    np.testing.assert_allclose(*scores, rtol=1e-5)


PLACES = {
    "as_list_of_paths": ["npy/part-0.npy", "npy/part-1.npy"],
    "as_memmap": ["mapped.npy"],
    "as_columns": ["columns.npy"],
    "as_npy": ["one.npy"],
    "as_safetensors": ["one.safetensors"],
    "as_npy_shards": ["npy", "npy/part-0.npy", "npy/part-1.npy"],
    "as_safetensors_shards": ["parts", "parts/0.safetensors", "parts/1.safetensors"],
    "as_list": ["first.npy"],
    "as_zarr": ["a.zarr"],
    "as_zarr_path": ["a.zarr"],
}


@pytest.mark.parametrize("make", SOURCES)
def test_places_are_what_is_read(make, tmp_path):
    rows = open_rows(make(data(9), tmp_path, (4,)))
    places = {Path(place) for place in rows.places}
    assert places == {tmp_path / name for name in PLACES.get(make.__name__, [])}
    assert set(open_rows([data(2), rows]).places) == set(rows.places)


def test_places_of_parts_of_files(tmp_path):
    import zarr

    mapped = as_memmap(data(9), tmp_path, ())
    assert open_rows(np.asarray(mapped)[2:]).places == (str(tmp_path / "mapped.npy"),)
    array = zarr.open_group(tmp_path / "g.zarr").create_array("Z", data=data(9))
    assert open_rows(array).places == (str(tmp_path / "g.zarr" / "Z"),)
    assert open_rows(tmp_path / "g.zarr").places == (str(tmp_path / "g.zarr"),)
    with zarr.storage.ZipStore(tmp_path / "z.zip", mode="w") as store:
        array = zarr.create_array(store, data=data(9))
        assert open_rows(array).places == (str(tmp_path / "z.zip"),)
    assert open_rows(zarr.create_array({}, data=data(9))).places == ()


def test_what_take_refuses():
    rows = open_rows(data(4))
    with pytest.raises(ValueError, match="ascending"):
        rows.take([1, 0])
    with pytest.raises(IndexError, match="4 rows"):
        rows.take([4])
    assert rows.take([]).shape == (0, 3)


def test_rows_are_iterated_over_and_made_arrays_of_other_types():
    Z = data(5, dtype="float16")
    rows = open_rows([Z[:2], Z[2:]])
    np.testing.assert_array_equal(list(rows), Z)
    assert np.asarray(rows, dtype=np.float64).dtype == np.float64
    assert np.array(rows).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(rows, copy=False)
    assert "X: shape (5, 3), float32" in repr(rows)


def test_rows_of_rows_are_themselves():
    rows = open_rows(data(4))
    assert open_rows(rows) is rows
    np.testing.assert_array_equal(open_rows([rows, rows]), np.tile(data(4), (2, 1)))


def test_types_that_differ_become_the_wider_one():
    parts = [data(2, dtype="float16"), data(3, dtype="float64")]
    for X in (parts, Loader(parts[::-1]), lambda: iter(parts)):
        rows = open_rows(X)
        assert rows.dtype == np.float64
        found, expected = (np.sort(np.asarray(Z), axis=None) for Z in (rows, np.vstack(parts)))
        np.testing.assert_array_equal(found, expected)


# Up-casting --------------------------------------------------------------------------------------


def every_float16():
    return np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 16)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_float16_is_up_cast_exactly(byte_order, tmp_path):
    Z = every_float16()
    rows = open_rows(as_npy(Z.astype(byte_order + "f2"), tmp_path, ()))
    with np.errstate(invalid="ignore"):  # of NumPy's own cast: signalling NaN
        expected = Z.astype(np.float32)
    read = np.asarray(rows)
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(np.signbit(read), np.signbit(expected))


def test_every_bfloat16_is_up_cast_exactly(tmp_path):
    bits = np.arange(2**16, dtype=np.uint32) << 16
    Z = bits.view(np.float32).reshape(-1, 16)
    expected = save_bfloat16(tmp_path / "b.safetensors", Z)
    rows = open_rows(tmp_path / "b.safetensors")
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(rows[[5, 3, 4000]], expected[[5, 3, 4000]])
    both = np.asarray(open_rows([rows, np.zeros((1, 16))]))
    np.testing.assert_array_equal(both[:-1], expected)


def test_a_loader_of_bfloat16():
    import torch

    Z = torch.from_numpy(data(6)).to(torch.bfloat16).requires_grad_()
    np.testing.assert_array_equal(open_rows(lambda: iter([Z[:4], Z[4:]])), Z.detach().float())


# Passes ------------------------------------------------------------------------------------------


def test_the_size_of_blocks():
    assert default_batch_size(2048) == 8192
    assert default_batch_size(2048, np.float64) == 4096
    assert default_batch_size(10**7) == 256
    n = default_batch_size(4096)
    rows = open_rows(np.zeros((n + 1, 4096), np.uint8)[:, :].astype(np.float16))
    assert [block.shape[0] for _, block in rows.blocks()] == [n, 1]


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "8", True * 1.5])
def test_bad_batch_sizes(batch_size):
    with pytest.raises(ValueError, match="batch_size=.* at least 1"):
        open_rows(data(4)).blocks(batch_size)


def test_blocks_of_the_right_type_are_not_copied(tmp_path):
    for Z in (data(9), np.load(as_npy(data(9), tmp_path, ()), mmap_mode="r")):
        for _, block in open_rows(Z).blocks(4):
            assert np.shares_memory(block, Z)


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("semi_nmf_concepts-reader")]


@pytest.mark.parametrize("how", ["to the end", "closed", "collected", "error", "error in reading"])
def test_the_thread_ends_with_the_pass(how, tmp_path):
    folder = as_npy_shards(data(40, dtype="float16"), tmp_path, (10, 20, 30))
    blocks = open_rows(folder).blocks(5)
    next(blocks)
    assert len(readers()) == 1
    if how == "to the end":
        assert len(list(blocks)) == 7
    elif how == "closed":
        blocks.close()
    elif how == "collected":
        del blocks
        gc.collect()
    elif how == "error":
        with pytest.raises(KeyError):
            blocks.throw(KeyError)
    else:
        (folder / "part-2.npy").unlink()
        with pytest.raises(FileNotFoundError, match="part-2"):
            list(blocks)
    assert not readers()


def test_the_next_block_is_read_while_one_is_in_use():
    read = []

    def blocks():
        for i in range(4):
            read.append(threading.current_thread().name)
            yield np.full((2, 3), float(i))

    rows = open_rows(blocks, once=True)
    passing = rows.blocks(2)
    _, first = next(passing)
    for _ in range(1000):
        if len(read) == 2:
            break
        threading.Event().wait(0.005)
    assert len(read) == 2  # no more than one ahead
    assert (first == 0).all()  # and not into the block that is in use
    assert read[1].startswith("semi_nmf_concepts-reader")
    passing.close()


def test_two_passes_at_a_time():
    Z = data(30, dtype="float16")
    rows = open_rows([Z[:11], InFile(Z[11:20], chunks=(4, 3)), Loader([Z[20:24], Z[24:]])])
    for (_, a), (_, b) in zip(rows.blocks(7), rows.blocks(7), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(rows.take([3, 12, 29]), Z[[3, 12, 29]])


@pytest.mark.parametrize("chunk", [1, 7, 100, 250])
def test_no_chunk_is_read_twice(chunk, monkeypatch):
    monkeypatch.setattr("semi_nmf_concepts.streaming._arrays._BAND", 100)
    Z = data(220, dtype="float16")
    array = InFile(Z, chunks=(chunk, 3))
    rows = open_rows(array)
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks_of(rows, 9)]), Z)
    starts = [start for start, _ in array.read]
    assert starts == sorted(set(starts)) and all(start % chunk == 0 for start in starts)
    array.read.clear()
    rows.take([0, 1, 219])
    assert [start // chunk for start, _ in array.read] == sorted({0, 219 // chunk})


# Iterators ---------------------------------------------------------------------------------------


def test_every_pass_asks_for_a_new_iterator():
    loader = Loader([data(3), data(4)])
    rows = open_rows(loader)
    assert loader.n_passes == 1
    for n_passes in (2, 3):
        assert len(blocks_of(rows, 2)) == 4
        assert loader.n_passes == n_passes


@given(n=st.integers(1, 20), cuts=CUTS, batch_size=st.integers(1, 25))
def test_iterators_are_read_once(n, cuts, batch_size):
    Z = data(n)
    pieces = np.array_split(Z, min(n, max(cuts) % 4 + 1))
    rows = open_rows(iter(pieces), once=True)
    assert rows.shape == (None, 3) and rows.dtype == np.float32
    with pytest.raises(TypeError, match="not known yet"):
        len(rows)
    blocks = blocks_of(rows, batch_size)
    assert rows.shape == Z.shape
    assert [start for start, _ in blocks] == list(range(0, n, batch_size))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), Z)
    with pytest.raises(ValueError, match="only once"):
        blocks_of(rows)


def test_a_loader_that_is_read_once_is_not_counted_before():
    loader = Loader([data(3), data(4)])
    rows = open_rows(loader, once=True)
    assert len(np.concatenate([block for _, block in blocks_of(rows)])) == 7
    assert loader.n_passes == 1


def test_an_iterator_is_no_source_of_several_passes():
    with pytest.raises(TypeError, match="only once; give .* a function"):
        open_rows(iter([data(3)]))


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([3, 3], "same rows in every pass: 7 at first, now 6"),
        ([], "7 at first, now 0"),
        ([3, 4, 1], "7 at first, now more"),
        ([7, 1], "7 at first, now more"),
    ],
)
@pytest.mark.parametrize("batch_size", [2, 7, 100])
def test_an_iterator_that_yields_another_number_of_rows(later, message, batch_size):
    lengths = iter([[3, 4], later])
    rows = open_rows(lambda: (data(n) for n in next(lengths)))
    with pytest.raises(ValueError, match=message):
        blocks_of(rows, batch_size)
    assert not readers()


def test_errors_of_an_iterator_are_its_own():
    def failing():
        yield data(3)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk is gone"):
        open_rows(failing)
    with pytest.raises(RuntimeError, match="disk is gone"):
        blocks_of(open_rows(failing(), once=True), 1)


@pytest.mark.parametrize("make", [as_npy_shards, as_list, as_list_of_paths])
def test_rows_are_located_in_their_files(make, tmp_path):
    rows = open_rows([make(data(9), tmp_path, (4,)), data(3)])
    assert rows.locate(3).startswith("row 3 of ") and rows.locate(3).endswith(".npy")
    assert rows.locate(4).startswith("row 0 of ")
    assert rows.locate(10) == "row 1 of X[1]"
    assert open_rows(data(3)).locate(2) == "row 2 of X"


def test_an_empty_path_is_not_the_working_directory():
    for X in ("", [""], ["", "a.npy"]):
        with pytest.raises(ValueError, match="empty path"):
            open_rows(X)


# What is a source --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SOURCES)
def test_sources_are_told(make, tmp_path):
    X = make(data(9), tmp_path, (4,))
    assert is_row_source(X) is (type(X) is not np.ndarray and make is not as_list)
    assert is_row_source(open_rows(X))


def others():
    import dask.array
    import pandas as pd
    import scipy.sparse
    import torch

    Z = data(4)
    yield from (Z, Z.tolist(), tuple(Z), [Z, Z], None, 3, 1.5, {"a": 1}, {1, 2}, b"bytes")
    yield from ([], ["a", 1], [["a", "b"]])
    yield from ({}.keys(), {}.values(), range(3), np.float32(1), np.ndarray, RowBlocks, object())
    yield from (pd.DataFrame(Z), pd.Series([1.0]), torch.from_numpy(Z), dask.array.from_array(Z))
    for format_ in ("csr", "coo", "dia", "lil"):
        yield scipy.sparse.eye_array(3, format=format_)
        yield scipy.sparse.eye(3, format=format_)


@pytest.mark.parametrize("X", list(others()), ids=lambda X: type(X).__name__)
def test_other_things_are_no_sources(X):
    assert is_row_source(X) is False


def test_iterators_and_functions_are_sources():
    assert is_row_source(iter([1])) and is_row_source(lambda: iter([])) and is_row_source(Path("a"))


# Samples -----------------------------------------------------------------------------------------


def test_priorities_depend_on_seed_and_row_alone():
    whole = row_priorities(7, 0, 1000)
    assert whole.dtype == np.uint64 and len(set(whole.tolist())) == 1000
    for start, stop in ((0, 1), (10, 500), (999, 1000), (5, 5)):
        np.testing.assert_array_equal(row_priorities(7, start, stop), whole[start:stop])
    far = row_priorities(7, 2**40, 2**40 + 3)
    assert len(set(far.tolist()) | set(whole.tolist())) == 1003


def test_priorities_are_splitmix64():
    """The published first numbers of the generator that is seeded with 1234567."""
    from semi_nmf_concepts.streaming._priorities import _STEP, _mixed

    states = np.array([(1234567 + k * _STEP) % 2**64 for k in (1, 2, 3)], np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert _mixed(states).tolist() == expected


def test_priorities_are_uniform_and_seeds_have_nothing_in_common():
    one, other = row_priorities(0, 0, 20_000), row_priorities(1, 0, 20_000)
    for values in (one, other):
        counts = np.bincount((values >> np.uint64(58)).astype(int), minlength=64)
        assert ((counts - 312.5) ** 2 / 312.5).sum() < 110  # chi-squared, 63 degrees of freedom
    ranks = np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))
    assert abs(ranks[0, 1]) < 0.03
    lagged = np.corrcoef(one[1:].astype(float), one[:-1].astype(float))
    assert abs(lagged[0, 1]) < 0.03
    assert not set(one.tolist()) & set(other.tolist())
