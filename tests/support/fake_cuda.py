"""A strict fake of libcuda, as ctypes shows a library: what is not exported is no attribute.

Each function insists on the argument types that cuda.h declares for it (set as ``argtypes``, or
ctypes would cut a 64-bit handle to an int), on the result type, and on the number of arguments.  It
works on the simulated GPU.  ``FakeCuda(version)`` exports what a driver of that CUDA exports.

    cuda = FakeCuda(10020)            # the driver of JetPack 4.6
    cuda.fail["cuInit"] = 100         # every call of a function fails, from now on
"""

import ctypes
import importlib.util
import sys
from ctypes import (
    POINTER,
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
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "fake_gpu"


def simulated():
    """The module ``simulated_gpu``: one for the process, whoever asks first."""
    if "simulated_gpu" not in sys.modules:
        where = FOLDER / "simulated_gpu.py"
        spec = importlib.util.spec_from_file_location("simulated_gpu", str(where))
        module = importlib.util.module_from_spec(spec)
        sys.modules["simulated_gpu"] = module
        spec.loader.exec_module(module)
    return sys.modules["simulated_gpu"]


#: cuda.h: the types of the arguments, and the first CUDA whose driver exports the name.
EXPORTED = {
    "cuInit": ([c_uint], 2000),
    "cuDriverGetVersion": ([POINTER(c_int)], 2020),
    "cuDeviceGetCount": ([POINTER(c_int)], 2000),
    "cuDeviceGet": ([POINTER(c_int), c_int], 2000),
    "cuDeviceGetName": ([c_char_p, c_int, c_int], 2000),
    "cuDeviceGetUuid": ([c_void_p, c_int], 9020),
    "cuDeviceGetAttribute": ([POINTER(c_int), c_int, c_int], 2000),
    "cuDeviceTotalMem": ([POINTER(c_uint), c_int], 2000),
    "cuDeviceTotalMem_v2": ([POINTER(c_size_t), c_int], 3020),
    "cuDevicePrimaryCtxRetain": ([POINTER(c_void_p), c_int], 7000),
    "cuDevicePrimaryCtxRelease": ([c_int], 7000),
    "cuDevicePrimaryCtxRelease_v2": ([c_int], 11000),
    "cuCtxSetCurrent": ([c_void_p], 4000),
    "cuCtxSynchronize": ([], 2000),
    "cuMemGetInfo": ([POINTER(c_uint), POINTER(c_uint)], 2000),
    "cuMemGetInfo_v2": ([POINTER(c_size_t), POINTER(c_size_t)], 3020),
    "cuMemAlloc": ([POINTER(c_uint), c_uint], 2000),
    "cuMemAlloc_v2": ([POINTER(c_uint64), c_size_t], 3020),
    "cuMemFree": ([c_uint], 2000),
    "cuMemFree_v2": ([c_uint64], 3020),
    "cuMemcpyHtoD": ([c_uint, c_void_p, c_uint], 2000),
    "cuMemcpyHtoD_v2": ([c_uint64, c_void_p, c_size_t], 3020),
    "cuMemcpyDtoH": ([c_void_p, c_uint, c_uint], 2000),
    "cuMemcpyDtoH_v2": ([c_void_p, c_uint64, c_size_t], 3020),
    "cuMemsetD8_v2": ([c_uint64, c_ubyte, c_size_t], 3020),
    "cuMemsetD8Async": ([c_uint64, c_ubyte, c_size_t, c_void_p], 3020),
    "cuStreamCreate": ([POINTER(c_void_p), c_uint], 2000),
    "cuStreamDestroy": ([c_void_p], 2000),
    "cuStreamDestroy_v2": ([c_void_p], 4000),
    "cuStreamSynchronize": ([c_void_p], 2000),
    "cuEventCreate": ([POINTER(c_void_p), c_uint], 2000),
    "cuEventDestroy": ([c_void_p], 2000),
    "cuEventDestroy_v2": ([c_void_p], 4000),
    "cuEventRecord": ([c_void_p, c_void_p], 2000),
    "cuEventSynchronize": ([c_void_p], 2000),
    "cuEventElapsedTime": ([POINTER(c_float), c_void_p, c_void_p], 2000),
    "cuStreamBeginCapture": ([c_void_p], 10000),
    "cuStreamBeginCapture_v2": ([c_void_p, c_int], 10010),
    "cuStreamEndCapture": ([c_void_p, POINTER(c_void_p)], 10000),
    "cuGraphInstantiate": (
        [POINTER(c_void_p), c_void_p, POINTER(c_void_p), c_char_p, c_size_t],
        10000,
    ),
    "cuGraphInstantiate_v2": (
        [POINTER(c_void_p), c_void_p, POINTER(c_void_p), c_char_p, c_size_t],
        11000,
    ),
    "cuGraphInstantiateWithFlags": ([POINTER(c_void_p), c_void_p, c_ulonglong], 11040),
    "cuGraphLaunch": ([c_void_p, c_void_p], 10000),
    "cuGraphExecDestroy": ([c_void_p], 10000),
    "cuGraphDestroy": ([c_void_p], 10000),
    "cuGetErrorName": ([c_int, POINTER(c_char_p)], 6000),
    "cuGetErrorString": ([c_int, POINTER(c_char_p)], 6000),
}
ERRORS = {
    0: ("CUDA_SUCCESS", "no error"),
    1: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    3: ("CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    100: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    101: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    201: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    400: ("CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    401: (
        "CUDA_ERROR_ILLEGAL_STATE",
        "the operation cannot be performed in the present state",
    ),
    600: ("CUDA_ERROR_NOT_READY", "device not ready"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    719: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    900: (
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        "operation not permitted when stream is capturing",
    ),
    901: (
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        "operation failed due to a previous error during capture",
    ),
    999: ("CUDA_ERROR_UNKNOWN", "unknown error"),
}
#: Functions that need no ``cuInit`` and no context.
FREE = ("cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString")
#: Functions that need ``cuInit`` alone.
WITHOUT_CONTEXT = ("cuDevice", "cuCtxSetCurrent")
CONTEXT = 0xC0


class FakeFunction:
    """One exported function; behaves as ctypes' ``_FuncPtr``."""

    def __init__(self, library, name):
        self._library = library
        self._name = name
        self.argtypes = None
        self.restype = None

    def __call__(self, *arguments):
        types = EXPORTED[self._name][0]
        if self.argtypes is None or list(self.argtypes) != list(types):
            raise AssertionError(f"{self._name} takes {types}, argtypes says {self.argtypes}")
        if self.restype is not c_int:
            raise AssertionError(f"{self._name} returns an int (CUresult), not {self.restype}")
        if len(arguments) != len(types):
            raise AssertionError(f"{self._name} takes {len(types)} arguments, got {arguments}")
        for number, value in enumerate(arguments):
            try:
                types[number].from_param(value)
            except (TypeError, ctypes.ArgumentError) as error:
                raise ctypes.ArgumentError(f"argument {number + 1}: {error}") from error
        return self._library._call(self._name, [_plain(one) for one in arguments])


class FakeCuda:
    """The library; ``version`` is the newest CUDA that it serves (11040 is 11.4)."""

    def __init__(self, version=12040):
        self.version = version
        self.fail = {}
        self.lacking = set()  # attributes that the device does not have
        self.calls = []
        self._is_ready = False
        self._graphs = {}
        self._next = 0x9000

    def __getattr__(self, name):
        if name not in EXPORTED or EXPORTED[name][1] > self.version:
            raise AttributeError(f"libcuda.so.1: undefined symbol: {name}")
        function = FakeFunction(self, name)
        setattr(self, name, function)
        return function

    @property
    def open_graphs(self):
        """Graphs and executable graphs that nobody destroyed."""
        return len(self._graphs)

    def _call(self, name, arguments):
        self.calls.append(name)
        if name in self.fail:
            return self.fail[name]
        if name not in FREE:
            if not self._is_ready:
                return 3
            if not name.startswith(WITHOUT_CONTEXT) and not simulated().gpu.current:
                return 201
        try:
            return getattr(self, "_" + name.partition("_v")[0])(*arguments) or 0
        except simulated().Fault as fault:
            return fault.code

    def _cuInit(self, flags):  # noqa: N802 (these are the driver's names)
        assert flags == 0
        if simulated().gpu.count == 0:
            return 100
        self._is_ready = True
        return 0

    def _cuDriverGetVersion(self, out):  # noqa: N802
        out.value = self.version

    def _cuDeviceGetCount(self, out):  # noqa: N802
        out.value = simulated().gpu.count

    def _cuDeviceGet(self, out, ordinal):  # noqa: N802
        if not 0 <= ordinal < simulated().gpu.count:
            return 101
        out.value = ordinal

    def _cuDeviceGetName(self, out, length, device):  # noqa: N802
        out.value = simulated().gpu.name.encode()[: length - 1]

    def _cuDeviceGetUuid(self, out, device):  # noqa: N802
        raw = bytes.fromhex(simulated().gpu.uuid[4:].replace("-", ""))
        ctypes.memmove(_address(out), raw, 16)

    def _cuDeviceGetAttribute(self, out, attribute, device):  # noqa: N802
        gpu = simulated().gpu
        known = {38: gpu.l2_bytes, 75: gpu.capability[0], 76: gpu.capability[1]}
        if attribute not in known or attribute in self.lacking:
            return 1
        out.value = known[attribute]

    def _cuDeviceTotalMem(self, out, device):  # noqa: N802
        out.value = simulated().gpu.memory_bytes

    def _cuDevicePrimaryCtxRetain(self, out, device):  # noqa: N802
        simulated().gpu.retain()
        out.value = CONTEXT

    def _cuDevicePrimaryCtxRelease(self, device):  # noqa: N802
        simulated().gpu.drop()

    def _cuCtxSetCurrent(self, context):  # noqa: N802
        if context not in (None, 0, CONTEXT) or (context and not simulated().gpu.retained):
            return 201
        simulated().gpu.current = int(bool(context))

    def _cuCtxSynchronize(self):  # noqa: N802
        for stream in list(simulated().gpu.streams):
            simulated().gpu.synchronize(stream)

    def _cuMemGetInfo(self, free, total):  # noqa: N802
        simulated().gpu.check()
        free.value, total.value = simulated().gpu.free_bytes(), simulated().gpu.memory_bytes

    def _cuMemAlloc(self, out, count):  # noqa: N802
        out.value = simulated().allocate(count)

    def _cuMemFree(self, pointer):  # noqa: N802
        simulated().release(pointer)

    def _cuMemcpyHtoD(self, pointer, host, count):  # noqa: N802
        simulated().gpu.check()
        _checked(pointer, count)
        simulated().write(pointer, ctypes.string_at(_address(host), count))

    def _cuMemcpyDtoH(self, host, pointer, count):  # noqa: N802
        simulated().gpu.check()
        _checked(pointer, count)
        ctypes.memmove(_address(host), simulated().read(pointer, count), count)

    def _cuMemsetD8Async(self, pointer, byte, count, stream):  # noqa: N802
        simulated().gpu.fill(pointer, byte, count, stream)

    def _cuStreamCreate(self, out, flags):  # noqa: N802
        if flags not in (0, 1):
            return 1
        out.value = simulated().gpu.new_stream()

    def _cuStreamDestroy(self, stream):  # noqa: N802
        simulated().gpu.destroy_stream(stream)

    def _cuStreamSynchronize(self, stream):  # noqa: N802
        simulated().gpu.synchronize(stream)

    def _cuEventCreate(self, out, flags):  # noqa: N802
        if flags != 0:
            return 1  # one that keeps no time, or blocks
        out.value = simulated().gpu.new_event()

    def _cuEventDestroy(self, event):  # noqa: N802
        simulated().gpu.destroy_event(event)

    def _cuEventRecord(self, event, stream):  # noqa: N802
        simulated().gpu.record(event, stream)

    def _cuEventSynchronize(self, event):  # noqa: N802
        simulated().gpu.wait_event(event)

    def _cuEventElapsedTime(self, out, first, second):  # noqa: N802
        out.value = simulated().gpu.elapsed_ms(first, second)

    def _cuStreamBeginCapture(self, stream, mode):  # noqa: N802
        if mode not in (0, 1, 2):
            return 1
        simulated().gpu.begin_capture(stream)

    def _cuStreamEndCapture(self, stream, out):  # noqa: N802
        out.value = self._keep(simulated().gpu.end_capture(stream))

    def _cuGraphInstantiate(self, out, graph, node, log, size):  # noqa: N802
        return self._instantiate(out, graph)

    def _cuGraphInstantiateWithFlags(self, out, graph, flags):  # noqa: N802
        return self._instantiate(out, graph)

    def _cuGraphLaunch(self, executable, stream):  # noqa: N802
        if executable not in self._graphs:
            return 400
        simulated().gpu.launch_graph(self._graphs[executable], stream)

    def _cuGraphExecDestroy(self, executable):  # noqa: N802
        return 0 if self._graphs.pop(executable, None) else 400

    def _cuGraphDestroy(self, graph):  # noqa: N802
        return 0 if self._graphs.pop(graph, None) else 400

    def _cuGetErrorName(self, code, out):  # noqa: N802
        return _say(code, 0, out)

    def _cuGetErrorString(self, code, out):  # noqa: N802
        return _say(code, 1, out)

    def _instantiate(self, out, graph):
        if graph not in self._graphs:
            return 400
        out.value = self._keep(self._graphs[graph])

    def _keep(self, graph):
        self._next += 0x10
        self._graphs[self._next] = graph
        return self._next


def _say(code, which, out):
    if code not in ERRORS:
        return 1
    out.value = ERRORS[code][which].encode()


def _checked(pointer, count):
    """A copy outside of what is allocated is refused, not an error of the device."""
    try:
        simulated().gpu._within(pointer, count)
    except simulated().Fault:
        raise simulated().Fault(1, "copy") from None


def _plain(value):
    """What ``byref`` refers to, and the number in a handle; everything else as it is."""
    if hasattr(value, "_obj"):
        return value._obj
    return value.value if isinstance(value, (c_void_p, c_uint64)) else value


def _address(value):
    return ctypes.cast(value, c_void_p).value
