"""Extraction into a folder: the same as in memory, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from semi_nmf_concepts.decomposition import SemiNMFConcepts
from semi_nmf_concepts.lmm import NoSampleKeptError, TokenRepresentations, _shards

ARRAYS = ("Z", "indices", "positions", "token_probability", "missing")
TEXTS = ("captions", "all_captions", "prefixes", "token", "layer", "module", "dropped", "failed")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(_shards, "_SHARD", 8)


@pytest.fixture
def files(images, tmp_path_factory):
    """Paths of the images, two of them twice."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(images):
        image.save(folder / f"{i:02d}.png")
    return [*sorted(folder.iterdir()), folder / "03.png", folder / "00.png"]


def assert_same(a, b):
    for name in ARRAYS:
        mine, other = getattr(a, name), getattr(b, name)
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)
    for name in (*TEXTS, "provenance"):
        assert getattr(a, name) == getattr(b, name), name


def test_the_folder_holds_what_memory_would(make, files, word, tmp_path):
    featurizer = make(token=word, batch_size=4)
    inside = featurizer.extract(files, out=tmp_path / "out")
    assert_same(inside, featurizer.extract(files))
    assert_same(TokenRepresentations.load(tmp_path / "out"), inside)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock",
        "manifest.json",
        "representations.json",
        "representations.safetensors",
    ]
    assert isinstance(inside.Z, np.memmap)
    V = SemiNMFConcepts(3, random_state=0).fit_transform(inside.Z)
    np.testing.assert_array_equal(
        V, SemiNMFConcepts(3, random_state=0).fit_transform(np.array(inside.Z))
    )
    stored = load_file(tmp_path / "out" / "representations.safetensors")
    np.testing.assert_array_equal(stored["Z"], inside.Z)


def test_a_mapped_array_does_not_write_to_the_file(make, files, word, tmp_path):
    reps = make(token=word).extract(files, out=tmp_path)
    before = np.array(reps.Z)
    reps.Z += 1.0
    np.testing.assert_array_equal(TokenRepresentations.load(tmp_path).Z, before)


def test_a_finished_run_is_not_run_again(make, files, word, tmp_path, n_run):
    first = make(token=word).extract(files, out=tmp_path)
    n = n_run()
    assert n == len(files)
    featurizer = make(token=word)
    featurizer.handle.unload()
    again = featurizer.extract(files, out=tmp_path)
    assert n_run() == n
    assert not featurizer.handle.is_loaded
    assert_same(again, first)


def test_several_tokens_and_layers_have_folders_of_their_own(make, files, words, tmp_path):
    featurizer = make(token=None, batch_size=4)
    asked = {"token": words[:2], "layer": [0, "final_norm"]}
    plain = featurizer.extract(files, **asked)
    inside = featurizer.extract(files, **asked, out=tmp_path)
    assert list(inside) == list(plain)
    for key, reps in plain.items():
        assert_same(inside[key], reps)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    for entry in manifest["results"]:
        loaded = TokenRepresentations.load(tmp_path / entry["folder"])
        assert_same(loaded, plain[entry["token"], entry["layer"]])
    with pytest.raises(ValueError, match=f"holds several.*{words[0]}-layer_0"):
        TokenRepresentations.load(tmp_path)


@pytest.mark.parametrize("position", ["last", "mean", "forced"])
def test_other_positions(position, make, files, tmp_path):
    token = "cat" if position == "forced" else None
    captions = ["a cat", None, ["a dog", "two cats"], "a dog"] * 7 if token else None
    featurizer = make(token=token, position=position)
    files = files[:20]
    captions = captions and captions[:20]
    inside = featurizer.extract(files, captions, out=tmp_path)
    plain = featurizer.extract(files, captions)
    for name in ("indices", "positions", "missing"):
        np.testing.assert_array_equal(getattr(inside, name), getattr(plain, name))
    np.testing.assert_allclose(inside.Z, plain.Z, rtol=1e-4, atol=1e-5)
    assert inside.all_captions == plain.all_captions


class _StoppedError(Exception):
    pass


def stop_after(monkeypatch, n):
    """The run ends with an error when `n` files have been written whole."""
    write, written = _shards.write_arrays, []

    def stopped(path, arrays):
        if len(written) == n:
            raise _StoppedError
        written.append(path)
        return write(path, arrays)

    monkeypatch.setattr(_shards, "write_arrays", stopped)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_stopped_run_goes_on(n, make, files, word, tmp_path, monkeypatch, n_run):
    featurizer = make(token=word, batch_size=4)
    whole = featurizer.extract(files, out=tmp_path / "whole")
    before = n_run()
    with monkeypatch.context() as patch:
        stop_after(patch, n)
        with pytest.raises(_StoppedError):
            featurizer.extract(files, out=tmp_path / "out")
    with pytest.raises(ValueError, match="has not ended: call extract"):
        TokenRepresentations.load(tmp_path / "out")
    after = n_run()
    assert after > before
    assert_same(featurizer.extract(files, out=tmp_path / "out"), whole)
    assert n_run() - after == len(files) - 8 * n  # what was written is not computed again


def test_a_damaged_shard_is_computed_again(make, files, word, tmp_path, monkeypatch):
    featurizer = make(token=word, batch_size=4)
    whole = featurizer.extract(files, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(_StoppedError):
            featurizer.extract(files, out=tmp_path / "out")
    first, second, third = sorted((tmp_path / "out" / "shards").iterdir())
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-7])
    third.write_bytes(b"")
    assert_same(featurizer.extract(files, out=tmp_path / "out"), whole)


