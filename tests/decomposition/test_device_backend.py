"""The backend for arrays on a device, run on CPU arrays: PyTorch's and NumPy's namespace.

The tests marked `gpu` repeat the main ones on CUDA tensors and CuPy arrays.
"""

import sys
from types import SimpleNamespace

import array_api_compat.numpy as np_compat
import array_api_compat.torch as torch_compat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

from semi_nmf_concepts.decomposition import SemiNMFConcepts, sparse_encode_nonneg
from semi_nmf_concepts.decomposition._arrays import kind_of, to_numpy
from semi_nmf_concepts.decomposition._objective import kkt_violation, objective
from semi_nmf_concepts.decomposition._solvers import _array, _torch, get_backend
from semi_nmf_concepts.decomposition._solvers._array import ArrayBackend

TOL = {"float32": 1e-5, "float64": 1e-8}
#: (n_samples, n_features, n_components)
SHAPES = [(1, 3, 1), (40, 7, 5), (50, 30, 20), (30, 8, 20), (25, 60, 70)]
relaxed = settings(deadline=None, max_examples=60, derandomize=True)


class OnHost:
    """A namespace, and its arrays in host memory."""

    def __init__(self, name):
        self.name = name
        self.xp = {"numpy": np_compat, "torch": torch_compat}[name]
        self.backend = ArrayBackend(self.xp)

    def array(self, x):
        return torch.from_numpy(x.copy()) if self.name == "torch" else x.copy()


class OnDevice:
    """The same on a GPU."""

    def __init__(self, name):
        if not torch.cuda.is_available():
            pytest.skip("torch sees no CUDA device")
        self.xp, self._library = torch_compat, None
        if name == "cupy":
            pytest.importorskip("cupy", reason="cupy is not installed")
            import array_api_compat.cupy as cupy_compat

            self.xp = cupy_compat
        self.name = name
        self.backend = ArrayBackend(self.xp)

    def array(self, x):
        return torch.from_numpy(x).cuda() if self.name == "torch" else self.xp.asarray(x)


@pytest.fixture(params=["numpy", "torch"])
def side(request):
    return OnHost(request.param)


@pytest.fixture(params=["torch", "cupy"])
def gpu(request):
    return OnDevice(request.param)


def problem(shape, dtype="float64", seed=0):
    n_samples, n_features, n_components = shape
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((n_components, n_features))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    V = rng.gamma(2.0, 1.0, (n_samples, n_components))
    V *= rng.random(V.shape) < 0.2
    X = V @ U + 0.3 * rng.standard_normal((n_samples, n_features))
    return X.astype(dtype), U


def encode(side, X, U, alpha, V=None, *, max_sweeps=1000, tol=None):
    """Codes as a NumPy array, and the `Coding`."""
    V = side.array(np.zeros((len(X), len(U)), X.dtype) if V is None else V)
    tol = TOL[X.dtype.name] if tol is None else tol
    options = {"tol": tol, "max_sweeps": max_sweeps}
    coding = side.backend.encode(side.array(X), side.array(U), alpha, V, **options)
    return to_numpy(V), coding


