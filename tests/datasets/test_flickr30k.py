"""The reader of Flickr30k's own caption files: images, captions, and what it refuses."""

import shutil

import pytest

from semi_nmf_concepts.datasets import load_flickr30k
from tests._data_layouts import FLICKR30K, write_flickr30k_csv, write_flickr30k_token

WRITERS = {
    "flickr30k-images": write_flickr30k_token,
    "flickr30k_images": write_flickr30k_csv,
}


@pytest.mark.parametrize(("images", "write"), WRITERS.items(), ids=["token", "csv"])
def test_both_layouts_give_images_and_captions_in_the_order_of_the_file(tmp_path, images, write):
    data = load_flickr30k(str(write(tmp_path)), tmp_path / images)
    assert data.images == [tmp_path / images / name for name in FLICKR30K]
    assert data.captions == list(FLICKR30K.values())
    assert all(path.is_file() for path in data.images)


@pytest.mark.parametrize(("images", "write"), WRITERS.items(), ids=["token", "csv"])
def test_marks_of_other_systems_and_blank_captions(tmp_path, images, write):
    file = write(tmp_path)
    text = file.read_text().replace("Two friends enjoy time spent together .", " ")
    # Separators of lines to Python, but not in such a file.
    text = text.replace("giant pulley", "giant\x85pulley\u2028")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode())
    data = load_flickr30k(file, tmp_path / images)
    assert [len(captions) for captions in data.captions] == [4, 5, 5]
    assert data.captions[1][0] == "Several men number 0 operate a giant\x85pulley\u2028 system ."


def test_captions_come_in_the_order_of_their_numbers(tmp_path):
    file = write_flickr30k_token(tmp_path)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(reversed(lines)))
    data = load_flickr30k(file, tmp_path / "flickr30k-images")
    assert [path.name for path in data.images] == list(reversed(FLICKR30K))
    assert data.captions == list(reversed(FLICKR30K.values()))


def test_missing_images_are_counted_and_named(tmp_path):
    file = write_flickr30k_csv(tmp_path)
    (tmp_path / "flickr30k_images" / "10002456.jpg").unlink()
    message = r"images: 1 of the 3 images of results.csv are not in .*\(10002456.jpg\)"
    with pytest.raises(FileNotFoundError, match=message):
        load_flickr30k(file, tmp_path / "flickr30k_images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("image_name| comment_number| comment\n", "it has no captions"),
        ("1.jpg A dog\n", "line 1 is '1.jpg A dog', neither .*load_karpathy"),
        ('{"images": []}', "line 1 is .*load_karpathy reads dataset_flickr30k.json"),
        ("1.jpg#0\tA dog\n\n1.jpg#x\tA cat\n", "line 3 is "),
        ("1.jpg#0\tA dog\n1.jpg#0\tA cat\n", "line 2 has caption 0 of 1.jpg again"),
        ("image_name| comment_number| comment\n1.jpg| A dog\n", "line 2 is '1.jpg| A dog'"),
        ("image_name| comment_number| comment\n| 0| A dog\n", "line 2 is "),
        ("image_name| comment_number| comment\n1.jpg#0\tA dog\n", "line 2 is "),
        (b"1.jpg#0\tA d\xf6g\n", "can't decode byte"),
    ],
)
def test_files_of_another_layout(tmp_path, content, message):
    (tmp_path / "1.jpg").touch()
    file = tmp_path / "results.token"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"captions_file: cannot understand .*{message}"):
        load_flickr30k(file, tmp_path)


def test_things_that_are_not_there(tmp_path):
    file = write_flickr30k_token(tmp_path)
    with pytest.raises(FileNotFoundError, match="captions_file: no such file"):
        load_flickr30k(tmp_path / "nowhere.token", tmp_path)
    with pytest.raises(NotADirectoryError, match="images: .* is a file"):
        load_flickr30k(file, file)
    shutil.rmtree(tmp_path / "flickr30k-images")
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        load_flickr30k(file, tmp_path / "flickr30k-images")
