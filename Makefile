# make demo    install into .venv, then run the quick start: ends in a before/after report (no network at run time)
# make test    the whole test suite
# make effects what training brings, over three seeds: `make test` shows it on one
# make check   format, lint, types, fast tests: under two minutes
# make test-gguf  the files for llama.cpp with llama.cpp itself, which is compiled first: half an hour
# make bench   speed and memory against TRL and transformers
#
# A machine without a GPU that installs from PyPI saves 2 GB of CUDA libraries with
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first Python from 3.11 that runs here; `make demo PYTHON=…` names another.
WORKS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2])
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c '$(WORKS)' 2>/dev/null && { echo $$p; break; }; done)
TORCH_INDEX ?=
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RUN := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Each worker gets one thread, so that two of them share two cores fairly.
PYTEST := $(RUN) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-gguf effects check bench clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: .venv/installed
	$(RUN) $(BIN)/posttrain run

test: .venv/installed-test
	$(PYTEST)

test-gguf: .venv/installed-test .venv/installed-llama
	$(PYTEST) -m gguf

# The tests of a file share their runs, so one worker takes the whole file.
effects: .venv/installed-test
	SEEDS=3 $(PYTEST) --dist loadfile tests/behaviour

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m 'not slow and not gpu'

bench: .venv/installed-bench
	for work in sft dpo kto orpo reward grpo rollouts memory; do $(RUN) $(BIN)/python benchmarks/$$work.py; done

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# Debian's Python may come without ensurepip: then the pip beside it fills the new environment.
.venv/bin/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or later is needed: apt-get install python3.11 python3.11-venv'; exit 4; }
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
	  $(PYTHON) -m pip --python .venv/bin/python install --quiet pip; }

# torch comes first, alone: what is installed after it finds it there and asks for no other build.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) --editable .
	@touch $@

.venv/installed-%: .venv/installed
	$(PIP) --editable '.[$*]'
	@touch $@
