import os

import pytest

from semi_nmf_concepts._files import write_atomically


def test_new_and_replaced_files(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    write_atomically(str(path), b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_failures_name_the_path_and_leave_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=f"choose a folder that can be written.*{path.name}"):
            write_atomically(path, b"content")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "other", 3)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
