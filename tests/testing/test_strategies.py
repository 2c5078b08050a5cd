"""The strategies keep what their names promise, shrink, and draw the same example again."""

import subprocess
import sys
from random import Random

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from semi_nmf_concepts.testing import (
    MATRIX_KINDS,
    constant_columns,
    duplicated_rows,
    fewer_features_than_components,
    fewer_samples_than_components,
    huge_scale,
    matrices,
    one_feature,
    one_sample,
    planted_factors,
    rank_deficient,
    tiny_scale,
    zero_rows,
)

relaxed = settings(deadline=None, derandomize=True, max_examples=60)


@relaxed
@given(planted_factors(max_components=3))
def test_planted_factors_make_up_the_data(planted):
    n_samples, n_features = planted.X.shape
    assert planted.V.shape == (n_samples, len(planted.U)) and len(planted.U) <= 3
    assert planted.V.min() >= 0.0
    np.testing.assert_allclose(np.linalg.norm(planted.U, axis=1), 1.0, rtol=1e-6)
    residual = planted.X - planted.V.astype(float) @ planted.U
    rounding = 1e-6 * (1.0 + planted.V.max())
    assert np.abs(residual).max() <= 7.0 * planted.noise + rounding


@relaxed
@given(rank_deficient())
def test_rank_deficient(X):
    assert np.linalg.matrix_rank(X.astype(float)) < min(X.shape)


@relaxed
@given(duplicated_rows())
def test_duplicated_rows(X):
    assert len(np.unique(X, axis=0)) < len(X)


@relaxed
@given(zero_rows())
def test_zero_rows(X):
    assert np.any(~X.any(axis=1))


@relaxed
@given(huge_scale(), tiny_scale())
def test_scales_are_extreme_but_leave_the_squares_exact(huge, tiny):
    for X in (huge, tiny):
        largest = np.abs(X).max()
        if largest > 0.0:
            square = X.dtype.type(largest) ** 2
            assert np.finfo(X.dtype).tiny < square < np.finfo(X.dtype).max
            assert max(largest, 1.0 / largest) >= 2.0**14


@relaxed
@given(st.data(), st.integers(2, 6))
def test_sides_below_the_number_of_components(data, n_components):
    few = data.draw(fewer_samples_than_components(n_components=n_components))
    narrow = data.draw(fewer_features_than_components(n_components=n_components))
    assert 1 <= few.shape[0] < n_components
    assert 1 <= narrow.shape[1] < n_components


@relaxed
@given(constant_columns())
def test_constant_columns(X):
    assert np.any(np.ptp(X, axis=0) == 0.0)


@relaxed
@given(one_sample(), one_feature())
def test_one_sample_and_one_feature(row, column):
    assert row.shape[0] == 1
    assert column.shape[1] == 1


@pytest.mark.parametrize("kind", MATRIX_KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrices_of_every_kind_are_finite_and_bounded(kind, dtype):
    @settings(relaxed, max_examples=20)
    @given(matrices(kind, max_samples=9, max_features=5, dtypes=[dtype]))
    def check(X):
        assert X.dtype == dtype and X.ndim == 2 and X.flags.c_contiguous
        assert 1 <= X.shape[0] <= 9 and 1 <= X.shape[1] <= 5
        assert np.isfinite(X).all()

    check()


def smallest(strategy, condition):
    """What Hypothesis shrinks an example that meets the condition to."""
    return find(strategy, condition, settings=settings(database=None), random=Random(0))


@pytest.mark.parametrize("kind", MATRIX_KINDS)
def test_examples_shrink_to_small_matrices_of_zeros(kind):
    X = smallest(matrices(kind), lambda X: True)
    assert X.size <= 4 and not X.any() and X.dtype == np.float64


def test_shrinking_keeps_what_matters():
    X = smallest(matrices("zero_rows"), lambda X: X.any())
    np.testing.assert_array_equal(np.sort(X, axis=0), [[0.0], [0.25]])


def drawn(strategy, max_examples):
    """What Hypothesis draws from the strategy."""
    seen = []

    @settings(relaxed, max_examples=max_examples)
    @given(strategy)
    def draw(X):
        seen.append(X)

    draw()
    return seen


@pytest.mark.parametrize("kind", ["all", "huge_scale"])
def test_both_precisions_noise_and_larger_sizes_occur(kind):
    seen = drawn(matrices(kind), 200)
    assert {X.dtype.name for X in seen} == {"float32", "float64"}
    assert max(len(X) for X in seen) > 10
    assert any(np.any(np.frexp(X)[0] * 2**8 % 1 != 0.0) for X in seen)  # more than 8 bits


def test_the_same_choices_give_the_same_matrices():
    for first, second in zip(drawn(matrices(), 30), drawn(matrices(), 30), strict=True):
        np.testing.assert_array_equal(first, second)


@relaxed
@given(matrices(nonnegative=True))
def test_nonnegative_matrices(X):
    assert X.min() >= 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": "zero_row"}, r"kinds must be among \['planted_factors', .*; got 'zero_row'"),
        ({"kinds": ["zero_rows", "x"]}, "kinds must be among"),
        ({"kinds": []}, "kinds must be among"),
        ({"n_components": 1}, "n_components must be at least 2; got 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        matrices(**arguments)


IMPORTS = """
import sys
import semi_nmf_concepts.testing as testing
assert "hypothesis" not in sys.modules
testing.check_factorization_invariants
assert "torch" not in sys.modules and "hypothesis" not in sys.modules
testing.matrices()
assert "torch" not in sys.modules and "numba" not in sys.modules
"""
WITHOUT_HYPOTHESIS = """
import sys
sys.modules["hypothesis"] = None
from semi_nmf_concepts.testing import check_factorization_invariants
try:
    from semi_nmf_concepts.testing import matrices
except ImportError as error:
    assert 'pip install "semi_nmf_concepts[test]"' in str(error), error
else:
    raise AssertionError("no error")
"""


@pytest.mark.parametrize("code", [IMPORTS, WITHOUT_HYPOTHESIS], ids=["light", "no hypothesis"])
def test_imports(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
