# What people run and what CI runs. Python 3.11 or 3.12; everything is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough and can make a virtual environment; `make demo PYTHON=/path` picks another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1 \
	&& { echo $$p; exit; }; done)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
ARGS ?=

# Debian packages that the tests use, installed where we may: as root, with apt-get. Elsewhere those tests skip with the reason.
DEBIAN := bubblewrap chromium debootstrap docker.io lua5.4 nodejs postgresql

.PHONY: demo test test-all lint docs bench services
.DELETE_ON_ERROR:

# Train a small language model by reinforcement, then look at runs/. ARGS="env=sokoban seed=1" changes the run.
demo: $(VENV)/.train
	$(BIN)/turnwise train $(ARGS)

test: $(VENV)/.dev services
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(VENV)/.dev services
	$(BIN)/python -m pytest $(ARGS)

# mypy finds the package by its name, so it runs beside a link called turnwise.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	root=$$PWD; beside=$$(mktemp -d); trap 'rm -r "$$beside"' EXIT; ln -s "$$root" "$$beside/turnwise"; cd "$$beside" \
	&& "$$root/$(BIN)/python" -m mypy --config-file "$$root/pyproject.toml" --cache-dir "$$root/.mypy_cache" -p turnwise

docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict

# The speeds that docs/results.md claims, minutes in all. By hand: learning.py, which takes hours, and scale.py, which wants
# an idle machine and gigabytes.
bench: $(VENV)/.dev
	for file in $(filter-out benchmarks/learning.py benchmarks/scale.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$file || exit 1; done

services:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(DEBIAN) >/dev/null 2>&1; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) >/dev/null; fi

$(VENV)/.train: $(BIN)/pip pyproject.toml constraints.txt
	$(INSTALL) -e ".[train]"
	touch $@

$(VENV)/.dev: $(BIN)/pip pyproject.toml constraints.txt
	$(INSTALL) -e ".[all-cpu]"
	touch $@ $(VENV)/.train

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "turnwise needs Python 3.11 or 3.12 with venv, and none was found." \
	"Install one (on Debian or Ubuntu also its -venv package) or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
