"""A GPU that is not there: memory, streams on a virtual timeline, events, graphs.

The fakes of libcuda and pycuda drive it, and the fake of TensorRT launches its work on it:

    import simulated_gpu
    simulated_gpu.launch(stream, cost_ns, effect)   # enqueue work; ``effect()`` is what it does
    simulated_gpu.memory                            # {pointer: bytearray}, one entry an allocation
    simulated_gpu.read(pointer, count)              # checked, a pointer into an allocation too
    simulated_gpu.write(pointer, data)
    simulated_gpu.check_range(pointer, count)       # as ``read``, but for the bytes
    simulated_gpu.defer(pointer, content)           # written when somebody looks: ``content()``
    simulated_gpu.allocate(count)                   # raises Fault(2) where memory is short
    simulated_gpu.release(pointer)
    simulated_gpu.host_ns_per_launch(4000)          # sets, and without a number gets
    simulated_gpu.reset()                           # as new, with what the environment says

Nothing here takes real time. The host's clock (``host_ns()``) moves on by ``host_ns_per_launch``
with each launch, and to the end of a stream's work when the host waits for it. Work starts when the
host has launched it and the work before it on its stream has ended. While a stream is captured,
work is recorded with its effect, and done each time the graph is launched (one launch of the host).

Faults carry the driver's error codes. A sticky one (an effect that touches memory that is not
there) is reported by every later call, as on a real device.

Environment: SIMULATED_GPU_COUNT, _NAME, _CAPABILITY ("9.0"), _MEMORY_MIB, _L2_KIB. With
SIMULATED_GPU_REAL_TIME=1 the host's clock is the real one, and whoever waits does so for as long as
the work takes.
It runs under Python 3.6 as well: a worker may.
"""

import bisect
import os
import time

OUT_OF_MEMORY = 2
INVALID_VALUE = 1
NO_DEVICE = 100
INVALID_DEVICE = 101
INVALID_CONTEXT = 201
INVALID_HANDLE = 400
ILLEGAL_STATE = 401
NOT_READY = 600
ILLEGAL_ADDRESS = 700
CAPTURE_UNSUPPORTED = 900
CAPTURE_INVALIDATED = 901
STICKY = (ILLEGAL_ADDRESS, 702, 714, 715, 716, 717, 718, 719)

FIRST_POINTER = 0x7F0000000000
ALIGNMENT = 256
GUARD = 1 << 21
EVENT_RESOLUTION_NS = 500
#: A device writes so many bytes in a ns when it is filled.
FILL_BYTES_PER_NS = 4000

#: {pointer: bytearray}: what is allocated.
memory = {}


class Fault(Exception):  # noqa: N818 (a fault of the device, not of the test)
    """What the driver would return as its error code."""

    def __init__(self, code, what=""):
        super().__init__(f"simulated CUDA error {code}: {what}")
        self.code = code


class Stream:
    """Where work ends; while it is captured, the work that was recorded instead."""

    def __init__(self):
        self.ready_ns = 0
        self.captured = None
        self.invalidated = False


class Graph:
    """Recorded work: (cost_ns, effect, cold_ns) each."""

    def __init__(self, work):
        self.work = tuple(work)


