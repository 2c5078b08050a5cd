"""Records become wide tables: every number at its place, in a fixed order."""

import numpy as np
import pandas as pd
import pytest

from semi_nmf_concepts.report import evaluation_tables, to_markdown_table
from tests._example_evaluation import LEVELS, TOKENS, example_evaluation

_TABLES = {
    "table1", "tests", "table2", "scatter", "layers", "n_components", "alpha", "stability",
    "recovery", "recovery_prefix", "codes",
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluation():
    return example_evaluation()


@pytest.fixture(scope="module")
def tables(evaluation):
    return evaluation_tables(evaluation.records, evaluation.tests)


def test_all_tables_with_plain_columns(tables):
    assert set(tables) == _TABLES
    for frame in tables.values():
        assert all(type(name) is str for name in frame.columns)
        assert frame.columns.is_unique and len(frame)


def test_each_record_is_in_its_cell(evaluation, tables):
    names = {"clip_score": "CLIPScore", "bert_score": "BERTScore"}
    found = tables["table1"].set_index(["metric", "top", "method"])
    rows = evaluation.records[evaluation.records["table"] == "table1"]
    for row in rows.to_dict("records"):
        cell = found.loc[(names[row["metric"]], row["top"], row["method"]), row["token"]]
        assert cell == f"{row['mean']:.3f} +/- {row['std']:.3f}"
    assert len(rows) == found[[*TOKENS, "mean"]].size


def test_order_does_not_follow_the_records(evaluation, tables):
    shuffled = evaluation.records.sample(frac=1, random_state=0)
    frame = evaluation_tables(shuffled)["table1"]
    assert list(frame["method"][: len(LEVELS)]) == list(LEVELS)
    assert list(frame["metric"].unique()) == ["CLIPScore", "BERTScore"]
    assert list(frame["top"].unique()) == [1, 3]
    assert frame.columns[-1] == "mean"
    columns = list(tables["table1"].columns)
    pd.testing.assert_frame_equal(frame[columns], tables["table1"])


def test_settings_are_ordered_by_size(tables):
    assert list(tables["n_components"]["n_components"][:4]) == [5, 10, 20, 40]
    assert list(tables["alpha"]["alpha"][:4]) == [0.01, 0.03, 0.1, 0.3]


def test_layers_that_are_names_or_counted_from_the_end():
    base = {"table": "layers", "method": "Semi-NMF", "metric": "l0", "token": "dog", "std": None}
    layers = ["final_norm", -1, 20, 3]
    records = pd.DataFrame([base | {"layer": layer, "mean": 1.0} for layer in layers])
    assert list(evaluation_tables(records)["layers"]["layer"]) == [3, 20, -1, "final_norm"]


def test_tests_have_sign_p_value_and_number_of_images(evaluation, tables):
    frame = tables["tests"].set_index(["metric", "top", "baseline"])
    row = evaluation.tests.query("token == 'bus' and metric == 'clip_score' and top == 1")
    row = row.set_index("baseline").loc["Noise-Imgs"]
    cell = frame.loc[("CLIPScore", 1, "Noise-Imgs"), "bus"]
    assert cell == f"{row['difference']:+.3f} (p < 0.001)"
    assert frame.loc[("CLIPScore", 1, "Noise-Imgs"), "n"] == 1200  # two tokens of 600 images


def test_recovery_by_factor_and_by_prefix(evaluation, tables):
    frame = tables["recovery"]
    assert list(frame.columns[:3]) == ["token", "method", "AUROC"]
    assert {"AUROC of colour", "AUROC of count", "disentanglement"} <= set(frame.columns)
    assert not [name for name in frame.columns if "prefix" in name]
    probe = frame[frame["method"] == "linear probe"]
    assert (probe["disentanglement"] == "").all() and (probe["AUROC"] != "").all()
    prefixes = tables["recovery_prefix"]
    assert list(prefixes["prefix"].unique()) == ["a ", "it's <b>", "the most frequent"]
    assert set(prefixes.loc[prefixes["prefix"] == "the most frequent", "token"]) == {"mean"}
    assert {"Semi-NMF", "linear probe", "ICA, either sign"} <= set(prefixes.columns)


def test_missing_numbers_are_empty_cells():
    empty = example_evaluation(n_test=0, curves=False)
    frame = evaluation_tables(empty.records, empty.tests)["table1"]
    assert (frame[["bus", "mean"]] == "").all(axis=None)


def test_a_single_token_has_no_column_of_means():
    single = example_evaluation(tokens=("dog",), chosen_on=(), curves=False)
    for name, frame in evaluation_tables(single.records, single.tests).items():
        assert "mean" not in frame.columns, name
        assert "mean" not in set(frame.get("token", ())), name


def test_tables_without_records_are_left_out():
    bare = example_evaluation(with_factors=False, curves=False)
    found = set(evaluation_tables(bare.records))
    assert found == {"table1", "table2", "scatter", "codes"}
    assert evaluation_tables(pd.DataFrame(), pd.DataFrame()) == {}


def test_of_repetitions_the_first_counts():
    row = {"table": "table2", "token": "dog", "method": "PCA", "metric": "overlap", "std": None}
    records = pd.DataFrame([row | {"mean": 0.1}, row | {"mean": 0.9}])
    assert list(evaluation_tables(records)["table2"]["dog"]) == ["0.100"]


def test_unknown_methods_and_metrics_are_kept():
    row = {"table": "codes", "token": "dog", "std": None, "mean": 0.5}
    records = pd.DataFrame([row | {"method": "mine", "metric": "my_metric"}])
    frame = evaluation_tables(records)["codes"]
    assert frame.to_dict("records") == [{"metric": "my_metric", "method": "mine", "dog": "0.500"}]


def test_markdown_escapes_what_would_break_a_cell():
    frame = pd.DataFrame({"a|b": ["x|y\nz", "<script>", "$x^2$"], "n": [1, 2.5, np.nan]})
    lines = to_markdown_table(frame).splitlines()
    assert lines[0] == r"| a\|b | n |"
    assert lines[1] == "|---|---:|"
    assert lines[2:] == [r"| x\|y z | 1.0 |", r"| \<script> | 2.5 |", r"| \$x^2\$ |  |"]


def test_markdown_of_every_table_is_rectangular(tables):
    import re

    for frame in tables.values():
        lines = to_markdown_table(frame).splitlines()
        assert len(lines) == len(frame) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {frame.shape[1] + 1}


def test_markdown_without_rows():
    assert to_markdown_table(pd.DataFrame({"a": []})) == "| a |\n|---|\n"
