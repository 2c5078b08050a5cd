"""One case of the solver benchmark: every method on every seed, as plain data for JSON.

{"case", "date", "shape", "n_components", "alpha", "limit", "seconds" (it took),
 "seeds": [{"target", "bound", "worst_gap", "difference",
            "methods": {name: {"seconds": [...], "F": [...], "end",
                               "best", "last", "to_target": [seconds, reached]}}}]}
"""

import datetime
import sys
import time

import numpy as np

from benchmarks._peers import OURS, PLAIN, SPARSE, missing
from benchmarks._scoring import independent_difference
from benchmarks._trajectories import Problem

#: Peers that run into the limit nearly everywhere.
SLOW = ("DictionaryLearning", "MiniBatchDictionaryLearning")
#: A method has reached SPAMS' objective when it is within this factor of the best that SPAMS found.
TARGET_SHARE = 1.001
#: At alpha = 0: of the bound by the singular values.
BOUND_SHARE = 1.002


def run_case(
    name, data, n_components, *, alpha, seeds, limit, peers, slow_seeds=None, spacing=1.05
):
    """Run the case; `data(seed)` gives X. `SLOW` peers run on the first `slow_seeds` seeds only."""
    started = time.perf_counter()
    methods = [name for name in (SPARSE if alpha else PLAIN) if name == OURS or name in peers]
    runs = []
    for seed in range(seeds):
        X = data(seed)
        chosen = [m for m in methods if slow_seeds is None or seed < slow_seeds or m not in SLOW]
        runs.append(_run_seed(name, X, n_components, alpha, seed, chosen, limit, spacing))
    return {
        "case": name,
        "date": datetime.date.today().isoformat(),
        "shape": X.shape,
        "n_components": n_components,
        "alpha": alpha,
        "limit": limit,
        "seconds": round(time.perf_counter() - started, 1),
        "seeds": runs,
    }


def _run_seed(name, X, n_components, alpha, seed, methods, limit, spacing):
    problem = Problem(X, n_components, alpha, seed)
    bound = None if alpha else singular_value_bound(X, n_components)
    goal = -np.inf if alpha else BOUND_SHARE * bound
    table = SPARSE if alpha else PLAIN
    trajectories, found = {}, {}
    for method in methods:
        why_not = missing(method)
        if why_not:
            found[method] = {"missing": why_not}
            continue
        trajectory = table[method](problem, limit=limit, goal=goal, spacing=spacing)
        trajectory.score_all()
        trajectories[method] = trajectory
        print(
            f"  {name:6} seed {seed}  {method:28} best F* {trajectory.best:14.3f}  last "
            f"{trajectory.score(-1):14.3f}  {trajectory.seconds:7.2f} s  {trajectory.end}",
            file=sys.stderr,
        )
    spams = [trajectories[m].best for m in trajectories if m.startswith("SPAMS")]
    target = goal if not alpha else TARGET_SHARE * min(spams) if spams else None
    for method, trajectory in trajectories.items():
        found[method] = {
            "best": trajectory.best,
            "last": trajectory.score(-1),
            "to_target": None if target is None else trajectory.seconds_to(target),
            **trajectory.as_json(),
        }
    return {
        "target": target,
        "bound": bound,
        "worst_gap": problem.scorer.worst_gap,
        "difference": independent_difference(X, trajectories[OURS].laps[-1].U, alpha),
        "methods": found,
    }


def singular_value_bound(X, n_components):
    """1/2 sum of the squared singular values after the first K: no rank-K product is closer."""
    X = X.astype(np.float64)
    gram = X.T @ X if X.shape[1] <= len(X) else X @ X.T
    return 0.5 * float(np.sum(np.linalg.eigvalsh(gram)[: len(gram) - n_components]))
