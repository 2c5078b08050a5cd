"""Files that are missing, cut off or strange; folders; bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import zarr

from semi_nmf_concepts._safetensors import write_arrays
from semi_nmf_concepts.lmm import TokenRepresentations
from semi_nmf_concepts.streaming import open_rows
from tests.streaming._made import InFile, save_bfloat16

Z = np.arange(60, dtype=np.float32).reshape(20, 3)
PIECES = [Z[:4], Z[4:11], Z[11:12], Z[12:]]


def save(path, rows):
    """A file of rows, in the format that its name says."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        write_arrays(path, {"Z": rows, "texts": np.arange(5, dtype=np.uint8)})
    return path


@pytest.fixture(params=["npy", "safetensors"])
def suffix(request):
    return request.param


@pytest.fixture
def paths(tmp_path, suffix):
    """A folder of four shards."""
    return [save(tmp_path / "shards" / f"s{i}.{suffix}", rows) for i, rows in enumerate(PIECES)]


def index_of(paths, folder, **changes):
    """Write rows.json, as the folder of an extraction has it."""
    files = [
        {"file": f"../{path.parent.name}/{path.name}", "n_rows": len(rows)}
        for path, rows in zip(paths, PIECES, strict=True)
    ]
    content = {"format": 1, "array": "Z", "dtype": "float32", "n_features": 3, "files": files}
    folder.mkdir(exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(content | changes))
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def replace_by_noise(path):
    path.write_bytes(b"\x93NUMPX" + bytes(200))


def remove_rows(path):
    save(path, Z[:0])


def make_complex(path):
    path.unlink()
    np.save(path.with_suffix(".npy"), Z[4:11] * 1j)


def make_flat(path):
    path.unlink()
    np.save(path.with_suffix(".npy"), Z[4:11].ravel())


FAULTS = [truncate, empty, replace_by_noise, remove_rows, make_complex, make_flat]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", ["folder", "list", "index"])
def test_a_bad_file_is_named_or_left_out(fault, what, paths, tmp_path):
    fault(paths[1])
    found = sorted(paths[0].parent.iterdir())
    if what == "index":
        X = index_of(found, tmp_path / "dog")
    else:
        X = found if what == "list" else paths[0].parent
    with pytest.raises(ValueError, match=r"s1\.(npy|safetensors)"):
        open_rows(X)
    with pytest.warns(UserWarning, match=r"1 file\(s\) left out: .*s1\.") as caught:
        rows = open_rows(X, on_error="skip")
    assert len(caught) == 1 and caught[0].filename == __file__
    ((name, reason),) = rows.skipped.items()
    assert name == str(found[1]) and "s1." in reason
    np.testing.assert_array_equal(rows, np.delete(Z, slice(4, 11), axis=0))


@pytest.mark.parametrize("what", ["list", "index"])
def test_a_missing_file_is_named_or_left_out(what, paths, tmp_path):
    X = index_of(paths, tmp_path / "dog") if what == "index" else paths
    paths[3].unlink()
    with pytest.raises(FileNotFoundError, match=r"s3\."):
        open_rows(X)
    with pytest.warns(UserWarning, match=r"s3\."):
        rows = open_rows(X, on_error="skip")
    assert [name.endswith(paths[3].name) for name in rows.skipped] == [True]
    np.testing.assert_array_equal(rows, Z[:12])


def test_several_are_left_out_in_one_warning(paths):
    for path in paths[1:]:
        truncate(path)
    with pytest.warns(UserWarning, match=r"3 file\(s\).*s1.*s2.*s3") as caught:
        rows = open_rows([paths[0].parent, Z], on_error="skip")
    assert len(caught) == 1 and len(rows.skipped) == 3 and len(rows) == 24
    truncate(paths[0])
    with pytest.raises(ValueError, match="Nothing is left of .*shards.*s0"):
        open_rows(paths[0].parent, on_error="skip")
    with pytest.raises(ValueError, match="s0"):  # the only one
        open_rows(paths[0], on_error="skip")


def test_whole_files_are_no_reason_to_warn(paths):
    assert open_rows(paths, on_error="skip").skipped == {}


