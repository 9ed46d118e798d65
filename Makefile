# Two commands do all the set-up: `make quickstart` and `make test`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
QUICKSTART := workdirs/quickstart
CASES ?= 10000

.PHONY: quickstart train test test-slow test-all test-gpu lint types docs fuzz chaos clean

quickstart: train
	@$(BIN)/python -m vit_jax.evaluate --checkpoint=$(QUICKSTART) \
	    --dataset=digits --split=test > $(QUICKSTART)/test.json
	@$(BIN)/python -c 'import json; figures = json.load(open("$(QUICKSTART)/test.json")); \
	    print("test accuracy: %.4f" % figures["top1"])'

# Run it again: it goes on where it stopped, or says that it is done.
train: $(VENV)/installed
	$(BIN)/python -m vit_jax.main --config=configs/quickstart.py --workdir=$(QUICKSTART)

# A file's tests run in one process, the longest files first (tests/conftest.py).
DIST := --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto $(DIST)

# Whole runs of several processes, killed ones and the largest recipes.
test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto $(DIST) -m slow

test-all: test test-slow

# Steps for GPUs that are not there, by JAX's CUDA compiler: wants Python 3.12 or newer.
test-gpu: $(VENV)/installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cuda]' 'jax>=0.11.2'
	$(BIN)/python -m pytest -m '' tests/test_plan_gpu.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package, the recipes, and a program that uses it as the README does.
types: $(VENV)/installed-test
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_client.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# Faults to real runs, by the hour, with their tables in benchmarks/chaos.md; and three
# hundred damaged checkpoints, each read in five ways.
chaos: $(VENV)/installed-test
	$(BIN)/python tests/chaos --write
	$(BIN)/python -m tests.chaos.readers --jobs=2

# Ten thousand inputs that nobody thought of; bytes guided by coverage.
fuzz: $(VENV)/installed-fuzz
	$(BIN)/python tests/chaos/fuzz.py --cases=$(CASES)

# The site, strictly and without network: build/docs/index.html
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W -n -q --keep-going -E -b html docs build/docs

clean:
	rm -rf $(VENV) workdirs build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "vit_jax needs Python 3.11 or newer: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-test: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-fuzz: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	touch $@

$(VENV)/installed-docs: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@ $(VENV)/installed
