# Every target makes the environment that it needs first: nothing has to be set up before.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check bench verify secrets lock clean java python

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: java $(READY) ## real data through every flow, on a stack of its own
	@$(RUN) streams demo

test: java check ## the checks, then all tests but the slow ones
	@$(RUN) streams prepare
	@$(RUN) pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25

check: $(READY) ## style, types, the direction of imports, and the project's own files
	@$(RUN) ruff check streams batch_adapters tests
	@$(RUN) ruff format --check streams batch_adapters tests
	@$(RUN) mypy
	@$(VENV)/bin/lint-imports --no-cache
	@$(RUN) streams validate

bench: java $(READY) ## how fast it is, beside hand-written code
	@$(RUN) tests.bench

verify: java $(READY) ## whether it keeps its promises under some 300 faults: some 40 minutes
	@$(RUN) streams prepare
	@$(RUN) tests.verify

secrets: ## random passwords for docker compose, into .secrets, once
	@sh .docker/secrets.sh

lock: $(READY) ## pin all packages anew, with hashes
	@$(RUN) pip install --quiet uv
	@$(VENV)/bin/uv pip compile pyproject.toml --all-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 --upgrade --output-file requirements.lock

clean: ## remove the environment, and what the demo left
	@rm -rf $(VENV) .streams/demo .streams/pictures build *.egg-info

$(READY): $(VENV)/.packages pyproject.toml
	@$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.packages: requirements.lock | python
	@echo "Making the environment in $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 is needed, and $(or $(PYTHON),python3) is another one or is not there."; \
	  echo "  Debian, Ubuntu:  sudo apt-get install python3.11 python3.11-venv"; \
	  echo "  macOS:           brew install python@3.11"; \
	  echo "Elsewhere: make PYTHON=/path/to/python3.11 ..."; exit 2; }

java:
	@java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
	major=$$("$$java" -version 2>&1 | awk -F '"' '/ version "/ { split($$2, part, /[^0-9]/); print part[1] == 1 ? part[2] : part[1]; exit }'); \
	[ "$${major:-0}" -ge 17 ] || { \
	  if [ -n "$$major" ]; then found="is Java $$major"; else found="does not run"; fi; \
	  echo "Java 17 or 21 is needed, and $$java $$found."; \
	  echo "  Debian, Ubuntu:  sudo apt-get install openjdk-17-jre-headless"; \
	  echo "  macOS:           brew install openjdk@17 && export JAVA_HOME=\$$(brew --prefix openjdk@17)"; exit 2; }
