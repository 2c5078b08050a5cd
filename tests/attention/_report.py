"""A small report of the bundled model, made once per test process."""

import functools


@functools.cache
def dog_report():
    """Eight concepts of "dog", of the bundled model's last block."""
    from semi_nmf_concepts import LMMTokenFeaturizer, SemiNMFConcepts, explain_concepts
    from semi_nmf_concepts.datasets import load_scenes

    scenes = load_scenes("train", token="dog", n=120)
    decomposer = SemiNMFConcepts(8, n_active=3, random_state=0)
    return explain_concepts(
        LMMTokenFeaturizer(token="dog"), decomposer, scenes.images, scenes.captions
    )
