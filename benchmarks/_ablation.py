"""Is a concept that detects a colour what the colour's word is made from? Ablations, compared.

The report is made of training scenes of one word with the recommended setting; for each colour it
names the concept with the best AUROC on them. For each test scene whose answer names its colour,
that concept is removed from the states that predict the answer, and the change of the logit of the
colour's word is compared, pair by pair, with two controls that remove *the same length from the
same states*: along the directions of other concepts of the report, drawn at random, and along
directions drawn uniformly from the sphere.

Two quantities are compared: the raw logit, and the log-probability, which does not change where all
logits do (any vector that is added shortens the others in the final norm, so that raw logits fall
for random directions, too).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel, wilcoxon

from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
from semi_nmf_concepts.attention import ablate_concept, trace_answer
from semi_nmf_concepts.datasets import FACTOR_WORDS, load_scenes
from semi_nmf_concepts.decomposition import RECOMMENDED

K = 20
CONTROLS = ("other concepts", "random directions")
QUANTITIES = ("logit", "log-probability")


def bundled_report(token="dog", *, n_train=1500, layer=-1, cache="build/states"):
    """Concepts of a word, from the bundled training scenes."""
    scenes = load_scenes("train", token=token, n=n_train)
    return explain_concepts(
        LMMTokenFeaturizer(token=token, layer=layer, batch_size=64, cache=cache),
        SemiNMFConcepts(K, random_state=0, **RECOMMENDED),
        scenes.images,
        scenes.captions,
        factors=scenes.factors,
    )


def ablate_colours(report, traces, colours, *, n_random=5, random_state=0):
    """Ablations of one answer after the other.

    Parameters
    ----------
    report : ConceptReport
        With a factor table.
    traces : iterable of AnswerTrace
    colours : sequence of str
        The colour of the object in each trace's image.
    n_random : int
        Directions of each control, per scene; their changes are averaged.
    random_state : int

    Returns
    -------
    pandas.DataFrame
        One row per answer that names its colour: ``scene`` (position among the traces), ``colour``,
        ``concept``, ``activation`` (in the state that predicts the word), ``own, logit`` and so on
        for the own concept and the controls, logit and log-probability (changes for the colour's
        word), ``probability before`` and ``probability after`` of the word, ``answer before``,
        ``answer after`` and ``word gone`` (whether the new answer does not name the colour).
    """
    rng = np.random.default_rng(random_state)
    detectors = {
        row["value"]: row["concept"] for row in report.factor_table if row["factor"] == "colour"
    }
    rows = []
    for scene, (trace, colour) in enumerate(zip(traces, colours, strict=True)):
        words = [i for i, word in enumerate(trace.words) if _names(word.text, colour)]
        if words and colour in detectors:
            row = _ablate(report, trace, detectors[colour], words[0], n_random, rng)
            gone = not any(_names(word, colour) for word in row["answer after"].split())
            rows.append({"scene": scene, "colour": colour, **row, "word gone": gone})
    return pd.DataFrame(rows)


def _names(word, colour):
    names = FACTOR_WORDS["colour"][colour]
    return word.lower() in ([names] if isinstance(names, str) else names)


def _ablate(report, trace, k, word, n_random, rng):
    """The row of one answer: its own concept removed, and the controls."""
    own = ablate_concept(trace, report, k)
    token = trace.words[word].start
    others = rng.choice([j for j in range(len(report)) if j != k], n_random, replace=False)
    directions = {
        CONTROLS[0]: report.components[others],
        CONTROLS[1]: rng.standard_normal((n_random, report.components.shape[1])),
    }
    changes = {"own": _changes(own, token)}
    for name, some in directions.items():
        controls = [ablate_concept(trace, report, k, direction=u, regenerate=False) for u in some]
        changes[name] = np.mean([_changes(control, token) for control in controls], axis=0)
    return {
        "concept": k,
        "activation": own.activations[token],
        **{
            f"{name}, {quantity}": value
            for name, pair in changes.items()
            for quantity, value in zip(QUANTITIES, pair, strict=True)
        },
        "probability before": own.probabilities_before[token],
        "probability after": own.probabilities_after[token],
        "answer before": own.answer_before,
        "answer after": own.answer_after,
    }


def _changes(ablation, token):
    """Changes of the logit and of the log-probability of an answer token."""
    before, after = ablation.probabilities_before[token], ablation.probabilities_after[token]
    logit = ablation.logits_after[token] - ablation.logits_before[token]
    return float(logit), float(np.log(after) - np.log(before))


@dataclass
class Comparison:
    """Changes by the own concept against those by a control, paired.

    ``p_t`` and ``p_wilcoxon`` are one-sided: that the own concept lowers the quantity no more.
    """

    control: str
    quantity: str
    n: int
    own: float
    other: float
    p_t: float
    p_wilcoxon: float

    @property
    def p(self):
        """The larger of the two p-values."""
        return max(self.p_t, self.p_wilcoxon)

    def __str__(self):
        return (
            f"{self.quantity} of the colour's word: own concept {self.own:+.3f}, {self.control} "
            f"{self.other:+.3f} (means of {self.n} answers), one-sided paired p: t "
            f"{self.p_t:.1e}, Wilcoxon {self.p_wilcoxon:.1e}"
        )


def compare(table):
    """One `Comparison` for each quantity and control; the logit's against other concepts first."""
    found = []
    for quantity, control in itertools.product(QUANTITIES, CONTROLS):
        own, other = table[f"own, {quantity}"], table[f"{control}, {quantity}"]
        p_t, p_wilcoxon = (
            float(test(own, other, alternative="less").pvalue) for test in (ttest_rel, wilcoxon)
        )
        means = float(own.mean()), float(other.mean())
        found.append(Comparison(control, quantity, len(table), *means, p_t, p_wilcoxon))
    return found


