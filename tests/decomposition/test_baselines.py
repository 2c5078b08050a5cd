"""KMeansConcepts, PCAConcepts and SimpleConcepts: what they compute, and the common face."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)

BASELINES = [KMeansConcepts(4, random_state=0), PCAConcepts(4), SimpleConcepts(4)]
DECOMPOSERS = [*BASELINES, SemiNMFConcepts(4, alpha=0.1, random_state=0)]


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    centres = 3.0 * rng.standard_normal((4, 6))
    return centres[rng.integers(4, size=60)] + rng.standard_normal((60, 6))


def nearest(X, components):
    distances = np.linalg.norm(X[:, None] - components[None], axis=2)
    return distances, components[np.argmin(distances, axis=1)]


@pytest.mark.parametrize("model", DECOMPOSERS, ids=lambda model: type(model).__name__)
def test_the_common_face(model, X):
    V = clone(model).fit_transform(X)
    model = clone(model).fit(X)
    assert_allclose(V, model.transform(X), atol=1e-12)
    assert model.components_.shape == (4, 6)
    assert V.shape == (60, 4)
    assert model.inverse_transform(V).shape == X.shape
    assert len(model.get_feature_names_out()) == 4
    error = np.sum((X - model.inverse_transform(V)) ** 2)
    assert_allclose(model.score(X), 1.0 - error / np.sum((X - X.mean(axis=0)) ** 2))
    assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), V)
    framed = clone(model).set_output(transform="pandas").fit_transform(X)
    assert_array_equal(framed.to_numpy(), V)
    single = clone(model).fit(X.astype(np.float32))
    assert single.transform(X.astype(np.float32)).dtype == single.components_.dtype == np.float32
    with pytest.raises(ValueError, match=r"V must have shape \(n_samples, 4\).* got .*\(60, 6\)"):
        model.inverse_transform(X)


def test_decomposers_swap_in_a_parameter_grid(X):
    pipeline = make_pipeline(StandardScaler(), PCAConcepts(4))
    search = GridSearchCV(pipeline, {"pcaconcepts": DECOMPOSERS}, cv=3, error_score="raise").fit(X)
    assert isinstance(search.best_params_["pcaconcepts"], PCAConcepts)  # the best of rank 4


def test_kmeans_activates_by_closeness_to_the_centres(X):
    model = KMeansConcepts(4, random_state=0).fit(X)
    reference = KMeans(4, n_init=10, random_state=0).fit(X)
    assert_allclose(model.components_, reference.cluster_centers_)
    distances, reconstruction = nearest(X, model.components_)
    assert_allclose(model.transform(X), 1.0 / (1.0 + distances))
    assert_allclose(model.inverse_transform(model.transform(X)), reconstruction)
    total = np.sum((X - X.mean(axis=0)) ** 2)
    assert_allclose(model.score(X), 1.0 - reference.inertia_ / total)


def test_simple_keeps_the_longest_rows(X):
    model = SimpleConcepts(4).fit(X)
    longest = np.argsort(-np.linalg.norm(X, axis=1))[:4]
    assert_array_equal(model.sample_indices_, longest)
    assert_array_equal(model.components_, X[longest])
    distances, reconstruction = nearest(X, model.components_)
    assert_allclose(model.transform(X), 1.0 / (1.0 + distances))
    assert_allclose(model.inverse_transform(model.transform(X)), reconstruction)
    assert_array_equal(model.transform(X)[longest].max(axis=1), np.ones(4))


def test_simple_does_not_overflow_in_half_precision():
    """Norms of wide rows exceed what float16 can hold; the order must not suffer."""
    X = np.full((3, 4096), 6.0, dtype=np.float16) * np.array([[1.0], [3.0], [2.0]], np.float16)
    assert_array_equal(SimpleConcepts(2).fit(X).sample_indices_, [1, 2])


def test_pca_gives_signed_scores_of_centred_data(X):
    model = PCAConcepts(4).fit(X)
    reference = PCA(4).fit(X)
    assert_allclose(model.transform(X), reference.transform(X))
    assert_allclose(model.score(X), reference.explained_variance_ratio_.sum())
    assert model.transform(X).min() < 0.0


@pytest.mark.parametrize(
    ("model", "n_left"),
    [(KMeansConcepts(9, random_state=0), 3), (PCAConcepts(9), 5), (SimpleConcepts(9), 5)],
)
def test_too_many_components_are_clamped_with_a_warning(model, n_left):
    X = np.random.default_rng(0).standard_normal((3, 7))[[0, 1, 2, 1, 0]]
    with pytest.warns(UserWarning, match=rf"n_components=9 .* using n_components_={n_left}"):
        model.fit(X)
    assert model.n_components_ == n_left == len(model.components_)
    assert model.transform(X).shape == (5, n_left)
    assert model.n_components == 9


@pytest.mark.parametrize("model", BASELINES, ids=lambda model: type(model).__name__)
def test_bad_input_is_refused(model, X):
    with pytest.raises(ValueError, match="'n_components' parameter"):
        clone(model).set_params(n_components=0).fit(X)
    with pytest.raises(ValueError, match="contains NaN"):
        clone(model).fit(np.where(X > 2.0, np.nan, X))
