"""What `import semi_nmf_concepts` costs and offers."""

import json
import subprocess
import sys
import time

import pytest

import semi_nmf_concepts

PROBE = """
import json, sys, time
start = time.perf_counter()
import semi_nmf_concepts
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_import_is_light():
    """Fast, and without the libraries that only a model or a fit needs."""
    runs = [
        json.loads(
            subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True).stdout
        )
        for _ in range(2)
    ]
    assert min(seconds for seconds, _ in runs) < 1
    loaded = set(runs[0][1])
    assert not loaded & {"torch", "transformers", "numba", "sklearn", "pandas", "matplotlib"}


@pytest.mark.parametrize("name", semi_nmf_concepts.__all__)
def test_every_public_name_is_there(name):
    assert getattr(semi_nmf_concepts, name) is not None
    assert name in dir(semi_nmf_concepts)


@pytest.mark.parametrize(
    "name", [n for n in semi_nmf_concepts.__all__ if n in semi_nmf_concepts._HOMES]
)
def test_public_names_are_those_of_their_sub_package(name):
    home = getattr(semi_nmf_concepts, semi_nmf_concepts._HOMES[name])
    assert getattr(semi_nmf_concepts, name) is getattr(home, name)
    assert name in home.__all__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'SemiNMFConcept'"):
        _ = semi_nmf_concepts.SemiNMFConcept


def test_help_answers_without_loading_a_model_library():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "semi_nmf_concepts", "concepts", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.perf_counter() - start < 3
    assert "--n-components" in done.stdout
    assert " torch" not in done.stderr and " transformers" not in done.stderr