def traced_scenes(token="dog", n=None):
    """(traces, colours) of bundled test scenes."""
    scenes = load_scenes("test", token=token, n=n)
    return [trace_answer(images=image) for image in scenes.images], list(scenes.factors["colour"])


def report_ablation(*, n_scenes, p_value, token="dog", n_other=60):
    """Print the comparison for the last block, which is judged, and for others on fewer scenes.

    Returns
    -------
    int
        1 if removing the own concept does not lower the logit of the colour's word more than
        removing as much along other concepts, at `p_value` by either test; else 0.
    """
    traces, colours = traced_scenes(token, n_scenes)
    n_layers = traces[0].model.n_layers
    print(f"{len(traces)} test scenes of {token!r}; reports of {K} concepts, {RECOMMENDED}")
    missed = 0
    for layer in range(-1, -n_layers - 1, -1):
        n = len(traces) if layer == -1 else n_other
        report = bundled_report(token, layer=layer)
        table = ablate_colours(report, traces[:n], colours[:n])
        mark = ""
        if layer == -1:
            first = compare(table)[0]
            missed = int(not (first.p < p_value and first.own < first.other))
            mark = "MISS " if missed else "ok   "
        print(f"\n{mark}states of block {n_layers + layer}, {n} scenes")
        print("\n".join(describe(table)))
    return missed


def describe(table):
    """Lines of text: the comparisons, colour by colour, and what was written."""
    columns = [f"{name}, {QUANTITIES[0]}" for name in ("own", *CONTROLS)]
    by_colour = table.groupby("colour")[columns].mean()
    by_colour.insert(0, "answers", table.groupby("colour").size())
    by_colour.insert(1, "concept", table.groupby("colour")["concept"].first())
    before, after = (table[f"probability {when}"].mean() for when in ("before", "after"))
    return [
        *map(str, compare(table)),
        f"probability of the colour's word: {before:.3f} before, {after:.3f} after; the new answer "
        f"does not name the colour in {table['word gone'].mean():.0%}",
        by_colour.to_string(float_format="{:+.2f}".format),
    ]
