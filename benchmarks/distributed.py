"""Fits with Dask: same result as without, twice as fast on two workers, and if one of them dies?

    python -m benchmarks.distributed [--quick] [--write] [--only PART ...]

Parts, each with its bars (exit status 1 if one is missed), on a `LocalCluster` with processes of
one thread each, which read chunks of a file or make them themselves:

objective  a fit with Dask (8 chunks, 2 workers) against one in this process, in memory: from the
           same start, and, where each finds a start by itself, for information.
workers    seconds of a batch pass with 2 workers and with 1, alternating, medians.
killed     a worker killed (SIGKILL, by its process id) at random moments of a fit.
client     anonymous resident memory of the process of the client, which fits and scores an array
           held by the workers; the same result with 3, 8 and 50 chunks; transform computes nothing
           before it is asked to.
"""

import argparse
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np

from benchmarks._isolated import THREAD_VARIABLES
from benchmarks._memory import PeakAnonymous, is_told
from benchmarks._record import run_parts, verdict
from benchmarks._row_data import (
    N_COMPONENTS,
    Difference,
    FromFile,
    Made,
    PlantedRows,
    dask_rows,
    data_and_starts,
    fitted,
    seconds_line,
    start_of,
    temporary_folder,
)

SPEED, SLOW_PASS = 1.6, 5.0
#: What the client may hold beyond what it held before, as a share of the array.
CLIENT_SHARE = 0.1


