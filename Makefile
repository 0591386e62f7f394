# Two commands do everything, installation included:
#   make demo   measure a network on this machine, merge it for three budgets, prove it, measure it, show it
#   make test   lint, type-check, test
# A third is for who changes the code for GPUs. It fetches a gigabyte of NVIDIA's wheels from pip's index,
# and needs no GPU; PARTIAL=1 skips what could not be had instead of failing:
#   make test-tensorrt  build and parse all kinds of files with TensorRT's own builder and parsers
#
# PYTHON  the interpreter to make the environment with (3.11 or later)
# TORCH   what pip installs as torch: the version that the tests run with. Any 2.11 to 2.15 will do. On
#         Linux pip's default build brings gigabytes of CUDA; the file or address of a CPU wheel does
#         not: make demo TORCH=./torch-2.13.0+cpu-....whl
# TORCHVISION  the torchvision of a CPU build of torch, a file or address as well. PyPI's is for CUDA:
#         dshrink works with it, a bare `import timm` does not (docs/installing.md)
# JOBS    the processes that run the tests, of 1.5 GB each, now and then 4 GB
# PYTHON36  a Python 3.6 for the tests of the oldest devices, found on the path or among pyenv's; where
#         there is none (or with an empty PYTHON36=) they are skipped
# PYTHON310  a Python 3.10 for NVIDIA's bindings in make test-tensorrt, found in the same way
JOBS ?= 2
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?=
VENV ?= .venv
BIN = $(VENV)/bin
# pyenv puts a python3.6 on the path that fails unless 3.6 is the chosen version: it has to run.
python_of = $(shell for python in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python; \
	do if "$$python" -c "" 2>/dev/null; then echo "$$python"; break; fi; done)
ifeq ($(origin PYTHON36),undefined)
PYTHON36 := $(call python_of,3.6)
endif
# Here the tests look for it.
VENV36 = $(VENV)/python36

# What the tests with NVIDIA's bindings fetch and make: none of it may be passed on.
TENSORRT = build/tensorrt

.PHONY: demo test test-tensorrt lint types install clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	# One command: a second one would let another package's wish replace the torch of the first.
	$(BIN)/python -m pip install --quiet '$(TORCH)' $(if $(TORCHVISION),'$(TORCHVISION)') --editable '.[dev]'
	touch $@

# The oldest that is promised. Python 3.6 brings a pip that does not know the wheels of today.
$(VENV36)/installed: | $(VENV)/installed
	$(PYTHON36) -m venv $(VENV36)
	$(VENV36)/bin/python -m pip install --quiet --upgrade 'pip<22'
	$(VENV36)/bin/python -m pip install --quiet 'onnxruntime==1.10.0' && touch $@ || \
	  { rm -rf $(VENV36); echo "no ONNX Runtime 1.10 for $(PYTHON36): its tests are skipped"; }

install: $(VENV)/installed

demo: install
	$(BIN)/dshrink demo --out demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vermin --quiet --target=3.6- --violations devices/agent devices/boot.py

types: install
	$(BIN)/mypy

test: lint types $(if $(PYTHON36),$(VENV36)/installed)
	# Who is done first takes tests over from the others.
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow and not tensorrt"

test-tensorrt: PYTHON310 ?= $(call python_of,3.10)
test-tensorrt: install
	$(BIN)/python tests/tensorrt/real/environment.py $(TENSORRT) --python '$(PYTHON310)'
	$(if $(PARTIAL),DSHRINK_TENSORRT_PARTIAL=1) OMP_NUM_THREADS=1 $(BIN)/pytest -m tensorrt tests/tensorrt

clean:
	rm -rf $(VENV) build dist *.egg-info demo