SCRIPT = """
import sys
from pathlib import Path
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, _shards
_shards._SHARD = 2
folder, model, word, out = sys.argv[1:]
files = sorted(Path(folder).iterdir())
featurizer = LMMTokenFeaturizer(model, token=word, prompt="", max_new_tokens=14, batch_size=2)
_ = featurizer.handle.loaded
print("ready", flush=True)
featurizer.extract(files, out=out)
"""


def test_a_killed_process_goes_on(make, files, word, tmp_path, tiny_model, monkeypatch):
    """SIGKILL in the middle of the work, then the same call again."""
    monkeypatch.setattr(_shards, "_SHARD", 2)
    featurizer = make(token=word, batch_size=2)
    files = sorted(files[0].parent.iterdir())
    whole = featurizer.extract(files, out=tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, files[0].parent, tiny_model, word, tmp_path / "out"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    shards = tmp_path / "out" / "shards"
    deadline = time.monotonic() + 60
    while not (shards.is_dir() and len(list(shards.glob("*.safetensors"))) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out" / "representations.json").exists()
    assert_same(featurizer.extract(files, out=tmp_path / "out"), whole)
    a, b = (tmp_path / name / "representations.safetensors" for name in ("whole", "out"))
    assert a.read_bytes() == b.read_bytes()


def test_another_request_or_other_samples_are_refused(make, files, words, tmp_path):
    make(token=words[0]).extract(files, out=tmp_path)
    for featurizer, X, what in (
        (make(token=words[1]), files, "token"),
        (make(token=words[0], layer=1), files, "layer"),
        (make(token=words[0], max_new_tokens=5), files, r"max_new_tokens \(14, now 5\)"),
        (make(token=words[0]), files[:-1], "X"),
        (make(token=words[0]), files[::-1], "X"),
    ):
        with pytest.raises(ValueError, match=f"another extraction: it differs in.*{what}"):
            featurizer.extract(X, out=tmp_path)
    with pytest.raises(ValueError, match="captions"):
        make(token=words[0]).extract(files, [words[0]] * len(files), out=tmp_path)


def test_folders_that_are_not_of_an_extraction_are_left_alone(make, files, word, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds something else \\(thesis.txt\\)"):
        make(token=word).extract(files, out=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    with pytest.raises(ValueError, match="is a file"):
        make(token=word).extract(files, out=tmp_path / "thesis.txt")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="no manifest"):
        make(token=word).extract(files, out=tmp_path / "odd")


def test_two_processes_do_not_share_a_folder(make, files, word, tmp_path):
    import filelock

    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(ValueError, match="in use by another"),
    ):
        make(token=word).extract(files, out=tmp_path)


def test_unreadable_images(make, files, word, tmp_path, n_run):
    files[5].write_text("no image")
    files[9] = files[9].with_name("absent.png")
    with pytest.raises(ValueError, match="image 5 .*05.png"):
        make(token=word, batch_size=4).extract(files, out=tmp_path)
    skipping = make(token=word, batch_size=4, on_error="skip")
    with pytest.warns(UserWarning, match="2 image"):
        reps = skipping.extract(files, out=tmp_path)
    assert reps.dropped["unreadable"] == [5, 9]
    assert list(reps.failed) == [5, 9]
    assert "absent.png" in reps.failed[9]
    assert reps.all_captions[5] is None
    assert f"{len(reps)} of 26 samples kept" in reps.summary()
    assert "absent.png" in reps.summary()
    with pytest.warns(UserWarning, match="2 image"):
        plain = skipping.extract(files)
    assert plain.failed == reps.failed
    np.testing.assert_array_equal(plain.indices, reps.indices)
    np.testing.assert_allclose(plain.Z, reps.Z, rtol=1e-3, atol=1e-4)  # batches are other ones


def test_what_an_earlier_call_left_out_is_an_error_for_one_that_must_not(
    make, files, word, tmp_path, monkeypatch
):
    files[1].write_text("no image")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(_StoppedError):
            make(token=word, batch_size=4, on_error="skip").extract(files, out=tmp_path)
    with pytest.raises(ValueError, match="image 1 .*01.png"):
        make(token=word, batch_size=4).extract(files, out=tmp_path)


def test_a_token_without_samples(make, files, word, tmp_path, n_run):
    with pytest.raises(NoSampleKeptError, match="'zebra' occurs in none"):
        make(token=None, forms="exact").extract(files, token=[word, "zebra"], out=tmp_path)
    n = n_run()
    both = make(token=None, forms="exact").extract(
        files, token=[word, "zebra"], out=tmp_path, on_empty="keep"
    )
    assert n_run() == n
    assert both["zebra"].Z.shape == (0, 32)
    assert len(both[word])


def test_own_prompts(make, files, word, tmp_path):
    prompts = [["", "the red cat", "a"][i % 3] for i in range(len(files))]
    featurizer = make(token=word, batch_size=4)
    inside = featurizer.extract(files, prompts=prompts, out=tmp_path)
    assert_same(inside, featurizer.extract(files, prompts=prompts))
    assert inside.provenance["prompt"] is None
    with pytest.raises(ValueError, match="prompts"):
        featurizer.extract(files, prompts=prompts[::-1], out=tmp_path)


def test_progress_and_summary(make, files, word, tmp_path, capfd):
    make(token=word, verbose=2).extract(files, out=tmp_path)
    said = capfd.readouterr().err
    assert "26/26" in said and "image/s" in said
    assert f"token {word!r}, layer 3:" in said


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_no_file_stays_open(make, files, word, tmp_path):
    featurizer = make(token=word)
    featurizer.extract(files, out=tmp_path / "first")
    before = len(os.listdir("/proc/self/fd"))
    featurizer.extract(files, out=tmp_path / "second")
    assert len(os.listdir("/proc/self/fd")) <= before
