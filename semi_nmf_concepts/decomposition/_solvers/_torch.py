"""What PyTorch needs around a computation, and CuPy arrays as PyTorch tensors.

Importing this module does not import torch.
"""

from contextlib import ExitStack, contextmanager
from functools import cache

import array_api_compat


@cache
def torch_has_cuda():
    """Whether PyTorch is there and sees a CUDA device."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


@contextmanager
def torch_scope(x):
    """For a tensor x: its device is the current one, no gradients, products in full precision."""
    if not array_api_compat.is_torch_array(x):
        yield
        return
    import torch

    with ExitStack() as stack:
        if x.is_cuda:
            stack.enter_context(torch.cuda.device(x.device))  # Triton launches on the current one
        stack.enter_context(torch.no_grad())
        stack.enter_context(_full_precision(torch))
        yield


@contextmanager
def _full_precision(torch):
    """No TF32 or bfloat16 in float32 products, whatever the user has set.

    PyTorch has an older and a newer interface to that, and objects when only one of them is used to
    change what was set with the other: so both are.
    """
    products = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    products = [product for product in products if hasattr(product, "fp32_precision")]
    before = [product.fp32_precision for product in products]
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:  # set with the newer one
        legacy = "highest"
    try:
        if legacy != "highest":
            torch.set_float32_matmul_precision("highest")
        for product in products:
            if product.fp32_precision not in ("none", "ieee"):
                product.fp32_precision = "ieee"
        yield
    finally:
        if legacy != "highest":
            torch.set_float32_matmul_precision(legacy)
        for product, precision in zip(products, before, strict=True):
            if product.fp32_precision != precision:
                product.fp32_precision = precision


def through_torch(method, arguments, options):
    """Call a method of the backend for PyTorch on tensors that share the arrays' memory.

    What it returns becomes arrays of the same library; the array that it changed and returned (the
    first argument) comes back as it is.
    """
    import torch

    xp = array_api_compat.array_namespace(arguments[0])
    with _current_stream_of(arguments[0]):
        tensors = [torch.from_dlpack(x) if hasattr(x, "__dlpack__") else x for x in arguments]
        result = method(*tensors, **options)
        if result is tensors[0]:
            return arguments[0]
        if not isinstance(result, tuple):
            return result
        values = [xp.from_dlpack(x) if isinstance(x, torch.Tensor) else x for x in result]
        return result._make(values) if hasattr(result, "_make") else tuple(values)


@contextmanager
def _current_stream_of(x):
    """For a CuPy array: PyTorch works in CuPy's current stream, so that neither has to wait."""
    if not array_api_compat.is_cupy_array(x):
        yield
        return
    import cupy
    import torch

    with torch.cuda.device(x.device.id):
        pointer = cupy.cuda.get_current_stream().ptr
        # The default stream has the address 0, which ExternalStream takes for "a new stream".
        stream = torch.cuda.ExternalStream(pointer) if pointer else torch.cuda.default_stream()
        with torch.cuda.stream(stream):
            yield
