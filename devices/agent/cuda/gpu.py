"""A GPU as the runtimes use it, whichever way the driver is reached.

The two ways (libcuda.py, through_pycuda.py) fill in the same methods.  Graphs are captured through
libcuda's functions in both: no release of pycuda has them.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .errors import GpuError

#: The library that is captured may allocate meanwhile; the other modes forbid it.
CAPTURE_RELAXED = 2


class GpuInfo(NamedTuple):
    """What a GPU is; ``driver_cuda`` is the newest CUDA that its driver serves ("12.4")."""

    name: str
    compute_capability: Tuple[int, int]
    driver_cuda: str
    memory_bytes: int
    l2_bytes: Optional[int]
    uuid: str


class Gpu(object):
    """Memory, streams, events and graphs of one GPU, in its primary context.

    Streams do not wait for the default stream.  ``close`` gives everything back that was not given
    back before.  For use by the thread that opened it.
    """

    binding = ""

    def __init__(self, driver: Any, ordinal: int) -> None:
        self._driver = driver
        self.info: GpuInfo = driver.info(ordinal)
        self._allocated: List[int] = []
        self._streams: List[int] = []
        self._events: List[Any] = []
        self._graphs: Dict[int, int] = {}
        self._is_open = True

    def alloc(self, count: int) -> int:
        """Allocate so many bytes, 1 at least; an error that is ``out_of_memory`` for too many."""
        pointer = self._alloc(max(1, count))
        self._allocated.append(pointer)
        return pointer

    def free(self, pointer: int) -> None:
        """Give an allocation back."""
        if pointer in self._allocated:
            self._allocated.remove(pointer)
        self._free(pointer)

    def to_device(self, pointer: int, content: Any) -> None:
        """Copy bytes (or what ``bytes`` takes) to the GPU; they are there when it returns."""
        raise NotImplementedError

    def to_host(self, pointer: int, count: int) -> bytes:
        """Copy bytes from the GPU; wait for the stream that writes them first."""
        raise NotImplementedError

    def fill(self, pointer: int, byte: int, count: int, stream: Optional[int] = None) -> None:
        """Fill memory with a byte: on a stream, or, without one, before it returns."""
        raise NotImplementedError

    def stream(self) -> int:
        """A new stream's handle, as TensorRT takes it."""
        stream = self._stream()
        self._streams.append(stream)
        return stream

    def synchronize(self, stream: Optional[int]) -> None:
        """Wait for all work of a stream; None is the default stream."""
        raise NotImplementedError

    def event(self) -> Any:
        """A new event that keeps the time."""
        event = self._event()
        self._events.append(event)
        return event

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        self._events.remove(event)
        self._destroy_event(event)

    def record(self, event: Any, stream: int) -> None:
        """Note the time when the stream's work until here is done."""
        raise NotImplementedError

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Between two recorded events, to about half a microsecond; wait for the second first."""
        raise NotImplementedError

    def capture(self, stream: int, enqueue: Callable[[], Any]) -> Callable[[], None]:
        """Make one CUDA graph of what ``enqueue`` puts on the stream; returns what launches it.

        The work must have been enqueued once before: libraries set themselves up in their first
        run, which cannot be captured.
        """
        self._driver.call("cuStreamBeginCapture_v2", stream, CAPTURE_RELAXED)
        try:
            enqueue()
        except BaseException:
            self._abandon_capture(stream)
            raise
        graph = self._driver.end_capture(stream)
        try:
            executable = self._driver.instantiate(graph)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        self._graphs[executable] = stream
        call = self._driver.call

        def launch() -> None:
            call("cuGraphLaunch", executable, stream)

        return launch

    def memory_free_bytes(self) -> int:
        """What could be allocated now, by anyone."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back; a GPU that failed for good is left without complaint."""
        if not self._is_open:
            return
        self._is_open = False
        steps: List[Tuple[Callable[..., None], List[Any]]] = [
            (self._destroy_graph, list(self._graphs)),
            (self._destroy_event, self._events),
            (self._destroy_stream, self._streams),
            (self._free, self._allocated),
        ]
        for give_back, things in steps:
            for thing in things:
                _quietly(give_back, thing)
            del things[:]
        self._graphs.clear()
        _quietly(self._leave)

    def __enter__(self) -> "Gpu":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _abandon_capture(self, stream: int) -> None:
        try:
            graph = self._driver.end_capture(stream)
        except GpuError:
            return  # what failed inside invalidated the capture
        _quietly(self._driver.call, "cuGraphDestroy", graph)

    def _destroy_graph(self, executable: int) -> None:
        self._driver.call("cuGraphExecDestroy", executable)

    def _alloc(self, count: int) -> int:
        raise NotImplementedError

    def _free(self, pointer: int) -> None:
        raise NotImplementedError

    def _stream(self) -> int:
        raise NotImplementedError

    def _destroy_stream(self, stream: int) -> None:
        raise NotImplementedError

    def _event(self) -> Any:
        raise NotImplementedError

    def _destroy_event(self, event: Any) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError


def _quietly(act: Callable[..., Any], *arguments: Any) -> None:
    try:
        act(*arguments)
    except GpuError:
        pass
