import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import zarr
from scipy.sparse import csr_array

from semi_nmf_concepts.streaming import CodesWriter, _writers, open_codes
from semi_nmf_concepts.streaming._replacement import Replacement

KINDS = [("codes.npy", "dense"), ("codes.zarr", "dense"), ("codes.zarr", "csr")]
kinds = pytest.mark.parametrize(("name", "layout"), KINDS)
posix = pytest.mark.skipif(os.name != "posix", reason="signals, limits and locks of POSIX")


def make_codes(n_rows=100, n_components=7, seed=0):
    rng = np.random.default_rng(seed)
    V = rng.random((n_rows, n_components), dtype=np.float32)
    V[V < 0.7] = 0
    V[n_rows // 3 : n_rows // 2] = 0
    return V


def write(out, V, layout, n_rows=None, cuts=(), **parameters):
    with CodesWriter(out, (n_rows, V.shape[1]), V.dtype, layout, **parameters) as writer:
        for block in np.split(V, cuts):
            writer.append(block)


def read(out):
    codes = open_codes(out)
    return codes.toarray() if isinstance(codes, csr_array) else codes[:]


def content(path):
    """Every file below `path`, by its name."""
    if path.is_file():
        return path.read_bytes()
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# ---- what is written ----


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_codes_come_back_however_they_are_cut(tmp_path, monkeypatch, name, layout, dtype):
    monkeypatch.setattr(_writers, "_SPARSE_CHUNK", 32)
    V = make_codes().astype(dtype)
    written = []
    for i, (n_rows, cuts) in enumerate(
        [(100, ()), (None, ()), (100, (16, 32, 48)), (None, (1, 1, 40, 41, 99))]
    ):
        out = tmp_path / str(i) / name
        write(out, V, layout, n_rows, cuts, batch_size=16)
        written.append(content(out))
        np.testing.assert_array_equal(read(out), V)
        assert open_codes(out).dtype == dtype
        assert os.listdir(out.parent) == [name]
    assert all(other == written[0] for other in written[1:])


def test_sparse_store_is_laid_out_as_anndata_does(tmp_path, monkeypatch):
    monkeypatch.setattr(_writers, "_SPARSE_CHUNK", 32)
    V = make_codes()
    V[0, 0] = -0.0
    write(tmp_path / "codes.zarr", V, "csr", cuts=(50,))
    group = zarr.open_group(tmp_path / "codes.zarr", mode="r")
    assert dict(group.attrs) == {
        "encoding-type": "csr_matrix",
        "encoding-version": "0.1.0",
        "shape": [100, 7],
    }
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    assert (data.dtype, indices.dtype, indptr.dtype) == (np.float32, np.int32, np.int64)
    assert data.nchunks == -(-np.count_nonzero(V) // 32)
    rows, columns = np.nonzero(V)
    np.testing.assert_array_equal(data[:], V[rows, columns])
    np.testing.assert_array_equal(indices[:], columns)
    np.testing.assert_array_equal(indptr[:], np.searchsorted(rows, np.arange(101)))


def test_chunks_of_a_dense_store(tmp_path):
    write(tmp_path / "small.zarr", make_codes(), "dense")
    assert open_codes(tmp_path / "small.zarr").chunks == (100, 7)
    write(tmp_path / "large.zarr", make_codes(), "dense", batch_size=30)
    assert open_codes(tmp_path / "large.zarr").chunks == (30, 7)


@kinds
@pytest.mark.parametrize("n_rows", [0, 3])
def test_no_rows_and_nothing_but_zeros(tmp_path, name, layout, n_rows):
    V = np.zeros((n_rows, 1), np.float32)
    write(tmp_path / name, V, layout)
    np.testing.assert_array_equal(read(tmp_path / name), V)
    assert open_codes(tmp_path / name).shape == V.shape


@pytest.mark.parametrize("n_rows", [0, 9, 10**6, 10**18])
def test_npy_header_keeps_its_length(tmp_path, n_rows):
    with open(tmp_path / "header", "w+b") as file:
        file.write(b"")
        codes = _writers._Npy(tmp_path / "header", 20, np.dtype("float32"), None)
        start = codes._file.tell()
        codes.finish(n_rows)
        assert os.path.getsize(tmp_path / "header") == start
        file.seek(0)
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert (shape, is_fortran, dtype) == ((n_rows, 20), False, np.float32)


@kinds
def test_blocks_may_be_reused_and_are_converted(tmp_path, name, layout):
    out = tmp_path / name
    block = np.empty((2, 3), order="F")
    with CodesWriter(str(out), (np.int64(5), 3), np.float32, layout) as writer:
        for i in range(2):
            block[:] = i + 0.1
            writer.append(block)
        block[:] = 7
        writer.append([[True, False, 2]])
        assert not out.exists()
    expected = np.float32([[0.1] * 3] * 2 + [[1.1] * 3] * 2 + [[1, 0, 2]])
    np.testing.assert_array_equal(read(out), expected)
    assert writer.shape == (5, 3)


@kinds
def test_memory_holds_a_few_blocks(tmp_path, monkeypatch, name, layout):
    monkeypatch.setattr(_writers, "_SPARSE_CHUNK", 2**14)
    monkeypatch.setattr(_writers, "_BLOCK_BYTES", 2**18)
    V = np.random.default_rng(0).random((2**16, 32), dtype=np.float32)  # no zeros
    with CodesWriter(tmp_path / name, (None, 32), "float32", layout) as writer:
        writer.append(V[:4096])  # what is allocated once
        tracemalloc.start()
        try:
            writer.append(V[4096:])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # Of 30 blocks. "csr" has two int64 for each entry of one, besides.
    assert peak < (9 if layout == "csr" else 3) * 2**18


# ---- what is replaced ----


@kinds
def test_codes_of_the_same_kind_are_replaced(tmp_path, name, layout):
    for seed, n_rows in enumerate([100, 30, 60]):
        V = make_codes(n_rows, 4 + seed, seed)
        write(tmp_path / name, V, layout)
        np.testing.assert_array_equal(read(tmp_path / name), V)
        assert os.listdir(tmp_path) == [name]


@posix
@kinds
def test_links_are_followed(tmp_path, name, layout):
    (tmp_path / "disk").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    for seed in range(2):
        write(tmp_path / name, make_codes(seed=seed), layout)
        np.testing.assert_array_equal(read(tmp_path / "disk" / name), make_codes(seed=seed))
        assert (tmp_path / name).is_symlink()
        assert os.listdir(tmp_path / "disk") == [name]


def a_text(path):
    path.write_text("my notes")


def a_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("my notes")


def a_store_with_notes(path):
    write(path, make_codes(), "csr" if path.stem == "csr" else "dense")
    (path / "notes.txt").write_text("my notes")


def a_store_of_the_other_layout(path):
    write(path, make_codes(), "dense" if path.stem == "csr" else "csr")


def an_array_of_three_dimensions(path):
    zarr.create_array(path, shape=(2, 2, 2), dtype="float32")


def a_group_of_something_else(path):
    zarr.open_group(path, mode="w").create_array("data", shape=(2,), dtype="float32")


def a_damaged_store(path):
    path.mkdir()
    (path / "zarr.json").write_text("{")


STRANGERS = [
    ("dense.npy", a_text),
    ("dense.npy", a_folder),
    ("dense.zarr", a_text),
    *(
        (name, stranger)
        for name in ("dense.zarr", "csr.zarr")
        for stranger in (
            a_folder,
            a_store_with_notes,
            a_store_of_the_other_layout,
            an_array_of_three_dimensions,
            a_group_of_something_else,
            a_damaged_store,
        )
    ),
]


@pytest.mark.parametrize(("name", "stranger"), STRANGERS)
def test_anything_else_stays(tmp_path, name, stranger):
    out = tmp_path / name
    stranger(out)
    before = content(out)
    with pytest.raises(ValueError, match=f"out='.*{name}' exists, and only a .* is replaced"):
        CodesWriter(out, (3, 2), "float32", out.stem)
    assert content(out) == before


@kinds
def test_what_comes_while_codes_are_written_stays(tmp_path, name, layout):
    with (
        pytest.raises(ValueError, match="exists, and only"),
        CodesWriter(tmp_path / name, (None, 7), "float32", layout) as writer,
    ):
        writer.append(make_codes())
        a_folder(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert os.listdir(tmp_path / name) == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    for layout in ("dense", "csr"):
        (tmp_path / f"{layout}.zarr").mkdir()
        write(tmp_path / f"{layout}.zarr", make_codes(), layout)
        np.testing.assert_array_equal(read(tmp_path / f"{layout}.zarr"), make_codes())


# ---- errors ----


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"out": 3}, TypeError, "out is a path, got int"),
        ({"out": b"a.npy"}, TypeError, "out is a path"),
        ({"out": "codes.h5"}, ValueError, "out ends in .npy or .zarr, got 'codes.h5'"),
        ({"out": "s3://bucket/codes.zarr"}, ValueError, "got the address"),
        ({"layout": "csc"}, ValueError, "layout is one of .*, got 'csc'"),
        ({"layout": "csr"}, ValueError, "layout='csr' needs an out that ends in .zarr"),
        ({"shape": 3}, ValueError, "shape is .*; got 3"),
        ({"shape": (3, None)}, ValueError, "shape is"),
        ({"shape": (3, 0)}, ValueError, "shape is"),
        ({"shape": (-1, 2)}, ValueError, "shape is"),
        ({"shape": (3.0, 2)}, ValueError, "shape is"),
        ({"shape": (3, 2, 1)}, ValueError, "shape is"),
        ({"dtype": "float16"}, ValueError, "dtype is float32 or float64, got float16"),
        ({"dtype": "int64"}, ValueError, "dtype is float32 or float64"),
        ({"dtype": None}, ValueError, "dtype is float32 or float64"),
        ({"dtype": "real"}, TypeError, "real"),
        ({"batch_size": 0}, ValueError, "batch_size is a positive integer or None, got 0"),
        ({"batch_size": True}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, ValueError, "batch_size"),
    ],
)
def test_wrong_parameters(tmp_path, monkeypatch, changed, error, message):
    monkeypatch.chdir(tmp_path)
    parameters = {"out": "codes.npy", "shape": (3, 2), "dtype": "float32"} | changed
    with pytest.raises(error, match=message):
        CodesWriter(**parameters)
    assert not os.listdir(tmp_path)


