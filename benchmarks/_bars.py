"""The bars of the solver benchmark: what has to be reached, what was measured, reached or MISSED.

Rows that compare with peers come from the results of the cases (`from_cases`); the others are
timed here (`timed`), on dictionaries that a default fit finds. One-thread rows are in seconds of
the processor, repeated in turn and given by their medians, so that a ratio compares like with like.
"""

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from benchmarks._isolated import THREAD_VARIABLES
from benchmarks._peers import OURS, missing
from benchmarks.solver_data import CASES, states
from semi_nmf_concepts import SemiNMFConcepts

#: F* agrees when it differs by less than the share by which peers count as converged.
_SAME = 1e-4


@dataclass
class Bar:
    """One row of the table of bars; `reached` is None where it was not measured or not decided."""

    quantity: str
    bar: str
    measured: str
    reached: bool | None = None
    verdict: str = ""

    def __post_init__(self):
        verdicts = {None: "not measured", True: "reached", False: "MISSED"}
        self.verdict = self.verdict or verdicts[self.reached]

    def __str__(self):
        return f"{self.quantity:58} {self.bar:>9}  {self.measured:>24}  {self.verdict}"

    def as_json(self):
        return asdict(self)


def at_most(quantity, limit, value, text=None):
    return Bar(quantity, f"<= {limit:g}", text or f"{value:.3g}", bool(value <= limit))


def at_least(quantity, limit, value, text=None):
    return Bar(quantity, f">= {limit:g}", text or f"{value:.3g}", bool(value >= limit))


# ---------------------------------------------------------------------------- from the cases


def from_cases(cases):
    """The bars on F* and on the time to a target, from the results by case name."""
    bars = []
    for name in ("A", "B", "C", "D", "Z"):
        if name in cases:
            bars += _objective(cases[name])
    for name, limit in (("A", 3), ("B", 3), ("C", 7), ("D", 3)):
        if name in cases:
            bars.append(_faster(cases[name], ["SPAMS online", "SPAMS batch"], "SPAMS", limit))
    for peer, limit in (("DictionaryLearning", 50), ("MiniBatchDictionaryLearning", 10)):
        for name in "ABCD":
            if name in cases:
                bars.append(_faster(cases[name], [peer], peer, limit))
    for name in ("A-plain", "small-plain"):
        if name in cases:
            peers = ["overcomplete mu", "overcomplete pgd"]
            bars.append(_faster(cases[name], peers, "overcomplete", 20))
    return bars


def _objective(case):
    ratios = []
    for run in case["seeds"]:
        peers = [m["best"] for name, m in run["methods"].items() if name != OURS and "best" in m]
        if peers:
            ratios.append(run["methods"][OURS]["last"] / min(peers))
    what = f"{case['case']}: F* / best peer's, {{}} of {len(ratios)} seeds"
    if not ratios:
        return [Bar(what.format("median"), "<= 1.000", "no peer")]
    median, worst = float(np.median(ratios)), max(ratios)
    return [
        Bar(what.format("median"), "<= 1.000", f"{median:.5f}", median <= 1.0 + _SAME),
        Bar(what.format("worst"), "<= 1.003", f"{worst:.5f}", worst <= 1.003),
    ]


def _faster(case, peers, label, limit):
    """How many times faster than the fastest of `peers` this package is at the target."""
    ratios, ours, theirs, open_end, lost = [], [], [], False, 0
    for run in case["seeds"]:
        there = [run["methods"].get(peer, {}).get("to_target") for peer in peers]
        there = [pair for pair in there if pair]
        mine = run["methods"][OURS].get("to_target")
        if not there or not mine:
            continue
        arrived = [seconds for seconds, reached in there if reached]
        # None arrived: the shortest that one was given is a lower bound.
        seconds = min(arrived or (seconds for seconds, _ in there))
        open_end |= not arrived
        lost += not mine[1]
        ours.append(mine[0])
        theirs.append(seconds)
        ratios.append(seconds / mine[0] if mine[1] else 0.0)
    quantity = f"{case['case']}: time to target, {label} / ours"
    if not ratios:
        return Bar(quantity, f">= {limit:g}x", "no target or no peer")
    ratio = float(np.median(ratios))
    at_least_sign = ">= " if open_end else ""
    text = f"{at_least_sign}{ratio:.3g}x ({_seconds(theirs)} / {_seconds(ours)})"
    if lost:
        text = f"{ratio:.3g}x, not there on {lost} of {len(ratios)}"
    elif open_end and ratio < limit:
        return Bar(quantity, f">= {limit:g}x", text, verdict="not decided: censored too early")
    return Bar(quantity, f">= {limit:g}x", text, ratio >= limit)


