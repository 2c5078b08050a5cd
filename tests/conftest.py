"""Settings of the whole test run: no model hub, and no more threads than small arrays can use."""

import os

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine is at the moment.
settings.register_profile("tests", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tests")

# Set before torch, transformers, numba or SciPy are imported, which is why it is not a fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Allows scikit-learn's array API dispatch, which stays off where no test turns it on: with it the
# conformance checks of arrays that are not NumPy's run, too.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture
def n_run(monkeypatch):
    """Counts the images that go through a model."""
    from semi_nmf_concepts.lmm import _states

    counts = []
    call = _states.StateCollector.__call__
    monkeypatch.setattr(
        _states.StateCollector,
        "__call__",
        lambda self, images, *args: counts.append(len(images)) or call(self, images, *args),
    )
    return lambda: sum(counts)