@kinds
@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (np.ones((2, 3)), ValueError, r"shape \(n_rows, 7\), got \(2, 3\)"),
        (np.ones(7), ValueError, r"got \(7,\)"),
        (np.ones((2, 7), complex), TypeError, "real numbers, got a block of dtype complex128"),
        (np.full((2, 7), "1"), TypeError, "real numbers"),
        (np.ones((2, 7), object), TypeError, "real numbers"),
        (np.ones((91, 7)), ValueError, r"says 100 rows for .*codes.*, got more: 101"),
        (np.ones((89, 7)), ValueError, r"says 100 rows for .*codes.*, got 99"),
        (None, KeyboardInterrupt, "by the user"),
    ],
)
@pytest.mark.parametrize("was_there", [False, True])
def test_errors_leave_what_was_there(tmp_path, name, layout, block, error, message, was_there):
    if was_there:
        write(tmp_path / name, make_codes(seed=1), layout)
    with (
        pytest.raises(error, match=message),
        CodesWriter(tmp_path / name, (100, 7), "float32", layout, batch_size=8) as writer,
    ):
        writer.append(make_codes()[:10])
        if block is None:
            raise KeyboardInterrupt("by the user")
        writer.append(block)
    assert os.listdir(tmp_path) == [name] * was_there
    if was_there:
        np.testing.assert_array_equal(read(tmp_path / name), make_codes(seed=1))


