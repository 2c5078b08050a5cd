"""How much memory this process holds, from /proc/self/status (Linux)."""

import threading
from pathlib import Path

_STATUS = Path("/proc/self/status")
#: Seconds between looks.
_EVERY = 0.01


def is_told():
    """Whether the system tells."""
    return _STATUS.exists()


def held(field="RssAnon"):
    """A size in bytes: RssAnon (anonymous and resident), VmRSS, VmHWM (its peak) ..."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


class PeakAnonymous:
    """Largest anonymous resident memory within a ``with``, looked at again and again.

    Attributes
    ----------
    before, peak : int
        Bytes on entry, and at most.
    """

    def __enter__(self):
        self.before = self.peak = held()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self):
        while not self._done.wait(_EVERY):
            self.peak = max(self.peak, held())

    def __exit__(self, *exception):
        self._done.set()
        self._watcher.join()
        self.peak = max(self.peak, held())
