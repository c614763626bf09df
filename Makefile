# `make demo` and `make test` need nothing but Python 3.11 or newer: they create .venv and install into it.
PYTHON ?= python3
WORKERS ?= 2
# what to test: folders, files or options of pytest
TESTS ?=

VENV := .venv
BIN := $(VENV)/bin
# every version that is installed stands in constraints.txt, those of build backends too
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --build-constraint constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: demo test test-data test-slow test-newest coverage lint types format hooks bench docs wheels pins ci clean

demo: $(VENV)/.installed
	$(BIN)/clinch demo

test: $(VENV)/.installed-dev
	$(PYTEST) $(TESTS)

test-data: $(VENV)/.installed-dev
	$(PYTEST) -m "data and not slow" $(TESTS)

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow $(TESTS)

# tells what would break with the newest versions of everything; never fails
test-newest:
	PYTHON="$(PYTHON)" WORKERS=$(WORKERS) bash .ci/newest $(TESTS)

# the quick suite, watched: each room's share of lines that run, beside its floor in .ci/coverage.toml
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m coverage erase
	$(ONE_THREAD) $(BIN)/python -m coverage run -m pytest -n $(WORKERS) $(TESTS)
	$(BIN)/python .ci/coverage_floors.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# lint and types before every commit, see .pre-commit-config.yaml
hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

bench: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m benchmarks monitor

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site is in site/: open site/index.html"

# sdist and wheel into dist/, and the wheel tried with each extra in a clean environment
wheels:
	PYTHON="$(PYTHON)" bash packaging/try_wheel.sh

# UPGRADE=1: the newest versions of everything, not only of what is missing
pins: $(VENV)/.installed
	$(BIN)/python .ci/pins.py $(if $(UPGRADE),--upgrade)

# what continuous integration runs: lint, types, docs, coverage (the quick suite, without any data), test-data
ci:
	bash .ci/run

clean:
	rm -rf site $(VENV) .venv-newest .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Clinch needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Stamps: the environment is made once, and again when a requirement changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Clinch into $(VENV) (torch is large: this can take minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --group dev
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) --group docs
	@touch $@
