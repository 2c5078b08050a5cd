"""What the scripts that train the bundled models share: scenes, throw-away heads, schedule,
checkpoints, export."""

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

from benchmarks.bundled_model_config import GRID, IMAGE_SIZE, RESAMPLE
from semi_nmf_concepts.datasets._scenes import VARIANTS, render_scene
from semi_nmf_concepts.datasets._vocabulary import BACKGROUNDS, COLOURS, COMPANIONS, OBJECTS

CELL = 224 // GRID
IGNORED = -100
CHECKPOINT_SECONDS = 240


# --- data -----------------------------------------------------------------------------------------


def rendered_images(folder: Path, n: int, n_jobs: int) -> np.ndarray:
    """The first training scenes at the model's resolution (n, size, size, 3): rendered once, bytes,
    memory-mapped."""
    folder.mkdir(parents=True, exist_ok=True)
    images_file = folder / "images.npy"
    if not images_file.exists():
        partial = folder / "images.partial.npy"
        shape = (n, IMAGE_SIZE, IMAGE_SIZE, 3)
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        blocks = np.array_split(np.arange(n), max(n_jobs, n // 500))
        with ProcessPoolExecutor(n_jobs) as pool:
            for block, pixels in zip(blocks, pool.map(_render_block, blocks), strict=True):
                images[block] = pixels
        images.flush()
        os.replace(partial, images_file)
    return np.load(images_file, mmap_mode="r")[:n]


def _render_block(indices: np.ndarray) -> np.ndarray:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.stack(
        [np.asarray(render_scene("train", int(i)).resize(size, RESAMPLE)) for i in indices]
    )


def labels(factors) -> dict[str, np.ndarray]:
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


def batch_rows(n: int, size: int, stage: int, start: int):
    """Endless reproducible (rows, generator) of the batches: a seeded permutation an epoch, a
    generator of its own a step."""
    step = start
    while True:
        epoch, position = divmod(step, n // size)
        order = np.random.default_rng([stage, epoch]).permutation(n)
        rng = np.random.default_rng([stage, epoch, position])
        yield np.sort(order[position * size : (position + 1) * size]), rng
        step += 1


def image_batch(data: dict, rows: np.ndarray, flip: bool) -> dict[str, torch.Tensor]:
    """Pixels in [-1, 1] as the processors make them, and the labels of the heads."""
    pixels = torch.from_numpy(data["images"][rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    grids = {k: data[k][rows].reshape(-1, GRID, GRID) for k in ("thing", "tint")}
    if flip:
        pixels = pixels.flip(3)
        grids = {k: g[:, :, ::-1].copy() for k, g in grids.items()}
    batch = {k: torch.from_numpy(g.reshape(len(rows), -1)) for k, g in grids.items()}
    batch |= {
        k: torch.from_numpy(data[k][rows]) for k in ("background", "count", "companion", "object")
    }
    return batch | {"pixels": pixels}


# --- supervision of the vision tower --------------------------------------------------------------


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


# --- optimisation ---------------------------------------------------------------------------------


def rate(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to 2% of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def parameter_groups(model, heads, slow: float, trained=lambda name: True) -> list[dict]:
    """Weight decay on matrices only; the vision tower and the heads at `slow` times the rate."""
    groups: dict[tuple, list] = {}
    for name, p in [*model.named_parameters(), *heads.named_parameters(prefix="heads")]:
        sees = "vision_" in name or name.startswith("heads")
        if sees or trained(name):
            decay = 0.05 if p.ndim > 1 and "embed" not in name else 0.0
            groups.setdefault((slow if sees else 1.0, decay), []).append(p)
    return [{"params": p, "scale": s, "weight_decay": d} for (s, d), p in groups.items()]


def train_stage(checkpoint: Path, setting: dict, total: int, groups, batches, losses, model, heads):
    """Train until `total` steps are done, from the stage's checkpoint where there is one.

    The setting has the peak of the learning rate ("lr") and the steps of its rise ("warmup"); its
    fall is that of a stage of "images" or, where there is one, of "horizon" images.

    `batches(start)` yields batches with "pixels", `losses(batch)` returns the loss and a dict of
    its parts for the log.
    """
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    step = resume(checkpoint, model, heads, optimizer)
    horizon = total * setting.get("horizon", setting["images"]) / setting["images"]
    source = batches(step)
    began, seen, saved, running = time.time(), 0, time.time(), {}
    while step < total:
        batch = next(source)
        loss, parts = losses(batch)
        for group in optimizer.param_groups:
            group["lr"] = setting["lr"] * group["scale"] * rate(step, horizon, setting["warmup"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        step, seen = step + 1, seen + len(batch["pixels"])
        for name, value in parts.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if step % 100 == 0 or step == total:
            shown = "  ".join(f"{k} {v:.4f}" for k, v in running.items())
            speed = seen / (time.time() - began)
            print(f"{checkpoint.stem} {step}/{total}  {speed:.0f} images/s  {shown}", flush=True)
        if time.time() - saved > CHECKPOINT_SECONDS or step == total:
            save_checkpoint(checkpoint, step, model, heads, optimizer)
            saved = time.time()


def save_checkpoint(path: Path, step: int, model, heads, optimizer) -> None:
    state = {"step": step, "model": model.state_dict(), "heads": heads.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def resume(path: Path, model, heads, optimizer) -> int:
    """Load the checkpoint if there is one; the number of steps done."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def export(model, processor, out: Path) -> None:
    """Write model (half precision on disk, single precision when loaded) and processor."""
    processor.save_pretrained(out)
    model.half().save_pretrained(out)
    model.float()
    config = json.loads((out / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def arguments(description: str, work: str) -> argparse.Namespace:
    """The command line of the training scripts; sets torch up."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=Path(work), help="data and checkpoints")
    parser.add_argument(
        "--out", type=Path, default=None, help="model folder (default: the package's)"
    )
    parser.add_argument("--scenes", type=int, default=None, help="train on the first N scenes only")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply the length of the stages"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    return args
