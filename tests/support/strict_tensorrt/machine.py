"""A machine with a simulated GPU and a strict fake of TensorRT, inside the process of a test."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
from fake_cuda import FakeCuda, simulated

from devices.agent import cuda
from devices.agent.cuda import libcuda

from . import build

#: A GPU that every version here supports.
TURING = (7, 5)


def install(
    patch: pytest.MonkeyPatch, version: str, capability: tuple[int, int] = TURING, gpus: int = 1
) -> Any:
    """Make the fakes what the agent finds; returns the fake ``tensorrt``."""
    gpu = simulated()
    gpu.reset()
    gpu.gpu.capability, gpu.gpu.count = capability, gpus
    library, real = FakeCuda(), ctypes.CDLL
    patch.setattr(
        libcuda.ctypes,
        "CDLL",
        lambda name, *rest: library if "libcuda" in str(name) else real(name, *rest),
    )
    for name in ("pycuda", "pycuda.driver"):
        patch.setitem(sys.modules, name, None)
    cuda.find_gpu.cache_clear()
    module = build(version)
    patch.setitem(sys.modules, "tensorrt", module)
    return module
