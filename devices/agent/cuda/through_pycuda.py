"""A GPU through pycuda, where it is installed: what JetPack's users know.

``pycuda.autoinit`` is never imported: it makes a context of its own, and TensorRT works in the
primary one.  pycuda aborts the process if a context is still pushed when Python ends, so that one
is popped at exit even where nobody closed the GPU.  Its errors have a text alone;
the driver says which code that is.
"""

import atexit
import importlib
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

from .errors import OUT_OF_MEMORY, GpuError
from .gpu import Gpu
from .libcuda import STREAM_NON_BLOCKING, Driver


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

    def __init__(self, pycuda: Any, driver: Driver, ordinal: int = 0) -> None:
        super(PycudaGpu, self).__init__(driver, ordinal)
        self._pycuda = pycuda
        self._memory: Dict[int, Any] = {}
        self._stream_objects: Dict[int, Any] = {}
        with self._errors():
            pycuda.init()
            self._context = pycuda.Device(ordinal).retain_primary_context()
            self._context.push()
        atexit.register(self.close)

    def _alloc(self, count: int) -> int:
        with self._errors():
            allocation = self._pycuda.mem_alloc(count)
        self._memory[int(allocation)] = allocation
        return int(allocation)

    def _free(self, pointer: int) -> None:
        allocation = self._memory.pop(pointer, None)
        if allocation is None:
            raise self._driver.error("free", 1)
        with self._errors():
            allocation.free()

    def to_device(self, pointer: int, content: Any) -> None:
        with self._errors():
            self._pycuda.memcpy_htod(pointer, bytes(content))
            self._pycuda.Context.synchronize()

    def to_host(self, pointer: int, count: int) -> bytes:
        host = bytearray(count)
        with self._errors():
            self._pycuda.memcpy_dtoh(host, pointer)
        return bytes(host)

    def fill(self, pointer: int, byte: int, count: int, stream: Optional[int] = None) -> None:
        with self._errors():
            self._pycuda.memset_d8_async(pointer, byte, count, self._object(stream))
            if stream is None:
                self._pycuda.Context.synchronize()

    def _stream(self) -> int:
        with self._errors():
            stream = self._pycuda.Stream(STREAM_NON_BLOCKING)
        self._stream_objects[stream.handle] = stream
        return int(stream.handle)

    def _destroy_stream(self, stream: int) -> None:
        self._stream_objects.pop(stream, None)  # pycuda destroys what nobody refers to

    def synchronize(self, stream: Optional[int]) -> None:
        with self._errors():
            if stream is None:
                self._pycuda.Context.synchronize()
            else:
                self._object(stream).synchronize()

    def _event(self) -> Any:
        with self._errors():
            return self._pycuda.Event()

    def _destroy_event(self, event: Any) -> None:
        """It goes with the last reference to it."""

    def record(self, event: Any, stream: int) -> None:
        with self._errors():
            event.record(self._object(stream))

    def elapsed_ms(self, first: Any, second: Any) -> float:
        with self._errors():
            return float(first.time_till(second))

    def memory_free_bytes(self) -> int:
        with self._errors():
            return int(self._pycuda.mem_get_info()[0])

    def _leave(self) -> None:
        atexit.unregister(self.close)
        with self._errors():
            self._context.pop()
            self._context.detach()

    def _object(self, stream: Optional[int]) -> Any:
        if stream is None:
            return None
        if stream not in self._stream_objects:
            raise self._driver.error("stream", 400)
        return self._stream_objects[stream]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn pycuda's errors, "cuMemAlloc failed: out of memory", into ours."""
        try:
            yield
        except self._pycuda.Error as error:
            call, _, said = str(error).partition(" failed: ")
            code = self._driver.code_of(said)
            if code is None and isinstance(error, self._pycuda.MemoryError):
                code = OUT_OF_MEMORY
            if code is None:
                raise GpuError(call, None, type(error).__name__, said) from error
            raise self._driver.error(call, code) from error
