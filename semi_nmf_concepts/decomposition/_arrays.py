"""Array libraries: what came, where to compute, and the way back.

Results go back as the *kind* of array that came: its library and its device. Computations run on
*working* arrays: what came from NumPy, a CPU tensor of torch or another library of CPU arrays is a
NumPy array, which shares its memory; an array on an accelerator stays as it is. Where the user asks
for an accelerator, `Place` says so, and host arrays are moved there once.

Working arrays know few tricks in common: operators, slices, index arrays, and the functions of the
array API standard (through array_api_compat).
"""

from typing import Any, NamedTuple

import array_api_compat
import array_api_compat.numpy as np_compat
import numpy as np
from array_api_compat import is_cupy_array, is_torch_array


class Kind(NamedTuple):
    """An array library and a device of it."""

    xp: Any  # namespace of array_api_compat, or the library itself where it needs no wrapping
    device: Any

    @property
    def name(self):
        """Name of the library."""
        return self.xp.__name__.removeprefix("array_api_compat.")

    @property
    def on_host(self):
        """Whether the CPU sees the memory, so that the working array is one of NumPy."""
        if self.name == "torch":
            return self.device.type == "cpu"
        return self.name != "cupy"

    def __str__(self):
        return self.name if self.name == "numpy" else f"{self.name}, {self.device}"


NUMPY = Kind(np_compat, "cpu")


def kind_of(X):
    """The kind of an array; whatever is no array of another library counts as NumPy's."""
    if (
        not array_api_compat.is_array_api_obj(X)
        or array_api_compat.is_numpy_array(X)
        or array_api_compat.is_dask_array(X)
        or array_api_compat.is_pydata_sparse_array(X)
    ):
        return NUMPY
    return Kind(array_api_compat.array_namespace(X), array_api_compat.device(X))


# Moving ------------------------------------------------------------------------------------------


def move(array, kind):
    """The array as one of the given kind; nothing is copied where memory can be shared."""
    source = kind_of(array)
    if source == kind:
        return array
    if kind.name == "numpy":
        return to_numpy(array)
    if kind.name == "torch":
        return _to_torch(array, source, kind)
    if kind.name == "cupy":
        return _to_cupy(array, source, kind)
    return kind.xp.asarray(to_numpy(array), device=kind.device)


def to_numpy(array):
    """The array as one of NumPy, through its memory where the CPU sees it."""
    if is_torch_array(array):
        return array.detach().cpu().numpy()
    if is_cupy_array(array):
        return array.get()
    if kind_of(array) != NUMPY:
        try:
            return np.from_dlpack(array)
        except (AttributeError, BufferError, TypeError, RuntimeError):
            pass  # the library has no DLPack, or none for this dtype
    return np.asarray(array)


def _to_torch(array, source, kind):
    import torch

    if source.name == "cupy":
        return torch.from_dlpack(array).to(kind.device)
    if source.name == "torch":
        return array.to(kind.device)
    array = to_numpy(array)
    if array.flags.writeable and all(stride >= 0 for stride in array.strides):
        return torch.from_numpy(array).to(kind.device)
    return torch.tensor(array.copy(), device=kind.device)  # torch would warn, or fail


def _to_cupy(array, source, kind):
    import cupy

    with kind.device:
        on_device = source.name == "torch" and not source.on_host
        return cupy.from_dlpack(array) if on_device else cupy.asarray(to_numpy(array))


# Working arrays ----------------------------------------------------------------------------------


def working(array):
    """The working array of an array: NumPy's view of host memory, or the device array itself."""
    return to_numpy(array) if kind_of(array).on_host else array


def like(array, example):
    """A NumPy array where `example`, a working array, is."""
    return move(array, kind_of(example))


def as_float64(array):
    """A working array in double precision, itself where it has that already."""
    xp = kind_of(array).xp
    return xp.astype(array, xp.float64, copy=False)


def validated(check, X, *, finite=True):
    """X checked by scikit-learn's rules, as a C-contiguous float32 or float64 working array.

    float16 and bfloat16 become float32, other types float64. `check` is scikit-learn's
    ``check_array`` or ``validate_data`` of an estimator, with what else it needs to know. `finite`
    asks for the check that costs a pass over X.
    """
    X = widened(_dense(X))
    kind = kind_of(X)
    if kind.on_host:
        X = X if kind == NUMPY else to_numpy(X)
        return check(X, dtype=[np.float64, np.float32], order="C", ensure_all_finite=finite)
    check(_stand_in(X), ensure_all_finite=False)
    X = _contiguous_floats(X)
    if finite and not bool(kind.xp.all(kind.xp.isfinite(X))):
        check(to_numpy(X))  # raises
    return X


