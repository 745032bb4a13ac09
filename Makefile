# `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_STATE := examples/flights/state
# Parallel test runs on one machine must not fight over compiled numpy threads.
export OMP_NUM_THREADS ?= 1

.PHONY: help check format test demo run generate campaign bench bench-latency bench-ingest bench-policies lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv: $(STAMP)  ## the virtual environment, from the lock file with hashes

# Brings an environment up to date in place, so that whoever is using it can go on.
$(STAMP): requirements.lock pyproject.toml
	@echo 'installing into .venv'
	@if command -v uv >/dev/null; then \
	  test -x $(BIN)/python || uv venv --quiet --python "$(PYTHON)" .venv; \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock; \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock; \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi
	touch $@

check: $(STAMP)  ## format, lint, types, import contracts: all that needs no server
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(STAMP)  ## all kinds of tests, short campaigns (about 25 minutes on two idle cores)
	timeout --kill-after=30 2700 $(BIN)/pytest $(PYTEST_ARGS)

demo: $(STAMP)  ## the flights demo, from an empty state
	rm -rf $(DEMO_STATE)
	$(BIN)/python examples/flights/demo.py

run: $(STAMP)  ## the daemon on configs/
	$(BIN)/retraind --config configs

generate: $(STAMP)  ## the files made from the code (schema, CLI reference, lifecycle)
	$(BIN)/python docs/generate.py

# short: half an hour, long, hours: a night.
LENGTH ?= long

campaign: $(STAMP)  ## the long campaigns, each going on where its log ends: crashes, lost answers, replicas, simulation, soak (LENGTH=short|long|hours)
	$(BIN)/python tests/campaign/run.py --length $(LENGTH)

bench: $(STAMP)  ## everything measured beside its floor, into docs/benchmarks.md with pictures; on an idle machine
	$(BIN)/python benchmarks/run.py

bench-latency: $(STAMP)  ## event to launched job, measured
	$(BIN)/python benchmarks/latency.py

bench-ingest: $(STAMP)  ## events a second by HTTP and from Kafka, files scanned again; needs wrk, Java and Maven
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/rescan.py

bench-policies: $(STAMP)  ## what policies cost: per event, decision, state, at load, and `why` on a million events
	$(BIN)/python benchmarks/policies.py
	$(BIN)/python benchmarks/policies.py --only why

# uv resolves once for every supported Python; the files name no index.
LOCK := uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url pyproject.toml

lock:  ## write both lock files anew (needs uv)
	$(LOCK) -o requirements-runtime.lock
	$(LOCK) --group dev --group demo -c requirements-runtime.lock -o requirements.lock

clean:  ## remove what the other targets made, but not .venv
	rm -rf .coverage coverage.xml htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist $(DEMO_STATE)
	find controller tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
