"""The whole job, on a fake model whose concepts are known, and on a tiny real one."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA

from semi_nmf_concepts.grounding import ConceptReport, explain_concepts, ground_text
from tests._fake_model import FakeFeaturizer, FakeHandle, LazyImages


class ThreeConcepts(TransformerMixin, BaseEstimator):
    """Decomposer with three fixed atoms (snow, grass, black); fitting only copies them."""

    n_components = 3

    def __init__(self, width=16):
        self.width = width

    def fit(self, Z, y=None):
        handle = FakeHandle()
        words = ("▁snow", "▁grass", "▁black")
        self.components_ = np.array([handle.direction(w, "▁dog") for w in words])[:, : self.width]
        return self

    def transform(self, Z):
        return np.clip(Z[:, [4, 6, 10]] - 0.5, 0, None)

    def inverse_transform(self, V):
        return V @ self.components_


def factors_of(images):
    return pd.DataFrame(
        {
            "colour": images.colours,
            "object": "dog",
            "owner": [None, *["Ann"] * (len(images) - 1)],
            "boxes": [[[0, 0, 1, 1]]] * len(images),
        },
        index=np.arange(len(images)) + 1000,  # an index that is not the position
    )


@pytest.fixture(scope="module")
def explained():
    images, test_images = LazyImages(200), LazyImages(120)
    captions = [f"a {colour} dog" for colour in images.colours]
    report = explain_concepts(
        FakeFeaturizer(),
        ThreeConcepts(),
        images,
        captions,
        test_images=test_images,
        factors=factors_of(images),
        test_factors=factors_of(test_images),
        factor_words={"colour": {"black": "black", "white": ("snow", "snowy"), "green": ["red"]}},
        n_local=10,
    )
    return report, images, test_images


def test_concepts_have_their_words_and_images(explained):
    report, images, _ = explained
    assert [c.words[0] for c in report.concepts] == ["snow", "grass", "black"]
    for concept, colour in zip(report.concepts, ("white", "green", "black"), strict=True):
        assert len(concept.image_indices) == 5
        assert {images.colours[i] for i in concept.image_indices} == {colour}
        assert concept.share == pytest.approx(1 / 3, abs=0.01)
        activation = report.activations[:, concept.index]
        np.testing.assert_array_equal(concept.activation, activation)
        assert concept.mean_activation == pytest.approx(activation[activation > 0].mean())
        rows = [list(report.samples.indices).index(i) for i in concept.image_indices]
        np.testing.assert_allclose(concept.image_activations, activation[rows])
        assert concept.image_activations == sorted(concept.image_activations, reverse=True)


def test_samples_keep_positions_captions_references_and_factors(explained):
    report, images, _ = explained
    samples = report.samples
    assert len(samples) == 150
    for row in (0, 77, 149):
        colour = images.colours[samples.indices[row]]
        assert samples.captions[row] == f"a dog that is {colour}"
        assert samples.references[row] == [f"a {colour} dog"]
        assert samples.factors[row]["colour"] == colour


def test_local_samples_are_spread_over_the_kept_test_images(explained):
    report, _, test_images = explained
    assert report.local_kind == "test"
    assert report.n_local == 10
    assert report.test_activations.shape == (90, 3)
    assert np.ptp(report.local_samples.indices) > 80
    names = {"white": 0, "green": 1, "black": 2}
    for i in range(10):
        local = report.local(i)
        assert local.items[0]["concept"] == names[test_images.colours[local.image_index]]
        assert report.image("local", i).size == (160, 107)


def test_only_the_images_shown_are_read_again(explained):
    report, images, test_images = explained
    shown = {i for concept in report.concepts for i in concept.image_indices}
    assert images.reads == [2 if i in shown else 1 for i in range(len(images))]
    assert sum(test_images.reads) == len(test_images) + report.n_local


def test_factor_table(explained):
    report, _, _ = explained
    table = {row["value"]: row for row in report.factor_table}
    assert set(table) == {"black", "white", "green"}
    assert [table[v]["concept"] for v in ("white", "green", "black")] == [0, 1, 2]
    assert all(row["auroc"] == 1 for row in table.values())
    assert all(row["n_positive"] == 30 for row in table.values())
    assert [table[v]["word_hit"] for v in ("white", "green", "black")] == [True, False, True]
    assert report.settings["word_hit_share"] == pytest.approx(2 / 3)
    assert report.settings["factor_macro"] == 1
    assert report.concepts[0].factors[0]["value"] == "white"
    assert [entry["factor"] for entry in report.left_out] == ["object"]


def test_settings(explained):
    settings = explained[0].settings
    assert settings["decomposer"] == "ThreeConcepts"
    assert settings["params"] == {"width": 16}
    assert settings["dropped"] == {"not_generated": 50}
    assert (settings["n_seen"], settings["n_kept"]) == (200, 150)
    assert (settings["n_test_seen"], settings["n_test_kept"]) == (120, 90)
    assert settings["token"] == "dog"
    assert 0 < settings["overlap"] <= 1
    assert settings["mean_n_active"] == pytest.approx(1)
    assert settings["grounding"]["word_filter"] == "english"
    asked = {"n_images": 5, "n_local": 10, "min_positives": 15, "random_state": 0}
    assert settings.items() >= (asked | {"factor_columns": None}).items()
    assert settings["ignored_factor_columns"] == ["owner", "boxes"]


def test_the_reconstruction_score_is_that_of_its_definition(explained):
    report, images, _ = explained
    Z = FakeFeaturizer().extract(images).Z
    error = np.sum((Z - report.activations @ report.components) ** 2)
    expected = 1 - error / np.sum((Z - Z.mean(axis=0)) ** 2)
    assert report.settings["reconstruction_score"] == pytest.approx(expected, rel=1e-4)


def test_the_report_survives_saving(explained, tmp_path):
    report, _, _ = explained
    report.save(tmp_path)
    loaded = ConceptReport.load(tmp_path)
    assert loaded.settings == report.settings
    assert loaded.samples.factors == report.samples.factors
    assert loaded.factor_table == report.factor_table
    np.testing.assert_array_equal(loaded.activations, report.activations)


def test_without_test_images_training_samples_are_explained():
    images = LazyImages(240)
    report = explain_concepts(FakeFeaturizer(), ThreeConcepts(), images, factors=factors_of(images))
    assert report.local_kind == "train"
    assert report.n_local == 24
    assert report.test_samples is None
    assert report.local(5).image_index == report.local_samples.indices[5]
    assert "30%" in report.settings["factor_protocol"]
    assert all(row["auroc"] == 1 and row["n_positive"] < 30 for row in report.factor_table)
    assert report.samples.references[0] == []


def test_no_factors_no_table():
    report = explain_concepts(FakeFeaturizer(), ThreeConcepts(), LazyImages(12), n_local=None)
    assert report.factor_table is None
    assert report.left_out == []
    assert report.samples.factors is None
    assert report.local(0).factors is None
    assert report.n_local == 9


def test_an_unfitted_decomposer_stays_unfitted_and_a_fitted_one_is_used_as_is():
    decomposer = ThreeConcepts()
    explain_concepts(FakeFeaturizer(), decomposer, LazyImages(12))
    assert not hasattr(decomposer, "components_")
    decomposer.fit(None)
    decomposer.components_ = decomposer.components_[::-1]
    report = explain_concepts(FakeFeaturizer(), decomposer, LazyImages(12))
    assert report.concepts[0].words[0] == "black"


def test_a_decomposer_fitted_here_carries_its_provenance():
    report = explain_concepts(FakeFeaturizer(), ThreeConcepts(), LazyImages(12))
    assert report.decomposer.provenance_ == report.provenance
    assert report.provenance["fingerprint"] == "fake"
    assert report.settings["decomposer_origin"] == "fitted on the kept training images"
    with pytest.raises(ValueError, match="unembedding of their own model"):
        ground_text(report.decomposer, FakeHandle(fingerprint="other"))


def test_the_origin_of_a_fitted_decomposer_is_told_or_unknown():
    decomposer = ThreeConcepts().fit(None)
    report = explain_concepts(FakeFeaturizer(), decomposer, LazyImages(12))
    assert "unknown" in report.settings["decomposer_origin"]
    assert not hasattr(report.decomposer, "provenance_")
    decomposer.provenance_ = {"fingerprint": "fake", "token": "cat", "layer": 2}
    report = explain_concepts(FakeFeaturizer(), decomposer, LazyImages(12))
    assert "token 'cat', layer 2" in report.settings["decomposer_origin"]


def test_fitting_the_given_decomposer_again_does_not_change_the_report():
    images = LazyImages(40)
    Z = FakeFeaturizer().extract(images).Z
    decomposer = PCA(2).fit(Z)
    report = explain_concepts(FakeFeaturizer(), decomposer, images)
    decomposer.fit(Z[:10])
    np.testing.assert_allclose(report.encode(Z), report.activations, atol=1e-6)


def test_scikit_learn_decomposers_are_accepted():
    report = explain_concepts(FakeFeaturizer(), PCA(2), LazyImages(40))
    assert report.components.shape == (2, 16)
    assert report.settings["decomposer"] == "PCA"
    assert report.settings["reconstruction_score"] > 0.5


def test_test_images_without_a_kept_sample_warn_and_training_samples_step_in():
    with pytest.warns(UserWarning, match="None of the 4 test images was kept"):
        report = explain_concepts(
            FakeFeaturizer(),
            ThreeConcepts(),
            LazyImages(12),
            test_images=LazyImages(4, colours=["blue"]),
        )
    assert report.local_kind == "train"
    assert report.settings["n_test_seen"] == 4
    assert report.settings["test_dropped"] == {"not_generated": 4}


def test_nothing_kept_at_all_and_other_trouble_with_test_images_are_errors():
    blue = LazyImages(4, colours=["blue"])
    with pytest.raises(ValueError, match="occurs in none of the captions"):
        explain_concepts(FakeFeaturizer(), ThreeConcepts(), blue)

    class Unreadable(FakeFeaturizer):
        def extract(self, X, captions=None):
            if len(X) == 4:
                raise ValueError("image 3 cannot be read")
            return super().extract(X, captions)

    with pytest.raises(ValueError, match="test_images: image 3 cannot be read"):
        explain_concepts(Unreadable(), ThreeConcepts(), LazyImages(12), test_images=blue)


def test_fewer_samples_than_concepts():
    message = r"Only 9 of 12 images were kept for 10 concepts \(dropped: 3 not generated\): use at"
    for n_components in (10, np.int64(10)):
        with pytest.raises(ValueError, match=message):
            explain_concepts(FakeFeaturizer(), PCA(n_components), LazyImages(12))


def test_progress_goes_to_standard_error(capsys):
    explain_concepts(FakeFeaturizer(), ThreeConcepts(), LazyImages(12), verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "kept 9 of 12" in err


def test_images_may_come_from_a_generator():
    images, test_images = LazyImages(12), LazyImages(8)
    report = explain_concepts(
        FakeFeaturizer(),
        ThreeConcepts(),
        (images[i] for i in range(12)),
        ["a dog"] * 12,
        test_images=(test_images[i] for i in range(8)),
        test_captions=["a dog"] * 8,
    )
    assert report.settings["n_seen"] == 12 and report.settings["n_test_seen"] == 8


class NeverRun(FakeFeaturizer):
    """A featurizer whose model must not be asked."""

    def __init__(self, layer=-1):
        super().__init__()
        self.layer = layer

    def extract(self, X, captions=None):
        raise AssertionError("the model ran")


def foreign():
    """A decomposer that was fitted on states of another model."""
    decomposer = ThreeConcepts().fit(None)
    decomposer.provenance_ = {"model": "other", "fingerprint": "other"}
    return decomposer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": ["a dog"]}, "captions must have one entry per image: got 1 entries for 12"),
        ({"factors": pd.DataFrame({"a": [1]})}, "factors must have one row per image: got 1"),
        ({"test_captions": ["a"]}, "need test_images"),
        (
            {"test_images": LazyImages(4), "test_captions": ["a"]},
            "test_captions: captions must have one entry per image: got 1 entries for 4",
        ),
        ({"test_images": LazyImages(4), "test_factors": factors_of(LazyImages(4))}, "Give both"),
        ({"n_images": 0}, "n_images must be"),
        ({"n_local": -1}, "n_local must be"),
        ({"n_words": 0}, "n_words must be"),
        ({"word_filter": "french"}, "word_filter must be"),
        ({"images": []}, "no images"),
        ({"min_positives": 0}, "min_positives must be"),
        ({"random_state": "a"}, "seed"),
        ({"factor_columns": ["a"]}, "factor_columns needs factors"),
        (
            {"factors": factors_of(LazyImages(12)), "factor_columns": ["size"]},
            r"factor_columns.*\['size'\] are not in both",
        ),
        (
            {"decomposer": PCA(np.int64(1)), "subtract_mean": True},
            "subtract_mean=True needs at least two",
        ),
        (
            {"decomposer": PCA(1).fit(np.eye(3)), "subtract_mean": True},
            "subtract_mean=True needs at least two",
        ),
        ({"decomposer": PCA("many")}, "n_components"),
        ({"featurizer": NeverRun("final_norm"), "final_norm": True}, "after the final norm"),
        ({"decomposer": foreign()}, "unembedding of their own model"),
    ],
)
def test_wrong_arguments_are_named_before_the_model_runs(change, message):
    arguments = {
        "featurizer": NeverRun(),
        "decomposer": ThreeConcepts(),
        "images": LazyImages(12),
    } | change
    with pytest.raises(ValueError, match=message):
        explain_concepts(**arguments)


def test_a_decomposer_fitted_on_another_width():
    with pytest.raises(ValueError, match="fitted on 3 features, but the states have 16"):
        explain_concepts(FakeFeaturizer(), PCA(2).fit(np.eye(3)), LazyImages(12))


def test_a_decomposer_without_components():
    from sklearn.preprocessing import StandardScaler

    with pytest.raises(TypeError, match="StandardScaler has none"):
        explain_concepts(FakeFeaturizer(), StandardScaler(), LazyImages(12))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    from tests._tiny_llava import build_tiny_llava

    return build_tiny_llava(tmp_path_factory.mktemp("model") / "tiny", bias_word="dog")


def test_the_real_featurizer_and_model(tiny_model, tmp_path):
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer
    from tests._tiny_llava import tiny_images

    images = tiny_images(80)
    featurizer = LMMTokenFeaturizer(str(tiny_model), token="dog", max_new_tokens=12)
    states = featurizer.extract(images)
    report = explain_concepts(
        featurizer, PCA(2), images, word_filter=None, test_images=tiny_images(40, seed=1)
    )
    np.testing.assert_array_equal(report.samples.indices, states.indices)
    assert report.samples.captions == list(states.captions)
    assert report.provenance["fingerprint"] == featurizer.handle.fingerprint
    weight, _ = featurizer.handle.unembedding()
    tokenizer = featurizer.handle.loaded.tokenizer
    for concept in report.concepts:
        assert concept.words
        token = tokenizer.convert_tokens_to_ids(concept.words[0])
        logit = report.components[concept.index] @ weight[token]
        assert concept.word_scores[0] == pytest.approx(logit, rel=1e-4)
        assert not any(word.startswith("##") for word in concept.words)
    report.save(tmp_path)
    assert len(ConceptReport.load(tmp_path)) == 2
