"""The GPU, asked before any runtime is imported: TensorRT takes its process with it without one."""

from functools import lru_cache
from typing import Optional

from . import libcuda, through_pycuda
from .errors import GpuError
from .gpu import Gpu, GpuInfo

__all__ = ["Gpu", "GpuError", "GpuInfo", "find_gpu", "open_gpu"]


@lru_cache(maxsize=None)
def find_gpu() -> Optional[GpuInfo]:
    """What the GPU is; None where there is none that works.  Asked once a process.

    Makes no context, and so takes no memory on the GPU.
    """
    try:
        return libcuda.load().info()
    except Exception:  # a broken library fails in any way it likes
        return None


def open_gpu() -> Gpu:
    """The GPU, ready for work: through pycuda where it is installed, else through libcuda.

    Raises ``GpuError`` where there is none that works.
    """
    driver = libcuda.load()
    pycuda = through_pycuda.load()
    if pycuda is not None:
        return through_pycuda.PycudaGpu(pycuda, driver)
    return Gpu(driver)
