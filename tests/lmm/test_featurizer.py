import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from semi_nmf_concepts.decomposition import SemiNMFConcepts
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, load_model
from semi_nmf_concepts.lmm._handle import load_count


def test_one_row_per_image(make, images, word):
    Z = make(token=word).fit_transform(images)
    assert Z.shape == (len(images), 32)
    assert Z.dtype == np.float32
    assert np.isfinite(Z).all()


def test_batch_size_does_not_matter(make, images, word):
    one, seven, many = (make(token=word, batch_size=size).transform(images) for size in (1, 7, 32))
    for other in (seven, many):
        assert np.max(np.linalg.norm(other - one, axis=1) / np.linalg.norm(one, axis=1)) < 1e-4


def test_images_of_any_kind_give_the_same(make, images, tmp_path):
    paths = []
    for i, image in enumerate(images[:3]):
        paths.append(tmp_path / f"{i}.png")
        image.save(paths[-1])
    featurizer = make(position="last")
    expected = featurizer.transform(images[:3])
    arrays = [np.asarray(image) for image in images[:3]]
    for X in (
        paths,
        [str(path) for path in paths],
        arrays,
        np.stack(arrays),
        [array / 255 for array in arrays],
        pd.DataFrame({"image": paths}),
        [images[0].convert("RGBA"), arrays[1], paths[2]],
    ):
        np.testing.assert_array_equal(featurizer.transform(X), expected)


def test_extreme_sizes_and_modes(make):
    X = [
        Image.new("L", (1, 1)),
        Image.new("RGBA", (3, 700), (9, 9, 9, 0)),
        Image.new("P", (700, 2)),
        np.zeros((3, 3, 3), np.uint8),
        Image.new("1", (8000, 8000)),
    ]
    Z = make(position="last").transform(X)
    assert np.isfinite(Z).all()


def test_huge_images_are_not_collected_in_one_batch(make, images, monkeypatch, word):
    """The batch is cut when its pixels exceed the limit; the result stays the same."""
    from semi_nmf_concepts.lmm import _run, _states

    sizes = []
    call = _states.StateCollector.__call__
    monkeypatch.setattr(
        _states.StateCollector,
        "__call__",
        lambda self, batch, *args: sizes.append(len(batch)) or call(self, batch, *args),
    )
    expected = make(token=word).transform(images)
    monkeypatch.setattr(_run, "MAX_WAITING_PIXELS", 5 * 48 * 48)
    Z = make(token=word).transform(images)
    assert sizes == [24, 6, 6, 6, 6]
    np.testing.assert_allclose(Z, expected, rtol=1e-3, atol=1e-3)


def test_missing_tokens(make, images, written):
    has = np.array(["bus" in caption.split() for caption in written])
    rare = next(
        w
        for w in ("bus", "train", "red", "horse", "night", "beach", "snow", "street", "cat")
        if 0 < sum(w in caption.split() for caption in written) < len(written)
    )
    has = np.array([rare in caption.split() for caption in written])
    peak = make(token=rare).transform(images)
    nan = make(token=rare, on_missing="nan").transform(images)
    np.testing.assert_array_equal(np.isnan(nan).all(axis=1), ~has)
    np.testing.assert_array_equal(nan[has], peak[has])
    assert np.isfinite(peak).all()
    with pytest.raises(ValueError, match=rf"not in the captions of {(~has).sum()} of 24"):
        make(token=rare, on_missing="error").transform(images)
    all_nan = make(token="zebra", on_missing="nan").transform(images[:2])
    assert all_nan.shape == (2, 32)


