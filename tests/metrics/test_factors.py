"""Factor recovery: atoms chosen on one part, measured on another."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from semi_nmf_concepts.metrics import (
    choose_columns,
    factor_recovery,
    factor_recovery_score,
    linear_probe_recovery,
)


def make(n, seed, noise=1.0):
    """Factors and activations: atoms 0..2 detect the colours, atoms 3 and 4 the counts 1 and 2."""
    rng = np.random.default_rng(seed)
    factors = pd.DataFrame(
        {
            "colour": rng.choice(["black", "red", "white"], n),
            "count": rng.integers(1, 4, n),
            "object": "dog",
            "boxes": [[[0, 0, 1, 1]]] * n,
            "angle": rng.random(n),
            "number": np.arange(n),
        }
    )
    clean = [factors["colour"] == value for value in ("black", "red", "white")]
    clean += [factors["count"] == value for value in (1, 2)]
    activations = np.column_stack(clean) * 2.0 + noise * np.abs(rng.standard_normal((n, 5)))
    return activations, factors


def test_the_table_against_a_search_by_hand():
    (V, f), (V2, f2) = make(300, 0), make(200, 1)
    recovery = factor_recovery(V, f, V2, f2, n_bootstrap=100)
    assert list(recovery.table["value"]) == ["black", "red", "white", "1", "2", "3"]
    for row in recovery.table.itertuples():
        train, test = (
            f[row.factor].astype(str) == row.value,
            f2[row.factor].astype(str) == row.value,
        )
        on_train = [roc_auc_score(train, V[:, k]) for k in range(5)]
        assert row.component == np.argmax(on_train)
        assert row.auroc == pytest.approx(roc_auc_score(test, V2[:, row.component]))
        assert row.low <= row.auroc <= row.high
        assert (row.n_positive_train, row.n_positive_test) == (train.sum(), test.sum())
        assert row.sign == 1
    assert list(recovery.table["component"][:5]) == [0, 1, 2, 3, 4]
    assert recovery.ignored_columns == ["boxes", "angle", "number"]


def test_means():
    (V, f), (V2, f2) = make(300, 0), make(200, 1)
    recovery = factor_recovery(V, f, V2, f2, n_bootstrap=0)
    colour, count = recovery.table["auroc"][:3].mean(), recovery.table["auroc"][3:].mean()
    assert dict(recovery.per_factor) == pytest.approx({"colour": colour, "count": count})
    assert recovery.macro == pytest.approx((colour + count) / 2)
    assert recovery.macro_values == pytest.approx(recovery.table["auroc"].mean())
    assert recovery.table["low"].isna().all()
    assert "6 values of 2 factors" in repr(recovery)


def test_the_choice_uses_the_training_part_only():
    """An atom that is perfect on the test part but useless in training must not be taken."""
    rng = np.random.default_rng(0)
    f = pd.DataFrame({"colour": ["black", "white"] * 40})
    black = (f["colour"] == "black").to_numpy(float)
    train = np.column_stack([black + 0.8 * rng.standard_normal(80), rng.standard_normal(80)])
    test = np.column_stack([rng.standard_normal(80), black])
    recovery = factor_recovery(train, f, test, f)
    row = recovery.table.iloc[0]
    assert row["component"] == 0
    assert row["auroc"] == pytest.approx(roc_auc_score(black, test[:, 0]))


def test_random_activations_stay_at_chance_on_the_held_out_part():
    rng = np.random.default_rng(0)
    _, f = make(1200, 0)
    score = factor_recovery_score(rng.random((1200, 50)), f)
    assert abs(score - 0.5) < 0.05


def test_either_sign():
    (V, f), (V2, f2) = make(300, 0), make(200, 1)
    flip = np.array([-1, 1, -1, 1, 1])
    plain = factor_recovery(V, f, V2, f2, n_bootstrap=50)
    flipped = factor_recovery(V * flip, f, V2 * flip, f2, either_sign=True, n_bootstrap=50)
    first = slice(0, 5)  # the values that have an atom of their own
    np.testing.assert_allclose(flipped.table["auroc"][first], plain.table["auroc"][first])
    assert list(flipped.table["sign"][first]) == list(flip)
    assert (flipped.table["low"] <= flipped.table["auroc"]).all()
    assert (flipped.table["auroc"] <= flipped.table["high"]).all()
    one_sign = factor_recovery(V * flip, f, V2 * flip, f2, n_bootstrap=0)
    assert one_sign.macro < flipped.macro


def test_values_without_enough_samples_are_left_out_and_listed():
    V, f = make(120, 0)
    f["colour"] = ["black"] * 14 + ["red"] * 20 + ["white"] * 86
    _, f2 = make(120, 1)
    f2["colour"] = ["black"] * 20 + ["red"] * 14 + ["white"] * 60 + ["pink"] * 26
    f["rare"], f2["rare"] = [["no", "yes"][i < 110] for i in range(120)], f["colour"]
    recovery = factor_recovery(V, f, V, f2, columns=["colour", "object", "rare"], n_bootstrap=0)
    assert list(recovery.table["value"]) == ["white"]
    reasons = {(e["factor"], e["value"]): e["reason"] for e in recovery.left_out}
    assert reasons[("colour", "black")] == "fewer than 15 positive samples"
    assert reasons[("colour", "red")] == "fewer than 15 positive samples"
    assert reasons[("colour", "pink")] == "fewer than 15 positive samples"
    assert reasons[("object", "dog")] == "fewer than 15 negative samples"
    counts = next(e for e in recovery.left_out if e["value"] == "pink")
    assert (counts["n_positive_train"], counts["n_positive_test"]) == (0, 26)
    few = factor_recovery(V, f, V, f2, columns=["colour"], min_positives=14, n_bootstrap=0)
    assert list(few.table["value"]) == ["black", "red", "white"]


def test_columns_with_missing_values_are_ignored_unless_asked_for():
    V, f = make(120, 0)
    _, f2 = make(120, 1)
    partly = f2.assign(colour=[None, *f2["colour"][1:]])
    recovery = factor_recovery(V, f, V, partly, n_bootstrap=0)
    assert "colour" in recovery.ignored_columns
    assert "colour" not in set(recovery.table["factor"])
    assert choose_columns(f, partly)[1] == recovery.ignored_columns
    with pytest.raises(ValueError, match="'colour' has missing values"):
        factor_recovery(V, f, V, partly, columns=["colour"])


def test_nothing_to_score():
    V, f = make(40, 0)
    recovery = factor_recovery(V, f[["object"]], V, f[["object"]])
    assert recovery.table.empty
    assert np.isnan(recovery.macro)
    assert "left out" in repr(recovery)
    assert linear_probe_recovery(V, f[["object"]], V, f[["object"]]).table.empty
    with pytest.raises(ValueError, match="No factor value has 15"):
        factor_recovery_score(V, f[["object"]])


def test_results_are_deterministic_and_do_not_depend_on_the_index_or_the_order_of_rows():
    (V, f), (V2, f2) = make(300, 0), make(200, 1)
    one = factor_recovery(V, f, V2, f2, n_bootstrap=50)
    order = np.random.default_rng(0).permutation(300)
    two = factor_recovery(V[order], f.iloc[order], V2, f2.set_index("number"), n_bootstrap=50)
    pd.testing.assert_frame_equal(one.table, two.table)


def test_score_with_given_parts_is_that_of_the_recovery():
    V, f = make(400, 0)
    train, test = np.arange(250), np.arange(250, 400)
    expected = factor_recovery(V[:250], f[:250], V[250:], f[250:], n_bootstrap=0)
    assert factor_recovery_score(V, f, train=train, test=test) == pytest.approx(expected.macro)
    assert factor_recovery_score(V, f, train=train, test=test, average="values") == pytest.approx(
        expected.macro_values
    )
    assert factor_recovery_score(V, f) == factor_recovery_score(V, f)
    assert factor_recovery_score(V, f, random_state=1) != factor_recovery_score(V, f)


def test_the_linear_probe_is_a_ceiling_for_a_mixture():
    """A rotation hides the factors from single features, not from a linear probe."""
    (V, f), (V2, f2) = make(400, 0, 0.3), make(300, 1, 0.3)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    atoms = factor_recovery(V @ rotation, f, V2 @ rotation, f2, n_bootstrap=0)
    probe = linear_probe_recovery(V @ rotation, f, V2 @ rotation, f2, n_bootstrap=50)
    assert probe.macro > 0.98 > atoms.macro + 0.05
    assert set(probe.table["component"]) == {-1}
    assert (probe.table["low"] <= probe.table["auroc"]).all()
    black = (f2["colour"] == "black").to_numpy()
    assert probe.table["n_positive_test"][0] == black.sum()


def test_booleans_and_categories_are_factors_and_a_dict_will_do():
    flags = np.arange(80) % 2 == 0
    factors = {"flag": flags, "kind": pd.Categorical(np.where(flags, "a", "b"))}
    recovery = factor_recovery(flags[:, None], factors, flags[:, None], factors, n_bootstrap=0)
    assert list(recovery.table["value"]) == ["False", "True", "a", "b"]
    assert list(recovery.table["auroc"]) == [0, 1, 1, 0]


def test_wrong_arguments():
    V, f = make(60, 0)
    with_nan = V.copy()
    with_nan[7] = np.nan
    cases = [
        ((with_nan, f, V, f), {}, ValueError, r"NaN or infinity in 1 row\(s\), first in row 7"),
        (
            (V, f[:50], V, f),
            {},
            ValueError,
            "activations_train has 60 rows, but factors_train has 50",
        ),
        ((V, f, V[:, :3], f), {}, ValueError, "activations_test has 3"),
        ((V[:, 0], f, V, f), {}, ValueError, "activations_train must have two dimensions"),
        ((V.astype(str), f, V, f), {}, TypeError, "activations_train must hold numbers"),
        ((V, f, V, f), {"columns": ["size"]}, ValueError, r"columns \['size'\]"),
        ((V, f, V, f), {"columns": "colour"}, TypeError, "columns must be a list"),
        ((V, f, V, f), {"min_positives": 0}, ValueError, "min_positives"),
        ((V, f.assign(colour=None), V, f), {"columns": ["colour"]}, ValueError, "missing values"),
    ]
    for arguments, options, error, message in cases:
        with pytest.raises(error, match=message):
            factor_recovery(*arguments, **options)
    for options, message in [
        ({"test_size": 1.0}, "test_size"),
        ({"average": "mean"}, "average must be"),
        ({"train": [0, 1]}, "both train and test"),
        ({"train": [0, 1], "test": [1, 2]}, "share rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            factor_recovery_score(V, f, **options)


def test_the_score_comes_with_what_is_behind_it():
    factors = pd.DataFrame({"count": np.arange(300) % 3 + 1, "rare": ["yes"] * 5 + ["no"] * 295})
    activations = np.random.default_rng(0).random((300, 4)) + np.eye(4)[factors["count"]]
    score, recovery = factor_recovery_score(activations, factors, return_recovery=True)
    assert score == factor_recovery_score(activations, factors) == recovery.macro
    assert (recovery.table["low"] <= recovery.table["auroc"]).all()
    assert {entry["value"] for entry in recovery.left_out} == {"yes", "no"}
