"""The estimator on Dask arrays: the same model as from memory, and codes that wait to be asked."""

import itertools
import os
import signal

import numpy as np
import pytest

from semi_nmf_concepts import SemiNMFConcepts
from tests._dask_cluster import client, cluster  # noqa: F401
from tests.decomposition._planted import matched_cosines, planted

da = pytest.importorskip("dask.array")

N, D, K = 1200, 16, 4


@pytest.fixture(scope="module")
def data():
    """Samples in float32, and atoms to start from."""
    X, _ = planted(N, D, K, seed=0)
    start = np.random.default_rng(1).standard_normal((K, D))
    return X.astype(np.float32), start / np.linalg.norm(start, axis=1, keepdims=True)


@pytest.fixture(params=["threads", "synchronous", "cluster"])
def scheduler(request):
    """Where Dask computes."""
    import dask

    if request.param == "cluster":
        with request.getfixturevalue("client").as_current():
            yield request.param
        return
    with dask.config.set(scheduler=request.param):
        yield request.param


def read_rows(path, block_info=None):
    """A chunk of the file, read where it is worked on."""
    (start, stop), _ = block_info[None]["array-location"]
    return np.load(path, mmap_mode="r")[start:stop]


def chunks_of_file(path, shape, dtype, rows):
    """A Dask array of a .npy file, whose workers read it."""
    chunks = da.core.normalize_chunks((rows, shape[1]), shape)
    return da.map_blocks(
        read_rows, str(path), chunks=chunks, dtype=dtype, meta=np.empty((0, 0), dtype)
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"center": True},
        {"whiten": 6},
        {"alpha_scale": "relative", "alpha": 0.1},
        {"n_active": 2},
    ],
    ids=lambda parameters: "-".join(parameters) or "plain",
)
def test_the_model_is_that_of_the_data_in_memory(data, parameters):
    X, start = data
    model = SemiNMFConcepts(K, init=start, random_state=0, **{"alpha": 0.3, **parameters})
    there = SemiNMFConcepts(**model.get_params()).fit(da.from_array(X, chunks=(170, D)))
    here = model.fit(X)
    if "n_active" in parameters:  # the search for alpha begins on the same rows, and may end apart
        assert abs(there.n_active_ - 2) <= 0.2
        return
    assert matched_cosines(here.components_, there.components_).min() > 0.999
    assert there.objective_ == pytest.approx(here.objective_, rel=1e-4)
    assert there.alpha_ == pytest.approx(here.alpha_, rel=1e-6)
    np.testing.assert_allclose(there.mean_, here.mean_, rtol=1e-5, atol=1e-5)
    assert there.n_samples_seen_ == N and there.n_features_in_ == D
    assert isinstance(there.components_, np.ndarray) and there.components_.dtype == np.float32


def test_wherever_it_is_computed(data, scheduler):
    X, start = data
    Z = da.from_array(X, chunks=(300, D))
    model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0)
    codes = model.fit_transform(Z)
    assert isinstance(codes, da.Array) and codes.chunks == ((300,) * 4, (K,))
    here = model.transform(X)
    np.testing.assert_allclose(codes.compute(), here, atol=1e-4)
    assert codes.dtype == np.float32 == codes.compute().dtype
    assert model.score(Z) == pytest.approx(model.score(X), rel=1e-6)
    back = model.inverse_transform(codes)
    np.testing.assert_allclose(back.compute(), model.inverse_transform(here), atol=1e-3)


def test_chunks_do_not_matter(data):
    X, _ = data
    fits = [
        SemiNMFConcepts(K, alpha=0.3, random_state=0).fit(da.from_array(X, chunks=(rows, D)))
        for rows in (N, 401, 64)
    ]
    for other in fits[1:]:
        assert other.objective_ == pytest.approx(fits[0].objective_, rel=1e-5)
        np.testing.assert_allclose(other.components_, fits[0].components_, atol=2e-3)


def test_a_start_is_searched_for_on_a_sample(data):
    X, _ = data
    model = SemiNMFConcepts(K, alpha=0.3, random_state=0)
    there = model.fit(da.from_array(X, chunks=(200, D))).objective_
    assert there == pytest.approx(model.fit(X).objective_, rel=0.005)


