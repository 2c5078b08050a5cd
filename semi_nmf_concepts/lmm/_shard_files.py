"""One shard: the states of the kept samples of a range, all else that is known of them, and a sum.

A shard appears whole or not at all, and says what it belongs to. Whoever computes the range, this
process or another one, writes the same bytes.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict

import numpy as np

from .._safetensors import map_arrays, write_arrays
from ._selection import Part


def full_parts(run, ranges, *, on_error, progress):
    """Run the samples of `ranges`; the `Part` of each as soon as it is full.

    Parameters
    ----------
    run : Run
    ranges : list of (start, stop)
    on_error : {"raise", "skip"}
    progress : tqdm or None
    """
    parts = (Part(run, *bounds) for bounds in ranges)
    part = next(parts)
    records = run.records(ranges, on_error=on_error, progress=progress)
    with contextlib.closing(records):  # an error here ends the threads that read, too
        for index, outcome in records:
            part.add(index, outcome)
            if part.full:  # at once: the next sample may be one that ends the run
                yield part
                part = next(parts, None)


def write_shard(path, part, owner):
    """Keep a part.

    Parameters
    ----------
    path : pathlib.Path
    part : Part
    owner : list
        What the shard belongs to; JSON types.
    """
    states = [part.states(key) for key in part.run.request.keys]
    arrays = {array_name(i): Z for i, Z in enumerate(states) if Z is not None}
    texts = json.dumps({"owner": owner, **asdict(part.tables())}).encode()
    sha256 = _digest(texts, arrays)
    arrays["texts"] = np.frombuffer(texts, np.uint8)
    arrays["sha256"] = np.frombuffer(sha256, np.uint8)
    write_arrays(path, arrays)


def read_shard(path):
    """What `write_shard` kept besides the states, or None if the shard is damaged or not there."""
    try:
        arrays = map_arrays(path)
        texts = arrays.pop("texts").tobytes()
        expected = arrays.pop("sha256").tobytes()
    except (OSError, ValueError, KeyError):
        return None
    return json.loads(texts) if _digest(texts, arrays) == expected else None


def array_name(i):
    """Name, in a shard, of the states of the request's i-th key."""
    return f"Z{i}"


def _digest(texts, arrays):
    digest = hashlib.sha256(texts)
    for Z in arrays.values():
        digest.update(np.ascontiguousarray(Z).data)
    return digest.digest()
