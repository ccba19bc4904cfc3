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

setup: $(VENV)/.ready ## Create .venv with the project and its commands, from the lock file

$(VENV)/.ready: requirements.lock pyproject.toml
	PYTHON=$(PYTHON) bash .ci/make-venv $(VENV)
	touch $@

demo: setup ## Run the whole mesh on private services, with a simulated house (ARGS="--for 30")
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/meshtasks demo $(ARGS)

test: setup ## Run every test against real servers (ARGS="-k name")
	$(BIN)/python -m meshtasks.demo.packages test
	$(BIN)/python -m tests.support.unpacked
	$(BIN)/pytest --processes $(TEST_PROCESSES) $(ARGS)

# They are not in testpaths, either. Images are taken as they are, or pulled.
test-compose: setup ## Run the Docker stack and the commands of docs/docker.md (needs a Docker engine)
	$(BIN)/pytest tests/compose --timeout 3600 $(ARGS)

# They are not in testpaths (pyproject.toml), and install themselves on first use.
test-peers: setup ## Run the tests against Home Assistant, n8n (gigabytes; ARGS="-k name")
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/pytest tests/peers --timeout 1800 $(ARGS)

# Other releases: `.ci/test-in-root noble`, with MIRROR where this machine has another.
test-debian13: ## Run demo and tests on a minimal Debian 13, as root (ROOT=DIR keeps it)
	ROOT=$(ROOT) ARGS="$(ARGS)" bash .ci/test-in-root trixie

lint: setup ## Run ruff, mypy --strict and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format, and apply the fixes of ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

release: setup ## Build sdist, wheel and SBOM into dist/, and test them in empty environments
	bash .ci/release $(BIN)/python

docs: setup ## Build the documentation into site/; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: setup ## Make screenshots of the console (docs/images) in a demo
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/python -m meshtasks.demo.packages test
	$(BIN)/python -m tests.support.screenshots

bench: setup ## Run the benchmarks (ARGS="--help")
	$(BIN)/python -m meshtasks.demo.packages demo
	$(BIN)/python -m benchmarks $(ARGS)

secrets: setup ## Generate the passwords for docker-compose.yml (.env) and the broker's accounts
	$(BIN)/meshtasks secrets

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes \
	  --no-emit-index-url --no-header --python-version 3.11

lock: setup ## Update the lock files to the newest versions that resolve
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --all-extras --upgrade -o requirements.lock
	$(COMPILE) --extra all -c requirements.lock -o requirements-full.lock
	$(COMPILE) -c requirements.lock -o requirements-core.lock
	$(subst pyproject.toml,--group pyproject.toml:release,$(COMPILE)) --upgrade \
	  -o requirements-release.lock

clean: ## Remove what the targets made (not your data in .mesh)
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
