"""Accuracy of the bundled model's greedy captions on test scenes, per attribute.

::

    python -m benchmarks.caption_accuracy                # the first 2,400 test scenes
    python -m benchmarks.caption_accuracy --write        # keep the output in results/

Only transformers is used to load and run the model, so this also shows that the shipped folder is a
plain LLaVA model. A caption is read back with the parser of the caption grammar; one that is no
sentence of the grammar counts as wrong in every attribute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks._record import recorded
from semi_nmf_concepts.datasets import bundled_model_path, load_scenes
from semi_nmf_concepts.datasets._captions import parse_caption

BARS = {
    "object": 0.95,
    "background": 0.98,
    "colour": 0.95,
    "count": 0.92,
    "companion": 0.95,
    "parses": 0.99,
}


def caption(images, folder: Path, batch_size: int = 64, max_new_tokens: int = 28) -> list[str]:
    """Greedy captions by plain transformers."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    question = [{"role": "user", "content": [{"type": "image"}]}]
    prompt = processor.apply_chat_template(question, add_generation_prompt=True)
    captions = []
    for start in range(0, len(images), batch_size):
        batch = list(images[start : start + batch_size])
        inputs = processor(images=batch, text=[prompt] * len(batch), return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        captions += processor.batch_decode(new, skip_special_tokens=True)
    return captions


def accuracy(captions: list[str], factors: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
    """Share of captions right in each attribute, and the table of what was read."""
    read = [parse_caption(c) for c in captions]
    rows = [r or {} for r in read]
    right = pd.DataFrame(
        {
            name: [r.get(name) == true for r, true in zip(rows, factors[name], strict=True)]
            for name in ("object", "colour", "background", "count", "companion")
        }
    )
    scores = {name: float(right[name].mean()) for name in right}
    scores["all five"] = float(right.all(axis=1).mean())
    scores["parses"] = float(np.mean([r is not None for r in read]))
    return scores, right


def report(args) -> list[str]:
    """Print the figures; returns the attributes below their bar."""
    scenes = load_scenes("test", n=args.n)
    captions = caption(scenes.images, args.model or bundled_model_path())
    scores, right = accuracy(captions, scenes.factors)
    by_object = right["object"].groupby(scenes.factors["object"].to_numpy()).mean()
    print(f"greedy captions on {args.n} test scenes")
    for name, value in scores.items():
        bar = BARS.get(name)
        print(f"  {name:11s} {value:7.2%}" + (f"   bar {bar:.0%}" if bar else ""))
    per_class = ", ".join(f"{k} {v:.1%}" for k, v in by_object.items())
    print(f"object accuracy per class: {per_class}")
    for written, references in list(zip(captions, scenes.captions, strict=True))[:5]:
        print(f"  {written!r}, where a reference is {references[0]!r}")
    return [name for name, bar in BARS.items() if scores[name] < bar]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the bundled one)")
    parser.add_argument("-n", type=int, default=2400, help="number of test scenes")
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    args = parser.parse_args()
    with recorded("caption_accuracy", args.write):
        missed = report(args)
    if missed:
        sys.exit(f"below the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