def _seconds(values):
    median = float(np.median(values))
    return f"{median:.1f} s" if median >= 1.0 else f"{1e3 * median:.0f} ms"


# ---------------------------------------------------------------------------- timed here

#: Case -> (transform in units of X @ U.T at most, times faster than SPAMS' lasso at least).
_TRANSFORM = {"B": (1.3, 1.2), "C": (3.0, 1.3), "D": (None, 1.3), "K1024": (None, 3.0)}


def timed(quick):
    """The bars on fit, transform, threads, memory and GPU."""
    bars, violations = [], {}
    for name in ("B", "C") if quick else _TRANSFORM:
        case, X = CASES[name], CASES[name].X(0)
        # 1024 atoms: a few iterations will do for a dictionary like a fitted one.
        limited = {"max_iter": 10} if name == "K1024" else {}
        model = _fit(case, X, **limited)
        if name == "B":
            bars.append(_whole_fit(case, X, model))
        bars += _transform(name, model, X, 3 if quick or limited else 9)
        violations[name] = float(model.kkt_violation_), largest_violation(X, model)
    (worst, measured), case = max((pair, name) for name, pair in violations.items())
    text = f"{worst:.1e} (in float64 {measured:.1e}; {case})"
    bars.append(at_most("kkt_violation_ after transform, worst case", 1e-4, worst, text))
    return [*bars, *_two_threads(quick), _memory(quick), *gpu_bars()]


def _fit(case, X, **options):
    model = SemiNMFConcepts(case.n_components, alpha=case.alpha, random_state=0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X)


