"""Feature files of the published code: what is read from them, and that nothing in them runs."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch

from semi_nmf_concepts.decomposition import PCAConcepts
from semi_nmf_concepts.grounding import ground_text
from semi_nmf_concepts.lmm import TokenRepresentations, load_model, load_xl_vlms_features
from tests._data_layouts import xl_vlms_features

BLOCK, NORM = "language_model.model.layers.30", "language_model.model.norm"


@pytest.fixture
def features():
    return xl_vlms_features()


@pytest.fixture
def read(tmp_path):
    """Save features and read them back."""

    def read(features, *, legacy=False, **options):
        file = tmp_path / "save_hidden_states_for_token_of_interest_llava_dog.pth"
        torch.save(features, file, _use_new_zipfile_serialization=not legacy)
        return load_xl_vlms_features(file, **options)

    return read


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_rows_are_the_states_of_the_samples_with_the_token(features, read, legacy):
    found = read(features, legacy=legacy)
    assert list(found) == [BLOCK, NORM]
    for name, states in found.items():
        expected = [features["hidden_states"][i][name][0, 0].numpy() for i in (0, 2)]
        assert states.Z.dtype == np.float32 and states.module == name
        np.testing.assert_array_equal(states.Z, np.stack(expected).astype(np.float32))
        assert states.indices.tolist() == [0, 2]
        assert states.missing.tolist() == [False, True, False, True]
        assert states.dropped == {"not_generated": [1, 3]}
        assert states.captions == ["A dog on the grass.", "Two small dogs run."]
        assert states.all_captions[1] == "A cat sleeps."
        assert states.positions.tolist() == [-1, -1]
        assert np.isnan(states.token_probability).all()


def test_layers_are_named_as_the_featurizer_names_them(read):
    names = {
        BLOCK: 30,
        "model.text_model.layers.3": 3,
        "model.transformer.blocks.4": 4,
        NORM: "final_norm",
        "model.transformer.ln_f": "final_norm",
        "model.decoder.final_layer_norm": "final_norm",
    }
    others = [
        "language_model.model.layers.6.mlp.up_proj",
        "language_model.model.layers.6.norm",
        "vision_tower.vision_model.encoder.layers.3",
        "visual.blocks.3",
        "model.connector.perceiver_resampler.norm",
        "language_model.lm_head",
    ]
    found = read(xl_vlms_features([*names, *others]))
    assert {name: states.layer for name, states in found.items()} == names | {
        name: name for name in others
    }
    assert all(s.provenance["layer"] == s.layer for s in found.values())


def test_one_module_is_a_dict_too_and_can_be_chosen(features, read):
    assert list(read(xl_vlms_features([NORM]))) == [NORM]
    chosen = read(features, module=NORM)
    assert isinstance(chosen, TokenRepresentations) and chosen.module == NORM
    with pytest.raises(ValueError, match=f"module='layers.30' is not in .*{BLOCK}, {NORM}"):
        read(features, module="layers.30")


def test_the_token_gives_prefixes(features, read):
    states = read(features, token="dog", module=BLOCK)
    assert states.token == states.provenance["token"] == "dog"
    assert states.prefixes == ["A", "Two small"]
    assert read(features, module=BLOCK).prefixes == ["", ""]
    with pytest.raises(ValueError, match="token must be a word"):
        read(features, token=" - ")


def test_captions_without_the_word_are_counted(features, read):
    features["model_predictions"][2] = ["A doghouse."]
    with pytest.warns(UserWarning, match=r"1 of 2 samples \(positions 2\) do not have .*'dog'"):
        states = read(features, token="dog", module=BLOCK)
    assert states.indices.tolist() == [0, 2] and states.prefixes == ["A", ""]


def test_the_origin_is_recorded_and_survives_saving(features, read, tmp_path):
    states = read(features, token="dog")[NORM]
    file = next(tmp_path.glob("*.pth"))
    states.save(tmp_path / "saved")
    for origin in (states.provenance, TokenRepresentations.load(tmp_path / "saved").provenance):
        assert origin["file"] == file.name
        assert origin["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert origin["module"] == NORM and origin["dtype"] == "float16"
        assert origin["images"] == [path for (path,) in features["image"]]
        assert "fingerprint" not in origin


def test_the_records_of_two_modules_are_apart(features, read):
    found = read(features)
    found[BLOCK].dropped["not_generated"].clear()
    found[BLOCK].provenance["images"].clear()
    assert found[NORM].dropped == {"not_generated": [1, 3]}
    assert len(found[NORM].provenance["images"]) == 4


def test_concepts_of_such_states_are_grounded_in_any_model_of_their_width(read, tiny_model):
    """The origin is not known, so it cannot be refused; a second final norm can."""
    handle = load_model(tiny_model)
    states = read(xl_vlms_features([NORM], width=handle.width))[NORM]
    pca = PCAConcepts(1).fit(states.Z)
    (words,) = ground_text(pca, handle, provenance=states.provenance, word_filter=None)
    assert words.words
    with pytest.raises(ValueError, match="taken after the final norm"):
        ground_text(pca, handle, provenance=states.provenance, final_norm=True)


def test_captions_and_paths_may_not_have_been_saved(features, read):
    del features["model_predictions"], features["image"]
    states = read(features, token="dog", module=BLOCK)
    assert states.captions == states.prefixes == ["", ""]
    assert states.all_captions == [None] * 4 and states.provenance["images"] is None


def test_no_sample_with_the_token_gives_no_rows(features, read):
    features["token_of_interest_mask"] = [torch.tensor([False])] * 4
    states = read(features, module=BLOCK)
    assert states.Z.shape == (0, 6) and states.dropped == {"not_generated": [0, 1, 2, 3]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_other_types_of_floats(features, read, dtype):
    for sample in features["hidden_states"]:
        sample[NORM] = sample[NORM].to(dtype)
    states = read(features, module=NORM)
    assert states.Z.dtype == np.float32
    np.testing.assert_array_equal(states.Z[1], features["hidden_states"][2][NORM][0, 0].float())


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("kind", ["raw", "zip", "legacy"])
def test_nothing_in_a_file_runs(features, tmp_path, kind):
    marker, file = tmp_path / "ran", tmp_path / "features.pth"
    features["extra"] = Harmful(marker)
    if kind == "raw":
        file.write_bytes(pickle.dumps(features))
    else:
        torch.save(features, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match="file: .*features.pth is damaged, or not only tensors"):
        load_xl_vlms_features(file)
    assert not marker.exists()
    if kind != "raw":  # that the file would do harm
        torch.load(file, weights_only=False)
        assert marker.exists()


def test_damaged_and_foreign_files(features, tmp_path):
    torch.save(features, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for content in (b"", b"hello", whole[:-200], whole[: len(whole) // 2], whole[200:]):
        file = tmp_path / "features.pth"
        file.write_bytes(content)
        with pytest.raises(ValueError, match="features.pth is damaged"):
            load_xl_vlms_features(file)


def test_files_that_are_not_there(tmp_path):
    for file in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="file: no such file"):
            load_xl_vlms_features(file)


def changed(**values):
    return lambda features: {**features, **values}


def at(key, i, value):
    """Change one entry of a list."""

    def change(features):
        features[key][i] = value
        return features

    return change


def without(key):
    return lambda features: {k: v for k, v in features.items() if k != key}


WIDE = {BLOCK: torch.zeros(1, 1, 6), NORM: torch.zeros(1, 1, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda features: features["hidden_states"], "expected a dict with .*, got list"),
        (without("hidden_states"), r"got \['image', 'model_predictions', 'token_of_interest_mask"),
        (without("token_of_interest_mask"), "expected a dict with hidden_states and token_of_int"),
        (changed(hidden_states=torch.zeros(4, 6)), "hidden_states must be a list, got Tensor"),
        (changed(hidden_states=[]), "0 hidden_states and 4 token_of_interest_mask"),
        (changed(token_of_interest_mask=[torch.tensor([True])]), "4 hidden_states and 1 token_of"),
        (changed(image=[["1.jpg"]]), "1 image, but 4 hidden_states"),
        (changed(model_predictions="A dog."), "model_predictions must be a list, got str"),
        (at("hidden_states", 0, torch.zeros(1, 1, 6)), "sample 0 must be a dict of module names"),
        (at("hidden_states", 0, {3: torch.zeros(1, 1, 6)}), "sample 0 must be a dict of module"),
        (at("hidden_states", 2, {NORM: torch.zeros(1, 1, 6)}), "sample 2 has not the modules of"),
        (at("hidden_states", 1, {BLOCK: {}, NORM: {}}), "sample 1 must be a tensor of floats"),
        (
            at("hidden_states", 0, dict.fromkeys((BLOCK, NORM), torch.zeros(1, 5, 6))),
            r"sample 0 must have the shape \(1, 1, width\).* got \(1, 5, 6\)",
        ),
        (
            at("hidden_states", 1, dict.fromkeys((BLOCK, NORM), torch.zeros(2, 1, 6))),
            r"sample 1 must have the shape .* got \(2, 1, 6\)",
        ),
        (
            at("hidden_states", 0, dict.fromkeys((BLOCK, NORM), torch.tensor(1.0))),
            r"sample 0 must have the shape .* got \(\)",
        ),
        (at("hidden_states", 3, WIDE), "norm of sample 3 has 7 features, that of sample 0 6"),
        (at("token_of_interest_mask", 1, True), "sample 1 must be one bool in a tensor"),
        (at("token_of_interest_mask", 1, torch.tensor([True, False])), "sample 1 must be one bool"),
        (at("token_of_interest_mask", 1, torch.tensor([1])), "sample 1 must be one bool"),
        (at("image", 1, ["1.jpg", "2.jpg"]), "image of sample 1 must be a list of one text"),
        (at("image", 1, "1"), "image of sample 1 must be a list of one text, got '1'"),
        (at("model_predictions", 0, [3]), "model_predictions of sample 0 must be a list of one"),
    ],
)
def test_other_layouts(features, read, change, message):
    with pytest.raises(
        ValueError, match=f"file: .* another layout than xl-vlms writes: .*{message}"
    ):
        read(change(features))
