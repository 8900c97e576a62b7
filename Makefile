# `make demo` and `make test` are each the only command a newcomer needs: both make .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPEC := pyproject.toml constraints.txt
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check bench test-slow
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## take the bundled photographs apart and write demo/
	$(BIN)/pellucid demo

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev  ## formatting, lint, types, and imports that go down only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_imports.py

bench: $(VENV)/.installed-dev  ## measure speed and memory
	$(BIN)/python benchmarks/run.py

test-slow: $(VENV)/.installed-dev  ## run the tests that train and measure for minutes
	$(BIN)/python -m pytest -m slow

# Stamps, not the folder: a folder's time says nothing about what is in it.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'error: Python 3.11 or newer is needed; hint: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'error: this Python cannot make environments; hint: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(SPEC) | $(VENV)/.made
	@echo 'installing pellucid and the pinned packages into $(VENV)'
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(SPEC) | $(VENV)/.made
	@echo 'installing pellucid with the tools for its tests into $(VENV)'
	@$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@
