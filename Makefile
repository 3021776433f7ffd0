# What a newcomer types: `make serve`, `make test`. CI runs `make check`, `make test` and
# `make test-slow`.
# Settings come from JUMPLORA_* (see README.md); these are the demo's.
export JUMPLORA_BACKBONE ?= adapters/demo/backbone
export JUMPLORA_STORE ?= adapters/demo/store

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# PyPI's torch for Linux is the CUDA build, gigabytes of it. On a machine without a GPU give
# TORCH_INDEX=https://download.pytorch.org/whl/cpu (not the default: not every network reaches it).
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: serve test test-slow coverage check format bench bench-training bench-reliability demo dashboard \
	lock screenshots prometheus clean

serve: $(VENV)/.serve
	$(BIN)/jumplora serve

# Processes that share the tests, file by file.
JOBS ?= 2
test: $(VENV)/.dev prometheus
	env -u JUMPLORA_BACKBONE -u JUMPLORA_STORE $(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile

test-slow: $(VENV)/.dev prometheus
	env -u JUMPLORA_BACKBONE -u JUMPLORA_STORE $(BIN)/pytest -m 'slow and not gpu' \
		--numprocesses=$(JOBS) --dist=loadfile

# The tests of `make test` again, with the lines counted; fails under the floor of pyproject.toml.
coverage: $(VENV)/.dev prometheus
	mkdir -p .cache/coverage
	$(BIN)/coverage erase
	env -u JUMPLORA_BACKBONE -u JUMPLORA_STORE $(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python deploy/grafana/generate.py --check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/jumplora bench engine

bench-training: $(VENV)/.dev
	$(BIN)/python -m jumplora_bench.training

# A running server and its faults; an hour and a half.
PARTS ?= uploads entries chaos tasks fuzz connections costly
bench-reliability: $(VENV)/.dev
	for part in $(PARTS); do $(BIN)/python -m jumplora_bench.reliability $$part || exit 1; done

# Makes the demo again (BENCHMARK_DATA, DEMO_TEXT, DEMO_TOKENIZER: see recipe/run.sh). Its parts were
# run one by one with the same settings, never as a whole: two hours on 2 cores.
demo: $(VENV)/.dev
	PYTHON=$(BIN)/python adapters/demo/recipe/run.sh

dashboard: $(VENV)/.dev
	$(BIN)/python deploy/grafana/generate.py

# The image's packages by hash, from pyproject.toml and constraints.txt. TORCH is the index or the
# folder that torch comes from: PyPI's is the CUDA build, gigabytes of it.
LOCK ?= deploy/image/requirements.lock
TORCH ?= https://download.pytorch.org/whl/cpu
UV := .cache/lock/bin/uv
lock: $(UV)
	deploy/image/lock.sh $(UV) $(LOCK) $(TORCH)

$(UV):
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet uv==0.13.9

# The pictures of the console, anew; needs Chromium.
screenshots: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m integration.console.screenshots images

# A real Prometheus for the tests that scrape; they skip, and say so, where it cannot be had.
prometheus:
	-deploy/prometheus/fetch.sh

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Installing compiles the native kernels (hatch_build.py, native/build.py).
NATIVE := hatch_build.py server/jumplora_server/engine/native/build.py \
	$(wildcard server/jumplora_server/engine/native/src/*)

$(VENV)/.serve: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --editable ".[train,demo,bench,dev]"
	touch $@ $(VENV)/.serve
