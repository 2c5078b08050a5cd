"""Cut the sprites of the bundled scenes out of the Noto Color Emoji font.

Run once when the list of sprites changes (the resulting PNG files are committed as package data)::

    python -m benchmarks.make_sprites --font /path/to/NotoColorEmoji.ttf

The font is published by Google under the SIL Open Font License 1.1, its images under the Apache
License 2.0 (Debian package ``fonts-noto-color-emoji``). The strikes of the font are 136 x 128
pixels; every sprite is cropped to its visible part, so that boxes in the scenes are tight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

STRIKE_SIZE = 109  # the only size at which Pillow finds the font's colour bitmaps

SPRITES = {
    "dog-face": "\U0001f436",
    "dog-standing": "\U0001f415",
    "dog-poodle": "\U0001f429",
    "cat-face": "\U0001f431",
    "cat-standing": "\U0001f408",
    "bus-side": "\U0001f68c",
    "bus-front": "\U0001f68d",
    "train-steam": "\U0001f682",
    "train-fast": "\U0001f684",
    "train-tram": "\U0001f68b",
    "car-side": "\U0001f697",
    "car-suv": "\U0001f699",
    "car-racing": "\U0001f3ce",
    "cake-birthday": "\U0001f382",
    "cake-cupcake": "\U0001f9c1",
    "cake-slice": "\U0001f370",
    "bear-face": "\U0001f43b",
    "bear-teddy": "\U0001f9f8",
    "baby-face": "\U0001f476",
    "baby-angel": "\U0001f47c",
    "horse-running": "\U0001f40e",
    "horse-face": "\U0001f434",
    "boat-sail": "\U000026f5",
    "boat-speed": "\U0001f6a4",
    "boat-ship": "\U0001f6a2",
    "ball": "\U000026bd",
    "balloon": "\U0001f388",
    "tree": "\U0001f332",
    "flower": "\U0001f33b",
    "umbrella": "\U00002602",
    "house": "\U0001f3e0",
    "chair": "\U0001fa91",
    "person": "\U0001f9cd",
}


def cut(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    """Render one emoji on a transparent canvas and crop it to its visible pixels."""
    canvas = Image.new("RGBA", (180, 180), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((20, 20), text, font=font, embedded_color=True)
    return canvas.crop(canvas.getchannel("A").getbbox())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--font", default="/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    here = Path(__file__).resolve().parent.parent
    parser.add_argument(
        "--out", type=Path, default=here / "semi_nmf_concepts/datasets/data/sprites"
    )
    args = parser.parse_args()
    font = ImageFont.truetype(args.font, STRIKE_SIZE)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in SPRITES.items():
        cut(font, text).save(args.out / f"{name}.png", optimize=True)
    print(f"{len(SPRITES)} sprites in {args.out}")


if __name__ == "__main__":
    main()
