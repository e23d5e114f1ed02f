# Every target makes the environment that it needs first: nothing has to be set up before.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check bench lock clean java python

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(READY) java ## real data through every flow, on a stack of its own
	@$(RUN) streams demo

test: check java ## the checks, then all tests
	@$(RUN) pytest

check: $(READY) ## style, types, the direction of imports, and the project's own files
	@$(RUN) ruff check streams tests
	@$(RUN) ruff format --check streams tests
	@$(RUN) mypy
	@$(VENV)/bin/lint-imports --no-cache
	@$(RUN) streams validate

bench: $(READY) java ## how fast it is, beside hand-written code
	@$(RUN) tests.bench

lock: $(READY) ## pin all packages anew, with hashes
	@$(RUN) pip install --quiet uv
	@$(VENV)/bin/uv pip compile pyproject.toml --all-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 --upgrade --output-file requirements.lock

clean: ## remove the environment, and what the demo left
	@rm -rf $(VENV) .streams build *.egg-info

$(READY): requirements.lock pyproject.toml | python
	@echo "Making the environment in $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 is needed, and $(or $(PYTHON),python3) is another one or is not there."; \
	  echo "  Debian, Ubuntu:  sudo apt-get install python3.11 python3.11-venv"; \
	  echo "  macOS:           brew install python@3.11"; \
	  echo "Elsewhere: make PYTHON=/path/to/python3.11 ..."; exit 2; }

java:
	@{ if [ -n "$$JAVA_HOME" ]; then "$$JAVA_HOME/bin/java" -version; else java -version; fi; } >/dev/null 2>&1 || { \
	  echo "Java 17 or 21 is needed, and $${JAVA_HOME:-the PATH} has none that runs."; \
	  echo "  Debian, Ubuntu:  sudo apt-get install openjdk-17-jre-headless"; \
	  echo "  macOS:           brew install openjdk@17 && export JAVA_HOME=\$$(brew --prefix openjdk@17)"; exit 2; }
