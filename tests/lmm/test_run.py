"""Batches, threads that read, and what happens when memory is short."""

import threading
import warnings

import numpy as np
import pytest
import torch

from semi_nmf_concepts.lmm import _reading
from semi_nmf_concepts.lmm._states import StateCollector


@pytest.fixture
def files(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(images):
        image.save(folder / f"{i:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def scarce_memory(monkeypatch):
    """Makes batches above a limit run out of memory; lists the sizes that were tried."""

    def scarce(limit, error):
        tried, call = [], StateCollector.__call__

        def collect(self, images, *args):
            tried.append(len(images))
            if len(images) > limit:
                raise error
            return call(self, images, *args)

        monkeypatch.setattr(StateCollector, "__call__", collect)
        return tried

    return scarce


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        MemoryError(),
    ],
)
def test_the_batch_is_halved_with_one_warning(error, make, images, word, scarce_memory):
    expected = make(token=word).extract(images)
    tried = scarce_memory(3, error)
    with pytest.warns(UserWarning, match="do not fit into the memory") as said:
        reps = make(token=word, batch_size=16).extract(images)
    assert len(said) == 1
    assert tried == [16, 8, 4] + [2] * 12  # 24 images
    np.testing.assert_array_equal(reps.indices, expected.indices)
    assert reps.all_captions == expected.all_captions
    error_ = np.linalg.norm(reps.Z - expected.Z, axis=1) / np.linalg.norm(expected.Z, axis=1)
    assert error_.max() < 1e-4


def test_one_image_too_large_is_an_error(make, images, word, scarce_memory):
    scarce_memory(0, torch.OutOfMemoryError("CUDA out of memory."))
    with (
        pytest.warns(UserWarning, match="do not fit"),
        pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"),
    ):
        make(token=word, batch_size=4).extract(images)


def test_other_errors_are_not_taken_for_lack_of_memory(make, images, word, scarce_memory):
    tried = scarce_memory(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        make(token=word, batch_size=4).extract(images)
    assert tried == [4, 1, 1, 1, 1]  # the last is a plain image, which fails, too


def test_files_are_decoded_in_threads_and_ahead_of_the_model(
    make, files, images, word, monkeypatch
):
    threads, decode, counts = set(), _reading.to_rgb, []
    call = StateCollector.__call__

    def counted(item, index, *rest):
        threads.add(threading.current_thread())
        counts.append(index)
        return decode(item, index, *rest)

    seen = []
    monkeypatch.setattr(_reading, "to_rgb", counted)
    monkeypatch.setattr(
        StateCollector,
        "__call__",
        lambda self, batch, *args: seen.append(len(counts)) or call(self, batch, *args),
    )
    with_files = make(token=word, batch_size=4, n_jobs=2).extract(files)
    assert threading.main_thread() not in threads
    assert len(threads) == 2
    assert sorted(counts) == list(range(len(files)))
    threads.clear()
    in_memory = make(token=word, batch_size=4, n_jobs=2).extract(images)
    assert threads == {threading.main_thread()}
    np.testing.assert_array_equal(with_files.Z, in_memory.Z)
    assert threading.active_count() == 1 or not [
        t for t in threading.enumerate() if t.name.startswith("images")
    ]


def test_few_huge_images_are_decoded_ahead(make, files, word, monkeypatch):
    """What waits is bounded in pixels, not only in images."""
    monkeypatch.setattr(_reading, "MAX_WAITING_PIXELS", 3 * 48 * 48)
    decode, call, decoded, most = _reading.to_rgb, StateCollector.__call__, [], [0]

    def counted(*args):
        decoded.append(1)
        return decode(*args)

    consumed = [0]

    def collect(self, batch, *args):
        consumed[0] += len(batch)
        most[0] = max(most[0], len(decoded) - consumed[0])
        return call(self, batch, *args)

    monkeypatch.setattr(_reading, "to_rgb", counted)
    monkeypatch.setattr(StateCollector, "__call__", collect)
    make(token=word, batch_size=1, n_jobs=1).extract(files)
    assert most[0] <= 3
    assert len(decoded) == len(files)


def test_an_error_ends_the_threads(make, files, word):
    files[3].write_text("no image")
    with pytest.raises(ValueError, match="image 3"):
        make(token=word, batch_size=2, n_jobs=3).extract(files)
    assert not [t for t in threading.enumerate() if t.name.startswith("images")]


@pytest.mark.parametrize("n_jobs", [0, -1, 1.5, "2"])
def test_n_jobs_is_checked(n_jobs, make, images, word):
    with pytest.raises(ValueError, match="n_jobs"):
        make(token=word, n_jobs=n_jobs).transform(images)


def test_prompts_of_their_own(make, images, word, tmp_path, n_run):
    """Each image with its question gives what it gives alone."""
    import pandas as pd

    prompts = [["", "what is that", "a red cat"][i % 3] for i in range(len(images))]
    featurizer = make(token=word, batch_size=7)
    Z = featurizer.transform(pd.DataFrame({"image": images, "prompt": prompts}))
    reps = featurizer.extract(images, prompts=prompts)
    np.testing.assert_array_equal(reps.Z, Z[reps.indices])
    for prompt in set(prompts):
        which = [i for i, p in enumerate(prompts) if p == prompt]
        alone = make(token=word, prompt=prompt).extract([images[i] for i in which])
        assert alone.all_captions == [reps.all_captions[i] for i in which]
    other = featurizer.set_params(prompt_column="question")
    Z_other = other.transform(pd.DataFrame({"image": images, "prompt": prompts}))
    assert not np.array_equal(Z_other, Z)


def test_prompts_are_part_of_what_the_cache_knows(make, images, word, tmp_path, n_run):
    cached = make(token=word, cache=tmp_path)
    first = cached.extract(images, prompts=["a"] * len(images))
    second = cached.extract(images, prompts=["the cat"] * len(images))
    assert n_run() == 2 * len(images)
    assert first.all_captions != second.all_captions
    again = cached.extract(images, prompts=["a"] * 5 + ["the cat"] * (len(images) - 5))
    assert n_run() == 2 * len(images)
    assert again.all_captions == first.all_captions[:5] + second.all_captions[5:]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a"], "one entry per image: got 1 entries"),
        ("what?", "sequence with one text per image"),
        (3, "sequence with one text"),
        ([None] * 24, r"prompts\[0\] must be a string"),
    ],
)
def test_wrong_prompts(prompts, message, make, images, word):
    with pytest.raises((ValueError, TypeError), match=message):
        make(token=word).extract(images, prompts=prompts)


