# Everything runs in .venv, made here with the pinned versions of constraints.txt.
#
#   make demo    explain the word "dog" of the bundled model; prints where the page is
#   make test    lint, then all tests (slow ones and docstring examples included)
#   make test-vision   only what needs torchvision (families of models, open_clip); part of make test
#   make lint    ruff only
#   make docs    build docs/_build/html
#   make clean   remove caches and results (not .venv and .venv-vision)
#
# PYTHON=python3.12 chooses the interpreter, ARGS="--token bus" adds options to the demo or to pytest.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# torchvision, and open_clip which needs it, stay out of .venv: beside a CPU build of torch the
# published torchvision breaks the import of transformers. They are put on the path of their tests.
VISION := .venv-vision
ARGS ?=

.PHONY: demo test test-vision lint docs clean

demo: .venv/.run
	$(BIN)/semi-nmf-concepts demo $(ARGS)

# One thread a process: the arrays are small, and the processes already fill the cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)
	@$(MAKE) --no-print-directory test-vision

test-vision: .venv/.test $(VISION)/.installed
	PYTHONPATH=$(VISION) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests._torchvision_operators \
		--numprocesses auto -m vision tests/lmm tests/attention tests/metrics/test_open_clip.py

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf build dist out docs/_build docs/api .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv*/*" -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The stamps make the second call fast; a change of what is required installs again.
.venv/.run: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/.test: constraints-app.txt .venv/.run
	$(PIP) --editable ".[test]"
	$(PIP) --no-deps --requirement $<
	@touch $@

.venv/.docs: .venv/.run
	$(PIP) --editable ".[docs,plots]"
	@touch $@

# Made anew, because pip replaces nothing in such a folder.
$(VISION)/.installed: constraints-vision.txt | .venv/.run
	rm -rf $(VISION)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(VISION) --requirement $<
	@touch $@
