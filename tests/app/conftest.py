"""One answer of the bundled model, and concepts of it."""

import pytest

from semi_nmf_concepts.datasets import load_scenes
from tests._browser import browser, lacking, page  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def gradio():
    """The app's tests need Gradio."""
    try:
        import gradio
    except ImportError:
        lacking("Gradio is not installed")
    return gradio


@pytest.fixture(scope="session")
def scenes():
    return load_scenes("test", token="dog", n=4)


@pytest.fixture(scope="session")
def trace(scenes):
    """'a dog that is white on the grass next to an umbrella'."""
    from semi_nmf_concepts.attention import trace_answer

    return trace_answer(images=scenes.images[0], image_names=["scene.png"])


@pytest.fixture(scope="session")
def report():
    """Four concepts of "dog"."""
    from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts

    images = load_scenes("train", token="dog", n=60).images
    decomposer = SemiNMFConcepts(4, n_active=2, random_state=0)
    return explain_concepts(LMMTokenFeaturizer(token="dog", max_new_tokens=12), decomposer, images)
