import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save_file

from semi_nmf_concepts._safetensors import Blocks, file_digest, map_arrays, write_arrays

DTYPES = st.sampled_from(
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(max_dims=3, min_side=0, max_side=4))


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.text("abc_", min_size=1), ARRAYS, max_size=4))
def test_written_arrays_are_read_by_us_and_by_safetensors(arrays):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        assert write_arrays(path, arrays) == file_digest(path)
        mapped, read = map_arrays(path), load(path.read_bytes())
        assert set(mapped) == set(read) == set(arrays)
        for name, array in arrays.items():
            for other in (mapped[name], read[name]):
                assert other.dtype == array.dtype and other.shape == array.shape
                np.testing.assert_array_equal(other, array)
            assert mapped[name].flags.aligned


def test_files_of_safetensors_are_read(tmp_path):
    arrays = {"a": np.arange(3.0), "b": np.eye(2, dtype=np.float32)}
    save_file(arrays, tmp_path / "x", metadata={"note": "hello"})
    for name, array in map_arrays(tmp_path / "x").items():
        np.testing.assert_array_equal(array, arrays[name])


def test_blocks_are_written_one_below_the_other(tmp_path):
    whole = np.arange(30, dtype=np.float32).reshape(10, 3)
    blocks = Blocks((10, 3), np.dtype(np.float32), lambda: iter([whole[:4], whole[4:4], whole[4:]]))
    a = write_arrays(tmp_path / "a", {"Z": blocks})
    assert a == write_arrays(tmp_path / "b", {"Z": whole[:, ::1]})
    np.testing.assert_array_equal(map_arrays(tmp_path / "a")["Z"], whole)


def test_rows_that_are_not_contiguous(tmp_path):
    array = np.arange(24.0).reshape(4, 6)[::2, ::3]
    write_arrays(tmp_path / "a", {"x": array})
    np.testing.assert_array_equal(map_arrays(tmp_path / "a")["x"], array)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    write_arrays(path, {"a": np.arange(30.0)})
    whole = path.read_bytes()
    for content, message in (
        (b"", "cut off"),
        (whole[:5], "cut off"),
        (whole[:-1], "cut off"),
        (whole + b"!", "more than its header"),
        (b"\xff" * 8 + whole[8:], "cut off"),
        (whole[:9] + b"#" + whole[10:], "no safetensors file"),
        (whole.replace(b"[30]", b"[31]"), "another size"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"x.safetensors is.*{message}"):
            map_arrays(path)


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    def make():
        yield np.zeros((1, 2))
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_arrays(tmp_path / "x", {"Z": Blocks((2, 2), np.dtype(np.float64), make)})
    assert list(tmp_path.iterdir()) == []
