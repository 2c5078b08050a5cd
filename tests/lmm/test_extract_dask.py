"""Extraction by the workers of a Dask cluster: the same bytes as on one machine."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import semi_nmf_concepts
from semi_nmf_concepts.datasets import load_scenes
from semi_nmf_concepts.lmm import (
    LMMTokenFeaturizer,
    TokenRepresentations,
    _dask_extraction,
    _dask_tasks,
    _shards,
    _states,
)
from semi_nmf_concepts.lmm._handle import load_count

N_FILES = 22
WAIT = "semi_nmf_concepts.wait-for-workers"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(_shards, "_SHARD", 4)


@pytest.fixture(scope="module", autouse=True)
def as_many_threads_as_workers():
    """With others, sums are rounded in another way."""
    import torch

    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def images():
    """Scenes, every second one with a dog."""
    scenes = load_scenes("test")
    with_dog = [i for i, texts in enumerate(scenes.captions[:200]) if "dog" in str(texts)]
    chosen = [i for pair in zip(with_dog, range(N_FILES), strict=False) for i in pair]
    return [scenes.images[i] for i in chosen[:N_FILES]]


@pytest.fixture(scope="module")
def stored(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(images):
        image.save(folder / f"{i:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def files(stored, tmp_path):
    """Paths of the images, which a test may change."""
    for path in stored:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return [tmp_path / path.name for path in stored]


def make(**parameters):
    return LMMTokenFeaturizer(**{"token": "dog", "batch_size": 4, "stop": "token", **parameters})


@pytest.fixture
def threads():
    """A cluster within this process: one worker with four threads, and its client."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=4,
            processes=False,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def assert_same_on_one_machine(out, extract):
    """The folder that `extract` filled over Dask has the bytes that it gives without."""
    extract(out=out.with_name("alone"))
    assert contents(out) == contents(out.with_name("alone"))
    assert len(contents(out)) > 2


def test_the_same_bytes_as_on_one_machine(cluster, files, tmp_path, capfd):
    featurizer = make(token=None, verbose=1)
    featurizer.handle.unload()
    asked = {"token": ["dog", "cat"], "layer": [0, "final_norm"], "on_empty": "keep"}
    found = featurizer.extract(
        files, **asked, out=tmp_path / "out", client=cluster.scheduler_address
    )
    assert not featurizer.handle.is_loaded  # the workers have it
    assert "22/22" in capfd.readouterr().err
    assert len(found["dog", 0]) > 3
    assert_same_on_one_machine(
        tmp_path / "out", lambda **where: featurizer.extract(files, **asked, **where)
    )


def test_paths_are_those_of_the_caller(client, files, tmp_path, monkeypatch):
    """Relative ones as well, in messages, too; the workers run in another folder."""
    monkeypatch.chdir(tmp_path)
    files[5].write_text("no image")
    names = [path.name for path in files]
    captions = [["a dog"], "no cat", None, ["two dogs", "a bird"]] * 5 + ["a dog", "dogs"]
    prompts = ["", "a dog"] * 11
    featurizer = make(on_error="skip", cache="cache")

    def extract(**where):
        with pytest.warns(UserWarning, match=r"image 5 \(05.png\) cannot be read"):
            return featurizer.extract(names, captions, prompts=prompts, **where)

    reps = extract(out="out", client=client, join=False)
    assert reps.dropped["unreadable"] == [5] and reps.dropped["not_in_reference"]
    n_cached = len(list((tmp_path / "cache").rglob("*.npz")))
    assert n_cached == N_FILES - 1
    assert_same_on_one_machine(tmp_path / "out", lambda **where: extract(**where, join=False))
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == n_cached


def test_images_in_memory(client, images, files, tmp_path):
    from PIL import Image

    X = [*images[:6], *map(np.asarray, images[6:9]), None, files[10].read_bytes()]
    (tmp_path / "cut.png").write_bytes(files[11].read_bytes()[:-50])
    with Image.open(files[11]) as opened, Image.open(tmp_path / "cut.png") as cut:
        X += [opened, cut]
        featurizer = make(position="mean", token=None, on_error="skip")

        def extract(**where):
            with pytest.warns(UserWarning, match=r"2 image.*image 9 is missing.*12 .*cut.png\)"):
                return featurizer.extract(X, **where)

        extract(out=tmp_path / "out", client=client)
        assert_same_on_one_machine(tmp_path / "out", extract)
    stack = np.stack([np.asarray(image.resize((40, 40))) for image in images[:6]])
    featurizer.extract(stack, out=tmp_path / "stack" / "out", client=client)
    assert_same_on_one_machine(
        tmp_path / "stack" / "out", lambda **where: featurizer.extract(stack, **where)
    )


