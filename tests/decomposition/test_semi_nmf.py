"""SemiNMFConcepts: the invariants of a fit, its options, and what happens at the edges."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semi_nmf_concepts.decomposition import RECOMMENDED, SemiNMFConcepts
from semi_nmf_concepts.decomposition._objective import kkt_violation, objective

relaxed = settings(deadline=None, max_examples=25, derandomize=True)
shapes = {
    "seed": st.integers(0, 2**32 - 1),
    "n_samples": st.integers(1, 40),
    "n_features": st.integers(1, 12),
}
options = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.05, 0.5]),
        "center": st.booleans(),
        "whiten": st.sampled_from([None, None, 3]),
        "init": st.sampled_from(["svd", "k-means++", "random", "grow"]),
        "n_components": st.integers(1, 8),
    }
)


def planted(seed=0, n_samples=150, n_features=20, n_components=6, noise=0.05):
    """Sparse non-negative combinations of unit atoms plus noise; data, codes, atoms."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((n_components, n_features))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    V = rng.gamma(2.0, 1.0, (n_samples, n_components))
    V *= rng.random((n_samples, n_components)) < 0.4
    return V @ U + noise * rng.standard_normal((n_samples, n_features)), V, U


def quiet_fit(model, X):
    """Fit where more atoms than rank, zero codes or few iterations are part of the game."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(X)


@relaxed
@given(st.fixed_dictionaries(shapes), options)
def test_invariants_of_a_fit(shape, option):
    rng = np.random.default_rng(shape["seed"])
    X = rng.standard_normal((shape["n_samples"], shape["n_features"]))
    model = quiet_fit(SemiNMFConcepts(alpha_scale="relative", random_state=0, **option), X)
    V = model.transform(X)
    assert V.min() >= 0.0
    assert np.linalg.norm(model.dictionary_, axis=1).max() <= 1.0 + 1e-12
    assert model.kkt_violation_ <= 2e-8
    assert np.all(np.diff(model.objective_history_) <= 0.0)
    factorised = (X - model.offset_) if option["whiten"] is None else model._map.to_factorised(X)
    assert_allclose(objective(factorised, V, model.dictionary_, model.alpha_), model.objective_)
    assert_allclose(model.objective_history_[-1], model.objective_, rtol=1e-6, atol=1e-9)
    assert model.objective_ <= 0.5 * np.sum(factorised**2) * (1 + 1e-12)  # as good as V = 0
    totals = V.sum(axis=0)
    if np.linalg.matrix_rank(model.dictionary_) == len(totals):  # else codes may swap places
        assert np.all(np.diff(totals) <= 1e-6 * totals.max(initial=1.0))
    assert model.n_dead_ == np.sum(totals == 0.0)
    assert_allclose(model.n_active_, np.count_nonzero(V) / len(V))


@relaxed
@given(st.integers(0, 1000), st.sampled_from([-20, -3, 3, 20]))
def test_relative_alpha_makes_the_fit_follow_the_scale(seed, exponent):
    X, _, _ = planted(seed, n_samples=60)
    scale = 2.0**exponent  # exact in floating point: nothing may depend on the scale
    model = SemiNMFConcepts(6, alpha=0.05, alpha_scale="relative", random_state=0)
    V, U = model.fit_transform(X), model.components_
    V_scaled = model.fit_transform(scale * X)
    assert_allclose(model.components_, U, atol=1e-12)
    assert_allclose(V_scaled / scale, V, atol=1e-12)


def test_planted_atoms_are_found_again():
    X, _, U = planted(noise=0.01)
    model = SemiNMFConcepts(6, alpha=0.01, random_state=0).fit(X)
    cosines = model.components_ @ U.T / np.linalg.norm(model.components_, axis=1)[:, None]
    assert np.all(cosines.max(axis=0) > 0.99)
    assert model.score(X) > 0.99
    assert model.n_dead_ == 0


@pytest.mark.parametrize("init", ["svd", "k-means++", "random", "grow"])
def test_unused_and_doubled_atoms_are_replaced(init):
    """Starts with copies of one atom, and starts by name, all end at the planted optimum."""
    X, V, U = planted(1, noise=0.01)
    at_truth = objective(X, V, U, 0.05)
    by_name = SemiNMFConcepts(6, alpha=0.05, init=init, random_state=0).fit(X)
    from_copies = SemiNMFConcepts(6, alpha=0.05, init=np.tile(U[:1], (6, 1)), random_state=0).fit(X)
    assert by_name.objective_ < at_truth
    assert from_copies.objective_ < at_truth


def test_codes_that_fit_returns_are_those_of_transform():
    X, _, _ = planted(2)
    model = SemiNMFConcepts(6, alpha=0.1, random_state=0)
    assert_array_equal(model.fit_transform(X), model.transform(X))


def test_the_history_falls_for_many_samples_too():
    """Enough samples for the online epochs; float32, where rounding could make F rise."""
    X, V, U = planted(3, n_samples=2500, noise=0.1)
    model = SemiNMFConcepts(6, alpha=0.1, random_state=0).fit(X.astype(np.float32))
    assert np.all(np.diff(model.objective_history_) <= 0.0)
    assert model.objective_ < objective(X, V, U, 0.1)
    assert_allclose(model.objective_history_[-1], model.objective_, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept(dtype):
    X = planted(4)[0].astype(dtype)
    model = SemiNMFConcepts(6, alpha=0.1, whiten=5, random_state=0)
    V = model.fit_transform(X)
    assert {V.dtype, model.components_.dtype, model.dictionary_.dtype} == {np.dtype(dtype)}
    assert model.inverse_transform(V).dtype == dtype
    assert model.kkt_violation_ <= {np.float32: 1e-4, np.float64: 2e-8}[dtype]


def test_half_precision_is_computed_in_single():
    X = planted(5)[0].astype(np.float16)
    model = SemiNMFConcepts(6, alpha=0.1, random_state=0)
    V = model.fit_transform(X)
    assert V.dtype == np.float32
    assert_array_equal(V, clone(model).fit_transform(X.astype(np.float32)))


def test_integers_and_lists_are_computed_in_double():
    model = SemiNMFConcepts(2, alpha=0.1, random_state=0)
    assert model.fit_transform([[1, 2], [3, -1], [0, 5]]).dtype == np.float64


@pytest.mark.parametrize(
    "extra", [{}, {"whiten": 6}, {"center": True, "n_init": 2}, {"init": "grow", "n_init": 2}]
)
@pytest.mark.parametrize("target", [1.5, 3.0])
def test_n_active_is_reached_within_ten_percent(target, extra):
    X, _, _ = planted(6, noise=0.3)
    model = SemiNMFConcepts(8, n_active=target, random_state=0, **extra)
    V = model.fit_transform(X)
    assert abs(np.count_nonzero(V) / len(V) - target) <= 0.1 * target
    assert model.alpha_ > 0.0
    again = SemiNMFConcepts(8, alpha=model.alpha_, random_state=0, **extra).fit(X)
    assert model.objective_ <= 1.02 * again.objective_


@pytest.mark.parametrize("X", [planted(7)[0], np.zeros((9, 4)), np.ones((1, 1))])
def test_an_unreachable_n_active_warns(X):
    model = SemiNMFConcepts(1, n_active=3.0, random_state=0)
    with pytest.warns(UserWarning) as caught:
        model.fit(X)
    messages = [str(warning.message) for warning in caught]
    assert sum("n_active=3.0 cannot be reached" in message for message in messages) == 1
    assert np.isfinite(model.components_).all()


def test_whitened_atoms_map_back_to_the_input_space():
    X, _, _ = planted(8)
    model = SemiNMFConcepts(6, alpha=0.1, whiten=5, random_state=0).fit(X)
    assert model.dictionary_.shape == (6, 5)
    assert model.components_.shape == (6, 20)
    whitened = model._map.to_factorised(X)
    assert_allclose(whitened.mean(axis=0), 0.0, atol=1e-12)
    assert_allclose(np.cov(whitened.T), np.eye(5), atol=1e-10)
    V = model.transform(X)
    unwhitened = (V @ model.dictionary_) * model.whitening_scale_ @ model.whitening_axes_
    assert_allclose(model.inverse_transform(V), unwhitened + X.mean(axis=0), atol=1e-10)


def test_whiten_is_clipped_to_the_rank():
    X = planted(9, n_components=3, noise=0.0)[0]
    model = quiet_fit(SemiNMFConcepts(2, alpha=0.1, whiten=10, random_state=0), X)
    assert model.whitening_scale_.shape == (3,)


def test_center_factorises_the_centred_data():
    X = planted(10)[0] + 5.0
    centred = SemiNMFConcepts(6, alpha=0.1, center=True, random_state=0).fit(X)
    by_hand = SemiNMFConcepts(6, alpha=0.1, random_state=0).fit(X - X.mean(axis=0))
    assert_allclose(centred.objective_, by_hand.objective_, rtol=1e-9)
    assert_allclose(centred.score(X), by_hand.score(X - X.mean(axis=0)), atol=1e-9)


def test_score_is_the_share_of_explained_variation():
    X, _, _ = planted(11)
    model = SemiNMFConcepts(6, alpha=0.1, random_state=0).fit(X[:100])
    test = X[100:]
    error = np.sum((test - model.inverse_transform(model.transform(test))) ** 2)
    expected = 1.0 - error / np.sum((test - X[:100].mean(axis=0)) ** 2)
    assert_allclose(model.score(test), expected)
    assert_allclose(clone(model).set_output(transform="pandas").fit(X[:100]).score(test), expected)


def test_a_seed_makes_the_fit_repeatable():
    X, _, _ = planted(12, n_samples=2100, n_features=10)
    model = SemiNMFConcepts(6, alpha=0.1, init="k-means++", n_init=2, random_state=3)
    assert_array_equal(model.fit(X).components_, clone(model).fit(X).components_)


def test_more_starts_are_never_worse():
    X = np.random.default_rng(0).standard_normal((80, 15))
    one = SemiNMFConcepts(10, alpha=0.3, init="random", random_state=0).fit(X)
    five = SemiNMFConcepts(10, alpha=0.3, init="random", n_init=5, random_state=0).fit(X)
    assert five.objective_ <= one.objective_ * (1 + 1e-9)


def test_a_warm_start_continues():
    X, _, _ = planted(13, noise=0.3)
    model = SemiNMFConcepts(6, alpha=0.1, init="random", random_state=0, warm_start=True).fit(X)
    first = model.objective_
    model.fit(X)
    assert model.objective_ <= first * (1 + 1e-9)
    assert model.objective_history_[0] <= first * (1 + 1e-6)
    with pytest.raises(ValueError, match=r"warm_start\) must have .* \(5, 20\); got \(6, 20\)"):
        model.set_params(n_components=5).fit(X)


def test_a_given_dictionary_is_the_start():
    X, _, U = planted(14, noise=0.01)
    model = SemiNMFConcepts(6, alpha=0.02, init=5.0 * U, random_state=0).fit(X)
    order = np.argmax(model.components_ @ U.T, axis=1)
    assert sorted(order) == list(range(6))
    for whiten in (None, 6):  # with whitening, too, `init` takes directions of the input space
        first = clone(model).set_params(init="svd", whiten=whiten).fit(X)
        again = clone(first).set_params(init=first.components_).fit(X)
        assert again.objective_history_[0] <= first.objective_ * (1 + 1e-6)
    with pytest.raises(ValueError, match=r"init must have shape .* = \(6, 20\); got \(5, 20\)"):
        clone(model).set_params(init=U[:5]).fit(X)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiny_and_huge_data(scale, dtype):
    X = (scale * planted(15)[0]).astype(dtype)
    model = SemiNMFConcepts(6, alpha=0.05, alpha_scale="relative", random_state=0).fit(X)
    assert model.score(X) > 0.9
    assert model.n_dead_ == 0


def test_alpha_above_alpha_max_gives_zeros_and_says_so():
    X, _, _ = planted(16)
    longest = np.linalg.norm(X, axis=1).max()
    with pytest.warns(UserWarning, match="All codes are zero"):
        model = SemiNMFConcepts(6, alpha=1.001 * longest, random_state=0).fit(X)
    assert (model.n_dead_, model.n_active_, model.kkt_violation_) == (6, 0.0, 0.0)
    assert_allclose(model.objective_, 0.5 * np.sum(X**2))
    below = SemiNMFConcepts(6, alpha=0.98 * longest, random_state=0).fit(X)
    assert below.n_active_ > 0.0


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((5, 3)),
        np.ones((6, 4)),
        np.ones((1, 7)),
        np.arange(8.0)[:, None],
        np.tile(planted(17, n_samples=3)[0], (4, 1)),
        np.hstack([np.full((30, 2), 7.0), planted(17, n_samples=30)[0]]),
        np.vstack([np.zeros((10, 20)), planted(17, n_samples=10)[0]]),
    ],
    ids=["zeros", "equal rows", "one sample", "one feature", "duplicates", "constant", "zero rows"],
)
@pytest.mark.parametrize(
    "option",
    [{"alpha": 0.1}, {"alpha": 0.1, "whiten": 3}, {"alpha": 0.0, "init": "k-means++"}],
    ids=["plain", "whitened", "no penalty"],
)
def test_degenerate_data_give_finite_results(X, option):
    model = quiet_fit(SemiNMFConcepts(12, random_state=0, **option), X)
    V = model.transform(X)
    assert np.isfinite(V).all() and np.isfinite(model.components_).all()
    assert np.all(V >= 0.0)
    assert np.isfinite(model.score(X))
    mapped = model._map.to_factorised(np.asarray(X, dtype=float))
    assert kkt_violation(mapped, V, model.dictionary_, model.alpha_) <= 1e-7
    assert np.linalg.norm(model.dictionary_, axis=1).max() <= 1.0 + 1e-12


@pytest.mark.parametrize("shape", [(5, 30), (30, 5)])
def test_more_atoms_than_rank_warn(shape):
    X = np.random.default_rng(0).standard_normal(shape)
    with pytest.warns(UserWarning, match="n_components=8 exceeds the rank of the data, 5"):
        SemiNMFConcepts(8, alpha=0.1, random_state=0).fit(X)


def test_too_few_iterations_warn_once():
    X, _, _ = planted(18, noise=0.3)
    with pytest.warns(ConvergenceWarning, match="increase max_iter or tol") as caught:
        model = SemiNMFConcepts(6, alpha=0.1, init="random", max_iter=2, random_state=0).fit(X)
    assert len(caught) == 1
    assert model.n_iter_ == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "'n_components' parameter"),
        ({"alpha": -1.0}, "'alpha' parameter"),
        ({"alpha_scale": "other"}, "'alpha_scale' parameter"),
        ({"n_active": 0}, "'n_active' parameter"),
        ({"whiten": 0}, "'whiten' parameter"),
        ({"init": "pca"}, "'init' parameter"),
        ({"n_init": 0}, "'n_init' parameter"),
        ({"max_iter": 0}, "'max_iter' parameter"),
        ({"tol": -1e-3}, "'tol' parameter"),
        ({"forgetting": 0.0}, "'forgetting' parameter"),
        ({"forgetting": 1.1}, "'forgetting' parameter"),
        ({"backend": "jax"}, "'backend' parameter .* Got 'jax' instead"),
        ({"device": 0}, "'device' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"n_jobs": 1.5}, "'n_jobs' parameter"),
        ({"alpha": np.inf}, "'alpha' parameter"),
        ({"alpha": np.nan}, "'alpha' parameter"),
        ({"center": "yes"}, "'center' parameter"),
        ({"warm_start": None}, "'warm_start' parameter"),
        ({"verbose": -1}, "'verbose' parameter"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "fit_transform", "partial_fit"])
def test_bad_parameters_are_named(parameters, message, method):
    with pytest.raises(ValueError, match=message):
        getattr(SemiNMFConcepts(**parameters), method)(np.eye(3))


def test_bad_data_are_refused():
    """See test_arrays.py for what X may be wrong in."""
    model = SemiNMFConcepts(2, alpha=0.1, random_state=0)
    for method in (model.transform, model.inverse_transform, model.score):
        with pytest.raises(NotFittedError):
            method(np.eye(3))
    with pytest.raises(TypeError, match="Sparse data was passed for X"):
        model.fit(scipy.sparse.eye_array(3).tocsr())
    with pytest.raises(ValueError, match="could not convert string to float"):
        model.fit([["a", "b"], ["c", "d"]])
    model.fit(np.diag([3.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match=r"V must have shape \(n_samples, 2\)"):
        model.inverse_transform(np.eye(3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_single_bad_entry_is_found_among_many(value, n_jobs):
    X, _, _ = planted(22, n_samples=1500, n_features=12)
    model = SemiNMFConcepts(4, alpha=0.1, n_jobs=n_jobs, random_state=0).fit(X)
    X[-1, 7] = value
    for method in (model.transform, model.score, model.partial_fit, model.fit):
        with pytest.raises(ValueError, match="Input X contains"):
            method(X)


@pytest.mark.parametrize("parameters", [{}, {"center": True}, {"whiten": 5}])
def test_threads_change_nothing_but_rounding(parameters):
    X, _, _ = planted(23, n_samples=1500)
    one = SemiNMFConcepts(6, alpha=0.1, random_state=0, **parameters).fit(X)
    two = clone(one).set_params(n_jobs=2).fit(X)
    assert_allclose(two.objective_, one.objective_, rtol=1e-6)
    expected = one.transform(X)
    assert_allclose(one.set_params(n_jobs=2).transform(X), expected, atol=1e-9)


def test_transform_maps_large_data_in_blocks(monkeypatch):
    X, _, _ = planted(24)
    for parameters in ({"center": True}, {"whiten": 5}):
        model = SemiNMFConcepts(6, alpha=0.1, random_state=0, **parameters).fit(X)
        expected = model.transform(X)
        with monkeypatch.context() as patched:
            patched.setattr("semi_nmf_concepts.decomposition._preprocessing._BLOCK_BYTES", 1)
            patched.setattr("semi_nmf_concepts.decomposition._preprocessing._MIN_BLOCK_ROWS", 7)
            assert_allclose(model.transform(X), expected, atol=1e-9)


@pytest.mark.slow
def test_a_fit_takes_little_memory_beside_the_data():
    """Peak of a fresh process, after a first fit has loaded and compiled what there is."""
    code = """
