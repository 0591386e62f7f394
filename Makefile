# Two commands do everything, installation included:
#   make demo   profile a network on this machine, shrink it, prove it, measure it, draw it
#   make test   lint, type-check, test
#
# PYTHON  the interpreter to make the environment with (3.11 or later)
# TORCH   what pip installs as torch: the version that the tests run with. Any 2.11 to 2.15 will do. On
#         Linux pip's default build brings gigabytes of CUDA; the file or address of a CPU wheel does
#         not: make demo TORCH=./torch-2.13.0+cpu-....whl
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
