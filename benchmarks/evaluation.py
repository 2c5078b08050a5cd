"""The bundled evaluation, kept, and whether it shows what it must.

::

    python -m benchmarks.evaluation --write

runs ``semi-nmf-concepts evaluate --bundled`` (steps that are finished are not done again), checks
the bars below and keeps records, tables and figures in ``benchmarks/results/evaluation``; the page
and the grids of images stay where the command wrote them. The bars are about the tokens on which
nothing was chosen.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd

from benchmarks._record import RESULTS, recorded
from semi_nmf_concepts.cli import main as command
from semi_nmf_concepts.evaluation import Evaluation

OURS = "Semi-NMF"
CHANCE = ("Rnd-Words (direction)", "Rnd-Words (shuffle)", "Noise-Imgs")
P_VALUE = 0.01
MAX_ACTIVE = 8.0
STABLE = 0.9
KEPT = ("results.json", "tables", "figures")


def value(rows: pd.DataFrame, **where) -> float:
    """The mean of the one record that fits."""
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} records for {where}")
    return float(rows["mean"].iloc[0])


def check_bars(result: Evaluation) -> dict[str, bool]:
    """Every bar and whether it holds."""
    records, bars = result.records, {}
    reported = [t for t in result.settings["tokens"] if t not in result.settings["chosen_on"]]
    tests = result.tests.set_index(["token", "metric", "top", "baseline"])
    for metric in ("clip_score", "bert_score"):
        for top in (1, 3):
            for baseline in CHANCE:
                test = tests.loc[("mean", metric, top, baseline)]
                bars[
                    f"{metric} top {top}: {OURS} above {baseline} by {test['difference']:.3f}, "
                    f"p = {test['p_value']:.1e}, {int(test['n'])} images"
                ] = test["difference"] > 0 and test["p_value"] < P_VALUE
    table2 = records[records["table"] == "table2"]
    for token in reported:
        ours = value(table2, token=token, method=OURS)
        others = {m: value(table2, token=token, method=m) for m in ("KMeans", "Simple")}
        text = ", ".join(f"{name} {number:.3f}" for name, number in others.items())
        bars[f"overlap of {token}: {OURS} {ours:.3f} below {text}"] = ours < min(others.values())
    recovery = records[(records["table"] == "recovery") & (records["token"] == "mean")]
    for metric in ("auroc", "auroc[prefix]"):
        of_metric = recovery[recovery["metric"] == metric]
        ours = value(of_metric, method=OURS)
        for other in ("KMeans", "Simple", "PCA"):
            theirs = value(of_metric, method=other)
            bars[f"recovery, {metric}: {OURS} {ours:.3f} above {other} {theirs:.3f}"] = (
                ours > theirs
            )
    active = value(records, table="codes", token="mean", method=OURS, metric="l0")
    bars[f"{active:.2f} of at most {MAX_ACTIVE:g} atoms active"] = active <= MAX_ACTIVE
    stable = value(records, table="stability", token="mean", method=OURS)
    bars[f"stability over {len(result.settings['seeds'])} seeds: {stable:.3f}"] = stable >= STABLE
    layers = records[(records["table"] == "layers") & (records["token"] == "mean")]
    for metric in ("mas_clip_score", "mas_bert_score"):
        rows = layers[(layers["metric"] == metric) & (layers["method"] == OURS)]
        curve = rows.sort_values("layer")["mean"].tolist()
        half = len(curve) // 2
        text = " ".join(f"{number:.3f}" for number in curve)
        bars[f"{metric} by layer: {text}"] = min(curve[half:]) > max(curve[:half])
    return bars


def show(result: Evaluation) -> None:
    """Print the tables that fit on a page."""
    for name in ("table1", "table2", "scatter", "layers", "stability", "recovery", "codes"):
        print(f"\n=== {name}\n{result.table(name).to_string(index=False)}")
    tests = result.tests[result.tests["token"] == "mean"].drop(columns="token")
    print(f"\n=== paired tests, all reported tokens\n{tests.to_string(index=False)}")


def keep(out: Path) -> None:
    """Copy what is small enough to be committed."""
    target = RESULTS / "evaluation"
    shutil.rmtree(target, ignore_errors=True)
    grids = shutil.ignore_patterns("concepts_*", "*_in_full.csv")
    target.mkdir(parents=True)
    for name in KEPT:
        source = out / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=grids)
        else:
            shutil.copy(source, target / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"))
    parser.add_argument("--write", action="store_true", help="keep the results in results/")
    args = parser.parse_args()
    status = command(["evaluate", "--bundled", "--out", str(args.out)])
    if status:
        sys.exit(status)
    result = Evaluation.load(args.out)
    with recorded("evaluation", args.write):
        seconds = result.settings["seconds"]
        print(f"{seconds:.0f} s (steps that were finished before take no time again)")
        show(result)
        print()
        bars = check_bars(result)
        for name, holds in bars.items():
            print(f"  {'holds ' if holds else 'MISSED'} {name}")
    if args.write:
        keep(args.out)
    missed = [name for name, holds in bars.items() if not holds]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
