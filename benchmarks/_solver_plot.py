"""The convergence plot of the solver benchmark."""

import numpy as np

from benchmarks._peers import OURS

#: Gaps below this are drawn at it: no solver is asked for more.
_FLOOR = 1e-5
_COLOURS = {
    OURS: "#d62728",
    "SPAMS online": "#1f77b4",
    "SPAMS batch": "#17becf",
    "DictionaryLearning": "#2ca02c",
    "MiniBatchDictionaryLearning": "#8c564b",
    "overcomplete mu": "#9467bd",
    "overcomplete pgd": "#e377c2",
}


def save_plot(cases, path):
    """Gap of F* to the lowest of any method on the same seed, against time; one panel a case."""
    from matplotlib.figure import Figure

    n_columns = min(len(cases), 4)
    n_rows = -(-len(cases) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.4 * n_rows + 0.8), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in panels[len(cases) :]:
        panel.set_visible(False)
    handles = {}
    for panel, (name, case) in zip(panels, cases.items(), strict=False):
        _draw(panel, name, case, handles)
    for panel in panels[::n_columns]:
        panel.set_ylabel("F* above the lowest found, relative")
    for panel in panels[max(len(cases) - n_columns, 0) : len(cases)]:
        panel.set_xlabel("seconds, one thread")
    names = [name for name in _COLOURS if name in handles]
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(path, dpi=110)


def _draw(panel, name, case, handles):
    """A thin line per seed; the first seed is thick."""
    for seed, run in enumerate(case["seeds"]):
        methods = {m: found for m, found in run["methods"].items() if "best" in found}
        lowest = min(found["best"] for found in methods.values())
        for method, found in reversed(methods.items()):
            gap = np.maximum(np.array(found["F"]) / lowest - 1.0, _FLOOR)
            first = seed == 0
            (line,) = panel.loglog(
                found["seconds"],
                gap,
                color=_COLOURS[method],
                linewidth=2.0 if first else 0.7,
                alpha=1.0 if first else 0.5,
                marker="o" if first else None,
                markersize=2.5,
            )
            if first:
                handles.setdefault(method, line)
    n_samples, n_features = case["shape"]
    penalty = "" if case["alpha"] else ", alpha 0"
    panel.set_title(
        f"{name}: ({n_samples}, {n_features}), K {case['n_components']}{penalty}", fontsize=10
    )
    panel.set_ylim(bottom=0.7 * _FLOOR)
    panel.grid(alpha=0.3)
