"""`evaluate`: what reaches the function of that name, what is printed, and which commands are
wrong."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from semi_nmf_concepts import cli, evaluation, metrics
from semi_nmf_concepts.cli._evaluate import CHOSEN_ON, SCENE_TOKENS
from semi_nmf_concepts.cli._options import METHODS
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.decomposition import RECOMMENDED, recommended_setting
from semi_nmf_concepts.evaluation import PRESETS, Evaluation
from tests._karpathy_data import write_coco, write_flickr30k
from tests._tiny_clip import build_tiny_clip
from tests._tiny_llava import build_tiny_llava, tiny_images
from tests.cli._commands import fails

HUB_CLIP, HUB_BERT = "openai/clip-vit-base-patch32", "roberta-large"

RECORDS = pd.DataFrame(
    [
        ("table1", "dog", "Semi-NMF", "clip_score", 1, 0.6104),
        ("table1", "dog", "Semi-NMF", "clip_score", 3, 0.7),
        ("table1", "dog", "Noise-Imgs", "clip_score", 1, float("nan")),
        ("table2", "dog", "Semi-NMF", "overlap", None, 0.086),
        ("layers", "dog", "Semi-NMF", "overlap", None, 0.9),
        ("table1", "mean", "Semi-NMF", "clip_score", 1, 0.6296),
    ],
    columns=["table", "token", "method", "metric", "top", "mean"],
).astype({"top": "Int64"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def own(model, tmp_path_factory):
    """Options of a run on 20 images with captions."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "images").mkdir()
    captions = {}
    for i, image in enumerate(tiny_images(20)):
        image.save(folder / "images" / f"{i:02}.png")
        captions[f"{i:02}.png"] = [f"a blue dog, number {i}"]
    (folder / "captions.json").write_text(json.dumps(captions))
    return {
        "--model": model,
        "--images": folder / "images",
        "--captions": folder / "captions.json",
        "--tokens": "blue,red",
        "--n-components": "3",
    }


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command with `evaluate` replaced, and returns what reached it."""
    monkeypatch.chdir(tmp_path)

    def run(*words, **options):
        seen = SimpleNamespace()

        def evaluate(featurizer, train, test, **arguments):
            vars(seen).update(arguments, featurizer=featurizer, train=train, test=test)
            return SimpleNamespace(records=RECORDS, settings={"notes": ["A note."]})

        monkeypatch.setattr(evaluation, "evaluate", evaluate)
        given = [str(word) for pair in options.items() for word in pair]
        assert cli.main(["evaluate", "--quiet", *given, *map(str, words)]) == 0
        return seen

    return run


def names(data):
    return [path.name for path in data.images]


def test_the_bundled_run(run, capsys):
    seen = run("--bundled", "--n-images", "45", "--n-test", "7")
    assert seen.tokens == list(SCENE_TOKENS) and len(seen.tokens) == 8
    assert seen.chosen_on == ["cat", "train"]
    assert seen.featurizer.handle.model == "bundled"
    assert seen.featurizer.layer == -1 and seen.layers == [0, 1, 2, 3]
    assert seen.n_components == [20, 5, 10, 40] and seen.seeds == [0, 1, 2, 3, 4]
    assert (seen.clip, seen.bert) == ("bundled", "bundled")
    assert seen.methods == list(METHODS) and seen.setting is None
    assert seen.alphas == [0.01, 0.02, 0.05, 0.1, 0.2] and seen.grounding == {}
    assert seen.factor_columns == ["colour", "background", "count", "companion"]
    assert seen.out == Path("out", "evaluation") and seen.out.is_dir()
    assert {token: len(scenes.images) for token, scenes in seen.train.items()} == dict.fromkeys(
        SCENE_TOKENS, 45
    )
    expected = load_scenes("test", token="bus", n=7)
    assert seen.test["bus"].captions == expected.captions
    assert seen.test["bus"].factors.equals(expected.factors)
    out = capsys.readouterr().out
    assert f"Page: {Path('out', 'evaluation', 'report.html')}" in out
    lines = [line.split() for line in out.splitlines()]
    assert lines.index(["dog", "mean"]) < lines.index(["Semi-NMF", "0.610", "0.630"])
    assert ["Noise-Imgs", "-", "-"] in lines and ["Semi-NMF", "0.086"] in lines
    assert "BERTScore" not in out and "0.9" not in out and "Note: A note." in out


def test_the_bundled_run_can_be_changed(run):
    seen = run(
        *("--bundled", "--n-images", "9", "--n-test", "2", "--tokens", "cat, dog"),
        *("--methods", "semi-nmf,pca", "--layer", "1", "--layers=0,-1", "--n-components", "4,8"),
        *("--alphas", "0.1,1", "--seeds", "3,4", "--clip", "none", "--bert", "none"),
        *("--subtract-mean", "--final-norm", "--batch-size", "5", "--device", "cpu"),
        *("--out", "elsewhere"),
    )
    assert seen.tokens == ["cat", "dog"] and seen.chosen_on == ["cat"]
    assert seen.methods == ["semi-nmf", "pca"]
    assert seen.featurizer.layer == 1 and seen.layers == [0, -1]
    assert seen.n_components == [4, 8] and seen.alphas == [0.1, 1.0]
    assert seen.seeds == [3, 4] and seen.random_state == 3
    assert seen.clip is None and seen.bert is None
    assert seen.grounding == {"subtract_mean": True, "final_norm": True}
    assert seen.featurizer.batch_size == 5 and seen.featurizer.handle.device == "cpu"
    assert seen.out == Path("elsewhere")


def test_words_on_which_settings_were_chosen_alone_are_reported_with_a_warning(run, capsys):
    seen = run("--bundled", "--n-images", "40", "--n-test", "2", "--tokens", "cat")
    assert seen.chosen_on == []
    assert "warning: the recommended setting was chosen on cat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ((), None),
        (("--published",), {}),
        (("--published", "--center"), {"center": True}),
        (("--n-active", "2"), recommended_setting(3) | {"n_active": 2}),
        (("--whiten", "4", "--no-center"), recommended_setting(3) | {"whiten": 4, "center": False}),
        (("--whiten", "0"), recommended_setting(3) | {"whiten": None}),
    ],
)
def test_the_setting_of_semi_nmf(run, own, words, setting):
    seen = run("--out", "out", *words, **own).setting
    assert (seen(3) if callable(seen) else seen) == setting


def test_changes_of_the_recommended_setting_follow_the_number_of_concepts(run, own):
    own = {**own, "--n-components": "8,4"}
    seen = run("--out", "out", "--whiten", "4", **own).setting
    assert [seen(k) for k in (8, 4)] == [recommended_setting(k) | {"whiten": 4} for k in (8, 4)]
    seen = run("--out", "out", "--n-active", "3", **own).setting
    assert [seen(k)["n_active"] for k in (8, 4, 16)] == [3, 1.5, 3]


def test_a_run_of_ones_own(run, own, model):
    seen = run(
        *("--out", "out", "--prompt", "caption:", "--max-new-tokens", "9", "--dtype", "float32"),
        **own,
    )
    assert seen.tokens == ["blue", "red"] and seen.chosen_on == []
    handle = seen.featurizer.handle
    assert (handle.model, handle.dtype) == (str(model), "float32")
    assert seen.featurizer.prompt == "caption:" and seen.featurizer.max_new_tokens == 9
    assert seen.featurizer.layer == -1 and seen.layers == []
    assert seen.n_components == [3] and seen.seeds == [0]
    assert (seen.clip, seen.bert) == (HUB_CLIP, HUB_BERT)
    assert (len(seen.train.images), len(seen.test.images)) == (16, 4)
    assert sorted(names(seen.train) + names(seen.test)) == [f"{i:02}.png" for i in range(20)]
    for data in (seen.train, seen.test):
        assert data.captions == [[f"a blue dog, number {int(name[:2])}"] for name in names(data)]


def test_parts_of_the_images_of_ones_own(run, own):
    options = own | {"--out": "out", "--test-fraction": "0.5"}
    full = run(**options)
    assert len(full.train.images) == len(full.test.images) == 10
    less = run(**options, **{"--n-images": "6", "--n-test": "2"})
    assert set(names(less.train)) < set(names(full.train)) and len(less.train.images) == 6
    assert set(names(less.test)) < set(names(full.test)) and len(less.test.images) == 2
    other = run(**options, **{"--seeds": "1,0"})
    assert names(other.train) != names(full.train)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_a_preset_on_a_stand_in(run, model, tmp_path, preset):
    data = tmp_path / "data"
    write = write_coco if preset.dataset == "coco" else write_flickr30k
    entries = write(data, n_train=30, n_test=8)
    options = {"--preset": preset.name, "--data": data, "--model": model}
    seen = run(**options)
    assert seen.tokens == list(preset.tokens) and seen.n_components == [20]
    assert seen.featurizer.layer == 31 and seen.featurizer.handle.model == str(model)
    assert seen.setting == {} and seen.methods == list(METHODS)
    assert (seen.clip, seen.bert) == (HUB_CLIP, HUB_BERT)
    assert seen.layers == [] and seen.chosen_on == []
    assert seen.out == Path("out", f"evaluation-{preset.name}")
    for split, part in (("train", seen.train), ("test", seen.test)):
        assert names(part) == [e["filename"] for e in entries if e["split"] == split]
        assert {len(captions) for captions in part.captions} == {5}
    seen = run(
        *("--layer", "3", "--tokens", "blue", "--n-components", "4,6", "--n-active", "2"),
        **options,
        **{"--n-images": "12", "--n-test": "5"},
    )
    assert seen.featurizer.layer == 3 and seen.tokens == ["blue"]
    assert seen.n_components == [4, 6] and seen.setting == {"n_active": 2}
    assert (len(seen.train.images), len(seen.test.images)) == (12, 5)


def test_the_model_of_a_preset_is_that_of_the_hub(run, tmp_path):
    write_coco(tmp_path / "data", n_train=20)
    seen = run("--preset", "llava-coco", "--data", tmp_path / "data", "--dtype", "bfloat16")
    assert seen.featurizer.handle.model == "llava-hf/llava-1.5-7b-hf"
    assert seen.featurizer.handle.dtype == "bfloat16"


def test_the_scorer_of_words_and_captions(run, own, monkeypatch):
    def scorer(*words):
        return run("--out", "out", "--bert", "some/bert", "--device", "cpu", *words, **own).bert

    assert scorer() == "some/bert"
    encoder = scorer("--bert-layers", "5", "--bert-rescale", "0.85")
    assert (encoder.model, encoder.num_layers, encoder.rescale) == ("some/bert", 5, 0.85)
    monkeypatch.setattr(metrics, "load_bert", lambda model, **options: (model, options))
    for text, rescale in (("package", True), ("none", False)):
        options = {"num_layers": None, "rescale": rescale, "device": "cpu"}
        assert scorer("--bert-rescale", text) == ("some/bert", options)


OWN = ["--images", "i", "--model", "m", "--captions", "c", "--tokens", "dog", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of the arguments --bundled --preset --images is required"),
        (["--bundled", "--images", "i"], "not allowed with"),
        (["--bundled", "--model", "m"], "--model: not with --bundled"),
        (["--bundled", "--data", "d", "--revision", "r"], "--data, --revision: not with --bundled"),
        (["--bundled", "--trust-remote-code"], "--trust-remote-code: not with --bundled"),
        (["--preset", "other"], "invalid choice"),
        (["--preset", "llava-coco"], "--preset needs --data"),
        (["--preset", "depalm-coco", "--data", "d"], "depalm-coco needs --model FOLDER"),
        (["--preset", "llava-coco", "--data", "d", "--model", ""], "--model must be a model id"),
        (
            ["--preset", "llava-coco", "--data", "d", "--captions", "c"],
            "--captions: not with",
        ),
        (["--images", "i"], "--images needs --model, --captions, --tokens, --out"),
        ([*OWN, "--data", "d"], "--data: not with --images"),
        ([*OWN, "--test-fraction", "0"], "an evaluation needs test images"),
        ([*OWN, "--methods", "nmf"], "must be among semi-nmf, kmeans, pca, simple, got 'nmf'"),
        ([*OWN, "--methods", "pca,kmeans", "--published"], "only for --methods semi-nmf"),
        ([*OWN, "--bert", "none", "--bert-layers", "3"], "not with --bert none"),
        ([*OWN, "--bert", "none", "--bert-rescale", "none"], "not with --bert none"),
        ([*OWN, "--bert-rescale", "half"], "invalid"),
        ([*OWN, "--n-components", "20,0"], "must be at least 1, got 0"),
        ([*OWN, "--seeds", "0,one"], "invalid list of seed value"),
        ([*OWN, "--alphas", ""], "invalid list of float value"),
        (["--bundled", "--n-images", "0"], "must be at least 1"),
    ],
)
def test_wrong_usage_leaves_with_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *words])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_help_answers_without_loading_a_library():
    words = ["-X", "importtime", "-m", "semi_nmf_concepts", "evaluate", "--help"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert "llava-flickr30k" in done.stdout
    heavy = ("torch", "transformers", "sklearn", "pandas", "numpy")
    assert not [name for name in heavy if f" {name}\n" in done.stderr]


def test_what_can_be_known_to_fail_does_before_the_model_runs(own, model, tmp_path, capsys, run):
    def command(*words, **options):
        return ["evaluate", *map(str, words), *(str(w) for pair in options.items() for w in pair)]

    few = command("--out", tmp_path / "o", **own | {"--n-components": "5,17"})
    assert "17 concepts need at least as many training images, got 16" in fails(few, capsys)
    none_left = command("--out", tmp_path / "o", "--test-fraction", "0.01", **own)
    assert "none is left for testing" in fails(none_left, capsys)
    assert "zebra" in fails(command("--bundled", "--tokens", "zebra"), capsys)
    missing = command("--preset", "depalm-coco", "--data", tmp_path, "--model", model)
    assert "dataset_coco.json" in fails(missing, capsys)
    assert not (tmp_path / "o").exists() and not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    blocked = command("--out", tmp_path / "file" / "o", **own)
    assert "cannot write to the output folder" in fails(blocked, capsys)


def test_words_on_which_settings_were_chosen_are_those_of_the_scenes():
    assert set(CHOSEN_ON) < set(SCENE_TOKENS)
    assert recommended_setting(20) == RECOMMENDED


def test_a_preset_from_images_to_page(model, tmp_path, capsys):
    write_coco(tmp_path / "data", n_train=40, n_test=16)
    build_tiny_clip(tmp_path / "clip")
    out = tmp_path / "out"
    command = [
        *("evaluate", "--quiet", "--preset", "llava-coco", "--data", tmp_path / "data"),
        *("--model", model, "--layer", "3", "--tokens", "blue", "--n-components", "3,2"),
        *("--clip", tmp_path / "clip", "--bert", "none", "--out", out),
    ]
    assert cli.main([str(word) for word in command]) == 0
    printed = capsys.readouterr().out
    assert f"Page: {out / 'report.html'}" in printed and "Semi-NMF" in printed
    assert (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    found = Evaluation.load(out)
    settings = found.settings
    assert (settings["tokens"], settings["layer"]) == (["blue"], 3)
    assert settings["n_components"] == [3, 2] and "n_active" not in settings["methods"]["Semi-NMF"]
    samples = settings["samples"]["blue"]
    assert (samples["train_seen"], samples["test_seen"]) == (40, 16)
    assert {"table1", "table2", "n_components"} <= set(found.records["table"])


@pytest.mark.slow
def test_the_bundled_model_from_scenes_to_page(tmp_path, capsys):
    command = [
        *("evaluate", "--bundled", "--quiet", "--tokens", "dog,bus", "--n-images", "120"),
        *("--n-test", "64", "--n-components", "10", "--layers", "2", "--seeds", "0,1"),
        *("--out", str(tmp_path)),
    ]
    assert cli.main(command) == 0
    found = Evaluation.load(tmp_path)
    assert {"recovery", "stability", "layers"} <= set(found.records["table"])
    assert {"clip_score", "bert_score"} <= set(found.records["metric"])
    assert f"Page: {tmp_path / 'report.html'}" in capsys.readouterr().out
