"""Families as parameters of tests."""

import pytest

from tests._families import FAMILIES


def family_params(names=None):
    """A pytest parameter for each family; those that need torchvision are marked ``vision``."""
    return [
        pytest.param(name, marks=[pytest.mark.vision] if FAMILIES[name].needs_torchvision else [])
        for name in (FAMILIES if names is None else names)
    ]
