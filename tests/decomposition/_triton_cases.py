"""What `test_triton` runs in processes of its own: how Triton works is settled when it is imported.

``python -m tests.decomposition._triton_cases interpret FILE`` runs the kernels under Triton's
interpreter (``TRITON_INTERPRET=1`` has to be set) and writes what they find; ``compile FILE``
compiles them for GPUs that need not be there and writes what came of it.
"""

import json
import sys

import numpy as np

#: (n_samples, n_components, dtype, what is special)
CASES = [
    (40, 1, "float32", ""),
    (35, 5, "float64", "odd rows"),
    (33, 20, "float32", "odd rows"),
    (12, 20, "float64", "odd atoms"),
    (9, 33, "float32", ""),
    (4, 33, "float64", ""),
    (8, 128, "float32", ""),
]
ALPHA = 0.2
#: Cases for which it is found out what atoms are worth, and how.
WITH_COSTS = (2, 3)
OPTIONS = {"tol": 1e-5, "max_sweeps": 256}
TOL = {"float32": 1e-5, "float64": 1e-8}


def problem(case):
    """X, U and starting codes."""
    n_samples, n_components, dtype, special = case
    rng = np.random.default_rng(n_components)
    n_features = 10 * n_components + 2
    U = rng.standard_normal((n_components, n_features))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    if special == "odd atoms":
        U[3], U[5] = 0.0, U[4]
        U[7] *= 1e-3
    codes = rng.gamma(2.0, 1.0, (n_samples, n_components))
    codes *= rng.random(codes.shape) < 0.3
    X = codes @ U + 0.2 * rng.standard_normal((n_samples, n_features))
    start = codes + 0.1
    if special == "odd rows":
        X[1], X[2, 0], X[4, 1] = 0.0, np.nan, np.inf
        X[3] = -X[3]
        start[5], start[6] = np.nan, -1.0
    return X.astype(dtype), U, start.astype(dtype)


def interpret():
    """Codes, violations and a dictionary pass of every case, by the kernels alone."""
    import array_api_compat.torch as xp
    import torch

    from semi_nmf_concepts.decomposition._solvers._array import ArrayBackend

    backend = ArrayBackend(xp, use_triton=True)
    results = {}
    for i, case in enumerate(CASES):
        X, U, V = (torch.from_numpy(x) for x in problem(case))
        coding = backend.encode(X, U, ALPHA, V, tol=TOL[case[2]], max_sweeps=256)
        results[f"V{i}"], results[f"coding{i}"] = V.numpy(), np.array(coding)
        if i in WITH_COSTS:
            X = torch.nan_to_num(X, posinf=0.0)
            results[f"costs{i}"] = backend.removal_costs(X, U, ALPHA, V, **OPTIONS)
        A, B = statistics(case)
        backend.update_dictionary(U, torch.from_numpy(A), torch.from_numpy(B))
        results[f"U{i}"] = U.numpy()
    return results | _leftovers()


def _leftovers():
    """Correlated atoms, for which coordinate descent needs more sweeps than it is given."""
    import array_api_compat.torch as xp
    import torch

    from semi_nmf_concepts.decomposition._solvers import _array

    _array._KERNEL_SWEEPS = 8
    backend = _array.ArrayBackend(xp, use_triton=True)
    X, U = (torch.from_numpy(x) for x in correlated_problem())
    V = torch.zeros((len(X), len(U)), dtype=X.dtype)
    few = backend.encode(X, U, 0.0, V, tol=TOL["float64"], max_sweeps=8)
    more = backend.encode(X, U, 0.0, V, tol=TOL["float64"], max_sweeps=1000)
    return {"V": V.numpy(), "few": np.array(few), "more": np.array(more)}


def correlated_problem():
    rng = np.random.default_rng(0)
    U = rng.standard_normal((6, 10)) + 2.0 * rng.standard_normal(10)
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    X = rng.random((5, 6)) @ U + 0.1 * rng.standard_normal((5, 10))
    return X, U


def statistics(case):
    """Sums over samples of random codes; one atom is not used."""
    X, U, _ = problem(case)
    rng = np.random.default_rng(0)
    codes = np.maximum(rng.standard_normal((len(X), len(U))), 0.0)
    codes[:, 0] = 0.0
    return codes.T @ codes, codes.T @ np.nan_to_num(X.astype(float), posinf=0.0)


def compile_kernels():
    """Sizes of the machine code of some variants of the kernels, in bytes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    sizes = {}
    for name, capability, n_warps, *source in _sources():
        target = GPUTarget("cuda", capability, 32)
        options = {"num_warps": n_warps, "enable_fp_fusion": True}
        compiled = compile(ASTSource(*source), target=target, options=options)
        sizes[name] = len(compiled.asm["cubin"])
    return sizes


def _sources():
    """Names, targets, warps, and kernels with the types and constants of their arguments."""
    from semi_nmf_concepts.decomposition._solvers import _triton_kernels as kernels

    descent, steps = kernels._coordinate_descent, kernels._dictionary_steps
    for n_components, dtype, capability in ((20, "fp32", 90), (128, "fp64", 80)):
        types = [f"*{dtype}"] * 5 + ["*i64", f"*{dtype}", "i32", "i32", "fp32", "i32"]
        types += ["constexpr"] * 4
        constants = kernels.tile_of(n_components, int(dtype[2:]) // 8)
        constants |= {"SWEEPS": kernels.SWEEPS_PER_CHECK, "BANS": True}
        signature = dict(zip(descent.arg_names, types, strict=True))
        yield f"{n_components} atoms in {dtype}", capability, 1, descent, signature, constants
    types = ["*fp64", "*fp64", "*u8", "*fp64", "i32", "constexpr"]
    signature = dict(zip(steps.arg_names, types, strict=True))
    yield "dictionary", 80, 8, steps, signature, {"ATOMS": kernels.MAX_ATOMS}


if __name__ == "__main__":
    what, path = sys.argv[1:]
    if what == "interpret":
        np.savez(path, **interpret())
    else:
        with open(path, "w") as file:
            json.dump(compile_kernels(), file)