def in_turn(functions, repeats, clock=time.process_time):
    """Median seconds of each function (by name), called in turn after one call each."""
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            started = clock()
            function()
            seconds[name].append(clock() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def largest_violation(X, model):
    """KKT violation of the codes of X as kkt_violation_ defines it, anew in float64.

    The largest entry of a sample's projected gradient in units of its largest |x . u_k|.
    """
    U, V = model.components_.astype(np.float64), model.transform(X).astype(np.float64)
    C = X.astype(np.float64) @ U.T
    gradient = V @ (U @ U.T) - C + model.alpha_
    projected = np.where(V > 0.0, np.abs(gradient), np.maximum(-gradient, 0.0))
    scale = np.abs(C).max(axis=1)
    return float(np.max(projected.max(axis=1) / np.where(scale > 0.0, scale, 1.0)))


def _whole_fit(case, X, model):
    functions = {"fit": lambda: _fit(case, X), "product": lambda: X @ model.components_.T}
    seconds = in_turn(functions, 3)
    units = seconds["fit"] / seconds["product"]
    text = f"{units:.1f} ({_seconds([seconds['fit']])})"
    return at_most(f"{case.name}: default fit in units of X @ U.T", 30, units, text)


def _transform(name, model, X, repeats):
    """Transform in units of the product, and against SPAMS' lasso, on the fitted dictionary."""
    U = model.components_
    functions = {"transform": lambda: model.transform(X), "product": lambda: X @ U.T}
    if not missing("SPAMS"):
        functions |= spams_lassos(X, U, model.alpha_)
    seconds = in_turn(functions, repeats)
    most, least = _TRANSFORM[name]
    bars = []
    if most is not None:
        units = seconds["transform"] / seconds["product"]
        text = f"{units:.2f} ({_per_sample(seconds['transform'], X)})"
        bars.append(at_most(f"{name}: transform in units of X @ U.T", most, units, text))
    quantity = f"{name}: transform, SPAMS lasso with Gram matrix / ours"
    theirs = [value for label, value in seconds.items() if label.startswith("SPAMS")]
    if not theirs:
        return [*bars, Bar(quantity, f">= {least:g}x", missing("SPAMS"))]
    ratio = min(theirs) / seconds["transform"]
    text = f"{ratio:.2f}x ({_per_sample(min(theirs), X)} / {_per_sample(seconds['transform'], X)})"
    return [*bars, Bar(quantity, f">= {least:g}x", text, ratio >= least)]


def spams_lassos(X, U, alpha):
    """SPAMS' lasso by either of its algorithms, product with X and Gram matrix included.

    The correlations come as ``X U^T`` in rows, which is the layout that SPAMS wants by columns.
    """
    import spams

    def run(cholesky):
        return spams.lasso(
            X.T,
            Q=np.asfortranarray(U @ U.T),
            q=(X @ U.T).T,
            lambda1=alpha,
            pos=True,
            cholesky=cholesky,
            numThreads=1,
        )

    return {"SPAMS lasso": lambda: run(False), "SPAMS lasso, Cholesky": lambda: run(True)}


def _per_sample(seconds, X):
    return f"{1e6 * seconds / len(X):.3g} us"


def _two_threads(quick):
    """Transform and fit on C with one thread and with two, each in processes of its own."""
    n_samples = 5_000 if quick else CASES["C"].n_samples
    seconds = {1: [], 2: []}
    for threads in (1, 2, 1, 2):
        seconds[threads].append(_isolated("threads", n_samples, threads=threads))
    bars = []
    for what in ("transform", "fit"):
        one, two = (float(np.median([run[what] for run in seconds[n]])) for n in (1, 2))
        text = f"{one / two:.2f}x ({_seconds([one])} / {_seconds([two])})"
        quantity = f"C, {n_samples} rows: {what}, one thread / two, wall clock"
        bars.append(Bar(quantity, ">= 1.6x", text, one / two >= 1.6))
    return bars


def _memory(quick):
    n_samples = 12_500 if quick else 50_000
    found = _isolated("memory", n_samples)
    quantity = f"extra peak memory of a fit, float32 ({n_samples}, 4096), K 20"
    if found["extra"] is None:
        return Bar(quantity, "<= 0.15", "no /proc/self/status")
    share = found["extra"] / found["bytes"]
    text = f"{share:.3f} ({found['extra'] / 2**20:.0f} of {found['bytes'] / 2**20:.0f} MiB)"
    return at_most(quantity + ", / X", 0.15, share, text)


def _isolated(*arguments, threads=1):
    """What `benchmarks._isolated` prints, run in a fresh process with so many threads."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    command = [sys.executable, "-m", "benchmarks._isolated", *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


# ---------------------------------------------------------------------------- GPU


def gpu_bars():
    """Fit and batch iteration of (10 000, 4096), K = 20, with X on the GPU."""
    rows = (
        ("GPU: fit of (10000, 4096), K 20, X resident, seconds", 0.2),
        ("GPU: batch iteration / two reads at copy bandwidth", 2.5),
    )
    import torch

    if not torch.cuda.is_available():
        return [Bar(quantity, f"<= {limit:g}", "no GPU") for quantity, limit in rows]
    fit, iteration, copy, device = _gpu_seconds(torch)
    (fit_quantity, fit_limit), (iteration_quantity, iteration_limit) = rows
    ratio = iteration / copy
    text = f"{ratio:.2f} ({1e3 * iteration:.2f} / {1e3 * copy:.2f} ms)"
    return [
        at_most(fit_quantity, fit_limit, fit, f"{fit:.3f} ({device})"),
        at_most(iteration_quantity, iteration_limit, ratio, text),
    ]


def _gpu_seconds(torch, repeats=9):
    """Wall-clock seconds of a fit, of a batch iteration at its solution, and of a copy of X."""
    from array_api_compat import torch as xp

    from semi_nmf_concepts.decomposition._solvers import get_backend

    X = torch.from_numpy(states(10_000, 4_096, 20, seed=0)).cuda()

    def waited(function):
        def run():
            function()
            torch.cuda.synchronize()

        return run

    model = SemiNMFConcepts(20, alpha=1.0, random_state=0).fit(X)
    U, V = model.components_.double(), model.transform(X)
    backend = get_backend("torch", xp=xp)
    target = torch.empty_like(X)

    def iteration():
        found = backend.code_pass(X, U, 1.0, V, tol=1e-3, max_sweeps=100)
        backend.update_dictionary(U, found.A, found.B)

    functions = {
        "fit": lambda: SemiNMFConcepts(20, alpha=1.0, random_state=0).fit(X),
        "iteration": iteration,
        "copy": lambda: target.copy_(X),  # reads X and writes as much: two passes over X
    }
    functions = {name: waited(function) for name, function in functions.items()}
    seconds = in_turn(functions, repeats, clock=time.perf_counter)
    return *(seconds[name] for name in functions), torch.cuda.get_device_name()