def test_unreadable_images(make, images, tmp_path, word):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 cut")
    X = [*images[:3], bad, None, *images[3:]]
    for method in ("transform", "extract"):
        with pytest.raises(ValueError, match=r"image 3 .*bad\.jpg"):
            getattr(make(token=word), method)(X)
    skip = make(token=word, on_error="skip")
    with pytest.warns(UserWarning, match=r"2 image.s. left out: image 3 .*bad\.jpg"):
        Z = skip.transform(X)
    assert np.flatnonzero(np.isnan(Z).any(axis=1)).tolist() == [3, 4]
    np.testing.assert_allclose(np.delete(Z, [3, 4], 0), skip.transform(images), rtol=1e-4)
    with pytest.warns(UserWarning, match="2 image.s. left out"):
        reps = skip.extract(X)
    assert reps.dropped["unreadable"] == [3, 4]
    assert reps.all_captions[3] is None
    assert reps.missing[[3, 4]].all()
    assert len(reps.missing) == len(reps.all_captions) == len(X)
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="none of the 2 images could be read"),
    ):
        skip.extract([bad, bad])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"token": None}, "token is required for position='generated'"),
        ({"token": "dog", "position": "last"}, "token='dog' has no meaning for position='last'"),
        ({"token": "dog", "position": 3}, "has no meaning"),
        ({"token": "..."}, "token must be a word"),
        ({"token": ["dog"]}, "'token' parameter"),
        ({"token": "dog", "forms": "all"}, "'forms' parameter"),
        ({"token": "dog", "forms": [3]}, "forms must be"),
        ({"token": "dog", "position": "first"}, "'position' parameter"),
        ({"token": "dog", "on_missing": "drop"}, "'on_missing' parameter"),
        ({"token": "dog", "stop": "never"}, "'stop' parameter"),
        ({"token": "dog", "layer": 1.5}, "'layer' parameter"),
        ({"token": "dog", "batch_size": 0}, "'batch_size' parameter"),
        ({"token": "dog", "max_new_tokens": 0}, "'max_new_tokens' parameter"),
        ({"token": "dog", "on_error": "ignore"}, "'on_error' parameter"),
        ({"token": "dog", "dtype": "int8"}, "dtype must be one of"),
    ],
)
def test_wrong_parameters(make, images, parameters, message):
    for method in ("fit", "transform", "extract"):
        with pytest.raises(ValueError, match=message):
            getattr(make(**parameters), method)(images[:1])


@pytest.mark.parametrize("parameters", [{"layer": True}, {"position": False}])
def test_booleans_are_no_indices(make, images, parameters):
    settings = {"token": None, "position": "last", **parameters}
    for method in ("fit", "transform", "extract"):
        with pytest.raises(TypeError, match=f"^{next(iter(parameters))} must be"):
            getattr(make(**settings), method)(images[:1])
    with pytest.raises(TypeError, match=r"layer must be.*got 1\.5"):
        make(position="last").extract(images[:1], layer=[0, 1.5])


def test_wrong_device(tiny_model, images):
    with pytest.raises(ValueError, match="device='abacus'"):
        LMMTokenFeaturizer(tiny_model, position="last", device="abacus").transform(images[:1])


def test_words_unknown_to_the_tokenizer(make, images):
    with pytest.raises(ValueError, match="'犬' is unknown to the tokenizer"):
        make(token="犬").transform(images[:1])


def test_prompts(tiny_model, make, images, word):
    """The chat template, a whole prompt, and a prompt without a place for the image."""
    reps = make(token=word).extract(images)
    assert reps.provenance["prompt"] == "<image>caption:"
    whole = make(token=word, prompt="<image>caption:").extract(images)
    np.testing.assert_array_equal(whole.Z, reps.Z)
    asked = make(token=word, prompt="what on the beach").extract(images)
    assert asked.provenance["prompt"] == "<image>what on the beachcaption:"
    assert asked.all_captions != reps.all_captions
    default = make(position="last", prompt=None).extract(images[:1])
    assert "Describe this image" in default.provenance["prompt"]


def test_prompt_without_chat_template(tmp_path, images):
    from tests._tiny_llava import build_tiny_llava

    model = build_tiny_llava(tmp_path, chat_template=False)
    reps = LMMTokenFeaturizer(model, position="last", prompt="the cat").extract(images[:2])
    assert reps.provenance["prompt"] == "<image>\nthe cat"


def test_feature_names_and_pandas_output(make, images, word):
    assert make(token=word).get_feature_names_out()[:2].tolist() == ["layer3_0", "layer3_1"]
    assert make(token=word, layer=1).get_feature_names_out()[-1] == "layer1_31"
    assert make(token=word, layer="final_norm").get_feature_names_out()[0] == "final_norm_0"
    frame = pd.DataFrame({"image": images[:3]}, index=[7, 8, 9])
    Z = make(position="last").set_output(transform="pandas").fit_transform(frame)
    assert Z.index.tolist() == [7, 8, 9]
    assert Z.columns[0] == "layer3_0"
    Z = make(position="last").set_output(transform="pandas").fit_transform(images[:3])
    assert Z.shape == (3, 32)


