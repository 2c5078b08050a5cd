"""The solver against its peers: objective reached, time to it, codes, threads, memory.

    python -m benchmarks.solvers [--quick] [--cases A,C] [--seeds 5] [--limit 60] [--peers SPAMS]
                                 [--slow-seeds 2] [--skip-bars] [--reuse] [--write]

Every method runs on one thread from one start per data seed (n_init = 1), on the cases of
`benchmarks.solver_data`, on the bundled model's hidden states (Z) and, without penalty ("plain"),
against overcomplete. A peer runs until F* improves by less than 1e-4 while its time doubles, for at
least a second, or until it is censored. Every dictionary is scored outside the clock by
F*(U) = min_V F in float64. The target of the times is the best F* of SPAMS, either algorithm, times
1.001; without penalty it is the bound by the singular values times 1.002.

Peers besides scikit-learn: benchmarks/requirements.txt. `--quick`: few cases, one seed, 4 s per
peer. Results of finished cases are kept in out/solvers/; `--reuse` takes them from there. The exit
status is 1 if a bar is missed.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks import _bars
from benchmarks._cases import run_case
from benchmarks._isolated import THREAD_VARIABLES
from benchmarks._peers import OURS, PLAIN, SPARSE, warm_up
from benchmarks._record import RESULTS, header, recorded
from benchmarks.solver_data import CASES, bundled_states, states

WORK = Path("out") / "solvers"
PEERS = [name for name in SPARSE | PLAIN if name != OURS]


@dataclass(frozen=True)
class Plan:
    """One case of the run."""

    data: object  # function of the seed
    n_components: int
    alpha: float = 1.0
    most_seeds: int = 1_000
    spacing: float = 1.05  # of the laps kept, as a factor of time


def small_states(seed):
    """Data on which slow solvers come to an end too."""
    return states(600, 128, 10, seed=seed)


@cache
def _bundled():
    kept = WORK / "Z.npy"
    if not kept.exists():
        Z = bundled_states()  # runs the model over a few thousand images
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, Z)
    return np.load(kept)


def bundled_rows(seed):
    """Four fifths of the bundled model's states, drawn by the seed."""
    Z = _bundled()
    rows = np.random.default_rng(seed).permutation(len(Z))[: 4 * len(Z) // 5]
    return np.ascontiguousarray(Z[np.sort(rows)], dtype=np.float32)


PLANS = {
    **{name: Plan(case.X, case.n_components, case.alpha) for name, case in CASES.items()},
    # A dictionary of 1024 atoms has 8 MiB, and its score takes seconds.
    "K1024": Plan(CASES["K1024"].X, 1_024, most_seeds=1, spacing=1.3),
    "Z": Plan(bundled_rows, 20),
    "A-plain": Plan(CASES["A"].X, 20, alpha=0.0),
    "small-plain": Plan(small_states, 10, alpha=0.0),
}
QUICK = ("A", "D", "small-plain")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less than three minutes")
    parser.add_argument("--cases", help="comma-separated, of " + ", ".join(PLANS))
    parser.add_argument("--seeds", type=int, help="data seeds (5)")
    parser.add_argument("--limit", type=float, help="seconds after which a peer is censored (60)")
    parser.add_argument("--slow-seeds", type=int, help="data seeds for scikit-learn's (all)")
    parser.add_argument("--peers", help="comma-separated beginnings of " + ", ".join(PEERS))
    parser.add_argument(
        "--skip-bars", action="store_true", help="leave out what is timed at the end"
    )
    parser.add_argument("--reuse", action="store_true", help="take finished cases from out/solvers")
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    arguments = parser.parse_args(argv)
    arguments.seeds = arguments.seeds or (1 if arguments.quick else 5)
    arguments.limit = arguments.limit or (4.0 if arguments.quick else 60.0)
    arguments.cases = _chosen(parser, arguments.cases, PLANS, QUICK if arguments.quick else PLANS)
    arguments.peers = _chosen(parser, arguments.peers, PEERS, PEERS)
    return arguments


def _chosen(parser, text, known, default):
    """Those of `known` that equal, or else begin with, one of the comma-separated names."""
    if text is None:
        return tuple(default)
    chosen = []
    for wanted in text.split(","):
        exact = [name for name in known if name == wanted]
        found = exact or [name for name in known if name.startswith(wanted)]
        if not found:
            parser.error(f"{wanted!r} is none of {', '.join(known)}")
        chosen += found
    return tuple(chosen)


def main(argv=None):
    arguments = parse(argv)
    name = "solvers_quick" if arguments.quick else "solvers"
    with recorded(name, arguments.write):
        results = report(arguments)
    if arguments.write:
        from benchmarks._solver_plot import save_plot

        (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
        save_plot(results["cases"], RESULTS / f"{name}.png")
    return 1 if any(bar["reached"] is False for bar in results["bars"]) else 0


def report(arguments):
    """Run what was asked for and print it; all results."""
    started = time.perf_counter()
    if not arguments.write:
        print(header())
    print(_versions_of_peers(), flush=True)
    warm_up([OURS, *arguments.peers])
    cases = {name: _case(name, arguments) for name in arguments.cases}
    bars = _bars.from_cases(cases)
    print_cases(cases)
    if not arguments.skip_bars:
        bars += _bars.timed(arguments.quick)
    print("\nWhat it must reach (medians over seeds unless said)\n")
    for bar in bars:
        print(bar)
    missed = sum(bar.reached is False for bar in bars)
    measured = sum(bar.reached is not None for bar in bars)
    print(f"\n{measured - missed} of {measured} bars reached, {missed} missed.")
    print(f"Run in {(time.perf_counter() - started) / 60:.0f} min.")
    return {"header": header(), "cases": cases, "bars": [bar.as_json() for bar in bars]}


def _versions_of_peers():
    found = []
    for package in ("spams-bin", "overcomplete"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return "Peers: " + ", ".join(found) + ". One thread each; seconds are the processor's."


def _case(name, arguments):
    """Run the case, or take it from an earlier run."""
    kept = WORK / f"{name}.json"
    if arguments.reuse and kept.exists():
        case = json.loads(kept.read_text())
        print(f"{name}: run on {case['date']}")
        return case
    plan = PLANS[name]
    case = run_case(
        name,
        plan.data,
        plan.n_components,
        alpha=plan.alpha,
        seeds=min(arguments.seeds, plan.most_seeds),
        limit=arguments.limit,
        peers=arguments.peers,
        slow_seeds=arguments.slow_seeds,
        spacing=plan.spacing,
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(case))
    return case


def print_cases(cases):
    """One table: every method on every case, medians over seeds."""
    print(
        "\nMethods by case. F*: of the last dictionary; best: of any on the way; both relative to\n"
        "the lowest of any method on the same seed. Target: median seconds to it; >=: not reached\n"
        "by all seeds. Ends, by seed: f(inished), c(onverged), a(rrived at target), x (censored).\n"
    )
    print(
        f"{'case':12} {'method':28} {'F*':>9} {'(worst)':>9} {'best':>9} {'seconds':>8} "
        f"{'target':>9}  ends"
    )
    for name, case in cases.items():
        for method in case["seeds"][0]["methods"]:
            print(f"{name:12} {method:28} {_method_line(case, method)}")
        gap = max(run["worst_gap"] for run in case["seeds"])
        difference = max(run["difference"] for run in case["seeds"])
        n_samples, n_features = case["shape"]
        print(
            f"{'':12} ({n_samples}, {n_features}), K {case['n_components']}, alpha "
            f"{case['alpha']:g}, {len(case['seeds'])} seeds; limit {case['limit']:g} s; scores: "
            + (f"duality gap <= {gap:.0e}, " if case["alpha"] else "")
            + f"independent solver within {difference:.0e}\n"
        )


_ENDS = {"finished": "f", "converged": "c", "arrived": "a", "censored": "x"}


def _method_line(case, method):
    seeds = [run["methods"] for run in case["seeds"] if method in run["methods"]]
    runs = [methods[method] for methods in seeds]
    if "missing" in runs[0]:
        return runs[0]["missing"]
    lowest = [min(m["best"] for m in methods.values() if "best" in m) for methods in seeds]
    last = [run["last"] / low for run, low in zip(runs, lowest, strict=True)]
    best = [run["best"] / low for run, low in zip(runs, lowest, strict=True)]
    target = "-"
    if all(run["to_target"] for run in runs):
        seconds, reached = zip(*(run["to_target"] for run in runs), strict=True)
        target = ("" if all(reached) else ">= ") + f"{np.median(seconds):.3g}"
    ends = "".join(_ENDS[run["end"]] for run in runs)
    return (
        f"{np.median(last):9.5f} {max(last):9.5f} {np.median(best):9.5f} "
        f"{np.median([run['seconds'][-1] for run in runs]):8.2f} {target:>9}  {ends}"
    )


def _one_thread():
    """Start again with one thread per pool: pools read their size when they are loaded."""
    if any(os.environ.get(variable) != "1" for variable in THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.solvers", *sys.argv[1:]])


if __name__ == "__main__":
    _one_thread()
    sys.exit(main())
