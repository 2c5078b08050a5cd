"""How the app computes: one job at a time, and every failure as a message."""

import asyncio
import functools
import html
import re
import sys
import threading
import traceback

# What users can mend; its text is shown. Anything else is a fault of the program.
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError)
# The folders of an absolute path: between quotes, where it may hold spaces, or in plain text.
_FOLDERS = re.compile(
    r"""(?<=['"])(?:~|[A-Za-z]:)?[/\\][^'"]*[/\\](?=[^/\\'"]+['"])"""
    r"""|(?<![\w/\\:.~])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'"]+)*[/\\](?=[^\s/\\'"])"""
)
_lock = threading.Lock()  # of all apps in the process: memory is sized for one job


def reported(function):
    """Let an event handler fail with the reason on the visitor's screen, as text."""
    import gradio

    @functools.wraps(function)
    def run(*args):
        try:
            return function(*args)
        except gradio.Error:
            raise
        except Exception as error:
            raise gradio.Error(
                html.escape(reason(error)), title="This did not work", print_exception=False
            ) from error

    return run


def alone(function):
    """Let a handler that runs the model wait for those of all other visitors."""

    @functools.wraps(function)
    def run(*args):
        with _lock:
            return function(*args)

    return run


def reason(error):
    """One line about what went wrong; faults of the program leave their traceback in the log.

    Files are named without their folders, which are the server's.
    """
    text = " ".join(str(error).split())
    if "out of memory" in text or isinstance(error, MemoryError):
        return "There is not enough memory for this: try a smaller image or a shorter answer."
    if isinstance(error, _USER_ERRORS) and text:
        return _FOLDERS.sub("", text)
    traceback.print_exception(error, file=sys.stderr)
    return f"A fault in the program ({type(error).__name__}); its traceback is in the log."


def in_event_loop(function):
    """Call the function where an event loop runs.

    Without one Gradio makes several, of which it closes none.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            asyncio.get_running_loop()  # as in a notebook
        except RuntimeError:
            loop = asyncio.new_event_loop()
        else:
            return function(*args, **kwargs)
        try:
            return loop.run_until_complete(call(*args, **kwargs))
        finally:
            loop.close()

    async def call(*args, **kwargs):
        return function(*args, **kwargs)

    return run
