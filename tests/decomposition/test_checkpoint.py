"""Fits that are interrupted and go on from their checkpoint."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from semi_nmf_concepts import SemiNMFConcepts
from semi_nmf_concepts.decomposition import _checkpoint
from semi_nmf_concepts.streaming import open_rows

BLOCK = 200


def planted(seed=0, n_samples=600, n_features=10, n_components=4):
    """Sparse non-negative combinations of unit atoms, plus noise."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((n_components, n_features))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    V = rng.gamma(2.0, 1.0, (n_samples, n_components))
    V *= rng.random((n_samples, n_components)) < 0.4
    return V @ U + 0.1 * rng.standard_normal((n_samples, n_features))


X = planted()


def model(**parameters):
    return SemiNMFConcepts(
        **{
            "n_components": 4,
            "alpha": 0.1,
            "init": X[:4],
            "random_state": 0,
            "batch_size": BLOCK,
            **parameters,
        }
    )


class Blocks:
    """Rows that count how often they are read; `at_block` is called before block number `when`."""

    def __init__(self, Z=X, when=None, at_block=None):
        self.Z, self.when, self.at_block = Z, when, at_block
        self.n_passes = self.n_blocks = 0

    def __iter__(self):
        self.n_passes += 1
        for start in range(0, len(self.Z), BLOCK):
            if self.n_blocks == self.when:
                self.at_block()
            self.n_blocks += 1
            yield self.Z[start : start + BLOCK]


class Stop(BaseException):
    """What interrupts a fit."""


def stop():
    raise Stop


def fit_up_to(block, path, estimator=None):
    """Start a fit that ends at some block."""
    with pytest.raises(Stop):
        (estimator or model()).fit(Blocks(when=block, at_block=stop), checkpoint=path)


@pytest.fixture(autouse=True)
def always_kept(monkeypatch):
    """Every state is written, however long that takes: nothing depends on the speed of a disk."""
    monkeypatch.setattr(_checkpoint, "_WRITING_SHARE", np.inf)


@pytest.fixture(scope="module")
def undisturbed():
    """A fit from its start to its end, and the blocks that it read."""
    source = Blocks()
    return model().fit(source), source