def test_no_warning_without_need(make, images, word):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(token=word, batch_size=100).extract(images)


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_images_that_the_models_processor_refuses(
    batch_size, make, images, word, tiny_model, monkeypatch
):
    """Such as one that is far too long: it is named, or left out, and costs no other."""
    from semi_nmf_concepts.lmm import load_model

    loaded = load_model(tiny_model).loaded
    process = type(loaded.processor).__call__

    def choosy(self, images, **kwargs):
        if any(one.width > 1000 for row in images for one in row):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return process(self, images=images, **kwargs)

    monkeypatch.setattr(type(loaded.processor), "__call__", choosy)
    expected = make(token=word, batch_size=batch_size).extract(images)
    X = list(images)
    X[2], X[7] = X[2].resize((2000, 3)), X[7].resize((3000, 2))
    with pytest.raises(
        ValueError, match="image 2 cannot be taken by the model.*aspect ratio.*2000 x 3 pixels"
    ):
        make(token=word, batch_size=batch_size).extract(X)
    skipping = make(token=word, batch_size=batch_size, on_error="skip")
    with pytest.warns(UserWarning, match="2 image"):
        reps = skipping.extract(X)
    assert list(reps.failed) == reps.dropped["unreadable"] == [2, 7]
    np.testing.assert_array_equal(reps.indices, np.setdiff1d(expected.indices, [2, 7]))
    kept = np.isin(expected.indices, reps.indices)
    error = np.linalg.norm(reps.Z - expected.Z[kept], axis=1)
    assert (error / np.linalg.norm(reps.Z, axis=1)).max() < 1e-4


