# `make demo` and `make test` need nothing but Python 3.11 or newer: they create .venv and install into it.
PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-slow lint format bench docs clean

demo: $(VENV)/.installed
	$(BIN)/clinch demo

test: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(ONE_THREAD) $(BIN)/python benchmarks/monitor.py

docs: $(VENV)/.installed
	$(PIP) --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site is in site/: open site/index.html"

clean:
	rm -rf site $(VENV) .pytest_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Clinch needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Stamps: the environment is made once, and again when a requirement changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Clinch into $(VENV) (torch is large: this can take minutes the first time) ..."
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --group dev
	@touch $@
