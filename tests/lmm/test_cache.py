import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from semi_nmf_concepts.decomposition import KMeansConcepts, PCAConcepts, SemiNMFConcepts
from semi_nmf_concepts.lmm import TokenRepresentations, load_model


def test_every_image_runs_once(make, images, word, tmp_path, n_run):
    cached = make(token=word, cache=tmp_path / "cache")
    first = cached.extract(images)
    assert n_run() == len(images)
    again = make(token=word, cache=str(tmp_path / "cache"), batch_size=3).extract(images)
    assert n_run() == len(images)
    plain = make(token=word).extract(images)
    for name in ("Z", "positions", "indices", "token_probability", "missing"):
        np.testing.assert_array_equal(getattr(first, name), getattr(plain, name))
        np.testing.assert_array_equal(getattr(again, name), getattr(plain, name))
    assert again.all_captions == plain.all_captions
    assert again.prefixes == plain.prefixes


def test_folds_and_grids_share_it(make, images, word, tmp_path, n_run):
    pipeline = make_pipeline(make(token=word, cache=tmp_path), PCA())
    GridSearchCV(pipeline, {"pca__n_components": [2, 3]}, cv=3).fit(images)
    assert n_run() == len(images)


def test_decomposers_swap_in_a_grid(tiny_model, make, images, word, tmp_path, monkeypatch):
    """Folds and candidates use what ran once, whatever the concepts step is."""
    model = load_model(tiny_model).loaded.model
    generate, batches = model.generate, []
    monkeypatch.setattr(
        model,
        "generate",
        lambda *args, **kwargs: (
            batches.append(len(kwargs["input_ids"])) or generate(*args, **kwargs)
        ),
    )
    pipeline = Pipeline(
        [("states", make(token=word, cache=tmp_path)), ("concepts", SemiNMFConcepts(3))]
    )
    concepts = [SemiNMFConcepts(3, random_state=0), KMeansConcepts(3, random_state=0)]
    grid = {"concepts": [*concepts, PCAConcepts(3)]}
    X = [*images, images[0]]  # one image occurs twice
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(X)
    assert sum(batches) == len(images)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.transform(X).shape == (len(X), 3)
    assert sum(batches) == len(images)


def test_positions_and_layers_may_be_numpy_integers(make, images, tmp_path, n_run):
    cached = make(position=np.int64(3), layer=np.int32(1), cache=tmp_path / "cache")
    reps = cached.extract(images[:2])
    assert reps.provenance["position"] == 3
    reps.save(tmp_path / "saved")
    assert TokenRepresentations.load(tmp_path / "saved").layer == 1
    make(position=3, layer=1, cache=tmp_path / "cache").transform(images[:2])
    assert list(cached.extract(images[:2], layer=np.arange(2))) == [0, 1]
    assert n_run() == 4  # two for layer 1, and again for layers 0 and 1 together


def test_equal_images_run_once_in_one_call(make, images, tmp_path, n_run):
    X = [images[0], images[1], images[0], np.asarray(images[1])]
    Z = make(position="last", cache=tmp_path).transform(X)
    assert n_run() == 2
    np.testing.assert_array_equal(Z[:2], Z[2:])


def test_files_are_known_by_content(make, images, tmp_path, n_run):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    images[0].save(paths[0])
    images[1].save(paths[1])
    cached = make(position="last", cache=tmp_path / "cache")
    Z = cached.transform(paths)
    paths[0].rename(tmp_path / "c.png")
    np.testing.assert_array_equal(cached.transform([paths[1], tmp_path / "c.png"]), Z[::-1])
    assert n_run() == 2
    images[2].save(paths[1])  # another image under the same name
    cached.transform(paths[1:])
    assert n_run() == 3


def test_other_requests_do_not_share(make, images, words, tmp_path, n_run):
    def run(**parameters):
        before = n_run()
        make(cache=tmp_path, **{"token": words[0], **parameters}).transform(images[:2])
        return n_run() - before

    assert run() == 2
    assert run() == 0
    for parameters in (
        {"token": words[1]},
        {"layer": 0},
        {"prompt": "the cat"},
        {"forms": "exact"},
        {"max_new_tokens": 9},
        {"stop": "token"},
        {"dtype": "float64"},
        {"token": None, "position": "last"},
        {"token": None, "position": 3},
    ):
        assert run(**parameters) == 2, parameters
        assert run(**parameters) == 0, parameters
    # What does not change a record does not change its address.
    assert run(layer=3, batch_size=1, on_missing="nan") == 0


def test_dictated_captions_belong_to_the_request(make, images, tmp_path, n_run):
    cached = make(token="cat", position="forced", cache=tmp_path)
    cached.extract(images[:2], ["a cat", "a cat"])
    cached.extract(images[:2], ["a cat", "the red cat"])
    assert n_run() == 3


def test_layers_and_tokens_are_found_one_by_one(make, images, words, tmp_path, n_run):
    cached = make(cache=tmp_path)
    cached.extract(images, token=words[:2], layer=[0, 1])
    ran = n_run()
    cached.extract(images, token=words[1], layer=1)
    assert n_run() == ran


def test_damaged_entries_are_computed_again(make, images, tmp_path, n_run):
    cached = make(position="last", cache=tmp_path)
    Z = cached.transform(images[:4])
    entries = sorted(tmp_path.rglob("*.npz"))
    assert len(entries) == 4
    entries[0].write_bytes(b"")
    entries[1].write_bytes(entries[1].read_bytes()[:-30])
    content = bytearray(entries[2].read_bytes())
    content[140] ^= 0xFF
    entries[2].write_bytes(content)
    np.savez(entries[3], state=np.zeros(3, np.float32), meta="[]")
    np.testing.assert_allclose(cached.transform(images[:4]), Z, rtol=1e-5)
    assert n_run() == 8
    cached.transform(images[:4])
    assert n_run() == 8
    assert not list(tmp_path.rglob("*.tmp"))


def test_unreadable_images_are_not_cached(make, images, tmp_path, n_run):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"x")
    cached = make(position="last", cache=tmp_path / "cache", on_error="skip")
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 image.s. left out"):
            assert np.isnan(cached.transform([bad, images[0]])[0]).all()
    assert n_run() == 1


def test_a_folder_that_cannot_be_used(make, images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache="):
        make(position="last", cache=tmp_path / "file").transform(images[:1])