def test_half_precision_is_computed_with_in_single(data):
    X, start = data
    model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0)
    half = model.fit(da.from_array(X.astype(np.float16), chunks=(300, D)))
    assert half.components_.dtype == np.float32
    assert half.transform(da.from_array(X.astype(np.float16), chunks=(300, D))).dtype == np.float32


def test_nothing_is_computed_before_it_is_asked_for(data):
    X, start = data
    model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0).fit(X)
    seen = []

    def chunk(block_info=None):
        seen.append(1)
        (begin, end), _ = block_info[None]["array-location"]
        return X[begin:end]

    Z = da.map_blocks(chunk, chunks=((300,) * 4, (D,)), dtype=X.dtype, meta=X[:0])
    codes = model.transform(Z)
    model.inverse_transform(codes)
    assert not seen
    codes[:10].compute(scheduler="synchronous")
    assert len(seen) == 1  # the chunk that is needed


def test_codes_that_wait_are_those_of_the_model_as_it_was(data):
    X, start = data
    model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0).fit(X)
    before = model.transform(X)
    waiting = model.transform(da.from_array(X, chunks=(300, D)))
    model.set_params(alpha=1.0).fit(X[:500])
    np.testing.assert_allclose(waiting.compute(scheduler="synchronous"), before, atol=1e-5)


def test_every_chunk_counts_as_a_call_of_partial_fit(data):
    X, _ = data
    parts = SemiNMFConcepts(K, alpha=0.3, random_state=0)
    for rows in range(0, N, 400):
        parts.partial_fit(X[rows : rows + 400])
    whole = SemiNMFConcepts(K, alpha=0.3, random_state=0)
    whole.partial_fit(da.from_array(X, chunks=(400, D)))
    np.testing.assert_allclose(whole.components_, parts.components_, rtol=1e-6)
    assert whole.n_samples_seen_ == N


def test_a_worker_killed_in_the_middle_of_a_fit_changes_nothing(client, cluster, tmp_path):  # noqa: F811
    X, _ = planted(4000, 32, 8, seed=3)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    Z = chunks_of_file(tmp_path / "X.npy", X.shape, np.float32, 1000)
    start = np.random.default_rng(4).standard_normal((8, 32))
    model = SemiNMFConcepts(8, alpha=0.3, init=start, random_state=0)
    undisturbed = model.fit(X.astype(np.float32)).objective_
    killed, n_seen = [], itertools.count()

    def after_an_iteration(dictionary):
        if next(n_seen) == 3:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    with client.as_current():
        model._fit(Z, observer=after_an_iteration)
    cluster.wait_for_workers(2, timeout=60)
    assert killed and next(n_seen) > 6  # it went on for a while
    assert killed[0] not in client.run(os.getpid, on_error="ignore").values()
    assert model.objective_ == pytest.approx(undisturbed, rel=1e-3)


def test_a_checkpoint_of_a_fit_by_a_cluster(data, tmp_path):
    X, start = data
    Z = da.from_array(X, chunks=(300, D))
    model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0, tol=1e-8)
    whole = model.fit(Z).objective_
    path = tmp_path / "fit.npz"
    with pytest.warns(UserWarning, match="max_iter"):
        model.set_params(max_iter=2).fit(Z, checkpoint=path)
    resumed = model.set_params(max_iter=1000).fit(Z, checkpoint=path)
    assert resumed.objective_ == pytest.approx(whole, rel=1e-4)


def with_an_empty_chunk(X):
    return da.map_blocks(lambda block: block, X, chunks=((300, 0, 600, 300), X.chunks[1]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda X: X[X[:, 0] > 0], ValueError, "compute_chunk_sizes"),
        (lambda X: X.astype(object), ValueError, "dtype is object"),
        (with_an_empty_chunk, ValueError, "has no rows"),
        (lambda X: X[:, 0], ValueError, "two dimensions"),
        (lambda X: da.where(X > 2, np.nan, X), ValueError, "contains NaN"),
    ],
    ids=["unknown sizes", "objects", "empty chunk", "one column", "not a number"],
)
def test_bad_input(data, make, error, message):
    X = make(da.from_array(data[0], chunks=(300, D)))
    with pytest.raises(error, match=message):
        SemiNMFConcepts(K).fit(X)


