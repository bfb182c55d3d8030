# `make serve` and `make test` need CPython 3.11 and make, nothing else; `make help` lists the rest.
# What is installed is keyed by content: a second run starts at once, a changed lock installs again.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_INDEX := https://download.pytorch.org/whl/cpu
TORCH_FROM := --index $(TORCH_INDEX) --index-strategy unsafe-best-match
KEEP := --constraints requirements/cpu.lock
RESOLVE := uv pip compile --no-config --quiet --no-header --format pylock.toml --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_31
PACKAGES := $(wildcard */__init__.py)
CHECKED := $(patsubst %/__init__.py,%,$(PACKAGES)) tests requirements

digest = $(shell cat $(1) | sha256sum | cut -c 1-16)
WHEELS := $(VENV)/.wheels-$(call digest,requirements/torch.lock requirements/cpu.lock)
PROJECT := $(VENV)/.project-$(call digest,pyproject.toml requirements/torch.lock requirements/cpu.lock)-$(words $(PACKAGES))

.PHONY: help setup serve test prove check format demo-model lock clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: $(PROJECT)  ## install everything into .venv (the other commands do it when it is needed)

$(WHEELS):
	@sh requirements/system.sh $(PYTHON)
	@test -x $(BIN)/python || { echo "trimtab set-up: a new environment in $(VENV); this takes some minutes, once"; $(PYTHON) -m venv $(VENV); }
	@echo "trimtab set-up: torch"
	@$(PIP) install --quiet --no-deps -r requirements/torch.lock 2>/dev/null || { \
	  echo "trimtab set-up: not on pip's own indexes; from $(TORCH_INDEX)"; \
	  $(PIP) install --no-deps --index-url $(TORCH_INDEX) -r requirements/torch.lock; }
	@echo "trimtab set-up: $$(grep -c '^[a-z]' requirements/cpu.lock) pinned packages"
	@$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements/cpu.lock
	@rm -f $(VENV)/.wheels-* && touch $@

$(PROJECT): $(WHEELS)
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index -e .
	@rm -f $(VENV)/.project-* && touch $@

serve: $(PROJECT)  ## serve the demo model with the demo policies on 127.0.0.1:8000 (ARGS="…" adds options)
	$(BIN)/trimtab serve $(ARGS)

test: $(PROJECT)  ## prove each rule once (ARGS="…" names test files)
	$(BIN)/python -m tests.run $(ARGS)

prove: $(PROJECT)  ## every claim at full size, into docs/evidence/ (ARGS="…" names sections; what already stands is kept)
	$(BIN)/python -m tests.run --prove $(ARGS)

check: $(PROJECT)  ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(PROJECT)  ## rewrite what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo-model: $(PROJECT)  ## train the demo model again (two cores, at most 50 minutes)
	$(BIN)/python -m demo.train --out demo/checkpoint --seed 0

lock:  ## resolve requirements/*.in again (needs uv; KEEP= lets every version move)
	$(RESOLVE) $(TORCH_FROM) --overrides requirements/excluded.txt --constraints requirements/torch.lock $(KEEP) \
	  requirements/cpu.in -o $(VENV)/pylock.toml
	$(PYTHON) requirements/lock.py $(VENV)/pylock.toml cpu
	$(RESOLVE) --constraints requirements/cpu.lock requirements/clients.in -o $(VENV)/pylock.toml
	$(PYTHON) requirements/lock.py $(VENV)/pylock.toml clients
	$(RESOLVE) requirements/deploy.in -o $(VENV)/pylock.toml
	$(PYTHON) requirements/lock.py $(VENV)/pylock.toml deploy

clean:  ## remove the environment and every cache
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
