import json

import numpy as np
import pandas as pd
import pytest

from semi_nmf_concepts.lmm import TokenRepresentations


def has(word, captions):
    return np.array([word in caption.split() for caption in captions])


def test_selection_by_generated_captions(make, images, word, written):
    reps = make(token=word).extract(images)
    kept = has(word, written)
    np.testing.assert_array_equal(reps.indices, np.flatnonzero(kept))
    np.testing.assert_array_equal(reps.missing, ~kept)
    assert reps.all_captions == written
    assert reps.captions == [written[i] for i in reps.indices]
    assert reps.dropped == {
        "unreadable": [],
        "not_generated": np.flatnonzero(~kept).tolist(),
        "not_in_reference": [],
    }
    for caption, prefix in zip(reps.captions, reps.prefixes, strict=True):
        assert caption[len(prefix) :].split()[0] == word
        assert word not in prefix.split()
    assert reps.Z.dtype == reps.token_probability.dtype == np.float32
    assert ((reps.token_probability > 0) & (reps.token_probability <= 1)).all()
    assert len(reps) == len(reps.Z) == len(reps.positions) == len(reps.indices)
    np.testing.assert_allclose(make(token=word).transform(images)[reps.indices], reps.Z, rtol=1e-4)


def test_selection_also_by_references(make, images, word, written):
    kept = np.flatnonzero(has(word, written))
    captions = [[f"no such {word}house", f"{word.upper()}!"] for _ in images]
    captions[kept[0]] = [f"{word}like thing", f"pre{word}"]
    captions[kept[1]] = []
    captions[kept[2]] = None
    captions[kept[3]] = f"two {word}s"
    reps = make(token=word).extract(images, captions)
    np.testing.assert_array_equal(reps.indices, kept[3:])
    assert reps.dropped["not_in_reference"] == kept[:3].tolist()
    assert not reps.missing[kept].any()  # they do have the token in what was generated
    frame = pd.DataFrame({"image": images, "caption": captions})
    np.testing.assert_array_equal(make(token=word).extract(frame).Z, reps.Z)
    exact = make(token=word, forms="exact").extract(frame)
    np.testing.assert_array_equal(exact.indices, kept[4:])


def test_forms_select(make, images, words, written):
    first, second = words[:2]
    reps = make(token=first, forms=[second]).extract(images)
    np.testing.assert_array_equal(
        reps.indices, np.flatnonzero(has(first, written) | has(second, written))
    )


def test_several_tokens_and_layers_share_a_pass(make, images, words):
    tokens = words[:2]
    every = make().extract(images, token=tokens, layer=[1, -1])
    assert list(every) == [(token, layer) for token in tokens for layer in (1, -1)]
    by_token = make(layer=1).extract(images, token=tokens)
    assert list(by_token) == tokens
    by_layer = make(token=tokens[0]).extract(images, layer=[1])
    assert list(by_layer) == [1]
    for token in tokens:
        alone = make(token=token, layer=1).extract(images)
        np.testing.assert_array_equal(every[token, 1].Z, alone.Z)
        np.testing.assert_array_equal(by_token[token].Z, alone.Z)
        assert every[token, -1].layer == 3
        assert every[token, 1].provenance["token"] == token


def test_arguments_override_parameters(make, images, words):
    reps = make(token=words[0]).extract(images, token=words[1], layer=0)
    assert (reps.token, reps.layer) == (words[1], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": []}, "token must not be an empty list"),
        ({"layer": []}, "layer must not be an empty list"),
        ({"token": ["cat", "..."]}, "token must be a word"),
        ({"captions": ["a cat"]}, "got 1 entries for 24 images"),
    ],
)
def test_wrong_arguments(make, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(token="cat").extract(images, **arguments)


def test_forms_of_several_tokens(make, images):
    with pytest.raises(ValueError, match="several use 'plural' or 'exact'"):
        make(forms=["x"]).extract(images, token=["cat", "dog"])


def test_a_token_that_never_occurs_tells_which_words_do(make, images, words, written):
    count = int(has(words[0], written).sum())
    with pytest.raises(
        ValueError, match=rf"'zebra' occurs in none of the 24.*\b{words[0]} \({count}\)"
    ):
        make(token="zebra").extract(images)
    with pytest.raises(ValueError, match="but in no reference"):
        make(token=words[0]).extract(images, ["nothing"] * len(images))
    with pytest.raises(ValueError, match="'zebra'"):
        make().extract(images, token=[words[0], "zebra"])
    with pytest.raises(ValueError, match=r"none of the 24 reference captions.*garage \(24\)"):
        make(token="zebra", position="forced").extract(images, ["a garage"] * len(images))


def test_forced_needs_references(make, images):
    featurizer = make(token="cat", position="forced")
    for method in (featurizer.transform, featurizer.extract):
        with pytest.raises(ValueError, match="needs reference captions"):
            method(images)
    with pytest.raises(ValueError, match="one token at a time"):
        featurizer.extract(images, ["a cat"] * len(images), token=["cat", "dog"])
    frame = pd.DataFrame({"image": images[:3], "caption": ["a cat", None, "a dog"]})
    assert featurizer.set_params(on_missing="nan").transform(frame).shape == (3, 32)
    reps = featurizer.extract(frame)
    assert reps.indices.tolist() == [0]
    assert reps.dropped["not_in_reference"] == [1, 2]
    assert reps.missing.tolist() == [False, True, True]


def test_provenance(make, images, word):
    reps = make(token=word).extract(images)
    assert set(reps.provenance) >= {
        "package_version",
        "model",
        "revision",
        "commit",
        "fingerprint",
        "module",
        "layer",
        "token",
        "forms",
        "prompt",
        "position",
        "versions",
    }
    assert reps.provenance["forms"][0] == word
    libraries = {"numpy", "scipy", "scikit-learn", "numba", "torch", "transformers", "pillow"}
    assert set(reps.provenance["versions"]) == {"python", *libraries}
    assert reps.provenance["versions"]["numpy"] == np.__version__
    assert reps.provenance["fingerprint"] == make().handle.fingerprint
    assert json.loads(json.dumps(reps.provenance)) == reps.provenance


@pytest.mark.parametrize("settings", [{}, {"position": "mean"}, {"layer": "final_norm"}])
def test_saving_and_loading(make, images, word, tmp_path, settings):
    token = None if "position" in settings else word
    reps = make(token=token, **settings).extract(images)
    reps.save(tmp_path / "new" / "folder")
    again = TokenRepresentations.load(tmp_path / "new" / "folder")
    for name, value in vars(reps).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
            assert getattr(again, name).dtype == value.dtype
        else:
            assert getattr(again, name) == value
    assert repr(again) == repr(reps)


def test_saving_where_nothing_can_be_written(make, images, tmp_path):
    reps = make(position="last").extract(images[:2])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"choose a folder that can be written.*file.representations"):
        reps.save(tmp_path / "file")


def test_damaged_saves_are_refused(make, images, word, tmp_path):
    with pytest.raises(ValueError, match="holds no saved token representations"):
        TokenRepresentations.load(tmp_path)
    make(token=word).extract(images).save(tmp_path)
    arrays = tmp_path / "representations.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        TokenRepresentations.load(tmp_path)
    (tmp_path / "representations.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no saved"):
        TokenRepresentations.load(tmp_path)
