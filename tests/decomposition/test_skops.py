"""Fitted decomposers travel through skops, which unpickles nothing."""

import numpy as np
import pytest
import skops.io

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)


@pytest.mark.parametrize(
    "decomposer",
    [
        SemiNMFConcepts(4, random_state=0),
        SemiNMFConcepts(4, n_active=2.0, whiten=5, random_state=0),
        KMeansConcepts(4, random_state=0),
        PCAConcepts(4),
        SimpleConcepts(4),
    ],
    ids=lambda decomposer: type(decomposer).__name__,
)
def test_round_trip(decomposer):
    X = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    decomposer.fit(X)
    stored = skops.io.dumps(decomposer)
    ours = skops.io.get_untrusted_types(data=stored)
    assert all(name.startswith("semi_nmf_concepts.decomposition.") for name in ours)
    loaded = skops.io.loads(stored, trusted=ours)
    np.testing.assert_array_equal(loaded.transform(X), decomposer.transform(X))
    assert loaded.get_params() == decomposer.get_params()
