"""What should hold of every decomposer, on every kind of data that `testing` draws."""

import numpy as np
import pytest
from hypothesis import given, settings

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)
from semi_nmf_concepts.testing import (
    INVARIANTS,
    MATRIX_KINDS,
    applicable_invariants,
    check_factorization_invariants,
    matrices,
)

# The first example of a run may have to compile the kernels.
relaxed = settings(deadline=None, derandomize=True)

RELATIVE = {"n_components": 4, "alpha": 0.05, "alpha_scale": "relative"}
SETTINGS = {
    "absolute": SemiNMFConcepts(4, alpha=0.1),
    "relative": SemiNMFConcepts(**RELATIVE),
    "centred": SemiNMFConcepts(**RELATIVE, center=True),
    "whitened": SemiNMFConcepts(**RELATIVE, whiten=3),
    "n_active": SemiNMFConcepts(4, n_active=1.5, center=True),
    "no penalty": SemiNMFConcepts(3, alpha=0.0),
    "svd": SemiNMFConcepts(**RELATIVE, init="svd", n_init=2),
    "k-means++": SemiNMFConcepts(**RELATIVE, init="k-means++"),
}
#: Invariants that need a single fit, for backends that are slow on small data.
ONE_FIT = [
    *("finite", "dtype", "no_numeric_warnings", "row_order", "batch_split", "nonnegative_codes"),
    *("atom_norms", "optimal_codes", "alpha_max", "orthogonal_atoms", "zero_rows"),
]
BASELINES = [KMeansConcepts(4), PCAConcepts(4), SimpleConcepts(4)]


@pytest.mark.parametrize("name", SETTINGS)
def test_semi_nmf_keeps_every_invariant(name):
    model = SETTINGS[name]
    assert set(applicable_invariants(model)) == set(INVARIANTS)

    @settings(relaxed, max_examples=10)
    @given(matrices())
    def check(X):
        check_factorization_invariants(model, X)

    check()


@pytest.mark.parametrize("kind", MATRIX_KINDS)
def test_semi_nmf_keeps_every_invariant_on_each_kind_of_data(kind):
    @settings(relaxed, max_examples=4)
    @given(matrices(kind))
    def check(X):
        check_factorization_invariants(SETTINGS["centred"], X)

    check()


@pytest.mark.parametrize("model", BASELINES, ids=lambda model: type(model).__name__)
def test_the_other_decomposers_keep_theirs(model):
    @settings(relaxed, max_examples=40)
    @given(matrices())
    def check(X):
        check_factorization_invariants(model, X)

    check()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_enough_samples_for_the_online_epochs(dtype):
    rng = np.random.default_rng(0)
    V = rng.gamma(2.0, 1.0, (2200, 4)) * (rng.random((2200, 4)) < 0.4)
    X = V @ rng.standard_normal((4, 7)) + 0.1 * rng.standard_normal((2200, 7))
    check_factorization_invariants(SETTINGS["relative"], X.astype(dtype))


def test_several_threads_and_small_batches():
    X = np.random.default_rng(1).standard_normal((40, 6))
    check_factorization_invariants(SemiNMFConcepts(**RELATIVE, n_jobs=2, batch_size=7), X)


class Online(SemiNMFConcepts):
    """Learns by partial_fit alone, twice through the data."""

    def fit(self, X, y=None):
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        for _ in range(2):
            self.partial_fit(X)
        return self

    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X)

    def __factorization_invariants__(self):
        return [name for name in INVARIANTS if name != "objective_history"]


@pytest.mark.parametrize("name", ["absolute", "centred", "whitened"])
def test_online_learning_keeps_all_but_the_falling_history(name):
    model = Online(**SETTINGS[name].get_params()).set_params(batch_size=5)

    @settings(relaxed, max_examples=10)
    @given(matrices())
    def check(X):
        check_factorization_invariants(model, X)

    check()


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_arrays_of_other_libraries(library):
    xp = pytest.importorskip(library)

    @settings(relaxed, max_examples=4)
    @given(matrices())
    def check(X):
        check_factorization_invariants(SETTINGS["centred"], xp.asarray(X))

    check()


@pytest.mark.parametrize("name", ["centred", "whitened"])
def test_the_array_backend_keeps_what_asks_for_one_fit(name):
    model = SemiNMFConcepts(**SETTINGS[name].get_params())
    model.set_params(backend="torch", device="cpu")

    @settings(relaxed, max_examples=4)
    @given(matrices())
    def check(X):
        check_factorization_invariants(model, X, ONE_FIT)

    check()