import resource
import numpy as np
from semi_nmf_concepts import SemiNMFConcepts
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(0)
model = SemiNMFConcepts(20, random_state=0)
X = np.empty((12000, 4096), np.float32)
U = rng.standard_normal((20, 4096), dtype=np.float32) / 64
for rows in np.split(X, 12):
    codes = 3 * rng.exponential(size=(1000, 20)) * (rng.random((1000, 20)) < 0.3)
    rows[:] = codes.astype(np.float32) @ U
    rows += rng.standard_normal(rows.shape, dtype=np.float32) / 64
model.fit(X[:1000])
before = peak()
model.fit(X)
print((peak() - before) * 1024 / X.nbytes)
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert float(run.stdout) <= 0.15, run.stderr


def test_use_in_pipeline_grid_search_and_data_frames():
    X, _, _ = planted(19)
    frame = pd.DataFrame(X).add_prefix("unit")
    pipeline = make_pipeline(StandardScaler(), SemiNMFConcepts(4, alpha=0.2, random_state=0))
    pipeline.set_output(transform="pandas")
    codes = pipeline.fit_transform(frame)
    assert list(codes.columns) == [f"seminmfconcepts{k}" for k in range(4)]
    assert_array_equal(pipeline[-1].feature_names_in_, frame.columns)
    search = GridSearchCV(pipeline, {"seminmfconcepts__n_components": [2, 6]}, cv=2).fit(frame)
    assert search.best_params_ == {"seminmfconcepts__n_components": 6}


