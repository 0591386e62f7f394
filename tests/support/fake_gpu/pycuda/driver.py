"""A strict fake of ``pycuda.driver``: the names and signatures of its wrapper (wrap_cudadrv.cpp).

It insists, as the real one does, on ``init``, on a current context, on Stream objects where a
stream is meant, and on buffers.  Errors carry a text and no code.  There are no graphs.
"""

import simulated_gpu as _simulated

_ERRORS = {
    1: "invalid argument",
    2: "out of memory",
    3: "initialization error",
    100: "no CUDA-capable device is detected",
    101: "invalid device ordinal",
    201: "invalid device context",
    400: "invalid resource handle",
    600: "device not ready",
    700: "an illegal memory access was encountered",
    719: "unspecified launch failure",
    900: "operation not permitted when stream is capturing",
    999: "unknown error",
}
_state = {"ready": False, "contexts": []}


class Error(Exception):
    pass


class MemoryError(Error, MemoryError):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):
    pass


def _do(routine, act, *arguments):
    try:
        return act(*arguments)
    except _simulated.Fault as fault:
        raise _error(routine, fault.code) from None


def _error(routine, code):
    kind = {2: MemoryError, 719: LaunchError, 100: RuntimeError, 600: RuntimeError, 999: Error}
    return kind.get(code, LogicError)(f"{routine} failed: {_ERRORS[code]}")


def _need_context():
    if not _state["ready"]:
        raise _error("explicit_context_dependent", 3)
    if not _state["contexts"]:
        raise LogicError(
            "explicit_context_dependent failed: invalid device context - "
            "no currently active context?"
        )


def _handle(stream):
    if stream is None:
        return 0
    if not isinstance(stream, Stream):
        raise TypeError(f"No registered converter from {type(stream)} to pycuda::stream")
    return stream.handle


def _pointer(value):
    if isinstance(value, DeviceAllocation):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Python argument types did not match C++ signature: {value!r}")
    return value


def init(flags=0):
    if _simulated.gpu.count == 0:
        raise _error("cuInit", 100)
    _state["ready"] = True


def get_version():
    return (12, 4, 0)


def get_driver_version():
    return _simulated.gpu.driver_version


class Device:
    def __init__(self, number):
        if not _state["ready"]:
            raise _error("cuDeviceGet", 3)
        if not 0 <= number < _simulated.gpu.count:
            raise _error("cuDeviceGet", 101)
        self._number = number

    @staticmethod
    def count():
        return _simulated.gpu.count

    def name(self):
        return _simulated.gpu.name

    def compute_capability(self):
        return _simulated.gpu.capability

    def total_memory(self):
        return _simulated.gpu.memory_bytes

    def retain_primary_context(self):
        return Context(self)


class Context:
    def __init__(self, device):
        if not isinstance(device, Device):
            raise Error("This class cannot be instantiated from Python")
        self._is_valid = True
        _simulated.gpu.retain()

    def push(self):
        if not self._is_valid:
            raise _error("cuCtxPushCurrent", 201)
        _state["contexts"].append(self)
        _simulated.gpu.current = 1

    @staticmethod
    def pop():
        if not _state["contexts"]:
            raise LogicError("context::pop failed: invalid device context")
        _state["contexts"].pop()
        _simulated.gpu.current = len(_state["contexts"])

    def detach(self):
        if not self._is_valid:
            raise LogicError("context::detach failed: invalid device context")
        self._is_valid = False
        _do("cuDevicePrimaryCtxRelease", _simulated.gpu.drop)

    @staticmethod
    def synchronize():
        _need_context()
        for stream in list(_simulated.gpu.streams):
            _do("cuCtxSynchronize", _simulated.gpu.synchronize, stream)


class Stream:
    def __init__(self, flags=0):
        _need_context()
        if flags not in (0, 1):
            raise _error("cuStreamCreate", 1)
        self._handle = _do("cuStreamCreate", _simulated.gpu.new_stream)

    @property
    def handle(self):
        return self._handle

    def synchronize(self):
        _do("cuStreamSynchronize", _simulated.gpu.synchronize, self._handle)

    def is_done(self):
        return _simulated.gpu.stream(self._handle).ready_ns <= _simulated.host_ns()

    def __del__(self):
        if hasattr(self, "_handle") and self._handle in _simulated.gpu.streams:
            _simulated.gpu.destroy_stream(self._handle)


class Event:
    def __init__(self, flags=0):
        _need_context()
        if flags != 0:
            raise _error("cuEventCreate", 1)
        self._event = _do("cuEventCreate", _simulated.gpu.new_event)

    def record(self, stream=None):
        _do("cuEventRecord", _simulated.gpu.record, self._event, _handle(stream))
        return self

    def synchronize(self):
        _do("cuEventSynchronize", _simulated.gpu.wait_event, self._event)
        return self

    def query(self):
        return (_simulated.gpu.events[self._event] or 0) <= _simulated.host_ns()

    def time_since(self, event):
        return event.time_till(self)

    def time_till(self, event):
        return _do("cuEventElapsedTime", _simulated.gpu.elapsed_ms, self._event, event._event)

    def __del__(self):
        if hasattr(self, "_event") and self._event in _simulated.gpu.events:
            _simulated.gpu.destroy_event(self._event)


class DeviceAllocation:
    def __init__(self, *arguments):
        if len(arguments) != 1 or not isinstance(arguments[0], _Pointer):
            raise Error("This class cannot be instantiated from Python")
        self._pointer = arguments[0].value
        self._is_valid = True

    def __int__(self):
        return self._pointer

    def free(self):
        if not self._is_valid:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._is_valid = False
        _do("cuMemFree", _simulated.release, self._pointer)

    def __del__(self):
        if getattr(self, "_is_valid", False) and self._pointer in _simulated.memory:
            del _simulated.memory[self._pointer]


class _Pointer:
    def __init__(self, value):
        self.value = value


def mem_get_info():
    _need_context()
    _do("cuMemGetInfo", _simulated.gpu.check)
    return (_simulated.gpu.free_bytes(), _simulated.gpu.memory_bytes)


def mem_alloc(bytes):
    _need_context()
    return DeviceAllocation(_Pointer(_do("cuMemAlloc", _simulated.allocate, bytes)))


def _checked(routine, pointer, count):
    _need_context()
    _do(routine, _simulated.gpu.check)
    try:
        _simulated.read(pointer, count)
    except _simulated.Fault:
        raise _error(routine, 1) from None


def memcpy_htod(dest, src):
    content = memoryview(src).cast("B")
    _checked("cuMemcpyHtoD", _pointer(dest), len(content))
    _simulated.write(_pointer(dest), content)


def memcpy_dtoh(dest, src):
    view = memoryview(dest).cast("B")
    if view.readonly:
        raise BufferError("Object is not writable.")
    _checked("cuMemcpyDtoH", _pointer(src), len(view))
    view[:] = _simulated.read(_pointer(src), len(view))


def memset_d8(dest, data, size):
    memset_d8_async(dest, data, size)


def memset_d8_async(dest, data, size, stream=None):
    _checked("cuMemsetD8Async", _pointer(dest), size)
    _do("cuMemsetD8Async", _simulated.gpu.fill, _pointer(dest), data, size, _handle(stream))
