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

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.bundled_model_config import (
    GRID,
    IMAGE_SIZE,
    N_IMAGE_TOKENS,
    PROMPT,
    RESAMPLE,
    build_model,
    build_processor,
)
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.datasets._bundled import MODEL_FOLDER
from semi_nmf_concepts.datasets._scenes import VARIANTS, render_scene
from semi_nmf_concepts.datasets._vocabulary import BACKGROUNDS, COLOURS, COMPANIONS, OBJECTS

CELL = 224 // GRID
IGNORED = -100
STAGES = {  # stage -> images seen, learning rate, warm-up steps
    "vision": {"images": 120_000, "lr": 1.5e-3, "warmup": 200},
    "joint": {"images": 220_000, "lr": 1.5e-3, "warmup": 200},
}
BATCH = 64
VISION_RATE = 0.4  # learning rate of the vision tower in the joint stage, relative
AUXILIARY = 0.2
PACKED = 3  # captions per image and step
CHECKPOINT_SECONDS = 240


# --- data -----------------------------------------------------------------------------------------


def prepare_data(folder: Path, n: int | None, n_jobs: int) -> dict[str, np.ndarray]:
    """Render and tokenize the training scenes once; memory-mapped afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = load_scenes("train", n=n)
    images_file = folder / "images.npy"
    if not images_file.exists():
        partial = folder / "images.partial.npy"
        shape = (len(scenes.images), IMAGE_SIZE, IMAGE_SIZE, 3)
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        blocks = np.array_split(np.arange(shape[0]), max(n_jobs, shape[0] // 500))
        with ProcessPoolExecutor(n_jobs) as pool:
            for block, pixels in zip(blocks, pool.map(_render_block, blocks), strict=True):
                images[block] = pixels
        images.flush()
        os.replace(partial, images_file)
    data = {"images": np.load(images_file, mmap_mode="r"), **_labels(scenes.factors)}
    data["captions"] = _tokenize(scenes.captions)
    return data


def _render_block(indices: np.ndarray) -> np.ndarray:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.stack(
        [np.asarray(render_scene("train", int(i)).resize(size, RESAMPLE)) for i in indices]
    )


def _labels(factors) -> dict[str, np.ndarray]:
    """Labels for the throw-away heads: what lies on each patch centre, and the factors of the
    image."""
    variant_code = {f"{o}-{v}": i for i, (o, v) in enumerate(VARIANTS)}
    n = len(factors)
    thing = np.zeros((n, GRID * GRID), np.int64)  # 0 = nothing
    tint = np.full((n, GRID * GRID), IGNORED, np.int64)
    centres = np.arange(GRID) * CELL + CELL // 2
    xs, ys = (c.ravel() for c in np.meshgrid(centres, centres))
    for row, f in enumerate(factors.itertuples()):
        for box in f.boxes:
            inside = (xs >= box[0]) & (xs < box[2]) & (ys >= box[1]) & (ys < box[3])
            thing[row, inside] = 1 + variant_code[f.variant]
            tint[row, inside] = COLOURS.index(f.colour)
        if f.companion_box is not None:
            box = f.companion_box
            inside = (xs >= box[0]) & (xs < box[2]) & (ys >= box[1]) & (ys < box[3])
            thing[row, inside] = len(VARIANTS) + COMPANIONS.index(f.companion)
    return {
        "thing": thing,
        "tint": tint,
        "background": factors["background"].map(list(BACKGROUNDS).index).to_numpy(),
        "count": factors["count"].to_numpy() - 1,
        "companion": factors["companion"].map(COMPANIONS.index).to_numpy(),
        "object": factors["object"].map(list(OBJECTS).index).to_numpy(),
    }


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
    """Endless reproducible batches: a seeded permutation an epoch, a seeded flip and choice of
    captions a step."""
    n = len(data["images"])
    seed = list(STAGES).index(stage)
    per_epoch = n // BATCH
    step = start
    while True:
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(n)
        rng = np.random.default_rng([seed, epoch, position])
        rows = np.sort(order[position * BATCH : (position + 1) * BATCH])
        yield _batch(data, rows, rng)
        step += 1


def _batch(data: dict, rows: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    flip = rng.random() < 0.5
    pixels = torch.from_numpy(data["images"][rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    grids = {k: data[k][rows].reshape(-1, GRID, GRID) for k in ("thing", "tint")}
    if flip:
        pixels = pixels.flip(3)
        grids = {k: g[:, :, ::-1].copy() for k, g in grids.items()}
    batch = {k: torch.from_numpy(g.reshape(len(rows), -1)) for k, g in grids.items()}
    batch |= {
        k: torch.from_numpy(data[k][rows]) for k in ("background", "count", "companion", "object")
    }
    chosen = rng.permuted(np.tile(np.arange(data["captions"].shape[1]), (len(rows), 1)), axis=1)
    captions = data["captions"][rows[:, None], chosen[:, :PACKED]].astype(np.int64)
    used = int((captions != 0).any(axis=(0, 1)).sum())
    return batch | {"pixels": pixels, "captions": torch.from_numpy(captions[:, :, :used])}


# --- losses ---------------------------------------------------------------------------------------


class Heads(nn.Module):
    """Throw-away classification heads on the vision tower's last hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.thing = nn.Linear(width, len(VARIANTS) + len(COMPANIONS))
        self.tint = nn.Linear(width, len(COLOURS))
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.count = nn.Linear(width, 3)
        self.companion = nn.Linear(width, len(COMPANIONS))
        self.object = nn.Linear(width, len(OBJECTS))

    def loss(self, hidden: torch.Tensor, batch: dict) -> torch.Tensor:
        hidden = self.norm(hidden)
        patches, image = hidden[:, 1:], hidden[:, 0]
        total = F.cross_entropy(self.thing(patches).flatten(0, 1), batch["thing"].flatten())
        total = total + F.cross_entropy(
            self.tint(patches).flatten(0, 1), batch["tint"].flatten(), ignore_index=IGNORED
        )
        for name in ("background", "count", "companion", "object"):
            total = total + 0.5 * F.cross_entropy(getattr(self, name)(image), batch[name])
        return total


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


