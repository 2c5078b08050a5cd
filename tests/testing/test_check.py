"""The checks pass for estimators that are right, and each catches those that break it."""

import copy
import itertools
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.decomposition import (
    NMF,
    PCA,
    DictionaryLearning,
    MiniBatchDictionaryLearning,
    TruncatedSVD,
)
from sklearn.linear_model import LinearRegression

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)
from semi_nmf_concepts.testing import (
    GROUPS,
    INVARIANTS,
    MATRIX_KINDS,
    applicable_invariants,
    check_factorization_invariants,
    matrices,
)

COUNTER = itertools.count(1)
BROKEN = []


def planted(dtype=np.float64):
    rng = np.random.default_rng(0)
    V = rng.gamma(2.0, 1.0, (30, 3)) * (rng.random((30, 3)) < 0.5)
    U = np.linalg.qr(rng.standard_normal((6, 3)))[0].T + 0.1
    return (V @ U + 0.05 * rng.standard_normal((30, 6))).astype(dtype)


def violates(name):
    """Register a class as one that the invariant of that name has to catch."""

    def register(cls):
        BROKEN.append((name, cls))
        return cls

    return register


class Spoilt(SemiNMFConcepts):
    """SemiNMFConcepts with something changed after fit or in transform."""

    def fit(self, X, y=None):
        super().fit(X)
        self.spoil(X)
        return self

    def transform(self, X):
        return self.spoil_codes(super().transform(X))

    def spoil(self, X):
        pass

    def spoil_codes(self, V):
        return V

    def set_dictionary(self, U):
        self.dictionary_ = self.components_ = U


@violates("shapes")
class ForgetsAComponent(Spoilt):
    def spoil_codes(self, V):
        return V[:, :-1]


@violates("finite")
class DividesByZero(Spoilt):
    def spoil_codes(self, V):
        V[0, 0] = np.nan
        return V


@violates("dtype")
class ComputesInDouble(Spoilt):
    def spoil_codes(self, V):
        return V.astype(np.float64)


@violates("repeatable_transform")
class DrawsCodes(Spoilt):
    def spoil_codes(self, V):
        return V * (1.0 + 1e-3 * next(COUNTER))


@violates("repeatable_transform")
class WritesToX(Spoilt):
    def spoil(self, X):
        X[0, 0] += 1.0


@violates("reconstruction")
class ReconstructsTooLittle(Spoilt):
    def inverse_transform(self, V):
        return super().inverse_transform(V)[:, 1:]


@violates("reconstruction")
class ReconstructsNaN(Spoilt):
    def inverse_transform(self, V):
        return super().inverse_transform(V) / np.float64(0.0) * 0.0


@violates("same_seed")
class DrawsItsFit(Spoilt):
    def spoil(self, X):
        self.set_dictionary(self.components_ * (1.0 - 1e-3 * next(COUNTER)))


@violates("clone_round_trip")
class ClonesFitted(Spoilt):
    def __sklearn_clone__(self):
        return copy.deepcopy(self)


@violates("clone_round_trip")
class ChangesParameters(Spoilt):
    def __init__(self, n_components=20, *, alpha=1.0):
        super().__init__(n_components, alpha=1.0001 * alpha)


@violates("clone_round_trip")
class CarriesState(Spoilt):
    """What a fit leaves behind comes along with the clone, and changes its fit."""

    def __sklearn_clone__(self):
        new = type(self)(**self.get_params())
        new.shrinkage = 0.999 if hasattr(self, "components_") else 1.0
        return new

    def spoil(self, X):
        self.set_dictionary(self.components_ * getattr(self, "shrinkage", 1.0))


@violates("set_params_round_trip")
class ReadsParametersEarly(Spoilt):
    def __init__(self, n_components=20, *, alpha=1.0, random_state=None):
        super().__init__(n_components, alpha=alpha, random_state=random_state)
        self.length = 1.0 - 1e-3 * alpha

    def spoil(self, X):
        self.set_dictionary(self.components_ * self.length)


class Lossy(Spoilt):
    def __getstate__(self):
        state = dict(super().__getstate__())
        if "components_" in state:
            state["components_"] = state["components_"].astype(np.float16).astype(np.float64)
        return state