def _dense(X):
    """X itself, or the error that scikit-learn raises for sparse matrices of SciPy."""
    if type(X).__module__.partition(".")[0] in ("dask", "dask_expr"):
        raise TypeError(
            f"X is a {type(X).__module__}.{type(X).__name__}. SemiNMFConcepts takes Dask arrays: "
            "X.to_dask_array(lengths=True) makes one."
        )
    sparse_tensor = is_torch_array(X) and X.layout is not kind_of(X).xp.strided
    if sparse_tensor or type(X).__module__.startswith("cupyx.scipy.sparse"):
        raise TypeError(
            f"Sparse data was passed for X ({type(X).__name__}), but dense data is required."
        )
    return X


def widened(X):
    """Floats shorter than four bytes as float32, which holds all their values."""
    if is_torch_array(X):
        return X.float() if X.is_floating_point() and X.element_size() < 4 else X
    is_short = str(getattr(X, "dtype", "")) in ("float16", "bfloat16")
    return X.astype(np.float32) if is_short else X


def _stand_in(X):
    """A NumPy array with the shape of the device array X that takes no memory, to be checked."""
    if X.ndim < 2:  # the error message shows the values
        return to_numpy(X)
    is_complex = kind_of(X).xp.isdtype(X.dtype, "complex floating")
    value = np.zeros((), np.complex64 if is_complex else np.float32)
    return np.broadcast_to(value, tuple(X.shape))


def _contiguous_floats(X):
    """A device array as C-contiguous float32 or float64."""
    xp = kind_of(X).xp
    if X.dtype not in (xp.float32, xp.float64):
        X = xp.astype(X, xp.float64)
    return X.detach().contiguous() if is_torch_array(X) else xp.ascontiguousarray(X)


# Places ------------------------------------------------------------------------------------------


#: What the parameter `backend` may be.
BACKENDS = {"auto", "numba", "torch", "cupy"}


class Place(NamedTuple):
    """Where to compute: the name of a backend and the kind of array it works on."""

    backend: str
    kind: Kind


def choose_place(kind, backend, device):
    """The place for data of the given kind, from the parameters `backend` and `device`."""
    if kind.on_host:
        if backend == "auto":
            backend = "numba" if device in (None, "cpu") else "torch"
        return _place_for_host(backend, device)
    _check_device(kind, device)
    if backend == "numba":
        raise ValueError(
            f"backend='numba' computes on the CPU, but X is an array of {kind}. Use "
            "backend='auto', or move X to the CPU."
        )
    if backend in ("auto", kind.name):
        return Place(kind.name, kind)
    if backend == "torch":
        import torch

        return Place("torch", Kind(torch_namespace(), torch.device("cuda", kind.device.id)))
    return Place("cupy", _cupy_kind(kind.device.index))


def _place_for_host(backend, device):
    if backend == "numba":
        if device not in (None, "cpu"):
            raise ValueError(
                f"backend='numba' computes on the CPU; got device={device!r}. Use backend='torch'."
            )
        return Place("numba", NUMPY)
    if backend == "torch":
        return Place("torch", Kind(torch_namespace(), _torch_device(device)))
    name, _, index = (device or "cuda").partition(":")
    if name != "cuda" or not (index or "0").isdigit():
        raise ValueError(f"backend='cupy' computes on 'cuda' or 'cuda:N'; got device={device!r}.")
    return Place("cupy", _cupy_kind(int(index) if index else None))


def torch_namespace():
    """PyTorch by the array API standard; imports torch."""
    import array_api_compat.torch

    return array_api_compat.torch


def _torch_device(name):
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device  # with its index
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={name!r} cannot be used by torch: {reason}") from error


def _cupy_kind(index):
    try:
        import array_api_compat.cupy
        import cupy
    except ImportError as error:
        raise ImportError(
            "backend='cupy' needs CuPy: pip install 'semi_nmf_concepts[cuda12]'."
        ) from error
    return Kind(array_api_compat.cupy, cupy.cuda.Device(index))


def _check_device(kind, device):
    """An array on a device is not moved to another one behind the user's back."""
    if device is None:
        return
    if kind.name == "torch":
        here = {kind.device.type, str(kind.device)}
    else:
        here = {"cuda", f"cuda:{kind.device.id}"}
    if device not in here:
        raise ValueError(
            f"device={device!r} differs from where X is ({kind}). Leave device=None, or move X."
        )


# Messages ----------------------------------------------------------------------------------------


def check_same_kind(estimator, X, *, method, attribute="components_"):
    """Raise scikit-learn's error where X is of another kind than what the estimator was fitted on.

    It is that of ``sklearn.utils._array_api.check_same_namespace``, which is silent as long as
    scikit-learn's own array API dispatch is off.
    """
    fitted, came = kind_of(getattr(estimator, attribute)), kind_of(X)
    if fitted == came:
        return
    raise ValueError(
        f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and "
        f"the same device as those passed to fit(). Fitted on arrays of {fitted}; {method} got "
        f"{came} ({type(X).__name__}). Convert X, or move the estimator with "
        "sklearn.utils._array_api.move_estimator_to."
    )