def test_a_refused_block_can_be_left_out(tmp_path):
    with CodesWriter(tmp_path / "codes.npy", (None, 7), "float32") as writer:
        writer.append(make_codes())
        with pytest.raises(ValueError, match="shape"):
            writer.append(np.ones((2, 3)))
    np.testing.assert_array_equal(read(tmp_path / "codes.npy"), make_codes())


@kinds
def test_nothing_comes_after_a_failure(tmp_path, monkeypatch, name, layout):
    def fail(*arguments):
        raise OSError(errno.EIO, "the cable is loose")

    with (
        pytest.raises(RuntimeError, match=f"{name} was not written, because of an error before"),
        CodesWriter(tmp_path / name, (None, 7), "float32", layout) as writer,
    ):
        monkeypatch.setattr(type(writer._codes), "append", fail)
        with pytest.raises(OSError, match="the cable is loose.*choose a folder that can be wri"):
            writer.append(make_codes())
        assert not os.listdir(tmp_path)
        with pytest.raises(RuntimeError, match="nothing can be appended after an error"):
            writer.append(make_codes())
    assert not os.listdir(tmp_path)


def test_append_belongs_into_the_statement(tmp_path):
    writer = CodesWriter(tmp_path / "codes.npy", (None, 7), "float32")
    with pytest.raises(RuntimeError, match="belongs into 'with CodesWriter"):
        writer.append(make_codes())
    with writer:
        writer.append(make_codes())
    with pytest.raises(RuntimeError, match="belongs into 'with CodesWriter"):
        writer.append(make_codes())
    with pytest.raises(RuntimeError, match="codes.npy was written by this writer"), writer:
        pass
    np.testing.assert_array_equal(read(tmp_path / "codes.npy"), make_codes())


