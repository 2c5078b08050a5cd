"""Tiny models of all families, and one answer of the bundled model."""

import importlib.util

import pytest

from semi_nmf_concepts.datasets import load_scenes
from tests._families import FAMILIES


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Folder of a family's tiny model, made once."""
    made = {}

    def build(name):
        family = FAMILIES[name]
        if family.needs_torchvision and importlib.util.find_spec("torchvision") is None:
            pytest.skip("the processor needs torchvision")
        if name not in made:
            made[name] = str(family.build(tmp_path_factory.mktemp("family") / "model"))
        return made[name]

    return build


@pytest.fixture(scope="session")
def scenes():
    return load_scenes("test", token="dog", n=4)


@pytest.fixture(scope="session")
def trace(scenes):
    """'a dog that is white on the grass next to an umbrella'."""
    from semi_nmf_concepts.attention import trace_answer

    return trace_answer(images=scenes.images[0])
