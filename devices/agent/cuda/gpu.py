"""A GPU as the runtimes use it: memory, streams, events and graphs in its primary context.

``Gpu`` needs the driver's library alone; through_pycuda.py does the same by pycuda where that is
installed.  Graphs are captured through libcuda's functions in both: no release of pycuda has them.
"""

import ctypes
from contextlib import suppress
from ctypes import byref, c_float, c_size_t, c_uint64
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from .errors import GpuError

#: The library that is captured may allocate meanwhile; the other modes forbid it.
CAPTURE_RELAXED = 2
STREAM_NON_BLOCKING = 1
EVENT_DEFAULT = 0


class GpuInfo(NamedTuple):
    """What a GPU is; ``driver_cuda`` is the newest CUDA that its driver serves ("12.4")."""

    name: str
    compute_capability: Tuple[int, int]
    driver_cuda: str
    memory_bytes: int
    l2_bytes: Optional[int]
    uuid: str


class Gpu(object):
    """The first GPU, in its primary context, which TensorRT and PyTorch share.

    Streams do not wait for the default stream.  ``close`` gives everything back that was not given
    back before.  For use by the thread that opened it; ``driver`` is a ``libcuda.Driver``.
    """

    binding = "libcuda"

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.info: GpuInfo = driver.info()
        #: What is to be given back, in the order in which it was made, and how.
        self._kept: List[Tuple[Callable[[Any], None], Any]] = []
        self._is_open = True
        self._enter()

    def alloc(self, count: int) -> int:
        """Allocate so many bytes, 1 at least; an error that is ``out_of_memory`` for too many."""
        pointer = self._alloc(max(1, count))
        self._kept.append((self._free, pointer))
        return pointer

    def free(self, pointer: int) -> None:
        """Give an allocation back."""
        self._give_back(self._free, pointer)

    def to_device(self, pointer: int, content: Any) -> None:
        """Copy bytes (or what ``bytes`` takes) to the GPU; they are there when it returns."""
        data = bytes(content)
        self._driver.call("cuMemcpyHtoD_v2", pointer, data, len(data))
        # It may return when the bytes are only staged; our streams would not wait for the rest.
        self._driver.call("cuCtxSynchronize")

    def to_host(self, pointer: int, count: int) -> bytes:
        """Copy bytes from the GPU; wait for the stream that writes them first."""
        host = ctypes.create_string_buffer(count)
        self._driver.call("cuMemcpyDtoH_v2", host, pointer, count)
        return host.raw

    def fill(self, pointer: int, byte: int, count: int, stream: Optional[int] = None) -> None:
        """Fill memory with a byte: on a stream, or, without one, before it returns."""
        self._driver.call("cuMemsetD8Async", pointer, byte, count, stream)
        if stream is None:
            self.synchronize(None)

    def stream(self) -> int:
        """A new stream's handle, as TensorRT takes it."""
        stream = self._new_stream()
        self._kept.append((self._destroy_stream, stream))
        return stream

    def synchronize(self, stream: Optional[int]) -> None:
        """Wait for all work of a stream; None is the default stream."""
        self._driver.call("cuStreamSynchronize", stream)

    def event(self) -> Any:
        """A new event that keeps the time."""
        event = self._new_event()
        self._kept.append((self._destroy_event, event))
        return event

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        self._give_back(self._destroy_event, event)

    def record(self, event: Any, stream: int) -> None:
        """Note the time when the stream's work until here is done."""
        self._driver.call("cuEventRecord", event, stream)

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Between two recorded events, to about half a microsecond; wait for the second first."""
        elapsed = c_float()
        self._driver.call("cuEventElapsedTime", byref(elapsed), first, second)
        return elapsed.value

    def capture(self, stream: int, enqueue: Callable[[], Any]) -> Callable[[], None]:
        """Make one CUDA graph of what ``enqueue`` puts on the stream; returns what launches it.

        The work must have been enqueued once before: libraries set themselves up in their first
        run, which cannot be captured.
        """
        call = self._driver.call
        call("cuStreamBeginCapture_v2", stream, CAPTURE_RELAXED)
        try:
            enqueue()
        except BaseException:
            with suppress(GpuError):  # what failed inside may have invalidated the capture
                call("cuGraphDestroy", self._driver.end_capture(stream))
            raise
        graph = self._driver.end_capture(stream)
        try:
            executable = self._driver.instantiate(graph)
        finally:
            call("cuGraphDestroy", graph)
        self._kept.append((self._destroy_graph, executable))
        return lambda: call("cuGraphLaunch", executable, stream)

    def memory_free_bytes(self) -> int:
        """What could be allocated now, by anyone."""
        free, total = c_size_t(), c_size_t()
        self._driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return int(free.value)

    def close(self) -> None:
        """Give everything back; a GPU that failed for good is left without complaint."""
        if not self._is_open:
            return
        self._is_open = False
        while self._kept:
            give_back, thing = self._kept.pop()
            with suppress(GpuError):
                give_back(thing)
        with suppress(GpuError):
            self._leave()

    def _give_back(self, how: Callable[[Any], None], thing: Any) -> None:
        if (how, thing) in self._kept:
            self._kept.remove((how, thing))
        how(thing)

    def _destroy_graph(self, executable: int) -> None:
        self._driver.call("cuGraphExecDestroy", executable)

    def _enter(self) -> None:
        self._device = self._driver.number("cuDeviceGet", 0)
        context = self._driver.handle("cuDevicePrimaryCtxRetain", self._device)
        self._driver.call("cuCtxSetCurrent", context)

    def _leave(self) -> None:
        self._driver.call("cuDevicePrimaryCtxRelease", self._device)

    def _alloc(self, count: int) -> int:
        pointer = c_uint64()
        self._driver.call("cuMemAlloc_v2", byref(pointer), count)
        return int(pointer.value)

    def _free(self, pointer: int) -> None:
        self._driver.call("cuMemFree_v2", pointer)

    def _new_stream(self) -> int:
        return int(self._driver.handle("cuStreamCreate", STREAM_NON_BLOCKING))

    def _destroy_stream(self, stream: int) -> None:
        self._driver.call("cuStreamDestroy_v2", stream)

    def _new_event(self) -> Any:
        return self._driver.handle("cuEventCreate", EVENT_DEFAULT)

    def _destroy_event(self, event: Any) -> None:
        self._driver.call("cuEventDestroy_v2", event)
