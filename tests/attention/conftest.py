"""Tiny models of all families, and one answer of the bundled model."""

import pytest

from semi_nmf_concepts.datasets import load_scenes
from tests._families._marks import build  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def scenes():
    return load_scenes("test", token="dog", n=4)


@pytest.fixture(scope="session")
def trace(scenes):
    """'a dog that is white on the grass next to an umbrella'."""
    from semi_nmf_concepts.attention import trace_answer

    return trace_answer(images=scenes.images[0])
