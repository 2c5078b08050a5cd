"""Arrays of other libraries: the same results, of the kind that came, in shared memory."""

import array_api_strict
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils._array_api import move_estimator_to

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
    sparse_encode_nonneg,
)
from semi_nmf_concepts.decomposition._arrays import (
    NUMPY,
    Kind,
    choose_place,
    kind_of,
    move,
    to_numpy,
    working,
)


def strict(X):
    """An array of array_api_strict on its second device, which NumPy cannot take for one of its."""
    return array_api_strict.asarray(X, device=array_api_strict.Device("device1"))


CONVERTERS = {"torch": torch.from_numpy, "array_api_strict": strict}
DECOMPOSERS = [
    SemiNMFConcepts(4, alpha=0.1, random_state=0),
    SemiNMFConcepts(4, n_active=1.5, center=True, random_state=0),
    SemiNMFConcepts(4, alpha=0.1, whiten=3, init="svd", random_state=0),
    KMeansConcepts(4, random_state=0),
    PCAConcepts(4),
    SimpleConcepts(4),
]


@pytest.fixture(params=CONVERTERS)
def convert(request):
    return CONVERTERS[request.param]


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    V = rng.gamma(2.0, 1.0, (80, 4)) * (rng.random((80, 4)) < 0.5)
    return V @ rng.standard_normal((4, 7)) + 0.1 * rng.standard_normal((80, 7))


@pytest.fixture
def on_device(monkeypatch):
    """Torch tensors in host memory are dealt with as if they were on an accelerator."""
    monkeypatch.setattr(Kind, "on_host", property(lambda kind: kind.name != "torch"))


