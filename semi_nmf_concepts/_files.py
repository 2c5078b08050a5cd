"""Writing files whole or not at all."""

import contextlib
import os
import uuid
from pathlib import Path


def write_atomically(path, data):
    """Write `data` so that a reader sees the old file or the whole new one, never a part of it.

    The content goes to a temporary file in the same folder, which then takes the name of `path`.
    The temporary file is opened as any other file is, so that the result has the permissions that
    the user's umask gives to new files. Missing folders are made; after a failure no temporary
    file is left.

    Parameters
    ----------
    path : path-like
        The file to write or replace.
    data : bytes, str or iterable of bytes-like
        Text is written as UTF-8, with its line ends as they are; pieces one after the other.

    Raises
    ------
    OSError
        If `path` cannot be written (or the subclass that fits, such as PermissionError); the
        message names `path` and says what to do.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    pieces = [content] if isinstance(content, (bytes, bytearray, memoryview)) else content
    # The name is short and random: it fits where the final name fits, and writers never share one.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or error
        # OSError itself picks the subclass that belongs to the error number.
        raise OSError(
            error.errno, f"cannot write ({reason}); choose a folder that can be written", str(path)
        ) from error
