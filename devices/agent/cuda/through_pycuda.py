"""A GPU through pycuda, where it is installed: what JetPack's users know.

``pycuda.autoinit`` is never imported: it makes a context of its own, and TensorRT works in the
primary one.  pycuda aborts the process if a context is still pushed when Python ends, so that one
is popped at exit even where nobody closed the GPU.  Its errors have a text alone;
the driver says which code that is.
"""

import atexit
import importlib
from typing import Any, Callable, Dict, Optional

from .errors import OUT_OF_MEMORY, GpuError
from .gpu import STREAM_NON_BLOCKING, Gpu
from .libcuda import Driver


def load() -> Any:
    """The module ``pycuda.driver``; None where it is missing, too old (2020.1) or does not work."""
    try:
        pycuda = importlib.import_module("pycuda.driver")
    except Exception:  # built for another CUDA, it fails in ways of its own
        return None
    return pycuda if hasattr(pycuda.Device, "retain_primary_context") else None


class PycudaGpu(Gpu):
    """A GPU through pycuda; ``driver`` is libcuda's, for graphs and names."""

    binding = "pycuda"

    def __init__(self, pycuda: Any, driver: Driver) -> None:
        self._pycuda = pycuda
        self._memory: Dict[int, Any] = {}
        self._stream_objects: Dict[int, Any] = {}
        super(PycudaGpu, self).__init__(driver)

    def to_device(self, pointer: int, content: Any) -> None:
        self._call(self._pycuda.memcpy_htod, pointer, bytes(content))
        self._call(self._pycuda.Context.synchronize)

    def to_host(self, pointer: int, count: int) -> bytes:
        host = bytearray(count)
        self._call(self._pycuda.memcpy_dtoh, host, pointer)
        return bytes(host)

    def fill(self, pointer: int, byte: int, count: int, stream: Optional[int] = None) -> None:
        where = None if stream is None else self._object(stream)
        self._call(self._pycuda.memset_d8_async, pointer, byte, count, where)
        if stream is None:
            self.synchronize(None)

    def synchronize(self, stream: Optional[int]) -> None:
        waited_for = self._pycuda.Context if stream is None else self._object(stream)
        self._call(waited_for.synchronize)

    def record(self, event: Any, stream: int) -> None:
        self._call(event.record, self._object(stream))

    def elapsed_ms(self, first: Any, second: Any) -> float:
        return float(self._call(first.time_till, second))

    def memory_free_bytes(self) -> int:
        return int(self._call(self._pycuda.mem_get_info)[0])

    def _enter(self) -> None:
        self._call(self._pycuda.init)
        device = self._call(self._pycuda.Device, 0)
        self._context = self._call(device.retain_primary_context)
        self._call(self._context.push)
        atexit.register(self.close)

    def _leave(self) -> None:
        atexit.unregister(self.close)
        self._call(self._context.pop)
        self._call(self._context.detach)

    def _alloc(self, count: int) -> int:
        allocation = self._call(self._pycuda.mem_alloc, count)
        self._memory[int(allocation)] = allocation
        return int(allocation)

    def _free(self, pointer: int) -> None:
        allocation = self._memory.pop(pointer, None)
        if allocation is None:
            raise self._driver.error("free", 1)
        self._call(allocation.free)

    def _new_stream(self) -> int:
        stream = self._call(self._pycuda.Stream, STREAM_NON_BLOCKING)
        self._stream_objects[stream.handle] = stream
        return int(stream.handle)

    def _destroy_stream(self, stream: int) -> None:
        self._stream_objects.pop(stream, None)  # pycuda destroys what nobody refers to

    def _new_event(self) -> Any:
        return self._call(self._pycuda.Event)

    def _destroy_event(self, event: Any) -> None:
        """It goes with the last reference to it."""

    def _object(self, stream: int) -> Any:
        if stream not in self._stream_objects:
            raise self._driver.error("stream", 400)
        return self._stream_objects[stream]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it; pycuda's errors, "cuMemAlloc failed: out of memory", become ours."""
        try:
            return function(*arguments)
        except self._pycuda.Error as error:
            call, _, said = str(error).partition(" failed: ")
            code = self._driver.code_of(said)
            if code is None and isinstance(error, self._pycuda.MemoryError):
                code = OUT_OF_MEMORY
            if code is None:
                raise GpuError(call, None, type(error).__name__, said) from error
            raise self._driver.error(call, code) from error
