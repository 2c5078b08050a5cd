"""Image files that cannot be used, and odd ones that can, made as they occur in data sets."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image


def encoded(image, kind, **options):
    """Content of an image file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(width=64, height=48):
    """A picture that does not compress to nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_header(width, height):
    """A PNG of that size that ends where its pixels begin."""
    content = b"\x89PNG\r\n\x1a\n"
    sizes = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", sizes), (b"IDAT", zlib.compress(b"\0" * 100))):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content


def with_exif(image, kind="jpeg", *, orientation, damaged=False, **options):
    """Content of an image file with an orientation and, on request, a tag that makes no sense."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.ImageDescription] = "a description"
    content = encoded(image, kind, exif=exif, **options)
    if not damaged:
        return content
    # A number, after its tag, that is given as a text: writing it again fails.
    assert b"\x01\x0e\x00\x02" in content
    return content.replace(b"\x01\x0e\x00\x02", b"\x01\x07\x00\x02")


JPEG, PNG = encoded(noise(), "jpeg"), encoded(noise(), "png")
PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

# name of the file -> (content or None for no such file, what the message says)
UNREADABLE = {
    "missing.jpg": (None, "No such file"),
    "folder.jpg": ("folder", "Is a directory"),
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"this is no image", "no image format .* begins with 'this is no image'"),
    "page.jpg": (PAGE, "begins with '<!DOCTYPE html>'"),
    "pointer.png": (POINTER, "begins with 'version https://git-lfs"),
    "random.png": (bytes(range(128, 256)) * 8, "no image format that Pillow knows[.]"),
    "half.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "begun.jpg": (JPEG[:30], "cannot be read as an image"),
    "half.png": (PNG[: len(PNG) // 2], "truncated"),
    "begun.png": (PNG[:40], "cannot be read as an image"),
    "damaged.png": (PNG[:60] + b"\x00" * 40 + PNG[100:], "cannot be read as an image"),
    "bomb.png": (png_header(60_000, 60_000), "3600000000 pixels.*MAX_IMAGE_PIXELS"),
    "drawing.jpg": (encoded(noise(), "eps"), "PostScript drawing"),
    "zero.gif": (b"GIF89a" + bytes(7) + b";", "cannot be read as an image"),
}


def write_unreadable(folder, name):
    """Make one of `UNREADABLE` in `folder`; returns its path."""
    content, path = UNREADABLE[name][0], folder / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    return path
