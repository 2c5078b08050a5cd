"""Which layer of the bundled encoder BERTScore should look at, and how fast scores are made.

::

    python -m benchmarks.bert_scores                   # 1,000 test scenes
    python -m benchmarks.bert_scores --write           # keep the output in results/
    python -m benchmarks.bert_scores --threads 2

For each layer, on captions of the bundled test scenes:

- captions, same object: how often a caption scores higher with another caption of its scene than
  with one of another scene of the same object;
- shared factors: rank correlation, over pairs of scenes of which half have the same object, between
  the score of two captions and the number of factors that the scenes share;
- noisy words: how well the score tells words of the scene, mixed with as many words of any scene,
  from those of a scene with another object (AUROC).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks._record import recorded
from semi_nmf_concepts.datasets import FACTOR_WORDS, load_scenes
from semi_nmf_concepts.metrics import auroc, bert_concept_scores, load_bert

FACTORS = ("object", "colour", "background", "companion", "count")
LAYERS = range(1, 7)


def pairs_of_scenes(factors, n_pairs, rng):
    """Pairs of different scenes; those at even positions have the same object."""
    n = len(factors)
    objects = factors["object"].to_numpy(dtype=str)
    first = rng.integers(n, size=n_pairs)
    second = (first + rng.integers(1, n, size=n_pairs)) % n
    for row in range(0, n_pairs, 2):
        same = np.flatnonzero(objects == objects[first[row]])
        second[row] = rng.choice(same[same != first[row]])
    return first, second


def noisy_words(factors, rng):
    """The words of every scene's factors, shuffled among as many words of any scene."""
    everything = sorted({w for v in FACTOR_WORDS.values() for words in v.values() for w in words})
    texts = []
    for _, scene in factors.iterrows():
        own = [FACTOR_WORDS[name].get(scene[name], [])[:1] for name in FACTORS[:4]]
        own = [word for words in own for word in words]
        texts.append(", ".join(rng.permutation([*own, *rng.choice(everything, len(own))])))
    return texts


def report_layers(scenes, rng, device):
    values = scenes.factors[list(FACTORS)].astype(str).to_numpy()
    first, second = pairs_of_scenes(scenes.factors, 2 * len(values), rng)
    shared = (values[first] == values[second]).sum(axis=1)
    other_object = values[first, 0] != values[second, 0]
    words = noisy_words(scenes.factors, rng)
    caption = [[texts[j] for texts in scenes.captions] for j in range(3)]
    print("layer   captions, same object   shared factors   noisy words   right - other object")
    for layer in LAYERS:
        encoder = load_bert("bundled", num_layers=layer, device=device)

        def f1(texts, captions, rows, others, encoder=encoder):
            return encoder.f1([texts[i] for i in rows], [captions[i] for i in others])

        own = f1(caption[0], caption[1], first, first)
        other = f1(caption[0], caption[1], first, second)
        same = ~other_object
        rank = spearmanr(other, shared)[0]
        right = f1(words, caption[2], first, first)[other_object]
        wrong = f1(words, caption[2], first, second)[other_object]
        labels = np.repeat([True, False], len(right))
        area = auroc(np.concatenate([right, wrong]), labels)
        print(
            f"{layer:5d} {(own > other)[same].mean():23.1%} {rank:16.3f} {area:13.3f} "
            f"{right.mean() - wrong.mean():22.3f}"
        )
        encoder.unload()


def report_speed(scenes, rng, device):
    encoder = load_bert("bundled", device=device)
    captions = sorted({text for texts in scenes.captions for text in texts})
    everything = sorted({w for v in FACTOR_WORDS.values() for words in v.values() for w in words})
    words = [list(rng.choice(everything, 8, replace=False)) for _ in range(20)]
    encoder.f1(["a"], ["b"])  # loads the weights
    start = time.perf_counter()
    encoder.f1(captions, captions)
    encoding = time.perf_counter() - start
    start = time.perf_counter()
    bert_concept_scores(scenes.captions, words, model=encoder)
    matching = time.perf_counter() - start
    print(f"threads {torch.get_num_threads()}")
    print(f"  new captions encoded     {len(captions) / encoding:8.0f} a second")
    print(f"  pairs of known sentences {len(words) * len(captions) / matching:8.0f} a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="number of test scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    with recorded("bert_scores", args.write):
        scenes = load_scenes("test", n=args.n)
        report_layers(scenes, rng, args.device)
        report_speed(scenes, rng, args.device)


if __name__ == "__main__":
    main()
