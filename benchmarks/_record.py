"""Keep what a benchmark printed, with date, versions and machine."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "torch", "transformers", "pillow")


class _Both(io.TextIOBase):
    """Writes to two streams."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def write(self, text):
        self.second.write(text)
        return self.first.write(text)

    def flush(self):
        self.first.flush()


@contextlib.contextmanager
def recorded(name: str, keep: bool):
    """Keep what is printed inside in ``benchmarks/results/NAME.txt``, if `keep`.

    Benchmarks report a missed bar by what they return, so a record shows what was measured, good or
    bad; one that breaks off (an error, a closed pipe) leaves the last whole record alone.
    """
    if not keep:
        yield
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(_Both(sys.stdout, printed)):
        yield
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.txt").write_text(f"{header()}\n\n{printed.getvalue()}")


def verdict(ok: bool) -> str:
    """How a line begins that tells of a bar."""
    return "ok  " if ok else "MISS"


def run_parts(name: str, parts: dict, chosen: list, options) -> int:
    """Run parts of a benchmark, each with a record of its own; the exit status of all.

    A part takes `options` and returns how many bars it missed.
    """
    missed = 0
    for part in chosen:
        with recorded(f"{name}_{part}", options.write):
            print(f"== {part}")
            missed += parts[part](options)
    return int(missed > 0)


def header() -> str:
    """Command, date, versions and machine in words."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    command = " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return (
        f"{command}\n"
        f"{datetime.date.today():%d %B %Y}; Python {platform.python_version()}, {versions}\n"
        f"{_processor()}, {os.cpu_count()} cores, {_gpu()}"
    )


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    gibibytes = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name(0)} ({gibibytes:.0f} GiB, CUDA {torch.version.cuda})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'} ({platform.machine()})"
