# Two commands do everything, installation included:
#   make demo   profile a network on this machine, shrink it, prove it, measure it, draw it
#   make test   lint, type-check, test
#
# PYTHON  the interpreter to make the environment with (3.11 or later)
# TORCH   what pip installs as torch. Any 2.11 to 2.15 works; this one is what the tests run with, and
#         naming it keeps a plain `torch` from bringing gigabytes of CUDA that a CPU does not need on
#         machines that have a CPU build of it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types install clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	# One command: a second one would let another package's wish replace the torch of the first.
	$(BIN)/python -m pip install --quiet '$(TORCH)' --editable '.[dev]'
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/dshrink demo --out demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vermin --quiet --target=3.6- --violations devices/agent

types: install
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest -m "not slow and not hardware"

clean:
	rm -rf $(VENV) build dist *.egg-info demo
