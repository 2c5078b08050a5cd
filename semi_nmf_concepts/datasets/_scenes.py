"""The bundled scenes: what is in each one, drawn from seeds, and rendered when it is looked at."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.utils import Bunch

from .._messages import callers_level
from ._captions import write_captions
from ._render import SIZE, paint_scene, sprite_for
from ._vocabulary import BACKGROUNDS, COLOURS, COMPANIONS, FACTOR_WORDS, OBJECTS

SPLITS = {"train": (60_000, 11), "test": (8_000, 12)}  # split -> (number of scenes, seed)
DIGEST_FILE = Path(__file__).parent / "data" / "scene_digests.npz"
DIGEST_BYTES = 4
COUNT_SHARES = (0.5, 0.25, 0.25)
VARIANTS = [(o, v) for o, variants in OBJECTS.items() for v in variants]
MAX_CACHED = 512  # rendered scenes kept in memory, 150 kB each

DESCR = """Synthetic scenes with known factors.

Objects (Noto Color Emoji sprites, images under the Apache License 2.0) in eight colours, one to
three of them, on six painted backgrounds, with one of eight companions or none; five captions each.
Every combination of variant, colour, count, background and companion belongs either to the training
or to the test split, never to both.
"""


class SceneImages(Sequence):
    """The images of some scenes, rendered when indexed; the last few hundred are kept in memory.

    Behaves as a list of PIL images (RGB, 224 x 224): ``len``, iteration, an integer index; a slice
    gives another lazy sequence.
    """

    def __init__(self, split: str, indices: np.ndarray) -> None:
        self.split = split
        self.indices = np.asarray(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item):
        if isinstance(item, slice):
            return SceneImages(self.split, self.indices[item])
        return _rendered(self.split, int(self.indices[item])).copy()

    def content_keys(self) -> list[str]:
        """What tells the images apart, one text each, without rendering them."""
        digests = _digests().get(self.split)
        known = [""] * len(self) if digests is None else digests[self.indices].tolist()
        return [
            f"{self.split} {index} {digest}"
            for index, digest in zip(self.indices.tolist(), known, strict=True)
        ]

    def __repr__(self) -> str:
        return f"SceneImages(split={self.split!r}, {len(self)} scenes)"


def load_scenes(split: str = "train", token: str | None = None, n: int | None = None) -> Bunch:
    """Load scenes with their captions and the known truth about each.

    The scenes are drawn from fixed seeds and rendered from sprites that ship with the package when
    an image is looked at. The pixels of each are compared with a digest that ships too, because the
    bundled model was trained on exactly these; a rendering that differs (another Pillow) warns
    once.

    Parameters
    ----------
    split : {"train", "test"}, default="train"
        60,000 training or 8,000 test scenes.  No combination of factors occurs in both.
    token : str, optional
        Keep the scenes whose object is this word, for example "dog".
    n : int, optional
        Keep the first `n` scenes (after the choice by `token`); all of them by default.

    Returns
    -------
    sklearn.utils.Bunch
        ``images`` (SceneImages): lazy sequence of PIL images, RGB, 224 x 224 pixels.
        ``captions`` (list of list of str): five reference captions a scene.
        ``factors`` (DataFrame): one row a scene, with object, variant ("dog-poodle"), colour,
        count, background, companion, boxes (one (left, top, right, bottom) in pixels for every
        object) and companion_box (None where there is no companion); the index is the scene's
        number in its split. ``factor_words`` (dict): factor, then value, then the words that name
        it. ``DESCR`` (str).

    Raises
    ------
    ValueError
        If `split`, `token` or `n` is none of the allowed values.

    Examples
    --------
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> scenes = load_scenes("test", token="dog", n=2)
    >>> scenes.images[0].size, len(scenes.captions[0])
    ((224, 224), 5)
    >>> scenes.factors["object"].tolist()
    ['dog', 'dog']
    """
    if split not in SPLITS:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
    if token is not None and token not in OBJECTS:
        raise ValueError(f"token must be one of {sorted(OBJECTS)} or None, got {token!r}.")
    if n is not None and (not isinstance(n, int | np.integer) or n < 1):
        raise ValueError(f"n must be a positive integer or None, got {n!r}.")
    table = _compositions(split)
    chosen = np.arange(len(table)) if token is None else np.flatnonzero(table["object"] == token)
    chosen = chosen[:n]
    factors = table.iloc[chosen].copy()
    factors["variant"] = factors["object"] + "-" + factors["variant"]
    layouts = [_layout(split, int(i)) for i in chosen]
    factors["boxes"] = [boxes for boxes, _ in layouts]
    factors["companion_box"] = [box for _, box in layouts]
    return Bunch(
        images=SceneImages(split, chosen),
        captions=[scene_captions(split, int(i)) for i in chosen],
        factors=factors,
        factor_words=FACTOR_WORDS,
        DESCR=DESCR,
    )


def _is_test(code: np.ndarray) -> np.ndarray:
    """Whether a combination of factors belongs to the test split (one in eight, by a hash)."""
    mixed = (code.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return mixed % np.uint64(8) == 0


@lru_cache(maxsize=2)
def _compositions(split: str) -> pd.DataFrame:
    """Factors of every scene of a split, without the layout."""
    size, seed = SPLITS[split]
    rng = np.random.default_rng(seed)
    n_draws = size * (10 if split == "test" else 2)
    objects = list(OBJECTS)
    obj = rng.integers(len(objects), size=n_draws)
    n_variants = np.array([len(v) for v in OBJECTS.values()])
    first = np.concatenate([[0], np.cumsum(n_variants)[:-1]])
    variant = first[obj] + rng.integers(0, 12, size=n_draws) % n_variants[obj]
    colour = rng.integers(len(COLOURS), size=n_draws)
    background = rng.integers(len(BACKGROUNDS), size=n_draws)
    count = np.searchsorted(np.cumsum(COUNT_SHARES), rng.random(n_draws), "right") + 1
    companion = rng.integers(len(COMPANIONS), size=n_draws)
    code = variant
    for values, base in ((colour, 8), (background, 6), (count, 4), (companion, 9)):
        code = code * base + values
    kept = np.flatnonzero(_is_test(code) == (split == "test"))[:size]
    return pd.DataFrame(
        {
            "object": np.array(objects, dtype=object)[obj[kept]],
            "variant": np.array([v for _, v in VARIANTS], dtype=object)[variant[kept]],
            "colour": np.array(COLOURS, dtype=object)[colour[kept]],
            "count": count[kept],
            "background": np.array(list(BACKGROUNDS), dtype=object)[background[kept]],
            "companion": np.array(COMPANIONS, dtype=object)[companion[kept]],
        }
    )


def _factors(split: str, index: int) -> dict:
    return {k: v[index] for k, v in _columns(split).items()}


@lru_cache(maxsize=2)
def _columns(split: str) -> dict[str, list]:
    # plain lists: a data frame's row access would cost more than the rendering's planning
    return {name: values.tolist() for name, values in _compositions(split).items()}


def scene_captions(split: str, index: int) -> list[str]:
    """The five reference captions of one scene."""
    rng = np.random.default_rng([SPLITS[split][1], index, 1])
    return write_captions(_factors(split, index), rng)


def _layout(split: str, index: int) -> tuple[list[tuple[int, ...]], tuple[int, ...] | None]:
    """Boxes of the objects and of the companion: about one cell of a 2 x 2 grid each, so that
    nothing is hidden or cut off."""
    f = _factors(split, index)
    rng = np.random.default_rng([SPLITS[split][1], index, 2])
    sprite = sprite_for(OBJECTS[f["object"]][f["variant"]][0], f["colour"])
    cells = [(57, 66), (167, 66), (57, 164), (167, 164)]
    if f["count"] == 1:
        side = int(rng.integers(2))
        centres = [(74 + 76 * side + int(rng.integers(-8, 9)), int(rng.integers(118, 146)))]
        free = [(186 - 148 * side, 66), (186 - 148 * side, 166)]
        size = int(rng.integers(108, 129))
    else:
        order = rng.permutation(4)
        centres = [cells[i] for i in order[: f["count"]]]
        free = [cells[i] for i in order[f["count"] :]]
        size = int(rng.integers(82, 97))
    boxes = [_box(sprite, size, centre, rng) for centre in sorted(centres)]
    if f["companion"] == "none":
        return boxes, None
    companion_size = int(rng.integers(60, 73))
    return boxes, _box(
        sprite_for(f["companion"], None), companion_size, free[int(rng.integers(len(free)))], rng
    )


def _box(sprite: Image.Image, size: int, centre: tuple[int, int], rng) -> tuple[int, ...]:
    """A sprite scaled to `size` pixels (longer side), jittered about a centre, kept inside the
    canvas."""
    longer = max(sprite.size)
    width, height = (max(1, side * size // longer) for side in sprite.size)
    left, top = (
        int(np.clip(c - side // 2 + int(rng.integers(-5, 6)), 2, SIZE - 4 - side))
        for c, side in zip(centre, (width, height), strict=True)
    )
    return left, top, left + width, top + height


@lru_cache(maxsize=MAX_CACHED)
def _rendered(split: str, index: int) -> Image.Image:
    image = render_scene(split, index)
    expected = _digests().get(split)
    if expected is not None and scene_digest(image) != int(expected[index]):
        _warn_rendering_differs()
    return image


def render_scene(split: str, index: int) -> Image.Image:
    """Render one scene (RGB, 224 x 224) without looking at cache or digest."""
    f = _factors(split, index)
    boxes, companion_box = _layout(split, index)
    rng = np.random.default_rng([SPLITS[split][1], index, 3])
    items = []
    sprite = sprite_for(OBJECTS[f["object"]][f["variant"]][0], f["colour"])
    mirrored = bool(rng.integers(2))
    for box in boxes:
        items.append((_fit(sprite, box, mirrored), box[:2], True))
    if companion_box is not None:
        companion = _fit(sprite_for(f["companion"], None), companion_box, bool(rng.integers(2)))
        items.append((companion, companion_box[:2], f["companion"] != "balloon"))
    return paint_scene(f["background"], items, [SPLITS[split][1], index, 4])


def _fit(sprite: Image.Image, box: tuple[int, ...], mirrored: bool) -> Image.Image:
    resized = sprite.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS)
    return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else resized


def scene_digest(image: Image.Image) -> int:
    """Four bytes of the pixels' BLAKE2b hash, as an integer."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest()
    return int.from_bytes(digest, "little")


@lru_cache(maxsize=1)
def _digests() -> dict[str, np.ndarray]:
    if not DIGEST_FILE.exists():
        return {}
    with np.load(DIGEST_FILE, allow_pickle=False) as stored:
        return {split: stored[split] for split in stored.files}


@lru_cache(maxsize=1)
def _warn_rendering_differs() -> None:
    # cached: one warning a process is enough
    warnings.warn(
        "A bundled scene was rendered with other pixels than those the bundled model was trained "
        "on (another version of Pillow?); its captions may be a little less accurate. The versions "
        "in constraints.txt give the same pixels.",
        UserWarning,
        stacklevel=callers_level(),
    )