@pytest.fixture
def begun(tmp_path, undisturbed):
    """The checkpoint of a fit that was interrupted."""
    path = tmp_path / "run.npz"
    fit_up_to(undisturbed[1].n_blocks // 2, path)
    assert path.exists()
    return path


# Going on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 0.7, 0.8, 0.9, 0.97])
def test_an_interrupted_fit_goes_on(tmp_path, undisturbed, share):
    """Before the moves, among them, and in the last pass."""
    expected, source = undisturbed
    path = tmp_path / "run.npz"
    fit_up_to(int(share * source.n_blocks), path)
    rest = Blocks()
    fitted = model().fit(rest, checkpoint=path)
    assert_allclose(fitted.objective_, expected.objective_, rtol=1e-6)
    assert_allclose(fitted.components_, expected.components_, atol=1e-3)
    assert rest.n_passes < source.n_passes - (share > 0.2)
    history = fitted.objective_history_
    assert len(history) == fitted.n_iter_ + 1 and np.all(np.diff(history) <= 0.0)
    assert abs(fitted.n_iter_ - expected.n_iter_) <= 12


def test_it_goes_on_again_and_again(tmp_path, undisturbed):
    path, fitted, n_times = tmp_path / "run.npz", None, 0
    while fitted is None:
        when = 25 * (1 + n_times)  # all that a move takes has to fit in
        with contextlib.suppress(Stop):
            fitted = model().fit(Blocks(when=when, at_block=stop), checkpoint=path)
        n_times += 1
    assert n_times >= 4
    assert_allclose(fitted.objective_, undisturbed[0].objective_, rtol=1e-6)


def test_only_the_lowest_state_is_kept(tmp_path, monkeypatch):
    """What a move leads to is higher at first, and may stay so."""
    kept, keep = [], _checkpoint.Checkpoint.keep

    def noted(self, progress, **how):
        kept.append((progress.state.F, progress.history[-1]))
        keep(self, progress, **how)

    monkeypatch.setattr(_checkpoint.Checkpoint, "keep", noted)
    fitted = model().fit(open_rows(X), checkpoint=tmp_path / "run.npz")
    assert all(lowest == F for F, lowest in kept)
    assert 5 < len(kept) <= fitted.n_iter_  # of the iterations, and once more at the end


@pytest.mark.parametrize(
    "parameters",
    [
        {"init": "grow", "center": True},
        {"n_active": 1.7},
        {"whiten": 5},
        {"init": "random", "random_state": np.random.RandomState(3)},
    ],
    ids=["named", "n_active", "whitened", "generator"],
)
def test_it_goes_on_with_any_parameters(tmp_path, parameters):
    path, source = tmp_path / "run.npz", Blocks()
    estimator = model(**parameters)
    expected = clone(estimator).fit(source)
    fit_up_to(source.n_blocks - 4, path, clone(estimator))
    assert path.exists()
    fitted = clone(estimator).fit(Blocks(), checkpoint=path)
    assert_allclose(fitted.objective_, expected.objective_, rtol=1e-5)
    assert_allclose(fitted.alpha_, expected.alpha_, rtol=1e-5)
    if fitted.n_active is not None:
        assert abs(fitted.n_active_ - 1.7) <= 0.17


def test_random_draws_go_on(tmp_path):
    """What follows is what would have followed, whatever the generator of the second call."""
    expected = model(random_state=np.random.RandomState(3)).fit(Blocks())
    for block in range(14, 46, 10):  # before the moves, which draw
        path = tmp_path / f"{block}.npz"
        fit_up_to(block, path, model(random_state=np.random.RandomState(3)))
        fitted = model(random_state=np.random.RandomState(4)).fit(Blocks(), checkpoint=path)
        assert fitted.n_iter_ == expected.n_iter_
        assert_allclose(fitted.components_, expected.components_, atol=1e-12)


def test_the_generator_of_numpy_is_left_alone(tmp_path):
    """A fit that goes on does not make what is drawn after it the same each time."""
    path, estimator = tmp_path / "run.npz", model(random_state=None)
    shared = np.random.mtrand._rand
    before = shared.get_state()
    fit_up_to(100, path, estimator)
    content, draws = path.read_bytes(), []
    for seed in (5, 6):
        shared.seed(seed)
        path.write_bytes(content)
        estimator.fit(open_rows(X), checkpoint=path)
        draws.append(shared.random_sample())
    shared.set_state(before)
    assert draws[0] != draws[1]


def test_a_finished_fit_is_there_at_once(tmp_path):
    for parameters in ({}, {"n_active": 1.7, "init": "grow"}, {"n_active": 1.7}):
        path = tmp_path / f"{len(parameters)}.npz"
        first, second = Blocks(), Blocks()
        expected = model(**parameters).fit(first, checkpoint=path)
        content = path.read_bytes()
        fitted = model(**parameters).fit(second, checkpoint=path)
        assert_allclose(fitted.objective_, expected.objective_, rtol=1e-6)
        assert second.n_passes <= 9
        assert path.exists() and content[:4] == b"PK\3\4"


def test_a_fit_that_ran_out_of_iterations_goes_on_with_more(tmp_path, undisturbed):
    path = tmp_path / "run.npz"
    with pytest.warns(ConvergenceWarning, match="max_iter=6"):
        first = model(max_iter=6).fit(open_rows(X), checkpoint=path)
    assert first.n_iter_ == 6
    fitted = model(max_iter=500).fit(open_rows(X), checkpoint=path)
    assert abs(fitted.n_iter_ - undisturbed[0].n_iter_) <= 3  # the moves, too
    assert_array_equal(fitted.objective_history_[:6], first.objective_history_[:6])
    assert_allclose(fitted.objective_, undisturbed[0].objective_, rtol=1e-6)


def test_what_does_not_decide_the_result_may_change(begun, undisturbed):
    changed = model(
        tol=1e-7, max_iter=2000, batch_size=77, n_jobs=2, backend="torch", device="cpu", verbose=0
    )
    fitted = changed.fit(open_rows(X), checkpoint=begun)
    assert_allclose(fitted.objective_, undisturbed[0].objective_, rtol=1e-6)


def test_arrays_in_memory_and_tables(tmp_path, undisturbed):
    expected = undisturbed[0]
    frame = pd.DataFrame(X).add_prefix("unit")
    for data, name in [(X, "a"), (X.tolist(), "b"), (frame, "c")]:
        path = tmp_path / "new" / f"{name}.npz"
        fitted = model().fit(data, checkpoint=path)
        assert_allclose(fitted.objective_, expected.objective_, rtol=1e-9)
        assert path.exists() and fitted.skipped_ == {}
    assert list(fitted.feature_names_in_) == list(frame.columns)
    V = fitted.transform(frame)  # without a warning of names
    again = model()
    assert_allclose(again.fit_transform(frame, checkpoint=path), V, atol=1e-3)
    fitted = model().fit(X.astype(np.float16), checkpoint=tmp_path / "half.npz")
    assert fitted.components_.dtype == np.float32
    assert_allclose(fitted.objective_, expected.objective_, rtol=1e-2)
    small = model(n_components=2, init="svd", batch_size=None)
    small.fit(X[:9], checkpoint=tmp_path / "small.npz")
    assert small.n_samples_seen_ == 9
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model().fit(np.where(X > 1.0, np.nan, X), checkpoint=tmp_path / "nan.npz")
    assert not (tmp_path / "nan.npz").exists()


def test_centred_data_are_known_again(tmp_path):
    """Their mean is nothing but rounding, and another one in blocks of another size."""
    Z = X - X.mean(axis=0)
    path = tmp_path / "run.npz"
    fit_up_to(40, path, model().set_params(init=Z[:4]))
    path.unlink()
    model(init=Z[:4]).fit(open_rows(Z), checkpoint=path)
    model(init=Z[:4], batch_size=37).fit(open_rows(Z), checkpoint=path)


# What does not belong together --------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"alpha": 0.2}, "alpha"),
        ({"n_components": 3, "init": X[:3]}, "n_components, init"),
        ({"init": X[1:5]}, "init"),
        ({"init": "grow"}, "init"),
        ({"center": True, "n_active": 2.0}, "n_active, center"),
        ({"random_state": 1}, "random_state"),
        ({"random_state": np.random.RandomState(0)}, "random_state"),
        ({"forgetting": 0.5}, "forgetting"),
    ],
)
def test_other_parameters_are_named(begun, changed, named):
    source, content = Blocks(), begun.read_bytes()
    with pytest.raises(ValueError, match="belongs to another fit") as error:
        model(**changed).fit(source, checkpoint=begun)
    names = str(error.value).partition("another fit: ")[2].partition(" differ")[0]
    assert sorted(names.split(", ")) == sorted(named.split(", "))
    assert source.n_passes == 1  # that which counts the rows: nothing was computed
    assert begun.read_bytes() == content


