"""One small evaluation that several tests look at, and what counts the model's work."""

import pytest

from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.evaluation import evaluate
from semi_nmf_concepts.lmm import LMMTokenFeaturizer
from tests._tiny_clip import build_tiny_clip

TOKENS = ("dog", "cat", "bus")
SETTINGS = {
    "tokens": list(TOKENS),
    "chosen_on": ["cat"],
    "methods": ["semi-nmf", "kmeans", "pca", "simple"],
    "n_components": [6, 4],
    "layers": [1],
    "alphas": [0.1],
    "seeds": [0, 1, 2],
    "factor_columns": ["colour", "background"],
    "min_positives": 2,
    "bert": "bundled",
}


@pytest.fixture(scope="session")
def scenes():
    """(train, test): small scenes of each token."""
    sizes = {"train": 60, "test": 30}
    return tuple(
        {token: load_scenes(split, token=token, n=n) for token in TOKENS}
        for split, n in sizes.items()
    )


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    build_tiny_clip(folder)
    return str(folder)


@pytest.fixture
def featurizer():
    return LMMTokenFeaturizer(stop="token", batch_size=64)


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="session")
def result(scenes, tiny_clip, out):
    featurizer = LMMTokenFeaturizer(stop="token", batch_size=64)
    return evaluate(featurizer, *scenes, clip=tiny_clip, out=out, **SETTINGS)
