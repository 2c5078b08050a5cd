"""The constants of `benchmarks._scaling`, measured on one core of this machine.

Everything is the median of several timings of the code that a fit runs. Shapes are those of the
tables below; the checks in `benchmarks.scaling_model` use others.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from benchmarks._row_data import CELL, FromFile, PlantedRows, temporary_folder
from benchmarks._scaling import (
    FLUSH_BYTES,
    Grid,
    Rates,
    Shape,
    Table,
    coding_counts,
    kernel_rows,
)
from semi_nmf_concepts.decomposition._machine import Machine
from semi_nmf_concepts.decomposition._objective import objective_from_statistics, project_atoms
from semi_nmf_concepts.decomposition._preprocessing import AffineMap
from semi_nmf_concepts.decomposition._row_work import CodePass
from semi_nmf_concepts.decomposition._solvers import LOOSE_CODES, State, get_backend, sampled_rows
from semi_nmf_concepts.decomposition._solvers._numba_kernels import accumulate_rows
from semi_nmf_concepts.decomposition._solvers._problem import Problem, batch_iteration
from semi_nmf_concepts.streaming import open_rows

WIDTHS, COMPONENTS = (512, 1024, 4096), (20, 128, 1000)
#: The coding of samples does not depend on their width: a small one leaves the product short.
_CODING_WIDTH = 512
#: Penalties: of the checks; and a smaller one, with which more codes are active.
ALPHA = 1.0
_ALPHAS = (ALPHA, 0.4)
#: Size of the file that is read, and of a piece of it.
_FILE_BYTES, _PIECE_BYTES = 2**29, 2**24
#: Numbers in a block of rows: 64 MiB.
_BLOCK_NUMBERS = 2**24
#: The backend's correlations have rows of a multiple of so many numbers.
_PADDING = 32
_REPEATS = 5
#: Passes over the atoms in a batch iteration.
_DICTIONARY_PASSES = 3


def seconds_of(function, repeats=_REPEATS, clock=time.process_time):
    """Median seconds of some calls, after one that does not count.

    Of the processor's clock, for what one core does: other work on the machine disturbs it less.
    """
    function()
    taken = []
    for _ in range(repeats):
        started = clock()
        function()
        taken.append(clock() - started)
    return statistics.median(taken)


def measured_rates(**talking):
    """All constants; `talking` are those of Dask, from `measured_dask`.

    A temporary file is read and removed; its disk is the one that is measured.
    """
    with temporary_folder(2 * _FILE_BYTES) as folder:
        reading = _reading(Path(folder))
    products = _grid(_product_rate)
    active, scan, flush = _sums()
    return Rates(
        **reading,
        moments=_moments_rate(),
        products=products,
        products64=_grid(_gram_rate),
        coding=_coding(products),
        active=active,
        scan=scan,
        flush=flush,
        block=_grid(_block_rate),
        client=_grid(_client_rate),
        add_bytes=_add_rate(),
        draw=_draw_rate(),
        **talking,
    )


def _grid(rate):
    """``rate(d, K)`` at all widths and numbers of atoms."""
    return Grid({d: Table(tuple((K, rate(d, K)) for K in COMPONENTS)) for d in WIDTHS})


# --- reading --------------------------------------------------------------------------------------


def written(path, n, d, n_piece=4096):
    """A file of (n, d) numbers, the same rows over and over; its path."""
    piece = np.random.default_rng(0).standard_normal((n_piece, d)).astype(np.float16)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (n, d))
    for start in range(0, n, n_piece):
        rows[start : start + n_piece] = piece[: n - start]
    rows.flush()
    return path


def _reading(folder, d=2048, n_chunks=16):
    """Constants of reading a file."""
    n = _FILE_BYTES // (2 * d)
    path = written(folder / "numbers.npy", n, d)
    rows, make, few = open_rows(path), FromFile(str(path)), n // n_chunks
    read = n * d / seconds_of(lambda: read_once(rows))
    chunk = few * d / seconds_of(lambda: np.asarray(make(0, few), np.float32))
    path.unlink()
    return {"read": read, "chunk": chunk, "disk_bytes": _disk_rate(folder)}


def read_once(rows):
    """A pass that does nothing, without reading ahead."""
    for _ in rows.blocks(read_ahead=False):
        pass


def _disk_rate(folder):
    """Bytes per second from the disk to the page cache."""
    path, seconds = folder / "bytes", []
    piece = np.random.default_rng(0).bytes(_PIECE_BYTES)
    with open(path, "wb") as file:
        for _ in range(_FILE_BYTES // _PIECE_BYTES):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    buffer = bytearray(_PIECE_BYTES)
    for _ in range(3):
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while file.readinto(buffer):
                pass
            seconds.append(time.perf_counter() - started)
    path.unlink()
    return _FILE_BYTES / statistics.median(seconds)


def _draw_rate(n=2**22):
    """Rows per second among which the client draws a sample."""
    return n / seconds_of(lambda: sampled_rows(n, 4096, np.random.RandomState(0)))


def _moments_rate():
    X = np.random.default_rng(0).standard_normal((4096, 2048)).astype(np.float32)
    return X.size / seconds_of(lambda: get_backend().moments(X))


# --- products -------------------------------------------------------------------------------------


def _product_rate(d, K):
    """Flops per second of X U^T in the blocks that the CPU backend takes, from main memory."""
    X, n, multiply = _product(d, K, n_products=_BLOCK_NUMBERS // (kernel_rows(d) * d))
    return 2 * d * K * len(X) / seconds_of(lambda: [multiply(i) for i in range(len(X) // n)])


def _product(d, K, n_products):
    """Samples, rows of a kernel block, and a function that multiplies such a block with atoms."""
    rng = np.random.default_rng(0)
    n = kernel_rows(d)
    X = np.tile(rng.standard_normal((n, d), dtype=np.float32), (n_products, 1))
    X.flags.writeable = False
    atoms = rng.standard_normal((d, K), dtype=np.float32)
    C = np.empty((n, -(-K // _PADDING) * _PADDING), np.float32)[:, :K]
    return X, n, lambda i: np.matmul(X[i * n : (i + 1) * n], atoms, out=C)


def _gram_rate(d, K):
    U = np.random.default_rng(0).standard_normal((K, d))
    return 2 * K**2 * d / seconds_of(lambda: U @ U.T)


# --- codes ----------------------------------------------------------------------------------------


def near_atoms(rows, n=2**13, n_iterations=8):
    """A dictionary such as the sample of a fit leaves: codes change little from pass to pass."""
    X = rows[0:n]
    problem = Problem(get_backend(), X, ALPHA, float(np.sum(X * X, dtype=np.float64)))
    state = State.start(problem, rows.random_atoms(0))
    for _ in range(n_iterations):
        state, _ = batch_iteration(problem, state)
    return state.U


def _coding(products, n=CELL):
    """Seconds per sample, for each of `coding_counts`."""
    regressors, seconds = [], []
    for K in COMPONENTS:
        rows = PlantedRows(_CODING_WIDTH, K)
        X, U = rows[0:n], near_atoms(rows, 4096)
        product = 2 * _CODING_WIDTH * K / products(_CODING_WIDTH, K)
        for alpha in _ALPHAS:
            for warm in (False, True):
                taken, m = _encode_seconds(X, U, alpha, warm)
                regressors.append(coding_counts(Shape(1, 1, K, m, warm=warm)))
                seconds.append(max(taken - product, 1e-9))
    return coefficients_of(regressors, seconds)


def _encode_seconds(X, U, alpha, warm):
    """Seconds per sample of coding X, without what is done once; mean number of active codes."""
    backend = get_backend()
    start, V = np.zeros((2, len(X), len(U)), np.float32)
    if warm:  # codes on a dictionary a little different, as in the last pass
        before = 1e-2 * np.random.default_rng(0).standard_normal(U.shape) / np.sqrt(U.shape[1])
        backend.encode(X, U + before, alpha, start, **LOOSE_CODES)

    def encode(n):
        np.copyto(V[:n], start[:n])
        backend.encode(X[:n], U, alpha, V[:n], **LOOSE_CODES)

    once = seconds_of(lambda: encode(1))
    taken = seconds_of(lambda: encode(len(X)))
    return (taken - once) / len(X), float(np.count_nonzero(V) / len(X))


def _sums(n_blocks=6):
    """Grids of the rates at which rows are added to B, and B to the total; the scan.

    Each measured right after the product, as in a pass, which leaves other things in the caches.
    With codes of one row alone there is (nearly) nothing but the addition to the total.
    """
    active, flush, scans = {}, {}, []
    for d in WIDTHS:
        active[d], flush[d] = [], []
        for K in COMPONENTS:
            X, n, multiply = _product(d, K, n_blocks)
            sums = np.zeros((K, K)), np.zeros((K, d)), np.empty((K, d), np.float32)

            def seconds(V, X=X, n=n, multiply=multiply, sums=sums):
                """Median seconds of a kernel block."""
                taken = []
                for i in list(range(len(X) // n)) * 4:
                    multiply(i)
                    started = time.process_time()
                    accumulate_rows(X[i * n : i * n + len(V)], V, *sums)
                    taken.append(time.process_time() - started)
                return statistics.median(taken)

            V = np.zeros((n, K), np.float32)
            seconds(V)  # compiles
            few, none = seconds(V[:1]), seconds(V)
            support = np.random.default_rng(0).random(V.shape).argpartition(3, axis=1)[:, :4]
            np.put_along_axis(V, support, 1.0, axis=1)
            scans.append((none - few) / (n * K))
            flush[d].append((K, FLUSH_BYTES * K * d / few))
            active[d].append((K, 4 * n * d / max(seconds(V) - none, 0.1 * none)))
    scan = max(statistics.median(scans), 0.0) + _codes_seconds()
    active, flush = (
        Grid({d: Table(tuple(points)) for d, points in rates.items()}) for rates in (active, flush)
    )
    return active, scan, flush


def _codes_seconds(n=8192, K=128):
    """Seconds for each code: an array for them, and the total of every atom."""
    return seconds_of(lambda: np.zeros((n, K), np.float32).sum(axis=0, dtype=float)) / (n * K)


# --- what does not depend on the rows -------------------------------------------------------------


def identity_map(d):
    """The map of a fit that does not centre."""
    return AffineMap(np.zeros(d))


def _block_rate(d, K, n=8):
    """K^2 d per second: a block of a few rows, and its sums added to those before."""
    rows = PlantedRows(d, K)
    X, U = rows[0:n], rows.random_atoms(0)
    work = CodePass(Machine(), identity_map(d), U, ALPHA)
    total = work(X, 0, None)
    return K**2 * d / seconds_of(lambda: work.add(total, work(X, 0, None)), 3)


def _client_rate(d, K):
    """K^2 d per second: extrapolation, objective and new dictionary of a batch iteration."""
    rows = PlantedRows(d, K)
    X, U = rows[0 : 4 * K], rows.random_atoms(0)
    backend = get_backend()
    statistics_ = backend.code_pass(X, U, ALPHA, np.zeros((len(X), K), X.dtype), **LOOSE_CODES)
    A, B, sum_V, _ = statistics_

    def iterate():
        Y = project_atoms(U + 0.5 * (U - U))
        objective_from_statistics(1.0, sum_V, A, B, Y, ALPHA)
        for _ in range(_DICTIONARY_PASSES):
            backend.update_dictionary(Y, A, B)
        objective_from_statistics(1.0, sum_V, A, B, Y, ALPHA)

    return K**2 * d / seconds_of(iterate, 3)


def _add_rate(n=2**22):
    """Bytes per second of partial sums added to others."""
    one, other = np.ones(n), np.ones(n)
    return 8 * n / seconds_of(lambda: one + other)


def coefficients_of(rows, seconds):
    """Non-negative coefficients with the smallest relative errors."""
    rows, seconds = np.array(rows), np.array(seconds)
    weights = 1.0 / seconds
    scale = np.abs(rows * weights[:, None]).max(axis=0)
    coefficients, _ = nnls(rows * weights[:, None] / scale, np.ones(len(seconds)))
    return tuple(float(value) for value in coefficients / scale)


# --- Dask -----------------------------------------------------------------------------------------


class _NothingToDo:
    """Work that takes no time."""

    def __call__(self, block, start, memory):
        return 0.0

    @staticmethod
    def add(one, other):
        return 0.0


def _numbers(n):
    return np.ones(n)


def _first(numbers):
    return float(numbers[0])


def _some_work(n_repeats):
    """Seconds of some coding of samples."""
    rows = PlantedRows(1024, 64)
    X, U = rows[0:4096], rows.random_atoms(0)
    work = CodePass(Machine(), identity_map(1024), U, ALPHA)
    return seconds_of(lambda: work(X, 0, None), n_repeats)


def measured_dask(client, n_tasks=512, message_bytes=2**25):
    """Constants of a running cluster with two workers: blocks, rounds, messages, neighbours."""
    import dask.array as da
    from distributed import wait

    from semi_nmf_concepts.decomposition._dask import DaskPasses

    one, other = list(client.scheduler_info(n_workers=-1)["workers"])[:2]

    def round_of(n):
        passes = DaskPasses(da.zeros((8 * n, 8), chunks=(8, 8)))
        seconds = seconds_of(lambda: passes.reduce(_NothingToDo()), clock=time.perf_counter)
        passes.close()
        return seconds

    def message(n_bytes):
        numbers = client.submit(_numbers, n_bytes // 8, workers=one, pure=False)
        wait(numbers)
        started = time.perf_counter()
        client.submit(_first, numbers, workers=other, pure=False).result()
        return time.perf_counter() - started

    def working(workers):
        futures = [client.submit(_some_work, 25, workers=worker, pure=False) for worker in workers]
        return statistics.mean(client.gather(futures))

    shortest = round_of(2)
    message(message_bytes)
    short = statistics.median(message(8) for _ in range(9))
    long = statistics.median(message(message_bytes) for _ in range(5))
    here = client.submit(_numbers, 1, workers=other, pure=False)
    wait(here)
    alone = seconds_of(lambda: client.submit(_first, here, workers=other, pure=False).result(), 9)
    return {
        "task": (round_of(n_tasks) - shortest) / (n_tasks - 2),
        "round": shortest,
        "wire_bytes": message_bytes / max(long - short, 1e-9),
        "wire_latency": max(short - alone, 0.0),
        "beside": min(1.0, working([one]) / working([one, other])),
    }
