"""What the tests know of a family of models."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes
    ----------
    build : callable
        ``build(folder, *, seed=0)`` saves a tiny random model under `folder`, returns the folder.
    needs_torchvision : bool
        Whether the family's processor cannot be made without torchvision.
    """

    build: Callable
    needs_torchvision: bool = False
