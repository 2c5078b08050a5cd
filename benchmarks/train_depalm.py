"""A DePALM on the bundled scenes: made from parts, trained, and explained.

::

    python -m benchmarks.train_depalm                # about half an hour on one core
    python -m benchmarks.train_depalm --write        # keep the output in results/
    python -m benchmarks.train_depalm --language build/smollm2 --device cuda --dtype bfloat16

1. A small Llama learns the captions of the training scenes, text alone: documents of several
   captions of one scene, so that it learns to take from what stands before what it says next, as
   large language models do. With `--language FOLDER` (or a hub id) any causal language model takes
   its place.
2. `make_depalm` puts it together with the image encoder of the bundled CLIP (or `--vision`), and
   `train_depalm` trains the connector alone on images and captions.
3. The captions that it writes for test scenes are read back by the parser of the caption grammar,
   and "dog" is explained by concepts as for every other model.

The same command continues an interrupted training.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from benchmarks._record import recorded
from benchmarks._training import rate
from benchmarks.bundled_model_config import build_tokenizer
from benchmarks.caption_accuracy import accuracy
from semi_nmf_concepts.datasets import bundled_clip_path, load_scenes
from semi_nmf_concepts.decomposition import RECOMMENDED, SemiNMFConcepts
from semi_nmf_concepts.grounding import explain_concepts
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, make_depalm, train_depalm
from semi_nmf_concepts.metrics import DETECTED, overlap_score

FACTORS = ["colour", "background", "count", "companion"]
BARS = {"object": 0.95}
# The language model trained here: about 1.6 million parameters.
LANGUAGE = {"steps": 900, "documents": 32, "captions": 4, "lr": 3e-3, "warmup": 100}
WIDTH, LAYERS = 160, 4


# --- the language model ---------------------------------------------------------------------------


def train_language(folder: Path, captions: list[list[str]], steps: int) -> None:
    """Train a small Llama on captions alone and save it with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=432,
        num_hidden_layers=LAYERS,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LANGUAGE["lr"] * rate(step, steps, min(LANGUAGE["warmup"], steps))
        ids = documents(tokenizer, captions, np.random.default_rng([0, step]))
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=tokenizer.pad_token_id
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"language model, step {step + 1}: loss {loss.item():.3f}", file=sys.stderr)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def documents(tokenizer, captions: list[list[str]], rng: np.random.Generator) -> torch.Tensor:
    """Token ids of some documents: captions of one scene, each ended by the end token."""
    end = tokenizer.eos_token
    texts = [
        end.join([*rng.permutation(captions[row])[: LANGUAGE["captions"]], ""])
        for row in rng.integers(len(captions), size=LANGUAGE["documents"])
    ]
    batch = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt"
    )
    return batch["input_ids"]


# --- the model ------------------------------------------------------------------------------------


def trained(args, scenes) -> Path:
    """Folder of the trained DePALM; prints what was trained and how long it took."""
    language = args.language
    if language is None:
        language = args.work / "language"
        if not (language / "config.json").is_file():
            began = time.time()
            train_language(language, scenes.captions, args.language_steps)
            print(f"language model trained in {_minutes(began)}")
    began = time.time()
    model = make_depalm(
        args.vision or bundled_clip_path(),
        language,
        args.n_visual_tokens,
        connector_width=args.width,
        connector_heads=args.heads,
        connector_layers=args.layers,
        connector_dropout=0.0,  # the scenes are many and drawn, so nothing is learnt by heart
        device=args.device,
        dtype=args.dtype,
    )
    parts = {name: _millions(part) for name, part in model.model.named_children()}
    print("parameters: " + ", ".join(f"{name} {n}" for name, n in parts.items()))
    model, losses = train_depalm(
        model,
        scenes.images,
        scenes.captions,
        out=args.work / "model",
        n_steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.lr,
        warmup=0.05,
        verbose=1,
    )
    print(
        f"connector trained on {len(scenes.images)} scenes, {len(losses)} steps of "
        f"{args.batch_size}, in {_minutes(began)}; loss {losses[:100].mean():.3f} (first 100 "
        f"steps) -> {losses[-100:].mean():.3f} (last 100); frozen parts unchanged"
    )
    return args.work / "model"


