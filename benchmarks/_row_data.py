"""Planted data larger than memory, in files or made where Dask works, and fits to compare.

Rows are those of `benchmarks.solver_data` in kind: a common offset with outlier dimensions, groups
of correlated atoms in unequal use, three to six active atoms, coloured noise. They come in cells,
each of which follows from the seed and its number alone: the same rows however they are cut.
"""

import shutil
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning

from benchmarks.solver_data import NOISE, atoms_in_groups, sparse_codes
from semi_nmf_concepts import SemiNMFConcepts

#: Of all fits.
N_COMPONENTS = 20
#: Rows of a cell.
CELL = 2048
#: Directions in which there is more noise than in the others.
_COLOURS = 32


@dataclass(frozen=True)
class PlantedRows:
    """A matrix of any number of rows; ``rows[start:stop]`` makes some of them, float32."""

    n_features: int
    n_components: int = N_COMPONENTS
    seed: int = 0

    def __getitem__(self, rows):
        first, last = rows.start // CELL, -(-rows.stop // CELL)
        cells = [self._cell(number) for number in range(first, last)]
        made = cells[0] if len(cells) == 1 else np.concatenate(cells)
        return made[rows.start - first * CELL : rows.stop - first * CELL]

    @cached_property
    def _parts(self):
        """Atoms, offset and coloured basis of the noise."""
        rng = np.random.default_rng(self.seed)
        atoms = atoms_in_groups(self.n_components, self.n_features, 0.6, rng)
        offset = rng.standard_normal(self.n_features) / np.sqrt(self.n_features)
        outliers = rng.choice(self.n_features, 3, replace=False)
        offset[outliers] += rng.choice([-1.0, 1.0], 3) * 2.0
        basis = rng.standard_normal((_COLOURS, self.n_features)) / np.sqrt(self.n_features)
        basis *= np.sqrt(0.5 * NOISE / np.arange(1, _COLOURS + 1) / 4)[:, None]
        return [part.astype(np.float32) for part in (atoms, offset, basis)]

    def _cell(self, number):
        atoms, offset, basis = self._parts
        rng = np.random.default_rng([self.seed, number])
        codes = sparse_codes(CELL, self.n_components, hard=True, rng=rng).astype(np.float32)
        X = rng.standard_normal((CELL, self.n_features), dtype=np.float32)
        X *= np.float32(np.sqrt(0.5 * NOISE / self.n_features))
        X += offset
        colours = rng.standard_normal((CELL, _COLOURS), dtype=np.float32)
        X += np.hstack([codes, colours]) @ np.vstack([atoms, basis])
        return X

    def write(self, path, n_samples, dtype=np.float16, n_threads=2):
        """The first rows as a .npy file, written block by block; its path."""
        out = np.lib.format.open_memmap(path, "w+", dtype, (n_samples, self.n_features))

        def write(start):
            stop = min(start + CELL, n_samples)
            out[start:stop] = self[start:stop]

        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(write, range(0, n_samples, CELL)))
        return Path(path)

    def random_atoms(self, seed):
        """Directions of some rows as a dictionary to start from (n_components, n_features)."""
        rows = self[0 : 4 * CELL]
        chosen = np.random.default_rng(seed).choice(len(rows), self.n_components, replace=False)
        atoms = rows[np.sort(chosen)].astype(np.float64)
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def data_and_starts(folder, n_samples, n_features, n_seeds, dtype):
    """Triples of a file of planted rows, a start (given, and to be found), and a seed."""
    for seed in range(n_seeds):
        rows = PlantedRows(n_features, seed=seed)
        path = rows.write(Path(folder, "rows.npy"), n_samples, dtype)
        for init in (rows.random_atoms(seed), "grow"):
            yield path, init, seed
        path.unlink()


def temporary_folder(n_bytes):
    """A folder for the time of a block, on a disk with room for so much and a tenth more."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 1.1 * n_bytes:
        raise OSError(
            f"{tempfile.gettempdir()} has {free / 1e9:.1f} GB left, {1.1 * n_bytes / 1e9:.1f} GB "
            "are needed; TMPDIR names another place."
        )
    return tempfile.TemporaryDirectory(prefix="rows-")


# --- chunks of Dask -------------------------------------------------------------------------------


def chunk_lengths(n_samples, n_chunks):
    """Rows of each chunk, as equal as they can be."""
    bounds = np.linspace(0, n_samples, n_chunks + 1).astype(int)
    return tuple(np.diff(bounds).tolist())


def dask_rows(make, shape, n_chunks, dtype=np.float32):
    """A dask array whose chunk of rows [start, stop) is ``make(start, stop)``, made by a task."""
    import dask.array

    lengths = chunk_lengths(shape[0], n_chunks)
    return dask.array.map_blocks(
        _chunk, make=make, chunks=(lengths, (shape[1],)), dtype=dtype, meta=np.empty((0, 0), dtype)
    )


def _chunk(make, block_info):
    (start, stop), _ = block_info[None]["array-location"]
    return make(start, stop)


@dataclass(frozen=True)
class FromFile:
    """Chunks read from a .npy file, as it is, by whoever works on them.

    After its last row comes its first one again; a chunk must not go beyond the last one.
    """

    path: str

    def __call__(self, start, stop):
        rows = np.load(self.path, mmap_mode="r")
        first = start % len(rows)
        return np.array(rows[first : first + stop - start])


@dataclass(frozen=True)
class Made:
    """Chunks made where they are needed; each leaves a file with its name in a folder."""

    rows: PlantedRows
    folder: str | None = None

    def __call__(self, start, stop):
        if self.folder is not None:
            Path(self.folder, f"{start}-{stop}").touch()
        return self.rows[start:stop]


# --- fits -----------------------------------------------------------------------------------------


def fitted(X, **parameters):
    """A model with attribute `seconds`, those that its fit took; one that does not end raises."""
    model = SemiNMFConcepts(N_COMPONENTS, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        started = time.perf_counter()
        model.fit(X)
    model.seconds = time.perf_counter() - started
    return model


def start_of(init):
    """The start of a fit in words."""
    return f"init={init!r}" if isinstance(init, str) else "given start"


@dataclass(frozen=True)
class Difference:
    """Of a model from another one of the same data.

    Attributes
    ----------
    objective : float
        Relative.
    cosines : (n_components,) ndarray
        Of the atoms with their counterparts, one to one.
    """

    objective: float
    cosines: np.ndarray

    @classmethod
    def of(cls, model, other):
        cosines = _unit_rows(model.components_) @ _unit_rows(other.components_).T
        cosines = cosines[linear_sum_assignment(-cosines)]
        return cls(model.objective_ / other.objective_ - 1.0, cosines)

    @property
    def same_objective(self):
        """Within 0.1%."""
        return abs(self.objective) <= 1e-3

    @property
    def same_atoms(self):
        """All cosines above 0.999."""
        return self.cosines.min() > 0.999

    def __str__(self):
        return (
            f"objective {self.objective:+.1e}, cosine {self.cosines.min():.6f} at least, "
            f"{self.cosines.mean():.6f} on average"
        )


def _unit_rows(U):
    U = U.astype(np.float64)
    return U / np.linalg.norm(U, axis=1, keepdims=True)


def seconds_line(seconds, what):
    """Median and spread of timings, as a line."""
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return f"     {statistics.median(seconds):6.2f} s ({spread})  {what}"