class SimulatedGpu:
    """All state; there is one instance, ``gpu``."""

    def __init__(self):
        self._next_pointer = FIRST_POINTER
        self._next_handle = 0x5000
        self.reset()

    def reset(self):
        """As new, but for handles and pointers: what was given back late must not hit new ones."""
        memory.clear()
        self.deferred = {}
        environment = os.environ.get
        self.count = int(environment("SIMULATED_GPU_COUNT", "1"))
        self.name = environment("SIMULATED_GPU_NAME", "Simulated H200")
        capability = environment("SIMULATED_GPU_CAPABILITY", "9.0").split(".")
        self.capability = (int(capability[0]), int(capability[1]))
        self.memory_bytes = int(environment("SIMULATED_GPU_MEMORY_MIB", "4096")) << 20
        self.l2_bytes = int(environment("SIMULATED_GPU_L2_KIB", "64")) << 10
        self.uuid = "GPU-00112233-4455-6677-8899-aabbccddeeff"
        self.driver_version = 12040
        self.is_real_time = environment("SIMULATED_GPU_REAL_TIME") == "1"
        self.began_s = time.perf_counter()
        self.now_ns = 0
        self.launch_ns = 4000
        self.launches = 0
        self.broken = 0
        self.cold = False
        self.retained = 0
        self.current = 0
        self.streams = {0: Stream()}
        self.events = {}

    # Memory

    def allocate(self, count):
        """A new pointer to so many bytes."""
        self.check()
        if count <= 0:
            raise Fault(INVALID_VALUE, f"allocate {count} bytes")
        if count > self.free_bytes():
            raise Fault(OUT_OF_MEMORY, f"{count} bytes of {self.free_bytes()} free ones")
        pointer = self._next_pointer
        self._next_pointer += -(-count // ALIGNMENT) * ALIGNMENT + GUARD
        memory[pointer] = bytearray(count)
        return pointer

    def release(self, pointer):
        """Free an allocation, given where it starts."""
        self.check()
        if pointer not in memory:
            raise Fault(INVALID_VALUE, f"free of {pointer:#x}, which is not allocated")
        self.deferred.pop(pointer, None)
        del memory[pointer]

    def free_bytes(self):
        """What is left."""
        return self.memory_bytes - sum(map(len, memory.values()))

    def read(self, pointer, count):
        """The bytes there; Fault(700) where an allocation does not hold all of them."""
        start, data = self._within(pointer, count)
        return bytes(data[pointer - start : pointer - start + count])

    def write(self, pointer, content):
        """Put bytes there; Fault(700) where an allocation does not hold all of them."""
        content = bytes(content)
        start, data = self._within(pointer, len(content))
        data[pointer - start : pointer - start + len(content)] = content

    def check_range(self, pointer, count):
        """Fault(700) where an allocation does not hold all of these bytes."""
        self._place(pointer, count)

    def defer(self, pointer, content):
        """Have the bytes of ``content()`` there, made when that allocation is looked at."""
        self.deferred[self._place(pointer, 0)] = (pointer, content)

    def _within(self, pointer, count):
        start = self._place(pointer, count)
        later = self.deferred.pop(start, None)
        if later is not None:
            self.write(later[0], later[1]())
        return start, memory[start]

    def _place(self, pointer, count):
        starts = sorted(memory)
        place = bisect.bisect_right(starts, pointer) - 1
        if place < 0 or count < 0 or pointer + count > starts[place] + len(memory[starts[place]]):
            raise Fault(ILLEGAL_ADDRESS, f"{count} bytes at {pointer:#x} are not allocated")
        return starts[place]

    # Work

    def launch(self, stream, cost_ns, effect=None, cold_ns=0):
        """Enqueue work of ``cost_ns``, and ``cold_ns`` more where the cache was just flushed.

        ``effect`` takes nothing, and reads and writes memory. It is done at once (the host must
        not look before it has waited, and cannot tell), and again whenever its graph is launched.
        """
        self.check()
        found = self.stream(stream)
        self._let_pass(self.launch_ns)
        if found.captured is not None:
            found.captured.append((int(cost_ns), effect, int(cold_ns)))
        else:
            self.launches += 1
            self._do(found, int(cost_ns), effect, int(cold_ns))

    def _do(self, stream, cost_ns, effect, cold_ns):
        stream.ready_ns = max(stream.ready_ns, self.now_ns) + cost_ns
        stream.ready_ns += cold_ns if self.cold else 0
        self.cold = False
        if effect is not None:
            try:
                effect()
            except Fault as fault:
                self.broken = fault.code

    def fill(self, pointer, byte, count, stream=0):
        """Enqueue a fill; one of at least the cache's size leaves the cache cold."""

        def effect():
            self.write(pointer, bytes([byte]) * count)
            self.cold = self.cold or count >= self.l2_bytes

        try:
            self._within(pointer, count)
        except Fault:
            raise Fault(INVALID_VALUE, f"fill of {count} bytes at {pointer:#x}") from None
        self.launch(stream, count // FILL_BYTES_PER_NS, effect)

    def host_ns(self):
        """The host's virtual clock."""
        return self.now_ns

    def _let_pass(self, ns):
        """What the host needs for a launch; the real one needs what it needs."""
        self.now_ns = self._real_ns() if self.is_real_time else self.now_ns + ns

    def _wait_until(self, ns):
        while self.is_real_time and self._real_ns() < ns:
            time.sleep(0)  # so short a time that no sleep would be as short
        self._let_pass(0)
        self.now_ns = max(self.now_ns, ns)

    def _real_ns(self):
        return int((time.perf_counter() - self.began_s) * 1e9)

    def host_ns_per_launch(self, ns=None):
        """How long the host takes for a launch; a number sets it."""
        if ns is not None:
            self.launch_ns = int(ns)
        return self.launch_ns

    # The primary context

    def retain(self):
        """Hold the primary context."""
        self.retained += 1

    def drop(self):
        """Let it go; nobody holds it, nobody can use it."""
        if not self.retained:
            raise Fault(INVALID_CONTEXT, "released more often than retained")
        self.retained -= 1
        if not self.retained:
            self.current = 0

    # Streams and events

    def check(self):
        """Raise the sticky fault, if there was one."""
        if self.broken:
            raise Fault(self.broken, "sticky")

    def new_stream(self):
        """A new stream's handle."""
        self.check()
        handle = self._handle()
        self.streams[handle] = Stream()
        return handle

    def stream(self, handle):
        """The stream of a handle; 0 or None is the default one."""
        if (handle or 0) not in self.streams:
            raise Fault(INVALID_HANDLE, f"no stream {handle!r}")
        return self.streams[handle or 0]

    def destroy_stream(self, handle):
        """Give a stream back."""
        self.stream(handle)
        if not handle:
            raise Fault(INVALID_HANDLE, "the default stream cannot be destroyed")
        del self.streams[handle]

    def synchronize(self, handle):
        """The host waits for a stream."""
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.invalidated = True
            raise Fault(CAPTURE_UNSUPPORTED, "a stream that is captured cannot be waited for")
        self.check()
        self._wait_until(stream.ready_ns)

    def new_event(self):
        """A new event's handle."""
        self.check()
        handle = self._handle()
        self.events[handle] = None
        return handle

    def record(self, event, handle):
        """Note on the stream's timeline."""
        self.check()
        stream = self.stream(handle)
        self._event(event)
        if stream.captured is not None:
            stream.invalidated = True
            raise Fault(CAPTURE_UNSUPPORTED, "this fake times no captured work")
        self.events[event] = max(stream.ready_ns, self.now_ns)

    def wait_event(self, event):
        """The host waits for an event; one that was never recorded is over already."""
        self.check()
        self._wait_until(self._event(event) or 0)

    def elapsed_ms(self, first, second):
        """Between two events, to half a microsecond."""
        self.check()
        times = [self._event(first), self._event(second)]
        if None in times:
            raise Fault(INVALID_HANDLE, "an event that was never recorded")
        if max(times) > self.now_ns:
            raise Fault(NOT_READY, "the host did not wait for the event")
        ns = times[1] - times[0]
        return round(ns / EVENT_RESOLUTION_NS) * EVENT_RESOLUTION_NS / 1e6

    def destroy_event(self, event):
        """Give an event back."""
        self._event(event)
        del self.events[event]

    # Graphs

    def begin_capture(self, handle):
        """Record from now on what is launched on this stream."""
        self.check()
        stream = self.stream(handle)
        if not handle:
            raise Fault(CAPTURE_UNSUPPORTED, "the default stream cannot be captured")
        if stream.captured is not None:
            raise Fault(ILLEGAL_STATE, "captured already")
        stream.captured, stream.invalidated = [], False

    def end_capture(self, handle):
        """The graph of what was launched meanwhile."""
        stream = self.stream(handle)
        if stream.captured is None:
            raise Fault(ILLEGAL_STATE, "not captured")
        work, stream.captured = stream.captured, None
        if stream.invalidated:
            raise Fault(CAPTURE_INVALIDATED, "the capture failed inside")
        return Graph(work)

    def is_captured(self, handle):
        """Whether a stream is being captured."""
        return self.stream(handle).captured is not None

    def launch_graph(self, graph, handle):
        """Do a graph's work."""
        self.check()
        stream = self.stream(handle)
        self._let_pass(self.launch_ns)
        self.launches += 1
        for cost_ns, effect, cold_ns in graph.work:
            self._do(stream, cost_ns, effect, cold_ns)

    def _event(self, event):
        if event not in self.events:
            raise Fault(INVALID_HANDLE, f"no event {event!r}")
        return self.events[event]

    def _handle(self):
        self._next_handle += 0x10
        return self._next_handle


gpu = SimulatedGpu()
reset = gpu.reset
allocate = gpu.allocate
release = gpu.release
read = gpu.read
write = gpu.write
check_range = gpu.check_range
defer = gpu.defer
launch = gpu.launch
host_ns = gpu.host_ns
host_ns_per_launch = gpu.host_ns_per_launch
is_captured = gpu.is_captured
