"""From the finished runs of all tokens to the result."""

import pandas as pd

from semi_nmf_concepts.grounding import thumbnail

from ._records import (
    concept_points,
    factor_rows,
    judged,
    paired_tests,
    recovery_records,
    token_records,
    with_means,
)
from ._result import Evaluation

# Pixels a side at most: a page of eight words has some hundreds of pictures.
THUMBNAIL = 112


def assemble(job, bench, data, pieces):
    """The result of all tokens together."""
    records, points, factors, scores, concepts = [], [], [], {}, {}
    for token, piece in pieces.items():
        finished = piece["finished"]
        reference = [one for one in finished if "reference" in one.run.tables]
        records += token_records(token, finished, piece["ground_truth"], job.main)
        points += concept_points(token, finished)
        scores[token] = judged(reference, job.main)
        for one in reference:
            tables = (one.values["recovery"] or {}).get("tables", {})
            factors += factor_rows(token, one.run.method, tables)
        for method, tables in piece["detectors"].items():
            records += recovery_records(finished[0], token, method, tables)
            factors += factor_rows(token, method, tables)
        concepts[token] = _grid(data[token], finished[0])
    return Evaluation(
        records=with_means(records, job.reported),
        points=pd.DataFrame(points),
        factors=pd.DataFrame(factors),
        tests=paired_tests(scores, job.main, job.reported),
        concepts=concepts,
        settings=_settings(job, bench, data) | {"notes": _notes(pieces, bench)},
    )


def _grid(data, one):
    """Words and thumbnails of the concepts of the reference run."""
    mas = one.values.get("mas", {})
    grid = []
    for k, words in enumerate(one.values["words"]):
        rows = data.rows["train"][one.values["images"][k]]
        images = data.parts["train"].images
        scores = {
            f"mas_{short}": _known(mas[metric]["words"][k]) if metric in mas else None
            for metric, short in (("clip_score", "clip"), ("bert_score", "bert"))
        }
        grid.append(
            {
                "concept": k,
                "words": words,
                "images": [thumbnail(images[int(row)], int(row), THUMBNAIL) for row in rows],
                "share": one.values["share"][k],
                **scores,
            }
        )
    return grid


def _notes(pieces, bench):
    """What a reader must know to trust the tables: which factor values were too rare."""
    counts = {}
    for token, piece in pieces.items():
        recovery = piece["finished"][0].values["recovery"]
        if recovery and recovery["n_left_out"]:
            n_scored = len(recovery["tables"]["all"])
            counts[token] = f"{token} {n_scored} of {n_scored + recovery['n_left_out']}"
    if not counts:
        return []
    return [
        f"Factor values that were scored: {', '.join(counts.values())}. The others have fewer than "
        f"{bench.factors['min_positives']} samples with them, or without them, in training or test."
    ]


def _known(value):
    """A number, or None for NaN, which JSON does not have."""
    return None if value is None or value != value else value


def _settings(job, bench, data):
    """How the evaluation was made."""
    first = data[job.tokens[0]]
    provenance = first.states("images", "train", job.layers[0]).provenance
    judges = {judge.metric: judge.encoder for judge in bench.judges}
    clip, scorer = judges.get("clip_score"), judges.get("bert_score")
    methods = {
        name: repr(job.estimator(name, job.n_components[0], job.seeds[0])) for name in job.methods
    }
    return {
        **{key: provenance.get(key) for key in ("model", "revision", "fingerprint", "prompt")},
        "layer": job.layers[0],
        "layers": job.layers,
        "tokens": job.tokens,
        "chosen_on": job.chosen_on,
        "main": job.main,
        "methods": methods,
        "n_components": job.n_components,
        "alphas": job.alphas,
        "seeds": job.seeds,
        "random_state": job.random_state,
        "factor_columns": bench.factors["columns"],
        "min_positives": bench.factors["min_positives"],
        "clip": None if clip is None else str(clip.model),
        "clip_bundled": clip is not None and str(clip.model) == "bundled",
        "bert": None
        if scorer is None
        else {
            "model": str(scorer.model),
            "num_layers": scorer.num_layers,
            "rescale": scorer.rescale,
        },
        "grounding": {k: getattr(v, "__name__", v) for k, v in bench.grounding.items()},
        "samples": {token: one.counts for token, one in data.items()},
        "versions": provenance.get("versions"),
        "package_version": provenance.get("package_version"),
    }