@pytest.mark.parametrize(
    "Z, named",
    [
        (X[:599], "shape"),
        (X[:, ::-1], "data"),
        (X[::-1], "data"),
        (X + 1e-4, "data"),
        (planted(1), "data"),
        (X.mean(axis=0) + 1.001 * (X - X.mean(axis=0)), "data"),  # of the same mean
        (2.0 * X.mean(axis=0) - X, "data"),  # and of the same mean square
    ],
)
def test_other_data_are_told(begun, Z, named):
    content = begun.read_bytes()
    with pytest.raises(ValueError, match=f"another fit: {named} differ"):
        model().fit(open_rows(Z), checkpoint=begun)
    assert begun.read_bytes() == content


def test_the_same_rows_from_elsewhere_are_the_same(begun, tmp_path, undisturbed):
    np.save(tmp_path / "a.npy", X[:250])
    np.save(tmp_path / "b.npy", X[250:])
    rows = open_rows([tmp_path / "a.npy", tmp_path / "b.npy"])
    fitted = model().fit(rows, checkpoint=begun)
    assert_allclose(fitted.objective_, undisturbed[0].objective_, rtol=1e-6)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
    content = bytearray(path.read_bytes())
    start = content.index(b"U.npy") + 200
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def a_text(path):
    path.write_text("no checkpoint\n")


def an_array(path):
    np.save(path.with_suffix(".npy"), X)
    os.replace(path.with_suffix(".npy"), path)


def other_arrays(path):
    np.savez(path, a=X)


def other_texts(path, **changed):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["texts"] = np.frombuffer(json.dumps(changed or [1]).encode(), np.uint8)
    np.savez(path, **arrays)


def nothing_of_the_fit(path):
    other_texts(path, identity={}, numbers={}, random_state={})


def a_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")


def a_pickle(path):
    path.write_bytes(pickle.dumps(Evil(path.with_name("unpickled"))))


def pickled_arrays(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["U"] = np.array([Evil(path.with_name("unpickled"))], dtype=object)
    np.savez(path, **arrays)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        cut_off,
        cut_in_half,
        damage,
        empty,
        a_text,
        an_array,
        other_arrays,
        other_texts,
        nothing_of_the_fit,
        a_zip,
        a_pickle,
        pickled_arrays,
        a_folder,
    ],
)
def test_files_that_are_no_checkpoint(begun, spoil):
    spoil(begun)
    source = Blocks()
    with pytest.raises(ValueError, match=r"checkpoint='.*run\.npz' is no checkpoint of a fit"):
        model().fit(source, checkpoint=begun)
    assert source.n_passes == 1
    assert os.listdir(begun.parent) == ["run.npz"]  # and nothing was unpickled


