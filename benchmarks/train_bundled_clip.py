"""Train the bundled CLIP from scratch on the bundled training scenes.

One command writes the model folder that ships with the package::

    python -m benchmarks.train_bundled_clip --work build/clip

It takes about half an hour on two CPU cores that have other work to do. No weights of the bundled
model go in, so that its judgement of that model's concepts is an independent one.

1. *Vision*: the vision tower learns with throw-away heads what lies where, as that of the bundled
   model does.
2. *Contrast*: each scene of a batch comes with one of its captions and with a list of words, some
   of them right. Captions are told apart by the symmetric contrastive loss of CLIP with its learnt
   temperature, where every scene of which a caption is true counts as its match. The cosine of
   every text with every scene is also drawn to how far the facts of the two agree
   (``benchmarks/_clip_texts.py``): that makes a score fall with the number of wrong words.
3. *Restart*: the same once more, from the full learning rate.

Every random choice is seeded. A checkpoint is written every few minutes; the same command continues
from it.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks._clip_texts import WordLists, caption_facts, cosines, scene_facts
from benchmarks._training import (
    Heads,
    arguments,
    batch_rows,
    export,
    image_batch,
    labels,
    parameter_groups,
    rendered_images,
    train_stage,
)
from benchmarks.bundled_clip_config import build_model, build_processor
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.datasets._bundled import CLIP_FOLDER

BATCH = 64
STAGES = {  # stage -> images seen, learning rate, warm-up steps
    # left in the middle of its schedule, as the vision tower goes on learning in the next stage
    "vision": {"images": 29_700, "horizon": 50_000, "lr": 1.5e-3, "warmup": 100},
    "contrast": {"images": 52_000, "lr": 1.5e-3, "warmup": 40},
    "restart": {"images": 60_000, "lr": 1.5e-3, "warmup": 20},
}
VISION_RATE = 0.7  # learning rate of the vision tower after its own stage, relative
AUXILIARY = 0.5
COSINE = 20.0  # weight of the mean squared difference of the cosines
MAX_LOGIT_SCALE = float(np.log(100))  # as CLIP


def prepare_data(folder: Path, n: int | None, n_jobs: int) -> dict:
    """Images, labels, facts and captions of the training scenes."""
    scenes = load_scenes("train", n=n)
    data = {"images": rendered_images(folder, len(scenes.images), n_jobs)}
    data |= labels(scenes.factors)
    return data | {"facts": scene_facts(scenes.factors), "captions": scenes.captions}


def batches(data: dict, stage: str, start: int, tokenizer):
    """Endless reproducible batches; with texts and target cosines after the vision stage."""
    lists = WordLists()
    stage_number = list(STAGES).index(stage)
    for rows, rng in batch_rows(len(data["images"]), BATCH, stage_number, start):
        batch = image_batch(data, rows, flip=rng.random() < 0.5)
        if stage != "vision":
            batch |= _texts(data, rows, lists, tokenizer, rng)
        yield batch


def _texts(data: dict, rows: np.ndarray, lists: WordLists, tokenizer, rng) -> dict:
    """A caption and a word list a scene (all captions first), with their cosines to all scenes."""
    scenes = data["facts"][rows]
    captions = [data["captions"][row][rng.integers(5)] for row in rows]
    told = np.stack([caption_facts(c, f) for c, f in zip(captions, scenes, strict=True)])
    texts, facts, unrelated = lists.draw(scenes, rng)
    target = np.vstack([cosines(told, scenes), cosines(facts, scenes, unrelated)])
    # apart, as captions are short
    tokens = [tokenizer(t, padding=True, return_tensors="pt") for t in (captions, texts)]
    return {"tokens": tokens, "cosines": torch.from_numpy(target.astype(np.float32))}


def half_precision():
    """Both towers run in bfloat16, about twice as fast on CPUs that have it; projections, losses
    and weights are single precision."""
    return torch.autocast("cpu", torch.bfloat16)


def contrast_losses(model, image_state, batch: dict) -> dict[str, torch.Tensor]:
    """Contrastive loss of the captions; squared difference of all cosines from their targets."""
    images = F.normalize(model.visual_projection(image_state), dim=-1)
    with half_precision():
        states = [model.text_model(**tokens).pooler_output for tokens in batch["tokens"]]
    texts = F.normalize(model.text_projection(torch.cat(states).float()), dim=-1)
    cosine, target = texts @ images.T, batch["cosines"]
    n = len(images)
    # a caption is true of another scene that has all facts it states
    match = (target[:n] > target[:n].diagonal()[:, None] - 1e-4).float()
    logits = cosine[:n] * model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
    contrast = F.cross_entropy(logits, match / match.sum(1, keepdim=True))
    contrast = contrast + F.cross_entropy(logits.T, (match / match.sum(0)).T)
    return {"contrast": contrast / 2, "cosine": F.mse_loss(cosine, target)}


def train(stage: str, model, heads, data: dict, work: Path, scale: float) -> None:
    setting = STAGES[stage]
    with_texts = stage != "vision"
    tokenizer = build_processor().tokenizer

    def losses(batch):
        with half_precision():
            seen = model.vision_model(batch["pixels"])
        parts = {"heads": heads.loss(seen.last_hidden_state.float(), batch)}
        if not with_texts:
            return parts["heads"], parts
        parts |= contrast_losses(model, seen.pooler_output.float(), batch)
        loss = parts["contrast"] + COSINE * parts["cosine"] + AUXILIARY * parts["heads"]
        return loss, parts

    train_stage(
        work / f"{stage}.pt",
        setting,
        total=max(1, int(setting["images"] * scale) // BATCH),
        groups=parameter_groups(
            model, heads, VISION_RATE if with_texts else 1.0, lambda _: with_texts
        ),
        batches=lambda start: batches(data, stage, start, tokenizer),
        losses=losses,
        model=model,
        heads=heads,
    )


def main() -> None:
    args = arguments(__doc__.split("\n")[0], work="build/clip")
    began = time.time()
    data = prepare_data(args.work / "data", args.scenes, args.threads)
    print(f"data ready after {time.time() - began:.0f} s: {len(data['images'])} scenes", flush=True)
    torch.manual_seed(0)
    model = build_model()
    model.set_attn_implementation("eager")  # for so few tokens the fastest
    heads = Heads(model.config.vision_config.hidden_size)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    for stage in STAGES:
        train(stage, model, heads, data, args.work, args.scale)
    export(model, build_processor(), args.out or CLIP_FOLDER)
    print(f"done after {(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