def parameter_groups(model, heads, stage: str) -> list[dict]:
    """Weight decay on matrices only; the vision tower slower in the joint stage."""
    groups: dict[tuple, list] = {}
    for name, p in [*model.named_parameters(), *heads.named_parameters(prefix="heads")]:
        is_vision = "vision_tower" in name
        if stage == "vision" and not (is_vision or name.startswith("heads")):
            continue
        scale = VISION_RATE if stage == "joint" and (is_vision or name.startswith("heads")) else 1.0
        decay = 0.05 if p.ndim > 1 and "embed" not in name else 0.0
        groups.setdefault((scale, decay), []).append(p)
    return [{"params": p, "scale": s, "weight_decay": d} for (s, d), p in groups.items()]


def rate(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to 2% of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train_stage(stage: str, model, heads, data: dict, work: Path, scale: float) -> None:
    setting = STAGES[stage]
    total = max(1, int(setting["images"] * scale) // BATCH)
    optimizer = torch.optim.AdamW(parameter_groups(model, heads, stage), lr=0.0, betas=(0.9, 0.98))
    checkpoint = work / f"{stage}.pt"
    step = _resume(checkpoint, model, heads, optimizer)
    source = batches(data, stage, step)
    prompt = torch.tensor(
        [build_processor().tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]
    )
    began, seen, saved, running = time.time(), 0, time.time(), {}
    while step < total:
        batch = next(source)
        for group in optimizer.param_groups:
            group["lr"] = setting["lr"] * group["scale"] * rate(step, total, setting["warmup"])
        hidden = vision_hidden(model, batch["pixels"])
        losses = {"heads": heads.loss(hidden, batch)}
        loss = losses["heads"]
        if stage == "joint":
            losses["caption"] = caption_loss(model, hidden, batch["captions"], prompt)
            loss = losses["caption"] + AUXILIARY * loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        step, seen = step + 1, seen + BATCH
        for name, value in losses.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if step % 100 == 0 or step == total:
            shown = "  ".join(f"{k} {v:.4f}" for k, v in running.items())
            print(
                f"{stage} {step}/{total}  {seen / (time.time() - began):.0f} images/s  {shown}",
                flush=True,
            )
        if time.time() - saved > CHECKPOINT_SECONDS or step == total:
            _save(checkpoint, step, model, heads, optimizer)
            saved = time.time()


def _save(path: Path, step: int, model, heads, optimizer) -> None:
    state = {"step": step, "model": model.state_dict(), "heads": heads.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def _resume(path: Path, model, heads, optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def export(model, out: Path) -> None:
    """Write model (half precision on disk, single precision when loaded) and processor."""
    build_processor().save_pretrained(out)
    model.half().save_pretrained(out)
    model.float()
    config = json.loads((out / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("build/model"), help="data and checkpoints"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="model folder (default: the package's)"
    )
    parser.add_argument("--scenes", type=int, default=None, help="train on the first N scenes only")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply the length of both stages"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    began = time.time()
    data = prepare_data(args.work / "data", args.scenes, args.threads)
    print(f"data ready after {time.time() - began:.0f} s: {len(data['images'])} scenes", flush=True)
    torch.manual_seed(0)
    model, heads = build_model(), None
    heads = Heads(model.config.vision_config.hidden_size)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{N_IMAGE_TOKENS} image tokens"
    )
    for stage in STAGES:
        train_stage(stage, model, heads, data, args.work, args.scale)
    export(model, args.out or MODEL_FOLDER)
    print(f"done after {(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