@pytest.mark.parametrize("change", ["removed", "shorter", "longer"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_changes_during_a_pass_is_named(change, on_error, paths):
    blocks = open_rows(paths[0].parent, on_error=on_error).blocks(2)
    next(blocks)
    if change == "removed":
        paths[3].unlink()
    else:
        content = paths[3].read_bytes()
        paths[3].write_bytes(content[:-4] if change == "shorter" else content + b"more")
    with pytest.raises(OSError, match=r"s3\."):
        list(blocks)
    assert list(blocks) == []  # the pass is over


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path):
    path = save(tmp_path / "a.npy", Z)
    blocks = open_rows(path).blocks(2, read_ahead=False)
    next(blocks)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 4)
    with pytest.raises(OSError, match="a.npy cannot be read any more: it has become shorter"):
        list(blocks)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_mapped_file_that_becomes_shorter(dtype, tmp_path):
    """To read behind its end would be the end of the process, too."""
    path = save(tmp_path / "a.npy", Z.astype(dtype))
    mapped = np.load(path, mmap_mode="r")[3:]
    blocks = open_rows(mapped).blocks(2, read_ahead=False)
    next(blocks)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 4)
    with pytest.raises(OSError, match="a.npy cannot be read any more"):
        list(blocks)
    with pytest.raises(OSError, match="a.npy cannot be read any more"):
        open_rows(mapped).take([0])


def test_an_array_in_a_file_that_cannot_be_read():
    class Broken(InFile):
        def __getitem__(self, key):
            if key.start > 5:
                raise RuntimeError("checksum")
            return super().__getitem__(key)

    rows = open_rows([Z, Broken(Z, chunks=(2, 3))])
    rows._parts[1]._band = 2
    with pytest.raises(OSError, match=r"rows 6 to 8 of X\[1\] cannot be read: checksum"):
        list(rows.blocks(3))

    class Other(InFile):
        def __getitem__(self, key):
            return super().__getitem__(key)[:, :2]

    with pytest.raises(OSError, match="X has changed"):
        list(open_rows(Other(Z)).blocks(3))


# Folders -----------------------------------------------------------------------------------------


def test_shards_come_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9, 1, 2, 0):
        save(tmp_path / f"part{i}-of-11.npy", np.full((1, 2), i))
    save(tmp_path / ".hidden.npy", np.zeros((1, 3)))
    (tmp_path / "notes.txt").write_text("none of them")
    (tmp_path / "a.npy").mkdir()
    assert np.asarray(open_rows(tmp_path))[:, 0].tolist() == [0, 1, 2, 9, 10]


def test_an_index_says_which_files_and_in_which_order(paths, tmp_path):
    folder = index_of(paths, tmp_path / "dog")
    save(folder / "stranger.npy", np.zeros((4, 7)))
    save(folder / "representations.safetensors", np.zeros((4, 7)))
    np.testing.assert_array_equal(open_rows(folder), Z)


def test_an_index_behind_a_link(paths, tmp_path):
    index_of(paths, tmp_path / "dog")
    (tmp_path / "elsewhere").mkdir()
    try:
        (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "dog", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    np.testing.assert_array_equal(open_rows(tmp_path / "elsewhere" / "link"), Z)


def test_an_index_of_bfloat16(tmp_path):
    expected = save_bfloat16(tmp_path / "a.safetensors", Z * 1.01)
    files = [{"file": "a.safetensors", "n_rows": 20}]
    content = {"format": 1, "array": "Z", "dtype": "bfloat16", "n_features": 3, "files": files}
    (tmp_path / "rows.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(open_rows(tmp_path), expected)


def test_an_array_that_a_file_does_not_have(tmp_path):
    paths = [save(tmp_path / "s" / f"{i}.safetensors", rows) for i, rows in enumerate(PIECES)]
    folder = index_of(paths, tmp_path / "dog", array="Z3")
    with pytest.raises(ValueError, match=r"0.safetensors has no array 'Z3', but 'Z', 'texts'"):
        open_rows(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 4}, r"s0\..* has shape \(4, 3\), but rows.json says \(4, 4\)"),
        ({"dtype": "float16"}, r"s0\..* has dtype float32, but rows.json says float16"),
        ({"format": 2}, "format 2 is not known"),
        ({"files": []}, "names no files"),
        ({"files": [{"file": "a.npy"}]}, "no index of shards: KeyError"),
        ({"files": [{"file": "a.npy", "n_rows": "3"}]}, "n_rows must be of type int"),
        ({"files": "a.npy"}, "no index of shards"),
        ({"n_features": None}, "n_features must be of type int"),
        ({"array": 0}, "array must be of type str"),
        ({"dtype": "float"}, "has dtype float32, but rows.json says float64"),
        ({"dtype": "real"}, "no index of shards"),
    ],
)
def test_an_index_that_is_wrong(changes, message, paths, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_rows(index_of(paths, tmp_path / "dog", **changes))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 1}'])
def test_an_index_that_is_none(text, tmp_path):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match="rows.json is no index of shards"):
        open_rows(tmp_path)