violates("pickle_round_trip")(Lossy)
violates("skops_round_trip")(Lossy)


class LosesTheMean(Spoilt):
    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "mean_"}


violates("pickle_round_trip")(LosesTheMean)
violates("skops_round_trip")(LosesTheMean)


class Unstorable(Spoilt):
    def spoil(self, X):
        self.callback_ = lambda: None


violates("pickle_round_trip")(Unstorable)
violates("skops_round_trip")(Unstorable)


@violates("fit_transform")
class ReturnsTheCodesBefore(Spoilt):
    def fit_transform(self, X, y=None):
        return super().fit_transform(X) * 1.001


@violates("score")
class ScoresOnAnotherScale(Spoilt):
    def score(self, X, y=None):
        return super().score(X) - 1e-3


@violates("score")
class ScoresAboveOne(Spoilt):
    def score(self, X, y=None):
        return 1.0 + 1e-6


@violates("linear_reconstruction")
class ReconstructsTooMuch(Spoilt):
    def inverse_transform(self, V):
        return super().inverse_transform(V) + 1e-6 * (V > 0).any(axis=1, keepdims=True)


@violates("no_numeric_warnings")
class DividesByZeroQuietly(Spoilt):
    def spoil_codes(self, V):
        return np.where(V > 0.0, V / V, 0.0) * V


@violates("row_order")
class DependsOnPosition(Spoilt):
    def spoil_codes(self, V):
        return V * (1.0 + 1e-3 * np.arange(len(V))[:, None])


@violates("batch_split")
class DependsOnTheBatch(Spoilt):
    def spoil_codes(self, V):
        return V * (1.0 + 1e-2 / len(V))


@violates("threads")
class DependsOnThreads(Spoilt):
    def spoil_codes(self, V):
        return V * (1.0 + 1e-3 * (self.n_jobs or 1))


@violates("nonnegative_codes")
class NegativeCodes(Spoilt):
    def spoil_codes(self, V):
        return np.where(V == 0.0, V.dtype.type(-1e-8), V)


@violates("atom_norms")
class LongAtoms(Spoilt):
    def spoil(self, X):
        self.set_dictionary(1.1 * self.components_)


@violates("optimal_codes")
class InexactCodes(Spoilt):
    def spoil_codes(self, V):
        return np.where(V > 0.0, V + V.dtype.type(1e-3), V)


@violates("optimal_codes")
class ThresholdedCodes(Spoilt):
    def spoil_codes(self, V):
        return np.where(V > 0.1, V, V.dtype.type(0.0))


@violates("optimal_codes")
class AdmitsViolation(Spoilt):
    def spoil(self, X):
        self.kkt_violation_ = 1e-3


@violates("objective_history")
class ShowsARise(Spoilt):
    def spoil(self, X):
        lowest = self.objective_history_[-1]
        self.objective_history_ = np.append(self.objective_history_, 1.0001 * lowest)


@violates("objective_history")
class HidesARise(Spoilt):
    """The second iteration makes it worse, and the history says nothing of it."""

    def spoil(self, X):
        if self.max_iter == 2:
            self.set_dictionary(np.roll(self.components_, 1, axis=1))
            V = self.transform(X)
            error = np.sum((X - V @ self.components_) ** 2)
            self.objective_ = 0.5 * error + self.alpha_ * V.sum()


@violates("objective_history")
class MisreportsTheObjective(Spoilt):
    def spoil(self, X):
        self.objective_ *= 1.001


class WithOtherPenalty(Spoilt):
    factor = 1.0

    def transform(self, X):
        other = copy.copy(self)
        other.alpha_ = self.factor * self.alpha_
        return SemiNMFConcepts.transform(other, X)


@violates("alpha_max")
@violates("orthogonal_atoms")
class WithSmallerPenalty(WithOtherPenalty):
    factor = 0.999


@violates("alpha_max")
class WithLargerPenalty(WithOtherPenalty):
    factor = 1.001


@violates("orthogonal_atoms")
class ShrinksCodes(Spoilt):
    def spoil_codes(self, V):
        return V * V.dtype.type(0.999)


@violates("zero_rows")
class NeverZero(Spoilt):
    def spoil_codes(self, V):
        return np.maximum(V, 1e-9)


