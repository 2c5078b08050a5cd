"""Measurements that need a process of their own; prints what it found as one line of JSON.

    python -m benchmarks._isolated threads 20000    seconds of transform and fit on rows of C
    python -m benchmarks._isolated memory 50000     extra peak memory of a fit

The number of threads is what OMP_NUM_THREADS says, for BLAS and for `n_jobs`.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._memory import held
from benchmarks.solver_data import CASES, atoms_in_groups, sparse_codes
from semi_nmf_concepts import SemiNMFConcepts

#: What the thread pools of BLAS and OpenMP read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_N_FEATURES, _N_COMPONENTS = 4_096, 20


def threads(n_samples, n_fits=2, n_transforms=9):
    """Median wall-clock seconds of transform and fit on the first samples of case C."""
    n_jobs = int(os.environ[THREAD_VARIABLES[0]])
    case = CASES["C"]
    X = case.X(0)[: int(n_samples)]
    model = SemiNMFConcepts(case.n_components, alpha=case.alpha, random_state=0, n_jobs=n_jobs)
    model.fit(X[:3000])  # compiles

    def median(function, repeats):
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            function(X)
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))

    return {"fit": median(model.fit, n_fits), "transform": median(model.transform, n_transforms)}


def memory(n_samples):
    """Bytes of X, and by how much a fit on it exceeds what the process held before, at its peak."""
    X = tall(int(n_samples))
    model = SemiNMFConcepts(_N_COMPONENTS, alpha=1.0, random_state=0)
    model.fit(X[:3000])
    if not Path("/proc/self/status").exists():
        return {"bytes": X.nbytes, "extra": None}
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before = held("VmRSS")
    model.fit(X)
    return {"bytes": X.nbytes, "extra": held("VmHWM") - before}


def tall(n_samples, block_rows=2_500):
    """Data like case B with white noise, made in blocks so that it fits beside nothing else."""
    rng = np.random.default_rng(0)
    atoms = atoms_in_groups(_N_COMPONENTS, _N_FEATURES, 0.3, rng).astype(np.float32)
    X = np.empty((n_samples, _N_FEATURES), dtype=np.float32)
    for start in range(0, n_samples, block_rows):
        block = X[start : start + block_rows]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= np.float32(np.sqrt(2.0 / _N_FEATURES))
        codes = sparse_codes(len(block), _N_COMPONENTS, hard=False, rng=rng)
        block += codes.astype(np.float32) @ atoms
    return X


if __name__ == "__main__":
    print(json.dumps({"threads": threads, "memory": memory}[sys.argv[1]](*sys.argv[2:])))
