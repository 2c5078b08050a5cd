"""Train the bundled vision-language model from scratch on the bundled training scenes.

One command writes the model folder that ships with the package::

    python -m benchmarks.train_bundled_model --work build/model

It takes about an hour on two otherwise idle CPU cores.

1. The 60,000 training scenes are rendered once and kept as bytes at the model's resolution.
2. *Vision*: the CLIP vision tower learns with throw-away heads that name, for every image patch,
   the object variant or companion on it and its colour, and for the image the background, the count
   and the companion.
3. *Joint*: projector and language model are trained on the reference captions (three per image,
   packed behind one copy of the image tokens with a block mask), the vision tower at a lower rate
   with the throw-away heads as a small auxiliary loss.

Every random choice is seeded. A checkpoint is written every few minutes; the same command continues
from it.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

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
from benchmarks.bundled_model_config import (
    N_IMAGE_TOKENS,
    PROMPT,
    build_model,
    build_processor,
)
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.datasets._bundled import MODEL_FOLDER

STAGES = {  # stage -> images seen, learning rate, warm-up steps
    "vision": {"images": 120_000, "lr": 1.5e-3, "warmup": 200},
    "joint": {"images": 220_000, "lr": 1.5e-3, "warmup": 200},
}
BATCH = 64
VISION_RATE = 0.4  # learning rate of the vision tower in the joint stage, relative
AUXILIARY = 0.2
PACKED = 3  # captions per image and step


# --- data -----------------------------------------------------------------------------------------


def prepare_data(folder: Path, n: int | None, n_jobs: int) -> dict[str, np.ndarray]:
    """Render and tokenize the training scenes once; the images memory-mapped afterwards."""
    scenes = load_scenes("train", n=n)
    images = rendered_images(folder, len(scenes.images), n_jobs)
    return {"images": images, **labels(scenes.factors), "captions": _tokenize(scenes.captions)}


def _tokenize(captions: list[list[str]]) -> np.ndarray:
    """Token ids (n, 5, length) of the references, each ended by the end token; 0 pads."""
    tokenizer = build_processor().tokenizer
    flat = tokenizer([c for five in captions for c in five], add_special_tokens=False)["input_ids"]
    length = max(map(len, flat)) + 1
    ids = np.zeros((len(flat), length), np.int16)
    for row, tokens in enumerate(flat):
        ids[row, : len(tokens) + 1] = [*tokens, tokenizer.eos_token_id]
    return ids.reshape(len(captions), -1, length)


def batches(data: dict, stage: str, start: int):
    """Endless reproducible batches, with a seeded flip and choice of captions a step."""
    stage_number = list(STAGES).index(stage)
    for rows, rng in batch_rows(len(data["images"]), BATCH, stage_number, start):
        yield _batch(data, rows, rng)


def _batch(data: dict, rows: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    batch = image_batch(data, rows, flip=rng.random() < 0.5)
    chosen = rng.permuted(np.tile(np.arange(data["captions"].shape[1]), (len(rows), 1)), axis=1)
    captions = data["captions"][rows[:, None], chosen[:, :PACKED]].astype(np.int64)
    used = int((captions != 0).any(axis=(0, 1)).sum())
    return batch | {"captions": torch.from_numpy(captions[:, :, :used])}


# --- losses ---------------------------------------------------------------------------------------


def vision_hidden(model, pixels: torch.Tensor) -> torch.Tensor:
    """Last hidden state of the vision tower (n, 1 + patches, width), before its final norm, as
    LLaVA reads it."""
    return model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]


def caption_loss(model, hidden: torch.Tensor, captions: torch.Tensor, prompt: torch.Tensor):
    """Mean cross-entropy of packed captions: each sees the image, the prompt and itself."""
    embed = model.get_input_embeddings()
    n, packed, length = captions.shape
    image = model.model.multi_modal_projector(hidden[:, 1:])
    head = torch.cat([image, embed(prompt).expand(n, -1, -1)], dim=1)
    h = head.shape[1]
    states = model.model.language_model(
        inputs_embeds=torch.cat([head, embed(captions.flatten(1))], dim=1),
        attention_mask=block_mask(h, packed, length),
        position_ids=torch.cat([torch.arange(h), (h + torch.arange(length)).repeat(packed)])[None],
        use_cache=False,
    ).last_hidden_state
    # the state before each caption token predicts it: the prompt's last state the first one
    before = states[:, h:].unflatten(1, (packed, length))[:, :, :-1]
    first = states[:, h - 1, None, None].expand(-1, packed, 1, -1)
    states = torch.cat([first, before], dim=2)
    real = captions != 0
    return F.cross_entropy(model.lm_head(states[real]), captions[real])


def block_mask(head: int, packed: int, length: int) -> torch.Tensor:
    """Additive attention mask (1, 1, s, s): causal, and blind between captions."""
    block = torch.cat([torch.full((head,), -1), torch.arange(packed).repeat_interleave(length)])
    seen = (block[None] == -1) | (block[None] == block[:, None])
    seen &= torch.ones(len(block), len(block)).tril().bool()
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


# --- training -------------------------------------------------------------------------------------


def train(stage: str, model, heads, data: dict, work: Path, scale: float) -> None:
    setting = STAGES[stage]
    joint = stage == "joint"
    tokenizer = build_processor().tokenizer
    prompt = torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])

    def losses(batch):
        hidden = vision_hidden(model, batch["pixels"])
        parts = {"heads": heads.loss(hidden, batch)}
        if not joint:
            return parts["heads"], parts
        parts["caption"] = caption_loss(model, hidden, batch["captions"], prompt)
        return parts["caption"] + AUXILIARY * parts["heads"], parts

    train_stage(
        work / f"{stage}.pt",
        setting,
        total=max(1, int(setting["images"] * scale) // BATCH),
        groups=parameter_groups(model, heads, VISION_RATE if joint else 1.0, lambda _: joint),
        batches=lambda start: batches(data, stage, start),
        losses=losses,
        model=model,
        heads=heads,
    )


def main() -> None:
    args = arguments(__doc__.split("\n")[0], work="build/model")
    began = time.time()
    data = prepare_data(args.work / "data", args.scenes, args.threads)
    print(f"data ready after {time.time() - began:.0f} s: {len(data['images'])} scenes", flush=True)
    torch.manual_seed(0)
    model = build_model()
    heads = Heads(model.config.vision_config.hidden_size)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{N_IMAGE_TOKENS} image tokens"
    )
    for stage in STAGES:
        train(stage, model, heads, data, args.work, args.scale)
    export(model, build_processor(), args.out or MODEL_FOLDER)
    print(f"done after {(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
