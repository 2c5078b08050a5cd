"""Write the digests that every rendered scene is compared with.

Run once when the renderer, the sprites or the seeds change (and then train the bundled model
again)::

    python -m benchmarks.make_scene_digests
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from semi_nmf_concepts.datasets._scenes import DIGEST_FILE, SPLITS, render_scene, scene_digest


def digest(index: int, split: str) -> int:
    return scene_digest(render_scene(split, index))


def main() -> None:
    digests = {}
    with ProcessPoolExecutor() as pool:
        for split, (size, _) in SPLITS.items():
            values = pool.map(partial(digest, split=split), range(size), chunksize=500)
            digests[split] = np.fromiter(values, np.uint32, size)
    np.savez(DIGEST_FILE, **digests)
    print(f"{ {k: len(v) for k, v in digests.items()} } digests in {DIGEST_FILE}")


if __name__ == "__main__":
    main()
