"""A tiny model, images, and words that the model does write about them."""

from collections import Counter

import pytest

from semi_nmf_concepts.lmm import LMMTokenFeaturizer
from tests._dask_cluster import client, cluster  # noqa: F401 - fixtures
from tests._families._marks import build  # noqa: F401 - a fixture
from tests._tiny_llava import build_tiny_llava, tiny_images

MAX_NEW_TOKENS = 14
N_IMAGES = 24


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return str(build_tiny_llava(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def images():
    return tiny_images(N_IMAGES)


@pytest.fixture
def make(tiny_model):
    """LMMTokenFeaturizer of the tiny model, with short captions."""

    def make(**parameters):
        settings = {"prompt": "", "max_new_tokens": MAX_NEW_TOKENS, **parameters}
        return LMMTokenFeaturizer(tiny_model, **settings)

    return make


@pytest.fixture(scope="session")
def written(tiny_model, images):
    """The captions of `images`."""
    featurizer = LMMTokenFeaturizer(
        tiny_model, token="a", prompt="", max_new_tokens=MAX_NEW_TOKENS, forms=["the", "blue"]
    )
    return featurizer.extract(images).all_captions


@pytest.fixture(scope="session")
def words(written):
    """Words in a fifth to four fifths of the captions, most frequent first."""
    counts = Counter(word for caption in written for word in set(caption.split()) if len(word) > 2)
    some = [w for w, n in counts.most_common() if 0.2 <= n / len(written) <= 0.8]
    assert len(some) >= 2, "the tiny model's captions have become too uniform for these tests"
    return some


@pytest.fixture(scope="session")
def word(words):
    return words[0]
