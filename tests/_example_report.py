"""A synthetic ConceptReport: coloured pictures, strings that break careless HTML, known factors."""

import numpy as np
from PIL import Image, ImageDraw

from semi_nmf_concepts.grounding import Concept, ConceptReport, Samples, ground_images
from semi_nmf_concepts.grounding._report import thumbnail

_COLOURS = ("black", "white", "red", "brown", "blue")
_BACKGROUNDS = ("grass", "snow", "beach", "street")
_NASTY = (
    "<script>alert('x')</script>",
    '"><img src=x onerror=alert(1)>',
    "a & b </style></div>",
    "naïve – 犬 ‮ \u2028 {{ 7 * 7 }} {% raw %}",
)
_WORDS = ("snowy", "field", "grass", "beach", "street", "black", "white", "brown", "two", "three")
_WORDS += ("ball", "frisbee", "puppy", "poodle")


def _picture(colour, background, number):
    image = Image.new(
        "RGB", (224, 168), {"grass": "green", "beach": "khaki"}.get(background, "grey")
    )
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 30, 180, 140), fill=colour)
    draw.text((90, 75), str(number), fill="yellow")
    return image


def _samples(rng, n, n_images, with_factors):
    factors = [
        {
            "object": "dog",
            "colour": str(rng.choice(_COLOURS)),
            "background": str(rng.choice(_BACKGROUNDS)),
            "count": int(rng.integers(1, 4)),
        }
        for _ in range(n)
    ]
    captions = [
        f"{f['count']} dogs that are {f['colour']} on the {f['background']}" for f in factors
    ]
    captions[: len(_NASTY)] = list(_NASTY)[:n]
    return factors, Samples(
        indices=np.sort(rng.choice(n_images, n, replace=False)).astype(np.int64),
        captions=captions,
        references=[[caption, f"a photo of {caption}", _NASTY[1]] for caption in captions],
        prefixes=["a", "two", "", "<b>three</b>"] * (n // 4) + ["a"] * (n % 4),
        factors=factors if with_factors else None,
    )


def example_report(n_concepts=20, with_factors=True, n_train=200, n_local=24, random_state=0):
    """Build a report of synthetic data; deterministic for given arguments."""
    rng = np.random.default_rng(random_state)
    train_factors, samples = _samples(rng, n_train, n_train + 37, with_factors)
    local_factors, local_samples = _samples(rng, n_local, n_local + 9, with_factors)

    def activate(n):
        values = rng.gamma(2.0, 1.0, (n, n_concepts)) * (rng.random((n, n_concepts)) < 0.35)
        return values.astype(np.float32)

    activations, local_activations = activate(n_train), activate(n_local)
    if n_concepts > 2:
        activations[:, -1] = 0  # a dead concept: no images, no words
    images = ground_images(activations)
    words = [[str(w) for w in rng.permutation(_WORDS)[:10]] for _ in range(n_concepts)]
    words[0][:2] = list(_NASTY[:2])
    words[-1] = [] if n_concepts > 2 else words[-1]

    table = None
    if with_factors:
        known = [("colour", v) for v in _COLOURS] + [("background", v) for v in _BACKGROUNDS]
        known += [("count", str(v)) for v in (1, 2, 3)] + [("note", "<i>odd & value</i>")]
        table = []
        for factor, value in known:
            k, auroc = int(rng.integers(n_concepts)), float(rng.uniform(0.55, 0.99))
            table.append(
                {
                    "factor": factor,
                    "value": value,
                    "concept": k,
                    "auroc": auroc,
                    "low": auroc - 0.04,
                    "high": min(1.0, auroc + 0.03),
                    "n_positive": int(rng.integers(15, 90)),
                    "words": words[k],
                    "named_by": [value] if value in words[k] else [],
                    "word_hit": None if factor == "note" else value in words[k],
                }
            )

    concepts = []
    for k in range(n_concepts):
        column = activations[:, k]
        detected = [] if table is None else [row for row in table if row["concept"] == k]
        keys = ("factor", "value", "auroc", "low", "high")
        concepts.append(
            Concept(
                index=k,
                words=words[k],
                word_scores=[round(5 - 0.3 * i, 3) for i in range(len(words[k]))],
                image_indices=[int(samples.indices[row]) for row in images[k]],
                image_activations=[float(column[row]) for row in images[k]],
                activation=column,
                share=float((column > 0).mean()),
                mean_activation=float(column[column > 0].mean()) if (column > 0).any() else 0.0,
                factors=sorted(
                    ({key: row[key] for key in keys} for row in detected),
                    key=lambda entry: -entry["auroc"],
                ),
            )
        )

    thumbnails = {}
    for k in range(n_concepts):
        for row in images[k]:
            factor = train_factors[row]
            picture = _picture(factor["colour"], factor["background"], factor["count"])
            thumbnails["train", int(samples.indices[row])] = thumbnail(picture)
    for i, factor in enumerate(local_factors):
        picture = _picture(factor["colour"], factor["background"], factor["count"])
        thumbnails["local", i] = thumbnail(picture)

    width = 16
    return ConceptReport(
        concepts=concepts,
        samples=samples,
        activations=activations,
        components=rng.standard_normal((n_concepts, width)).astype(np.float32),
        dictionary=rng.standard_normal((n_concepts, 8)).astype(np.float32),
        local_kind="test",
        local_samples=local_samples,
        local_activations=local_activations,
        test_samples=local_samples,
        test_activations=local_activations,
        provenance={
            "package_version": "0.1.0",
            "model": "some/<model> & co",
            "revision": None,
            "fingerprint": "0123456789abcdef",
            "module": "model.language_model.layers.3",
            "layer": -1,
            "token": "dog",
            "forms": ["dog", "dogs"],
            "prompt": "<image>caption:",
            "position": "generated",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        },
        settings={
            "decomposer": "SemiNMFConcepts",
            "decomposer_origin": "fitted on the kept training images",
            "params": {"n_components": n_concepts, "alpha": 1.0, "whiten": 20, "init": None},
            "grounding": {
                "n_words": 10,
                "n_candidates": 50,
                "final_norm": False,
                "subtract_mean": False,
            },
            "n_images": 5,
            "n_local": n_local,
            "factor_columns": None,
            "min_positives": 15,
            "random_state": 0,
            "token": "dog",
            "layer": -1,
            "prompt": "<image>caption:",
            "position": "generated",
            "n_components": n_concepts,
            "n_seen": n_train + 37,
            "n_kept": n_train,
            "dropped": {"not_generated": 30, "not_in_reference": 7},
            "n_test_seen": n_local + 9,
            "n_test_kept": n_local,
            "test_dropped": {"not_generated": 9},
            "reconstruction_score": 0.7312,
            "test_reconstruction_score": 0.7021,
            "alpha": 0.42,
            "mean_n_active": float((activations > 0).sum(axis=1).mean()),
            "overlap": 0.213,
            "factor_macro": 0.78 if with_factors else None,
            "factor_protocol": "chosen on training samples, measured on test samples",
            "ignored_factor_columns": ["boxes"] if with_factors else [],
            "word_hit_share": 0.6 if with_factors else None,
        },
        factor_table=table,
        left_out=[
            {
                "factor": "count",
                "value": "4",
                "reason": "fewer than 15 positives",
                "n_positive_train": 3,
                "n_positive_test": 0,
            }
        ]
        if with_factors
        else [],
        thumbnails=thumbnails,
    )
