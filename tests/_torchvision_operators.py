"""Pytest plugin (``-p tests._torchvision_operators``): torchvision beside a torch without CUDA.

The published wheels of torchvision are built for CUDA. Beside the CPU build of torch their
extension does not load, and the import fails, because these two operators are missing. Nothing here
calls them, so that it is enough to declare them. Where torchvision matches torch, it is left alone.
"""

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept = []  # the declarations last as long as this object


def pytest_configure():
    """Declare the operators, after `tests/conftest.py` and before any test module is imported."""
    import torch

    try:
        import torchvision
    except RuntimeError:  # declared twice they would be an error, too, hence only now
        pass
    else:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _SIGNATURE)
    _kept.append(library)
    # Tests skip where it cannot be imported; who asks for this plugin wants them to run.
    import torchvision  # noqa: F401
