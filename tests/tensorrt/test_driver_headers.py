"""What the agent calls in the driver's libraries is what NVIDIA's headers of many versions declare.

Each function's arguments are compared by a C++ compiler: as many, each a pointer or a number of the
same size and sign. A header need not have all functions: old ones lack the new, new ones the old.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devices.agent import nvml
from devices.agent.cuda import gpu, libcuda

if TYPE_CHECKING:
    from real.environment import Environment

pytestmark = pytest.mark.tensorrt

#: Both headers declare what they have renamed to those who ask for it alone.
FLAGS = ("-D__CUDA_API_VERSION_INTERNAL", "-DNVML_NO_UNVERSIONED_FUNC_DEFS")
#: The result of every function is a status of this size.
FITS = """
#include <cstddef>
#include <type_traits>

template <class Ours, class Theirs> constexpr bool fits() {
    if constexpr (std::is_pointer_v<Ours> || std::is_pointer_v<Theirs>) {
        if constexpr (!std::is_pointer_v<Ours> || !std::is_pointer_v<Theirs>) return false;
        else {
            using Our = std::remove_cv_t<std::remove_pointer_t<Ours>>;
            using Their = std::remove_cv_t<std::remove_pointer_t<Theirs>>;
            if constexpr (std::is_void_v<Our>) return true;
            else if constexpr (std::is_class_v<Our>) return sizeof(Our) == sizeof(Their);
            else return fits<Our, Their>();
        }
    } else
        return sizeof(Ours) == sizeof(Theirs) &&
               std::is_floating_point_v<Ours> == std::is_floating_point_v<Theirs> &&
               (std::is_enum_v<Theirs> || std::is_signed_v<Ours> == std::is_signed_v<Theirs>);
}
template <class... Ours> struct Takes {
    template <class Result, class... Theirs> static constexpr bool all(Result (*)(Theirs...)) {
        if constexpr (sizeof...(Ours) != sizeof...(Theirs)) return false;
        else return sizeof(Result) == 4 && (fits<Ours, Theirs>() && ...);
    }
};
#define SAME(name, ...) \\
    static_assert(Takes<__VA_ARGS__>::all(static_cast<decltype(&name)>(nullptr)), #name)
"""
#: Our constants by the header's names.
CUDA_CONSTANTS = {
    "CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE": libcuda.L2_CACHE_SIZE,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": libcuda.COMPUTE_CAPABILITY_MAJOR,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": libcuda.COMPUTE_CAPABILITY_MINOR,
    "CU_STREAM_CAPTURE_MODE_RELAXED": gpu.CAPTURE_RELAXED,
    "CU_STREAM_NON_BLOCKING": gpu.STREAM_NON_BLOCKING,
    "CU_EVENT_DEFAULT": gpu.EVENT_DEFAULT,
}
NVML_CONSTANTS = {
    "NVML_CLOCK_SM": nvml.CLOCK_SM,
    "NVML_CLOCK_MEM": nvml.CLOCK_MEMORY,
    "NVML_TEMPERATURE_GPU": nvml.TEMPERATURE_GPU,
    "NVML_ERROR_INSUFFICIENT_SIZE": nvml.INSUFFICIENT_SIZE,
    "NVML_PERF_POLICY_POWER": nvml.POWER,
    "NVML_PERF_POLICY_THERMAL": nvml.THERMAL,
    "NVML_PERF_POLICY_BOARD_LIMIT": nvml.BOARD_LIMIT,
    "NVML_PERF_POLICY_RELIABILITY": nvml.RELIABILITY,
    "nvmlClocksThrottleReasonSwPowerCap": nvml.POWER_CAP,
    "nvmlClocksThrottleReasonHwSlowdown": 0x08,
    "nvmlClocksThrottleReasonSwThermalSlowdown": 0x20,
    "nvmlClocksThrottleReasonHwThermalSlowdown": 0x40,
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": 0x80,
}
#: Our structures: the header's name, and its names of the fields in our order.
STRUCTURES = {
    "_Utilisation": ("nvmlUtilization_t", ("gpu", "memory")),
    "_Violation": ("nvmlViolationTime_t", ("referenceTime", "violationTime")),
    "_Process": ("nvmlProcessInfo_v1_t", ("pid", "usedGpuMemory")),
    "_ProcessOfInstance": (
        "nvmlProcessInfo_v2_t",
        ("pid", "usedGpuMemory", "gpuInstanceId", "computeInstanceId"),
    ),
    "_Field": (
        "nvmlFieldValue_t",
        ("fieldId", "scopeId", "timestamp", "latencyUsec", "valueType", "nvmlReturn", "value"),
    ),
    "_Temperature": ("nvmlTemperature_t", ("version", "sensorType", "temperature")),
}
NAMES: Mapping[Any, str] = {
    ctypes.c_int: "int",
    ctypes.c_uint: "unsigned int",
    ctypes.c_ubyte: "unsigned char",
    ctypes.c_float: "float",
    ctypes.c_longlong: "long long",
    ctypes.c_ulong: "unsigned long",
    ctypes.c_ulonglong: "unsigned long long",
    ctypes.c_char_p: "char *",
    ctypes.c_void_p: "void *",
}


def spelled(kind: Any) -> str:
    """A type of ctypes in C++."""
    if kind in NAMES:
        return NAMES[kind]
    if issubclass(kind, ctypes.Structure):
        return f"Our{kind.__name__}"
    return f"{spelled(kind._type_)} *"


def structure(kind: type[ctypes.Structure]) -> str:
    fields = " ".join(f"{spelled(field[1])} {field[0]};" for field in kind._fields_)
    return f"struct Our{kind.__name__} {{ {fields} }};"


@cache
def declared(header: Path) -> str:
    """The header as the compiler reads it."""
    words = ["g++", "-E", "-P", "-x", "c++", *FLAGS, str(header)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def is_declared(header: Path, name: str) -> bool:
    return re.search(rf"\b{name}\b", declared(header)) is not None


def compiled(header: Path, lines: Sequence[str], folder: Path) -> str:
    """What the compiler says against these lines; nothing where all hold."""
    source = folder / "same.cpp"
    source.write_text("\n".join([f'#include "{header}"', FITS, *lines]))
    words = ["g++", "-std=c++17", "-w", "-fsyntax-only", *FLAGS, str(source)]
    return subprocess.run(words, capture_output=True, text=True).stderr


def equal(constants: Mapping[str, int], header: Path) -> Iterable[str]:
    text = header.read_text(errors="replace")
    for name, value in constants.items():
        if re.search(rf"\b{name}\b", text):
            yield f'static_assert((unsigned long long)({name}) == {value}ull, "{name}");'


def same(functions: Mapping[str, Sequence[Any]], header: Path) -> dict[str, str]:
    """A line for each function that the header declares."""
    return {
        name: f"SAME({', '.join([name, *map(spelled, kinds)])});"
        for name, kinds in functions.items()
        if is_declared(header, name)
    }


def test_calls_to_the_driver_are_as_cuda_h_declares_them(
    part: Callable[[str], Environment], counted: Counter[str], tmp_path: Path
) -> None:
    headers = {name: Path(path) for name, path in part("cuda_headers").cuda_headers.items()}
    seen: set[str] = set()
    for name, header in headers.items():
        functions = same(libcuda._FUNCTIONS, header)
        seen |= set(functions)
        lines = [*functions.values(), *equal(CUDA_CONSTANTS, header)]
        assert not compiled(header, lines, tmp_path), name
        counted[f"functions as in cuda.h of {name}"] += len(functions)
    assert seen == set(libcuda._FUNCTIONS)


def test_calls_to_nvml_are_as_nvml_h_declares_them(
    part: Callable[[str], Environment], counted: Counter[str], tmp_path: Path
) -> None:
    headers = {name: Path(path) for name, path in part("nvml_headers").nvml_headers.items()}
    structures = {
        kind.__name__: kind
        for kind in vars(nvml).values()
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure)
    }
    assert set(structures) <= set(STRUCTURES)
    seen: set[str] = set()
    for name, header in headers.items():
        functions = same(nvml._FUNCTIONS, header)
        seen |= set(functions)
        lines = [*map(structure, structures.values()), *functions.values()]
        lines += equal(NVML_CONSTANTS, header)
        for kind in structures.values():
            lines += same_layout(kind, header)
        assert not compiled(header, lines, tmp_path), name
        counted[f"functions as in nvml.h of {name}"] += len(functions)
    assert seen == set(nvml._FUNCTIONS)


def same_layout(kind: type[ctypes.Structure], header: Path) -> Iterable[str]:
    """That each field lies where the header's does, and the whole is as large."""
    theirs, fields = STRUCTURES[kind.__name__]
    if not is_declared(header, theirs):
        return
    ours = f"Our{kind.__name__}"
    yield f'static_assert(sizeof({ours}) == sizeof({theirs}), "{theirs}");'
    for (our, *_), their in zip(kind._fields_, fields, strict=True):
        same_place = f"offsetof({ours}, {our}) == offsetof({theirs}, {their})"
        yield f'static_assert({same_place}, "{theirs}.{their}");'


def test_a_wrong_prototype_is_noticed(part: Callable[[str], Environment], tmp_path: Path) -> None:
    header = Path(next(iter(part("cuda_headers").cuda_headers.values())))
    for kinds in ([ctypes.c_int], [ctypes.c_ulonglong], [], [ctypes.c_void_p], [ctypes.c_float]):
        lines = list(same({"cuInit": kinds}, header).values())
        assert "cuInit" in compiled(header, lines, tmp_path)
