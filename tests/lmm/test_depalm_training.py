"""Training the connector: what is learnt, what is not, and what an interruption changes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from semi_nmf_concepts.lmm import LMMTokenFeaturizer, load_model, make_depalm, train_depalm
from semi_nmf_concepts.lmm.depalm import _data as data
from semi_nmf_concepts.lmm.depalm import _training as training
from semi_nmf_concepts.lmm.depalm._checkpoint import Checkpoint
from semi_nmf_concepts.lmm.depalm._frozen import frozen_checksums
from tests._tiny_depalm import (
    TINY_CONNECTOR,
    build_tiny_depalm,
    build_tiny_language,
    build_tiny_vision,
)
from tests._tiny_llava import build_tiny_llava, tiny_images

WORDS = ("dog", "cat", "bus", "train")
N_IMAGES = 12
SETTINGS = {"n_steps": 12, "batch_size": 4, "learning_rate": 3e-3, "checkpoint_steps": 4}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    return {
        "vision": build_tiny_vision(root / "vision"),
        "language": build_tiny_language(root / "language"),
    }


@pytest.fixture
def made(parts):
    return make_depalm(parts["vision"], parts["language"], 3, **TINY_CONNECTOR)


@pytest.fixture(scope="module")
def images():
    return tiny_images(N_IMAGES)


@pytest.fixture(scope="module")
def captions():
    return [[f"a {word}", f"the {word} on the beach"] for word in np.resize(WORDS, N_IMAGES)]


def connector(loaded):
    return {name: w.clone() for name, w in loaded.model.connector.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("text_model", ["llama", "opt", "gpt2"])
def test_only_the_connector_learns(text_model, images, captions, tmp_path):
    folder = build_tiny_depalm(tmp_path / "model", text_model=text_model)
    untrained = load_model(folder).loaded
    before = frozen_checksums(untrained.model)
    trained, losses = train_depalm(folder, images, captions, **SETTINGS | {"n_steps": 60})
    assert losses.shape == (60,)
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()
    assert frozen_checksums(trained.model) == before
    old, new = connector(untrained), connector(trained)
    assert not any(torch.equal(old[name], new[name]) for name in old)
    assert trained is not untrained
    assert not any(p.requires_grad or p.grad is not None for p in untrained.model.parameters())
    assert not any(p.requires_grad for p in trained.model.parameters())
    assert not trained.model.connector.training


def test_the_loss_is_that_of_the_caption_and_the_end(parts, images):
    """The first loss against logits of one image at a time."""
    made = make_depalm(
        parts["vision"], parts["language"], 3, **TINY_CONNECTOR, connector_dropout=0.0
    )
    texts = ["a dog", "two red cats on the beach", "there is a bus", "the train"]
    before = connector(made)
    _, losses = train_depalm(
        made, images[:4], texts, n_steps=1, batch_size=4, learning_rate=1e-9, warmup=0
    )
    made.model.connector.load_state_dict(before)
    log_probabilities = []
    tokenizer = made.tokenizer
    for image, text in zip(images, texts, strict=False):
        inputs = made.processor(images=image, text=f"<image>{text}", return_tensors="pt")
        targets = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = made.model(**inputs).logits[0, 2:].log_softmax(dim=-1)
        log_probabilities += logits[range(len(targets)), targets].tolist()
    assert losses[0] == pytest.approx(-np.mean(log_probabilities), rel=1e-5)


def test_training_is_reproducible(parts, images, captions):
    def train(**changes):
        made = make_depalm(parts["vision"], parts["language"], 3, **TINY_CONNECTOR)
        loaded, losses = train_depalm(made, images, captions, **SETTINGS | changes)
        return connector(loaded), losses

    state = torch.get_rng_state()
    (first, losses), (second, again) = train(), train()
    assert same(first, second)
    np.testing.assert_array_equal(losses, again)
    assert torch.equal(state, torch.get_rng_state())
    assert not same(first, train(seed=1)[0])


class Interruption(Exception):
    pass


@pytest.fixture
def interrupted(monkeypatch):
    """Lets a training run fail at a step."""

    def at(step):
        rows = data.Samples._rows

        def fail(self, now):
            if now == step:
                raise Interruption
            return rows(self, now)

        monkeypatch.setattr(data.Samples, "_rows", fail)

    yield at
    monkeypatch.undo()


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_a_continued_run_equals_an_uninterrupted_one(
    parts, images, captions, tmp_path, interrupted, monkeypatch, cache_gb
):
    def train(out):
        made = make_depalm(parts["vision"], parts["language"], 3, **TINY_CONNECTOR)
        settings = SETTINGS | {"cache_gb": cache_gb}
        loaded, losses = train_depalm(made, images, captions, out=out, **settings)
        return connector(loaded), losses

    whole, losses = train(tmp_path / "whole")
    interrupted(10)
    with pytest.raises(Interruption):
        train(tmp_path / "broken")
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["training"]
    monkeypatch.undo()
    seen = []
    step = training._Course._step
    monkeypatch.setattr(
        training._Course, "_step", lambda self, n, batch: seen.append(n) or step(self, n, batch)
    )
    continued, again = train(tmp_path / "broken")
    assert seen == [8, 9, 10, 11]  # from the last checkpoint on
    assert same(whole, continued)
    np.testing.assert_array_equal(losses, again)
    fingerprints = {load_model(tmp_path / name).fingerprint for name in ("whole", "broken")}
    assert len(fingerprints) == 1
    del seen[:]
    assert same(train(tmp_path / "broken")[0], whole)
    assert not seen  # nothing is left to do


def test_the_folder_is_the_trained_model(made, images, captions, tmp_path):
    loaded, losses = train_depalm(made, images, captions, out=tmp_path / "out", **SETTINGS)
    assert loaded is made
    assert same(connector(loaded), connector(load_model(tmp_path / "out").loaded))
    record = json.loads((tmp_path / "out" / "training" / "losses.json").read_text())
    assert record["losses"] == losses.tolist()
    assert record["settings"]["n_steps"] == 12
    featurizer = LMMTokenFeaturizer(tmp_path / "out", token="dog", max_new_tokens=6)
    assert featurizer.transform(images).shape == (N_IMAGES, 32)


def test_states_are_kept_where_this_helps(made, images, captions, monkeypatch):
    """The same images encoded once; the same result to rounding."""
    encoded = []
    encode = type(made.model).encode_images
    monkeypatch.setattr(
        type(made.model),
        "encode_images",
        lambda self, pixels: encoded.append(len(pixels)) or encode(self, pixels),
    )
    start = connector(made)

    def train(**settings):
        del encoded[:]
        made.model.connector.load_state_dict(start)
        _, losses = train_depalm(made, images, captions, **SETTINGS | settings)
        return losses

    kept = train()
    assert sum(encoded) == N_IMAGES + 1  # one to find the size of its states
    np.testing.assert_allclose(train(cache_gb=0), kept, rtol=1e-4)
    assert sum(encoded) >= SETTINGS["n_steps"] * 4
    train(n_steps=2)
    assert sum(encoded) == 2 * 4  # each seen once at most


def test_a_data_frame_will_do(parts, images, captions):
    def train(*samples):
        made = make_depalm(parts["vision"], parts["language"], 3, **TINY_CONNECTOR)
        return train_depalm(made, *samples, **SETTINGS)[1]

    frame = pd.DataFrame({"image": images, "caption": captions})
    np.testing.assert_array_equal(train(frame), train(images, captions))


def test_every_epoch_sees_every_image_once(made, images, captions):
    samples = data.Samples(made, images, captions, "<image>", 4, seed=3)
    epochs = [np.concatenate([samples._rows(3 * e + step) for step in range(3)]) for e in range(2)]
    assert all(sorted(rows) == list(range(N_IMAGES)) for rows in epochs)
    assert not np.array_equal(*epochs)
    ids, is_real = samples._captions([0, 0, 0, 0, 0, 0], np.random.default_rng(0))
    texts = {made.tokenizer.decode(row[real][:-1]) for row, real in zip(ids, is_real, strict=True)}
    assert texts == set(captions[0])
    assert (ids[torch.arange(6), is_real.sum(dim=1) - 1] == made.tokenizer.eos_token_id).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_in_single_precision(parts, images, captions, dtype):
    made = make_depalm(parts["vision"], parts["language"], 3, **TINY_CONNECTOR, dtype=dtype)
    seen = set()
    made.model.connector.register_forward_hook(lambda m, a, out: seen.add(out.dtype))
    _, losses = train_depalm(made, images, captions, **SETTINGS)
    single = make_depalm(parts["vision"], parts["language"], 3, **TINY_CONNECTOR)
    np.testing.assert_allclose(
        losses, train_depalm(single, images, captions, **SETTINGS)[1], rtol=0.05
    )
    assert seen == {torch.float32}
    assert {p.dtype for p in made.model.parameters()} == {getattr(torch, dtype)}


def test_a_change_of_a_frozen_part_is_found(made, images, captions, monkeypatch):
    step = training._Course._step

    def meddle(self, n, batch):
        if n == 3:
            made.model.language_model.get_output_embeddings().weight[0, 0] += 1e-7
        return step(self, n, batch)

    monkeypatch.setattr(training._Course, "_step", meddle)
    with pytest.raises(RuntimeError, match="a frozen part of the model has changed"):
        train_depalm(made, images, captions, **SETTINGS)


def test_checksums_see_every_change(made):
    model = made.model
    before = frozen_checksums(model)
    assert not [name for name in before if name.startswith("connector.")]
    assert len(before) > 20
    weight = model.language_model.get_input_embeddings().weight
    assert frozen_checksums(model.to(torch.float32)) == before
    with torch.no_grad():
        weight[[4, 5]] = weight[[5, 4]]  # the same values in other places
        assert frozen_checksums(model) != before
        weight[[4, 5]] = weight[[5, 4]]
        assert frozen_checksums(model) == before
        weight[3, 2] = torch.nextafter(weight[3, 2], torch.tensor(9.0))
        changed = [name for name, value in frozen_checksums(model).items() if value != before[name]]
    assert changed == ["language_model.model.embed_tokens.weight"]
    weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="frozen parts must not be trained, but 'language_model"):
        frozen_checksums(model)


def test_other_runs_and_broken_checkpoints_are_refused(made, images, captions, tmp_path):
    out = tmp_path / "out"
    train_depalm(made, images, captions, out=out, **SETTINGS)
    for change, message in (
        ({"learning_rate": 0.1}, r"differs in learning_rate \(0.003 there, 0.1 here\)"),
        ({"seed": 5}, r"differs in seed \(0 there, 5 here\)"),
        ({"captions": ["a cat"] * N_IMAGES}, "differs in captions"),
    ):
        arguments = {"captions": captions, **SETTINGS, **change}
        with pytest.raises(ValueError, match=f"holds another run: it {message}"):
            train_depalm(made, images, out=out, **arguments)
    path = Checkpoint(out, {}).path
    content = path.read_bytes()
    for damaged in (b"", content[:50], content[:-9], b"x" * 99):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or no checkpoint .*Remove it"):
            train_depalm(made, images, captions, out=out, **SETTINGS)


def test_wrong_arguments(made, images, captions, tmp_path):
    for arguments, message in (
        ({"captions": None}, "captions are needed"),
        ({"captions": captions[:-1]}, "one entry per image: got 11 entries for 12"),
        ({"captions": [*captions[:-1], []]}, r"captions\[11\] is empty"),
        ({"captions": [*captions[:-1], " "]}, r"captions\[11\] is empty"),
        ({"images": []}, "X holds no images"),
        ({"images": [*images[:-1], tmp_path / "none.png"]}, "image 11 .*none.png.* cannot be read"),
        ({"n_steps": 0}, "'n_steps' parameter of train_depalm must be"),
        ({"learning_rate": 0}, "'learning_rate' parameter of train_depalm must be"),
        ({"warmup": 1.0}, "'warmup' parameter of train_depalm must be"),
        ({"model": build_tiny_llava(tmp_path / "llava")}, "is a Llava.*; only a DePALM"),
        ({"model": tmp_path / "nowhere"}, "there is no such folder"),
    ):
        given = {"model": made, "images": images, "captions": captions, **SETTINGS, **arguments}
        with pytest.raises(ValueError, match=message):
            train_depalm(**given)
    folder = build_tiny_depalm(tmp_path / "model")
    with pytest.raises(ValueError, match="is in use as the model of its folder"):
        train_depalm(load_model(folder).loaded, images, captions, **SETTINGS)


def test_a_loss_that_is_not_finite_stops_the_run(made, images, captions):
    made.model.connector.output.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="the loss is nan at step 0"):
        train_depalm(made, images, captions, **SETTINGS)


def test_the_rate_rises_and_falls():
    course = object.__new__(training._Course)
    course.settings = {"n_steps": 100, "learning_rate": 2.0, "warmup": 0.2}
    rates = [course._rate(step) for step in range(100)]
    assert rates[:20] == pytest.approx(np.linspace(0.1, 2.0, 20))
    assert np.argmax(rates) in (19, 20)
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[-1] < 0.01


def test_a_progress_bar_is_shown_when_asked_for(made, images, captions, capsys):
    train_depalm(made, images, captions, **SETTINGS, verbose=1)
    shown = capsys.readouterr().err
    assert "encoding images" in shown and "training" in shown and "loss=" in shown
    train_depalm(made, images, captions, **SETTINGS)
    assert not capsys.readouterr().err
