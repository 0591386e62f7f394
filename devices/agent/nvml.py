"""What NVIDIA's management library (NVML) says about a GPU; it is only read.

Everything here is asked between blocks of a measurement, never while its clock runs: a question
goes to the driver, and wakes or disturbs the GPU.  The library is looked for once a process.  What
an older driver cannot report is None, a machine without the library has no facts ({}), and nothing
here raises.

CUDA and NVML number GPUs differently (CUDA_VISIBLE_DEVICES, fastest first), so the GPU is found by
its UUID.

nvml.h of 13.4 announces the removal, with CUDA 14, of the functions for violations, temperature and
the default applications clock.  Old drivers have those alone; where one is gone its successor is
asked, which the clock has in part.
"""

import atexit
import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_longlong, c_uint, c_ulonglong, c_void_p
from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional

LIBRARY = "libnvidia-ml.so.1"
CLOCK_SM = 1
CLOCK_MEMORY = 2
TEMPERATURE_GPU = 0
INSUFFICIENT_SIZE = 7
NOT_AVAILABLE = 2**64 - 1
#: Bits of the throttle reasons that mean the clock is lower than it should be, and why.
SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
#: Normal on a large GPU at full load: a fact of how fast it is, not a fault of the moment.
POWER_CAP = 0x04
#: Why the clock may have been lower than it should be, and NVML's number of it.
POWER, THERMAL, BOARD_LIMIT, RELIABILITY = 0, 1, 3, 5
#: The field values of the same numbers count the same from here on (NVML_FI_DEV_PERF_POLICY_POWER).
FIRST_VIOLATION_FIELD = 74
#: NVML's number of a clock's default among the clocks that there are.
DEFAULT_CLOCK = 2
#: What tells the bits that hold the clock; it was renamed in R535.
REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
MIB = 1 << 20

_DEVICE = c_void_p
_NUMBER = POINTER(c_uint)


class _Utilisation(ctypes.Structure):
    _fields_ = [("gpu", c_uint), ("memory", c_uint)]


class _Violation(ctypes.Structure):
    _fields_ = [("now_us", c_ulonglong), ("ns", c_ulonglong)]


class _Field(ctypes.Structure):
    _fields_ = [
        ("field", c_uint),
        ("scope", c_uint),
        ("at_us", c_longlong),
        ("latency_us", c_longlong),
        ("kind", c_int),
        ("status", c_int),
        ("value", c_ulonglong),
    ]


class _Temperature(ctypes.Structure):
    """``version`` is the size of this, and 1 in the highest byte."""

    _fields_ = [("version", c_uint), ("sensor", c_int), ("celsius", c_int)]


class _Process(ctypes.Structure):
    _fields_ = [("pid", c_uint), ("used", c_ulonglong)]


class _ProcessOfInstance(ctypes.Structure):
    """As drivers from R450 on describe a process."""

    _fields_ = [("pid", c_uint), ("used", c_ulonglong), ("gpu", c_uint), ("compute", c_uint)]


#: Each goes with a structure. ``_v3`` is not the first: the drivers 535.43 to 535.86 return larger
#: records from it (issues 79 and 89 of nvitop), and all that have it have ``_v2``.
_PROCESS_FUNCTIONS = (
    ("nvmlDeviceGetComputeRunningProcesses_v2", _ProcessOfInstance),
    ("nvmlDeviceGetComputeRunningProcesses_v3", _ProcessOfInstance),
    ("nvmlDeviceGetComputeRunningProcesses", _Process),
)
_FUNCTIONS: Dict[str, List[Any]] = {
    "nvmlInit_v2": [],
    "nvmlShutdown": [],
    "nvmlSystemGetDriverVersion": [c_char_p, c_uint],
    "nvmlDeviceGetHandleByUUID": [c_char_p, POINTER(_DEVICE)],
    "nvmlDeviceGetUUID": [_DEVICE, c_char_p, c_uint],
    "nvmlDeviceGetName": [_DEVICE, c_char_p, c_uint],
    "nvmlDeviceGetClockInfo": [_DEVICE, c_int, _NUMBER],
    "nvmlDeviceGetMaxClockInfo": [_DEVICE, c_int, _NUMBER],
    "nvmlDeviceGetDefaultApplicationsClock": [_DEVICE, c_int, _NUMBER],
    "nvmlDeviceGetClock": [_DEVICE, c_int, c_int, _NUMBER],
    "nvmlDeviceGetPowerUsage": [_DEVICE, _NUMBER],
    "nvmlDeviceGetTotalEnergyConsumption": [_DEVICE, POINTER(c_ulonglong)],
    "nvmlDeviceGetEnforcedPowerLimit": [_DEVICE, _NUMBER],
    "nvmlDeviceGetTemperature": [_DEVICE, c_int, _NUMBER],
    "nvmlDeviceGetTemperatureV": [_DEVICE, POINTER(_Temperature)],
    "nvmlDeviceGetViolationStatus": [_DEVICE, c_int, POINTER(_Violation)],
    "nvmlDeviceGetFieldValues": [_DEVICE, c_int, POINTER(_Field)],
    "nvmlDeviceGetUtilizationRates": [_DEVICE, POINTER(_Utilisation)],
    "nvmlDeviceGetPersistenceMode": [_DEVICE, POINTER(c_int)],
    "nvmlDeviceGetComputeMode": [_DEVICE, POINTER(c_int)],
    "nvmlDeviceGetEccMode": [_DEVICE, POINTER(c_int), POINTER(c_int)],
}
_FUNCTIONS.update((name, [_DEVICE, POINTER(c_ulonglong)]) for name in REASONS)
for _name, _kind in _PROCESS_FUNCTIONS:
    _FUNCTIONS[_name] = [_DEVICE, _NUMBER, POINTER(_kind)]


