"""The Triton kernels, without a GPU: run by Triton's interpreter, and compiled for GPUs."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from semi_nmf_concepts.decomposition._objective import kkt_violation
from semi_nmf_concepts.decomposition._solvers import get_backend
from tests.decomposition._triton_cases import (
    ALPHA,
    CASES,
    OPTIONS,
    TOL,
    WITH_COSTS,
    correlated_problem,
    problem,
    statistics,
)

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """Run `_triton_cases`, in a process of its own."""

    def run_cases(what, file_name, **variables):
        path = tmp_path_factory.mktemp("triton") / file_name
        command = [sys.executable, "-m", "tests.decomposition._triton_cases", what, str(path)]
        variables["TRITON_CACHE_DIR"] = str(path.parent)
        done = subprocess.run(
            command,
            cwd=request.config.rootpath,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return path

    return run_cases


@pytest.fixture(scope="module")
def results(run):
    with np.load(run("interpret", "results.npz", TRITON_INTERPRET="1")) as file:
        return dict(file)


@pytest.mark.parametrize("i", range(len(CASES)), ids=str)
def test_codes_are_those_of_the_compiled_kernels(results, i):
    X, U, _ = problem(CASES[i])
    tol = TOL[X.dtype.name]
    V, (n_unconverged, n_active, violation) = results[f"V{i}"], results[f"coding{i}"]
    is_finite = np.isfinite(X).all(axis=1)
    expected = np.zeros_like(V)
    get_backend().encode(X, U, ALPHA, expected, tol=tol, max_sweeps=1000)
    assert_array_equal(np.isnan(V), np.broadcast_to(~is_finite[:, None], V.shape))
    V, X, expected = V[is_finite], X[is_finite], expected[is_finite]
    assert np.all(V >= 0.0)
    assert n_unconverged == 0
    assert n_active == np.count_nonzero(V)
    assert np.isnan(violation) == (not np.all(is_finite))
    assert kkt_violation(X, V, U, ALPHA) <= 2 * tol
    # Codes of equal atoms are not unique, what they add up to is.
    scale = np.abs(X).max()
    assert_allclose(V @ U, expected @ U, atol=300 * tol * scale)
    if CASES[i][3] != "odd atoms":
        assert_allclose(V, expected, atol=300 * tol * scale)


def test_an_atom_of_zeros_is_not_used(results):
    assert not results["V3"][:, 3].any()


@pytest.mark.parametrize("i", range(len(CASES)), ids=str)
def test_dictionary_passes_are_those_of_the_compiled_kernels(results, i):
    _, U, _ = problem(CASES[i])
    expected = get_backend().update_dictionary(U.copy(), *statistics(CASES[i]))
    assert_allclose(results[f"U{i}"], expected, atol=1e-10)
    assert_array_equal(results[f"U{i}"][0], U[0])


@pytest.mark.parametrize("i", WITH_COSTS)
def test_removal_costs_are_those_of_the_compiled_kernels(results, i):
    X, U, V = problem(CASES[i])
    X = np.nan_to_num(X, posinf=0.0)
    get_backend().encode(X, U, ALPHA, V, tol=1e-5, max_sweeps=1000)
    expected = get_backend().removal_costs(X, U, ALPHA, V, **OPTIONS)
    assert_allclose(results[f"costs{i}"], expected, rtol=1e-3, atol=1e-3)


def test_what_coordinate_descent_leaves_is_solved(results):
    X, U = correlated_problem()
    assert results["few"][0] > 0
    assert results["few"][2] > TOL["float64"]
    assert results["more"][0] == 0
    assert kkt_violation(X, results["V"], U, 0.0) <= TOL["float64"]


@pytest.mark.skipif(
    find_spec("triton") is not None and int(version("triton").split(".")[1]) < 3,
    reason="ahead-of-time compilation has another interface before triton 3.3",
)
def test_kernels_compile_for_gpus_that_are_not_there(run):
    sizes = json.loads(run("compile", "sizes.json").read_text())
    assert len(sizes) == 3
    assert all(size > 0 for size in sizes.values())
