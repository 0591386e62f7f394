"""The GPU, asked before any runtime is imported: TensorRT takes its process with it without one."""

from functools import lru_cache
from typing import Optional

from .. import jetson
from . import libcuda, through_pycuda
from .errors import GpuError
from .gpu import Gpu, GpuInfo

__all__ = ["Gpu", "GpuError", "GpuInfo", "find_gpu", "gpu_advice", "gpu_problem", "open_gpu"]

JETSON_ADVICE = (
    "the user must be in the group `video`: sudo usermod -aG video $USER, then log in again"
)
ADVICE = "`nvidia-smi` must list one there, and CUDA_VISIBLE_DEVICES must not hide it"


@lru_cache(maxsize=None)
def find_gpu() -> Optional[GpuInfo]:
    """What the GPU is; None where there is none that works.  Asked once a process.

    Makes no context, and so takes no memory on the GPU.
    """
    try:
        return libcuda.load().info()
    except Exception:  # a broken library fails in any way it likes
        return None


def gpu_problem() -> Optional[str]:
    """Why ``find_gpu`` finds none, in the driver's words; None where there is one."""
    try:
        libcuda.load().info()
    except Exception as error:  # as above
        return str(error) or repr(error)
    return None


def gpu_advice(root: str = "/") -> str:
    """Where to look on a machine that shows no GPU; a Jetson has no ``nvidia-smi``."""
    return JETSON_ADVICE if jetson.is_jetson(root) else ADVICE


def open_gpu() -> Gpu:
    """The GPU, ready for work: through pycuda where it is installed, else through libcuda.

    Raises ``GpuError`` where there is none that works.
    """
    driver = libcuda.load()
    pycuda = through_pycuda.load()
    if pycuda is not None:
        return through_pycuda.PycudaGpu(pycuda, driver)
    return Gpu(driver)
