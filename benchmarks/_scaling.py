"""What a pass over the rows costs, and how long it takes on many processes: a small simulator.

`Shape` says what is to be done, `Rates` how fast one core does the parts of it (measured by
`benchmarks._scaling_constants`), `Fleet` what there is to do it with, `Plan` how it is cut.
`simulate` follows one batch iteration through its four phases

    send the dictionary  ->  code blocks of rows, add up A and B  ->  reduce  ->  new dictionary

block by block: without Dask in one process that reads the next block while it computes with one;
with Dask on a scheduler that sends one task after the other, processes that do one task at a time,
and links that carry one message at a time. It knows sizes and seconds alone and computes no codes.
Units: seconds, bytes, rows, floating-point operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import ceil, exp, inf, log

#: Bytes of a number. On disk all is float16.
FLOAT16, FLOAT32, FLOAT64 = 2, 4, 8
#: What the CPU backend takes at a time: so many entries of X within these bounds of rows.
_KERNEL_ENTRIES, _KERNEL_MIN_ROWS, _KERNEL_MAX_ROWS = 2**19, 64, 512
#: Sums visit active codes alone where at most this share of them is active.
_SPARSE_SHARE = 0.4
#: Bytes moved for each entry of B when a kernel block's part is set to zero, and later added.
FLUSH_BYTES = 2 * FLOAT32 + 2 * FLOAT64
#: Of more blocks, several that follow each other on a process count as one event.
_MAX_EVENTS = 10_000


@dataclass(frozen=True)
class Shape:
    """One pass: how many rows, how wide, on how many atoms."""

    n_samples: float
    n_features: int
    n_components: int
    n_active: float = 4.0  # mean number of positive codes of a sample
    warm: bool = False  # codes start from those of the last pass, not from zero

    @property
    def dictionary_size(self):
        """Numbers in U, as in B."""
        return self.n_components * self.n_features

    @property
    def bytes_read(self):
        """By all processes together."""
        return FLOAT16 * self.n_samples * self.n_features

    @property
    def sums_bytes(self):
        """A and B in float64: what is to be said of any number of rows."""
        return FLOAT64 * (self.n_components**2 + self.dictionary_size)

    @property
    def dictionary_bytes(self):
        """U in float64, which every process has to know."""
        return FLOAT64 * self.dictionary_size

    @property
    def codes_bytes(self):
        """Codes of all samples, dense float32."""
        return FLOAT32 * self.n_samples * self.n_components

    @property
    def is_sparse(self):
        """Whether sums visit active codes alone."""
        return self.n_active <= _SPARSE_SHARE * self.n_components

    @property
    def steps(self):
        """Gradients that the coding of a sample computes, each after a step to a minimum.

        From the last codes the active set is (nearly) right, and one gradient shows it. From zero
        there is one more for each atom that enters.
        """
        return 1 if self.warm else self.n_active + 1

    @property
    def gradients(self):
        """Rows of the Gram matrix, K numbers each, that go into them: active atoms, and one."""
        m = self.n_active
        return m + 1 if self.warm else (m + 1) * (m + 2) / 2

    @property
    def flops(self):
        """Floating-point operations on the rows."""
        d, K, m = self.n_features, self.n_components, self.n_active
        sums = 2 * m * d + 2 * m**2 if self.is_sparse else 2 * K * d + 2 * K**2
        return self.n_samples * (2 * d * K + 2 * K * self.gradients + sums)


@dataclass(frozen=True)
class Table:
    """Rates at several sizes; in between interpolated in logarithms, constant beyond the ends."""

    points: tuple  # of (size, rate), sizes rising

    def __call__(self, size):
        (smallest, rate), *others = self.points
        if size <= smallest:
            return rate
        for next_size, next_rate in others:
            if size <= next_size:
                share = log(size / smallest) / log(next_size / smallest)
                return exp((1 - share) * log(rate) + share * log(next_rate))
            smallest, rate = next_size, next_rate
        return rate


@dataclass(frozen=True)
class Grid:
    """Rates by the number of features and of atoms, interpolated likewise."""

    tables: dict  # n_features -> Table over n_components

    def __call__(self, n_features, n_components):
        points = tuple((d, table(n_components)) for d, table in sorted(self.tables.items()))
        return Table(points)(n_features)


@dataclass(frozen=True)
class Rates:
    """How fast one core is, and what talking costs: all that is measured."""

    read: float  # numbers per second, from the page cache to rows in float32
    disk_bytes: float  # per second, from the disk to the page cache
    moments: float  # numbers per second: column sums and row norms
    products: Grid  # flops per second: X U^T in float32
    products64: Grid  # flops per second: U U^T in float64
    coding: tuple  # seconds per sample, for each of `coding_counts`
    active: Grid  # numbers per second: rows added to B, for each active code
    scan: float  # seconds per code: looked through for positive ones
    flush: Grid  # bytes per second: B of a kernel block added to that of the block
    block: Grid  # K^2 d per second: what a block costs whatever its rows, U U^T first of all
    client: Grid  # K^2 d per second: an iteration of the client
    add_bytes: float  # per second: A and B of some rows added to those of others
    chunk: float  # as `read`, for the chunks of a Dask array
    draw: float  # rows per second: the client draws a sample of them
    task: float = 0.0  # seconds of Dask per block
    round: float = 0.0  # seconds from asking for a round with nothing to do to its end
    wire_bytes: float = inf  # per second, one message between two processes
    wire_latency: float = 0.0  # seconds per message
    beside: float = 1.0  # speed of a process beside a second one, as a share of that alone


@dataclass(frozen=True)
class Fleet:
    """Machines, and processes on them. Without Dask: one process, which reads ahead."""

    dask: bool = False
    machines: int = 1
    processes: int = 1  # on each machine
    threads: int = 1  # that compute, in each process
    cores: float = 2  # for each process
    disk_bytes: float = inf  # per second and machine; inf: all is in the page cache
    network_bytes: float = inf  # per second, between two machines
    memory_bytes: float = inf  # of a machine
    memory_rate: float = inf  # bytes per second between a machine's memory and its processors
    client_cores: float = 1
    efficiency: float = 1.0  # speed of a core when all are busy, as a share of that of one alone

    def __post_init__(self):
        if self.machines * self.processes > 1 and not self.dask:
            raise ValueError(
                f"{self.machines} machines with {self.processes} processes need dask=True"
            )

    @property
    def ranks(self):
        """Processes in all."""
        return self.machines * self.processes


@dataclass(frozen=True)
class Plan:
    """How a pass is cut."""

    block_rows: int = 4096  # with Dask the rows of a chunk
    fan_in: int = 8  # partial sums joined at a time
    shared_gram: bool = False  # whether U U^T is computed once for all blocks of a process
    shared_sums: bool = False  # whether the threads of a process add to one A and B


@dataclass(frozen=True)
class Pass:
    """One batch iteration, as simulated."""

    seconds: float
    send: float  # seconds of the phases, one after the other
    rows: float
    reduce: float
    update: float
    reading: float  # seconds of all processes together
    computing: float
    bytes_read: float
    bytes_sent: float  # between processes
    flops: float
    n_blocks: int


# --- what things cost -----------------------------------------------------------------------------


def kernel_rows(n_features):
    """Rows whose codes and sums are computed while they are in the processor's cache."""
    return min(max(_KERNEL_ENTRIES // max(n_features, 1), _KERNEL_MIN_ROWS), _KERNEL_MAX_ROWS)


def coding_counts(shape):
    """What the coding of a sample does so many times: itself, atoms, rows of G, steps, pairs."""
    K, m = shape.n_components, shape.n_active
    return 1, K, K * shape.gradients, shape.steps, shape.steps * m**2


def row_seconds(shape, rates, dask=False):
    """Seconds of one core for each row, part by part."""
    d, K, m = shape.n_features, shape.n_components, shape.n_active
    product = 2 * d * K / rates.products(d, K)
    coding = sum(t * n for t, n in zip(rates.coding, coding_counts(shape), strict=True))
    if shape.is_sparse:
        flush = FLUSH_BYTES * K * d / rates.flush(d, K) / kernel_rows(d)
        sums = m * d / rates.active(d, K) + rates.scan * K + flush
    else:
        sums = product + 2 * K**2 / rates.products64(d, K)
    read = rates.chunk if dask else rates.read
    return {"read": d / read, "product": product, "coding": coding, "sums": sums}


def row_traffic(shape):
    """Bytes to and from memory for each row, where dictionary and sums are too large for caches."""
    d, K = shape.n_features, shape.n_components
    flush = FLUSH_BYTES * K * d / kernel_rows(d) if shape.is_sparse else 0.0
    gram = FLOAT32 * K * shape.n_active
    return d * (FLOAT16 + 2 * FLOAT32) + flush + gram


def gram_seconds(shape, rates):
    """Seconds of U U^T in float64."""
    return 2 * _squares(shape) / rates.products64(shape.n_features, shape.n_components)


def block_seconds(shape, rates, shared_gram=False):
    """Seconds of one core for each block, whatever its rows.

    U in the precision and order of the products, U U^T, and the block's A and B added to the sum.
    """
    seconds = _squares(shape) / rates.block(shape.n_features, shape.n_components)
    return max(seconds - gram_seconds(shape, rates), 0.0) if shared_gram else seconds


def update_seconds(shape, rates, cores=1):
    """Seconds of the client between two rounds: the new dictionary, and the objective."""
    return _squares(shape) / (rates.client(shape.n_features, shape.n_components) * cores)


def _squares(shape):
    """K^2 d, by which everything grows that is done with dictionaries alone."""
    return shape.n_components**2 * shape.n_features


def memory_per_process(shape, fleet, plan):
    """Bytes that a process holds, by what they are for, without the page cache."""
    d, K = shape.n_features, shape.n_components
    rows = min(plan.block_rows, shape.n_samples)
    # Dask holds a chunk as it came and in float32; without it the next block is read meanwhile.
    row_bytes = d * (FLOAT32 + (FLOAT16 if fleet.dask else FLOAT32))
    kept = shape.codes_bytes / fleet.ranks if shape.warm else 0.0
    n_sums = 1 if plan.shared_sums else fleet.threads
    return {
        "rows": rows * row_bytes,
        "codes": rows * K * FLOAT32 + kept,
        "dictionary": K * d * (FLOAT64 + FLOAT32) + K**2 * (FLOAT64 + FLOAT32),
        "sums": n_sums * (shape.sums_bytes + K * d * FLOAT32) + shape.sums_bytes,
        "reduction": plan.fan_in * shape.sums_bytes if fleet.dask else 0,
    }


# --- the simulator --------------------------------------------------------------------------------


def simulate(shape, rates, fleet, plan=None, speeds=None):
    """One batch iteration.

    Parameters
    ----------
    shape : Shape
    rates : Rates
    fleet : Fleet
    plan : Plan, optional
    speeds : sequence of float, optional
        Of every process, as a share of the usual speed: below 1 for stragglers.

    Returns
    -------
    Pass
    """
    plan = plan or Plan()
    speeds = speeds or [1.0] * fleet.ranks
    scheduler = _Scheduler(rates.task)
    ready = _send(shape, rates, fleet)
    sent = max(ready)
    run = _run_tasks if fleet.dask else _run_stream
    n_blocks, reading, computing = run(shape, rates, fleet, plan, speeds, ready, scheduler)
    coded = max(ready)
    reduced, n_messages = coded, 0
    if fleet.dask:
        n_messages = _reduce(shape, rates, fleet, plan, speeds, ready, scheduler)
        reduced = ready[0]
    update = update_seconds(shape, rates, fleet.client_cores)
    return Pass(
        seconds=reduced + update,
        send=sent,
        rows=coded - sent,
        reduce=reduced - coded,
        update=update,
        reading=reading,
        computing=computing,
        bytes_read=shape.bytes_read,
        bytes_sent=n_messages * shape.sums_bytes + _n_told(fleet) * shape.dictionary_bytes,
        flops=shape.flops,
        n_blocks=n_blocks,
    )


def closed_form(shape, rates, fleet, plan=None):
    """Seconds of an iteration where every process gets equally many whole blocks.

    With a scheduler that takes no time and processes that are alike this is what `simulate` says.
    """
    plan = plan or Plan()
    read, compute = _block_times(shape, rates, fleet, plan, plan.block_rows)
    n_blocks = shape.n_samples / plan.block_rows / fleet.ranks
    update = update_seconds(shape, rates, fleet.client_cores)
    gram = _shared_gram(shape, rates, fleet, plan)
    if not fleet.dask:
        return gram + read + (n_blocks - 1) * max(read, compute) + compute + update
    levels = 0
    while plan.fan_in**levels < fleet.ranks:
        levels += 1
    crosses = fleet.machines > 1
    hops = fleet.ranks.bit_length()
    message = _message(rates, fleet, crosses, shape.sums_bytes)
    join = (plan.fan_in - 1) * (message + _add_seconds(shape, rates, fleet))
    return (
        rates.round
        + hops * _message(rates, fleet, crosses, shape.dictionary_bytes)
        + gram
        + n_blocks * (read + compute)
        + levels * join
        + message
        + update
    )


class _Scheduler:
    """Sends one task after the other; each takes it a while."""

    def __init__(self, seconds):
        self.seconds, self.free = seconds, 0.0

    def send(self, ready):
        """When a task that can be sent from `ready` on is with its process."""
        self.free = max(self.free, ready) + self.seconds
        return self.free


def _send(shape, rates, fleet):
    """When each process has the dictionary: who has it passes it on, to one at a time."""
    if not fleet.dask:
        return [0.0]
    hop = _message(rates, fleet, fleet.machines > 1, shape.dictionary_bytes)
    # From the client to process 0; then the client and 0 tell 1 and 2; then all four 3 to 6.
    return [rates.round + (rank + 1).bit_length() * hop for rank in range(fleet.ranks)]


def _n_told(fleet):
    """Messages with the dictionary."""
    return fleet.ranks if fleet.dask else 0


def _message(rates, fleet, crosses, n_bytes):
    """Seconds of a message; what packing takes bounds it on any network."""
    bandwidth = min(rates.wire_bytes, fleet.network_bytes) if crosses else rates.wire_bytes
    return rates.wire_latency + n_bytes / bandwidth


def _add_seconds(shape, rates, fleet):
    """Seconds to add A and B of one process to those of another."""
    return shape.sums_bytes / (rates.add_bytes * fleet.efficiency)


def _block_times(shape, rates, fleet, plan, rows):
    """Seconds of a process to read a block, and to compute with it, side by side if it does so."""
    parts = row_seconds(shape, rates, fleet.dask)
    cpu = rows * parts.pop("read") / fleet.efficiency
    disk = rows * shape.n_features * FLOAT16 * fleet.processes / fleet.disk_bytes
    read = max(disk, cpu)  # the system reads ahead of the reader
    work = rows * sum(parts.values()) / fleet.efficiency
    memory = rows * row_traffic(shape) * fleet.processes / fleet.memory_rate
    fixed = block_seconds(shape, rates, plan.shared_gram) / fleet.efficiency  # on one thread
    compute = max(work / fleet.threads, memory) + fixed
    if not fleet.dask:  # the cores may not suffice for both
        shortage = (cpu + work + fixed) / fleet.cores / max(read, compute)
        read, compute = read * max(1.0, shortage), compute * max(1.0, shortage)
    return read, compute


def _shared_gram(shape, rates, fleet, plan):
    """Seconds of a process before its first block."""
    seconds = gram_seconds(shape, rates) / (fleet.efficiency * fleet.threads)
    return seconds if plan.shared_gram else 0.0


def _blocks(shape, plan, ranks):
    """(number of blocks, rows of each), together all rows; several events where there are many."""
    n_whole, rest = divmod(shape.n_samples, plan.block_rows)
    group = max(1, ceil(n_whole / max(_MAX_EVENTS, ranks)))
    n_groups, n_more = divmod(int(n_whole), group)
    yield from [(group, plan.block_rows)] * n_groups
    if n_more:
        yield n_more, plan.block_rows
    if rest:
        yield 1, rest


def _run_stream(shape, rates, fleet, plan, speeds, ready, scheduler):
    """One process reads the next block while it computes with one. Two buffers take turns."""
    n_blocks = reading = computing = 0
    read_at = compute_at = before = _shared_gram(shape, rates, fleet, plan) / speeds[0]
    times = cache(lambda rows: _block_times(shape, rates, fleet, plan, rows))
    for n, rows in _blocks(shape, plan, 1):
        read, compute = (seconds / speeds[0] for seconds in times(rows))
        # Within a group of like blocks reading and computing go on side by side.
        read_at = max(read_at, before) + read
        before = compute_at
        begun = max(read_at, compute_at)
        compute_at = begun + (n - 1) * max(read, compute) + compute
        read_at += (n - 1) * max(read, compute)
        n_blocks, reading, computing = n_blocks + n, reading + n * read, computing + n * compute
    ready[0] = compute_at
    return n_blocks, reading, computing


def _run_tasks(shape, rates, fleet, plan, speeds, ready, scheduler):
    """A task for each block, in turn for one process after the other, which read and compute."""
    n_blocks = reading = computing = 0
    begun = min(ready)
    gram = _shared_gram(shape, rates, fleet, plan)
    ready[:] = [at + gram / speed for at, speed in zip(ready, speeds, strict=True)]
    times = cache(lambda rows: _block_times(shape, rates, fleet, plan, rows))
    for index, (n, rows) in enumerate(_blocks(shape, plan, fleet.ranks)):
        rank = index % fleet.ranks
        read, compute = (seconds / speeds[rank] for seconds in times(rows))
        if rank == 0:
            turn = max(begun, scheduler.free)
        first = turn + (rank + 1) * scheduler.seconds
        last = first + (n - 1) * fleet.ranks * scheduler.seconds
        ready[rank] = max(max(ready[rank], first) + n * (read + compute), last + read + compute)
        scheduler.free = max(scheduler.free, last)
        n_blocks, reading, computing = n_blocks + n, reading + n * read, computing + n * compute
    return n_blocks, reading, computing


def _reduce(shape, rates, fleet, plan, speeds, ready, scheduler):
    """Sums of the processes joined, `fan_in` at a time, in process 0, and told to the client.

    Neighbours come first: those on one machine, so that in the end one process of each machine
    sends over the network. Returns the number of messages.
    """
    n_messages, stride = 1, 1
    while stride < fleet.ranks:
        crosses = fleet.machines > 1 and stride * plan.fan_in > fleet.processes
        step = _message(rates, fleet, crosses, shape.sums_bytes) + _add_seconds(shape, rates, fleet)
        for first in range(0, fleet.ranks, stride * plan.fan_in):
            others = range(first + stride, min(first + stride * plan.fan_in, fleet.ranks), stride)
            if not others:
                continue
            start = scheduler.send(max(ready[rank] for rank in (first, *others)))
            ready[first] = start + len(others) * step / speeds[first]
            n_messages += len(others)
        stride *= plan.fan_in
    ready[0] += _message(rates, fleet, fleet.machines > 1, shape.sums_bytes)
    return n_messages


# --- a whole fit ----------------------------------------------------------------------------------


def fit_seconds(shape, rates, fleet, plan=None, n_passes=30):
    """Seconds of a fit, without that of the sample in memory, which does not depend on n.

    A look at all rows (sums, norms); the draw of the sample; batch iterations; and a pass for the
    exact codes, which start from zero.
    """
    plan = plan or Plan()
    iteration = simulate(shape, rates, fleet, plan).seconds
    last = simulate(replace(shape, warm=False), rates, fleet, plan)
    look = survey_seconds(shape, rates, fleet, plan)
    draw = shape.n_samples / rates.draw
    return look + draw + n_passes * iteration + last.seconds - last.update


def survey_seconds(shape, rates, fleet, plan):
    """Seconds of the first look at all rows."""
    free = Grid({1: Table(((1, inf),))})
    look = replace(
        rates,
        products=free,
        coding=(shape.n_features / rates.moments, 0.0, 0.0, 0.0, 0.0),
        block=free,
        client=free,
    )
    tiny = replace(shape, n_components=1, n_active=0.0)
    return simulate(tiny, look, fleet, plan).seconds


def fits_memory(shape, fleet, plan):
    """Whether the processes of a machine hold what they need, a fifth of its memory left over."""
    need = sum(memory_per_process(shape, fleet, plan).values()) * fleet.processes
    return need <= 0.8 * fleet.memory_bytes
