"""partial_fit: learning from mini-batches, what the first one decides, and how it goes on."""

import pickle

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from semi_nmf_concepts.decomposition import SemiNMFConcepts
from semi_nmf_concepts.decomposition._objective import objective

ALPHA = 0.1


def atoms(seed, n_components=6, n_features=20):
    U = np.random.default_rng(seed).standard_normal((n_components, n_features))
    return U / np.linalg.norm(U, axis=1, keepdims=True)


def samples(U, seed=0, n_samples=1200, noise=0.1):
    """Sparse non-negative combinations of the atoms U plus noise."""
    rng = np.random.default_rng(seed)
    V = rng.gamma(2.0, 1.0, (n_samples, len(U))) * (rng.random((n_samples, len(U))) < 0.4)
    return V @ U + noise * rng.standard_normal((n_samples, U.shape[1]))


def model(n_components=6, **parameters):
    return SemiNMFConcepts(n_components, **{"alpha": ALPHA, "random_state": 0, **parameters})


def loss(fitted, X):
    """F of all of X on the dictionary."""
    return objective(X, fitted.transform(X), fitted.components_, fitted.alpha_)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [40, 200])
def test_a_few_epochs_come_close_to_fit(seed, batch_size):
    X = samples(atoms(seed), seed)
    online, rng = model(batch_size=batch_size), np.random.default_rng(seed)
    online.partial_fit(X[:300])
    for _ in range(3):
        online.partial_fit(X[rng.permutation(len(X))])
    assert loss(online, X) <= 1.03 * model().fit(X).objective_


@pytest.mark.parametrize("first, bound", [(1, 1.1), (30, 1.05)])
def test_a_small_first_batch_is_made_up_for(first, bound):
    ratios = []
    for seed in range(5):
        X = samples(atoms(seed), seed)
        online, rng = model(batch_size=60), np.random.default_rng(seed)
        online.partial_fit(X[:first])
        for _ in range(4):
            online.partial_fit(X[rng.permutation(len(X))])
        ratios.append(loss(online, X) / model().fit(X).objective_)
    assert np.median(ratios) <= bound


def test_attributes_describe_the_last_batch_on_the_final_dictionary():
    X = samples(atoms(0))
    online = model(batch_size=100).partial_fit(X)
    assert (online.n_iter_, online.n_samples_seen_) == (12, 1200)
    online.partial_fit(X[:250])
    assert (online.n_iter_, online.n_samples_seen_) == (15, 1450)
    last = X[168:250]  # the mini-batches of a call are equally long, as far as possible
    V = online.transform(last)
    assert_allclose(online.objective_, objective(last, V, online.dictionary_, ALPHA))
    assert_allclose(online.reconstruction_err_, np.linalg.norm(last - V @ online.dictionary_))
    assert_allclose(online.n_active_, np.count_nonzero(V) / len(V))
    assert online.n_dead_ == np.sum(~V.any(axis=0))
    assert online.kkt_violation_ <= 2e-8
    assert np.linalg.norm(online.dictionary_, axis=1).max() <= 1.0 + 1e-12
    assert not hasattr(online, "objective_history_")


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha_scale": "relative", "center": True},
        {"whiten": 5},
        {"n_active": 2.0, "center": True},
    ],
)
def test_the_first_batch_decides_scale_mean_and_whitening(parameters):
    X = samples(atoms(1))
    online = model(**parameters).partial_fit(X[:400])
    frozen = ["alpha_", "mean_", "offset_", "whitening_scale_", "whitening_axes_"]
    before = {name: getattr(online, name) for name in frozen}
    online.partial_fit(3.0 * X[400:] + 1.0)
    for name, value in before.items():
        assert_array_equal(getattr(online, name), value)
    assert_allclose(online.mean_, X[:400].mean(axis=0))


def test_n_active_is_reached_on_the_first_batch():
    X = samples(atoms(2), noise=0.3)
    online = model(8, n_active=2.0).partial_fit(X)
    assert abs(online.n_active_ - 2.0) <= 0.3
    assert online.alpha_ != ALPHA


def test_mini_batches_are_steps():
    """One call that splits X does what several calls with its parts do."""
    X = samples(atoms(4))
    at_once, in_parts = model().fit(X[:200]), model().fit(X[:200])
    at_once.set_params(batch_size=300).partial_fit(X)
    for part in np.split(X, 4):
        in_parts.partial_fit(part)
    assert_allclose(at_once.components_, in_parts.components_, atol=1e-12)
    assert_allclose(at_once.codes_gram_, in_parts.codes_gram_, rtol=1e-12)