def test_a_file_of_another_version_is_told(begun):
    with np.load(begun) as file:
        texts = json.loads(bytes(file["texts"]))
    texts["identity"]["format"] += 1
    other_texts(begun, **texts)
    with pytest.raises(ValueError, match="another fit: format differ"):
        model().fit(open_rows(X), checkpoint=begun)


# Writing ------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    source = Blocks()
    with pytest.raises(OSError, match="cannot write") as error:
        model().fit(source, checkpoint=tmp_path / "file" / "run.npz")
    assert "run.npz" in str(error.value)
    assert source.n_passes == 1
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(TypeError):
        model().fit(source, checkpoint=3)


def test_a_disk_that_is_full_leaves_the_file_before(begun, monkeypatch):
    content = begun.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semi_nmf_concepts._files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        model().fit(open_rows(X), checkpoint=begun)
    assert begun.read_bytes() == content
    assert os.listdir(begun.parent) == ["run.npz"]


class Clock:
    """Time that passes where it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("seconds, n_expected", [(0.0, 21), (1.0, 3), (100.0, 1)])
def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch, seconds, n_expected):
    """20 iterations of a second each, and files that take so many seconds to write."""
    clock, written = Clock(), []
    monkeypatch.setattr(_checkpoint, "_WRITING_SHARE", 0.1)
    monkeypatch.setattr(_checkpoint, "time", clock)

    def write(path, content):
        if path.suffix == ".npz":
            written.append(clock.now)
            clock.now += seconds
        else:
            path.touch()

    monkeypatch.setattr(_checkpoint, "write_atomically", write)

    class Slow(SemiNMFConcepts):
        def _fit_data(self, data, random_state, observer, options):
            keep = options["checkpoint"].keep

            def slow_keep(progress, **how):
                clock.now += 1.0
                keep(progress, **how)

            options["checkpoint"].keep = slow_keep
            return super()._fit_data(data, random_state, observer, options)

    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        Slow(**model(max_iter=20, tol=0.0).get_params()).fit(
            open_rows(X), checkpoint=tmp_path / "run.npz"
        )
    assert abs(len(written) - 1 - n_expected) <= 1  # the last one is always written
    assert os.listdir(tmp_path) == []


# Killed -------------------------------------------------------------------------------------------

# A process that is killed at a block of its data, or right before a file takes its name.
KILLED = """
import os, signal, sys
import numpy as np
from semi_nmf_concepts import _files
from semi_nmf_concepts.decomposition import _checkpoint
from tests.decomposition.test_checkpoint import Blocks, model

_checkpoint._WRITING_SHARE = np.inf


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_file(number, replace=os.replace, left=[]):
    def replacing(source, target):
        if target.name == "run.npz":
            left.append(target)
        if len(left) == number:
            die()
        replace(source, target)

    _files.os.replace = replacing


def run(moment, path):
    what, _, number = moment.partition(" ")
    if what == "file":
        die_at_file(int(number))
    when = int(number) if what == "block" else None
    model().fit(Blocks(when=when, at_block=die), checkpoint=path)


model().fit(Blocks())  # compiles
for moment in sys.argv[1:]:
    folder = moment.replace(" ", "-")
    os.mkdir(folder)
    child = os.fork()
    if not child:
        run(moment, folder + "/run.npz")
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_killed_process_loses_little(tmp_path, undisturbed):
    expected, source = undisturbed
    moments = [f"block {int(share * source.n_blocks)}" for share in (0.35, 0.5, 0.75, 0.95)]
    moments += ["file 1", "file 4"]
    folder = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, *moments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.split() == [str(int(signal.SIGKILL))] * len(moments), run.stderr
    for moment in moments:
        path = tmp_path / moment.replace(" ", "-") / "run.npz"
        assert path.exists() == (moment != "file 1")
        rest = Blocks()
        fitted = model().fit(rest, checkpoint=path)
        assert_allclose(fitted.objective_, expected.objective_, rtol=1e-6)
        if moment != "file 1":
            assert rest.n_passes < source.n_passes


def test_a_fit_that_has_ended_is_not_fitted_further(tmp_path, undisturbed):
    path = tmp_path / "fit.npz"
    first = model().fit(open_rows(X), checkpoint=path)
    content = path.read_bytes()
    again = model().fit(open_rows(X), checkpoint=path)
    assert again.n_iter_ == first.n_iter_ and again.objective_ == first.objective_
    assert_array_equal(again.components_, first.components_)
    assert path.read_bytes() == content
    further = model(tol=1e-12).fit(open_rows(X), checkpoint=path)
    assert further.n_iter_ > first.n_iter_ and further.objective_ <= first.objective_ * (1 + 1e-9)
