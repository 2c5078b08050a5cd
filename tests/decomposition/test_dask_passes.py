"""Passes over Dask arrays: the same sums from every scheduler, lazily, and whatever gets lost."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from benchmarks._memory import PeakAnonymous
from semi_nmf_concepts import SemiNMFConcepts
from semi_nmf_concepts.decomposition import _dask_cluster
from semi_nmf_concepts.decomposition._dask import DaskPasses, Memory, check_dask, map_rows
from tests._dask_cluster import client, cluster  # noqa: F401

#: Where local clusters show themselves: any port.
DASHBOARD = "127.0.0.1:0"


# What is done with chunks: classes of this module, so that workers find them ----------------------


class Work:
    """Lists what the blocks are."""

    def __call__(self, block, start, memory):
        return [(start, block.copy(), block.dtype.name, block.flags.c_contiguous)]

    @staticmethod
    def add(one, other):
        return one + other


class Sum(Work):
    """Adds up the rows."""

    def __call__(self, block, start, memory):
        return block.sum(axis=0)


class Visits(Work):
    """Counts how often each chunk was visited with the same memory."""

    def __call__(self, block, start, memory):
        memory["visits"] = memory.get("visits", 0) + 1
        return np.array([memory["visits"]])


@dataclass
class Dies(Sum):
    """The process that is given some row dies of it, as long as a file does not exist."""

    row: int
    marker: str
    load: bytes = b""

    def __call__(self, block, start, memory):
        if start == self.row:
            try:
                open(self.marker, "x").close()
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block, start, memory)


class AlwaysDies(Sum):
    def __call__(self, block, start, memory):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Fails(Work):
    error: Exception

    def __call__(self, block, start, memory):
        raise self.error


class Waits(Sum):
    def __call__(self, block, start, memory):
        time.sleep(0.3)
        return super().__call__(block, start, memory)


@dataclass
class Counted(Sum):
    """Counts how often it arrives in a process."""

    load: bytes = field(default=b"", repr=False)
    arrivals = 0

    def __setstate__(self, state):
        self.__dict__.update(state)
        Counted.arrivals += 1

    def rows(self, block):
        return block + 1


def arrivals():
    count, Counted.arrivals = Counted.arrivals, 0
    return count


def n_memories():
    gc.collect()  # what only waits for its collector is not held
    return sum(isinstance(thing, Memory) for thing in gc.get_objects())


def nested_sum(X):
    return DaskPasses(X).reduce(Sum())


# Data ---------------------------------------------------------------------------------------------


def values(n_samples=500, dtype=np.float64, scale=100.0):
    Z = scale * np.random.default_rng(0).standard_normal((n_samples, 4))
    return Z.astype(dtype)


def array(Z=None, chunk=25):
    Z = values() if Z is None else Z
    return da.from_array(Z, chunks=(chunk, Z.shape[1]))


def generated(n_samples=500, chunk=25, n_features=4):
    """Chunks that are made anew whenever they are asked for."""
    return da.random.default_rng(0).normal(size=(n_samples, n_features), chunks=(chunk, n_features))


@pytest.fixture(params=["synchronous", "threads", "cluster"])
def scheduler(request):
    """Each of the schedulers, as the active one."""
    if request.param == "cluster":
        request.getfixturevalue("on_cluster")
        yield
    else:
        with dask.config.set(scheduler=request.param):
            yield


@pytest.fixture
def on_cluster(client, cluster):  # noqa: F811
    """The cluster as active scheduler, with both its workers."""
    cluster.wait_for_workers(2, timeout=60)
    # A LocalCluster gives up a worker that was lost, came back, and is lost again after this time.
    patience = {"distributed.deploy.lost-worker-timeout": "1 hour"}
    with client.as_current(), dask.config.set(patience):
        yield client


# Sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8", "bool"])
def test_work_gets_the_chunks_in_the_working_dtype(dtype, scheduler):
    Z = values(100, dtype, scale=1.0 if dtype == "bool" else 50.0)
    working = "float32" if dtype in ("float16", "float32") else "float64"
    passes = DaskPasses(check_dask(da.from_array(Z, chunks=((30, 1, 40, 29), 4))))
    assert (passes.shape, passes.dtype) == ((100, 4), working)
    starts, blocks, dtypes, are_contiguous = zip(*passes.reduce(Work()), strict=True)
    assert starts == (0, 30, 31, 71)
    assert_array_equal(np.concatenate(blocks), Z.astype(working))
    assert set(dtypes) == {working} and all(are_contiguous)
    assert passes.n_passes == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_large_chunks_are_worked_on_piece_by_piece(dtype):
    Z = values(100, dtype)
    passes = DaskPasses(check_dask(da.from_array(Z, chunks=((70, 30), 4))), n_at_once=32)
    starts, blocks, dtypes, are_contiguous = zip(*passes.reduce(Work()), strict=True)
    assert starts == (0, 32, 64, 70)
    assert_array_equal(np.concatenate(blocks), Z.astype("float32"))
    assert set(dtypes) == {"float32"} and all(are_contiguous)
    for n in (1, 2):  # each piece has a memory of its own
        assert passes.reduce(Visits()) == 4 * n


def test_a_dtype_may_be_asked_for():
    ((_, _, dtype, _),) = DaskPasses(array(values(20, "float32")), np.float64).reduce(Work())
    assert dtype == "float64"


def test_chunks_in_another_order_are_brought_in_c_order():
    passes = DaskPasses(array().map_blocks(np.asfortranarray))
    assert all(is_contiguous for *_, is_contiguous in passes.reduce(Work()))


def tree_sum(parts, n=8):
    """Neighbours added in groups of eight, level by level."""
    while len(parts) > 1:
        groups = [parts[i : i + n] for i in range(0, len(parts), n)]
        parts = [np.add.accumulate(group)[-1] for group in groups]
    return parts[0]


@pytest.mark.parametrize("n_chunks", [1, 2, 8, 9, 20, 65])
def test_sums_are_the_same_to_the_last_bit(n_chunks, scheduler):
    Z = values(25 * n_chunks, np.float32, scale=1e4)
    expected = tree_sum([Z[i : i + 25].sum(axis=0) for i in range(0, len(Z), 25)])
    passes = DaskPasses(array(Z))
    for _ in range(2):
        assert_array_equal(passes.reduce(Sum()), expected)


def test_processes_of_this_machine_add_up_the_same():
    passes = DaskPasses(array())
    with dask.config.set(scheduler="synchronous"):
        expected = passes.reduce(Sum())
    with dask.config.set(scheduler="processes", num_workers=1):
        assert_array_equal(passes.reduce(Sum()), expected)


HISTORIES = {
    "mapped": lambda X: X + 1,
    "twice": lambda X: da.concatenate([X, X]),
    "used": lambda X: da.concatenate([X, X + 1]),
    "rechunked": lambda X: X.rechunk({0: 70}),
    "sliced": lambda X: X[3:][::2],
    "mixed": lambda X: da.concatenate([X, X[:50].astype("float32")])[:, ::-1],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_arrays_with_a_history(name, scheduler):
    X = HISTORIES[name](array())
    blocks = [block for _, block, *_ in DaskPasses(X).reduce(Work())]
    assert_array_equal(np.concatenate(blocks), X.compute())


@pytest.mark.parametrize("name", HISTORIES)
def test_arrays_whose_tasks_are_not_fused(name):
    X = HISTORIES[name](array())
    with dask.config.set({"optimization.fuse.active": False, "scheduler": "synchronous"}):
        blocks = [block for _, block, *_ in DaskPasses(X).reduce(Work())]
    assert_array_equal(np.concatenate(blocks), X.compute())


def test_persisted_chunks_are_worked_on_where_they_are(on_cluster):
    X = generated().persist()
    passes = DaskPasses(X + 1)
    expected = DaskPasses(generated() + 1)
    for _ in range(3):
        assert_array_equal(passes.reduce(Sum()), expected.reduce(Sum()))


def test_data_in_the_graph_are_sent_once(on_cluster, monkeypatch):
    sent = []
    monkeypatch.setattr(_dask_cluster, "_MOST_IN_GRAPH", 100_000)
    persist = on_cluster.persist
    monkeypatch.setattr(on_cluster, "persist", lambda X: sent.append(X) or persist(X))
    passes = DaskPasses(array(values(5000), 250))  # 160,000 bytes
    for _ in range(3):
        assert_array_equal(passes.reduce(Sum()), passes.reduce(Sum()))
    assert len(sent) == 1
    DaskPasses(generated()).reduce(Sum())
    assert len(sent) == 1


# Lazily, and no more than is asked for ------------------------------------------------------------


def counted_chunks(n_chunks=20):
    """A dask array whose chunks are noted when they are computed, and the notes."""
    computed = []

    def chunk(block_id):
        computed.append(block_id[0])
        return np.full((25, 4), block_id[0], np.float32)

    X = da.map_blocks(chunk, chunks=((25,) * n_chunks, (4,)), meta=np.empty((0, 0), np.float32))
    return X, computed


@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_nothing_is_computed_before_it_is_asked_for(name):
    X, computed = counted_chunks()
    with dask.config.set(scheduler=name):
        passes = DaskPasses(check_dask(X))
        V = map_rows(check_dask(X), np.negative, 4)
        assert computed == []
        passes.reduce(Sum())
        assert sorted(computed) == list(range(20))
        computed.clear()
        assert_array_equal(passes.take([0, 24, 75, 499])[:, 0], [0, 0, 3, 19])
        assert sorted(computed) == [0, 3, 19]
        computed.clear()
        V[:30].compute()
        assert sorted(computed) == [0, 1]


def test_chunks_that_are_needed_twice_are_computed_once():
    X, computed = counted_chunks()
    with dask.config.set(scheduler="synchronous"):
        DaskPasses(da.concatenate([X, X[::-1], X + 1])).reduce(Sum())
    assert sorted(computed) == list(range(20))


def test_rows_at_indices(scheduler):
    Z = values(dtype=np.float16)
    passes = DaskPasses(array(Z))
    for rows in ([], [7], [0, 1, 24, 25, 26, 499], np.arange(500)):
        found = passes.take(rows)
        assert found.dtype == np.float32
        assert_array_equal(found, Z[np.asarray(rows, int)].astype(np.float32))


def test_rows_at_indices_of_a_rechunked_array():
    X, computed = counted_chunks()
    assert_array_equal(DaskPasses(X.rechunk({0: 60})).take([61, 100])[:, 0], [2, 4])
    assert set(computed) == {2, 3, 4}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_client_never_holds_the_array(on_cluster):
    X = generated(300 * 2**20 // 8 // 1000, 2000, 1000)  # 300 MB
    passes = DaskPasses(X)
    passes.take([0])
    with PeakAnonymous() as memory:
        passes.reduce(Sum())
        passes.take([0, 20_000])
    assert memory.peak - memory.before < 40e6


# What work remembers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_every_chunk_has_its_memory_until_the_end(name):
    with dask.config.set(scheduler=name):
        passes = DaskPasses(array())
        assert [passes.reduce(Visits())[0] for _ in range(3)] == [20, 40, 60]
        assert DaskPasses(array()).reduce(Visits())[0] == 20
        passes.close()
        assert passes.reduce(Visits())[0] == 20


def wait_until(holds, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def memories_on(client):  # noqa: F811
    return sum(client.run(n_memories).values())


def wait_until_none_on(client):  # noqa: F811
    """Wait until the workers have no memories; or say where they are, and what keeps them."""
    try:
        wait_until(lambda: memories_on(client) == 0)
    except AssertionError:
        keys = [key for key in client.who_has() if "memory" in str(key)]
        pytest.fail(f"left on workers: {client.run(n_memories)}; kept by futures: {keys}")


@pytest.mark.parametrize("is_persisted", [False, True])
@pytest.mark.parametrize("end", ["close", "forget"])
def test_memories_stay_on_the_workers_until_the_end(is_persisted, end, on_cluster):
    X = generated().persist() if is_persisted else generated()
    passes = DaskPasses(X, bytes_per_row=800)
    n_visits = [passes.reduce(Visits())[0] for _ in range(4)]
    assert n_visits[0] == 20 and n_visits[3] > n_visits[2] > n_visits[1] > 30
    assert memories_on(on_cluster) >= 20
    if end == "close":
        passes.close()
    else:
        del passes
    wait_until_none_on(on_cluster)


def test_neighbours_start_on_the_same_worker(on_cluster):
    passes = DaskPasses(generated())
    passes.take([0])
    where = {key[1]: workers for key, workers in on_cluster.who_has().items() if "memory" in key[0]}
    assert len({where[i] for i in range(10)}) == len({where[i] for i in range(10, 20)}) == 1
    assert where[0] != where[19]


def test_memories_go_with_the_client(on_cluster, cluster):  # noqa: F811
    from distributed import Client

    with Client(cluster, set_as_default=False) as other, other.as_current():
        passes = DaskPasses(generated())
        passes.reduce(Visits())
        assert memories_on(on_cluster) >= 20
    wait_until_none_on(on_cluster)
    passes.close()  # though there is nothing left to be closed


def test_the_scheduler_knows_no_more_after_many_passes(on_cluster, cluster):  # noqa: F811
    def known():
        return {key for key in cluster.scheduler.tasks if "visits" in str(key)}

    def n_memories():
        return sum("memory" in str(key) for key in cluster.scheduler.tasks)

    passes = DaskPasses(generated())
    for _ in range(5):
        passes.reduce(Visits())
    wait_until(lambda: not known())
    assert n_memories() == 20


def test_a_memory_in_use_is_not_lent_again():
    memory = Memory(10)
    with memory.borrowed() as contents:
        contents["codes"] = 1
        with memory.borrowed() as other:
            assert other == {}
            other["codes"] = 2
    with memory.borrowed() as contents:
        assert contents == {"codes": 1}


def test_a_memory_elsewhere_is_a_copy():
    memory = Memory(10)
    with memory.borrowed() as contents:
        contents["codes"] = np.arange(3)
        copy = pickle.loads(pickle.dumps(memory))
    assert sys.getsizeof(copy) == sys.getsizeof(memory) >= 10
    with copy.borrowed() as contents:
        assert_array_equal(contents.pop("codes"), np.arange(3))
    with memory.borrowed() as contents:
        assert list(contents) == ["codes"]


def test_another_scheduler_may_take_over(on_cluster):
    passes = DaskPasses(generated())
    expected = passes.reduce(Sum())
    with dask.config.set(scheduler="synchronous"):
        assert_array_equal(passes.reduce(Sum()), expected)
    assert_array_equal(passes.reduce(Sum()), expected)


# What is sent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2**23, 1000], ids=["in the graph", "by itself"])
def test_work_arrives_once_on_every_worker(limit, on_cluster, monkeypatch):
    monkeypatch.setattr(_dask_cluster, "_MOST_IN_GRAPH", limit)
    X = generated().persist()
    passes = DaskPasses(X)
    on_cluster.run(arrivals)
    passes.reduce(Counted(bytes(2000)))
    assert sorted(on_cluster.run(arrivals).values()) == [1, 1]


def test_a_function_of_rows_arrives_once_on_every_worker(on_cluster):
    V = map_rows(generated().persist(), Counted(bytes(2000)).rows, 4)
    on_cluster.run(arrivals)
    assert_array_equal(V.compute(), generated().compute() + 1)
    assert sorted(on_cluster.run(arrivals).values()) == [1, 1]


# Lazy results -------------------------------------------------------------------------------------


def first_columns(rows):
    return rows[:, :2]


def test_functions_of_rows(scheduler):
    Z = values(dtype=np.float16)
    X = da.from_array(Z, chunks=((300, 200), 4))
    V = map_rows(X, first_columns, 2)
    assert (V.shape, V.chunks, V.dtype) == ((500, 2), ((300, 200), (2,)), np.float32)
    assert type(V._meta) is np.ndarray and V._meta.dtype == np.float32
    found = V.compute()
    assert found.dtype == np.float32
    assert_array_equal(found, Z[:, :2].astype(np.float32))


def test_the_same_function_of_the_same_rows_has_the_same_name():
    X = generated()
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        names = [map_rows(generated(), first_columns, 2).name for _ in range(2)]
        others = {
            map_rows(X + 1, first_columns, 2).name,
            map_rows(X, np.negative, 4).name,
            map_rows(X, first_columns, 2, np.float32).name,
        }
    assert names[0] == names[1] and len({*names, *others}) == 4


# Losses -------------------------------------------------------------------------------------------


def test_a_worker_killed_in_the_middle_changes_nothing(on_cluster, tmp_path):
    passes = DaskPasses(generated())
    expected = passes.reduce(Sum())
    assert_array_equal(passes.reduce(Dies(250, str(tmp_path / "killed"))), expected)
    assert (tmp_path / "killed").exists()
    assert_array_equal(passes.reduce(Sum()), expected)


def test_a_worker_killed_with_data_and_work_that_it_was_sent(on_cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(_dask_cluster, "_MOST_IN_GRAPH", 1000)
    passes = DaskPasses(array())
    expected = passes.reduce(Sum())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A pass over the chunks of X was lost")  # perhaps
        found = passes.reduce(Dies(0, str(tmp_path / "killed"), bytes(2000)))
    assert_array_equal(found, expected)
    assert (tmp_path / "killed").exists()


def test_a_pass_that_dask_gives_up_is_done_again(
    on_cluster,
    cluster,  # noqa: F811
    monkeypatch,
    tmp_path,
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    passes = DaskPasses(generated())
    expected = passes.reduce(Sum())
    with pytest.warns(UserWarning, match=r"lost \(KilledWorker: .*\) and is done again"):
        assert_array_equal(passes.reduce(Dies(250, str(tmp_path / "killed"))), expected)


def test_passes_that_kill_all_workers_end(on_cluster, cluster, monkeypatch):  # noqa: F811
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    monkeypatch.setattr(_dask_cluster, "_ATTEMPTS", 2)
    message = "lost 2 times, the last time to KilledWorker: .* largest chunk of X has 25 rows"
    with (
        pytest.warns(UserWarning, match="is done again"),
        pytest.raises(RuntimeError, match=message),
    ):
        DaskPasses(generated()).reduce(AlwaysDies())


def held_by(client):  # noqa: F811
    from distributed import Future

    return [Future(key, client) for key in list(client.futures)]


def test_memories_that_are_taken_away_are_replaced(on_cluster):
    passes = DaskPasses(generated())
    assert passes.reduce(Visits())[0] == 20
    on_cluster.cancel(held_by(on_cluster), force=True)
    assert passes.reduce(Visits())[0] == 20


def test_persisted_chunks_that_are_lost_for_good(on_cluster):
    data = [on_cluster.scatter(values(25)) for _ in range(4)]
    X = da.concatenate([da.from_delayed(part, (25, 4), np.float64) for part in data])
    passes = DaskPasses(X)
    assert passes.reduce(Sum()).shape == (4,)
    on_cluster.cancel(data)
    with pytest.raises(ConnectionError, match="Chunk 0 of X was persisted, and is lost"):
        passes.reduce(Sum())


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("bad row"), KeyError("x")])
def test_errors_of_work_are_raised_as_they_are(error, scheduler):
    with pytest.raises(type(error), match=str(error)):
        DaskPasses(generated()).reduce(Fails(error))


def unreadable(block):
    raise FileNotFoundError("no such file: rows.npy")


def test_errors_of_reading_are_raised_as_they_are(scheduler):
    X = array().map_blocks(unreadable, meta=np.empty((0, 0)))
    for act in (lambda passes: passes.reduce(Sum()), lambda passes: passes.take([3])):
        with pytest.raises(FileNotFoundError, match="rows.npy"):
            act(DaskPasses(X))


@pytest.mark.parametrize(
    "function, found",
    [
        (lambda block: block[:-1], r"float64 in the shape \(24, 4\)"),
        (lambda block: block[:, :-1], r"float64 in the shape \(25, 3\)"),
        (lambda block: block.astype(complex), r"complex128 in the shape \(25, 4\)"),
        (lambda block: block.astype(object), r"object in the shape \(25, 4\)"),
    ],
)
def test_chunks_that_are_not_what_the_array_says(function, found):
    X = da.map_blocks(function, array(), meta=np.empty((0, 0)))
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(ValueError, match=r"Chunk \d+ of X .* shape \(25, 4\); .* " + found),
    ):
        DaskPasses(X).reduce(Sum())


# Clusters that are not there ----------------------------------------------------------------------


@pytest.fixture
def empty_cluster(monkeypatch):
    """A cluster in this process without workers, and no patience."""
    from distributed import LocalCluster

    monkeypatch.setattr(_dask_cluster, "_LOOK_EVERY", 0.1)
    with (
        dask.config.set({"semi_nmf_concepts.wait-for-workers": "500ms"}),
        LocalCluster(n_workers=0, processes=False, dashboard_address=DASHBOARD) as cluster,  # noqa: F811
    ):
        yield cluster


@pytest.fixture
def own_client(empty_cluster):
    from distributed import Client

    with (
        Client(empty_cluster, set_as_default=False) as client,  # noqa: F811
        client.as_current(),
    ):
        yield client


@pytest.mark.parametrize("limit", [2**23, 1000], ids=["in the graph", "by itself"])
def test_without_workers_it_waits_a_while(limit, own_client, monkeypatch):
    monkeypatch.setattr(_dask_cluster, "_MOST_IN_GRAPH", limit)
    with (
        pytest.warns(UserWarning, match="has no workers; waiting up to 0.5 s"),
        pytest.raises(TimeoutError, match=r"none came within 0\.5 s.*wait-for-workers"),
    ):
        DaskPasses(generated()).reduce(Counted(bytes(2000)))


@pytest.mark.filterwarnings("ignore:The Dask cluster at .* has no workers")
def test_no_method_waits_for_ever(own_client):
    model = SemiNMFConcepts(3, alpha=0.1)
    for method in (model.fit, model.partial_fit, model.fit(values()).score):
        with pytest.raises(TimeoutError, match="none came within"):
            method(generated())


def test_a_worker_that_comes_late(own_client, empty_cluster):
    expected = tree_sum(list(generated().map_blocks(column_sums).compute(scheduler="sync")))
    with (
        pytest.warns(UserWarning, match="has no workers"),
        dask.config.set({"semi_nmf_concepts.wait-for-workers": "60s"}),
    ):
        timer = threading.Timer(0.5, empty_cluster.scale, [1])
        timer.start()
        assert_array_equal(DaskPasses(generated()).reduce(Sum()), expected)
        timer.join()


def column_sums(block):
    return block.sum(axis=0, keepdims=True)


@pytest.mark.parametrize("what", ["client", "cluster"])
def test_closing_in_the_middle_is_an_error(what, own_client, empty_cluster):
    empty_cluster.scale(1)
    empty_cluster.wait_for_workers(1, timeout=60)
    passes = DaskPasses(generated())
    timer = threading.Timer(0.4, (own_client if what == "client" else empty_cluster).close)
    timer.start()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Dask cluster at .* has no workers")
        with pytest.raises(ConnectionError, match="No Dask scheduler can be reached at inproc://"):
            passes.reduce(Waits())
    timer.join()
    with pytest.raises(ConnectionError, match="the client is clos"):
        passes.reduce(Waits())
    passes.close()


def test_a_closed_client_is_an_error(own_client):
    own_client.close()
    with pytest.raises(ConnectionError, match="the client is closed"):
        DaskPasses(generated()).reduce(Sum())


def test_chunks_of_a_client_that_is_closed(own_client, empty_cluster, cluster):  # noqa: F811
    from distributed import Client

    empty_cluster.scale(1)
    passes = DaskPasses(generated().persist())
    own_client.close()
    with (
        dask.config.set(scheduler="threads"),
        pytest.raises(ConnectionError, match="persisted by a Dask client which is closed"),
    ):
        passes.reduce(Sum())
    with (
        Client(cluster, set_as_default=False) as other,
        other.as_current(),
        pytest.raises(ConnectionError, match="persisted with another Dask client"),
    ):
        passes.reduce(Sum())


def test_passes_within_tasks_do_not_lock_each_other_out(on_cluster):
    X = generated()
    found = [on_cluster.submit(nested_sum, X, pure=False) for _ in range(3)]
    for future in found:
        assert_array_equal(future.result(timeout=60), DaskPasses(X).reduce(Sum()))


# Checks -------------------------------------------------------------------------------------------


def unknown_lengths():
    X = array()
    return X[X[:, 0] > 0]


@pytest.mark.parametrize(
    "X, error, message",
    [
        (np.ones((3, 2)), TypeError, "X should be a dask array, got ndarray"),
        (da.ones(3, chunks=2), ValueError, r"two dimensions .*, its shape is \(3,\)"),
        (da.ones((3, 2, 2)), ValueError, r"two dimensions .*, its shape is \(3, 2, 2\)"),
        (da.ones((3, 2), dtype=complex), ValueError, "real numbers, its dtype is complex128"),
        (da.ones((3, 2), chunks=3, dtype=object), ValueError, "real numbers, its dtype is object"),
        (da.from_array(np.full((3, 2), "a")), ValueError, "real numbers, its dtype is <U1"),
        (da.zeros((3, 2), dtype="M8[s]"), ValueError, "real numbers, its dtype is datetime64"),
        (da.ones((0, 2)), ValueError, r"samples and features, its shape is \(0, 2\)"),
        (da.ones((3, 0)), ValueError, r"samples and features, its shape is \(3, 0\)"),
        (unknown_lengths(), ValueError, r"unknown lengths.*X\.compute_chunk_sizes\(\)"),
        (
            da.from_array(np.ones((5, 2)), chunks=((2, 0, 3), 2)),
            ValueError,
            r"Chunk 1 of X has no rows\. X\.rechunk\({0: 3}\)",
        ),
        (
            da.ones((4, 2), chunks=2).map_blocks(csr_array, meta=csr_array((0, 0))),
            TypeError,
            "chunks of X should be arrays of NumPy or CuPy, they are scipy.*csr_array",
        ),
    ],
    ids=str,
)
def test_bad_input(X, error, message):
    with pytest.raises(error, match=message):
        check_dask(X)


def test_columns_that_are_split():
    X = da.from_array(values(), chunks=(25, 3))
    with pytest.raises(ValueError, match="split over 2 chunks, and rechunk=False"):
        check_dask(X, rechunk=False)
    with pytest.warns(UserWarning, match="split over 2 chunks"):
        whole = check_dask(X, rechunk=True)
    assert whole.chunks == ((25,) * 20, (4,))
    assert_array_equal(DaskPasses(whole).reduce(Sum()), DaskPasses(array()).reduce(Sum()))


def test_what_is_right_is_left_alone():
    X = array()
    assert check_dask(X, rechunk=False) is X


def test_without_dask_arrays_dask_is_not_imported():
    code = "import sys, semi_nmf_concepts.decomposition._dask as d; d.is_dask_array(3); "
    code += "sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
