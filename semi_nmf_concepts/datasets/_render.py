"""Painting one scene: a background, the companion, the objects with their shadows.

Only integer arithmetic and Pillow's fixed-point resampling are used, so that a scene is the same
pixel for pixel on every machine with the same Pillow.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ._vocabulary import OBJECTS

SIZE = 224
SPRITE_FOLDER = Path(__file__).parent / "data" / "sprites"

# colour -> (dark, middle, light): where the sprite's shadows, mid-tones and highlights go
TINTS = {
    "black": ((6, 6, 8), (46, 46, 50), (122, 122, 128)),
    "white": ((128, 128, 134), (232, 232, 235), (255, 255, 255)),
    "brown": ((48, 26, 10), (136, 84, 42), (206, 164, 122)),
    "gray": ((52, 54, 58), (138, 141, 146), (204, 207, 212)),
    "red": ((84, 6, 10), (214, 38, 40), (255, 164, 156)),
    "yellow": ((116, 82, 0), (250, 206, 34), (255, 244, 176)),
    "green": ((6, 62, 22), (44, 160, 66), (164, 232, 164)),
    "blue": ((10, 26, 98), (42, 94, 220), (164, 202, 255)),
}


def paint_scene(
    background: str, items: list[tuple[Image.Image, tuple[int, int], bool]], seed: list[int]
) -> Image.Image:
    """Paint a background and paste sprites on it, far ones first.

    Parameters
    ----------
    background : str
        A key of ``PAINTERS``.
    items : list of (sprite, (left, top), casts_shadow)
        RGBA sprites at their final size.
    seed : list of int
        Seed of the background's jitter.

    Returns
    -------
    PIL.Image.Image
        RGB, 224 x 224 pixels.
    """
    canvas = PAINTERS[background](np.random.default_rng(seed))
    for sprite, (left, top), casts_shadow in sorted(items, key=lambda i: i[1][1] + i[0].height):
        if casts_shadow:
            width, height = sprite.width, max(6, sprite.width // 6)
            shadow = _shadow().resize((width, height))
            canvas.paste((0, 0, 0), (left, top + sprite.height - (2 * height) // 3), shadow)
        canvas.paste(sprite, (left, top), sprite)
    return canvas


@cache
def sprite_for(name: str, colour: str | None) -> Image.Image:
    """Sprite in one of the eight colours (None: as it is), RGBA at its native size."""
    sprite = Image.open(SPRITE_FOLDER / f"{name}.png").convert("RGBA")
    if colour is None:
        return sprite
    if name in {s for s, _ in OBJECTS["baby"].values()}:
        return _dressed(sprite, colour)
    return _tinted(sprite, colour)


def _tinted(sprite: Image.Image, colour: str) -> Image.Image:
    """Map the sprite's own luminance range onto dark - middle - light of a colour."""
    pixels = np.asarray(sprite).astype(np.int32)
    luminance = (299 * pixels[..., 0] + 587 * pixels[..., 1] + 114 * pixels[..., 2]) // 1000
    visible = np.sort(luminance[pixels[..., 3] > 128])
    low, high = (int(visible[len(visible) * p // 100]) for p in (3, 97))
    # 0..510: the first half runs from dark to middle, the second from middle to light
    level = np.clip((luminance - low) * 510 // max(1, high - low), 0, 510)
    dark, middle, light = (np.array(c, np.int32) for c in TINTS[colour])
    lower = dark + (middle - dark) * np.minimum(level, 255)[..., None] // 255
    tinted = lower + (light - middle) * np.maximum(level - 255, 0)[..., None] // 255
    return Image.fromarray(
        np.concatenate([tinted, pixels[..., 3:]], axis=-1).astype(np.uint8), "RGBA"
    )


def _dressed(head: Image.Image, colour: str) -> Image.Image:
    """A baby keeps its face and wears the colour: a swaddled body under the head."""
    canvas = Image.new("RGBA", (124, 150), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    dark, middle, light = TINTS[colour]
    draw.ellipse((14, 62, 110, 150), fill=(*dark, 255))
    draw.ellipse((18, 64, 106, 147), fill=(*middle, 255))
    for top in (96, 112, 128):
        draw.arc((26, top - 22, 98, top + 12), 20, 160, fill=(*light, 255), width=4)
    small = head.resize((head.width * 86 // 100, head.height * 86 // 100), Image.Resampling.LANCZOS)
    canvas.paste(small, ((124 - small.width) // 2, 0), small)
    return canvas


@lru_cache(maxsize=1)
def _shadow() -> Image.Image:
    """Soft ellipse as an opacity mask."""
    y, x = np.mgrid[-31:32:2, -127:128:2]
    distance = x * x * 1000 // (127 * 127) + y * y * 1000 // (31 * 31)  # 0 centre .. 1000 edge
    return Image.fromarray((np.clip(1000 - distance, 0, 1000) * 110 // 1000).astype(np.uint8), "L")


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Fixed noise tile, int16 in -16..16; scenes take a random window of it."""
    rng = np.random.default_rng(2406)
    return rng.integers(-16, 17, size=(2 * SIZE, 2 * SIZE, 1)).astype(np.int16)


def _gradient(rows: int, top: tuple[int, ...], bottom: tuple[int, ...]) -> np.ndarray:
    """Vertical gradient (rows, SIZE, 3), int16."""
    steps = np.arange(rows, dtype=np.int32)[:, None]
    colours = np.array(top) + (np.array(bottom) - np.array(top)) * steps // max(1, rows - 1)
    return np.broadcast_to(colours[:, None, :], (rows, SIZE, 3)).astype(np.int16)


def _ground_and_sky(rng, sky, ground, *, grain: int) -> tuple[Image.Image, int]:
    """Sky gradient above a grainy ground gradient; returns the canvas and the horizon's row."""
    horizon = int(rng.integers(58, 82))
    shift = int(rng.integers(-10, 11))
    left, top = rng.integers(0, SIZE, size=2)
    noise = _grain()[top : top + SIZE - horizon, left : left + SIZE] * grain // 16
    pixels = np.concatenate([_gradient(horizon, *sky), _gradient(SIZE - horizon, *ground) + noise])
    return Image.fromarray(np.clip(pixels + shift, 0, 255).astype(np.uint8), "RGB"), horizon


def _clouds(draw: ImageDraw.ImageDraw, rng, fill) -> None:
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.integers(0, SIZE)), int(rng.integers(6, 34))
        for dx in (-16, 0, 15):
            r = int(rng.integers(8, 13))
            draw.ellipse((x + dx - 2 * r, y - r // 2, x + dx + 2 * r, y + r // 2), fill=fill)


def _grass(rng) -> Image.Image:
    canvas, _ = _ground_and_sky(
        rng, ((126, 190, 240), (206, 232, 250)), ((120, 184, 74), (72, 140, 48)), grain=16
    )
    draw = ImageDraw.Draw(canvas)
    _clouds(draw, rng, (246, 250, 253))
    for x, y in rng.integers((0, 92), (SIZE, SIZE), size=(70, 2)).tolist():
        draw.line((x, y, x + 2, y - 6), fill=(58, 122, 40), width=1)
    return canvas


def _snow(rng) -> Image.Image:
    canvas, _ = _ground_and_sky(
        rng, ((168, 184, 204), (206, 216, 228)), ((228, 236, 246), (246, 249, 253)), grain=5
    )
    draw = ImageDraw.Draw(canvas)
    for x, y, r in rng.integers((0, 0, 1), (SIZE, SIZE, 4), size=(60, 3)).tolist():
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))
    return canvas


def _beach(rng) -> Image.Image:
    canvas, horizon = _ground_and_sky(
        rng, ((116, 196, 246), (196, 232, 250)), ((236, 210, 150), (222, 186, 118)), grain=12
    )
    draw = ImageDraw.Draw(canvas)
    sea = int(rng.integers(22, 32))
    draw.rectangle((0, horizon - sea, SIZE, horizon), fill=(34, 120, 184))
    for row in range(horizon - sea + 5, horizon - 2, 7):
        start = int(rng.integers(0, 24))
        for x in range(start, SIZE, 34):
            draw.line((x, row, x + 16, row), fill=(120, 190, 228), width=2)
    draw.rectangle((0, horizon - 2, SIZE, horizon + 2), fill=(244, 250, 252))
    x = int(rng.integers(16, SIZE - 40))
    draw.ellipse((x, 6, x + 22, 28), fill=(255, 238, 150))
    return canvas


def _street(rng) -> Image.Image:
    canvas, horizon = _ground_and_sky(
        rng, ((178, 190, 206), (214, 218, 226)), ((106, 108, 114), (78, 80, 86)), grain=7
    )
    draw = ImageDraw.Draw(canvas)
    x = -int(rng.integers(0, 20))
    while x < SIZE:
        width, height = (int(v) for v in rng.integers((26, 34), (44, 72)))
        base = rng.integers((120, 84, 84), (186, 132, 140)).tolist()
        draw.rectangle((x, horizon - height, x + width, horizon), fill=tuple(base))
        for wy in range(horizon - height + 6, horizon - 8, 12):
            for wx in range(x + 5, x + width - 7, 10):
                draw.rectangle((wx, wy, wx + 4, wy + 6), fill=(250, 232, 158))
        x += width
    draw.rectangle((0, horizon, SIZE, horizon + 7), fill=(168, 168, 170))
    row, start = int(rng.integers(140, 176)), int(rng.integers(0, 30))
    for x in range(-start, SIZE, 46):
        draw.rectangle((x, row, x + 24, row + 4), fill=(238, 238, 232))
    return canvas


def _night(rng) -> Image.Image:
    canvas, _ = _ground_and_sky(
        rng, ((14, 14, 52), (34, 34, 88)), ((30, 40, 62), (18, 26, 42)), grain=6
    )
    draw = ImageDraw.Draw(canvas)
    for x, y in rng.integers((0, 0), (SIZE, 58), size=(26, 2)).tolist():
        draw.rectangle((x, y, x + 1, y + 1), fill=(248, 248, 226))
    x = int(rng.integers(16, SIZE - 44))
    draw.ellipse((x, 8, x + 28, 36), fill=(252, 246, 206))
    return canvas


def _room(rng) -> Image.Image:
    wall = rng.integers((206, 186, 160), (240, 216, 196)).tolist()
    floor = rng.integers((150, 96, 56), (184, 126, 82)).tolist()
    canvas, horizon = _ground_and_sky(
        rng, (tuple(wall), tuple(wall)), (tuple(floor), tuple(c - 24 for c in floor)), grain=5
    )
    draw = ImageDraw.Draw(canvas)
    for x in range(int(rng.integers(6, 18)), SIZE, 18):
        draw.line((x, 0, x, horizon), fill=tuple(c - 12 for c in wall), width=3)
    for row in range(horizon + 14, SIZE, 20):
        draw.line((0, row, SIZE, row), fill=tuple(c - 40 for c in floor), width=2)
    draw.rectangle((0, horizon - 4, SIZE, horizon), fill=(250, 246, 238))
    x = int(rng.integers(12, SIZE - 64))
    draw.rectangle((x, 8, x + 48, 50), fill=(250, 250, 248))
    draw.rectangle((x + 4, 12, x + 44, 46), fill=(150, 206, 244))
    draw.line((x + 24, 12, x + 24, 46), fill=(250, 250, 248), width=3)
    return canvas


PAINTERS = {
    "grass": _grass,
    "snow": _snow,
    "beach": _beach,
    "street": _street,
    "night": _night,
    "room": _room,
}