class _Lazy:
    """Opens its files when an item is asked for."""

    def __init__(self, files, payload=None):
        self.files, self.payload = files, payload

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.files[index]


class _Deadly(_Lazy):
    """Ends the process that asks for an item, if it is not the first one that does."""

    pid = os.getpid()

    def __init__(self, files):
        super().__init__(files, os.getpid())

    def __getitem__(self, index):
        if os.getpid() != self.payload:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.files[index]


def test_lazy_sequences(client, stored, tmp_path):
    featurizer, lazy = make(position="last", token=None), _Lazy(stored[:9])
    featurizer.extract(lazy, out=tmp_path / "out", client=client)
    assert_same_on_one_machine(tmp_path / "out", lambda **where: featurizer.extract(lazy, **where))
    bound = _Lazy(stored[:9], payload=threading.Lock())
    with pytest.raises(TypeError, match=r"lazy sequence \(_Lazy\) that cannot be pickled.*Give p"):
        featurizer.extract(bound, out=tmp_path / "bound", client=client)


def test_the_first_unreadable_image_ends_the_run(client, files, images, tmp_path):
    content = files[9].read_bytes()
    files[9].write_text("no image")
    featurizer = make()
    with pytest.raises(ValueError) as alone:
        featurizer.extract(files, out=tmp_path / "alone")
    with pytest.raises(type(alone.value)) as raised:
        featurizer.extract(files, out=tmp_path / "out", client=client)
    assert str(raised.value) == str(alone.value)
    assert not (tmp_path / "out" / "shards" / "000002.safetensors").exists()
    deadline = time.monotonic() + 20
    while any(client.processing().values()):  # the others are cancelled
        assert time.monotonic() < deadline
        time.sleep(0.05)
    files[9].write_bytes(content)
    featurizer.extract(files, out=tmp_path / "out", client=client)
    featurizer.extract(files, out=tmp_path / "alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_killed_worker_changes_nothing(client, files, tmp_path, monkeypatch):
    monkeypatch.setattr(_shards, "_SHARD", 1)
    featurizer, out, files = make(batch_size=1), tmp_path / "out", files[:12]
    pids = client.run(os.getpid)
    seen = []

    def kill():
        shards = out / "shards"
        while not seen:
            n = len(list(shards.glob("*.safetensors"))) if shards.is_dir() else 0
            if n:
                os.kill(next(iter(pids.values())), signal.SIGKILL)
                seen.append(n)
            time.sleep(0.001)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        featurizer.extract(files, out=out, client=client)
    finally:
        seen.append(None)
        killer.join()
    assert 0 < seen[0] < len(files)
    assert_same_on_one_machine(out, lambda **where: featurizer.extract(files, **where))


SCRIPT = """
import sys
from pathlib import Path
from distributed import Client
from semi_nmf_concepts.lmm import LMMTokenFeaturizer, _shards
_shards._SHARD = 1
files, out, address = sys.argv[1:]
featurizer = LMMTokenFeaturizer(token="dog", batch_size=1, stop="token")
featurizer.extract(sorted(Path(files).iterdir()), out=out, client=address)
"""


def test_a_killed_client_goes_on(client, cluster, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(_shards, "_SHARD", 1)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, stored[0].parent, out, cluster.scheduler_address]
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("shards/*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("shards/*.safetensors"))) < N_FILES
    with pytest.raises(ValueError, match="has not ended: call extract"):
        TokenRepresentations.load(out)
    featurizer = make(batch_size=1)
    featurizer.extract(stored, out=out, client=client)
    assert_same_on_one_machine(out, lambda **where: featurizer.extract(stored, **where))


def test_workers_that_die_of_an_image_again_and_again(client, cluster, stored, tmp_path):
    scheduler = cluster.scheduler
    allowed, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        with pytest.raises(ChildProcessError, match="died again and again .*batch_size"):
            make().extract(_Deadly(stored[:4]), out=tmp_path, client=client)
    finally:
        scheduler.allowed_failures = allowed


# What can be wrong, with workers that are threads of this process


def test_one_model_in_a_process_used_by_one_thread_at_a_time(
    threads, stored, tmp_path, monkeypatch
):
    monkeypatch.setattr(_shards, "_SHARD", 1)
    featurizer = make(batch_size=1, position="last", token=None, max_new_tokens=39)
    featurizer.handle.unload()
    call, n_inside, most = _states.StateCollector.__call__, [], []

    def counted(self, *arguments):
        n_inside.append(1)
        most.append(len(n_inside))
        time.sleep(0.01)
        try:
            return call(self, *arguments)
        finally:
            n_inside.pop()

    monkeypatch.setattr(_states.StateCollector, "__call__", counted)
    before = load_count(featurizer.handle)
    featurizer.extract(stored, out=tmp_path, client=threads)
    assert load_count(featurizer.handle) == before + 1
    assert len(most) == N_FILES and set(most) == {1}


def test_images_that_do_not_fit_into_the_memory_of_a_worker(threads, stored, tmp_path, monkeypatch):
    call = _states.StateCollector.__call__

    def small(self, images, *arguments):
        if len(images) > 2:
            raise MemoryError("out of memory")
        return call(self, images, *arguments)

    monkeypatch.setattr(_states.StateCollector, "__call__", small)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make().extract(stored[:12], out=tmp_path, client=threads, on_empty="keep")
    said = [str(w.message) for w in caught if "of the worker" in str(w.message)]
    assert len(said) == 1 and "batch_size=2 avoids" in said[0]


def test_a_folder_that_a_worker_does_not_see(threads, stored, tmp_path, monkeypatch):
    job_of = _dask_tasks.Job.of

    def elsewhere(*arguments, folder=None, **options):
        job = job_of(*arguments, folder=folder, **options)
        return job if folder is None else _replaced(job, folder=str(tmp_path / "elsewhere"))

    with monkeypatch.context() as patch:
        patch.setattr(_dask_tasks.Job, "of", elsewhere)
        with pytest.raises(FileNotFoundError, match="does not see the folder .*all machines share"):
            make().extract(stored, out=tmp_path / "out", client=threads)
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr(_dask_tasks, "write_shard", lambda *arguments: None)
    monkeypatch.setattr(_dask_extraction, "_VISIBLE_AFTER", 0.2)
    with pytest.raises(FileNotFoundError, match="has written .*000.*.safetensors, but the file is"):
        make().extract(stored, out=tmp_path / "out", client=threads)


def _replaced(job, **changes):
    return type(job)(**{**vars(job), **changes})


def test_images_that_a_worker_does_not_see_are_no_unreadable_ones(
    threads, stored, tmp_path, monkeypatch
):
    digest = _dask_tasks.digest_of_sizes
    monkeypatch.setattr(_dask_tasks, "digest_of_sizes", lambda items, *bounds: digest([None], 0, 1))
    with pytest.raises(FileNotFoundError, match="does not see the image files .*same files under"):
        make(on_error="skip").extract(stored, out=tmp_path, client=threads)


def another_worker(monkeypatch, **changes):
    """The workers seem to be two, and the second tells other facts."""
    prepared, told = _dask_tasks._prepared, []

    def differing(job):
        run = prepared(job)
        told.append(job)
        run.facts = run.facts | changes if len(told) == 2 else run.facts
        return run

    monkeypatch.setattr(_dask_tasks, "_prepared", differing)
    monkeypatch.setattr(_dask_extraction.Cluster, "_workers", lambda self: ["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_processor": "Other"}, r"workers differ in image_processor \('.*'Other'.* on "),
        ({"dtype": "float16"}, r"workers differ in dtype \('float.* on .*, 'float.* on "),
    ],
)
def test_workers_that_do_not_agree(change, message, threads, stored, tmp_path, monkeypatch):
    another_worker(monkeypatch, **change)
    with pytest.raises(ValueError, match=message):
        make().extract(stored, out=tmp_path, client=threads)


def test_a_worker_that_comes_later_and_does_not_agree(threads, stored, tmp_path, monkeypatch):
    another_worker(monkeypatch, dtype="float16")
    monkeypatch.setattr(_dask_extraction.Cluster, "_workers", lambda self: ["a"])
    with pytest.raises(ValueError, match="workers differ in dtype"):
        make().extract(stored, out=tmp_path, client=threads)
    assert not (tmp_path / "representations.json").exists()


def test_other_versions_are_worth_a_warning(threads, stored, tmp_path, monkeypatch):
    another_worker(monkeypatch, versions={"torch": "1.0"})
    with pytest.warns(UserWarning, match="different versions of .*torch.*; states may differ"):
        make().extract(stored, out=tmp_path, client=threads)


def test_another_version_of_this_package_is_an_error(threads, stored, tmp_path, monkeypatch):
    check = _dask_tasks._check_version

    def check_other(job):
        with monkeypatch.context() as patch:
            patch.setattr(semi_nmf_concepts, "__version__", "0.0.0")
            check(job)

    monkeypatch.setattr(_dask_tasks, "_check_version", check_other)
    with pytest.raises(ImportError, match="has semi_nmf_concepts 0.0.0, the calling .*everywhere"):
        make().extract(stored, out=tmp_path, client=threads)


def test_a_cluster_that_is_lost_meanwhile(threads, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(_dask_extraction, "_wait_until_visible", lambda *arguments: threads.close())
    with pytest.raises(ConnectionError, match="connection to the Dask scheduler .* is lost.*again"):
        make().extract(stored, out=tmp_path, client=threads)
    make().extract(stored, out=tmp_path)


def test_clusters_that_cannot_be_used(stored, tmp_path):
    featurizer = make()
    with dask.config.set({WAIT: "0.3s"}):
        with pytest.raises(ConnectionError, match=r"at 'tcp://127.0.0.1:9' \(tried for 0.3 s\)"):
            featurizer.extract(stored, out=tmp_path, client="tcp://127.0.0.1:9")
        for address in ("a//b", "scheduler", "tcp://scheduler"):
            with pytest.raises(ValueError, match=f"{address}' is no address of a Dask scheduler"):
                featurizer.extract(stored, out=tmp_path, client=address)
        with (
            LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            with pytest.raises(TimeoutError, match="has had no workers for 0.3 s.*dask worker"):
                featurizer.extract(stored, out=tmp_path, client=client)
            client.close()
            with pytest.raises(ConnectionError, match="is closed: no cluster is reachable"):
                featurizer.extract(stored, out=tmp_path, client=client)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(client, stored, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="client= needs out=, the folder"):
        make().extract(stored, client=client)
    with pytest.raises(ValueError, match="join=False and client= needs out="):
        make().extract(stored, client=client, join=False)
    with pytest.raises(TypeError, match="client must be a distributed.Client, or the address"):
        make().extract(stored, out=tmp_path, client=8786)
    with pytest.raises(TypeError, match="used by its folder"):  # weights do not travel
        make(model=make().handle.loaded).extract(stored, out=tmp_path, client=client)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'semi_nmf_concepts\[dask\]'"):
        make().extract(stored, out=tmp_path, client=client)


def test_an_asynchronous_client(cluster, stored, tmp_path):
    import asyncio

    async def extract():
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            make().extract(stored, out=tmp_path, client=client)

    with pytest.raises(TypeError, match="must not be asynchronous"):
        asyncio.run(extract())


def test_what_is_sent_is_small(stored, tmp_path):
    """A worker gets the paths of its range, not those of all."""

    class Folder:
        run = make()._prepare([*stored] * 1000, [["a dog"]] * N_FILES * 1000, ["dog"], [-1])
        shard_path = staticmethod(lambda start: tmp_path / f"{start}")
        owner = staticmethod(lambda *bounds: [*bounds])

    assert len(_dask_extraction._packed(Folder, 64, 128)) < 64 * 100
    assert len(pickle.dumps(_dask_tasks.Job.of(Folder.run, "0"))) < 2000
