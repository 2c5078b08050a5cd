"""Arrays of an answer inside a page: 8 bits a value, compressed, as many layers as there is room.

A row (the attention of one word in one head over the patches, say) keeps its maximum as a float32
and of each value the root of its share of that maximum, in 255 steps: an error of at most 0.4% of
the maximum, and far less for the small values that sink removal and logarithmic scales bring out.
"""

import base64
import json
import zlib

import numpy as np


def pack(values):
    """Pack non-negative values whose rows (last axis) have a scale each.

    Returns
    -------
    dict
        ``shape``, and ``data``: base64 of the zlib stream of the rows' maxima (float32, little
        endian) followed by the codes (uint8). A value is maximum * (code / 255)².

    Examples
    --------
    >>> packed = pack([[0.0, 0.25, 1.0]])
    >>> list(zlib.decompress(base64.b64decode(packed["data"]))[4:])
    [0, 128, 255]
    """
    values = np.maximum(np.nan_to_num(np.asarray(values, dtype=np.float32)), 0.0)
    scales = values.max(axis=-1, initial=0.0)
    steps = np.sqrt(values / np.where(scales > 0, scales, 1.0)[..., None])
    codes = np.rint(255 * steps).astype(np.uint8)
    return _packed(values.shape, scales.astype("<f4").tobytes() + codes.tobytes())


def pack_finely(values):
    """Pack a small array of non-negative values with one scale.

    Returns
    -------
    dict
        As of :func:`pack`, with ``fine``: the stream is the maximum (float32) and codes (uint16,
        little endian); a value is maximum * code / 65535.
    """
    values = np.maximum(np.nan_to_num(np.asarray(values, dtype=np.float64)), 0.0)
    scale = values.max(initial=0.0)
    codes = np.rint(65535 * values / (scale or 1.0)).astype("<u2")
    return _packed(values.shape, np.float32(scale).tobytes() + codes.tobytes()) | {"fine": True}


def _packed(shape, data):
    return {"shape": list(shape), "data": base64.b64encode(zlib.compress(data, 6)).decode()}


def fill(room, keys, parts, always=0):
    """Pack parts while there is room.

    Parameters
    ----------
    room : int
        Bytes.
    keys : sequence
        Names of the parts in the order in which they are wanted.
    parts : callable
        From a name to the array.
    always : int, default=0
        As many are packed whatever the room.

    Returns
    -------
    packed : dict
        Those that fitted, by name.
    room : int
        What is left; below 0 where those that are always packed took more.
    """
    packed = {}
    for key in keys:
        found = pack(parts(key))
        size = len(found["data"]) + 64
        if size > room and len(packed) >= always:
            break
        packed[key] = found
        room -= size
    return packed, room


def spread(n):
    """Order 0..n-1 so that every beginning of the order is spread over the range, ends first.

    >>> spread(9)
    [8, 0, 4, 2, 6, 1, 3, 5, 7]
    """
    order, step = [n - 1, 0] if n > 1 else list(range(n)), n - 1
    while len(order) < n:
        step /= 2
        steps = (round(i * step) for i in range(1, int(np.ceil(n / step)) + 1))
        order += [i for i in steps if i < n and i not in order]
        order = list(dict.fromkeys(order))
    return order


def as_script(data):
    """Write data as JSON that can stand in a script element and holds no markup.

    All but ASCII is escaped, and so are "<", ">" and "&": neither "</script>" nor "<!--" can end or
    change the element, whatever a word or a file name is.
    """
    from markupsafe import Markup  # comes with jinja2

    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
