"""Run by a Python that is started with this folder on PYTHONPATH: its libcuda is the fake one.

Graphs, names and the device itself are asked of libcuda even where pycuda is installed.
``SIMULATED_GPU_BINDING=libcuda`` hides the fake pycuda; ``SIMULATED_GPU_DRIVER`` is the version of
CUDA that the driver serves (10020 is 10.2).
"""

import ctypes
import os
import sys
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent.parent
_real = ctypes.CDLL
_libraries = {}


def _load(name):
    if name == "libnvidia-ml.so.1":
        raise OSError("libnvidia-ml.so.1: the simulated machine has no NVML")
    if name not in _libraries:
        sys.path.append(str(SUPPORT))
        from fake_cuda import FakeCuda

        _libraries[name] = FakeCuda(int(os.environ.get("SIMULATED_GPU_DRIVER", "12040")))
    return _libraries[name]


class FakeCDLL(_real):
    """As ``ctypes.CDLL``, but for the two libraries."""

    def __new__(cls, name, *arguments, **options):
        if name in ("libcuda.so.1", "libnvidia-ml.so.1"):
            return _load(name)
        return super().__new__(cls)


ctypes.CDLL = FakeCDLL
if os.environ.get("SIMULATED_GPU_BINDING") == "libcuda":
    sys.modules["pycuda"] = None
