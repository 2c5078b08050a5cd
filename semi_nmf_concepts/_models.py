"""What everybody who loads or runs a pretrained model needs, whatever the model."""

import contextlib
import threading


def torch_device(device):
    """The torch device that `device` means; "auto" is the first CUDA device, else the CPU.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If torch knows no such device, or sees none of CUDA on this machine.
    """
    import torch

    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is no device of torch: {error}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch sees no CUDA device on this machine.")
    return found


def no_connection(error):
    """Whether the hub could not be asked, as opposed to answering that there is no such model."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def hooked(module, hook):
    """Within the block ``hook(module, args, output)`` is called after the module has run.

    Models are shared: what the module does for other threads is not seen, and not changed.

    Parameters
    ----------
    module : torch.nn.Module
    hook : callable
        Returns what takes the place of `output`, or None.
    """
    thread = threading.get_ident()

    def own(module, args, output):
        return hook(module, args, output) if threading.get_ident() == thread else None

    handle = module.register_forward_hook(own)
    try:
        yield
    finally:
        handle.remove()
