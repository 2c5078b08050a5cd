"""A synthetic Evaluation: plausible numbers, strings that break careless HTML and mathematics."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

TOKENS = ("dog", "bus", "<i>cat</i> | $x^2$")
NASTY_WORDS = ["<script>alert(1)</script>", "$x^2$", "a|b", "\\frac{1}$ {{ 7 * 7 }}"]
LEVELS = {  # CLIPScore, BERTScore, overlap as in the method's tables
    "Rnd-Words (direction)": (0.51, 0.20, None),
    "Rnd-Words (shuffle)": (0.56, 0.33, None),
    "Noise-Imgs": (0.43, 0.30, None),
    "Simple": (0.59, 0.38, 0.52),
    "PCA": (0.50, 0.21, 0.01),
    "KMeans": (0.60, 0.37, 0.48),
    "Semi-NMF": (0.62, 0.41, 0.12),
    "GT-captions": (0.77, 0.49, None),
}
_DECOMPOSITIONS = ("Simple", "PCA", "KMeans", "Semi-NMF")
_FACTORS = {
    "colour": ("black", "white", "brown"),
    "background": ("grass", "snow", "beach"),
    "count": ("1", "2", "3"),
}
_WORDS = ("snowy", "field", "grass", "beach", "street", "black", "white", "brown", "ball", "puppy")


class _Rows:
    """Collects records; the mean over the tokens is added to each."""

    def __init__(self, tokens, chosen_on, rng):
        self.tokens, self.chosen_on, self.rng, self.rows = tokens, chosen_on, rng, []

    def add(self, table, method, metric, level, std=0.08, n=600, spread=0.02, **setting):
        fixed = {"top": None, "layer": 4, "n_components": 20, "alpha": 0.1, "seed": 0} | setting
        base = {"table": table, "method": method, "metric": metric, "n": n, "std": std, **fixed}
        values = {t: level + spread * float(self.rng.standard_normal()) for t in self.tokens}
        reported = [v for t, v in values.items() if t not in self.chosen_on]
        values["mean"] = float(np.mean(reported)) if reported else None
        self.rows += [base | {"token": t, "mean": v} for t, v in values.items()]
        if reported:  # the averages are over tokens
            self.rows[-1] |= {"std": float(np.std(reported)), "n": len(reported)}
            self.rows[-1]["metric"] = re.sub(r"\[prefix .*\]", "[prefix]", metric)
        else:
            self.rows.pop()

    def frame(self):
        return pd.DataFrame(self.rows).astype({"top": "Int64"})


def example_evaluation(
    tokens=TOKENS, chosen_on=TOKENS[:1], with_bert=True, with_factors=True, n_test=600,
    curves=True, n_concepts=8, random_state=0,
):  # fmt: skip
    """Build an object with the fields of an Evaluation; deterministic for given arguments."""
    rng = np.random.default_rng(random_state)
    rows = _Rows(tokens, chosen_on, rng)
    metrics = ["clip_score", "bert_score"][: 1 + with_bert]
    _scores(rows, metrics, n_test)
    _codes(rows)
    if curves:
        _curves(rows, metrics, with_factors)
        rows.add("stability", "Semi-NMF", "matched_cosine", 0.9, std=0.03, n=10)
    factors = _recovery(rows, tokens, rng) if with_factors else pd.DataFrame()
    records = rows.frame()
    if n_test == 0:
        scores = records["table"].isin(["table1", "recovery"])
        records.loc[scores, ["mean", "std"]] = np.nan
        records.loc[scores, "n"] = 0
    return SimpleNamespace(
        records=records,
        points=_points(tokens, metrics, n_concepts, rng),
        factors=factors,
        tests=_tests(tokens, chosen_on, n_test, records),
        concepts={token: _concepts(n_concepts, with_bert, rng) for token in tokens},
        settings=_settings(tokens, chosen_on, with_bert, n_test),
    )


def _scores(rows, metrics, n_test):
    for i, metric in enumerate(metrics):
        for top in (1, 3):
            for method, levels in LEVELS.items():
                rows.add("table1", method, metric, levels[i] - 0.01 * (top == 3), n=n_test, top=top)
        for method in (*_DECOMPOSITIONS, "Rnd-Words (direction)"):
            rows.add("scatter", method, f"mas_{metric}", LEVELS[method][i], n=20)
    for method in _DECOMPOSITIONS:
        rows.add("table2", method, "overlap", LEVELS[method][2], std=None, n=20, spread=0.003)


def _codes(rows):
    for method in _DECOMPOSITIONS:
        sparse = method == "Semi-NMF"
        rows.add("codes", method, "reconstruction", 0.55 + 0.1 * sparse, std=None)
        rows.add("codes", method, "l0", 4.2 if sparse else 20.0, std=None)
        rows.add("codes", method, "hoyer", 0.7 if sparse else 0.05, std=None)
        rows.add("codes", method, "dead_fraction", 0.0, std=None, spread=0.0)


def _curves(rows, metrics, with_factors):
    grids = {
        "layers": ("layer", (1, 2, 3, 4)),
        "n_components": ("n_components", (5, 10, 20, 40)),
        "alpha": ("alpha", (0.01, 0.03, 0.1, 0.3)),
    }
    for table, (setting, values) in grids.items():
        for step, value in enumerate(values):
            for i, metric in enumerate(metrics):
                level = LEVELS["Semi-NMF"][i] - 0.03 * abs(2.4 - step)
                rows.add(table, "Semi-NMF", f"mas_{metric}", level, **{setting: value})
                random = LEVELS["Rnd-Words (direction)"][i]
                rows.add(
                    table, "Rnd-Words (direction)", f"mas_{metric}", random, **{setting: value}
                )
            others = {"overlap": 0.1 + 0.05 * step, "reconstruction": 0.4 + 0.1 * step}
            others |= {"l0": 8.0 - 1.7 * step, "dead_fraction": 0.02 * step}
            if with_factors:
                others["recovery"] = 0.7 + 0.04 * step
            for metric, level in others.items():
                spread = 0.002 if metric == "dead_fraction" else 0.02
                level = max(level, 0.01)
                extra = {"std": None, "spread": spread, setting: value}
                rows.add(table, "Semi-NMF", metric, level, **extra)


def _recovery(rows, tokens, rng):
    levels = {"Semi-NMF": 0.80, "KMeans": 0.74, "Simple": 0.70, "PCA": 0.66}
    levels |= {"PCA, either sign": 0.76, "ICA, either sign": 0.81, "linear probe": 0.96}
    for method, level in levels.items():
        rows.add("recovery", method, "auroc", level)
        for factor in _FACTORS:
            rows.add("recovery", method, f"auroc:{factor}", level)
        for prefix in ("a ", "it's <b>"):
            rows.add("recovery", method, f"auroc[prefix {prefix!r}]", level - 0.02)
        if method in _DECOMPOSITIONS:
            rows.add("recovery", method, "disentanglement", level - 0.3)
            rows.add("recovery", method, "completeness", level - 0.35)
    found = []
    for token in tokens:
        for factor, values in _FACTORS.items():
            for value in values:
                score = float(rng.uniform(0.6, 0.97))
                row = {"token": token, "method": "Semi-NMF", "prefix": "all", "factor": factor}
                row |= {"value": value, "component": int(rng.integers(8)), "auroc": score}
                row |= {"low": score - 0.05, "high": min(score + 0.04, 1.0)}
                found.append(row | {"n_positive_train": 80, "n_positive_test": 40})
    return pd.DataFrame(found)


def _points(tokens, metrics, n_concepts, rng):
    rows = []
    for token in tokens:
        for method in _DECOMPOSITIONS:
            for k in range(n_concepts):
                row = {"token": token, "method": method, "concept": k, "words": "snow, $x^2$"}
                for i, name in enumerate(("clip", "bert")):
                    known = i < len(metrics)
                    level = LEVELS[method][i] if known else np.nan
                    random = LEVELS["Rnd-Words (direction)"][i] if known else np.nan
                    row[name] = level + 0.05 * rng.standard_normal()
                    row[f"random_{name}"] = random + 0.03 * rng.standard_normal()
                rows.append(row)
    return pd.DataFrame(rows)


def _tests(tokens, chosen_on, n_test, records):
    means = records[records["table"] == "table1"].set_index(["token", "metric", "top", "method"])
    means = means["mean"].to_dict()
    rows = []
    for (token, metric, top, baseline), mean in means.items():
        if baseline not in ("Rnd-Words (direction)", "Rnd-Words (shuffle)", "Noise-Imgs"):
            continue
        difference = means[token, metric, top, "Semi-NMF"] - mean
        n = n_test * (len(set(tokens) - set(chosen_on)) if token == "mean" else 1)
        row = {"token": token, "metric": metric, "top": int(top), "method": "Semi-NMF"}
        row |= {"baseline": baseline, "difference": difference, "n": n}
        # One-sided, that Semi-NMF is better.
        p = 0.2 if abs(difference) <= 0.03 else 1e-5 if difference > 0 else 1 - 1e-5
        rows.append(row | {"p_value": p if n_test else np.nan})
    return pd.DataFrame(rows)


def _concepts(n_concepts, with_bert, rng):
    concepts = []
    for k in range(n_concepts):
        words = NASTY_WORDS if k == 0 else [str(w) for w in rng.permutation(_WORDS)[:7]]
        dead = k == n_concepts - 1 and k > 0
        concepts.append(
            {
                "concept": k,
                "words": [] if dead else words,
                "images": [] if dead else [_jpeg(rng) for _ in range(5 if k != 1 else 2)],
                "share": 0.0 if dead else float(rng.uniform(0.05, 0.6)),
                "mas_clip": None if dead else float(rng.uniform(0.5, 0.7)),
                "mas_bert": float(rng.uniform(0.2, 0.5)) if with_bert and not dead else None,
            }
        )
    return concepts


def _jpeg(rng):
    ground, ball = (tuple(int(c) for c in rng.integers(60, 230, 3)) for _ in range(2))
    image = Image.new("RGB", (96, 72), ground)
    ImageDraw.Draw(image).ellipse((24, 12, 72, 60), fill=ball)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _settings(tokens, chosen_on, with_bert, n_test):
    kept = {"train_seen": 2400, "train_kept": 1900, "test_seen": n_test + 90, "test_kept": n_test}
    bert = {"model": "bundled", "num_layers": 4, "rescale": False}
    return {
        "model": "bundled",
        "revision": None,
        "fingerprint": "0123456789abcdef",
        "prompt": "<image>caption:",
        "layer": 4,
        "layers": [1, 2, 3, 4],
        "tokens": list(tokens),
        "chosen_on": list(chosen_on),
        "main": "Semi-NMF",
        "methods": {name: f"{name}(n_components=20)" for name in _DECOMPOSITIONS},
        "n_components": [20, 5, 10, 40],
        "alphas": [0.01, 0.03, 0.1, 0.3],
        "seeds": [0, 1, 2, 3, 4],
        "clip": "bundled",
        "clip_bundled": True,
        "bert": bert if with_bert else None,
        "grounding": {"n_words": 10, "subtract_mean": True},
        "samples": {token: kept for token in tokens},
        "versions": {"torch": "2.13.0", "scikit-learn": "1.9.0"},
        "package_version": "0.2.0",
        "seconds": 312.4,
        "notes": ["BERTScore is not rescaled.", "<b>a note</b> & more"],
    }
