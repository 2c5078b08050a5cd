"""Seconds that ``import semi_nmf_concepts`` takes, and what it must not import.

    python -m benchmarks.import_time [--write]

Each of several imports runs in a new process; printed are the median and the range of the import
itself, without the start of Python, and the modules of the package's heavy dependencies that were
loaded (exit status 1 if there are any, or if the median reaches one second).
"""

import argparse
import json
import statistics
import subprocess
import sys

from benchmarks._record import recorded

BAR = 1.0
HEAVY = ("torch", "transformers", "numba", "sklearn", "pandas", "matplotlib")
FORBIDDEN = ("torch", "transformers")
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import semi_nmf_concepts
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def report(n_runs):
    """Print the figures; 1 if a bar is missed, else 0."""
    seconds, modules = [], set()
    for _ in range(n_runs):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        )
        one, names = json.loads(done.stdout)
        seconds.append(one)
        modules.update(names)
    median = statistics.median(seconds)
    print(
        f"import semi_nmf_concepts: median {median:.3f} s of {n_runs} processes "
        f"({min(seconds):.3f} to {max(seconds):.3f}), bar {BAR:g} s"
    )
    print(f"heavy modules imported: {', '.join(modules.intersection(HEAVY)) or 'none'}")
    return int(median >= BAR or bool(modules.intersection(FORBIDDEN)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    arguments = parser.parse_args(argv)
    with recorded("import_time", arguments.write):
        return report(arguments.runs)


if __name__ == "__main__":
    sys.exit(main())