def _minutes(began: float) -> str:
    return f"{(time.time() - began) / 60:.1f} minutes"


def _millions(part) -> str:
    return f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M"


# --- what it is worth -----------------------------------------------------------------------------


def report_captions(folder: Path, args) -> list[str]:
    """Print the accuracy of captions of test scenes; returns the attributes below their bar."""
    scenes = load_scenes("test", n=args.n_test)
    featurizer = _featurizer(folder, args)
    captions = featurizer.extract(scenes.images, on_empty="keep").all_captions
    scores, right = accuracy(captions, scenes.factors)
    print(f"\ngreedy captions on {args.n_test} test scenes")
    for name, value in scores.items():
        print(f"  {name:11s} {value:7.2%}" + (f"   bar {BARS[name]:.0%}" if name in BARS else ""))
    by_object = right["object"].groupby(scenes.factors["object"].to_numpy()).mean()
    per_class = ", ".join(f"{k} {v:.1%}" for k, v in by_object.items())
    print(f"object accuracy per class: {per_class}")
    for written, references in list(zip(captions, scenes.captions, strict=True))[:5]:
        print(f"  {written!r}, where a reference is {references[0]!r}")
    return [name for name, bar in BARS.items() if scores[name] < bar]


def report_concepts(folder: Path, args) -> None:
    """Print the concepts of a token, and which factor values of the scenes they detect."""
    parts = [load_scenes(s, token=args.token, n=n) for s, n in (("train", 1500), ("test", None))]
    train, test = parts
    report = explain_concepts(
        _featurizer(folder, args),
        SemiNMFConcepts(20, random_state=0, **RECOMMENDED),
        train.images,
        train.captions,
        test_images=test.images,
        test_captions=test.captions,
        factors=train.factors,
        test_factors=test.factors,
        factor_columns=FACTORS,
        n_local=0,
    )
    table = pd.DataFrame(report.factor_table)
    detected = table[table["auroc"] > DETECTED]
    words = [concept.words for concept in report.concepts]
    per_factor = table.groupby("factor", sort=False)["auroc"].mean()
    recovery = ", ".join(f"{name} {auroc:.3f}" for name, auroc in per_factor.items())
    print(
        f"\nconcepts of {args.token!r}: {len(report.samples)} training and "
        f"{len(report.test_samples)} test samples, {len(words)} concepts\n"
        f"  recovery: {recovery}, macro {report.settings['factor_macro']:.3f}\n"
        f"  of {len(detected)} detected values {detected['word_hit'].sum()} are named by a word of "
        f"their concept; overlap of words {overlap_score(words):.3f}"
    )
    for concept, shown in enumerate(words):
        found = table[table["concept"] == concept].sort_values("auroc", ascending=False)
        values = ", ".join(f"{r.factor} {r.value} {r.auroc:.2f}" for r in found.itertuples())
        print(f"  {concept:2d}  {' '.join(shown):72s}  {values}")


def _featurizer(folder: Path, args) -> LMMTokenFeaturizer:
    return LMMTokenFeaturizer(
        folder, token=args.token, batch_size=64, device=args.device, dtype=args.dtype
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--language", help="folder or id of a causal language model")
    parser.add_argument("--vision", help="folder or id with an image encoder")
    parser.add_argument("--work", type=Path, default=Path("build/depalm"), help="what is trained")
    parser.add_argument("--n-visual-tokens", type=int, default=10)
    parser.add_argument("--width", type=int, default=160, help="of the connector")
    parser.add_argument("--layers", type=int, default=2, help="of the connector")
    parser.add_argument("--heads", type=int, default=5, help="of the connector")
    parser.add_argument("--language-steps", type=int, default=LANGUAGE["steps"])
    parser.add_argument("--scenes", type=int, default=8000, help="training scenes")
    parser.add_argument("--steps", type=int, default=4000, help="of the connector's training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--n-test", type=int, default=2400, help="test scenes to caption")
    parser.add_argument("--token", default="dog")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the output in results/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    with recorded("depalm", args.write):
        folder = trained(args, load_scenes("train", n=args.scenes))
        missed = report_captions(folder, args)
        report_concepts(folder, args)
    if missed:
        sys.exit(f"below the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