@kinds
def test_a_folder_that_cannot_be_written(tmp_path, name, layout):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "below" / name
    with (
        pytest.raises(OSError, match=f"choose a folder that can be written.*{name}"),
        CodesWriter(out, (None, 7), "float32", layout),
    ):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_without_zarr(tmp_path, monkeypatch):
    write(tmp_path / "codes.zarr", make_codes(), "csr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    for call in (
        lambda: CodesWriter(tmp_path / "new.zarr", (None, 7), "float32"),
        lambda: open_codes(tmp_path / "codes.zarr"),
    ):
        with pytest.raises(ImportError, match=re.escape("pip install 'semi_nmf_concepts[zarr]'")):
            call()
    write(tmp_path / "codes.npy", make_codes(), "dense")
    np.testing.assert_array_equal(read(tmp_path / "codes.npy"), make_codes())


# ---- reading ----


def test_reading_what_is_not_there_or_no_codes(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no codes.*nothing.npy"):
        open_codes(tmp_path / "nothing.npy")
    with pytest.raises(ValueError, match="path ends in .npy or .zarr"):
        open_codes(tmp_path / "codes.csv")
    with pytest.raises(TypeError, match="path is a path"):
        open_codes(None)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    a_text(tmp_path / "text.npy")
    a_text(tmp_path / "text.zarr")
    (tmp_path / "empty.zarr").mkdir()
    a_group_of_something_else(tmp_path / "group.zarr")
    an_array_of_three_dimensions(tmp_path / "cube.zarr")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=f"{path.name} holds no codes"):
            open_codes(path)


def test_npy_is_mapped_and_not_written_to(tmp_path):
    write(tmp_path / "codes.npy", make_codes(), "dense")
    codes = open_codes(tmp_path / "codes.npy")
    assert isinstance(codes, np.memmap) and not codes.flags.writeable


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-9])


def remove(path):
    path.unlink()


def say_fewer_columns(path):
    node = json.loads(path.read_bytes())
    node["attributes"]["shape"][1] = 2
    path.write_text(json.dumps(node))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("codes.npy", cut_off, "larger|greater"),
        ("codes.zarr/zarr.json", cut_off, "delimiter|Expecting"),
        ("codes.zarr/zarr.json", say_fewer_columns, "indices"),
        ("codes.zarr/indices/zarr.json", remove, "indices"),
        *((f"codes.zarr/{name}/c/0", cut_off, "") for name in ("data", "indices", "indptr")),
        *(
            (f"codes.zarr/{name}/c/0", remove, f"chunks of /{name} are missing")
            for name in ("data", "indices", "indptr")
        ),
    ],
)
def test_damage_is_an_error(tmp_path, file, damage, message):
    out = tmp_path / file.split("/")[0]
    write(out, make_codes(), "csr" if out.suffix == ".zarr" else "dense")
    damage(tmp_path / file)
    with pytest.raises(ValueError, match=f"{out.name} holds no codes, or is damaged: .*{message}"):
        open_codes(out)


