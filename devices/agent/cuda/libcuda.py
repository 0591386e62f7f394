"""NVIDIA's driver through ctypes alone: no pycuda, no CUDA toolkit.

Every function used is one that drivers from CUDA 10.2 (JetPack 4.6) on export.  Names that cuda.h
hides behind macros are the real ones: ``cuMemAlloc`` is the one of CUDA 2, with 32-bit sizes, and
``cuMemAlloc_v2`` the one that is meant.  (``_ptsz`` names, with a default stream a thread, are not:
TensorRT uses the legacy one.)
"""

import ctypes
import os
import uuid
from contextlib import suppress
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_float,
    c_int,
    c_size_t,
    c_ubyte,
    c_uint,
    c_uint64,
    c_ulonglong,
    c_void_p,
)
from typing import Any, Dict, List, Optional

from .errors import GpuError
from .gpu import GpuInfo

#: Another library to take for the driver's.
LIBRARY_VARIABLE = "DSHRINK_LIBCUDA"
LIBRARIES = ("libcuda.so.1", "libcuda.so")

L2_CACHE_SIZE = 38
COMPUTE_CAPABILITY_MAJOR = 75
COMPUTE_CAPABILITY_MINOR = 76

_HANDLE = c_void_p
_POINTER = c_uint64  # CUdeviceptr
_FUNCTIONS: Dict[str, List[Any]] = {
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetUuid": [c_void_p, c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDeviceTotalMem_v2": [POINTER(c_size_t), c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(_HANDLE), c_int],
    "cuDevicePrimaryCtxRelease": [c_int],
    "cuCtxSetCurrent": [_HANDLE],
    "cuCtxSynchronize": [],
    "cuMemGetInfo_v2": [POINTER(c_size_t), POINTER(c_size_t)],
    "cuMemAlloc_v2": [POINTER(_POINTER), c_size_t],
    "cuMemFree_v2": [_POINTER],
    "cuMemcpyHtoD_v2": [_POINTER, c_void_p, c_size_t],
    "cuMemcpyDtoH_v2": [c_void_p, _POINTER, c_size_t],
    "cuMemsetD8Async": [_POINTER, c_ubyte, c_size_t, _HANDLE],
    "cuStreamCreate": [POINTER(_HANDLE), c_uint],
    "cuStreamDestroy_v2": [_HANDLE],
    "cuStreamSynchronize": [_HANDLE],
    "cuEventCreate": [POINTER(_HANDLE), c_uint],
    "cuEventDestroy_v2": [_HANDLE],
    "cuEventRecord": [_HANDLE, _HANDLE],
    "cuEventElapsedTime": [POINTER(c_float), _HANDLE, _HANDLE],
    "cuStreamBeginCapture_v2": [_HANDLE, c_int],
    "cuStreamEndCapture": [_HANDLE, POINTER(_HANDLE)],
    # From CUDA 11.4 on; before, the one with the room for a log.
    "cuGraphInstantiateWithFlags": [POINTER(_HANDLE), _HANDLE, c_ulonglong],
    "cuGraphInstantiate": [POINTER(_HANDLE), _HANDLE, POINTER(_HANDLE), c_char_p, c_size_t],
    "cuGraphLaunch": [_HANDLE, _HANDLE],
    "cuGraphExecDestroy": [_HANDLE],
    "cuGraphDestroy": [_HANDLE],
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
}


class Driver(object):
    """The driver's functions; one that fails raises ``GpuError``."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._functions: Dict[str, Any] = {}
        self.call("cuInit", 0)

    def has(self, name: str) -> bool:
        """Whether this driver exports a function."""
        return hasattr(self._library, name)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by its exported name."""
        code = self._function(name)(*arguments)
        if code:
            raise self.error(name, code)

    def error(self, call: str, code: int) -> GpuError:
        """The error of a code, as the driver names it."""
        name = self._text("cuGetErrorName", code) or f"CUDA_ERROR_{code}"
        return GpuError(call, code, name, self._text("cuGetErrorString", code))

    def code_of(self, said: str) -> Optional[int]:
        """The code that the driver explains with these words; None for none."""
        codes = (code for code in range(1, 1000) if self._text("cuGetErrorString", code) == said)
        return next(codes, None)

    def number(self, name: str, *arguments: Any) -> int:
        """The int that a function writes to its first argument."""
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value

    def handle(self, name: str, *arguments: Any) -> int:
        """The handle that a function writes to its first argument."""
        value = c_void_p()
        self.call(name, byref(value), *arguments)
        return value.value or 0

    def info(self) -> GpuInfo:
        """What the first device is; for what nothing here depends on it need have no answer."""
        device = self.number("cuDeviceGet", 0)
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, len(name), device)
        memory = c_size_t()
        self.call("cuDeviceTotalMem_v2", byref(memory), device)
        version = self.number("cuDriverGetVersion")
        return GpuInfo(
            name=name.value.decode("utf-8", "replace"),
            compute_capability=(
                self.number("cuDeviceGetAttribute", COMPUTE_CAPABILITY_MAJOR, device),
                self.number("cuDeviceGetAttribute", COMPUTE_CAPABILITY_MINOR, device),
            ),
            driver_cuda=f"{version // 1000}.{version % 1000 // 10}",
            memory_bytes=memory.value,
            l2_bytes=self._l2_bytes(device),
            uuid=self._uuid(device),
        )

    def end_capture(self, stream: int) -> int:
        """The graph of what was enqueued since the capture began."""
        graph = c_void_p()
        self.call("cuStreamEndCapture", stream, byref(graph))
        return graph.value or 0

    def instantiate(self, graph: int) -> int:
        """Make a graph executable."""
        if self.has("cuGraphInstantiateWithFlags"):
            return self.handle("cuGraphInstantiateWithFlags", graph, 0)
        return self.handle("cuGraphInstantiate", graph, None, None, 0)

    def _l2_bytes(self, device: int) -> Optional[int]:
        with suppress(GpuError):
            return self.number("cuDeviceGetAttribute", L2_CACHE_SIZE, device) or None
        return None

    def _uuid(self, device: int) -> str:
        """What NVML knows the device by; "" where the driver does not tell it."""
        raw = ctypes.create_string_buffer(16)
        with suppress(GpuError):
            self.call("cuDeviceGetUuid", raw, device)
            return f"GPU-{uuid.UUID(bytes=raw.raw)}"
        return ""

    def _text(self, name: str, code: int) -> str:
        text = c_char_p()
        if not self.has(name) or self._function(name)(code, byref(text)):
            return ""
        return (text.value or b"").decode("ascii", "replace")

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            function = getattr(self._library, name, None)
            if function is None:
                raise GpuError(name, None, "NO_FUNCTION", "this driver is older than CUDA 10.2")
            function.argtypes, function.restype = _FUNCTIONS[name], c_int
            self._functions[name] = function
        return self._functions[name]


def load() -> Driver:
    """The driver of this machine; raises ``GpuError`` where there is none, or none that works."""
    chosen = os.environ.get(LIBRARY_VARIABLE)
    problem = ""
    for name in (chosen,) if chosen else LIBRARIES:
        try:
            return Driver(ctypes.CDLL(name))
        except OSError as error:
            problem = problem or str(error)
    raise GpuError("libcuda", None, "NO_DRIVER", problem)
