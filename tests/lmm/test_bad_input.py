"""Input that cannot be used: one clear error that names it, or, on request, a run that goes on."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semi_nmf_concepts import cli
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, NoSampleKeptError, load_model
from tests.lmm._bad_images import UNREADABLE, encoded, noise, with_exif, write_unreadable

UNREADABLE_NAMES = list(UNREADABLE)


@pytest.fixture
def mixed(tmp_path, images):
    """Paths, every other one unreadable, and the positions of those that are."""
    paths = []
    for i, name in enumerate(UNREADABLE_NAMES):
        paths.append(tmp_path / f"good{i}.png")
        images[i].save(paths[-1])
        paths.append(write_unreadable(tmp_path, name))
    return paths, list(range(1, len(paths), 2))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", UNREADABLE_NAMES)
def test_an_unreadable_image_ends_the_run_and_is_named(name, cached, make, tmp_path, images):
    X = [*images[:2], write_unreadable(tmp_path, name), images[2]]
    featurizer = make(position="last", cache=tmp_path / "cache" if cached else None)
    for method in (featurizer.transform, featurizer.extract):
        with pytest.raises(ValueError, match=f"image 2 .*{name}.*{UNREADABLE[name][1]}"):
            method(X)


@pytest.mark.parametrize("cached", [False, True])
def test_unreadable_images_can_be_left_out_and_are_listed(mixed, make, images, tmp_path, cached):
    paths, bad = mixed
    cache = tmp_path / "cache" if cached else None
    skip = make(position="last", on_error="skip", batch_size=4, cache=cache)
    with pytest.warns(
        UserWarning, match=f"{len(bad)} image.s. left out: image 1 .*missing"
    ) as said:
        Z = skip.transform(paths)
    assert len(said) == 1
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(Z).all(axis=1)), bad)
    good = np.setdiff1d(np.arange(len(paths)), bad)
    expected = make(position="last").transform(images[: len(good)])
    np.testing.assert_allclose(Z[good], expected, rtol=1e-3, atol=1e-4)
    with pytest.warns(UserWarning, match="left out"):
        reps = skip.extract(paths)
    assert reps.dropped["unreadable"] == bad
    np.testing.assert_array_equal(reps.indices, good)


def test_missing_entries_of_a_table_are_named(make, images):
    frame = pd.DataFrame({"image": [images[0], None, np.nan, pd.NA]})
    with pytest.raises(ValueError, match="image 1 is missing"):
        make(position="last").transform(frame)
    skip = make(position="last", on_error="skip")
    with pytest.warns(UserWarning, match="3 image.s. left out: image 1 is missing"):
        assert np.isnan(skip.transform(frame)).any(axis=1).tolist() == [False, True, True, True]


def test_something_that_is_no_image_at_all_is_a_mistake_of_the_caller(make, images):
    for item in ({}, 3.5, np.datetime64("2020-01-01")):
        with pytest.raises(TypeError, match="images must be .* at position 1"):
            make(position="last", on_error="skip").transform([images[0], item])


def test_nothing_readable(make, tmp_path):
    paths = [write_unreadable(tmp_path, name) for name in UNREADABLE_NAMES[:3]]
    skip = make(position="last", on_error="skip")
    with pytest.warns(UserWarning, match="3 image.s. left out"):
        assert np.isnan(skip.transform(paths)).all()
    with (
        pytest.warns(UserWarning, match="3 image.s. left out"),
        pytest.raises(NoSampleKeptError, match="none of the 3 images could be read"),
    ):
        skip.extract(paths)


def test_odd_images_are_no_bad_images(make, tmp_path):
    """All of these have pixels that everybody agrees on."""
    ramp = Image.fromarray(np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16))
    contents = {
        "damaged_exif.jpg": with_exif(noise(), orientation=6, damaged=True),
        "cmyk.jpg": encoded(noise().convert("CMYK"), "jpeg"),
        "sixteen_bits.png": encoded(ramp, "png"),
        "one_bit.png": encoded(noise().convert("1"), "png"),
        "dot.png": encoded(Image.new("RGB", (1, 1), "red"), "png"),
        "strip.png": encoded(Image.new("RGB", (600, 4), "red"), "png"),
        "moving.gif": encoded(noise(), "gif", save_all=True, append_images=[noise(64, 48)] * 3),
        "a file with spaces and ünïcode.webp": encoded(noise(), "webp"),
        "no_suffix": encoded(noise(), "png"),
        "wrong_suffix.jpg": encoded(noise(), "png"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Z = make(position="last", batch_size=4).transform([tmp_path / name for name in contents])
    assert np.isfinite(Z).all()
    from_bytes = make(position="last", batch_size=4).transform(list(contents.values()))
    np.testing.assert_array_equal(Z, from_bytes)


@pytest.mark.parametrize("size", [(150_000, 2), (1, 70_000)])
def test_lines_are_refused_by_name(size, make, images, tmp_path):
    """Processors that scale the shorter side up would make very much of them."""
    Image.new("RGB", size).save(tmp_path / "line.png")
    X = [*images[:2], tmp_path / "line.png", images[2]]
    message = f"image 2 .*line.png.*{size[0]} x {size[1]} pixels"
    with pytest.raises(ValueError, match=message):
        make(position="last").transform(X)
    with pytest.warns(UserWarning, match=f"1 image.s. left out: {message}"):
        Z = make(position="last", on_error="skip").transform(X)
    np.testing.assert_array_equal(np.isnan(Z).any(axis=1), [False, False, True, False])
    np.testing.assert_allclose(Z[3], make(position="last").transform(images[2:3])[0], rtol=1e-3)


@pytest.mark.parametrize("X", [[], (), np.empty((0, 5, 5, 3)), pd.DataFrame({"image": []})])
def test_no_images(make, X):
    for method in (make(position="last").transform, make(position="last").extract):
        with pytest.raises(ValueError, match="no images"):
            method(X)


def test_captions_and_prompts_of_another_length_are_refused_before_a_run(make, images, n_run):
    X, featurizer = images[:3], make(token="dog")
    with pytest.raises(ValueError, match="captions must have one entry .* got 2 .* 3 images"):
        featurizer.extract(X, ["a dog", "a cat"])
    with pytest.raises(ValueError, match="prompts must have one entry .* got 4 .* 3 images"):
        featurizer.extract(X, prompts=["a"] * 4)
    with pytest.raises(TypeError, match=r"captions\[1\] must be a string or a list"):
        featurizer.extract(X, ["a dog", {"caption": "a cat"}, "a bus"])
    assert n_run() == 0


def test_words_that_the_model_cannot_write_are_refused_before_a_run(make, images, n_run):
    for token in ("犬", "dog犬", "🐕"):
        with pytest.raises(ValueError, match=f"token={token!r} is unknown|token must be a word"):
            make(token=token).extract(images[:3])
    assert n_run() == 0


def test_a_word_that_never_occurs(make, images):
    with pytest.raises(NoSampleKeptError, match="'zebra' occurs in none of the 3.*Most frequent"):
        make(token="zebra").extract(images[:3])
    with pytest.raises(ValueError, match=r"'zebra' is not in the captions of 3 of 3 images"):
        make(token="zebra", on_missing="error").transform(images[:3])


@pytest.mark.parametrize("end", [".", "[EOS]"])
def test_dictated_captions_may_hold_what_ends_written_ones(end, make, images, monkeypatch):
    """A line break in a caption, say, for a model that ends its captions with one."""
    loaded = make().handle.loaded
    ends = [loaded.tokenizer.eos_token_id, loaded.tokenizer.convert_tokens_to_ids(".")]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", ends)
    captions = [f"{end} dog", f"a {end} red cat and a dog", "a dog", f"a cat {end}"]
    reps = make(token="dog", position="forced").extract(images[:4], captions)
    assert reps.indices.tolist() == [0, 1, 2]
    assert reps.positions.tolist() == [1, 6, 1]
    for z, image, caption in zip(reps.Z, images[:3], captions[:3], strict=True):
        prompt = f"<image>caption: {caption.removesuffix(' dog')}"
        state = make(position="last", prompt=prompt).transform([image])[0]
        np.testing.assert_allclose(z, state, rtol=1e-3, atol=1e-4)


# Code that comes with a model


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({trace!r}).touch()
from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast
class Config(LlavaConfig): pass
class Processor(LlavaProcessor): pass
class Tokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def with_code(tiny_model, tmp_path, monkeypatch):
    """A model folder whose files refer to code, and the file that the code leaves when it runs."""
    folder, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(tiny_model, folder)
    (folder / "code.py").write_text(CODE.format(trace=str(trace)))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))

    def refer(file, **entries):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **entries}))
        return str(folder), trace

    return refer


REFERENCES = {
    "configuration": (
        "config.json",
        {"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}},
    ),
    "known configuration": ("config.json", {"auto_map": {"AutoConfig": "code.Config"}}),
    "model": ("config.json", {"auto_map": {"AutoModelForImageTextToText": "code.Model"}}),
    "processor": (
        "processor_config.json",
        {"processor_class": "New", "auto_map": {"AutoProcessor": "code.Processor"}},
    ),
    "tokenizer": (
        "tokenizer_config.json",
        {"tokenizer_class": "New", "auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}},
    ),
}


@pytest.mark.parametrize("what", REFERENCES)
def test_code_of_a_model_does_not_run_unless_asked_for(with_code, what, images):
    file, entries = REFERENCES[what]
    folder, trace = with_code(file, **entries)
    try:
        LMMTokenFeaturizer(folder, prompt="", position="last").transform(images[:1])
    except ValueError as error:  # nothing else than this code can read it
        assert "trust_remote_code=True" in str(error)
    assert not trace.exists()


def test_code_of_a_model_runs_when_asked_for(with_code, images):
    """So that the test above tests something."""
    file, entries = REFERENCES["processor"]
    folder, trace = with_code(file, **entries)
    handle = load_model(folder, trust_remote_code=True)
    assert LMMTokenFeaturizer(handle, prompt="", position="last").transform(images[:1]).shape
    assert trace.exists()


# The command line


def fails(capsys, *words):
    """What a command that fails says, which is one line."""
    assert cli.main([str(word) for word in words]) == 1
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line and not line.startswith("warning: ")]
    assert len(lines) == 1
    assert "Traceback" not in said
    return lines[0]


@pytest.mark.parametrize("name", ["empty.jpg", "text.jpg", "half.jpg", "half.png", "bomb.png"])
def test_the_command_names_an_unreadable_image(name, images, tiny_model, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    images[0].save(folder / "a.png")
    write_unreadable(folder, name)
    options = ["--images", folder, "--token", "red", "--out", tmp_path / "out", "--quiet"]
    options += ["--n-components", 1, "--test-fraction", 0]
    said = fails(capsys, "concepts", "--model", tiny_model, *options)
    assert str(folder / name) in said
    assert "--on-error skip" in said
