"""A strict fake of NVIDIA's management library, as ctypes shows a library.

It insists on the argument types of nvml.h.  ``lacks`` are functions that an older driver does not
export, ``refuses`` functions that answer with an error; ``facts`` is what the GPU has.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any

HANDLE = 0x4321
UUID = "GPU-00112233-4455-6677-8899-aabbccddeeff"
NOT_FOUND, NOT_SUPPORTED, INSUFFICIENT_SIZE, INVALID_ARGUMENT, UNINITIALIZED = 6, 3, 7, 2, 1
ARGUMENT_VERSION_MISMATCH = 25
NOT_TOLD = 2**64 - 1

#: Functions with a number as their last argument: what stands between, the number's type, the fact.
NUMBERS: dict[str, tuple[list[Any], Any, str]] = {
    "nvmlDeviceGetClockInfo": ([c_int], c_uint, "clock"),
    "nvmlDeviceGetMaxClockInfo": ([c_int], c_uint, "most"),
    "nvmlDeviceGetDefaultApplicationsClock": ([c_int], c_uint, "default"),
    "nvmlDeviceGetClock": ([c_int, c_int], c_uint, "default"),
    "nvmlDeviceGetPowerUsage": ([], c_uint, "milliwatts"),
    "nvmlDeviceGetEnforcedPowerLimit": ([], c_uint, "limit_milliwatts"),
    "nvmlDeviceGetTemperature": ([c_int], c_uint, "degrees"),
    "nvmlDeviceGetCurrentClocksThrottleReasons": ([], c_ulonglong, "reasons"),
    "nvmlDeviceGetCurrentClocksEventReasons": ([], c_ulonglong, "reasons"),
    "nvmlDeviceGetPersistenceMode": ([], c_int, "persistence"),
    "nvmlDeviceGetTotalEnergyConsumption": ([], c_ulonglong, "millijoules"),
    "nvmlDeviceGetComputeMode": ([], c_int, "compute_mode"),
}
TEXTS = {"nvmlDeviceGetName": "name", "nvmlDeviceGetUUID": "uuid"}
PROCESSES = {
    "nvmlDeviceGetComputeRunningProcesses": 16,
    "nvmlDeviceGetComputeRunningProcesses_v2": 24,
    "nvmlDeviceGetComputeRunningProcesses_v3": 24,
}
#: Drivers whose records of ``_v3`` are larger than nvml.h says, and by how much.
LARGER_V3 = (("535.43.02", "535.54.03", "535.86.05"), 8)


class FakeNvml:
    """The library; ``shut`` says whether it was shut down."""

    def __init__(self, lacks: tuple[str, ...] = (), refuses: tuple[str, ...] = ()) -> None:
        self.facts: dict[str, Any] = {
            "clock": {1: 1350, 2: 2619},
            "most": {1: 1980, 2: 2619},
            "default": {1: 1380},
            "milliwatts": 412345,
            "limit_milliwatts": 700000,
            "millijoules": 987_654_321,
            "degrees": {0: 61},
            "reasons": 0,
            "violations_ns": {0: 70_000, 1: 1_000, 3: 3_000, 5: 5_000},
            "persistence": 1,
            "compute_mode": 0,
            "name": "Simulated H200",
            "uuid": UUID,
            "driver": "550.54.15",
        }
        self.processes: list[tuple[int, int]] = []
        self.lacks, self.refuses = lacks, refuses
        self.asked: list[str] = []
        self.uuids: list[bytes] = []
        self.ready = self.shut = False

    def __getattr__(self, name: str) -> Any:
        known = {*NUMBERS, *TEXTS, *PROCESSES, *_OTHERS}
        if name not in known or name in self.lacks:
            raise AttributeError(f"libnvidia-ml.so.1: undefined symbol: {name}")
        function = _Function(self, name)
        setattr(self, name, function)
        return function


class _Function:
    def __init__(self, library: FakeNvml, name: str) -> None:
        self.library, self.name = library, name
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> int:
        assert self.argtypes is not None and self.restype is c_int, self.name
        assert len(arguments) == len(self.argtypes), f"{self.name}{arguments}"
        for kind, value in zip(self.argtypes, arguments, strict=True):
            kind.from_param(value)
        library = self.library
        library.asked.append(self.name)
        if self.name in library.refuses:
            return NOT_SUPPORTED
        if self.name != "nvmlInit_v2" and not library.ready:
            return UNINITIALIZED
        plain = [getattr(one, "_obj", one) for one in arguments]
        if self.name in PROCESSES:
            return self._list(*plain)
        if self.name in NUMBERS:
            return self._number(*plain)
        if self.name in TEXTS:
            assert self.argtypes == [c_void_p, c_char_p, c_uint]
            return _write(plain[1], library.facts[TEXTS[self.name]], plain[2])
        return int(_OTHERS[self.name](library, self.argtypes, *plain))

    def _number(self, device: Any, *rest: Any) -> int:
        between, kind, fact = NUMBERS[self.name]
        assert self.argtypes == [c_void_p, *between, POINTER(kind)], self.name
        value = self.library.facts[fact]
        if self.name == "nvmlDeviceGetClock" and rest[1] != 2:  # only the default is known here
            return INVALID_ARGUMENT
        if between:
            if rest[0] not in value:
                return NOT_SUPPORTED
            value = value[rest[0]]
        rest[-1].value = value
        return 0 if device.value == HANDLE else INVALID_ARGUMENT

    def _list(self, device: Any, count: Any, found: Any) -> int:
        assert device.value == HANDLE
        assert ctypes.sizeof(self.argtypes[2]._type_) == PROCESSES[self.name], self.name
        processes = self.library.processes
        room, count.value = count.value, len(processes)
        if len(processes) > room:
            return INSUFFICIENT_SIZE
        size = PROCESSES[self.name]
        if self.name.endswith("_v3") and self.library.facts["driver"] in LARGER_V3[0]:
            size += LARGER_V3[1]
        for place, (pid, used) in enumerate(processes):
            one = found._type_.from_buffer(found, place * size)
            one.pid, one.used = pid, used
        return 0


def _write(buffer: Any, text: str, size: int) -> int:
    if len(text) >= size:
        return INSUFFICIENT_SIZE
    buffer.value = text.encode()
    return 0


def _init(library: FakeNvml, kinds: Any) -> int:
    library.ready = True
    return 0


def _shutdown(library: FakeNvml, kinds: Any) -> int:
    library.ready, library.shut = False, True
    return 0


def _by_uuid(library: FakeNvml, kinds: Any, uuid: bytes, out: Any) -> int:
    assert kinds == [c_char_p, POINTER(c_void_p)]
    library.uuids.append(uuid)
    if uuid.decode() != library.facts["uuid"]:
        return NOT_FOUND
    out.value = HANDLE
    return 0


def _driver(library: FakeNvml, kinds: Any, buffer: Any, size: int) -> int:
    assert kinds == [c_char_p, c_uint]
    return _write(buffer, library.facts["driver"], size)


def _ecc(library: FakeNvml, kinds: Any, device: Any, now: Any, pending: Any) -> int:
    assert kinds == [c_void_p, POINTER(c_int), POINTER(c_int)]
    now.value, pending.value = 1, 0
    return 0


def _violation(library: FakeNvml, kinds: Any, device: Any, cause: int, time: Any) -> int:
    assert kinds[:2] == [c_void_p, c_int] and ctypes.sizeof(kinds[2]._type_) == 16
    if device.value != HANDLE or cause not in library.facts["violations_ns"]:
        return INVALID_ARGUMENT
    # Two numbers of 64 bits: when it was asked (us), and how long the clock was held down (ns).
    both = (c_ulonglong * 2).from_buffer(time)
    both[0], both[1] = 1_700_000_000_000_000, library.facts["violations_ns"][cause]
    return 0


def _fields(library: FakeNvml, kinds: Any, device: Any, count: int, fields: Any) -> int:
    """``nvmlFieldValue_t`` has 40 bytes: id, scope, two times of 64 bits, kind, status, value."""
    assert kinds[:2] == [c_void_p, c_int] and ctypes.sizeof(kinds[2]._type_) == 40
    assert count == 1 and device.value == HANDLE
    words = (c_uint * 10).from_buffer(fields)
    counted = library.facts["violations_ns"]
    known = words[0] - 74 in counted and counted[words[0] - 74] != NOT_TOLD
    words[6], words[7] = 3, 0 if known else NOT_SUPPORTED  # an unsigned number of 64 bits
    if known:
        (c_ulonglong * 5).from_buffer(fields)[4] = counted[words[0] - 74]
    return 0


def _temperature_v(library: FakeNvml, kinds: Any, device: Any, told: Any) -> int:
    assert kinds[0] == c_void_p and ctypes.sizeof(kinds[1]._type_) == 12
    words = (c_int * 3).from_buffer(told)
    if words[0] != 12 | 1 << 24:  # NVML_STRUCT_VERSION(Temperature, 1)
        return ARGUMENT_VERSION_MISMATCH
    words[2] = library.facts["degrees"][words[1]]
    return 0


def _utilisation(library: FakeNvml, kinds: Any, device: Any, rates: Any) -> int:
    assert ctypes.sizeof(rates) == 8
    rates.gpu, rates.memory = 97, 40
    return 0


_OTHERS: dict[str, Any] = {
    "nvmlInit_v2": _init,
    "nvmlShutdown": _shutdown,
    "nvmlSystemGetDriverVersion": _driver,
    "nvmlDeviceGetHandleByUUID": _by_uuid,
    "nvmlDeviceGetEccMode": _ecc,
    "nvmlDeviceGetViolationStatus": _violation,
    "nvmlDeviceGetUtilizationRates": _utilisation,
    "nvmlDeviceGetFieldValues": _fields,
    "nvmlDeviceGetTemperatureV": _temperature_v,
}
#: What nvml.h of 13.4 announces to be removed with CUDA 14.
GONE_IN_14 = (
    "nvmlDeviceGetViolationStatus",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetDefaultApplicationsClock",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)
