"""What would a fit to more rows than this machine holds cost? A model, its check, and its answer.

    python -m benchmarks.scaling_model [--write] [--no-dask]

1. Measures the constants of `benchmarks._scaling` on one core of this machine, and on a Dask
   cluster of two processes here (about a minute).
2. Checks the model: real batch iterations, out of core and on one and two Dask workers, of other
   shapes than those that were measured, and a whole fit. The bar: within 25 per cent each (exit
   status 1 if one is missed).
3. Prints what it says of 10^7, 10^9 and 10^12 rows of 4,096 features.

docs/scaling.md explains the model.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._isolated import THREAD_VARIABLES
from benchmarks._record import recorded, verdict
from benchmarks._row_data import (
    N_COMPONENTS,
    FromFile,
    PlantedRows,
    dask_rows,
    fitted,
    temporary_folder,
)
from benchmarks._scaling import (
    FLOAT16,
    Fleet,
    Plan,
    Shape,
    fit_seconds,
    fits_memory,
    memory_per_process,
    row_seconds,
    simulate,
    survey_seconds,
)
from benchmarks._scaling_constants import (
    ALPHA,
    COMPONENTS,
    WIDTHS,
    identity_map,
    measured_dask,
    measured_rates,
    near_atoms,
)
from benchmarks.distributed import running_cluster

TOLERANCE = 0.25
#: (n_samples, n_features, n_components) of the checks: none is one that was measured.
STREAM_CHECKS = (
    (2**18, 768, 32),
    (2**17, 1536, 64),
    (2**16, 3072, 256),
    (2**16, 2048, 600),
)
DASK_CHECKS = ((2**18, 1536, 48), (2**16, 2048, 400))
N_CHUNKS = 8
FIT_CHECK = (2**18, 640)
N_ITERATIONS = 5

#: The question: rows, features, atoms with their active codes, workers, passes of a fit.
ROWS, FEATURES, WORKERS, N_PASSES = (10**7, 10**9, 10**12), 4096, (1, 16, 256), 30
ATOMS = {20: 4, 1_000: 8, 30_000: 16}
GIGABYTE = 1e9
#: A worker with one core of this machine, and memory enough for a few processes of that size.
CORE_MEMORY = 16 * GIGABYTE
#: A node as clusters have them. Cores are as fast as here but for the share below, which is taken
#: off for what they share: memory, cache, clock.
NODE = {
    "n_cores": 32,
    "memory_bytes": 256 * GIGABYTE,
    "memory_rate": 300 * GIGABYTE,
    "disk_bytes": 3 * GIGABYTE,
    "network_bytes": 25e9 / 8,
    "efficiency": 0.8,
}
#: Rows of a chunk that are tried (the largest has 2 GB on disk, 6 GB in memory), and tasks beyond
#: which nobody runs Dask: its scheduler holds some kilobytes for each.
CHUNKS = (4_096, 16_384, 65_536, 262_144)
MOST_TASKS = 1e6


# --- constants ------------------------------------------------------------------------------------


def print_rates(rates):
    """All constants, in readable units."""
    print("one core")
    print(f"  rows from the page cache, float16 to float32  {rates.read / 1e9:6.2f} G/s")
    print(f"  disk to page cache                          {rates.disk_bytes / 1e9:8.2f} GB/s")
    print(f"  sums of columns, norms of rows              {rates.moments / 1e9:8.2f} G/s")
    _print_grid("X U^T, float32, Gflop/s", rates.products, 1e9)
    _print_grid("U U^T, float64, Gflop/s", rates.products64, 1e9)
    _print_grid("a block whatever its rows, ms", rates.block, None)
    _print_grid("the client between two passes, ms", rates.client, None)
    names = (
        "once",
        "each atom",
        "each code of a row of U U^T",
        "each step",
        "and (active codes)^2",
    )
    terms = zip(rates.coding, names, strict=True)
    print(
        "  coding of a sample, ns: " + ", ".join(f"{1e9 * t:.3g} for {name}" for t, name in terms)
    )
    _print_grid("X added to B, for each active code, G/s", rates.active, 1e9)
    _print_grid("B of a kernel block added, GB/s", rates.flush, 1e9)
    print(f"  scan of codes                               {1e9 * rates.scan:8.2f} ns each")
    print(f"  A and B of two processes added              {rates.add_bytes / 1e9:8.2f} GB/s")
    print(f"  rows among which a sample is drawn          {rates.draw / 1e6:8.2f} M/s")
    if rates.task:
        print("Dask, two processes on this machine")
        print(f"  each block                                  {1e3 * rates.task:8.2f} ms")
        print(f"  a round with nothing to do                  {1e3 * rates.round:8.2f} ms")
        print(f"  message                                     {1e3 * rates.wire_latency:8.2f} ms")
        print(f"  messages                                    {rates.wire_bytes / 1e9:8.2f} GB/s")
        print(f"  chunks, float16 to float32                  {rates.chunk / 1e9:8.2f} G/s")
        print(f"  a process beside another one                {100 * rates.beside:8.0f} % as fast")


def _print_grid(name, grid, unit):
    """A line for each width; `unit` None: milliseconds of what takes K^2 d / rate."""
    for d in WIDTHS:
        values = []
        for K in COMPONENTS:
            rate = grid(d, K)
            value = rate / unit if unit else 1e3 * K**2 * d / rate
            values.append(f"{value:8.4g} (K={K})")
        print(f"  {name}, d={d}: " + ", ".join(values))


# --- checks ---------------------------------------------------------------------------------------


def compare(name, measured, predicted):
    """Print both; 1 if they differ by more than the tolerance."""
    error = predicted / measured - 1
    ok = abs(error) <= TOLERANCE
    print(f"{verdict(ok)} {name:58} {measured:8.3f} s {predicted:8.3f} s {100 * error:+6.1f} %")
    return int(not ok)


def measured_iteration(passes, U):
    """Median seconds of a batch iteration, for each of its passes; mean number of active codes."""
    from semi_nmf_concepts.decomposition._machine import Machine
    from semi_nmf_concepts.decomposition._row_problem import RowProblem
    from semi_nmf_concepts.decomposition._row_work import Survey
    from semi_nmf_concepts.decomposition._solvers import State
    from semi_nmf_concepts.decomposition._solvers._problem import batch_iteration

    n, d = passes.shape
    look = passes.reduce(Survey(Machine(), identity_map(d), n, "SemiNMFConcepts"))
    problem = RowProblem(passes, Machine(), identity_map(d), ALPHA, look.squared_norm)
    state, seconds = State.start(problem, U), []
    state, _ = batch_iteration(problem, state)  # compiles; codes are there from now on
    while len(seconds) < N_ITERATIONS:
        before, started = passes.n_passes, time.perf_counter()
        state, _ = batch_iteration(problem, state)
        # An extrapolation that is undone costs a second pass.
        seconds.append((time.perf_counter() - started) / (passes.n_passes - before))
    coding = problem.code_pass(state.U, state.V).coding
    return statistics.median(seconds), coding.n_active / n


def check_stream(rates):
    """Batch iterations out of core; how many are off."""
    from semi_nmf_concepts.decomposition._row_passes import StreamedPasses
    from semi_nmf_concepts.streaming import default_batch_size, open_rows

    missed = 0
    for n, d, K in STREAM_CHECKS:
        with written_rows(n, d, K) as (path, rows):
            passes = StreamedPasses(open_rows(path), None)
            seconds, m = measured_iteration(passes, near_atoms(rows))
        plan = Plan(block_rows=default_batch_size(d))
        predicted = simulate(Shape(n, d, K, m), rates, Fleet(), plan).seconds
        missed += compare(f"out of core, {name_of(n, d, K, m)}", seconds, predicted)
    return missed


@contextmanager
def written_rows(n, d, K):
    """Path of a float16 file of planted rows, which is there for the time of a block; the rows."""
    rows = PlantedRows(d, K)
    with temporary_folder(n * d * FLOAT16) as folder:
        yield rows.write(Path(folder, "rows.npy"), n), rows


def name_of(n, d, K, m):
    """A shape in words."""
    return f"n={n}, d={d}, K={K}, {m:.1f} active"


def check_fit(rates):
    """A fit of the estimator to a file; 1 if it is off."""
    from semi_nmf_concepts.decomposition._row_training import sample_size
    from semi_nmf_concepts.streaming import default_batch_size, open_rows

    n, d = FIT_CHECK
    with written_rows(n, d, N_COMPONENTS) as (path, _):
        rows = open_rows(path)
        few = rows[:: n // sample_size(N_COMPONENTS, d, rows.dtype)]
        fitted(few[:2000], random_state=0)  # compiles
        on_sample = fitted(few, random_state=0).seconds
        passes, blocks = [], rows.blocks
        rows.blocks = lambda *arguments: passes.append(1) or blocks(*arguments)
        model = fitted(rows, random_state=0)
    m = float(model.n_active_)
    shape, plan = Shape(n, d, N_COMPONENTS, m), Plan(block_rows=default_batch_size(d))
    iteration = simulate(shape, rates, Fleet(), plan).seconds
    predicted = on_sample + survey_seconds(shape, rates, Fleet(), plan) + n / rates.draw
    predicted += (len(passes) - 1) * iteration
    name = f"a fit, {name_of(n, d, N_COMPONENTS, m)}, {len(passes)} passes"
    return compare(name, model.seconds, predicted)


def check_dask(rates, n_workers):
    """Batch iterations on so many workers; how many are off."""
    from semi_nmf_concepts.decomposition._dask import DaskPasses

    missed = 0
    efficiency = rates.beside if n_workers > 1 else 1.0
    fleet = Fleet(dask=True, processes=n_workers, cores=1, efficiency=efficiency)
    for n, d, K in DASK_CHECKS:
        with written_rows(n, d, K) as (path, rows):
            X = dask_rows(FromFile(str(path)), (n, d), N_CHUNKS, np.float16)
            passes = DaskPasses(X)
            seconds, m = measured_iteration(passes, near_atoms(rows))
            passes.close()
        shape, plan = Shape(n, d, K, m, warm=True), Plan(block_rows=n // N_CHUNKS)
        predicted = simulate(shape, rates, fleet, plan).seconds
        name = f"Dask, {n_workers} worker{'s' * (n_workers > 1)}, {name_of(n, d, K, m)}"
        missed += compare(name, seconds, predicted)
    return missed


# --- the answer -----------------------------------------------------------------------------------


def one_core(n_workers, rates):
    """Fleets of workers with one core and a disk like those of this machine."""
    common = {"disk_bytes": rates.disk_bytes, "memory_bytes": CORE_MEMORY}
    if n_workers == 1:
        return [Fleet(cores=2, **common)]
    return [Fleet(dask=True, machines=n_workers, cores=1, **common)]


def nodes(n_workers, rates):
    """Fleets of nodes, whose cores are shared out among processes in several ways."""
    options = dict(NODE)
    n_cores = options.pop("n_cores")
    return [
        Fleet(
            dask=True,
            machines=n_workers,
            processes=n_cores // n_threads,
            threads=n_threads,
            cores=n_threads,
            client_cores=n_cores * options["efficiency"],
            **options,
        )
        for n_threads in (1, 2, 4, 8, 16, 32)
    ] + [
        # Some of the cores alone: every thread has sums of its own.
        Fleet(dask=True, machines=n_workers, threads=n_threads, cores=n_threads,
              client_cores=n_cores * options["efficiency"], **options)
        for n_threads in (1, 8)
    ]  # fmt: skip


def best(shape, rates, fleets, variant=None):
    """The fastest (fleet, plan, shape, pass) of those whose memory suffices, or None.

    Codes start from those of the last pass where a quarter of the memory holds them. A plan with
    more tasks than Dask can hold is taken only where there is no other one.
    """
    found = []
    for fleet in fleets:
        kept = shape.codes_bytes / fleet.machines <= 0.25 * fleet.memory_bytes
        trial = replace(shape, warm=kept and fleet.dask)
        for rows in CHUNKS if fleet.dask else CHUNKS[:1]:
            plan = replace(variant or Plan(), block_rows=rows)
            if fits_memory(trial, fleet, plan):
                result = simulate(trial, rates, fleet, plan)
                found.append((fleet, plan, trial, result))
    return min(found, key=lambda a: (has_too_many_tasks(a), a[3].seconds), default=None)


def has_too_many_tasks(answer):
    """Whether Dask could not hold the tasks of a pass."""
    fleet, _, _, result = answer
    return fleet.dask and result.n_blocks > MOST_TASKS


def tables(rates):
    """Print the answer."""
    kinds = {"one core": one_core, "node": nodes}
    answers = {
        (kind, n_workers, n, K): best(Shape(n, FEATURES, K, m), rates, make(n_workers, rates))
        for kind, make in kinds.items()
        for n_workers in WORKERS
        for n in ROWS
        for K, m in ATOMS.items()
    }
    print_times("a pass", answers, lambda answer: answer[3].seconds)
    print()
    print_times(
        f"a fit ({N_PASSES} passes)",
        answers,
        lambda answer: fit_seconds(answer[2], rates, answer[0], answer[1], N_PASSES),
    )
    print(f"-: does not fit into memory. *: more than {MOST_TASKS:.0e} tasks in a pass.")
    print()
    print_limits(answers, rates)
    print()
    print_memory()
    print()
    print_remedies(rates)


def print_times(title, answers, seconds_of):
    """A table: rows and atoms down, workers across."""
    columns = [(kind, n) for kind in ("one core", "node") for n in WORKERS]
    print(f"{title:24}" + "".join(f"{f'{n} x {kind}':>16}" for kind, n in columns))
    for n in ROWS:
        for K in ATOMS:
            cells = []
            for kind, n_workers in columns:
                answer = answers[kind, n_workers, n, K]
                mark = "*" if answer is not None and has_too_many_tasks(answer) else " "
                cells.append("- " if answer is None else words(seconds_of(answer)) + mark)
            print(f"{n:.0e} rows, K = {K:<7}".ljust(24) + "".join(f"{cell:>16}" for cell in cells))


def words(seconds):
    """A duration to two digits."""
    units = (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for name, size in units:
        if seconds >= 1.5 * size or size == 1:
            value = seconds / size
            return f"{value:.2g} {name}" if value < 100 else f"{value:,.0f} {name}"
    raise AssertionError


def limit(answer, rates):
    """What takes longest in a pass."""
    fleet, plan, shape, result = answer
    phases = {"telling U": result.send, "adding up": result.reduce, "the client": result.update}
    name, seconds = max(phases.items(), key=lambda phase: phase[1])
    if seconds > result.rows:
        return name
    parts = row_seconds(shape, rates, fleet.dask)
    if fleet.dask and result.n_blocks * rates.task > 0.8 * result.rows:
        return "the scheduler"
    cpu_read = parts.pop("read") / fleet.efficiency
    disk = shape.n_features * FLOAT16 * fleet.processes / fleet.disk_bytes
    compute = sum(parts.values()) / fleet.threads / fleet.efficiency
    if max(disk, cpu_read) > compute:
        return "the disk" if disk > cpu_read else "up-casting"
    if result.computing > 1.5 * shape.n_samples * compute:
        return "U U^T per block"
    return max(parts, key=parts.get)


def print_limits(answers, rates):
    """For each answer of the nodes: how it is cut, and what limits it."""
    print("nodes, a pass: what limits it, processes x threads, rows of a chunk, memory of a node")
    for n in ROWS:
        for K in ATOMS:
            for n_workers in WORKERS:
                answer = answers["node", n_workers, n, K]
                name = f"{n:.0e} rows, K = {K}, {n_workers} node{'s' * (n_workers > 1)}"
                if answer is None:
                    print(f"  {name:38} does not fit")
                    continue
                fleet, plan, shape, result = answer
                memory = sum(memory_per_process(shape, fleet, plan).values()) * fleet.processes
                start = "last codes" if shape.warm else "zero"
                layout = f"{fleet.processes:2} x {fleet.threads:<2} {plan.block_rows:7}"
                print(
                    f"  {name:38} {limit(answer, rates):16} {layout} "
                    f"{memory / GIGABYTE:6.1f} GB, codes start from {start}"
                )


def print_memory():
    """What a process with one thread holds, whatever the number of rows."""
    print("memory of a process with one thread on Dask, chunks of 4096 rows, GB")
    for K, m in ATOMS.items():
        need = memory_per_process(Shape(1e9, FEATURES, K, m), Fleet(dask=True), Plan())
        parts = ", ".join(f"{name} {size / GIGABYTE:.2f}" for name, size in need.items())
        print(f"  K = {K:<6} {sum(need.values()) / GIGABYTE:7.2f}: {parts}")


def print_remedies(rates):
    """What the largest dictionary would gain by changes that the package does not make yet."""
    K, n_workers = max(ATOMS), max(WORKERS)
    print(f"a pass at K = {K} on {n_workers} nodes, as it is and with changes")
    changes = {
        "as it is": Plan(),
        "U U^T once per process": Plan(shared_gram=True),
        "and A, B shared by the threads, joined in pairs": Plan(
            shared_gram=True, shared_sums=True, fan_in=2
        ),
    }
    for n in ROWS:
        shape = Shape(n, FEATURES, K, ATOMS[K])
        for name, plan in changes.items():
            answer = best(shape, rates, nodes(n_workers, rates), plan)
            fleet, _, _, result = answer
            phases = ", ".join(
                f"{phase} {words(getattr(result, phase))}"
                for phase in ("send", "rows", "reduce", "update")
            )
            mark = "*" if has_too_many_tasks(answer) else " "
            print(
                f"  {n:.0e} rows, {name:48} {words(result.seconds):>9}{mark}"
                f" on {fleet.processes * fleet.threads} of {NODE['n_cores']} cores: {phases}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    parser.add_argument("--no-dask", action="store_true", help="leave out what needs a cluster")
    options = parser.parse_args()
    for name in THREAD_VARIABLES:  # for the workers
        os.environ[name] = "1"
    warnings.filterwarnings("ignore", category=UserWarning)
    with threadpool_limits(1), recorded("scaling_model", options.write):
        return run(options)


def run(options):
    """Constants, checks, tables; the exit status."""
    talking, missed = {}, 0
    if not options.no_dask:
        with running_cluster(2) as client:
            talking = measured_dask(client)
    rates = measured_rates(**talking)
    print("== constants")
    print_rates(rates)
    print(f"\n== check: a batch iteration, measured and predicted (within {TOLERANCE:.0%})")
    missed += check_stream(rates)
    missed += check_fit(rates)
    for n_workers in () if options.no_dask else (1, 2):
        with running_cluster(n_workers):
            missed += check_dask(rates, n_workers)
    print(f"\n== times for {FEATURES} features, float16 on disk")
    tables(rates)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
