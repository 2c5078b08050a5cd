"""Families as parameters of tests, and their models as a fixture."""

import importlib.util

import pytest

from tests._families import FAMILIES


def family_params(names=None):
    """A pytest parameter for each family; those that need torchvision are marked ``vision``."""
    return [
        pytest.param(name, marks=[pytest.mark.vision] if FAMILIES[name].needs_torchvision else [])
        for name in (FAMILIES if names is None else names)
    ]


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Folder of a family's tiny model, made once; import it to use it."""
    made = {}

    def build(name):
        family = FAMILIES[name]
        if family.needs_torchvision and importlib.util.find_spec("torchvision") is None:
            pytest.skip("the processor needs torchvision")
        if name not in made:
            made[name] = str(family.build(tmp_path_factory.mktemp("family") / "model"))
        return made[name]

    return build