@pytest.mark.parametrize("forgetting", [0.9, 1.0])
def test_partial_fit_continues_a_fit(forgetting):
    X = samples(atoms(5))
    fitted = model(forgetting=forgetting).fit(X)
    before, F = fitted.components_.copy(), fitted.objective_
    V = fitted.transform(X)
    assert_allclose(fitted.codes_gram_, V.T @ V)
    fitted.partial_fit(X[:300])
    assert_allclose(fitted.components_, before, atol=0.05)  # neither forgotten nor sorted again
    assert loss(fitted, X) <= 1.01 * F
    assert fitted.n_samples_seen_ == 1500


def test_atoms_keep_their_places():
    X = samples(atoms(6))
    online = model(batch_size=100).partial_fit(X)
    before = online.components_
    online.partial_fit(X[::-1])
    assert_allclose(np.sum(online.components_ * before, axis=1), 1.0, atol=0.05)


def test_forgetting_follows_a_change():
    """New atoms take the place of old ones only as far as the past is forgotten."""
    old, new = samples(atoms(7), 0, 2000), samples(atoms(8), 1, 1000)
    losses = [
        loss(model(batch_size=50, forgetting=f).partial_fit(old).partial_fit(new), new)
        for f in (0.8, 0.95, 1.0)
    ]
    assert losses[0] < losses[2] and losses[1] < losses[2]


def test_nothing_is_forgotten_with_forgetting_1():
    X = samples(atoms(9))
    online = model(forgetting=1.0).partial_fit(X[:600])
    first = online.codes_gram_
    online.partial_fit(X[600:])
    assert np.all(np.diag(online.codes_gram_) > 1.5 * np.diag(first))
    forgetful = model(forgetting=1e-3).partial_fit(X[:600]).partial_fit(X[600:])
    assert np.trace(forgetful.codes_gram_) < 0.7 * np.trace(online.codes_gram_)


def test_unused_atoms_take_the_direction_of_badly_explained_samples():
    U = atoms(10)
    one, all_ = samples(U[:1], 0, 200, noise=0.0), samples(U, 1, 400, noise=0.0)
    online = model().partial_fit(one)
    assert online.n_dead_ >= 1
    before = loss(online, all_)
    for _ in range(10):
        online.partial_fit(all_)
    assert online.n_dead_ == 0
    assert loss(online, all_) <= 0.2 * before


def test_a_given_dictionary_is_where_learning_starts():
    U = atoms(11)
    X = samples(U, noise=0.01)
    online = model(init=U, alpha=0.01).partial_fit(X[:100])
    assert_allclose(online.components_, U, atol=0.05)


def test_fit_starts_afresh():
    X = samples(atoms(12))
    used = model().partial_fit(X[:200]).partial_fit(2.0 * X).fit(X)
    fresh = model().fit(X)
    assert vars(used).keys() == vars(fresh).keys()
    assert_array_equal(used.components_, fresh.components_)
    assert used.n_iter_ == fresh.n_iter_


def test_the_state_travels():
    X = samples(atoms(13)).astype(np.float32)
    online = model(whiten=6).partial_fit(X[:400])
    pickled = pickle.loads(pickle.dumps(online))
    stored = skops.io.dumps(online)
    loaded = skops.io.loads(stored, trusted=skops.io.get_untrusted_types(data=stored))
    expected = online.partial_fit(X[400:]).components_
    assert expected.dtype == np.float32
    assert_array_equal(pickled.partial_fit(X[400:]).components_, expected)
    assert_array_equal(loaded.partial_fit(X[400:]).components_, expected)
    assert not hasattr(clone(online), "components_")


def test_bad_batches_are_refused_and_change_nothing():
    X = samples(atoms(14))
    online = model().partial_fit(X)
    before = pickle.dumps(online)
    with pytest.raises(ValueError, match="has 19 features, but SemiNMFConcepts is expecting 20"):
        online.partial_fit(X[:, 1:])
    with pytest.raises(ValueError, match="contains NaN"):
        online.partial_fit(np.where(X > 1.0, np.nan, X))
    assert pickle.dumps(online) == before
    with pytest.raises(ValueError, match="n_components=5, but partial_fit goes on from 6"):
        online.set_params(n_components=5).partial_fit(X)
    with pytest.raises(ValueError, match="contains NaN"):
        model().partial_fit(np.full((3, 3), np.nan))


def test_degenerate_batches_do_no_harm():
    online = model()
    for X in (np.zeros((3, 20)), np.ones((1, 20)), samples(atoms(15), n_samples=50)):
        online.partial_fit(X)
        assert np.isfinite(online.components_).all()
    assert online.score(X) > 0.5
