"""The same rows from every kind of source."""

import numpy as np
import safetensors.torch
import torch
import zarr

from semi_nmf_concepts._safetensors import write_arrays


class InFile:
    """What h5py has of an array: a shape, a type, and reading by slices."""

    def __init__(self, array, chunks=None):
        self._array, self.chunks = array, chunks
        self.shape, self.dtype, self.read = array.shape, array.dtype, []

    def __len__(self):
        return len(self._array)

    def __getitem__(self, key):
        self.read.append((key.start, key.stop))
        return self._array[key].copy()


def cut(Z, cuts):
    """Z in pieces that end at `cuts` and at its end; none is empty."""
    bounds = sorted({0, len(Z), *(c % len(Z) for c in cuts)})
    return [Z[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]


def as_array(Z, folder, cuts):
    return Z


def as_memmap(Z, folder, cuts):
    np.save(folder / "mapped.npy", Z)
    return np.load(folder / "mapped.npy", mmap_mode="r")


def as_columns(Z, folder, cuts):
    np.save(folder / "columns.npy", np.asfortranarray(Z))
    return folder / "columns.npy"


def as_part_of_an_array(Z, folder, cuts):
    wide = np.zeros((2 * len(Z), Z.shape[1] + 2), Z.dtype)
    wide[::2, 1:-1] = Z
    return wide[::2, 1:-1]


def as_npy(Z, folder, cuts):
    np.save(folder / "one.npy", Z)
    return str(folder / "one.npy")


def as_safetensors(Z, folder, cuts):
    write_arrays(folder / "one.safetensors", {"Z": Z, "other": np.eye(3)})
    return folder / "one.safetensors"


def as_npy_shards(Z, folder, cuts):
    (folder / "npy").mkdir()
    for i, piece in enumerate(cut(Z, cuts)):
        np.save(folder / "npy" / f"part-{i}.npy", piece)
    return folder / "npy"


def as_safetensors_shards(Z, folder, cuts):
    (folder / "parts").mkdir()
    for i, piece in enumerate(cut(Z, cuts)):
        write_arrays(folder / "parts" / f"{i}.safetensors", {"rows": piece, "ids": np.arange(2)})
    return folder / "parts"


def as_list_of_paths(Z, folder, cuts):
    return [str(path) for path in sorted(as_npy_shards(Z, folder, cuts).iterdir())]


def as_list(Z, folder, cuts):
    pieces = cut(Z, cuts)
    np.save(folder / "first.npy", pieces[0])
    return [folder / "first.npy", *pieces[1:]]


def as_zarr(Z, folder, cuts):
    array = zarr.create_array(
        folder / "a.zarr", shape=Z.shape, dtype=Z.dtype, chunks=(max(1, cuts[0]), 2)
    )
    array[:] = Z
    return zarr.open_array(folder / "a.zarr", mode="r")


def as_zarr_path(Z, folder, cuts):
    as_zarr(Z, folder, cuts)
    return folder / "a.zarr"


def as_in_file(Z, folder, cuts):
    return InFile(Z, chunks=(max(1, cuts[0]), Z.shape[1]))


def as_contiguous_in_file(Z, folder, cuts):
    return InFile(Z)


class Loader:
    """Yields blocks, again and again; its buffer is used again, as those of many loaders are."""

    def __init__(self, pieces):
        self.pieces, self.n_passes = pieces, 0

    def __iter__(self):
        self.n_passes += 1
        buffer = np.empty(
            (max(map(len, self.pieces)), self.pieces[0].shape[1]), self.pieces[0].dtype
        )
        for piece in self.pieces:
            buffer[: len(piece)] = piece
            yield buffer[: len(piece)]


def as_loader(Z, folder, cuts):
    return Loader(cut(Z, cuts))


def as_function(Z, folder, cuts):
    return lambda: (torch.from_numpy(piece) for piece in cut(Z, cuts))


def as_data_loader(Z, folder, cuts):
    data = torch.utils.data.TensorDataset(torch.from_numpy(Z))
    return torch.utils.data.DataLoader(data, batch_size=max(1, cuts[0]))


SOURCES = [make for name, make in sorted(globals().items()) if name.startswith("as_")]


def save_bfloat16(path, Z):
    """Z, rounded to bfloat16, in a .safetensors file; what it was rounded to."""
    tensor = torch.from_numpy(Z).to(torch.bfloat16)
    safetensors.torch.save_file({"Z": tensor}, path)
    return tensor.float().numpy()
