"""Extraction into a folder: the same as in memory, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from semi_nmf_concepts.decomposition import SemiNMFConcepts
from semi_nmf_concepts.lmm import (
    NoSampleKeptError,
    TokenRepresentations,
    _shard_files,
    _shards,
)

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
    write, written = _shard_files.write_arrays, []

    def stopped(path, arrays):
        if len(written) == n:
            raise _StoppedError
        written.append(path)
        return write(path, arrays)

    monkeypatch.setattr(_shard_files, "write_arrays", stopped)


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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_goes_on_from_every_write(after, make, files, words, tmp_path, monkeypatch):
    """It is stopped just before or after each file takes its name, one after the other."""
    monkeypatch.setattr(_shards, "_SHARD", 4)
    featurizer, files = make(token=None, batch_size=4), files[:8]
    featurizer.extract(files, token=words[:2], out=tmp_path / "whole", on_empty="keep")
    replace, written = os.replace, []

    def stopped(source, target):
        if len(written) == n and not after:
            raise _StoppedError
        replace(source, target)
        written.append(target)
        if len(written) == n + 1 and after:
            raise _StoppedError

    for n in range(9):  # two manifests, two shards, two results of two files, the last manifest
        out = tmp_path / f"out-{n}"
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopped)
            with pytest.raises(_StoppedError):
                featurizer.extract(files, token=words[:2], out=out, on_empty="keep")
        featurizer.extract(files, token=words[:2], out=out, on_empty="keep")
        assert contents(out) == contents(tmp_path / "whole")


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


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
        (make(token=words[0]), files[:-1], r"number of images \(26, now 25\)"),
        (make(token=words[0]), files[::-1], "images"),
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


@pytest.mark.parametrize(
    "form",
    [
        list,
        lambda images: [np.asarray(image) for image in images],
        lambda images: np.stack([np.asarray(image.resize((40, 40))) for image in images]),
        lambda images: _Lazy(images),
    ],
    ids=["PIL images", "arrays", "one array", "lazy"],
)
def test_other_images_of_the_same_sizes_are_other_samples(form, make, images, tmp_path):
    featurizer = make(position="last")
    featurizer.extract(form(images[:6]), out=tmp_path)
    with pytest.raises(ValueError, match="another extraction: it differs in images"):
        featurizer.extract(form(images[6:12]), out=tmp_path)
    assert len(featurizer.extract(form(images[:6]), out=tmp_path)) == 6


def test_sequences_that_know_their_content_are_told_apart_by_it(make, tmp_path):
    from semi_nmf_concepts.datasets import load_scenes

    featurizer = make(position="last")
    scenes = load_scenes("test").images
    featurizer.extract(scenes[:4], out=tmp_path)
    with pytest.raises(ValueError, match="another extraction: it differs in images"):
        featurizer.extract(scenes[4:8], out=tmp_path)


class _Lazy:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_a_file_that_is_mended_costs_its_shard_only(make, files, images, word, tmp_path, n_run):
    """The error about it says "replace it": what was done before stays of use."""
    files[17].write_text("no image")
    featurizer = make(token=word, batch_size=4)
    with pytest.raises(ValueError, match="image 17"):
        featurizer.extract(files, out=tmp_path)
    n = n_run()
    images[17].save(files[17])
    mended = featurizer.extract(files, out=tmp_path)
    assert n_run() - n == len(files) - 16
    assert_same(mended, featurizer.extract(files))
    images[17].resize((99, 50)).save(files[17])
    with pytest.raises(ValueError, match=r"differs in images \(the sizes of files\)"):
        featurizer.extract(files, out=tmp_path)


def test_files_that_change_meanwhile_are_run_again(make, files, images, word, tmp_path, n_run):
    featurizer = make(token=word, batch_size=4, on_error="skip")
    files[9].write_text("no image")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(_StoppedError):
            featurizer.extract(files, out=tmp_path)
    n = n_run()
    images[9].save(files[9])
    reps = featurizer.extract(files, out=tmp_path)
    assert n_run() - n == len(files) - 8
    assert reps.failed == {}


def test_shards_of_another_run_or_range_are_not_used(make, files, words, tmp_path):
    """Such as those of a folder that was put together by hand."""
    others = make(token=words[1], batch_size=4)
    mine = make(token=words[0], batch_size=4)
    for featurizer, name in ((others, "others"), (mine, "mine")):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 3)
            with pytest.raises(_StoppedError):
                featurizer.extract(files, out=tmp_path / name)
    shards = tmp_path / "mine" / "shards"
    (tmp_path / "others" / "shards" / "000000.safetensors").replace(shards / "000000.safetensors")
    (shards / "000001.safetensors").replace(shards / "000002.safetensors")
    assert_same(mine.extract(files, out=tmp_path / "mine"), mine.extract(files))


@pytest.mark.parametrize("change", [{"shard_size": 0}, {"shard_size": "8"}, {"format": 7}])
def test_a_manifest_of_another_make_is_refused(change, make, files, word, tmp_path):
    make(token=word).extract(files, out=tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="another extraction: it differs in format"):
        make(token=word).extract(files, out=tmp_path)


def test_one_run_does_not_mix_two_image_processors(make, files, word, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(_StoppedError):
            make(token=word, batch_size=4).extract(files, out=tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor": "Other"}))
    with pytest.raises(ValueError, match="differs in image processor \\('Other', now"):
        make(token=word).extract(files, out=tmp_path)


def test_what_a_killed_process_had_half_written_is_removed(make, files, words, tmp_path):
    featurizer = make(token=None, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(_StoppedError):
            featurizer.extract(files, token=words[:2], out=tmp_path)
    half = f".{'0a' * 16}.tmp"
    for folder in (tmp_path, tmp_path / f"{words[0]}-layer_-1"):
        folder.mkdir(exist_ok=True)
        (folder / half).write_bytes(b"half")
    (tmp_path / ".own.tmp").write_text("somebody's")
    featurizer.extract(files, token=words[:2], out=tmp_path)
    assert not list(tmp_path.rglob(half))
    assert (tmp_path / ".own.tmp").exists()


def test_shards_go_only_when_the_results_have_been_read(make, files, word, tmp_path):
    from semi_nmf_concepts.lmm import _representations

    write = _representations.write_arrays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _representations,
            "write_arrays",
            lambda path, arrays: (write(path, arrays), path.write_bytes(b""))[0],
        )
        with pytest.raises(ValueError, match="damaged"):
            make(token=word).extract(files, out=tmp_path)
    assert len(list((tmp_path / "shards").iterdir())) > 0


def test_names_that_differ_in_case_have_folders_of_their_own(make, files, word, tmp_path):
    asked = [word, word.upper()]
    found = make(token=None).extract(files[:8], token=asked, out=tmp_path, on_empty="keep")
    entries = json.loads((tmp_path / "manifest.json").read_text())["results"]
    assert len({entry["folder"].casefold() for entry in entries}) == 2
    np.testing.assert_array_equal(found[asked[0]].Z, found[asked[1]].Z)
    assert found[asked[0]].all_captions is found[asked[1]].all_captions


def test_shards_are_checked_a_fixed_number_of_times(make, files, words, tmp_path, monkeypatch):
    """However many tokens and layers there are to join."""
    read, counts = _shards.ShardFolder._read, {}

    for n_layers in (1, 3):
        done = []
        monkeypatch.setattr(
            _shards.ShardFolder, "_read", lambda *a, done=done: done.append(1) or read(*a)
        )
        layers = [0, 1, 2][:n_layers]
        make(token=None).extract(files, token=words[:2], layer=layers, out=tmp_path / str(n_layers))
        counts[n_layers] = len(done)
    assert counts[1] == counts[3]


def test_a_folder_that_cannot_be_made_is_named(make, files, word, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be used .*choose a folder.*file/out"):
        make(token=word).extract(files, out=tmp_path / "file" / "out")


def test_a_result_that_is_gone_is_said_to_be(make, files, word, tmp_path):
    make(token=word).extract(files, out=tmp_path)
    (tmp_path / "representations.json").unlink()
    with pytest.raises(ValueError, match="holds no saved token representations"):
        TokenRepresentations.load(tmp_path)


def test_the_home_folder(make, files, word, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    reps = make(token=word).extract(files, out="~/states")
    assert_same(TokenRepresentations.load("~/states"), reps)
    reps.save("~/copy")
    assert (tmp_path / "copy" / "representations.json").exists()


def test_an_error_of_the_folder_ends_the_threads(make, files, word, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    with pytest.raises(_StoppedError) as kept:  # with the traceback, and so all frames, alive
        make(token=word, batch_size=2).extract(files, out=tmp_path)
    assert kept.tb is not None
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]


def test_a_call_that_did_nothing_claims_no_folder(make, files, word, tmp_path):
    with pytest.raises(ValueError, match="layer='layers.7' is no module"):
        make(token=word, layer="layers.7").extract(files, out=tmp_path)
    with pytest.raises(ValueError, match="image 0 "):
        make(token=word).extract([files[0].with_name("absent.png")], out=tmp_path)
    assert_same(make(token=word).extract(files, out=tmp_path), make(token=word).extract(files))


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


def test_a_finished_run_is_judged_by_the_call_that_asks_for_it(make, files, word, tmp_path):
    """What an earlier call left out, or allowed, is an error for one that does not allow it."""
    files[5].write_text("no image")
    skipping = make(token=None, forms="exact", on_error="skip")
    asked = {"token": [word, "zebra"], "out": tmp_path}
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 image"):
            skipping.extract(files, **asked, on_empty="keep")
    with (
        pytest.warns(UserWarning, match="1 image"),
        pytest.raises(NoSampleKeptError, match="'zebra' occurs in none of the 25 gen") as empty,
    ):
        skipping.extract(files, **asked)
    assert empty.value.dropped["unreadable"] == [5]
    with pytest.raises(ValueError, match="image 5 .*05.png"):
        make(token=None, forms="exact").extract(files, **asked, on_empty="keep")


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


def test_shards_may_stay_the_only_copy(make, files, words, tmp_path, n_run):
    featurizer, out = make(token=None, batch_size=4), tmp_path / "out"
    asked = {"token": [*words[:2], "zebra"], "layer": [0, "final_norm"], "on_empty": "keep"}
    plain = featurizer.extract(files, **asked)
    n = n_run()
    for _ in range(2):  # made, and found again
        inside = featurizer.extract(files, **asked, out=out, join=False)
        assert n_run() == n + len(files)
        for key, reps in plain.items():
            assert_same(inside[key], reps)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    shards = {path: path.read_bytes() for path in (out / "shards").iterdir()}
    assert len(shards) == 4
    for entry in manifest["results"]:
        folder, reps = out / entry["folder"], plain[entry["token"], entry["layer"]]
        loaded = TokenRepresentations.load(folder)
        assert_same(loaded, reps)
        assert not isinstance(loaded.Z, np.ndarray) or len(loaded.Z) == 0
        assert "Z" not in load_file(folder / "representations.safetensors")
        index = json.loads((folder / "rows.json").read_text())
        assert (index["format"], index["dtype"], index["n_features"]) == (1, "float32", 32)
        assert all(file["n_rows"] for file in index["files"])
        rows = [load_file(folder / file["file"])[index["array"]] for file in index["files"]]
        assert [len(Z) for Z in rows] == [file["n_rows"] for file in index["files"]]
        np.testing.assert_array_equal(np.concatenate(rows or [reps.Z]), reps.Z)
    loaded = TokenRepresentations.load(out / manifest["results"][0]["folder"])
    loaded.save(tmp_path / "copy")
    assert_same(TokenRepresentations.load(tmp_path / "copy"), loaded)

    joined = featurizer.extract(files, **asked, out=out)  # later, from the shards
    assert n_run() == n + len(files)
    featurizer.extract(files, **asked, out=tmp_path / "at-once")
    assert contents(out) == contents(tmp_path / "at-once")
    again = featurizer.extract(files, **asked, out=out, join=False)
    for key, reps in plain.items():
        assert_same(joined[key], reps)
        assert_same(again[key], reps)
        assert isinstance(again[key].Z, np.ndarray)


def test_a_single_result_over_shards_is_in_the_folder_itself(make, files, word, tmp_path):
    from semi_nmf_concepts.streaming import open_rows

    reps = make(token=word, batch_size=4).extract(files, out=tmp_path, join=False)
    index = json.loads((tmp_path / "rows.json").read_text())
    assert index["files"][0]["file"] == "shards/000000.safetensors"
    np.testing.assert_array_equal(np.asarray(open_rows(tmp_path)), np.asarray(reps.Z))
    assert reps.Z.shape == (len(reps), 32) and reps.Z.dtype == np.float32
    np.testing.assert_array_equal(reps.Z[[2, 0]], np.asarray(reps.Z)[[2, 0]])
    assert "of 26 samples kept" in repr(reps)


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "000001.safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "000001.safetensors"),
        (damage, "the shard .*000001.safetensors is damaged"),
    ],
    ids=["missing", "truncated", "damaged"],
)
def test_a_shard_that_is_lost_is_named_and_made_again(
    harm, message, make, files, word, tmp_path, n_run
):
    featurizer = make(token=word, batch_size=4)
    whole = featurizer.extract(files, out=tmp_path, join=False)
    n, before = n_run(), contents(tmp_path)
    harm(tmp_path / "shards" / "000001.safetensors")
    with pytest.raises(ValueError, match=message + ".*call extract with the same arguments again"):
        TokenRepresentations.load(tmp_path)
    again = featurizer.extract(files, out=tmp_path, join=False)
    assert n_run() == n + 8
    assert contents(tmp_path) == before
    assert_same(again, TokenRepresentations.load(tmp_path))
    assert len(again) == len(whole)


def test_a_damaged_shard_can_be_loaded_without_a_look_at_it(make, files, word, tmp_path):
    make(token=word, batch_size=4).extract(files, out=tmp_path, join=False)
    damage(tmp_path / "shards" / "000001.safetensors")
    assert len(TokenRepresentations.load(tmp_path, verify=False))


@pytest.mark.parametrize("name", ["rows.json", "representations.json"])
def test_what_is_lost_besides_the_shards_is_made_of_them_again(
    name, make, files, word, tmp_path, n_run
):
    featurizer = make(token=word, batch_size=4)
    featurizer.extract(files, out=tmp_path, join=False)
    n, before = n_run(), contents(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=name):
        TokenRepresentations.load(tmp_path)
    featurizer.extract(files, out=tmp_path, join=False)
    assert n_run() == n and contents(tmp_path) == before
    rows = json.loads((tmp_path / "rows.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps(rows | {"files": rows["files"][:-1]}))
    with pytest.raises(ValueError, match="do not belong together"):
        TokenRepresentations.load(tmp_path)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_joining_goes_on_from_every_write(after, make, files, words, tmp_path, monkeypatch):
    monkeypatch.setattr(_shards, "_SHARD", 4)
    featurizer, files = make(token=None, batch_size=4), files[:8]
    asked = {"token": words[:2], "on_empty": "keep"}
    featurizer.extract(files, **asked, out=tmp_path / "whole")
    replace, written = os.replace, []

    def stopped(source, target):
        if len(written) == n and not after:
            raise _StoppedError
        replace(source, target)
        written.append(target)
        if len(written) == n + 1 and after:
            raise _StoppedError

    for n in range(6):  # "running", two results of two files, "complete"
        out = tmp_path / f"out-{n}"
        featurizer.extract(files, **asked, out=out, join=False)
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopped)
            with pytest.raises(_StoppedError):
                featurizer.extract(files, **asked, out=out)
        unjoined = featurizer.extract(files, **asked, out=out, join=False)
        Z = np.array(unjoined[words[0]].Z)  # before the shards go
        joined = featurizer.extract(files, **asked, out=out)
        np.testing.assert_array_equal(joined[words[0]].Z, Z)
        assert contents(out) == contents(tmp_path / "whole")


def test_a_finished_run_over_shards_is_judged_by_the_call_that_asks(make, files, word, tmp_path):
    files[5].write_text("no image")
    skipping = make(token=word, batch_size=4, on_error="skip")
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 image"):
            skipping.extract(files, out=tmp_path, join=False)
    with pytest.raises(ValueError, match="image 5 .*05.png"):
        make(token=word, batch_size=4).extract(files, out=tmp_path, join=False)


def test_shards_stay_only_in_a_folder(make, files, word):
    with pytest.raises(ValueError, match="join=False needs out=, the folder"):
        make(token=word).extract(files, join=False)
    with pytest.raises(TypeError, match="join must be True or False, got 'no'"):
        make(token=word).extract(files, join="no")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_no_file_stays_open(make, files, word, tmp_path):
    featurizer = make(token=word)
    featurizer.extract(files, out=tmp_path / "first")
    before = len(os.listdir("/proc/self/fd"))
    featurizer.extract(files, out=tmp_path / "second")
    assert len(os.listdir("/proc/self/fd")) <= before