def test_images_on_which_the_model_fails(make, images, word, monkeypatch):
    """A fault inside the model for an odd image costs no other image of its batch."""
    call = StateCollector.__call__

    def collect(self, batch, *args):
        if any(image.width == 1 for image in batch):
            raise RuntimeError("cannot reshape tensor of 0 elements")
        return call(self, batch, *args)

    monkeypatch.setattr(StateCollector, "__call__", collect)
    X = list(images)
    X[0], X[9] = X[0].resize((1, 1)), X[9].resize((1, 1))
    with pytest.raises(ValueError, match="image 0 cannot be taken by the model: cannot reshape"):
        make(token=word, batch_size=6).extract(X)
    with pytest.warns(UserWarning, match="2 image"):
        reps = make(token=word, batch_size=6, on_error="skip").extract(X)
    assert list(reps.failed) == [0, 9]
    assert reps.all_captions.count(None) == 2


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_batch_of_nothing_but_odd_images(batch_size, make, images, word, monkeypatch):
    """Such as the last one of a run, of a single image: a plain image tells whose fault it is."""
    call = StateCollector.__call__

    def collect(self, batch, *args):
        if any(image.width == 1 for image in batch):
            raise RuntimeError("cannot reshape tensor of 0 elements")
        return call(self, batch, *args)

    monkeypatch.setattr(StateCollector, "__call__", collect)
    X = [*images[:4], *[image.resize((1, 1)) for image in images[4:8]], images[8].resize((1, 1))]
    with pytest.raises(ValueError, match="image 4 cannot be taken by the model: cannot reshape"):
        make(token=word, batch_size=batch_size).extract(X)
    with pytest.warns(UserWarning, match="5 image"):
        reps = make(token=word, batch_size=batch_size, on_error="skip").extract(X, on_empty="keep")
    assert list(reps.failed) == [4, 5, 6, 7, 8]
    assert "image 8 cannot" in reps.failed[8]


def test_equal_images_that_fail_are_named_each(make, images, word, monkeypatch, tmp_path):
    """They run once where there is a cache."""
    call = StateCollector.__call__

    def collect(self, batch, *args):
        if any(image.width == 1 for image in batch):
            raise RuntimeError("cannot reshape")
        return call(self, batch, *args)

    monkeypatch.setattr(StateCollector, "__call__", collect)
    odd = images[0].resize((1, 1))
    with pytest.warns(UserWarning, match="2 image"):
        reps = make(position="last", on_error="skip", cache=tmp_path).extract([images[1], odd, odd])
    assert {i: message[:8] for i, message in reps.failed.items()} == {1: "image 1 ", 2: "image 2 "}


def test_lack_of_memory_for_one_image_is_not_put_down_to_it(make, images, word, monkeypatch):
    def collect(self, batch, *args):
        if len(batch) > 1:
            raise RuntimeError("cannot reshape")
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(StateCollector, "__call__", collect)
    with pytest.raises(torch.OutOfMemoryError):
        make(token=word, batch_size=4, on_error="skip").extract(images)


class _Opens:
    """A lazy sequence that opens files by itself."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        from PIL import Image

        with Image.open(self.files[index]) as image:
            return image.copy()


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_lazy_sequence_with_an_unreadable_image(in_folder, make, files, word, tmp_path):
    files[3].write_text("no image")
    files[23].unlink()
    out = {"out": tmp_path} if in_folder else {}
    with pytest.raises(ValueError, match="image 3 cannot be read: cannot identify image file"):
        make(token=word).extract(_Opens(files), **out)
    skipping = make(token=word, on_error="skip")
    with pytest.warns(UserWarning, match="2 image"):
        reps = skipping.extract(_Opens(files), **out)
    assert list(reps.failed) == [3, 23]
    with pytest.warns(UserWarning, match="2 image"):
        Z = skipping.transform(_Opens(files))
    assert np.flatnonzero(np.isnan(Z).any(axis=1)).tolist() == [3, 23]


def test_states_that_are_kept_hold_no_others_in_memory(make, images, word, monkeypatch):
    from semi_nmf_concepts.lmm._selection import Part

    parts, init = [], Part.__init__
    monkeypatch.setattr(
        Part, "__init__", lambda self, *args: parts.append(self) or init(self, *args)
    )
    make(token=word).extract(images)
    records = [record for outcome in parts[0]._outcomes.values() for record, _ in outcome.values()]
    kept = [record.state for record in records if record.state is not None]
    assert 0 < len(kept) < len(images)
    assert all(state.base is None for state in kept)
