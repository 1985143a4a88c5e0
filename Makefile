.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 3000
BIN := .venv/bin
LOCK = $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --generate-hashes --python-version 3.11 \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) pyproject.toml

.PHONY: help setup demo test test-all benchmark lint lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: .venv/ready  ## create .venv from the lock, when it is missing or stale

demo: setup  ## train, judge, register and serve a real model on http://localhost:3000; PORT=3456 for another
	@$(BIN)/sentiment demo --port $(PORT)

test: setup  ## the tests, in minutes
	@$(BIN)/pytest -m "not slow"

test-all: setup  ## the tests, slow ones included
	@$(BIN)/pytest

benchmark: setup  ## the service beside its peers, in ten minutes; needs wrk
	@$(BIN)/python tests/benchmarks/serving.py

lint: setup  ## what CI checks before it tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/actionlint
	@$(BIN)/zizmor --quiet --offline --no-progress .github

lock: setup  ## renew the locks from pyproject.toml; UPGRADE=1 takes newer versions
	@$(LOCK) --group service --group batch --group training --group infra --group dev --output-file requirements.lock
	@$(LOCK) --group service --constraints requirements.lock --output-file service/requirements.lock
	@$(LOCK) --group service --group batch --constraints requirements.lock --output-file service/requirements-batch.lock

clean:  ## remove the environment and every local result, the local registry included
	rm -rf .venv .sentiment .mlflow-* mlflow.db mlruns mlartifacts

# uv comes from the lock as well: pip installs it, and it installs the rest.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is %s: make PYTHON=python3.11 …" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv (2 GB of packages, once: a minute or two)"
	@test -x $(BIN)/uv || test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.lock
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
