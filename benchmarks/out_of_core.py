"""Fits to data larger than memory: how much they hold, what they find, what a pass costs.

    python -m benchmarks.out_of_core [--quick] [--write] [--only PART ...]

Parts, each with its bar (exit status 1 if one is missed):

memory     anonymous resident memory of a process that fits 1,000,000 x 2048 float16 numbers, 4 GB,
           with default settings, and of one that fits a tenth of the rows.
agreement  a file of 200,000 x 256 float16 numbers against the same numbers in memory, up-cast: from
           the same start, and, where each finds a start by itself, for information.
pass       one batch pass over a file in the page cache against reading it once, up-casting it and
           the two products X U^T and V^T X, on as many threads; rounds alternate, medians.

The data are planted and noisy, made by `benchmarks._row_data`, in a temporary folder (TMPDIR).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks._isolated import THREAD_VARIABLES
from benchmarks._memory import PeakAnonymous, held, is_told
from benchmarks._record import run_parts, verdict
from benchmarks._row_data import (
    N_COMPONENTS,
    Difference,
    PlantedRows,
    data_and_starts,
    fitted,
    seconds_line,
    start_of,
    temporary_folder,
)
from semi_nmf_concepts import SemiNMFConcepts

MEMORY, PASS = 900e6, 1.5


def in_a_process(part, *arguments, n_threads=1):
    """What ``python -m benchmarks.out_of_core --inside part ...`` prints as JSON."""
    command = [sys.executable, "-m", "benchmarks.out_of_core", "--inside", part]
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(n_threads))}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# --- memory ---------------------------------------------------------------------------------------


def memory(options):
    """Peaks of fits to a tenth of the rows and to all."""
    if not is_told():
        print("not measured: the system does not tell the anonymous resident memory")
        return 0
    n_samples, n_features = (200_000, 1_024) if options.quick else (1_000_000, 2_048)
    with temporary_folder(2 * n_samples * n_features) as folder:
        started = time.perf_counter()
        path = PlantedRows(n_features).write(Path(folder, "rows.npy"), n_samples)
        print(
            f"{n_samples:,} x {n_features} float16 = {2 * n_samples * n_features / 1e9:.2f} GB, "
            f"made in {time.perf_counter() - started:.0f} s; K = {N_COMPONENTS}, default settings "
            "but for the start, 1 thread"
        )
        _ = peak_of_fit(path, n_samples // 20, "given")  # many passes
        few = peak_of_fit(path, n_samples // 10, "grow")
        many = peak_of_fit(path, n_samples, "grow")
    missed = many >= MEMORY
    print(f"{verdict(not missed)} less than {MEMORY / 1e6:.0f} MB")
    print(f"     {many / few:.3f} times the memory for ten times the rows")
    return int(missed)


def peak_of_fit(path, n_samples, start):
    """Largest anonymous resident memory of a fit in a process of its own; prints all about it."""
    found = in_a_process("memory", path, n_samples, start)
    print(
        f"     {n_samples:9,} rows, start {start}: RssAnon {found['peak'] / 1e6:.0f} MB at most, "
        f"{found['before'] / 1e6:.0f} MB before, VmHWM {found['high'] / 1e6:.0f} MB; "
        f"{found['n_passes']} passes, {found['seconds']:.1f} s; {found['n_active']:.2f} active "
        f"atoms, {found['score']:.3f} explained",
        flush=True,
    )
    return found["peak"]


def memory_inside(path, n_samples, start):
    """One fit and its peaks."""
    n_passes = count_passes()
    X = np.load(path, mmap_mode="r")[: int(n_samples)]
    init = PlantedRows(X.shape[1]).random_atoms(0) if start == "given" else start
    with PeakAnonymous() as memory:
        model = fitted(X, init=init, random_state=0)
    return {
        "before": memory.before,
        "peak": memory.peak,
        "high": held("VmHWM"),
        "seconds": model.seconds,
        "n_passes": n_passes(),
        "n_active": model.n_active_,
        "score": model.score(X[: 2**14]),
    }


def count_passes():
    """From now on, count the passes over rows of any kind; returns what tells their number."""
    from semi_nmf_concepts.streaming import RowBlocks

    blocks, n_passes = RowBlocks.blocks, 0

    def counted(*arguments, **options):
        nonlocal n_passes
        n_passes += 1
        return blocks(*arguments, **options)

    RowBlocks.blocks = counted
    return lambda: n_passes


# --- agreement ------------------------------------------------------------------------------------


def agreement(options):
    """Dictionary and objective of fits to a file and in memory."""
    n_samples, n_features, n_seeds = (70_000, 512, 1) if options.quick else (200_000, 256, 5)
    print(
        f"{n_samples:,} x {n_features}, K = {N_COMPONENTS}; float16 in a file, float32 in memory; "
        "differences of the first from the second"
    )
    with temporary_folder(2 * n_samples * n_features) as folder:
        cases = data_and_starts(folder, n_samples, n_features, n_seeds, np.float16)
        return sum(agree(*case) for case in cases)


def agree(path, init, seed):
    """Compare two fits from a start; 1 if a bar is missed (of fits from a given one)."""
    mapped = np.load(path, mmap_mode="r")
    in_memory, streamed = (
        fitted(X, init=init, random_state=seed) for X in (np.array(mapped, np.float32), mapped)
    )
    difference = Difference.of(streamed, in_memory)
    is_given = not isinstance(init, str)
    ok = difference.same_objective and difference.same_atoms
    print(
        f"{verdict(ok) if is_given else '    '} seed {seed}, {start_of(init)}: {difference}; "
        f"{streamed.n_iter_} and {in_memory.n_iter_} iterations, {streamed.seconds:.1f} s and "
        f"{in_memory.seconds:.1f} s",
        flush=True,
    )
    return int(is_given and not ok)


# --- pass -----------------------------------------------------------------------------------------


def one_pass(options):
    """Seconds of a pass and of what it cannot do without, on one and on two threads."""
    n_samples, n_features, rounds = (60_000, 1_024, 3) if options.quick else (500_000, 2_048, 5)
    n_bytes, missed = 2 * n_samples * n_features, 0
    with temporary_folder(n_bytes) as folder:
        rows = PlantedRows(n_features)
        path = rows.write(Path(folder, "rows.npy"), n_samples)
        print(
            f"{n_samples:,} x {n_features} float16 = {n_bytes / 1e9:.2f} GB in the page cache; "
            f"K = {N_COMPONENTS}, alpha = 1; medians of {rounds} alternating rounds"
        )
        for n_threads in (1, 2):
            found = in_a_process("pass", path, rounds, n_threads, n_threads=n_threads)
            missed += report_pass(found, n_threads)
    return missed


def report_pass(seconds, n_threads):
    """Print what was measured; 1 if the bar is missed."""
    middle = {what: statistics.median(values) for what, values in seconds.items()}
    ratio = middle[PASS_OF_FIT] / middle[FLOOR]
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    print(f"\n{threads} of BLAS and kernels, and the one that reads ahead")
    print(f"{verdict(ratio <= PASS)} {ratio:.2f} times the floor (bar {PASS})")
    for what, values in seconds.items():
        print(seconds_line(values, what))
    return int(ratio > PASS)


PASS_OF_FIT = "batch pass of a fit"
FLOOR = "floor: blocks of the file, astype(float32), X U^T and V^T X"
OUR_CAST = "the same with the up-casting of a fit"
NO_READER = "batch pass of a fit, without reading ahead"


def pass_inside(path, rounds, n_jobs):
    """Seconds of every round by what is done."""
    from semi_nmf_concepts.decomposition._machine import Machine
    from semi_nmf_concepts.decomposition._preprocessing import AffineMap
    from semi_nmf_concepts.decomposition._row_passes import StreamedPasses
    from semi_nmf_concepts.decomposition._row_problem import RowProblem
    from semi_nmf_concepts.streaming import default_batch_size, open_rows

    X = np.load(path, mmap_mode="r")
    batch_size = default_batch_size(X.shape[1])
    U = SemiNMFConcepts(N_COMPONENTS, random_state=0).fit(X[: 2**14]).components_
    rows = open_rows(X)
    machine = Machine(n_jobs=int(n_jobs))

    def batch_pass():
        passes = StreamedPasses(rows, batch_size)
        problem = RowProblem(passes, machine, AffineMap(np.zeros(X.shape[1])), 1.0, 1.0)
        return problem.code_pass(U.astype(np.float64), None)

    def products(blocks):
        B = np.zeros(U.shape, np.float32)
        for block in blocks:
            V = block @ U.T
            B += V.T @ block

    def cast_by_numpy():
        for start in range(0, len(X), batch_size):
            yield X[start : start + batch_size].astype(np.float32)

    def cast_by_reader():
        return (block for _, block in rows.blocks(batch_size, read_ahead=False))

    def batch_pass_in_turn():
        with patch.object(rows, "blocks", partial(rows.blocks, read_ahead=False)):
            batch_pass()

    ways = {
        PASS_OF_FIT: batch_pass,
        FLOOR: lambda: products(cast_by_numpy()),
        OUR_CAST: lambda: products(cast_by_reader()),
        NO_READER: batch_pass_in_turn,
    }
    seconds = {what: [] for what in ways}
    for round_ in range(int(rounds) + 1):
        for what, way in ways.items():
            started = time.perf_counter()
            way()
            if round_:  # the first one compiles, and fills the page cache
                seconds[what].append(time.perf_counter() - started)
    return seconds


PARTS = {"memory": memory, "agreement": agreement, "pass": one_pass}
INSIDE = {"memory": memory_inside, "pass": pass_inside}


def main(arguments=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less data, a minute")
    parser.add_argument(
        "--write", action="store_true", help="keep the output in results/out_of_core_PART.txt"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        part, *values = options.inside
        print(json.dumps(INSIDE[part](*values)))
        return 0
    return run_parts("out_of_core", PARTS, options.only, options)


if __name__ == "__main__":
    sys.exit(main())
