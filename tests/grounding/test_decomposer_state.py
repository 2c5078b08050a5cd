"""A saved report encodes new samples exactly as the fitted decomposer does."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)
from semi_nmf_concepts.grounding import ConceptReport, explain_concepts
from semi_nmf_concepts.lmm import TokenRepresentations
from tests._example_report import example_report
from tests._fake_model import FakeFeaturizer, LazyImages

DECOMPOSERS = {
    "plain": SemiNMFConcepts(3, alpha=0.05, random_state=0),
    "centred": SemiNMFConcepts(3, n_active=1.5, center=True, random_state=0),
    "whitened": SemiNMFConcepts(3, n_active=1.5, whiten=4, random_state=0),
    "relative, given start": SemiNMFConcepts(
        3, alpha=0.02, alpha_scale="relative", init=np.eye(3, 16)
    ),
    "k-means": KMeansConcepts(np.int64(3), n_init=2, random_state=0),
    "PCA": PCAConcepts(3, random_state=0),
    "simple": SimpleConcepts(3),
}


def states(n, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    mixture = rng.exponential(size=(n, 4)) * (rng.random((n, 4)) < 0.4)
    directions = np.random.default_rng(9).standard_normal((4, 16))
    return (5 + mixture @ directions + 0.1 * rng.standard_normal((n, 16))).astype(dtype)


@pytest.fixture(scope="module")
def report():
    return example_report(n_concepts=3, n_train=8, n_local=1)


def saved_and_loaded(report, decomposer, folder):
    replace(report, decomposer=decomposer).save(folder)
    return ConceptReport.load(folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", DECOMPOSERS)
def test_round_trip(report, tmp_path, name, dtype):
    fitted = DECOMPOSERS[name].fit(states(60, 0, dtype))
    loaded = saved_and_loaded(report, fitted, tmp_path)
    new = states(20, 1, dtype)
    codes = fitted.transform(new)
    assert codes.any()
    np.testing.assert_array_equal(loaded.encode(new), codes)
    assert loaded.encode(new).dtype == dtype
    rebuilt = loaded.decomposer
    assert type(rebuilt) is type(fitted)
    np.testing.assert_array_equal(rebuilt.inverse_transform(codes), fitted.inverse_transform(codes))
    assert rebuilt.score(new) == fitted.score(new)
    assert vars(fitted).keys() == vars(rebuilt).keys()
    for key, value in vars(fitted).items():
        np.testing.assert_array_equal(getattr(rebuilt, key), value, err_msg=key)
    assert rebuilt.fit(states(60, 0, dtype)).score(new) == pytest.approx(fitted.score(new))


def test_feature_names_and_a_random_state_that_is_no_seed(report, tmp_path):
    import pandas as pd

    frame = pd.DataFrame(states(30, 0), columns=[f"layer3_{j}" for j in range(16)])
    fitted = PCAConcepts(2, random_state=np.random.RandomState(0)).fit(frame)
    fitted.provenance_ = {"fingerprint": "x", "layer": -1}
    rebuilt = saved_and_loaded(report, fitted, tmp_path).decomposer
    np.testing.assert_array_equal(rebuilt.transform(frame), fitted.transform(frame))
    assert list(rebuilt.feature_names_in_) == list(frame.columns)
    assert rebuilt.random_state is None
    assert rebuilt.provenance_ == fitted.provenance_


def test_a_decomposer_of_another_package_is_not_saved(report, tmp_path):
    class Mine(PCAConcepts):
        """A subclass may compute something else."""

    Z = states(30, 0)
    for decomposer in (PCA(2), Mine(2)):
        live = replace(report, decomposer=decomposer.fit(Z))
        assert live.encode(Z).shape == (30, 2)
        loaded = saved_and_loaded(report, decomposer, tmp_path)
        assert loaded.decomposer is None
        with pytest.raises(ValueError, match="no decomposer to encode new samples with"):
            loaded.encode(Z)


def test_a_file_cannot_name_another_class(report, tmp_path):
    replace(report, decomposer=PCAConcepts(2).fit(states(30, 0))).save(tmp_path)
    path = tmp_path / "report.json"
    document = json.loads(path.read_bytes())
    document["decomposer"]["class"] = "Popen"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="damaged ConceptReport"):
        ConceptReport.load(tmp_path)


def test_explained_concepts_encode_the_samples_they_were_made_of(tmp_path):
    decomposer = SemiNMFConcepts(3, n_active=1.0, center=True, random_state=0)
    report = explain_concepts(FakeFeaturizer(), decomposer, LazyImages(80))
    report.save(tmp_path)
    loaded = ConceptReport.load(tmp_path)
    kept = FakeFeaturizer().extract(LazyImages(80))
    np.testing.assert_array_equal(loaded.encode(kept.Z), report.activations)
    assert loaded.decomposer.provenance_ == report.provenance


def test_states_of_another_model_or_width_are_refused(report):
    live = replace(report, decomposer=PCAConcepts(2).fit(states(30, 0)))

    def representations(fingerprint):
        return TokenRepresentations(
            Z=states(2, 1),
            indices=np.arange(2),
            captions=["a dog"] * 2,
            all_captions=["a dog"] * 2,
            positions=np.ones(2, int),
            token_probability=np.ones(2, np.float32),
            missing=np.zeros(2, bool),
            prefixes=["a"] * 2,
            token="dog",
            layer=3,
            module="layers.3",
            provenance={"model": "m", "fingerprint": fingerprint},
        )

    own = representations(report.provenance["fingerprint"])
    np.testing.assert_array_equal(live.encode(own), live.encode(own.Z))
    with pytest.raises(ValueError, match="The states come from the model 'm'"):
        live.encode(representations("other"))
    with pytest.raises(ValueError, match="16 features"):
        live.encode(np.ones((2, 3)))