# Results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", [False, True], ids=["no dispatch", "dispatch"])
@pytest.mark.parametrize("model", DECOMPOSERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_those_of_numpy_and_of_the_kind_that_came(X, convert, model, dispatch, dtype):
    X = X.astype(dtype)
    T = convert(X)
    reference, model = clone(model).fit(X), clone(model)
    with config_context(array_api_dispatch=dispatch):
        V = model.fit_transform(T)
        again = model.transform(T)
        X_back = model.inverse_transform(V)
        assert model.score(T) == reference.score(X)
    for array in (V, again, X_back):
        assert kind_of(array) == kind_of(T)
        assert array.dtype == T.dtype
    expected = reference.transform(X)
    assert_array_equal(to_numpy(again), expected)
    assert_allclose(to_numpy(V), expected, atol=1e-6)
    assert_array_equal(to_numpy(X_back), reference.inverse_transform(to_numpy(V)))
    for name, value in vars(reference).items():
        if isinstance(value, np.ndarray):
            assert kind_of(getattr(model, name)) == kind_of(T), name
            assert_array_equal(to_numpy(getattr(model, name)), value)


def test_partial_fit_takes_them_too(X, convert):
    model, reference = (SemiNMFConcepts(4, alpha=0.1, random_state=0) for _ in range(2))
    for part in np.split(X, 2):
        model.partial_fit(convert(part))
        reference.partial_fit(part)
    assert kind_of(model.components_) == kind_of(convert(X))
    assert_array_equal(to_numpy(model.components_), reference.components_)


def test_sparse_encode_nonneg_takes_them_too(X, convert):
    U = X[:5]
    V = sparse_encode_nonneg(convert(X), convert(U), alpha=0.3)
    assert kind_of(V) == kind_of(convert(X))
    assert_array_equal(to_numpy(V), sparse_encode_nonneg(X, U, alpha=0.3))


def test_nothing_is_copied(X, convert):
    X = X.astype(np.float32)
    model = SemiNMFConcepts(3, random_state=0)
    for data in (X, convert(X)):
        assert np.shares_memory(model._validate(data, method="fit", reset=True)[0], X)
    V = np.zeros((3, 2))
    assert np.shares_memory(to_numpy(move(V, kind_of(convert(X)))), V)


def test_the_input_is_left_as_it_is(X, convert):
    T = convert(X.copy())
    SemiNMFConcepts(3, alpha=0.1, center=True, random_state=0).fit(T).partial_fit(T).transform(T)
    assert_array_equal(to_numpy(T), X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_computed_in_single(X, dtype):
    T = torch.from_numpy(X).to(dtype)
    model = SemiNMFConcepts(4, alpha=0.1, random_state=0)
    V = model.fit_transform(T)
    assert V.dtype == model.components_.dtype == torch.float32
    torch.testing.assert_close(V, clone(model).fit_transform(T.float()), rtol=0, atol=0)


def test_tensors_of_all_sorts(X):
    model = SemiNMFConcepts(4, alpha=0.1, random_state=0)
    expected = model.fit(X).components_
    needs_gradient = torch.tensor(X, requires_grad=True)
    transposed = torch.from_numpy(X.T.copy()).T
    flipped = torch.from_numpy(X[::-1].copy()).flip(0)
    for T in (needs_gradient, transposed, flipped):
        assert_array_equal(model.fit(T).components_.numpy(), expected)
    assert not model.transform(needs_gradient).requires_grad
    whole = torch.from_numpy(np.round(X)).to(torch.int32)
    assert model.fit(whole).components_.dtype == torch.float64


def test_a_start_may_be_of_any_kind(X, convert):
    U = X[:4]
    model = SemiNMFConcepts(4, alpha=0.1, init=U, random_state=0)
    expected = model.fit(X).components_
    assert_array_equal(clone(model).set_params(init=convert(U)).fit(X).components_, expected)
    model.set_params(warm_start=True).fit(convert(X))  # from the components_ of NumPy
    assert kind_of(model.components_) == kind_of(convert(X))


def test_read_only_arrays(X):
    X.flags.writeable = False
    model = SemiNMFConcepts(4, alpha=0.1, random_state=0).fit(X)
    assert_allclose(model.fit_transform(X), model.partial_fit(X[:20]).fit(X).transform(X))


# Errors -------------------------------------------------------------------------------------------


def test_another_kind_than_that_of_fit_is_refused(X, convert):
    on_numpy = SemiNMFConcepts(4, alpha=0.1, random_state=0).fit(X)
    on_other = clone(on_numpy).fit(convert(X))
    for model, data in ((on_numpy, convert(X)), (on_other, X), (on_other, X.tolist())):
        for method in (model.transform, model.partial_fit):
            message = rf"SemiNMFConcepts.{method.__name__}\(\) must use the same namespace"
            with pytest.raises(ValueError, match=message):
                method(data)
    with pytest.raises(ValueError, match="must use the same namespace"):
        on_other.inverse_transform(np.ones((2, 4)))
    with pytest.raises(ValueError, match="components must be of the same library and device as X"):
        sparse_encode_nonneg(X, convert(X[:3]))


def test_an_estimator_can_be_moved(X):
    model = SemiNMFConcepts(4, alpha=0.1, whiten=3, random_state=0).fit(torch.from_numpy(X))
    with config_context(array_api_dispatch=True):
        moved = move_estimator_to(model, np, "cpu")
    assert_array_equal(moved.transform(X), model.transform(torch.from_numpy(X)).numpy())


BAD = {
    "NaN": (lambda X: np.where(X > 1.0, np.nan, X), ValueError, "Input X contains NaN"),
    "infinity": (lambda X: np.where(X > 1.0, np.inf, X), ValueError, "Input X contains infinity"),
    "one NaN": (
        lambda X: np.where(np.arange(X.size).reshape(X.shape) == 5, np.nan, X),
        ValueError,
        "SemiNMFConcepts does not accept missing values",
    ),
    "1-D": (lambda X: X[0], ValueError, "Expected 2D array, got 1D array instead"),
    "3-D": (lambda X: X[None], ValueError, "Found array with dim 3"),
    "no samples": (lambda X: X[:0], ValueError, r"Found array with 0 sample\(s\)"),
    "no features": (lambda X: X[:, :0], ValueError, r"0 feature\(s\)"),
    "complex": (lambda X: X + 1j, ValueError, "Complex data not supported"),
    "wrong width": (
        lambda X: X[:, 1:],
        ValueError,
        "X has 6 features, but SemiNMFConcepts is expecting 7",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("kind", ["numpy", *CONVERTERS])
def test_bad_data_raise_the_errors_of_scikit_learn(X, kind, case):
    convert = CONVERTERS.get(kind, np.asarray)
    spoil, error, message = BAD[case]
    model = SemiNMFConcepts(3, alpha=0.1, random_state=0)
    bad = convert(spoil(X))
    if case != "wrong width":
        with pytest.raises(error, match=message):
            clone(model).fit(bad)
        with pytest.raises(error, match=message):
            clone(model).partial_fit(bad)
    with pytest.raises(error, match=message):
        model.fit(convert(X)).transform(bad)


@pytest.mark.parametrize("case", BAD)
def test_bad_data_on_a_device_raise_the_same(X, case, on_device):
    test_bad_data_raise_the_errors_of_scikit_learn(X, "torch", case)


@pytest.mark.parametrize("case", ["NaN", "infinity", "1-D", "no samples", "complex"])
def test_bad_data_to_encode_are_refused(X, convert, case):
    spoil, error, message = BAD[case]
    for to in (np.asarray, convert):
        with pytest.raises(error, match=message):
            sparse_encode_nonneg(to(spoil(X)), to(X[:3]))


def test_sparse_tensors_are_refused(X):
    with pytest.raises(TypeError, match="Sparse data was passed for X"):
        SemiNMFConcepts(3).fit(torch.from_numpy(X).to_sparse())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_that_overflow_are_refused(X, dtype):
    huge = X.astype(dtype) * dtype(np.finfo(dtype).max ** 0.6)
    with pytest.raises(ValueError, match=f"X is too large for its precision, {dtype.__name__}"):
        SemiNMFConcepts(3).fit(huge)


# Where to compute ---------------------------------------------------------------------------------


def test_a_place_goes_by_backend_and_device():
    tensor = kind_of(torch.ones(1))
    for kind in (NUMPY, tensor, kind_of(strict(np.ones(1)))):
        assert choose_place(kind, "auto", None) == ("numba", NUMPY)
        assert choose_place(kind, "numba", "cpu") == ("numba", NUMPY)
        assert choose_place(kind, "torch", "cpu") == ("torch", tensor)
    meta = choose_place(NUMPY, "auto", "meta")  # a device that every torch has
    assert (meta.backend, meta.kind.device.type) == ("torch", "meta")
    on_meta = kind_of(torch.ones(1, device="meta"))
    assert choose_place(on_meta, "auto", None) == ("torch", on_meta)


@pytest.mark.parametrize(
    ("tensor", "backend", "device", "message"),
    [
        (False, "numba", "cuda", "backend='numba' computes on the CPU; got device='cuda'"),
        (False, "torch", "gpu", "device='gpu' cannot be used by torch"),
        (False, "cupy", "cpu", "backend='cupy' computes on 'cuda' or 'cuda:N'; got device='cpu'"),
        (True, "numba", None, "backend='numba' computes on the CPU, but X is an array of torch"),
        (True, "auto", "cpu", "device='cpu' differs from where X is"),
    ],
)
def test_places_that_cannot_be_are_refused(tensor, backend, device, message):
    kind = kind_of(torch.ones(1, device="meta")) if tensor else NUMPY
    with pytest.raises(ValueError, match=message):
        choose_place(kind, backend, device)


def test_cupy_is_asked_for_by_name_of_the_extra():
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"semi_nmf_concepts\[cuda12\]"):
            SemiNMFConcepts(3, backend="cupy").fit(np.eye(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", DECOMPOSERS[:3], ids=str)
def test_the_torch_backend_takes_arrays_of_the_host(X, model, dtype):
    X = X.astype(dtype)
    reference = clone(model).fit(X)
    model = clone(model).set_params(backend="torch", device="cpu")
    V = model.fit_transform(X)
    assert type(V) is type(model.components_) is np.ndarray
    assert V.dtype == model.components_.dtype == dtype
    assert_allclose(model.objective_, reference.objective_, rtol=0.02)
    assert_allclose(model.transform(X), V, atol=1e-5)
    model.set_params(backend="numba", device=None)  # the same codes on the same dictionary
    assert_allclose(model.transform(X), V, atol=1e-4)


def test_the_torch_backend_learns_online(X):
    model = SemiNMFConcepts(4, alpha=0.1, backend="torch", device="cpu", random_state=0)
    reference = SemiNMFConcepts(4, alpha=0.1, random_state=0)
    for part in np.split(X, 2):
        model.partial_fit(part)
        reference.partial_fit(part)
    assert_allclose(model.objective_, reference.objective_, rtol=0.02)


@pytest.mark.parametrize("model", DECOMPOSERS[:3], ids=str)
def test_tensors_on_a_device_stay_there(X, model, on_device):
    T = torch.from_numpy(X)
    assert working(T) is T
    model = clone(model).fit(T)
    V = model.transform(T)
    assert isinstance(V, torch.Tensor)
    assert isinstance(model.inverse_transform(V), torch.Tensor)
    by_numpy = move_by_hand(model)
    assert_allclose(by_numpy.transform(X), V, atol=1e-7)
    assert_allclose(by_numpy.score(X), model.score(T))


def move_by_hand(model):
    moved = clone(model)
    for name, value in vars(model).items():
        setattr(moved, name, to_numpy(value) if isinstance(value, torch.Tensor) else value)
    return moved


@pytest.mark.parametrize("model", DECOMPOSERS[3:], ids=str)
def test_the_baselines_want_data_on_the_cpu(X, model, on_device):
    with pytest.raises(ValueError, match=f"{type(model).__name__} runs on the CPU; X is an array"):
        clone(model).fit(torch.from_numpy(X))


def test_codes_of_half_precision_are_taken_back():
    torch = pytest.importorskip("torch")
    X = torch.as_tensor(np.random.default_rng(0).standard_normal((40, 6))).bfloat16()
    model = SemiNMFConcepts(3, alpha=0.1, random_state=0).fit(X)
    reconstructed = model.inverse_transform(torch.ones((2, 3), dtype=torch.bfloat16))
    assert reconstructed.dtype == torch.float32
    assert reconstructed.shape == (2, 6)


def test_read_only_data_run_on_the_same_kernels():
    """Memory maps are read-only; no kernel is compiled for them anew."""
    from semi_nmf_concepts.decomposition._solvers import _numba_kernels

    X = np.random.default_rng(0).standard_normal((200, 6))
    expected = SemiNMFConcepts(3, alpha=0.1, random_state=0).fit(X)
    kernels = (_numba_kernels.accumulate_rows, _numba_kernels.add_moments)
    before = [len(kernel.signatures) for kernel in kernels]
    X.flags.writeable = False
    found = SemiNMFConcepts(3, alpha=0.1, random_state=0).fit(X)
    assert [len(kernel.signatures) for kernel in kernels] == before
    np.testing.assert_array_equal(found.components_, expected.components_)


@pytest.mark.parametrize("dtype, scale", [(np.float32, 1e-25), (np.float64, 1e-160)])
def test_data_too_small_for_their_precision_are_refused(dtype, scale):
    X = (np.random.default_rng(0).standard_normal((40, 6)) * scale).astype(dtype)
    with pytest.raises(ValueError, match="X is too small for its precision"):
        SemiNMFConcepts(3, alpha=0.1, alpha_scale="relative").fit(X)