def check_against_numba(side, shape, dtype, alpha=0.2):
    """Codes, statistics, dictionary, moments and costs are those of the compiled kernels."""
    X, U = problem(shape, dtype)
    options = {"tol": TOL[dtype], "max_sweeps": 1000}
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == "float32" else {"rtol": 1e-6, "atol": 1e-6}
    reference, backend = get_backend(), side.backend
    V_reference = np.zeros((len(X), len(U)), dtype)
    expected = reference.code_pass(X, U, alpha, V_reference, **options)
    X_there, U_there, V = side.array(X), side.array(U), side.array(np.zeros_like(V_reference))
    found = backend.code_pass(X_there, U_there, alpha, V, **options)
    assert_allclose(to_numpy(V), V_reference, **close)
    assert to_numpy(V).dtype == dtype
    A, B = to_numpy(found.A), to_numpy(found.B)
    assert A.dtype == B.dtype == np.float64
    V64 = to_numpy(V).astype(float)
    sums = {"rtol": 1e-5, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    assert_allclose(A, V64.T @ V64, rtol=1e-12, atol=1e-12)
    assert_allclose(B, V64.T @ X, **sums)
    assert_allclose(found.sum_V, V64.sum(), rtol=1e-12)
    assert found.coding.n_unconverged == expected.coding.n_unconverged == 0
    assert found.coding.n_active == np.count_nonzero(V64)
    assert kkt_violation(X, V64, U, alpha) <= 2 * TOL[dtype]
    costs = backend.removal_costs(X_there, U_there, alpha, V, **options)
    assert_allclose(costs, reference.removal_costs(X, U, alpha, V_reference, **options), **close)
    assert backend.update_dictionary(U_there, found.A, found.B) is U_there
    assert_allclose(to_numpy(U_there), reference.update_dictionary(U, A, B), atol=1e-10)
    sums, norms = (to_numpy(x) for x in backend.moments(X_there))
    assert_allclose(sums, X.sum(axis=0, dtype=np.float64), atol=1e-9)
    assert_allclose(norms, np.linalg.norm(X.astype(float), axis=1))


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_pass_is_that_of_the_compiled_kernels(side, shape, dtype):
    check_against_numba(side, shape, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_penalty_the_codes_are_non_negative_least_squares(side, shape):
    X, U = problem(shape)
    V, coding = encode(side, X, U, 0.0)
    assert coding.n_unconverged == 0
    lengths = [nnls(U.T, x)[1] for x in X]
    assert_allclose(np.linalg.norm(X - V @ U, axis=1), lengths, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_penalty_the_codes_are_those_of_the_lasso(side, shape):
    X, U = problem(shape)
    V, _ = encode(side, X, U, 0.2)
    lasso = Lasso(0.2 / X.shape[1], positive=True, fit_intercept=False, tol=1e-10, max_iter=100_000)
    expected = np.array([lasso.fit(U.T, x).coef_ for x in X])
    assert_allclose(objective(X, V, U, 0.2), objective(X, expected, U, 0.2))
    if U.shape[0] <= U.shape[1]:
        assert_allclose(V, expected, atol=1e-4)


@st.composite
def nasty_problems(draw):
    """X, U and alpha with what makes systems singular and scales run away."""
    n, d, K = draw(st.integers(1, 12)), draw(st.integers(1, 8)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    U = rng.standard_normal((K, d))
    kind = draw(st.sampled_from(["plain", "duplicates", "low rank", "zeros", "sizes", "opposite"]))
    if kind == "duplicates":
        U = U[rng.integers(0, K, K)]
    elif kind == "low rank":
        U = rng.integers(-2, 3, (K, 1)) * U[:1]
    elif kind == "zeros":
        U[rng.random(K) < 0.4] = 0.0
    elif kind == "sizes":
        U *= 10.0 ** rng.integers(-12, 1, (K, 1))
    elif kind == "opposite":
        U = np.concatenate([U, -U])[:K]
    X = rng.standard_normal((n, d))
    if draw(st.booleans()):
        X = rng.standard_normal((n, K)) @ U
    X[rng.random(n) < 0.2] = 0.0
    X *= 10.0 ** draw(st.sampled_from([0, -20, 20]))
    share = draw(st.sampled_from([0.0, 1e-3, 0.2, 0.99]))
    return X, U, share * max(np.max(X @ U.T), 0.0)


@given(nasty_problems(), st.sampled_from(["numpy", "torch"]), st.booleans())
@relaxed
def test_codes_are_optimal_whatever_the_data(data, name, cold):
    X, U, alpha = data
    rng = np.random.default_rng(0)
    shape = (len(X), len(U))
    start = np.zeros(shape) if cold else rng.standard_normal(shape) * np.abs(X).max()
    V, coding = encode(OnHost(name), X, U, alpha, start)
    assert np.all(V >= 0.0) and np.all(np.isfinite(V))
    assert_array_equal(V[:, ~U.any(axis=1)], 0.0)
    assert_array_equal(V[~X.any(axis=1)], 0.0)
    assert coding.n_unconverged == 0
    assert coding.violation <= 1e-8
    assert kkt_violation(X, V, U, alpha) <= 2e-8


@given(nasty_problems(), st.sampled_from(["numpy", "torch"]))
@relaxed
def test_a_dictionary_pass_is_that_of_the_compiled_kernels(data, name):
    X, U, _ = data
    side = OnHost(name)
    U = U / np.maximum(np.linalg.norm(U, axis=1, keepdims=True), 1.0)
    V = np.maximum(X @ np.random.default_rng(0).standard_normal((X.shape[1], len(U))), 0.0)
    V[:, 0] = 0.0
    A, B = V.T @ V, V.T @ X
    new = side.array(U)
    side.backend.update_dictionary(new, side.array(A), side.array(B))
    new = to_numpy(new)
    assert np.all(np.linalg.norm(new, axis=1) <= 1.0 + 1e-12)
    assert_array_equal(new[0], U[0])
    change = objective(X, V, new, 0.0) - objective(X, V, U, 0.0)
    assert change <= 1e-12 * np.vdot(X, X)
    assert_allclose(new, get_backend().update_dictionary(U.copy(), A, B), rtol=1e-6, atol=1e-8)


def test_codes_that_are_optimal_stay(side):
    X, U = problem((40, 20, 10))
    V, _ = encode(side, X, U, 0.2)
    again, _ = encode(side, X, U, 0.2, V)
    assert_allclose(again, V, rtol=1e-14)


def test_a_start_that_is_no_code_does_no_harm(side):
    X, U = problem((8, 20, 10))
    start = np.full((8, 10), np.nan)
    start[::2] = -1.0
    start[::3] = np.inf
    assert_allclose(encode(side, X, U, 0.2, start)[0], encode(side, X, U, 0.2)[0], atol=1e-8)


def test_rows_that_are_not_finite_get_codes_of_nan():
    side = OnHost("torch")
    X, U = problem((6, 20, 10))
    X[1, 2], X[4, 0] = np.nan, np.inf
    V, coding = encode(side, X, U, 0.2)
    broken = [1, 4]
    assert np.all(np.isnan(V[broken]))
    assert np.isnan(coding.violation)
    assert coding.n_unconverged == 0
    kept = [0, 2, 3, 5]
    assert_allclose(V[kept], encode(side, X[kept], U, 0.2)[0], rtol=1e-12)


def test_alpha_above_all_correlations_gives_zeros_and_below_does_not(side):
    X, U = problem((40, 20, 10), "float32")
    alpha = float(np.max(X @ U.T.astype("float32")))
    assert not encode(side, X, U, alpha * (1 + 1e-6), np.ones((40, 10), "float32"))[0].any()
    assert encode(side, X, U, alpha * (1 - 1e-3))[0].any()


def test_results_do_not_depend_on_blocks_and_order(side, monkeypatch):
    X, U = problem((50, 12, 9))
    V, coding = encode(side, X, U, 0.1)
    small = _array._Sizes(rows=7, codes=40, values=30, systems=20)
    monkeypatch.setattr(_array, "_ON_CPU", small)
    order = np.random.default_rng(0).permutation(len(X))
    there, its_coding = encode(side, X[order], U, 0.1)
    assert_allclose(there, V[order], atol=1e-10)
    assert its_coding[:2] == coding[:2]
    check_against_numba(side, (50, 12, 9), "float64")


def test_samples_above_the_tolerance_are_counted(side):
    X, U = problem((50, 20, 20))
    V, coding = encode(side, X, U, 0.01, max_sweeps=2)
    rows = [kkt_violation(x[None], v[None], U, 0.01) for x, v in zip(X, V, strict=True)]
    assert coding.n_unconverged == np.count_nonzero(np.array(rows) > 1e-8) > 0
    assert_allclose(coding.violation, np.max(rows), rtol=1e-6)


def test_removal_costs_are_what_the_objective_rises_by(side):
    X, U = problem((30, 12, 6))
    V, _ = encode(side, X, U, 0.1)
    options = {"tol": 1e-10, "max_sweeps": 1000}
    costs = side.backend.removal_costs(side.array(X), side.array(U), 0.1, side.array(V), **options)
    for k in range(len(U)):
        without = np.delete(U, k, axis=0)
        V_without, _ = encode(side, X, without, 0.1)
        rise = objective(X, V_without, without, 0.1) - objective(X, V, U, 0.1)
        assert_allclose(costs[k], rise, rtol=1e-6)


# What surrounds the computation ------------------------------------------------------------------


def test_arrays_of_another_library_share_memory_with_tensors():
    """As CuPy arrays do; NumPy's stand in for them."""
    side = OnHost("numpy")
    side.backend._stand_in = ArrayBackend(torch_compat)
    check_against_numba(side, (40, 7, 5), "float32")
    assert isinstance(side.backend.moments(np.ones((3, 2)))[0], np.ndarray)


PRECISIONS = {
    "default": lambda: None,
    "older interface": lambda: torch.set_float32_matmul_precision("medium"),
    "newer interface": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("how", PRECISIONS)
def test_products_are_precise_whatever_the_user_has_set(how):
    state = precision()
    if how == "newer interface" and len(state) == 1:
        pytest.skip("this torch has only the older interface")
    try:
        PRECISIONS[how]()
        chosen = precision()
        with _torch.torch_scope(torch.ones(1)):
            assert not {"tf32", "bf16", "medium", "high"} & set(precision())
            assert not torch.is_grad_enabled()
        assert precision() == chosen
        assert torch.is_grad_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")
        for product, value in zip(products(), state[1:], strict=True):
            product.fp32_precision = value


def products():
    found = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    return [product for product in found if hasattr(product, "fp32_precision")]


def precision():
    """What is set by the older interface, if it answers, and by the newer one, if it exists."""
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "set by the newer one"
    return [older, *(product.fp32_precision for product in products())]


def test_kernels_that_do_not_run_are_reported_and_replaced(monkeypatch):
    def fail(device):
        raise RuntimeError("no C compiler")

    name = "semi_nmf_concepts.decomposition._solvers._triton_kernels"
    broken = SimpleNamespace(try_out=fail)
    monkeypatch.setitem(sys.modules, name, broken)
    monkeypatch.setattr(sys.modules[name.rpartition(".")[0]], "_triton_kernels", broken, False)
    _array._working_kernels.cache_clear()
    side = OnHost("torch")
    side.backend.use_triton = True
    X, U = problem((5, 7, 3))
    try:
        with pytest.warns(RuntimeWarning, match="not used: no C compiler"):
            V, coding = encode(side, X, U, 0.2)
    finally:
        _array._working_kernels.cache_clear()
    assert coding.n_unconverged == 0
    assert kkt_violation(X, V, U, 0.2) <= 1e-8


# On a GPU ----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("shape", [*SHAPES, (3000, 200, 20), (2000, 200, 128), (500, 300, 200)])
def test_a_pass_on_a_gpu_is_that_of_the_compiled_kernels(gpu, shape, dtype):
    check_against_numba(gpu, shape, dtype)


@pytest.mark.gpu
def test_a_gpu_keeps_float32_precision_with_tf32_allowed(gpu):
    torch.set_float32_matmul_precision("high")
    try:
        check_against_numba(gpu, (3000, 200, 20), "float32")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
def test_cupy_streams_are_kept():
    gpu = OnDevice("cupy")
    import cupy

    with cupy.cuda.Stream(non_blocking=True):
        check_against_numba(gpu, (3000, 200, 20), "float32")


@pytest.mark.gpu
def test_triton_runs_on_the_gpu():
    OnDevice("torch")
    pytest.importorskip("triton", reason="triton is not installed")
    assert _array._working_kernels(torch.device("cuda", 0)) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOL)
def test_an_estimator_leaves_arrays_on_the_gpu(gpu, dtype):
    X, _ = problem((2000, 100, 12), dtype)
    T = gpu.array(X)
    reference = SemiNMFConcepts(12, alpha=0.2, random_state=0).fit(X)
    model = SemiNMFConcepts(12, alpha=0.2, random_state=0)
    V = model.fit_transform(T)
    again = sparse_encode_nonneg(T, model.components_, alpha=0.2)
    for array in (V, again, model.components_, model.inverse_transform(V)):
        assert kind_of(array) == kind_of(T)
        assert to_numpy(array).dtype == dtype
    assert_allclose(to_numpy(again), to_numpy(model.transform(T)), atol=1e-3)
    U = to_numpy(model.components_)
    assert kkt_violation(X, to_numpy(V), U, 0.2) <= 1e-3
    assert_allclose(model.objective_, objective(X, to_numpy(V), U, 0.2), rtol=1e-4)
    assert_allclose(model.objective_, reference.objective_, rtol=0.01)


@pytest.mark.gpu
def test_arrays_in_host_memory_can_be_computed_on_the_gpu(gpu):
    X, _ = problem((2000, 100, 12), "float32")
    model = SemiNMFConcepts(12, alpha=0.2, backend=gpu.name, device="cuda", random_state=0)
    V = model.fit_transform(X)
    assert isinstance(V, np.ndarray) and isinstance(model.components_, np.ndarray)
    there = SemiNMFConcepts(12, alpha=0.2, random_state=0).fit(gpu.array(X))
    assert_allclose(model.objective_, there.objective_, rtol=1e-4)
