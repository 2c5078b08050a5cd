"""Extraction of states: exact for every family, fast, bounded in memory, safe to kill?

    python -m benchmarks.extraction [--quick] [--write] [--only PART ...]

Parts, each with its bar (exit status 1 if one is missed):

families   Z against a reference computed one image at a time by teacher forcing, and a batch of 8
           (other image sizes, other prompt lengths) against one at a time, on tiny random models of
           every family: `semi_nmf_concepts.testing.check_lmm`. Families whose processor needs
           torchvision are left out, and named, where it cannot be imported.
speed      images per second against the published procedure (one image at a time, every position of
           the hooked layer copied to the CPU, 50 new tokens), same model, alternating in one run,
           medians of the rounds.
memory     peak of the anonymous resident memory, 20,000 images streamed to a folder against 2,000.
kill       SIGKILL at random moments, then the same call again: same files, byte by byte?
gpu        speed with the shape of LLaVA-1.5-7B and random weights, bfloat16.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.base import clone

from benchmarks._extraction_models import (
    MAX_NEW_TOKENS,
    WORD,
    PublishedProcedure,
    common_words,
    describe,
    photographs,
    random_llava,
    scene_files,
    temporary_folder,
)
from benchmarks._memory import PeakAnonymous
from benchmarks._record import run_parts, verdict

EXACT = 1e-4
SPEED = {"bundled": 5.0, "llava-12x768": 2.5, "llava-1.5-7b": 10.0}
MEMORY = 1.10
PUBLISHED = "published procedure, always 50 new tokens"
TOKEN = "extract, stop='token'"


# --- families -------------------------------------------------------------------------------------


def families(options):
    """Every family through `check_lmm`."""
    if importlib.util.find_spec("torchvision") is not None:
        from tests import _torchvision_operators

        _torchvision_operators.pytest_configure()
    from semi_nmf_concepts.testing import check_lmm
    from tests._families import FAMILIES

    missed, left_out = 0, []
    for name, family in FAMILIES.items():
        if family.needs_torchvision and importlib.util.find_spec("torchvision") is None:
            left_out.append(name)
            continue
        with temporary_folder() as folder:
            family.build(Path(folder))
            result = check_lmm(folder, raise_on_failure=False, tolerance=EXACT)
        missed += not result.passed
        print(f"{verdict(result.passed)} {name:24} {family_line(result)}")
        for failure in result.failures:
            print(f"     {failure}")
    if left_out:
        print(f"not run, because their processors need torchvision: {', '.join(left_out)}")
    return missed


def family_line(result):
    """Largest errors of one family."""
    worst = max(result.figures.values())
    return f"largest relative error {worst:.1e} over {len(result.figures)} comparisons"


# --- speed ----------------------------------------------------------------------------------------


def speed(options):
    """Both models of the CPU."""
    import torch

    print(f"{torch.get_num_threads()} threads")
    missed = 0
    with temporary_folder() as folder:
        paths = scene_files(folder, 64 if options.quick else 512)
        missed += compare("bundled", "bundled", paths, n_slow=8 if options.quick else 24)
    with temporary_folder() as folder:
        model = random_llava(Path(folder, "model"), "llava-12x768")
        paths = photographs(folder, 16 if options.quick else 64)
        n_slow = 2 if options.quick else 8
        missed += compare("llava-12x768", str(model), paths, n_slow=n_slow)
    return missed


def gpu(options):
    """The shape of the 7B model."""
    import torch

    if not torch.cuda.is_available():
        print("not measured: no CUDA device")
        return 0
    with temporary_folder() as folder:
        model = random_llava(Path(folder, "model"), "llava-1.5-7b", dtype="bfloat16", device="cuda")
        torch.cuda.empty_cache()
        paths = photographs(folder, 128 if options.quick else 256)
        n_slow = 4 if options.quick else 8
        large = {"dtype": "bfloat16", "batch_size": 64}
        return compare("llava-1.5-7b", str(model), paths, n_slow=n_slow, **large)


def compare(name, model, paths, *, n_slow, dtype="auto", batch_size=32, rounds=3):
    """Images per second of both; 1 if the bar is missed."""
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer

    featurizer = LMMTokenFeaturizer(
        model,
        token=WORD,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=batch_size,
        dtype=dtype,
        prompt="" if name == "bundled" else None,
    )
    reps = featurizer.extract(paths[:batch_size], on_empty="keep")  # also warms up
    if name != "bundled":
        token, *forms = common_words(reps.all_captions)
        featurizer.set_params(token=token, forms=forms)
        reps = featurizer.extract(paths[:batch_size])
    rates = measure(featurizer, reps, paths, n_slow, rounds)
    middle = {what: statistics.median(values) for what, values in rates.items()}
    ratio = middle[TOKEN] / middle[PUBLISHED]
    ok = ratio >= SPEED[name]
    print(f"\n{name}" + ("" if name == "bundled" else f" ({describe(name)}; random weights)"))
    word = " or ".join(repr(form) for form in reps.provenance["forms"])
    print(
        f"{len(paths)} files, the published procedure ran {n_slow}; batches of {batch_size}; "
        f"{rounds} rounds; {word} in {len(reps)} of the first {len(reps.missing)} captions, as "
        f"token {np.median(reps.positions) + 1:.0f} (median)"
    )
    print(f"{verdict(ok)} {ratio:6.1f}x the published procedure (bar {SPEED[name]:.1f}x)")
    for what, values in rates.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"     {middle[what]:8.2f} images/s ({spread})  {what}")
    return int(not ok)


def measure(featurizer, reps, paths, n_slow, rounds):
    """Images per second, by what is done; alternating."""
    loaded, prompt = featurizer.handle.loaded, reps.provenance["prompt"]
    ways = {
        PUBLISHED: PublishedProcedure(loaded, reps.module, prompt),
        "the same, but captions may end": PublishedProcedure(loaded, reps.module, prompt, True),
        "extract, whole captions of up to 50 tokens": clone(featurizer).extract,
        TOKEN: clone(featurizer).set_params(stop="token").extract,
    }
    rates = {what: [] for what in ways}
    for _ in range(rounds):
        for what, way in ways.items():
            slow = isinstance(way, PublishedProcedure)
            rates[what].append(rate(way, paths[:n_slow] if slow else paths))
    return rates


def rate(function, paths):
    """Images per second."""
    started = time.perf_counter()
    function(paths)
    return len(paths) / (time.perf_counter() - started)


# --- memory ---------------------------------------------------------------------------------------


def memory(options):
    """Peaks of two runs, each in a process of its own."""
    small, large = (200, 1_000) if options.quick else (2_000, 20_000)
    if not Path("/proc/self/status").exists():
        print("not measured: the system does not tell the anonymous resident memory")
        return 0
    with temporary_folder() as folder:
        images = Path(folder, "images")
        images.mkdir()
        scene_files(images, small)
        peaks = {}
        for n in (small, large):
            command = [sys.executable, "-m", "benchmarks.extraction", "--stream", folder, str(n)]
            peaks[n] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    ratio = peaks[large]["peak"] / peaks[small]["peak"]
    for n, result in peaks.items():
        print(
            f"     {n:6,} images: {result['peak'] / 2**20:.0f} MiB at most, "
            f"{result['kept']:,} kept, {result['seconds']:.0f} s"
        )
    ok = ratio <= MEMORY
    print(
        f"{verdict(ok)} {ratio:.3f} times the memory for {large:,} images streamed instead of "
        f"{small:,} (bar {MEMORY:.2f}); {small:,} files, each given {large // small} times"
    )
    return int(not ok)


def stream(folder, n):
    """One run of the memory part; prints the peak as JSON."""
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer

    files = sorted(Path(folder, "images").iterdir())
    paths = (files * -(-n // len(files)))[:n]
    started = time.perf_counter()
    with PeakAnonymous() as memory:
        reps = LMMTokenFeaturizer(token="dog", stop="token").extract(
            paths, out=Path(folder, f"out-{n}")
        )
    seconds = time.perf_counter() - started
    print(json.dumps({"peak": memory.peak, "kept": len(reps), "seconds": seconds}))


# --- kill -----------------------------------------------------------------------------------------


def kill(options):
    """Runs in child processes that share the loaded model, killed and run again."""
    n_trials = 4 if options.quick else 20
    with temporary_folder() as folder:
        images = Path(folder, "images")
        images.mkdir()
        files = scene_files(images, 200)
        files[17].write_bytes(files[17].read_bytes()[:100])  # one that cannot be read
        command = [sys.executable, "-m", "benchmarks.extraction", "--kills", folder, str(n_trials)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    ok = result["same"] == n_trials
    print(
        f"{verdict(ok)} {result['same']} of {n_trials} runs killed at a random moment and resumed "
        f"have the bytes of an uninterrupted one"
    )
    print(
        f"     {len(files)} images; killed after {min(result['moments']):.2f} to "
        f"{max(result['moments']):.2f} s of {result['seconds']:.2f} s; {result['started']} had "
        f"written shards, {result['finished']} had ended"
    )
    return int(not ok)


def kills(folder, n_trials):
    """The trials; prints their outcome as JSON."""
    import torch

    from semi_nmf_concepts.lmm import LMMTokenFeaturizer, _shards

    torch.set_num_threads(1)  # children of a fork have no other threads
    _shards._SHARD = 16
    folder = Path(folder)
    files = sorted((folder / "images").iterdir())
    featurizer = LMMTokenFeaturizer(
        token="dog", stop="token", batch_size=8, on_error="skip", n_jobs=2
    )
    _ = featurizer.handle.loaded, featurizer.handle.fingerprint

    def run(out):
        featurizer.extract(files, out=out)

    started = time.perf_counter()
    wait(fork(run, folder / "whole"))
    seconds = time.perf_counter() - started
    expected = content(folder / "whole")
    rng, same, n_started, n_finished, moments = np.random.default_rng(0), 0, 0, 0, []
    for trial in range(n_trials):
        out, moment = folder / f"out-{trial}", rng.uniform(0, seconds)
        child = fork(run, out)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        n_started += any(out.glob("shards/*.safetensors"))
        n_finished += (out / "representations.json").exists()
        wait(fork(run, out))
        same += content(out) == expected
        moments.append(moment)
    print(
        json.dumps(
            {
                "same": same,
                "moments": moments,
                "seconds": seconds,
                "started": n_started,
                "finished": n_finished,
            }
        )
    )


def content(out):
    """Bytes of all files of a finished extraction."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def fork(function, *arguments):
    """Run `function` in a child; its process number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        function(*arguments)
        status = 0
    finally:
        os._exit(status)


def wait(child):
    """Until the child has ended, well."""
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a run that nobody killed ended with status {status}")


PARTS = {"families": families, "speed": speed, "memory": memory, "kill": kill, "gpu": gpu}


def main(arguments=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, two minutes")
    parser.add_argument(
        "--write", action="store_true", help="keep the output in results/extraction_PART.txt"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--stream", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--kills", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        return stream(options.stream[0], int(options.stream[1]))
    if options.kills:
        return kills(options.kills[0], int(options.kills[1]))
    return run_parts("extraction", PARTS, options.only, options)


if __name__ == "__main__":
    sys.exit(main())
