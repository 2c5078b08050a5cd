"""Evaluate the concepts of two words, and read the result.

A small version of `semi-nmf-concepts evaluate --bundled`: fewer words, images and concepts, so that
it takes seconds.
"""

import tempfile
from pathlib import Path

from semi_nmf_concepts import LMMTokenFeaturizer, evaluate
from semi_nmf_concepts.datasets import load_scenes

tokens = ["dog", "bus"]
result = evaluate(
    LMMTokenFeaturizer("bundled", stop="token"),  # what follows the word plays no part
    {token: load_scenes("train", token=token, n=80) for token in tokens},
    {token: load_scenes("test", token=token, n=30) for token in tokens},
    tokens=tokens,
    methods=["semi-nmf", "kmeans"],
    n_components=10,
    seeds=(0, 1),
    clip="bundled",
    bert="bundled",
)

table = result.table("table1")  # a DataFrame whose cells are texts, for people
print(table[table["top"] == 1].drop(columns="top").to_string(index=False))
print(result.table("table2").to_string(index=False))

# The same numbers as numbers: `records` has a row for each, `tests` one for each comparison.
records = result.records
stability = records.query("table == 'stability' and method == 'Semi-NMF' and token != 'mean'")
print(stability[["token", "metric", "mean"]].round(3).to_string(index=False))
pooled = result.tests.query("token == 'mean' and metric == 'clip_score' and top == 1")
for test in pooled.itertuples():
    print(f"above {test.baseline}: {test.difference:+.3f}, p = {test.p_value:.1g} (n = {test.n})")

with tempfile.TemporaryDirectory() as folder:
    result.save(folder)  # the page, tables and figures; with evaluate(out=folder) as it goes
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    print("written:", ", ".join(sorted({path.suffix[1:] for path in files})), "files")
    print("read again:", type(result).load(folder))