@contextmanager
def running_cluster(n_workers=2):
    """A client of a new cluster, the one that Dask uses meanwhile."""
    import dask
    from distributed import Client, LocalCluster

    with (
        # A worker that is killed twice within this time is given up by `LocalCluster`.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(n_workers, timeout=60)
        with client.as_current():
            warm_up(client)
            yield client


def warm_up(client):
    """Imports and compiled code on every worker, so that no measurement has them."""
    client.run(_fit_few)


def _fit_few():
    from semi_nmf_concepts import SemiNMFConcepts

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SemiNMFConcepts(4, max_iter=2).fit(PlantedRows(64, 4)[0:512])


# --- objective ------------------------------------------------------------------------------------


def objective(options):
    """Objective of fits with Dask and without."""
    n_samples, n_features, n_seeds = (8_000, 128, 1) if options.quick else (50_000, 256, 3)
    print(
        f"{n_samples:,} x {n_features} float32, K = {N_COMPONENTS}; 8 chunks, 2 workers; objective "
        "with Dask relative to that of a fit in memory"
    )
    with running_cluster(), temporary_folder(4 * n_samples * n_features) as folder:
        cases = data_and_starts(folder, n_samples, n_features, n_seeds, np.float32)
        return sum(agree(*case) for case in cases)


def agree(path, init, seed):
    """Compare two fits from a start; 1 if the bar is missed (of fits from a given one)."""
    X = np.load(path)
    local = fitted(X, init=init, random_state=seed)
    distributed = fitted(dask_rows(FromFile(str(path)), X.shape, 8), init=init, random_state=seed)
    difference = Difference.of(distributed, local)
    is_given = not isinstance(init, str)
    print(
        f"{verdict(difference.same_objective) if is_given else '    '} seed {seed}, "
        f"{start_of(init)}: {difference}; {distributed.n_iter_} and {local.n_iter_} iterations, "
        f"{distributed.seconds:.1f} s and {local.seconds:.1f} s",
        flush=True,
    )
    return int(is_given and not difference.same_objective)


# --- workers --------------------------------------------------------------------------------------


def workers(options):
    """Seconds of passes on one worker and on two."""
    n_stored, n_features, rounds = (40_000, 1_024, 3) if options.quick else (500_000, 2_048, 5)
    n_bytes = 2 * n_stored * n_features
    rows = PlantedRows(n_features)
    with (
        temporary_folder(n_bytes) as folder,
        running_cluster(1) as one,
        running_cluster(2) as two,
    ):
        path = rows.write(Path(folder, "rows.npy"), n_stored)
        U = fitted(rows[0 : 2**14], random_state=0).components_.astype(np.float64)
        n_visits = 1 if options.quick else visits(one, path, n_stored, U)
        X = rows_of_file(path, n_stored, n_features, n_visits)
        print(
            f"{len(X):,} x {n_features} float16, {X.numblocks[0]} chunks: a file of "
            f"{n_bytes / 1e9:.2f} GB in the page cache, read {n_visits} times in a pass; "
            f"K = {N_COMPONENTS}; medians of {rounds} alternating rounds"
        )
        seconds = times_of_passes(X, U, rounds, {1: one, 2: two})
    one, two = (statistics.median(seconds[n]) for n in (1, 2))
    for n, values in seconds.items():
        print(seconds_line(values, f"with {n} worker" + "s" * (n > 1)))
    told = f"{one / two:.2f} times as fast (bar {SPEED}, of passes over {SLOW_PASS:.0f} s)"
    if options.quick:
        print(f"     {told}")
        return 0
    ok = one / two >= SPEED and one > SLOW_PASS
    print(f"{verdict(ok)} {told}")
    return int(not ok)


def rows_of_file(path, n_stored, n_features, n_visits):
    """The rows of a file, again and again, in 16 chunks for each time."""
    shape = (n_visits * n_stored, n_features)
    return dask_rows(FromFile(str(path)), shape, 16 * n_visits, np.float16)


def visits(client, path, n_stored, U):
    """How often to read the file in a pass so that it takes clearly more than `SLOW_PASS`."""
    X = rows_of_file(path, n_stored, U.shape[1], 1)
    [once] = times_of_passes(X, U, 1, {1: client})[1]
    return ceil(1.3 * SLOW_PASS / once)


def times_of_passes(X, U, rounds, clients):
    """Seconds of every round, by the keys of the clients."""
    from semi_nmf_concepts.decomposition._dask import DaskPasses
    from semi_nmf_concepts.decomposition._machine import Machine
    from semi_nmf_concepts.decomposition._preprocessing import AffineMap
    from semi_nmf_concepts.decomposition._row_problem import RowProblem
    from semi_nmf_concepts.decomposition._sources import dask_options

    options = dask_options(*U.shape)
    seconds = {name: [] for name in clients}
    passes = {name: DaskPasses(X, **options) for name in clients}
    rng, map_ = np.random.default_rng(0), AffineMap(np.zeros(X.shape[1]))
    for round_ in range(rounds + 1):
        # As from one iteration to the next, the dictionary is a little different.
        Y = U + 0.01 * rng.standard_normal(U.shape) / np.sqrt(U.shape[1])
        Y /= np.linalg.norm(Y, axis=1, keepdims=True)
        for name, client in clients.items():
            problem = RowProblem(passes[name], Machine(), map_, 1.0, 1.0)
            with client.as_current():
                started = time.perf_counter()
                problem.code_pass(Y, None)
            if round_:  # codes of the first one start from zero
                seconds[name].append(time.perf_counter() - started)
    for name, client in clients.items():
        with client.as_current():
            passes[name].close()
    return seconds


# --- killed ---------------------------------------------------------------------------------------


def killed(options):
    """Fits during which a worker is killed."""
    n_samples, n_features, n_trials = (20_000, 64, 1) if options.quick else (40_000, 256, 10)
    rows = PlantedRows(n_features)
    init = rows.random_atoms(0)
    with running_cluster() as client, temporary_folder(4 * n_samples * n_features) as folder:
        path = rows.write(Path(folder, "rows.npy"), n_samples, np.float32)
        X = dask_rows(FromFile(str(path)), (n_samples, n_features), 8)
        n_undisturbed = 1 if options.quick else 3
        undisturbed = [fitted(X, init=init, random_state=0) for _ in range(n_undisturbed)]
        usual = statistics.median(model.seconds for model in undisturbed)
        print(
            f"{n_samples:,} x {n_features} float32 in 8 chunks read by 2 workers; undisturbed "
            f"{usual:.1f} s, {undisturbed[0].n_iter_} iterations"
        )
        rng = np.random.default_rng(0)
        models = [killed_once(client, X, init, usual, rng) for _ in range(n_trials)]
    ended = [model for model in models if model is not None]
    n_same = 0
    for model in ended:
        difference = Difference.of(model, undisturbed[0])
        n_same += difference.same_objective
        print(
            f"     killed after {model.moment:5.2f} s: {difference}; {model.seconds - usual:+.1f} s"
        )
    ok = n_same == n_trials
    print(f"{verdict(ok)} {len(ended)} of {n_trials} ended, {n_same} with the same objective")
    if ended:
        extra = [model.seconds - usual for model in ended]
        print(
            f"     {statistics.median(extra):+.1f} s (median), {max(extra):+.1f} s at most, for "
            "noticing, chunks done again, one worker until there is another"
        )
    return int(not ok)


def killed_once(client, X, init, usual, rng):
    """A model with attribute `moment`, when the worker was killed; None where the fit failed.

    Moments are uniform over the usual time. One that comes after the end of the fit, which can be
    faster than usual, does not count, and is drawn again.
    """
    while True:
        client.wait_for_workers(2, timeout=60)
        warm_up(client)
        victim, moment = int(rng.choice([*client.run(os.getpid).values()])), rng.uniform(0, usual)
        timer = threading.Timer(moment, os.kill, (victim, signal.SIGKILL))
        timer.start()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                model = fitted(X, init=init, random_state=0)
        except Exception as error:
            print(f"MISS killed after {moment:5.2f} s: {type(error).__name__}: {error}")
            return None
        finally:
            timer.cancel()
            timer.join()
        if model.seconds > moment:
            model.moment = moment
            return model


# --- client ---------------------------------------------------------------------------------------


def client(options):
    """What the client holds, chunks of other sizes, and laziness."""
    with running_cluster() as its_client:
        return client_memory(options, its_client) + chunk_sizes(options) + laziness(options)


def client_memory(options, its_client):
    """Peaks of a process that fits and scores arrays of two sizes."""
    if not is_told():
        print("memory not measured: the system does not tell the anonymous resident memory")
        return 0
    n_samples, n_features = (100_000, 256) if options.quick else (500_000, 1_024)
    address, results = its_client.scheduler.address, {}
    for n in (n_samples // 10, n_samples):
        command = [sys.executable, "-m", "benchmarks.distributed", "--inside"]
        done = subprocess.run(
            [*command, address, str(n), str(n_features)],
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[n] = json.loads(done.stdout.splitlines()[-1])
    print("Memory of the client's process (RssAnon); array made and held by the workers")
    for n, result in results.items():
        print(
            f"     {n:9,} x {n_features} float32 = {result['array'] / 1e6:,.0f} MB: "
            f"{result['peak'] / 1e6:.0f} MB at most, {result['before'] / 1e6:.0f} MB before; fit "
            f"{result['fit']:.1f} s, {result['n_iter']} iterations; score {result['score']:.3f}"
        )
    small, large = results.values()
    extra = large["peak"] - large["before"]
    told = (
        f"{extra / 1e6:.0f} MB more than before, {extra / large['array']:.1%} of the array (bar "
        f"{CLIENT_SHARE:.0%}); {large['peak'] / small['peak']:.2f} times the memory for ten times "
        "the array"
    )
    if options.quick:  # the array is smaller than the sample that the client looks at
        print(f"     {told}")
        return 0
    ok = extra <= CLIENT_SHARE * large["array"]
    print(f"{verdict(ok)} {told}")
    return int(not ok)


def client_inside(address, n_samples, n_features):
    """One fit and score, and the peak of the memory."""
    from distributed import Client, wait

    from semi_nmf_concepts import SemiNMFConcepts

    with Client(address):
        _fit_few()  # imports and compiled code
        shape = (int(n_samples), int(n_features))
        X = dask_rows(Made(PlantedRows(shape[1])), shape, 16).persist()
        wait(X)
        model = SemiNMFConcepts(N_COMPONENTS, random_state=0)
        with PeakAnonymous() as memory:
            started = time.perf_counter()
            model.fit(X)
            seconds = time.perf_counter() - started
            score = model.score(X)
    return {
        "array": 4 * shape[0] * shape[1],
        "before": memory.before,
        "peak": memory.peak,
        "fit": seconds,
        "n_iter": model.n_iter_,
        "score": score,
    }


def chunk_sizes(options):
    """Fits of the same rows in chunks of other sizes."""
    n_samples, n_features = (8_000, 128) if options.quick else (50_000, 256)
    print(f"\nChunks of other sizes; {n_samples:,} x {n_features} float32, compared with 8 chunks")
    rows, missed = PlantedRows(n_features), 0
    with temporary_folder(4 * n_samples * n_features) as folder:
        path = rows.write(Path(folder, "rows.npy"), n_samples, np.float32)
        for init in ("grow",) if options.quick else (rows.random_atoms(0), "grow"):
            models = {}
            for n_chunks in (8, 3, 50):
                X = dask_rows(FromFile(str(path)), (n_samples, n_features), n_chunks)
                models[n_chunks] = fitted(X, init=init, random_state=0)
            reference = models.pop(8)
            for n_chunks, model in models.items():
                difference = Difference.of(model, reference)
                ok = difference.same_objective and difference.same_atoms
                missed += not ok
                print(
                    f"{verdict(ok)} {n_chunks:2} chunks, {start_of(init)}: {difference}; "
                    f"{model.seconds:.1f} s",
                    flush=True,
                )
    return missed


def laziness(options):
    """How many chunks transform computes before it is asked to."""
    n_samples, n_features, n_chunks = 8_000, 128, 8
    rows = PlantedRows(n_features)
    model = fitted(rows[0:n_samples], random_state=0)
    with temporary_folder(0) as folder:
        X = dask_rows(Made(rows, folder), (n_samples, n_features), n_chunks)
        V = model.transform(X)
        before = len(os.listdir(folder))
        V[:10].compute()
        some = len(os.listdir(folder))
        difference = float(np.abs(V.compute() - model.transform(rows[0:n_samples])).max())
    ok = before == 0 and some == 1
    print(
        f"\n{verdict(ok)} of {n_chunks} chunks transform(X) computes {before}, ten of its rows "
        f"{some}; all codes differ by {difference:.1e} at most from those without Dask"
    )
    return int(not ok)


PARTS = {"objective": objective, "workers": workers, "killed": killed, "client": client}


def main(arguments=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less data, a minute; not all bars")
    parser.add_argument(
        "--write", action="store_true", help="keep the output in results/distributed_PART.txt"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        print(json.dumps(client_inside(*options.inside)))
        return 0
    return run_parts("distributed", PARTS, options.only, options)


if __name__ == "__main__":
    sys.exit(main())
