# Every target installs what it needs; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-compose test-peers test-debian13 lint format release docs screenshots bench secrets lock clean

# Commands and tests start Python by the hundred: let it keep what it has compiled.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
ROOT ?=
# More than a small machine has cores: half of a test's time is waiting.
TEST_PROCESSES ?= 6

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make .venv with the project and its commands, from the lock file

$(VENV)/.ready: requirements.lock pyproject.toml
	PYTHON=$(PYTHON) bash .ci/make-venv $(VENV)
	touch $@

demo: setup ## Run the mesh on embedded services with simulated sensors (ARGS="--for 30")
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/meshtasks demo $(ARGS)

test: setup ## Run every test against real servers (ARGS="-k name")
	$(BIN)/python -m meshtasks.demo.packages test
	$(BIN)/python -m tests.support.unpacked
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

# They are not in testpaths, either. Images are taken as they are, or pulled.
test-compose: setup ## Run the Docker stack and every command of docs/docker.md (needs an engine)
	$(BIN)/pytest tests/compose --timeout 3600 $(ARGS)

# They are not in testpaths (pyproject.toml), and install themselves on first use.
test-peers: setup ## Run the tests against Home Assistant, n8n (gigabytes; ARGS="-k name")
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/pytest tests/peers --timeout 1800 $(ARGS)

# Other releases: `.ci/test-in-root noble`, with MIRROR where this machine has another.
test-debian13: ## Run demo and tests on a bare Debian 13, as root (ROOT=DIR keeps it)
	ROOT=$(ROOT) ARGS="$(ARGS)" bash .ci/test-in-root trixie

lint: setup ## ruff, mypy --strict (of tests and benchmarks, too), import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format and fix what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

release: setup ## Build sdist, wheel and SBOM into dist/, tried in an empty environment
	bash .ci/release $(BIN)/python

docs: setup ## Build the documentation into site/, and refuse broken links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: setup ## Take the pictures of the console's pages (docs/images) in a demo
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/python -m meshtasks.demo.packages test
	$(BIN)/python -m tests.support.screenshots

bench: setup ## Measure, each part next to its ceiling and its peers (ARGS="--help")
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/python -m benchmarks $(ARGS)

secrets: setup ## Make the passwords of docker-compose.yml (.env) and the broker's accounts
	$(BIN)/meshtasks secrets

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes \
	  --no-emit-index-url --no-header --python-version 3.11

lock: setup ## Rebuild the lock files with the newest versions that resolve together
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --all-extras --upgrade -o requirements.lock
	$(COMPILE) --extra all -c requirements.lock -o requirements-full.lock
	$(COMPILE) -c requirements.lock -o requirements-core.lock
	$(subst pyproject.toml,--group pyproject.toml:release,$(COMPILE)) --upgrade \
	  -o requirements-release.lock

clean: ## Remove what the targets made here (not your data in .mesh)
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