@pytest.mark.parametrize("chunk", ["c/0/0", "c/1/0", "c/4/0"])
def test_a_lost_chunk_of_a_dense_store_is_an_error(tmp_path, chunk):
    V = np.zeros((18, 3))
    write(tmp_path / "codes.zarr", V, "dense", batch_size=4)
    np.testing.assert_array_equal(open_codes(tmp_path / "codes.zarr")[:], V)
    (tmp_path / "codes.zarr" / chunk).unlink()
    with pytest.raises(ValueError, match=f"codes.zarr holds no codes, or is damaged: .*{chunk}"):
        open_codes(tmp_path / "codes.zarr")


@pytest.mark.parametrize("parameters", [{"zarr_format": 2}, {"shards": (4, 4)}])
def test_chunks_of_other_stores(tmp_path, parameters):
    V = np.arange(1.0, 31.0).reshape(10, 3)
    out = tmp_path / "codes.zarr"
    zarr.create_array(out, data=V, chunks=(2, 2), **parameters)
    np.testing.assert_array_equal(open_codes(out)[:], V)
    next(path for path in out.rglob("*") if path.is_file() and path.name[0] in "01").unlink()
    with pytest.raises(ValueError, match="chunks of / are missing"):
        open_codes(out)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "codes.npy")
    with pytest.raises(ValueError, match=r"codes\.npy holds no codes.*no regular file"):
        open_codes(tmp_path / "codes.npy")


# ---- real faults, each in a process of its own ----

_WRITE_ALL = """
import os, resource, signal, sys
import numpy as np
from semi_nmf_concepts.streaming import CodesWriter
if any(name.endswith(".zarr") for name in sys.argv):
    import zarr

V = np.random.default_rng(0).random((50_000, 8))
writers = [
    CodesWriter(name, (None, 8), "float64", layout, batch_size=2_000)
    for name, layout in zip(sys.argv[1::2], sys.argv[2::2])
]
"""
_FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for writer in writers:
    try:
        with writer:
            for start in range(0, 50_000, 1_000):
                writer.append(V[start : start + 1_000])
    except OSError as error:
        print(error.errno, error, sep=" | ")
"""
_WAIT = """
for writer in writers:
    writer.__enter__()
    writer.append(V)
print("writing", flush=True)
signal.pause()
"""


def arguments(folder):
    (folder / "csr").mkdir(exist_ok=True)
    for name, layout in KINDS:
        yield from (str(folder / ("csr" if layout == "csr" else "") / name), layout)


@posix
def test_full_disk(tmp_path):
    # The kernel ends a write at the largest size that the process may give a file.
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    outs = [*arguments(tmp_path / "new"), *arguments(tmp_path / "old")]
    for name, layout in zip(outs[6::2], outs[7::2], strict=True):
        write(name, make_codes(), layout)
    result = subprocess.run(
        [sys.executable, "-B", "-c", _WRITE_ALL + _FULL_DISK, *outs],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    for line, name in zip(lines, outs[::2], strict=True):
        assert line.startswith(f"{errno.EFBIG} |")
        assert "nothing of them was left; make room, or choose a folder on another disk" in line
        assert name in line
    assert os.listdir(tmp_path / "new") == ["csr"] and not os.listdir(tmp_path / "new" / "csr")
    assert sorted(os.listdir(tmp_path / "old")) == ["codes.npy", "codes.zarr", "csr"]
    assert os.listdir(tmp_path / "old" / "csr") == ["codes.zarr"]
    for name in outs[6::2]:
        np.testing.assert_array_equal(read(name), make_codes())


@posix
def test_killed_while_writing(tmp_path):
    outs = list(arguments(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE_ALL + _WAIT, *outs], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "writing\n"
            # What is still being written is left alone.
            write(outs[0], make_codes(seed=1), "dense")
            assert len(list(tmp_path.glob(".*.tmp"))) == 2
            os.unlink(outs[0])
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.rglob(".*")]
    assert len(left) == 3 and all(re.fullmatch(r"\.[0-9a-f]{32}\.tmp", name) for name in left)
    assert not any(os.path.exists(name) for name in outs[::2])
    (tmp_path / f".{'0' * 32}.tmp").touch()  # of somebody else
    for name, layout in zip(outs[::2], outs[1::2], strict=True):
        write(name, make_codes(), layout)
        np.testing.assert_array_equal(read(name), make_codes())
    assert [path.name for path in tmp_path.rglob(".*")] == [f".{'0' * 32}.tmp"]


_REPLACE = """
import os, shutil, signal, sys
from pathlib import Path
from semi_nmf_concepts.streaming._replacement import Replacement