def representations(rows):
    n = len(rows)
    return TokenRepresentations(
        rows, np.arange(n), ["a dog"] * n, ["a dog"] * n, np.ones(n, int), np.ones(n, np.float32),
        np.zeros(n, bool), ["a"] * n, "dog", 3, "layers.3",
    )  # fmt: skip


def test_the_folder_of_an_extraction(tmp_path):
    representations(Z).save(tmp_path / "dog")
    np.testing.assert_array_equal(open_rows(tmp_path / "dog"), Z)
    manifest = {"status": "running", "results": [{"folder": "dog"}, {"folder": "cat"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has not ended: call extract"):
        open_rows(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"status": "complete"}))
    with pytest.raises(ValueError, match=r"several .* give one of them: .*dog.*cat"):
        open_rows(tmp_path)


def test_a_folder_without_rows(tmp_path):
    with pytest.raises(ValueError, match="holds no rows: neither rows.json nor"):
        open_rows(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_rows(tmp_path / "nowhere")


# Files -------------------------------------------------------------------------------------------


def test_which_array_of_a_file(tmp_path):
    write_arrays(tmp_path / "two.safetensors", {"a": Z, "b": Z})
    with pytest.raises(ValueError, match="one array of two dimensions.*'Z'; it has 'a', 'b'"):
        open_rows(tmp_path / "two.safetensors")
    write_arrays(tmp_path / "none.safetensors", {"a": Z.ravel()})
    with pytest.raises(ValueError, match="none.safetensors must have one array"):
        open_rows(tmp_path / "none.safetensors")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"a\.csv is no file that rows are read from"):
        open_rows(tmp_path / "a.csv")


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    np.save(tmp_path / "objects.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects.npy is cut off or no .npy file.*objects"):
        open_rows(tmp_path / "objects.npy")


def test_groups_of_zarr(tmp_path):
    group = zarr.create_group(tmp_path / "g")
    with pytest.raises(ValueError, match="is a group, which must have .* it has none"):
        open_rows(tmp_path / "g")
    group.create_array("rows", data=Z)
    group.create_array("names", data=Z[:, 0])
    np.testing.assert_array_equal(open_rows(tmp_path / "g"), Z)
    group.create_array("other", data=Z)
    with pytest.raises(ValueError, match="'rows'"):
        open_rows(tmp_path / "g")
    group.create_array("Z", data=Z[:2])
    np.testing.assert_array_equal(open_rows(tmp_path / "g"), Z[:2])
    (tmp_path / "bad.zarr").mkdir()
    with pytest.raises(ValueError, match="bad.zarr cannot be read as a Zarr array"):
        open_rows(tmp_path / "bad.zarr")


def test_zarr_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ImportError, match=r"semi_nmf_concepts\[zarr\]"):
        open_rows(tmp_path / "a.zarr")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_pipes_are_not_waited_for(tmp_path):
    for name in ("a.npy", "a.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is no regular file"):
            open_rows(tmp_path / name)
    os.mkfifo(tmp_path / "manifest.json")
    entry = {"file": "a.npy", "n_rows": 4}
    content = {"format": 1, "array": "Z", "dtype": "float32", "n_features": 3, "files": [entry]}
    (tmp_path / "rows.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="a.npy is no regular file"):
        open_rows(tmp_path)


def test_an_index_may_name_any_file(tmp_path):
    far = save(tmp_path / "far" / "a.npy", Z)
    (tmp_path / "near").mkdir()
    entry = {"file": str(far), "n_rows": 20}
    content = {"format": 1, "array": "Z", "dtype": "float32", "n_features": 3, "files": [entry]}
    (tmp_path / "near" / "rows.json").write_text(json.dumps(content))
    rows = open_rows(tmp_path / "near")
    np.testing.assert_array_equal(rows, Z)
    assert rows.places == (str(far),)


# Bad input ---------------------------------------------------------------------------------------

MESSAGES = [
    (Z.astype(object), ValueError, "dtype object"),
    (Z.astype(str), ValueError, "dtype <U"),
    (Z.astype("V2"), ValueError, "bfloat16 is read from .safetensors"),
    (Z * 1j, ValueError, "Complex data not supported: X"),
    (Z.astype("datetime64[s]"), ValueError, "real numbers"),
    (Z[0], ValueError, "Expected 2D array, got 1D array instead"),
    (Z[0], ValueError, r"1D array instead: X\. Reshape your data either using array\.reshape"),
    (Z[None], ValueError, r"Expected 2D array, got 3D array instead: X\.$"),
    (Z[:0], ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1"),
    (Z[:, :0], ValueError, r"0 feature\(s\)"),
    ([], ValueError, "X is empty"),
    ([Z, Z[:, :2]], ValueError, r"X\[1\] has 2, X\[0\] has 3"),
    ([Z, [1.0, 2.0]], TypeError, r"X\[1\]\[0\] is of type float"),
    ([Z, iter([Z])], TypeError, r"X\[1\] is an iterator"),
    (3, TypeError, "X is of type int; rows come from"),
    (None, TypeError, "NoneType"),
    ({"Z": Z}, TypeError, "dict"),
    (lambda: Z, TypeError, "returned ndarray; it must return an iterator of blocks"),
    (lambda: None, TypeError, "returned NoneType; it must return an iterator of blocks"),
    (lambda x: iter([x]), TypeError, "function, which cannot be called without arguments; rows"),
    (torch.nn.Linear(3, 2), TypeError, "Linear, which cannot be called without arguments; rows"),
    (InFile(Z * 1j), ValueError, "Complex"),
    (InFile(Z[:0]), ValueError, r"0 sample\(s\)"),
]


@pytest.mark.parametrize(("X", "error", "message"), MESSAGES, ids=[m for _, _, m in MESSAGES])
def test_bad_input(X, error, message):
    with pytest.raises(error, match=message):
        open_rows(X)


BLOCKS = [
    ([], ValueError, r"0 sample\(s\).*X yields no block"),
    ([Z, Z[:0]], ValueError, r"0 sample\(s\).*: block 1 of X"),
    ([Z, Z[:, :2]], ValueError, "block 1 of X has 2 features, those before have 3"),
    ([Z, Z[0]], ValueError, "Expected 2D array, got 1D array instead: block 1 of X"),
    ([Z, Z.astype(object)], ValueError, "block 1 of X has dtype object"),
    ([Z, Z * 1j], ValueError, "Complex data not supported: block 1 of X"),
    ([Z, "text"], TypeError, "block 1 of X is of type str"),
    ([Z, {"Z": Z}], TypeError, "block 1 of X is of type dict"),
    ([Z, None], TypeError, "block 1 of X is of type NoneType"),
    ([(Z, Z)], TypeError, "block 0 of X is of type tuple.*yield x alone"),
    ([[Z, Z]], TypeError, "block 0 of X is of type list with 2 entries"),
]


@pytest.mark.parametrize(("blocks", "error", "message"), BLOCKS, ids=[m for _, _, m in BLOCKS])
def test_bad_blocks(blocks, error, message):
    with pytest.raises(error, match=message):
        open_rows(lambda: iter(blocks))
    with pytest.raises(error, match=message):
        list(open_rows(iter(blocks), once=True).blocks(1))


def test_a_wider_type_that_comes_too_late():
    blocks = [Z, Z.astype(np.float64)]
    with pytest.raises(ValueError, match="block 1 of X has dtype float64, which float32"):
        list(open_rows(iter(blocks), once=True).blocks(1))
    assert len(list(open_rows(iter(blocks[::-1]), once=True).blocks(40))) == 1


def test_a_sparse_block_and_one_on_another_device():
    import scipy.sparse

    for block, message in (
        (scipy.sparse.eye_array(3, format="csr"), "type csr_array"),
        (torch.empty(2, 3, device="meta"), "on the device meta"),
    ):
        with pytest.raises(TypeError, match=message):
            open_rows(lambda block=block: iter([block]))


def test_bad_parameters():
    with pytest.raises(ValueError, match="on_error='ignore' must be 'raise' or 'skip'"):
        open_rows(Z, on_error="ignore")


# Memory ------------------------------------------------------------------------------------------

PROBE = """
import sys
import numpy as np
from semi_nmf_concepts.streaming import open_rows

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

path, kind = sys.argv[1:]
X = {
    "memmap": lambda: np.load(path, mmap_mode="r"),
    "file": lambda: path,
    "blocks": lambda: lambda: np.array_split(np.load(path, mmap_mode="r"), 100),
}[kind]()
rows = open_rows(X)
for _, block in open_rows(X).blocks(64):  # loads the compiler
    break
before = largest = anonymous()
for _, block in rows.blocks(1024):
    largest = max(largest, anonymous())
print(largest - before)
assert not {"torch", "zarr", "dask"} & set(sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
@pytest.mark.parametrize("kind", ["memmap", "file", "blocks"])
def test_two_blocks_are_in_memory(kind, tmp_path):
    n, d = 40_000, 1024
    rows = np.lib.format.open_memmap(tmp_path / "Z.npy", "w+", np.float16, (n, d))
    rows[:] = 1  # 80 MB; up-cast 160 MB; a block 4 MB
    rows.flush()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, tmp_path / "Z.npy", kind],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 12