@violates("scale_equivariance")
class AbsoluteThreshold(Spoilt):
    def spoil_codes(self, V):
        return np.where(V > 1e-5, V, V.dtype.type(0.0))


@violates("scale_equivariance")
class ReseedsBelowAbsoluteUse(Spoilt):
    def spoil(self, X):
        usage = np.sum(self.transform(X) ** 2, axis=0)
        self.set_dictionary(np.where(usage[:, None] > 1e-6, self.components_, 0.0))


@pytest.mark.parametrize(
    ("name", "broken"), BROKEN, ids=[f"{name}-{cls.__name__}" for name, cls in BROKEN]
)
def test_a_broken_estimator_is_caught_by_the_invariant_it_breaks(name, broken):
    dtype = np.float32 if name == "dtype" else np.float64
    with pytest.raises(AssertionError, match=f"^{broken.__name__} violates '{name}'"):
        check_factorization_invariants(broken(3, alpha=0.1), planted(dtype), name)
    with pytest.raises(AssertionError, match=f"^{broken.__name__} violates"):
        check_factorization_invariants(broken(3, alpha=0.1), planted(dtype))


def test_every_invariant_can_fail():
    assert {name for name, _ in BROKEN} == set(INVARIANTS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_broken_ones_derive_from_passes(dtype):
    for cls in (Spoilt, WithOtherPenalty):
        check_factorization_invariants(cls(3, alpha=0.1), planted(dtype))


@pytest.mark.parametrize(
    "broken", [InexactCodes, DependsOnPosition, ShrinksCodes, LongAtoms, NegativeCodes]
)
def test_single_precision_is_no_excuse(broken):
    with pytest.raises(AssertionError, match=f"^{broken.__name__} violates"):
        check_factorization_invariants(broken(3, alpha=0.1), planted(np.float32), "semi_nmf")


@pytest.mark.parametrize(
    "estimator",
    [
        PCA(2),
        TruncatedSVD(2),
        NMF(2, max_iter=50),
        MiniBatchDictionaryLearning(
            2,
            batch_size=8,
            max_iter=5,
            positive_code=True,
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
        ),
        KMeansConcepts(2),
        PCAConcepts(2),
        SimpleConcepts(2),
        SemiNMFConcepts(2, alpha=0.1),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_that_are_right_pass(estimator):
    @settings(deadline=None, derandomize=True, max_examples=5)
    @given(
        matrices("planted_factors", nonnegative=True, max_samples=12).filter(
            lambda X: min(X.shape) > 2
        )
    )
    def check(X):
        check_factorization_invariants(estimator, X)

    check()


def test_what_other_estimators_lack_is_found_by_name():
    X = np.abs(planted())
    with pytest.raises(AssertionError, match=r"PCA violates 'nonnegative_codes'.*sample \d+, atom"):
        check_factorization_invariants(PCA(2), X, "nonnegative_codes")
    with pytest.raises(AssertionError, match="DictionaryLearning violates 'fit_transform'"):
        model = DictionaryLearning(3, alpha=0.1, max_iter=5, transform_algorithm="lasso_cd")
        check_factorization_invariants(model, X, ["fit_transform"])
    with pytest.raises(AssertionError, match="PCA violates 'optimal_codes'.*neither an attribute"):
        check_factorization_invariants(PCA(2), X, "optimal_codes")


def test_applicable_invariants():
    general = set(GROUPS["general"])
    assert set(applicable_invariants(PCA())) == general
    assert set(applicable_invariants(NMF())) == general | {"nonnegative_codes"}
    positive = MiniBatchDictionaryLearning(positive_code=True)
    assert set(applicable_invariants(positive)) == general | {"nonnegative_codes"}
    assert "reconstruction" not in applicable_invariants(LinearRegression())
    assert set(applicable_invariants(SemiNMFConcepts())) == set(INVARIANTS)
    assert "nonnegative_codes" in applicable_invariants(KMeansConcepts())
    assert "linear_reconstruction" in applicable_invariants(PCAConcepts())
    assert set().union(*GROUPS.values()) == set(INVARIANTS)
    assert all(len(text) > 20 and "\n" not in text for text in INVARIANTS.values())


class Declaring(PCA):
    names = ("finite",)

    def __factorization_invariants__(self):
        return self.names


def test_an_estimator_declares_what_applies():
    assert applicable_invariants(Declaring()) == ("finite",)
    wrong = Declaring(2)
    wrong.names = ["finite", "nonegative_codes"]
    pattern = r"Declaring.__factorization_invariants__ names \['nonegative_codes'\]; known are"
    with pytest.raises(ValueError, match=pattern):
        check_factorization_invariants(wrong, planted())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "everything",
            r"names \['everything'\]; known are the invariants \['shapes', .*'semi_nmf'",
        ),
        (["finite", "rank"], r"names \['rank'\]; known are"),
        ("threads", r"'threads', which needs \['n_jobs'\]; TruncatedSVD has no such"),
    ],
)
def test_unknown_or_impossible_invariants_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_factorization_invariants(TruncatedSVD(2), planted(), names)


