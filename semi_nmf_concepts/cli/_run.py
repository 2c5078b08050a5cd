"""How a command runs: its clock, its output folder, and how it says what went wrong."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import warnings

# What users can mend: reported in one line. Anything else is a bug of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, UserWarning)


class Clock:
    """Seconds by stage, announced as the stages begin."""

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.seconds = {}

    @contextlib.contextmanager
    def __call__(self, stage):
        if not self.quiet:
            print(f"{stage} ...", file=sys.stderr)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
        stop_if_interrupted()

    def __str__(self):
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return f"{stages}; together {sum(self.seconds.values()):.1f} s"


def writable_folder(folder, option="--out"):
    """Create the folder and try to write there: better now than after the long run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the output folder {folder}: {error.strerror or error}; "
            f"choose another with {option}"
        ) from error
    return folder


_INTERRUPTED = threading.Event()


@contextlib.contextmanager
def remembered_interrupts():
    """Let Ctrl-C end the run even where Python drops its exception (inside a destructor)."""

    def interrupt(signum, frame):
        _INTERRUPTED.set()
        raise KeyboardInterrupt

    _INTERRUPTED.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stop_if_interrupted():
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt


def is_user_error(error):
    # torch reports a full device as a RuntimeError of its own.
    return isinstance(error, USER_ERRORS) or "out of memory" in str(error)


def one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text:
        text += " (try a smaller --batch-size, or --dtype bfloat16)"
    return text


@contextlib.contextmanager
def plain_warnings(fatal=None):
    """Show each warning meant for users once, as one line; leave developers' warnings out.

    A warning that matches the regular expression `fatal` is raised and ends the run.
    """

    def show(message, category, *_, **__):
        print(f"warning: {one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        # Pillow's, of each large image; an error of ours that says what to do follows.
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        if fatal is not None:
            warnings.filterwarnings("error", fatal, UserWarning)
        warnings.showwarning = show
        yield


def quiet_libraries():
    """Keep transformers' notes and bars out of ours, unless the user set them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # words a terminal cannot show are no failure
