"""What the readers of data sets share: files and folders that must be there, and their errors."""

import contextlib
import csv
import json
import os
from pathlib import Path, PurePosixPath

from .._messages import some

# Names that an error message lists.
NAMED = 3


def existing_folder(folder, parameter):
    """`folder` as a Path, if it is a folder; the errors begin with the name of the parameter."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{parameter}: no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{parameter}: {folder} is a file; give the folder that holds it")
    return folder


def existing_file(file, parameter):
    """`file` as a Path, if it is a file."""
    file = Path(file)
    if not file.is_file():
        hint = " (it is a folder)" if file.is_dir() else ""
        raise FileNotFoundError(f"{parameter}: no such file: {file}{hint}")
    return file


def read_lines(file):
    """Pairs of number, from 1, and text of the lines that are not blank."""
    # Not splitlines, which also breaks at separators that may stand inside a caption.
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_json(file):
    """Content of a JSON file, with or without a byte order mark."""
    return json.loads(file.read_text(encoding="utf-8-sig"))


@contextlib.contextmanager
def understanding(file, parameter):
    """Turn what goes wrong in the block, over content of another layout, into one ValueError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{parameter}: cannot understand {file}: {reason}") from error


def find_images(folder, places, of):
    """Path of the image at every place; an error names those that are not there.

    Parameters
    ----------
    folder : pathlib.Path
    places : list of (str, str)
        Folder below `folder` that an image should be in ("" for itself) and its name. An image
        that is not there is looked for in `folder` itself, which may hold all images.
    of : str
        What the images belong to, for the message.

    Returns
    -------
    list of pathlib.Path
        In the order of the places; one that occurs again gets the same path.
    """
    # A listing per folder instead of a question per image: COCO has more than 100,000 of them.
    listed = {below: _names(folder / below) for below in {"", *(below for below, _ in places)}}
    paths, missing = {}, []
    for below, name in dict.fromkeys(places):
        actual = below if name in listed[below] else ""
        if name not in listed[actual]:
            missing.append(str(PurePosixPath(below, name)))
        paths[below, name] = folder / actual / name
    if missing:
        raise FileNotFoundError(
            f"images: {len(missing)} of the {len(paths)} images of {of} are not in {folder} "
            f"({some(missing, NAMED)}); add them, or give the folder that has them"
        )
    return [paths[place] for place in places]


def _names(folder):
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()


def refuse_repeated(values, what):
    """Raise a ValueError if a value occurs more than once; the message begins with `what`."""
    seen, repeated = set(), {}
    for value in values:
        if value in seen:
            repeated[value] = None
        seen.add(value)
    if repeated:
        raise ValueError(f"{what} more than once: {some(list(repeated), NAMED)}")
