"""A large file or folder that appears under its name whole or not at all.

`write_atomically` does this for what is written in one go. Here a file or folder grows for hours,
so that it is worth looking after what a killed process leaves behind, and folders can be replaced.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import uuid

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and so nothing counts as left behind
    fcntl = None


class Replacement:
    """What is written beside `target` and takes its name at the end.

    Until then it is called ``.<32 hex digits>.tmp``. Where a folder takes the place of another,
    the other is called ``.<32 hex digits>.old`` for a moment. The process that writes holds a lock
    on them, which the system takes away when the process ends, however it ends. What nobody locks
    was left behind, and the next replacement of the same target tidies up: it removes a ``.tmp``,
    and gives an ``.old`` its name back if that is not taken.

    Parameters
    ----------
    target : Path
        Absolute, its links followed: both names must be of one file system.
    is_folder : bool

    Attributes
    ----------
    path : Path
        Where to write; an empty file or folder, made by `open`.
    """

    def __init__(self, target, is_folder):
        self.target, self._is_folder = target, is_folder
        # Half of the name tells whose it is. The name of the machine is part of that, because on
        # some network drives locks hold within a machine only.
        owner = f"{platform.node()}/{target.name}"
        self._mark = hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:16]
        self.path = self._lock = None

    def open(self):
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._tidy()
        while self._lock is None:
            self.path = self._new_name(".tmp")
            if self._is_folder:
                self.path.mkdir()
            else:
                self.path.open("xb").close()
            # Whoever tidies up may have come between: then under another name once more.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                self._lock = _Lock(self.path)

    def commit(self):
        """Everything to the disk, then under its name."""
        _sync(self.path)
        if self._is_folder and self.target.exists():
            self._swap()
        else:
            os.replace(self.path, self.target)
        _sync_folder(self.target.parent)
        self._lock.release()

    def discard(self):
        if self.path is not None:
            _remove(self.path)
        if self._lock is not None:
            self._lock.release()

    def _swap(self):
        # No call of all systems exchanges two folders. Between the two below both are whole.
        lock, old = _Lock(self.target), self._new_name(".old")
        try:
            os.rename(self.target, old)
            os.rename(self.path, self.target)
            _sync_folder(self.target.parent)
            _drop(old)
        except BaseException:
            if old.exists() and not os.path.lexists(self.target):
                os.rename(old, self.target)
            raise
        finally:
            lock.release()

    def _tidy(self):
        for path in sorted(self.target.parent.glob(f".{self._mark}*")):
            with contextlib.suppress(OSError):  # in use, or not ours to remove
                lock = _Lock(path)
                try:
                    if lock.is_held:
                        self._tidy_up(path)
                finally:
                    lock.release()

    def _tidy_up(self, path):
        if path.suffix == ".old" and not os.path.lexists(self.target):
            os.rename(path, self.target)
        else:
            _drop(path)

    def _new_name(self, suffix):
        return self.target.parent / f".{self._mark}{uuid.uuid4().hex[:16]}{suffix}"


class _Lock:
    """Holds a file or folder until it is released or the process ends.

    Raises
    ------
    BlockingIOError
        If another holds it.
    FileNotFoundError
        If there is no such file or folder (any more).
    """

    def __init__(self, path):
        self._descriptor = None
        if fcntl is None:
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(path)  # names are random: what is there now is what was opened
        except (BlockingIOError, FileNotFoundError):
            self.release()
            raise
        except OSError:  # a file system without locks
            self.release()

    @property
    def is_held(self):
        return self._descriptor is not None

    def release(self):
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def _drop(path):
    """Remove what is of no use, under a name that gives it no name back if that is broken off."""
    done = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        os.rename(path, done)
        _remove(done)


def _remove(path):
    """As far as that is possible: an error that brought us here is worth more than one of these."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sync(path):
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
        _sync_folder(path)
    else:
        with open(path, "r+b") as file:
            os.fsync(file.fileno())


def _sync_folder(path):
    with contextlib.suppress(OSError):  # not all systems open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
