# Needs Python 3.11 or newer and make, and nothing else: everything is installed into .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where this is set, every process compiles all that it imports anew: a dozen seconds each.
export PYTHONDONTWRITEBYTECODE :=
READY := $(VENV)/.ready
CHECKED := features expectations models pipelines monitoring services tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lock clean

help:
	@echo "make demo    set everything up and run the whole loop on real data (about four minutes)"
	@echo "make test    set everything up and run the test suite"
	@echo "make setup   set everything up; then try: $(BIN)/headway --help"
	@echo "make lint    check style and types"
	@echo "make lock    resolve the dependencies anew into requirements.lock"
	@echo "make clean   remove the environment and caches (.headway, where the state is, stays)"

setup: $(READY)

# uv installs in 20 s what takes pip 90 s. It comes from the lock too, by hash, and so does what builds packages:
# with build isolation, an unpinned setuptools would be fetched.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headway needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	awk '/^[^ #]/ { wanted = /^(setuptools|uv)==/ } wanted' requirements.lock > $(VENV)/first.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/first.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-build-isolation -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/headway demo

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: setup
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy

lock: setup
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --upgrade \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