left = int(sys.argv[2])

def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

replacement = Replacement(Path(sys.argv[1]), True)
replacement.open()
for name in ("a", "b"):
    (replacement.path / name).write_text("new")
for name in ("rename", "replace", "unlink", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
replacement.commit()
print("done")
"""


@posix
def test_killed_while_a_folder_takes_the_place_of_another(tmp_path):
    found = []
    for moment in range(20):
        out = tmp_path / str(moment) / "store"
        out.mkdir(parents=True)
        for name in ("a", "b"):
            (out / name).write_text("old")
        result = subprocess.run(
            [sys.executable, "-c", _REPLACE, out, str(moment)], capture_output=True, text=True
        )
        if result.stdout == "done\n":
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
        found.append(set(content(out).values()) if out.exists() else {})
        # The next one finds a whole store, and leaves nothing else when it fails.
        replacement = Replacement(out, True)
        replacement.open()
        replacement.discard()
        assert os.listdir(out.parent) == ["store"]
        assert content(out).keys() == {"a", "b"}
        assert set(content(out).values()) == (found[-1] or {b"old"})
    # Before the swap; in the middle of it; and while the old one is being removed.
    assert found[:3] == [{b"old"}, {}, {b"new"}]
    assert len(found) >= 6 and all(state == {b"new"} for state in found[2:])
    assert result.stdout == "done\n" and os.listdir(out.parent) == ["store"]


def test_a_swap_that_fails_is_undone(tmp_path, monkeypatch):
    write(tmp_path / "codes.zarr", make_codes(), "dense")
    rename = os.rename

    def fail(source, target):
        if str(target).endswith("codes.zarr") and str(source).endswith(".tmp"):
            raise PermissionError(errno.EACCES, "not now")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(PermissionError, match="not now"):
        write(tmp_path / "codes.zarr", make_codes(seed=1), "dense")
    assert os.listdir(tmp_path) == ["codes.zarr"]
    np.testing.assert_array_equal(read(tmp_path / "codes.zarr"), make_codes())


@kinds
def test_two_writers_at_once(tmp_path, name, layout):
    out = tmp_path / name
    with CodesWriter(out, (None, 7), "float32", layout) as first:
        first.append(make_codes()[:50])
        write(out, make_codes(seed=1), layout)
        np.testing.assert_array_equal(read(out), make_codes(seed=1))
        first.append(make_codes()[50:])
    np.testing.assert_array_equal(read(out), make_codes())
    assert os.listdir(tmp_path) == [name]


@posix
def test_without_locks_nothing_counts_as_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("semi_nmf_concepts.streaming._replacement.fcntl", None)
    shutil.rmtree(tmp_path)
    with CodesWriter(tmp_path / "codes.npy", (None, 7), "float32") as first:
        first.append(make_codes())
        write(tmp_path / "codes.npy", make_codes(seed=1), "dense")
    np.testing.assert_array_equal(read(tmp_path / "codes.npy"), make_codes())
    assert os.listdir(tmp_path) == ["codes.npy"]
