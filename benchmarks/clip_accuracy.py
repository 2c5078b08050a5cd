"""What the bundled CLIP tells apart on test scenes.

::

    python -m benchmarks.clip_accuracy                # the first 2,000 test scenes
    python -m benchmarks.clip_accuracy --write        # keep the output in results/

Only transformers is used to load and run the model, so this also shows that the shipped folder is a
plain CLIP model. Scores are those of CLIPScore, 2.5 * max(cosine, 0), of the text that names words.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoProcessor

from benchmarks._clip_texts import WordLists, scene_facts
from benchmarks._record import recorded
from benchmarks.bundled_clip_config import TEMPLATE
from semi_nmf_concepts.datasets import FACTOR_WORDS, bundled_clip_path, load_scenes

FACTORS = ("object", "variant", "colour", "background", "count", "companion")
BARS = {
    "retrieval": 0.95,
    "object": 0.97,
    "colour": 0.95,
    "background": 0.97,
    "companion": 0.95,
    "AUROC": 0.97,
    "gap": 0.15,  # between the mean scores of neighbouring kinds of lists
}
LENGTHS = (1, 2, 4, 8)
KINDS = ("right", "half right", "wrong", "unrelated", "unrelated, spelled")


class Clip:
    """Unit embeddings by plain transformers."""

    def __init__(self, folder: Path, batch_size: int = 128) -> None:
        self.model = AutoModel.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.batch_size = batch_size

    def images(self, images) -> np.ndarray:
        return self._embed(
            images,
            lambda batch: self.processor.image_processor(batch, return_tensors="pt"),
            "image",
        )

    def texts(self, texts) -> np.ndarray:
        return self._embed(
            texts,
            lambda batch: self.processor.tokenizer(
                batch, padding=True, truncation=True, return_tensors="pt"
            ),
            "text",
        )

    @torch.inference_mode()
    def _embed(self, items, prepare, kind: str) -> np.ndarray:
        features = getattr(self.model, f"get_{kind}_features")
        rows = []
        for start in range(0, len(items), self.batch_size):
            batch = prepare(list(items[start : start + self.batch_size]))
            rows.append(features(**batch).pooler_output)
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()


def score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Score of row i of both."""
    return 2.5 * np.maximum((images * texts).sum(axis=1), 0)


def retrieval(images: np.ndarray, captions: np.ndarray, rng, among: int = 100) -> float:
    """Share of images whose caption is the nearest of those of `among` random scenes."""
    hits = []
    for i in range(len(images)):
        others = rng.choice(np.delete(np.arange(len(images)), i), among - 1, replace=False)
        hits.append(captions[i] @ images[i] > (captions[others] @ images[i]).max())
    return float(np.mean(hits))


def zero_shot(clip: Clip, images: np.ndarray, factors, factor: str) -> dict[str, float]:
    """Share of the scenes of each object whose own value of a factor scores highest; beside the
    word of the value the text names the object."""
    values = list(FACTOR_WORDS[factor])
    right = {}
    for name in FACTOR_WORDS["object"]:
        of_object = (factors["object"] == name).to_numpy()
        fitting = [v for v in values if factor != "variant" or v.startswith(f"{name}-")]
        words = [FACTOR_WORDS[factor][v][0] for v in fitting]
        texts = words if factor == "object" else [f"{word}, {name}" for word in words]
        embedded = clip.texts([TEMPLATE.format(words=text) for text in texts])
        best = (images[of_object] @ embedded.T).argmax(axis=1)
        true = factors.loc[of_object, factor].astype(str).tolist()
        right[name] = float(np.mean([fitting[b] == t for b, t in zip(best, true, strict=True)]))
    return right


def word_lists(facts: np.ndarray, n: int, rng) -> dict[str, list[str]]:
    """A list of `n` words of each kind for every scene, in the template."""
    seen, unseen = WordLists(), WordLists(held_out=True)
    right, wrong = seen.right_and_wrong(facts)
    words = np.array(seen.words)

    def some(mask, n):
        return rng.choice(words[mask], n, replace=False).tolist()

    lists = {kind: [] for kind in KINDS}
    for r, w in zip(right, wrong, strict=True):
        half = [*some(r, n // 2), *some(w, n - n // 2)]
        rng.shuffle(half)
        spelled = rng.choice(unseen.spelled, n, replace=False).tolist()
        drawn = (some(r, n), half, some(w, n), rng.choice(seen.frequent, n, replace=False), spelled)
        for kind, chosen in zip(KINDS, drawn, strict=True):
            lists[kind].append(TEMPLATE.format(words=", ".join(chosen)))
    return lists


def calibration(clip: Clip, images: np.ndarray, facts: np.ndarray, rng):
    """Print mean scores of lists by length and kind; returns the smallest gap between neighbouring
    kinds and the AUROC of single right against single wrong words."""
    print(f"  {'words':8s}" + "".join(f"{kind:>20s}" for kind in KINDS))
    gaps = []
    for n in LENGTHS:
        lists = word_lists(facts, n, rng)
        if n == 1:
            del lists["half right"]
        scores = {kind: score(images, clip.texts(texts)) for kind, texts in lists.items()}
        cells = [
            f"{scores[k].mean():.2f} +- {scores[k].std():.2f}" if k in scores else "" for k in KINDS
        ]
        print(f"  {n:<8d}" + "".join(f"{cell:>20s}" for cell in cells))
        means = [scores[kind].mean() for kind in KINDS[:4] if kind in scores]
        gaps += (-np.diff(means)).tolist()
        if n == 1:
            both = np.concatenate([scores["right"], scores["wrong"]])
            auroc = roc_auc_score(np.arange(len(both)) < len(images), both)
    return min(gaps), float(auroc)


def report(args) -> list[str]:
    """Print the figures; returns the names of those below their bar."""
    rng = np.random.default_rng(0)
    scenes = load_scenes("test", n=args.n)
    clip = Clip(args.model or bundled_clip_path())
    images = clip.images(scenes.images)
    captions = clip.texts([five[rng.integers(len(five))] for five in scenes.captions])
    print(f"{args.n} test scenes")
    figures = {"retrieval": retrieval(images, captions, rng)}
    print(f"image -> its caption among those of 100 scenes  {_bar('retrieval', figures)}")
    print(f"score of a scene's own caption {score(images, captions).mean():.2f}")
    print("zero-shot accuracy, the word of the value beside that of the object")
    for factor in FACTORS:
        by_object = zero_shot(clip, images, scenes.factors, factor)
        figures[factor] = float(scenes.factors["object"].map(by_object).mean())
        print(f"  {factor:11s} {_bar(factor, figures)}")
        if factor in ("object", "variant"):
            print("    of " + ", ".join(f"{name} {v:.0%}" for name, v in by_object.items()))
    print("mean score and standard deviation of lists of words")
    figures["gap"], figures["AUROC"] = calibration(clip, images, scene_facts(scenes.factors), rng)
    print(f"  smallest difference of neighbouring means, spelled words apart: {figures['gap']:.2f}")
    print(f"AUROC of one right against one wrong word  {_bar('AUROC', figures)}")
    return [name for name, bar in BARS.items() if figures[name] < bar]


def _bar(name: str, figures: dict[str, float]) -> str:
    bar = f"   bar {BARS[name]:.0%}" if name in BARS else ""
    return f"{figures[name]:7.2%}{bar}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the bundled one)")
    parser.add_argument("-n", type=int, default=2000, help="number of test scenes")
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    args = parser.parse_args()
    with recorded("clip_accuracy", args.write):
        missed = report(args)
    if missed:
        sys.exit(f"below the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
