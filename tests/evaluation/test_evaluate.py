"""The numbers of an evaluation against independent computations; what it does with odd input."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import wilcoxon
from sklearn.base import clone
from sklearn.utils import Bunch

from semi_nmf_concepts.decomposition import KMeansConcepts, SemiNMFConcepts, recommended_setting
from semi_nmf_concepts.evaluation import Evaluation, evaluate
from semi_nmf_concepts.evaluation._runs import Bench
from semi_nmf_concepts.grounding import ground_images, ground_text
from semi_nmf_concepts.lmm import LMMTokenFeaturizer
from semi_nmf_concepts.metrics import load_bert, load_clip

from .conftest import SETTINGS, TOKENS

FIELDS = ["table", "token", "method", "metric", "top", "layer", "n_components", "alpha", "seed"]
FIELDS += ["mean", "std", "n"]


def row(records, **where):
    """The one record that fits."""
    chosen = np.ones(len(records), dtype=bool)
    for name, value in where.items():
        chosen &= (records[name] == value).fillna(False).to_numpy(dtype=bool)
    assert chosen.sum() == 1, (where, int(chosen.sum()))
    return records[chosen].iloc[0]


@pytest.fixture(scope="session")
def by_hand(scenes):
    """States, estimator, activations and words of "dog", made without the evaluation."""
    train, test = (part["dog"] for part in scenes)
    featurizer = LMMTokenFeaturizer(token="dog")
    states = featurizer.extract(train.images, train.captions)
    unseen = featurizer.extract(test.images, test.captions)
    model = SemiNMFConcepts(6, random_state=0, **recommended_setting(6)).fit(states.Z)
    return Bunch(
        train=train,
        test=test,
        states=states,
        unseen=unseen,
        model=model,
        V=model.transform(states.Z),
        V_test=model.transform(unseen.Z),
        words=[g.words for g in ground_text(model, featurizer.handle)],
    )


def clip_table(clip, images, words):
    """2.5 * max(cos, 0) of every image and word list, by explicit loops."""
    encoder = load_clip(clip)
    texts = [f"A photo is described by the words {', '.join(w)}." for w in words]
    image_rows, text_rows = encoder.encode_images(list(images)), encoder.encode_texts(texts)
    return np.array([[2.5 * max(float(a @ b), 0.0) for b in text_rows] for a in image_rows])


def test_clip_scores_of_table_1(result, by_hand, tiny_clip):
    images = [by_hand.test.images[int(i)] for i in by_hand.unseen.indices]
    scores = clip_table(tiny_clip, images, by_hand.words)
    for top in (1, 3):
        expected = []
        for sample, activations in zip(scores, by_hand.V_test, strict=True):
            best = [k for k in np.argsort(-activations, kind="stable")[:top] if activations[k] > 0]
            expected.append(np.mean(sample[best]) if best else 0.0)
        found = row(result.records, table="table1", token="dog", method="Semi-NMF",
                    metric="clip_score", top=top)  # fmt: skip
        assert found["n"] == len(images)
        np.testing.assert_allclose(found["mean"], np.mean(expected), rtol=1e-4)
        np.testing.assert_allclose(found["std"], np.std(expected), rtol=1e-3)


def test_bert_scores_of_table_1(result, by_hand):
    encoder = load_bert("bundled")
    candidates, references = [], []
    for i, activations in zip(by_hand.unseen.indices, by_hand.V_test, strict=True):
        candidates.append(", ".join(by_hand.words[int(np.argmax(activations))]))
        references.append(by_hand.test.captions[int(i)])
    # A sample that activates nothing scores 0.
    expected = encoder.f1(candidates, references) * (by_hand.V_test > 0).any(axis=1)
    found = row(result.records, table="table1", token="dog", method="Semi-NMF",
                metric="bert_score", top=1)  # fmt: skip
    np.testing.assert_allclose(found["mean"], expected.mean(), rtol=1e-4)


def test_mas_scores_of_the_scatter(result, by_hand, tiny_clip):
    images = [by_hand.train.images[int(i)] for i in by_hand.states.indices]
    scores = clip_table(tiny_clip, images, by_hand.words)
    points = result.points.query("token == 'dog' and method == 'Semi-NMF'")
    for k, rows in enumerate(ground_images(by_hand.V)):
        point = points[points["concept"] == k].iloc[0]
        assert point["words"] == ", ".join(by_hand.words[k])
        np.testing.assert_allclose(point["clip"], scores[rows, k].mean(), rtol=1e-4)
    assert points[["bert", "random_clip", "random_bert"]].notna().all(axis=None)


def test_overlap_and_stability(result, by_hand):
    sets = [set(words) for words in by_hand.words]
    pairs = list(itertools.permutations(range(6), 2))
    overlap = np.mean([len(sets[i] & sets[j]) / max(len(sets[i]), 1) for i, j in pairs])
    found = row(result.records, table="table2", token="dog", method="Semi-NMF")
    np.testing.assert_allclose(found["mean"], overlap, rtol=1e-12)

    fits = [
        clone(by_hand.model).set_params(random_state=seed).fit(by_hand.states.Z)
        for seed in SETTINGS["seeds"]
    ]
    unit = [f.components_ / np.linalg.norm(f.components_, axis=1, keepdims=True) for f in fits]
    cosines = [a @ b.T for a, b in itertools.combinations(unit, 2)]
    expected = np.mean([c[linear_sum_assignment(-c)].mean() for c in cosines])
    found = row(result.records, table="stability", token="dog", method="Semi-NMF")
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-4)
    assert found["n"] == 3


def test_captions_and_noise_are_their_own_rows(result):
    table = result.records.query("table == 'table1' and token == 'dog' and top == 1")
    means = table.set_index(["method", "metric"])["mean"]
    methods = {"Semi-NMF", "KMeans", "PCA", "Simple", "Noise-Imgs", "GT-captions"}
    methods |= {"Rnd-Words (direction)", "Rnd-Words (shuffle)"}
    assert set(table["method"]) == methods
    # A tiny CLIP with random weights says nothing, but BERT does.
    assert means["GT-captions", "bert_score"] > means["Semi-NMF", "bert_score"]
    assert means["Noise-Imgs", "bert_score"] != means["Semi-NMF", "bert_score"]


def test_averages_leave_out_the_tokens_of_choice(result):
    records = result.records
    where = {"table": "table2", "method": "KMeans"}
    mean = row(records, token="mean", **where)
    by_token = [row(records, token=token, **where)["mean"] for token in ("dog", "bus")]
    np.testing.assert_allclose(mean["mean"], np.mean(by_token))
    np.testing.assert_allclose(mean["std"], np.std(by_token))
    assert mean["n"] == 2
    assert result.settings["chosen_on"] == ["cat"]


def test_paired_tests(result):
    tests = result.tests
    chance = {"Rnd-Words (direction)", "Rnd-Words (shuffle)", "Noise-Imgs"}
    assert set(tests["baseline"]) == chance | {"KMeans", "PCA", "Simple"}
    pooled = tests[tests["token"] == "mean"]
    weights = [result.settings["samples"][t]["test_kept"] for t in ("dog", "bus")]
    assert (pooled["n"] == sum(weights)).all()
    for test in pooled.itertuples():
        where = {"table": "table1", "metric": test.metric, "top": test.top}
        differences = [
            row(result.records, token=t, method="Semi-NMF", **where)["mean"]
            - row(result.records, token=t, method=test.baseline, **where)["mean"]
            for t in ("dog", "bus")
        ]
        np.testing.assert_allclose(test.difference, np.average(differences, weights=weights))
        assert 0 <= test.p_value <= 1


def test_signed_rank_is_one_sided():
    from semi_nmf_concepts.evaluation._records import paired_tests

    rng = np.random.default_rng(0)
    better, worse = rng.normal(0.3, 1, 50), rng.normal(0, 1, 50)
    scores = {"dog": {("A", "clip_score", 1): better, ("Noise-Imgs", "clip_score", 1): worse}}
    found = paired_tests(scores, "A", ["dog"])
    expected = wilcoxon(better - worse, alternative="greater").pvalue
    np.testing.assert_allclose(found["p_value"], expected)
    equal = {"dog": {("A", "clip_score", 1): worse, ("Noise-Imgs", "clip_score", 1): worse}}
    assert (paired_tests(equal, "A", ["dog"])["p_value"] == 1).all()


def test_curves_have_their_points(result):
    curves = result.records.query("token == 'dog' and method == 'Semi-NMF'")
    last = LMMTokenFeaturizer().handle.n_layers - 1
    assert set(curves.query("table == 'layers'")["layer"]) == {1, last}
    assert set(curves.query("table == 'n_components'")["n_components"]) == {4, 6}
    assert len(set(curves.query("table == 'alpha'")["alpha"])) == 1
    metrics = {"mas_clip_score", "mas_bert_score", "overlap", "recovery", "reconstruction", "l0"}
    of_curves = curves[curves["table"].isin(["layers", "n_components", "alpha"])]
    for _, points in of_curves.groupby("table"):
        assert metrics <= set(points["metric"])


def test_known_factors(result):
    methods = {"Semi-NMF", "KMeans", "PCA", "Simple"}
    methods |= {"PCA, either sign", "ICA, either sign", "linear probe"}
    assert set(result.factors["method"]) == methods
    whole = result.factors.query("token == 'dog' and method == 'KMeans' and prefix == 'all'")
    expected = whole.groupby("factor")["auroc"].mean().mean()
    found = row(result.records, table="recovery", token="dog", method="KMeans", metric="auroc")
    np.testing.assert_allclose(found["mean"], expected)
    assert result.factors.query("prefix != 'all'")["prefix"].notna().all()
    names = set(result.records.query("table == 'recovery'")["metric"])
    assert {"auroc:colour", "auroc:background", "disentanglement", "completeness"} <= names


def test_records_are_what_is_on_disk(result, out):
    records = json.loads((out / "results.json").read_text())
    assert [list(record) for record in records] == [FIELDS] * len(records)
    assert len(records) == len(result.records)
    for name in ("table1", "tests", "table2", "stability", "layers", "recovery"):
        assert (out / "tables" / f"{name}.csv").is_file()
        assert (out / "tables" / f"{name}.md").is_file()
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"scatter.png", "scatter.svg", "layers.png"} <= figures
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")

    loaded = Evaluation.load(out)
    for name in ("records", "points", "factors", "tests"):
        pd.testing.assert_frame_equal(
            getattr(loaded, name), getattr(result, name), check_dtype=False
        )
    assert loaded.concepts == result.concepts
    assert loaded.table("table2").equals(result.table("table2"))


def test_a_second_run_measures_nothing(
    result, scenes, tiny_clip, out, featurizer, n_run, monkeypatch
):
    monkeypatch.setattr(Bench, "measure", lambda *args: pytest.fail("measured again"))
    featurizer = LMMTokenFeaturizer(stop="token", batch_size=64)
    again = evaluate(featurizer, *scenes, clip=tiny_clip, out=out, **SETTINGS)
    assert n_run() == 0
    pd.testing.assert_frame_equal(again.records, result.records, check_dtype=False)
    pd.testing.assert_frame_equal(again.points, result.points, check_dtype=False)
    assert again.concepts == result.concepts


SMALL = {"tokens": ["dog"], "n_components": 4, "clip": None, "bert": None, "methods": ["semi-nmf"]}
SMALL["setting"] = {"center": True, "n_active": 2.0}  # within reach, unlike 1.2 of 4 concepts


def test_a_killed_run_goes_on(scenes, featurizer, tmp_path, n_run, monkeypatch):
    measure, done = Bench.measure, []

    def counted(self, data, run):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run)
        return measure(self, data, run)

    monkeypatch.setattr(Bench, "measure", counted)
    settings = {**SMALL, "seeds": [0, 1, 2]}
    with pytest.raises(KeyboardInterrupt):
        evaluate(featurizer, *scenes, out=tmp_path, **settings)
    n_before = n_run()
    monkeypatch.setattr(Bench, "measure", lambda *args: done.append(args[-1]) or measure(*args))
    resumed = evaluate(featurizer, *scenes, out=tmp_path, **settings)
    assert n_run() == n_before
    assert len(done) == 4  # Semi-NMF with three seeds, and on noise: each of them once
    fresh = evaluate(featurizer, *scenes, **settings)
    pd.testing.assert_frame_equal(resumed.records, fresh.records)


def test_a_killed_extraction_goes_on(scenes, tmp_path, n_run, monkeypatch):
    from semi_nmf_concepts.lmm import _states

    featurizer = LMMTokenFeaturizer(stop="token", batch_size=16)
    call, calls = _states.StateCollector.__call__, []

    def dies(self, images, *args):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(self, images, *args)

    with monkeypatch.context() as patch:
        patch.setattr(_states.StateCollector, "__call__", dies)
        with pytest.raises(KeyboardInterrupt):
            evaluate(featurizer, *scenes, out=tmp_path, **SMALL)
    assert n_run() == sum(calls[:2]) > 0
    evaluate(featurizer, *scenes, out=tmp_path, **SMALL)
    n_images = len(scenes[0]["dog"].images) + len(scenes[1]["dog"].images)
    assert n_run() == 2 * n_images  # once as they are and once as noise
    assert not (tmp_path / "steps" / "states" / "unfinished").exists()


def test_random_words_are_others_for_every_token(result):
    points = result.points.query("method == 'Semi-NMF'").pivot(
        index="concept", columns="token", values="random_bert"
    )
    assert (points["dog"] - points["bus"]).abs().max() > 0.01
    records = result.records.query("metric == 'mas_bert_score' and token == 'dog'")
    random = records[records["method"] == "Rnd-Words (direction)"]["mean"]
    assert random.nunique() == 4  # nor the same along the curves, which share the reference


def test_the_shown_codes_are_of_the_test_states(result, by_hand):
    found = row(result.records, table="codes", token="dog", method="Semi-NMF", metric="l0")
    np.testing.assert_allclose(found["mean"], (by_hand.V_test > 0).sum(axis=1).mean())


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"clip": "no/such-clip"}, (OSError, ValueError), "no/such-clip"),
        ({"bert": "roberta-large"}, OSError, "roberta-large"),
        ({"grounding": {"n_wordss": 3}}, TypeError, "n_wordss"),
        ({"grounding": {"n_words": 0}}, ValueError, "n_words"),
        ({"grounding": {"word_filter": eval("lambda word: True")}}, ValueError, "in a file"),
        ({"alphas": [-1.0]}, ValueError, "'alpha' parameter"),
        ({"factor_columns": ["age"]}, ValueError, "age"),
    ],
)
def test_what_is_wrong_shows_before_the_model_runs(
    scenes, featurizer, n_run, changes, kind, message
):
    with pytest.raises(kind, match=message):
        evaluate(featurizer, *scenes, **{**SMALL, **changes})
    assert n_run() == 0


def short_words(word):
    return len(word) < 6


def test_a_word_filter_of_your_own(scenes, featurizer, tmp_path):
    settings = {**SMALL, "grounding": {"word_filter": short_words}}
    found = evaluate(featurizer, *scenes, out=tmp_path, **settings)
    words = ", ".join(found.points["words"]).split(", ")
    assert max(map(len, words)) < 6
    assert found.settings["grounding"] == {"word_filter": "short_words"}


def test_two_evaluations_do_not_share_a_folder_at_once(scenes, featurizer, tmp_path):
    from filelock import FileLock

    (tmp_path / "steps").mkdir()
    with (
        FileLock(tmp_path / "steps" / ".lock"),
        pytest.raises(ValueError, match="another evaluation is at work"),
    ):
        evaluate(featurizer, *scenes, out=tmp_path, **SMALL)
    evaluate(featurizer, *scenes, out=tmp_path, **SMALL)


def test_nothing_old_stays_and_nothing_is_written_elsewhere(scenes, featurizer, tmp_path):
    out = tmp_path / "out"
    evaluate(featurizer, *scenes, out=out, **{**SMALL, "tokens": ["dog", "bus"], "seeds": [0, 1]})
    (out / "tables" / "mine.txt").write_text("kept")
    found = evaluate(featurizer, *scenes, out=out, **SMALL)
    names = {path.name for folder in ("tables", "figures") for path in (out / folder).iterdir()}
    assert {"concepts_dog.png", "table2.md", "mine.txt"} <= names
    assert not names & {"concepts_bus.png", "stability.md", "stability.png"}
    found.concepts = {"a/../../../escaped": found.concepts["dog"]}
    found.save(out)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert len(list((out / "figures").glob("concepts_a-escaped-*.png"))) == 1


def test_factor_values_that_are_too_rare_are_named(scenes, featurizer):
    settings = {**SMALL, "factor_columns": ["colour"], "min_positives": 4}
    found = evaluate(featurizer, *scenes, **settings)
    n_scored = len(found.factors.query("method == 'Semi-NMF' and prefix == 'all'"))
    n_values = len({*scenes[0]["dog"].factors["colour"], *scenes[1]["dog"].factors["colour"]})
    assert 0 < n_scored < n_values
    (note,) = found.settings["notes"]
    assert f"dog {n_scored} of {n_values}. " in note and "fewer than 4 samples" in note


def test_own_estimators_keep_their_parameters(scenes, featurizer):
    own = SemiNMFConcepts(alpha=0.5, n_active=None)
    found = evaluate(
        featurizer, *scenes, **{**SMALL, "methods": {"Semi-NMF": own}, "setting": None}
    )
    assert "alpha=0.5" in found.settings["methods"]["Semi-NMF"]
    assert "n_active" not in found.settings["methods"]["Semi-NMF"]


def test_other_requests_are_not_mixed_up(scenes, featurizer, tmp_path):
    first = evaluate(featurizer, *scenes, out=tmp_path, **SMALL)
    other = evaluate(featurizer, *scenes, out=tmp_path, **{**SMALL, "grounding": {"n_words": 3}})
    assert not first.table("table2").equals(other.table("table2"))
    third = evaluate(featurizer, *scenes, out=tmp_path, **{**SMALL, "setting": {"alpha": 2.0}})
    alphas = {float(r.records.query("table == 'table2'")["alpha"].iloc[0]) for r in (first, third)}
    assert len(alphas) == 2


def test_a_damaged_step_is_done_again(scenes, featurizer, tmp_path):
    first = evaluate(featurizer, *scenes, out=tmp_path, **SMALL)
    steps = tmp_path / "steps"
    damaged = [*(steps / "runs").glob("*.npz"), *(steps / "states").rglob("*.safetensors")]
    assert len(damaged) > 3
    for path in damaged:
        path.write_bytes(path.read_bytes()[:40])
    again = evaluate(featurizer, *scenes, out=tmp_path, **SMALL)
    pd.testing.assert_frame_equal(first.records, again.records)


def test_shared_images_run_once_for_all_tokens(scenes, featurizer, n_run):
    train, test = (
        Bunch(
            images=[image for token in TOKENS for image in part[token].images],
            captions=[texts for token in TOKENS for texts in part[token].captions],
        )
        for part in scenes
    )
    found = evaluate(featurizer, train, test, **{**SMALL, "tokens": ["dog", "bus"]})
    kept = sum(
        sum(v for k, v in n.items() if "kept" in k) for n in found.settings["samples"].values()
    )
    # References of cats have neither word: such images could not be kept, and are not run.
    n_cats = sum(len(part["cat"].images) for part in scenes)
    assert n_run() == len(train.images) + len(test.images) - n_cats + kept
    alone = evaluate(featurizer, *scenes, **{**SMALL, "tokens": ["dog", "bus"]})
    assert found.table("table2").equals(alone.table("table2"))


def test_estimators_of_your_own(scenes, featurizer):
    from sklearn.decomposition import NMF, FastICA

    methods = {"ICA": FastICA(max_iter=1000, tol=1e-2), "two": KMeansConcepts(n_init=2)}
    settings = {**SMALL, "methods": methods, "alphas": [0.1], "seeds": [3, 4]}
    found = evaluate(featurizer, *scenes, **settings)
    assert found.settings["main"] == "ICA"
    assert set(found.records.query("table == 'table2'")["method"]) == {"ICA", "two"}
    assert found.records.query("table == 'alpha'").empty  # ICA has no such weight
    assert methods["two"].get_params()["n_components"] != 4, "the caller's own is left alone"
    with pytest.raises(ValueError, match="Negative values"):
        evaluate(featurizer, *scenes, **{**SMALL, "methods": {"NMF": NMF()}})


def test_a_token_without_test_samples(scenes, featurizer, tiny_clip, tmp_path):
    train, test = scenes
    strange = {**test, "dog": test["cat"]}  # the model writes no dog about cats
    settings = {**SMALL, "tokens": ["dog", "bus"], "clip": tiny_clip, "bert": "bundled"}
    found = evaluate(featurizer, train, strange, out=tmp_path, **settings)
    table1 = found.records.query("table == 'table1' and method == 'Semi-NMF' and top == 1")
    dog = table1[table1["token"] == "dog"]
    assert (dog["n"] == 0).all() and dog["mean"].isna().all()
    mean, bus = (table1[table1["token"] == t].set_index("metric")["mean"] for t in ("mean", "bus"))
    pd.testing.assert_series_equal(mean, bus, check_names=False)
    assert found.settings["samples"]["dog"]["test_kept"] == 0
    assert (tmp_path / "report.html").is_file()


def test_no_references_leave_bert_out(scenes, featurizer):
    bare = [{"dog": Bunch(images=part["dog"].images)} for part in scenes]
    found = evaluate(featurizer, *bare, **{**SMALL, "bert": "bundled"})
    assert found.settings["bert"] is None
    assert any("no reference captions" in note for note in found.settings["notes"])


@pytest.mark.slow
def test_several_processes_give_the_same(scenes, featurizer, tmp_path):
    settings = {**SMALL, "tokens": ["dog", "bus"], "seeds": [0, 1]}
    one = evaluate(featurizer, *scenes, **settings)
    two = evaluate(featurizer, *scenes, n_jobs=2, **settings)
    pd.testing.assert_frame_equal(one.records, two.records, rtol=1e-4)
    kept = evaluate(featurizer, *scenes, n_jobs=2, out=tmp_path, **settings)
    pd.testing.assert_frame_equal(kept.records, two.records, rtol=1e-4)


def test_tables_of_images(scenes, featurizer):
    frames = [
        pd.DataFrame({"image": list(part["dog"].images), "caption": part["dog"].captions})
        for part in scenes
    ]
    found = evaluate(featurizer, *frames, **SMALL)
    plain = evaluate(featurizer, *scenes, **SMALL)
    assert found.table("table2").equals(plain.table("table2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["nmf"]}, "methods must be some of"),
        ({"methods": []}, "methods must be some of"),
        ({"tokens": []}, "tokens must not be empty"),
        ({"tokens": ["bear"]}, "no data for the token 'bear'"),
        ({"chosen_on": ["cat"]}, "chosen_on must be among the tokens"),
        ({"chosen_on": ["dog"]}, "leaves no token"),
        ({"methods": {}}, "methods must be some of"),
        ({"methods": {"Noise-Imgs": KMeansConcepts()}}, "must not be called"),
        ({"tokens": ["mean"]}, "tokens must not have 'mean'"),
        ({"layers": [17]}, "layer must be between"),
        ({"n_components": 500}, "500 concepts need at least as many"),
    ],
)
def test_bad_parameters(scenes, featurizer, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(featurizer, *scenes, **{**SMALL, **changes})


def test_bad_types(scenes, featurizer):
    with pytest.raises(TypeError, match="tokens must be a list"):
        evaluate(featurizer, *scenes, **{**SMALL, "tokens": "dog"})
    with pytest.raises(TypeError, match="train must have images"):
        evaluate(featurizer, {"dog": [1, 2]}, scenes[1], **SMALL)
    with pytest.raises(ValueError, match="position='generated'"):
        evaluate(LMMTokenFeaturizer(position="last"), *scenes, **SMALL)
    with pytest.raises(ValueError, match="captions must have one entry per image"):
        uneven = Bunch(images=scenes[0]["dog"].images, captions=[["a dog"]])
        evaluate(featurizer, {"dog": uneven}, scenes[1], **SMALL)
