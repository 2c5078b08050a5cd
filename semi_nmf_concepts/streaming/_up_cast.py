"""Which types rows may have, and what they are handed out in."""

import sys

import numpy as np

from .._safetensors import BFLOAT16


def handed_out(dtype, what):
    """What rows of this type are handed out in: float32 or float64, without loss of precision.

    Raises
    ------
    ValueError
        If they are no real numbers; the message begins with `what`.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {what} has dtype {dtype}.")
    if dtype == BFLOAT16 or (dtype.kind == "f" and dtype.itemsize <= 4):
        return np.dtype(np.float32)
    if dtype.kind in "fiub":
        return np.dtype(np.float64)
    hint = " (bfloat16 is read from .safetensors)" if dtype.kind == "V" else ""
    raise ValueError(f"{what} has dtype {dtype}; rows must be real numbers{hint}.")


def up_cast(rows, out):
    """Write rows of any type that `handed_out` takes into `out`, which is C-contiguous."""
    half = rows.dtype == np.float16 and rows.dtype.isnative
    if (half or rows.dtype == BFLOAT16) and rows.flags.c_contiguous and out.dtype == np.float32:
        from . import _kernels  # imports numba

        widen = _kernels.widen_float16 if half else _kernels.widen_bfloat16
        bits = rows.view(np.uint16).reshape(-1)
        bits.flags.writeable = False  # compiled once, for both
        widen(bits, out.view(np.uint32).reshape(-1))
    elif rows.dtype == BFLOAT16:
        bits = rows["bits"].astype(np.uint32)
        np.copyto(out, np.left_shift(bits, 16, out=bits).view(np.float32))
    else:
        np.copyto(out, rows, casting="same_kind")


def as_rows(block, what):
    """A block that a source yields, as a 2-d ndarray of a type that is handed out.

    Arrays of NumPy, of torch on the CPU, and whatever NumPy makes an array of; or a list or tuple
    of one such, which is what a DataLoader over a TensorDataset yields.

    Raises
    ------
    TypeError
        If it is no array.
    ValueError
        If it is not two-dimensional, is empty, or does not hold real numbers.
    """
    if isinstance(block, list | tuple) and len(block) == 1:
        (block,) = block
    if isinstance(block, list | tuple):
        raise TypeError(
            f"{what} is of type {type(block).__name__} with {len(block)} entries; it must be an "
            "array of rows: of pairs (x, y), say, yield x alone."
        )
    if type(block).__module__.partition(".")[0] == "torch" and hasattr(block, "detach"):
        block = _of_torch(block, what)
    if not hasattr(block, "__array__") or hasattr(block, "tocsr"):
        raise TypeError(f"{what} is of type {type(block).__name__}; it must be an array of rows.")
    rows = np.asarray(block)
    check_shape(rows.shape, what)
    handed_out(rows.dtype, what)
    return rows


def _of_torch(tensor, what):
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise TypeError(f"{what} is on the device {tensor.device}; yield tensors of the CPU.")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(BFLOAT16)
    return tensor.numpy()


def check_shape(shape, what):
    """Raise ValueError unless this is the shape of at least one row of at least one feature."""
    if len(shape) != 2:
        advice = (
            " Reshape your data either using array.reshape(-1, 1) if your data has a single "
            "feature or array.reshape(1, -1) if it contains a single sample."
        )
        raise ValueError(
            f"Expected 2D array, got {len(shape)}D array instead: {what}."
            f"{advice if len(shape) < 2 else ''}"
        )
    for size, name in zip(shape, ("sample", "feature"), strict=True):
        if size == 0:
            raise ValueError(
                f"Found array with 0 {name}(s) (shape={tuple(shape)}) while a minimum of 1 is "
                f"required: {what}."
            )
