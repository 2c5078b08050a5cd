"""Zarr arrays on disk."""

from ._arrays import ChunkedRows
from ._files import STATES


def is_zarr(path):
    """Whether a path is that of a Zarr array or group."""
    names = ("zarr.json", ".zarray", ".zgroup")
    return path.suffix == ".zarr" or any((path / name).is_file() for name in names)


def open_zarr(path):
    """Rows of a Zarr array, or of the one in a group that is called "Z" or is the only one."""
    zarr = import_zarr()
    try:
        found = zarr.open(path, mode="r")
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a Zarr array: {error}") from error
    if isinstance(found, zarr.Group):
        arrays = {name: array for name, array in found.arrays() if array.ndim == 2}
        if STATES not in arrays and len(arrays) != 1:
            raise ValueError(
                f"{path} is a group, which must have one array of two dimensions, or one that is "
                f"called {STATES!r}; it has {', '.join(map(repr, arrays)) or 'none'}."
            )
        found = arrays.get(STATES) or next(iter(arrays.values()))
    return ChunkedRows(found, str(path), [path])


def import_zarr(need="Zarr arrays need the package zarr"):
    """The module, or an error that says what needs it and how to get it."""
    try:
        import zarr
    except ImportError as error:
        raise ImportError(f"{need}: pip install 'semi_nmf_concepts[zarr]'") from error
    return zarr