class Nvml(object):
    """The library, initialised; a question that fails is answered with None."""

    def __init__(self, library: Any) -> None:
        self._library = library
        if self._status("nvmlInit_v2") != 0:
            raise OSError("NVML does not work here")
        atexit.register(self._status, "nvmlShutdown")

    def answer(self, kind: Any, name: str, *arguments: Any) -> Any:
        """What a function writes to its last argument, of that kind."""
        found = kind()
        return None if self._status(name, *arguments, byref(found)) else found

    def number(self, name: str, *arguments: Any, kind: Any = c_uint) -> Optional[int]:
        """The number that a function writes to its last argument."""
        found = self.answer(kind, name, *arguments)
        return None if found is None else int(found.value)

    def text(self, name: str, *arguments: Any) -> Optional[str]:
        """The text that a function writes to its last argument but one, whose size is the last."""
        buffer = ctypes.create_string_buffer(96)
        if self._status(name, *arguments, buffer, len(buffer)):
            return None
        return buffer.value.decode("utf-8", "replace")

    def violation_ns(self, device: c_void_p, cause: int) -> Optional[int]:
        """How long a cause has held the clock down, ever since the driver was loaded."""
        time = self.answer(_Violation, "nvmlDeviceGetViolationStatus", device, cause)
        if time is not None:
            return None if time.ns == NOT_AVAILABLE else int(time.ns)
        field = _Field(field=FIRST_VIOLATION_FIELD + cause)
        if self._status("nvmlDeviceGetFieldValues", device, 1, byref(field)) or field.status:
            return None
        return int(field.value)

    def temperature_c(self, device: c_void_p) -> Optional[int]:
        """How hot the GPU is."""
        told = self.number("nvmlDeviceGetTemperature", device, TEMPERATURE_GPU)
        if told is not None:
            return told
        found = _Temperature(ctypes.sizeof(_Temperature) | 1 << 24, TEMPERATURE_GPU)
        failed = self._status("nvmlDeviceGetTemperatureV", device, byref(found))
        return None if failed else int(found.celsius)

    def default_mhz(self, device: c_void_p) -> Optional[int]:
        """The default applications clock, which most GeForces lack."""
        told = self.number("nvmlDeviceGetDefaultApplicationsClock", device, CLOCK_SM)
        if told is not None:
            return told
        return self.number("nvmlDeviceGetClock", device, CLOCK_SM, DEFAULT_CLOCK)

    def processes(self, device: c_void_p) -> List[Dict[str, Any]]:
        """Who computes on the GPU: pid and memory."""
        for name, kind in _PROCESS_FUNCTIONS:
            room = 32
            for _ in range(4):  # more may come between two questions
                count, found = c_uint(room), (kind * room)()
                status = self._status(name, device, byref(count), found)
                if status != INSUFFICIENT_SIZE:
                    break
                room = 2 * max(room, count.value)
            if status == 0:
                return [_process(one) for one in found[: count.value]]
        return []

    def _status(self, name: str, *arguments: Any) -> int:
        """What a function returns, 0 where it did its work; -1 where there is no such function."""
        function = getattr(self._library, name, None)
        if function is None:
            return -1
        function.argtypes, function.restype = _FUNCTIONS[name], c_int
        return int(function(*arguments))


