"""Whether the frozen parts of a model are still what they were."""

import torch

_CHUNK = 2**22
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def frozen_checksums(model):
    """Checksum of every parameter and buffer outside the connector, by name.

    Every bit counts, and where it stands. The sums are taken where the weights lie and need no
    copy of them.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    trained = [name for name, weight in named if weight.requires_grad]
    stray = [name for name in trained if not name.startswith("connector.")]
    if stray:
        raise RuntimeError(f"frozen parts must not be trained, but {stray[0]!r} would be.")
    return {name: _checksum(w) for name, w in named if not name.startswith("connector.")}


@torch.no_grad()
def _checksum(tensor):
    bits = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
    total = 0
    for start in range(0, len(bits), _CHUNK):
        chunk = bits[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start + 1, start + 1 + len(chunk), device=chunk.device)
        total += int((chunk * places + chunk).sum())  # modulo 2^64
    return total % 2**64