def test_estimators_carry_no_weights(make, images, word):
    """Cloning, copying, pickling and hashing neither read nor hold the model."""
    pipeline = make_pipeline(make(token=word).fit(images), PCA(3))
    pipeline.fit(images)
    before, handle = load_count(), pipeline[0].handle
    of_this_model = load_count(handle)
    for featurizer in (pipeline[0], LMMTokenFeaturizer(load_model(pipeline[0].model), token=word)):
        clone(featurizer)
        copied = pickle.loads(pickle.dumps(copy.deepcopy(featurizer)))
        assert len(pickle.dumps(featurizer)) < 10_000
        assert joblib.hash(copied) == joblib.hash(featurizer)
        assert copied.handle == featurizer.handle
    clone(pipeline)
    assert len(pickle.dumps(pipeline)) < 10_000
    np.testing.assert_allclose(
        pickle.loads(pickle.dumps(pipeline)).transform(images[:5]),
        pipeline.transform(images[:5]),
        rtol=1e-3,
        atol=1e-4,
    )
    assert load_count() == before
    assert load_count(handle) == of_this_model > 0


def test_fit_does_not_load_the_model(tmp_path):
    featurizer = LMMTokenFeaturizer(tmp_path / "later", token="dog").fit([])
    assert not featurizer.handle_.is_loaded


def test_pipeline_grid_search_and_pandas(make, images, word):
    pipeline = make_pipeline(make(token=word), PCA()).set_output(transform="pandas")
    search = GridSearchCV(pipeline, {"pca__n_components": [2, 3]}, cv=2).fit(images)
    Z = search.best_estimator_.transform(images)
    assert Z.columns.tolist() == [f"pca{i}" for i in range(Z.shape[1])]
    assert search.best_estimator_[:-1].get_feature_names_out()[0] == "layer3_0"


def test_concepts_in_a_pipeline(make, images, word):
    pipeline = make_pipeline(make(token=word), SemiNMFConcepts(3, random_state=0))
    V = pipeline.set_output(transform="pandas").fit_transform(images)
    assert isinstance(V, pd.DataFrame)
    assert V.shape == (len(images), 3)
    assert (V >= 0).all(axis=None)
    assert V.columns.tolist() == pipeline.get_feature_names_out().tolist()
    frame = pd.DataFrame({"image": images[:4]}, index=list("abcd"))
    assert pipeline.transform(frame).index.tolist() == list("abcd")


def test_skops_round_trip(make, images, word):
    skops = pytest.importorskip("skops.io")
    featurizer = make(token=word, forms=[word, "cats"], position="generated").fit()
    content = skops.dumps(featurizer)
    trusted = [
        "semi_nmf_concepts.lmm._featurizer.LMMTokenFeaturizer",
        "semi_nmf_concepts.lmm._handle.ModelHandle",
    ]
    assert skops.get_untrusted_types(data=content) == trusted
    again = skops.loads(content, trusted=trusted)
    assert again.get_params() == featurizer.get_params()
    assert again.handle_ == featurizer.handle_
    np.testing.assert_array_equal(again.transform(images[:3]), featurizer.transform(images[:3]))
    handle = load_model("some/folder", dtype="float32")
    content = skops.dumps(LMMTokenFeaturizer(handle, token=word))
    assert skops.loads(content, trusted=trusted).model == handle


def test_column_transformer(make, images):
    frame = pd.DataFrame({"image": images[:4], "n": range(4)})
    columns = make_column_transformer((make(position="last"), ["image"]), ("passthrough", ["n"]))
    assert columns.fit_transform(frame).shape == (4, 33)


def test_works_unfitted(make, images):
    try:
        make(position="last").transform(images[:1])
    except NotFittedError:  # pragma: no cover
        pytest.fail("there is nothing to fit")


def test_half_precision_comes_out_as_float32(tiny_model, images, make):
    Z = LMMTokenFeaturizer(tiny_model, prompt="", position="last", dtype="bfloat16").transform(
        images[:2]
    )
    assert Z.dtype == np.float32
    np.testing.assert_allclose(Z, make(position="last").transform(images[:2]), atol=0.5)


def test_progress_bar_only_on_request(make, images, capfd):
    make(position="last").transform(images[:2])
    assert capfd.readouterr() == ("", "")
    make(position="last", verbose=1).transform(images[:2])
    assert "2/2" in capfd.readouterr().err