def test_chunks_that_are_not_what_the_array_says(data):
    X, start = data
    Z = da.from_array(X, chunks=(300, D))

    def shortened(block, block_info=None):
        return block[1:] if block_info[0]["chunk-location"][0] == 2 else block

    for n_missing, chop in ((1, shortened), (300, lambda b: b[:0] if b[0, 0] == X[600, 0] else b)):
        bad = Z.map_blocks(chop, dtype=Z.dtype, meta=np.empty((0, 0), np.float32))
        message = rf"Chunk 2 of X .*\(300, {D}\).*\({300 - n_missing}, {D}\)"
        model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0).fit(X)
        for ask in (model.fit, model.score, model.partial_fit):
            with pytest.raises(ValueError, match=message):
                ask(bad)
        for codes in (model.transform(bad), model.transform(bad)[700:]):
            with pytest.raises(ValueError, match=message):
                codes.compute()


def test_a_bad_entry_is_found(data, scheduler):
    X = data[0].copy()
    model = SemiNMFConcepts(K, alpha=0.3, random_state=0).fit(X)
    X[777, 3] = np.inf
    Z = da.from_array(X, chunks=(300, D))
    message = "^Not finite: row 777 of X. Input X contains infinity"
    for ask in (model.score, model.fit, lambda Z: model.transform(Z).compute()):
        with pytest.raises(ValueError, match=message):
            ask(Z)


def test_columns_in_several_chunks(data):
    X, start = data
    split = da.from_array(X, chunks=(300, 5))
    model = SemiNMFConcepts(K, alpha=0.3, init=start, random_state=0)
    with pytest.raises(ValueError, match="rechunk=False"):
        model.fit(split, rechunk=False)
    with pytest.warns(UserWarning, match="rechunk"):
        objective = model.fit(split).objective_
    assert objective == pytest.approx(model.fit(X).objective_, rel=1e-4)
    with pytest.raises(ValueError, match="rechunk=False"):
        model.transform(split, rechunk=False)


def test_partial_fit_looks_at_the_array_first(data):
    Z = da.from_array(data[0], chunks=(300, 5))
    model = SemiNMFConcepts(K, alpha=0.3, random_state=0)
    for bad in (Z[Z[:, 0] > 0], Z.astype(object), Z[:, 0]):
        with pytest.raises(ValueError, match="compute_chunk_sizes|dtype is object|two dimensions"):
            model.partial_fit(bad)
    with pytest.warns(UserWarning, match="rechunk"):
        model.partial_fit(Z)


def test_data_frames_of_dask_are_refused():
    frames = pytest.importorskip("dask.dataframe")
    import pandas as pd

    frame = frames.from_pandas(pd.DataFrame(np.eye(6)), npartitions=2)
    with pytest.raises(TypeError, match=r"to_dask_array\(lengths=True\)"):
        SemiNMFConcepts(2).fit(frame)


def test_other_bad_calls(data, tmp_path):
    X, _ = data
    Z = da.from_array(X, chunks=(300, D))
    model = SemiNMFConcepts(K, alpha=0.3, random_state=0).fit(X)
    with pytest.raises(ValueError, match="X has 7 features, but SemiNMFConcepts is expecting 16"):
        model.transform(Z[:, :7])
    with pytest.raises(ValueError, match="one column per component"):
        model.inverse_transform(Z)
    with pytest.raises(ValueError, match="to_zarr"):
        model.transform(Z, out=tmp_path / "codes.zarr")
    with pytest.raises(ValueError, match="layout must be"):
        model.transform(Z, layout="coo")
    with pytest.raises(ValueError, match="on_error must be"):
        model.fit(Z, on_error="ignore")
    with pytest.raises(ValueError, match="set_output asks for 'pandas'"):
        model.set_output(transform="pandas").transform(Z)
