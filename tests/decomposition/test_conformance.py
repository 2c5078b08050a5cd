"""scikit-learn's own checks of an estimator, none of them expected to fail."""

import pytest
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
