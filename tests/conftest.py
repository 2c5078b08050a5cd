"""Settings of the whole test run: no model hub, and no more threads than small arrays can use."""

import os

# Set before torch, transformers or numba are imported, which is why it is not a fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
