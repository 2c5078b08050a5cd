"""scikit-learn's own checks, none of them expected to fail, and its meta-estimators.

The checks of arrays that are not NumPy's need SCIPY_ARRAY_API=1, which conftest.py sets.
"""

import os

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)

ESTIMATORS = [
    SemiNMFConcepts(random_state=0),
    SemiNMFConcepts(3, alpha=0.1, random_state=0),
    SemiNMFConcepts(3, alpha=0.1, alpha_scale="relative", center=True, random_state=0),
    SemiNMFConcepts(2, n_active=1.0, random_state=0),
    SemiNMFConcepts(3, alpha=0.1, whiten=2, init="k-means++", random_state=0),
    SemiNMFConcepts(2, alpha=0.1, init="random", n_init=2, random_state=0),
    SemiNMFConcepts(2, alpha=0.1, warm_start=True, random_state=0),
    SemiNMFConcepts(2, alpha=0.1, batch_size=4, forgetting=1.0, n_jobs=2, random_state=0),
    KMeansConcepts(3, random_state=0),
    PCAConcepts(2),
    SimpleConcepts(2),
]


# Whatever the estimator, the checks fit one sample, one feature, one iteration or constant rows, so
# that these warnings are right there; any other one is a failure.
@pytest.mark.filterwarnings("ignore:.*n_components=.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*n_active=.*cannot be reached:UserWarning")
@pytest.mark.filterwarnings("ignore:All codes are zero:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_the_checks_of_other_arrays_were_not_skipped():
    assert os.environ.get("SCIPY_ARRAY_API")


DECOMPOSERS = [
    SemiNMFConcepts(3, alpha=0.1, random_state=0),
    KMeansConcepts(3, random_state=0),
    PCAConcepts(3),
    SimpleConcepts(3),
]


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(90, 3)) @ rng.standard_normal((3, 6))
    return pd.DataFrame(X + 0.1 * rng.standard_normal(X.shape)).add_prefix("unit")


def test_classes_of_decomposers_swap_in_a_grid_search(frame):
    y = frame["unit0"] > frame["unit0"].median()
    pipeline = Pipeline([("scale", StandardScaler()), ("concepts", DECOMPOSERS[0])])
    pipeline.steps.append(("classify", LogisticRegression()))
    grid = {"concepts": DECOMPOSERS, "concepts__n_components": [2, 3]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(frame, y)
    assert len(search.cv_results_["params"]) == 8
    assert search.best_score_ > 0.8


@pytest.mark.parametrize("model", DECOMPOSERS, ids=lambda model: type(model).__name__)
def test_cross_validation_scores_held_out_samples(model, frame):
    scores = cross_validate(model, frame, cv=3, return_train_score=True, error_score="raise")
    assert np.isfinite(scores["test_score"]).all()
    assert scores["train_score"].mean() >= scores["test_score"].mean()


@pytest.mark.parametrize("model", DECOMPOSERS, ids=lambda model: type(model).__name__)
def test_columns_keep_their_names_in_a_column_transformer(model, frame):
    columns = list(frame.columns[:4])
    transformer = make_column_transformer((model, columns), remainder="passthrough")
    codes = transformer.set_output(transform="pandas").fit_transform(frame)
    prefix = type(model).__name__.lower()
    expected = [f"{prefix}__{prefix}{k}" for k in range(3)] + [
        "remainder__unit4",
        "remainder__unit5",
    ]
    assert list(codes.columns) == expected
    inner = transformer.named_transformers_[prefix]
    assert_array_equal(inner.feature_names_in_, columns)
    assert_array_equal(inner.transform(frame[columns]).to_numpy(), codes.iloc[:, :3])


@pytest.mark.parametrize("model", DECOMPOSERS, ids=lambda model: type(model).__name__)
def test_pipelines_reconstruct(model, frame):
    pipeline = make_pipeline(StandardScaler(), model).fit(frame)
    back = pipeline.inverse_transform(pipeline.transform(frame))
    assert back.shape == frame.shape
    assert np.isfinite(back).all()
