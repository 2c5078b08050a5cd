"""The simulator of passes: what must hold whatever the constants are."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _scaling, scaling_model
from benchmarks._scaling import (
    Fleet,
    Grid,
    Plan,
    Rates,
    Shape,
    Table,
    block_seconds,
    closed_form,
    fit_seconds,
    fits_memory,
    memory_per_process,
    row_seconds,
    simulate,
    survey_seconds,
)
from benchmarks._scaling_constants import coefficients_of


def constant(rate):
    return Grid({1024: Table(((20, rate),))})


RATES = Rates(
    read=1e9,
    disk_bytes=1e9,
    moments=2e9,
    products=constant(1e11),
    products64=constant(5e10),
    coding=(2e-7, 1e-9, 1e-10, 5e-8, 1e-9),
    active=constant(1e10),
    scan=1e-9,
    flush=constant(5e10),
    block=constant(1e10),
    client=constant(5e9),
    add_bytes=4e9,
    chunk=0.6e9,
    draw=1e8,
    task=1e-3,
    round=0.02,
    wire_bytes=5e8,
    wire_latency=2e-3,
)
FREE = replace(RATES, task=0.0, round=0.0, wire_bytes=np.inf, wire_latency=0.0, add_bytes=np.inf)
SHAPE = Shape(2**20, 1024, 100)
PLAN = Plan(block_rows=2**12, fan_in=2)


def dask(ranks, **options):
    return Fleet(dask=True, machines=ranks, cores=1, **options)


# The simulator ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fan_in", [2, 8])
@pytest.mark.parametrize("shared_gram", [False, True])
@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_like_processes_with_like_shares_take_what_the_formula_says(ranks, shared_gram, fan_in):
    plan = replace(PLAN, fan_in=fan_in, shared_gram=shared_gram)
    rates = replace(RATES, task=0.0)
    fleet = dask(ranks, network_bytes=1e9, efficiency=0.9)
    formula = closed_form(SHAPE, rates, fleet, plan)
    assert simulate(SHAPE, rates, fleet, plan).seconds == pytest.approx(formula, rel=1e-12)


@pytest.mark.parametrize(
    "fleet", [Fleet(), Fleet(cores=1), Fleet(threads=4, cores=5), Fleet(disk_bytes=1e8)]
)
def test_so_does_one_process_that_reads_ahead(fleet):
    formula = closed_form(SHAPE, RATES, fleet, PLAN)
    assert simulate(SHAPE, RATES, fleet, PLAN).seconds == pytest.approx(formula, rel=1e-12)


def test_reading_ahead_hides_the_quicker_of_reading_and_computing():
    result = simulate(SHAPE, RATES, Fleet(), PLAN)
    longer = max(result.reading, result.computing)
    assert longer < result.rows < 1.02 * longer
    on_one_core = simulate(SHAPE, RATES, Fleet(cores=1), PLAN).rows
    assert on_one_core == pytest.approx(result.reading + result.computing, rel=0.02)
    slow_disk = simulate(SHAPE, RATES, Fleet(disk_bytes=1e7), PLAN)
    assert slow_disk.rows == pytest.approx(SHAPE.bytes_read / 1e7, rel=0.01)


@pytest.mark.parametrize("n", [2**20, 2**20 + 1234, 5000])
def test_with_free_messages_more_workers_are_never_slower(n):
    seconds = [simulate(replace(SHAPE, n_samples=n), FREE, dask(ranks), PLAN).seconds
               for ranks in (1, 2, 3, 5, 8, 16, 100)]  # fmt: skip
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 1.5 * seconds[1] or n == 5000


def test_messages_make_many_workers_slower_than_few():
    slow = replace(FREE, wire_bytes=1e6)
    assert simulate(SHAPE, slow, dask(64), PLAN).seconds > simulate(SHAPE, slow, dask(4), PLAN).rows


@pytest.mark.parametrize("fleet", [Fleet(), dask(1), dask(6)])
@pytest.mark.parametrize("name", ["n_samples", "n_features", "n_components", "n_active"])
def test_more_to_do_takes_longer(fleet, name):
    sizes = [getattr(SHAPE, name) * factor for factor in (1, 1.5, 2, 4)]
    seconds = [
        simulate(replace(SHAPE, **{name: size}), RATES, fleet, PLAN).seconds for size in sizes
    ]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


@pytest.mark.parametrize("n", [2**20, 2**20 + 77, 10])
@pytest.mark.parametrize("fleet", [Fleet(), dask(1), dask(7)])
def test_every_byte_is_read_once_and_every_row_computed_once(fleet, n):
    shape = replace(SHAPE, n_samples=n)
    result = simulate(shape, RATES, fleet, PLAN)
    parts = row_seconds(shape, RATES, fleet.dask)
    assert result.bytes_read == n * 1024 * 2
    rate = RATES.chunk if fleet.dask else RATES.read
    assert result.reading * rate == pytest.approx(n * 1024)
    assert result.n_blocks == -(-n // PLAN.block_rows)
    of_rows = n * (parts["product"] + parts["coding"] + parts["sums"])
    of_blocks = result.n_blocks * block_seconds(shape, RATES)
    assert result.computing == pytest.approx(of_rows + of_blocks)


@pytest.mark.parametrize("fan_in", [2, 3, 8])
@pytest.mark.parametrize("ranks", [1, 2, 13])
def test_every_process_is_told_once_and_tells_once(ranks, fan_in):
    result = simulate(SHAPE, RATES, dask(ranks), replace(PLAN, fan_in=fan_in))
    sums, dictionary = 8 * (100**2 + 100 * 1024), 8 * 100 * 1024
    assert result.bytes_sent == ranks * (sums + dictionary)
    assert simulate(SHAPE, RATES, Fleet(), PLAN).bytes_sent == 0


def test_the_scheduler_can_be_what_takes_longest():
    result = simulate(SHAPE, replace(RATES, task=1.0), dask(64), PLAN)
    assert result.n_blocks - 1 < result.rows < result.n_blocks + 10


def test_a_straggler_holds_up_everybody_but_not_more_than_its_own_work():
    fair = simulate(SHAPE, RATES, dask(4), PLAN)
    slow = simulate(SHAPE, RATES, dask(4), PLAN, speeds=[1.0, 1.0, 0.5, 1.0])
    assert slow.rows == pytest.approx(2 * fair.rows, rel=0.05)
    assert slow.seconds < 2 * fair.seconds
    quick = simulate(SHAPE, RATES, dask(4), PLAN, speeds=[2.0] * 4)
    assert quick.rows < fair.rows


def test_many_blocks_as_one_event_take_as_long(monkeypatch):
    shape, fleet = replace(SHAPE, n_samples=1000 * 2**12 + 5), dask(6)
    one_by_one = [simulate(shape, RATES, f, PLAN) for f in (fleet, Fleet())]
    monkeypatch.setattr(_scaling, "_MAX_EVENTS", 30)
    for exact, f in zip(one_by_one, (fleet, Fleet()), strict=True):
        grouped = simulate(shape, RATES, f, PLAN)
        assert grouped.n_blocks == exact.n_blocks
        assert grouped.seconds == pytest.approx(exact.seconds, rel=0.15)


def test_several_processes_need_dask():
    with pytest.raises(ValueError, match="2 machines with 3 processes need dask=True"):
        Fleet(machines=2, processes=3)


# What things cost ---------------------------------------------------------------------------------


def test_operations_are_those_of_the_algorithm():
    n, d, K, m = 7, 11, 20, 3
    shape = Shape(n, d, K, m)
    product, sums = 2 * n * d * K, 2 * n * (m * d + m * m)
    # From zero: the gradient over 0, 1, 2 and 3 active atoms, and the correlations each time.
    assert shape.flops == product + sums + 2 * n * K * (1 + 2 + 3 + 4)
    assert replace(shape, warm=True).flops == product + sums + 2 * n * K * 4
    dense = replace(shape, n_active=15, warm=True)
    assert dense.flops == product + 2 * n * (K * d + K * K) + 2 * n * K * 16


def test_codes_of_the_last_pass_save_time_and_take_memory():
    warm = replace(SHAPE, warm=True)
    assert row_seconds(warm, RATES)["coding"] < row_seconds(SHAPE, RATES)["coding"]
    fleet = dask(4)
    kept = memory_per_process(warm, fleet, PLAN)["codes"]
    kept -= memory_per_process(SHAPE, fleet, PLAN)["codes"]
    assert kept == 4 * SHAPE.n_samples * 100 / 4


def test_memory_does_not_grow_with_the_rows_without_kept_codes():
    need = [memory_per_process(replace(SHAPE, n_samples=n), Fleet(), PLAN) for n in (1e6, 1e12)]
    assert need[0] == need[1]
    total = sum(need[0].values())
    assert fits_memory(SHAPE, Fleet(memory_bytes=1.3 * total), PLAN)
    assert not fits_memory(SHAPE, Fleet(memory_bytes=1.2 * total), PLAN)


def test_a_fit_is_more_than_its_passes_and_a_look_less_than_a_pass():
    fleet = dask(4)
    one = simulate(SHAPE, RATES, fleet, PLAN).seconds
    assert 10 * one < fit_seconds(SHAPE, RATES, fleet, PLAN, n_passes=10) < 14 * one
    assert 0 < survey_seconds(SHAPE, RATES, fleet, PLAN) < one


def test_tables_go_through_their_points_and_are_constant_beyond():
    table = Table(((10, 1.0), (1000, 100.0)))
    assert [table(size) for size in (1, 10, 100, 1000, 1e9)] == pytest.approx(
        [1.0, 1.0, 10.0, 100.0, 100.0]
    )
    grid = Grid({100: table, 10_000: Table(((10, 4.0),))})
    assert [grid(d, 10) for d in (1, 100, 1000, 10_000, 1e6)] == pytest.approx([1, 1, 2, 4, 4])


# What is measured, and told -----------------------------------------------------------------------


def test_coefficients_are_found_again_and_never_negative():
    rng = np.random.default_rng(0)
    rows = rng.random((12, 3)) * [1.0, 1e3, 1e6]
    assert coefficients_of(rows, rows @ [1e-3, 0.0, 1e-9]) == pytest.approx(
        (1e-3, 0.0, 1e-9), abs=1e-12
    )
    assert min(coefficients_of(rows, rows @ [1e-3, -1e-7, 1e-9])) >= 0.0


def test_the_answer_names_what_limits_and_what_does_not_fit(capsys, monkeypatch):
    monkeypatch.setattr(_scaling, "_MAX_EVENTS", 100)
    scaling_model.tables(RATES)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("1e+12 rows, K = 30000")]
    assert len(rows) == 2
    assert rows[0].split("30000")[1].split()[:3] == ["-", "-", "-"]  # not on workers of 16 GB
    assert any("K = 20, 256 nodes" in line and "the disk" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.012, "0.012 s"), (89, "89 s"), (90, "1.5 min"), (86400, "24 h"), (5e9, "158 years")],
)
def test_durations_in_words(seconds, expected):
    assert scaling_model.words(seconds) == expected


def test_predictions_that_are_off_are_told(capsys):
    assert scaling_model.compare("near", 1.0, 1.2) == 0
    assert scaling_model.compare("far", 1.0, 1.3) == 1
    assert scaling_model.compare("far", 1.0, 0.7) == 1
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["ok  ", "MISS", "MISS"]