@lru_cache(maxsize=None)
def load() -> Optional[Nvml]:
    """The library; None where there is none that works."""
    try:
        return Nvml(ctypes.CDLL(LIBRARY))
    except Exception:  # a broken library fails in any way it likes
        return None


def read(uuid: str) -> Dict[str, Any]:
    """The facts of now about a GPU; {} where there are none."""
    return _ask(uuid, _facts) or {}


def processes(uuid: str) -> List[Dict[str, Any]]:
    """Who computes on a GPU, each ``{"pid": 77, "memory_mib": 512}``; this process may be there."""
    return _ask(uuid, lambda nvml, device: nvml.processes(device)) or []


def energy_counter(uuid: str) -> Optional[Callable[[], Optional[int]]]:
    """What reads the mJ that a GPU has taken since the driver was loaded; None before Volta."""

    def counter(nvml: Nvml, device: c_void_p) -> Optional[Callable[[], Optional[int]]]:
        def count() -> Optional[int]:
            return nvml.number("nvmlDeviceGetTotalEnergyConsumption", device, kind=c_ulonglong)

        return None if count() is None else count

    found: Optional[Callable[[], Optional[int]]] = _ask(uuid, counter)
    return found


def _ask(uuid: str, question: Callable[[Nvml, c_void_p], Any]) -> Any:
    nvml = load()
    if nvml is None:
        return None
    try:
        device = nvml.answer(c_void_p, "nvmlDeviceGetHandleByUUID", uuid.encode("ascii"))
        return None if device is None else question(nvml, device)
    except Exception:  # facts are a help; nothing fails for want of them
        return None


def _facts(nvml: Nvml, device: c_void_p) -> Dict[str, Any]:
    answers = (nvml.number(name, device, kind=c_ulonglong) for name in REASONS)
    bits = next((one for one in answers if one is not None), None)
    mode = nvml.number("nvmlDeviceGetComputeMode", device, kind=c_int)
    persistence = nvml.number("nvmlDeviceGetPersistenceMode", device, kind=c_int)
    checks_errors = c_int()  # the last argument is the setting after a reboot
    has_ecc = nvml.answer(c_int, "nvmlDeviceGetEccMode", device, byref(checks_errors)) is not None
    rates = nvml.answer(_Utilisation, "nvmlDeviceGetUtilizationRates", device)
    clock, most = "nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo"
    return {
        "name": nvml.text("nvmlDeviceGetName", device),
        "uuid": nvml.text("nvmlDeviceGetUUID", device),
        "driver": nvml.text("nvmlSystemGetDriverVersion"),
        "sm_mhz": nvml.number(clock, device, CLOCK_SM),
        "sm_max_mhz": nvml.number(most, device, CLOCK_SM),
        "sm_default_mhz": nvml.default_mhz(device),
        "memory_mhz": nvml.number(clock, device, CLOCK_MEMORY),
        "memory_max_mhz": nvml.number(most, device, CLOCK_MEMORY),
        "power_w": _watts(nvml.number("nvmlDeviceGetPowerUsage", device)),
        "power_limit_w": _watts(nvml.number("nvmlDeviceGetEnforcedPowerLimit", device)),
        "temperature_c": nvml.temperature_c(device),
        "throttle_bits": bits,
        "slowed_by": None
        if bits is None
        else [words for bit, words in SLOWDOWNS.items() if bits & bit],
        "power_capped": None if bits is None else bool(bits & POWER_CAP),
        "thermal_violation_ns": nvml.violation_ns(device, THERMAL),
        "board_violation_ns": nvml.violation_ns(device, BOARD_LIMIT),
        "reliability_violation_ns": nvml.violation_ns(device, RELIABILITY),
        "power_violation_ns": nvml.violation_ns(device, POWER),
        "utilisation_percent": None if rates is None else int(rates.gpu),
        "persistence": None if persistence is None else bool(persistence),
        "ecc": bool(checks_errors.value) if has_ecc else None,
        "compute_mode": COMPUTE_MODES.get(mode, str(mode)) if mode is not None else None,
    }


def _watts(milliwatts: Optional[int]) -> Optional[float]:
    return None if milliwatts is None else round(milliwatts / 1000.0, 1)


def _process(one: Any) -> Dict[str, Any]:
    used = None if one.used == NOT_AVAILABLE else int(one.used) // MIB
    return {"pid": int(one.pid), "memory_mib": used}
