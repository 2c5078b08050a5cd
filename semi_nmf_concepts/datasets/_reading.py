"""What the readers of data sets share: files and folders that must be there, and their errors."""

import contextlib
from pathlib import Path

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


@contextlib.contextmanager
def understanding(file, parameter):
    """Turn what goes wrong in the block, over content of another layout, into one ValueError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{parameter}: cannot understand {file}: {reason}") from error
