"""Whether the GPU backend is right and how long its parts take, for PyTorch and CuPy.

    python -m benchmarks.gpu_check [--samples N] [--features D] [--components K] [--host] [--write]

Right: codes on the GPU meet the optimality conditions, computed in float64 on the host, and
statistics and dictionary are those of the compiled CPU kernels. Time: a whole fit, and one batch
iteration (a pass over X and a dictionary update, X resident) with its parts, against two reads of X
at the speed at which X is copied. Without a CUDA device "not measured" is printed; ``--host`` runs
the same on tensors in host memory, to try out this script.
"""

import argparse
import statistics
import time

import array_api_compat.torch as torch_compat
import numpy as np
import torch

from benchmarks._record import recorded
from benchmarks.solver_data import states
from semi_nmf_concepts.decomposition import SemiNMFConcepts
from semi_nmf_concepts.decomposition._arrays import to_numpy
from semi_nmf_concepts.decomposition._objective import kkt_violation
from semi_nmf_concepts.decomposition._solvers import get_backend
from semi_nmf_concepts.decomposition._solvers._array import ArrayBackend, _working_kernels

ALPHA = 1.0
LOOSE = {"tol": 1e-3, "max_sweeps": 100}
FINAL = {"tol": 1e-5, "max_sweeps": 2000}
REPEATS = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--components", type=int, default=20)
    parser.add_argument("--host", action="store_true", help="run on CPU tensors")
    parser.add_argument(
        "--write", action="store_true", help="keep the output in results/gpu_check.txt"
    )
    arguments = parser.parse_args()
    with recorded("gpu_check", arguments.write):
        report(arguments)


def report(arguments):
    """Check and measure every side there is."""
    sides = [Torch("cpu")] if arguments.host else gpu_sides()
    if sides:
        X = states(arguments.samples, arguments.features, arguments.components)
        print(f"X {X.shape}, {X.nbytes / 2**20:.0f} MiB, {arguments.components} atoms")
    for side in sides:
        print(f"\n{side.name}")
        U = X[np.random.default_rng(0).choice(len(X), arguments.components, replace=False)]
        U = U.astype(np.float64) / np.linalg.norm(U, axis=1, keepdims=True)
        check(side, X, U)
        measure(side, X, U)


class Torch:
    """PyTorch tensors on one device."""

    xp = torch_compat

    def __init__(self, device):
        self.device = torch.device(device)
        self.name = f"torch {torch.__version__} on {device}"
        if self.device.type == "cuda":
            self.name += f" ({torch.cuda.get_device_name(self.device)})"

    def array(self, x):
        return torch.tensor(x, device=self.device)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Cupy:
    """CuPy arrays on the current device."""

    def __init__(self):
        import array_api_compat.cupy as cupy_compat
        import cupy

        self.xp = cupy_compat
        self.name = f"cupy {cupy.__version__}"

    def array(self, x):
        return self.xp.asarray(x)

    def wait(self):
        import cupy

        cupy.cuda.get_current_stream().synchronize()


def gpu_sides():
    """What there is to check; prints what is not measured and why."""
    if not torch.cuda.is_available():
        print("not measured: torch sees no CUDA device")
        return []
    kernels = "run" if _working_kernels(torch.device("cuda", 0)) else "do not run"
    print(f"Triton kernels {kernels}")
    sides = [Torch("cuda:0")]
    try:
        sides.append(Cupy())
    except ImportError as error:
        print(f"CuPy not measured: {error}")
    return sides


def check(side, X, U):
    """Print how far codes are from optimal, and statistics and dictionary from those of the CPU."""
    backend = ArrayBackend(side.xp)
    U_there = side.array(U)
    V = side.array(np.zeros((len(X), len(U)), X.dtype))
    found = backend.code_pass(side.array(X), U_there, ALPHA, V, **FINAL)
    backend.update_dictionary(U_there, found.A, found.B)
    A, B, codes = to_numpy(found.A), to_numpy(found.B), to_numpy(V).astype(np.float64)
    errors = {
        "A": _relative(A, codes.T @ codes),
        "B": _relative(B, codes.T @ X),
        "U": _relative(to_numpy(U_there), get_backend().update_dictionary(U.copy(), A, B)),
    }
    print(f"  KKT violation in float64 {kkt_violation(X, codes, U, ALPHA):.1e} (bar 1e-4)")
    print(f"  {found.coding}")
    print("  relative errors: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items()))


def measure(side, X, U):
    """Print milliseconds of a batch iteration and of its parts, and of a fit."""
    backend, X, U = ArrayBackend(side.xp), side.array(X), side.array(U)
    V = side.array(np.zeros((X.shape[0], U.shape[0]), "float32"))
    other = side.array(np.zeros(X.shape, "float32"))
    unit = side.xp.astype(U, side.xp.float32)
    for _ in range(3):  # on the way, so that codes start near to optimal, as in a fit
        found = backend.code_pass(X, U, ALPHA, V, **LOOSE)
        backend.update_dictionary(U, found.A, found.B)

    def iteration():
        found = backend.code_pass(X, U, ALPHA, V, **LOOSE)
        backend.update_dictionary(U, found.A, found.B)

    def copy():  # reads X and writes as much
        other[...] = X

    parts = {
        "copy of X = two reads": copy,
        "batch iteration": iteration,
        "  pass over X": lambda: backend.code_pass(X, U, ALPHA, V, **LOOSE),
        "    X U^T": lambda: unit @ X.T,
        "    V^T X": lambda: V.T @ X,
        "  dictionary update": lambda: backend.update_dictionary(U, found.A, found.B),
        "removal costs": lambda: backend.removal_costs(X, U, ALPHA, V, **LOOSE),
        "codes from zero": lambda: backend.encode(X, U, ALPHA, 0.0 * V, **FINAL),
        "fit": lambda: SemiNMFConcepts(U.shape[0], alpha=ALPHA, random_state=0).fit(X),
    }
    seconds = {name: _median_seconds(side, run) for name, run in parts.items()}
    for name, value in seconds.items():
        print(f"  {name:24}{1e3 * value:9.3f} ms")
    ratio = seconds["batch iteration"] / seconds["copy of X = two reads"]
    print(f"  batch iteration / two reads of X {ratio:.2f} (bar 2.5)")
    print(f"  fit {seconds['fit']:.3f} s (bar 0.2 s at 10000 x 4096, 20 atoms)")


def _relative(found, expected):
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


def _median_seconds(side, run):
    """Of several runs after two to warm up; at most a few seconds in all."""
    seconds = []
    for _ in range(REPEATS + 2):
        side.wait()
        start = time.perf_counter()
        run()
        side.wait()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > 5.0 and len(seconds) > 3:
            break
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