def test_a_pickled_model_gives_the_same_codes():
    X, _, _ = planted(20)
    model = SemiNMFConcepts(6, random_state=0, whiten=5, n_active=2.0).fit(X)
    assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.transform(X))


def test_the_progress_bar_shows_objective_and_violation(capsys):
    SemiNMFConcepts(3, alpha=0.1, random_state=0, verbose=1).fit(planted(21)[0])
    shown = capsys.readouterr().err
    assert "objective=" in shown and "kkt=" in shown


def test_recommended_settings_are_parameters():
    assert set(RECOMMENDED) <= set(SemiNMFConcepts().get_params())


def test_importing_the_package_does_not_load_the_compiler():
    code = (
        "import sys, semi_nmf_concepts.decomposition as d; d.SemiNMFConcepts();"
        "sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_interrupted_fit_leaves_the_one_before_whole(monkeypatch):
    from semi_nmf_concepts.decomposition._data import ArrayData

    X = np.random.default_rng(0).standard_normal((60, 8))
    model = SemiNMFConcepts(3, alpha=0.1, random_state=0).fit(X)
    codes = model.transform(X)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ArrayData, "coded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.set_params(center=True, alpha=1.0).fit(X + 5.0)
    np.testing.assert_array_equal(model.transform(X), codes)


def test_whiten_is_a_number():
    with pytest.raises(ValueError, match="whiten must be a number of components or None; got True"):
        SemiNMFConcepts(2, whiten=True).fit(np.eye(5))