def test_estimators_without_components_and_bad_data_are_refused():
    with pytest.raises(TypeError, match="with components_ after fit; Fits has none"):
        check_factorization_invariants(
            type("Fits", (LinearRegression,), {"fit": lambda self, X: self})(), planted()
        )
    with pytest.raises(ValueError, match="contains NaN"):
        check_factorization_invariants(PCA(2), [[np.nan, 1.0]])


def test_the_estimator_stays_as_it_is():
    model = SemiNMFConcepts(3, alpha=0.1, random_state=0).fit(planted())
    before = {name: copy.deepcopy(value) for name, value in vars(model).items()}
    check_factorization_invariants(model, planted()[:9])
    np.testing.assert_equal(vars(model), before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_message_reproduces_the_violation(dtype):
    with pytest.raises(AssertionError) as caught:
        check_factorization_invariants(
            NegativeCodes(2, alpha=0.1), planted(dtype)[:5], ["nonnegative_codes"]
        )
    code = re.search(r"To see it again:\n(.*)", str(caught.value), re.DOTALL)[1]
    names = {**globals(), "np": np}
    with pytest.raises(AssertionError, match="NegativeCodes violates 'nonnegative_codes'"):
        exec("if True:\n" + code, names)


def test_an_error_of_the_estimator_says_during_which_check():
    with pytest.raises(ValueError, match="n_components") as caught:
        check_factorization_invariants(PCA(7), planted())
    assert "While checking 'shapes'" in caught.value.__notes__[0]
    assert "estimator = PCA(n_components=7" in caught.value.__notes__[0]


def test_the_tolerance_can_be_given():
    with pytest.raises(AssertionError, match=r"\['optimal_codes'\], tolerance=1e-06\)"):
        check_factorization_invariants(
            InexactCodes(3, alpha=0.1), planted(), "optimal_codes", tolerance=1e-6
        )
    check_factorization_invariants(
        InexactCodes(3, alpha=0.1), planted(), "optimal_codes", tolerance=0.1
    )


PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def documented_example():
    decomposers = PAGE.read_text(encoding="utf-8").partition("# Testing a model")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", decomposers, re.MULTILINE | re.DOTALL)
    return code


def run_as_module(code, monkeypatch):
    """A module, so that its classes can be pickled."""
    module = types.ModuleType("documented_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, vars(module))
    return module


def test_the_documented_example_runs(monkeypatch):
    run_as_module(documented_example(), monkeypatch).test_invariants()


def test_the_documented_message_is_what_a_mistake_gives(monkeypatch):
    correct = "np.maximum(X @ self.components_.T, 0.0)"
    code = documented_example()
    assert correct in code
    module = run_as_module(code.replace(correct, "X @ self.components_.T"), monkeypatch)
    with pytest.raises(
        AssertionError, match="PositiveScores violates 'nonnegative_codes'"
    ) as found:
        module.test_invariants()
    text = PAGE.read_text(encoding="utf-8")
    documented = re.search(r"^AssertionError: (.* the code of sample)", text, re.MULTILINE)
    assert str(found.value).startswith(documented[1])


def test_the_page_names_every_invariant_and_kind():
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert set(INVARIANTS) | set(MATRIX_KINDS) <= named
