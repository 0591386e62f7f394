from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import GONE_IN_14, NOT_TOLD, UUID, FakeNvml

from devices.agent import nvml


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """``install(library)`` makes a library, or the error of loading it, what ctypes finds."""
    nvml.load.cache_clear()

    def do(library: Any) -> Any:
        def load(name: str) -> Any:
            assert name == "libnvidia-ml.so.1"
            if isinstance(library, Exception):
                raise library
            return library

        monkeypatch.setattr(nvml.ctypes, "CDLL", load)
        return library

    yield do
    nvml.load.cache_clear()


def test_the_facts_of_a_gpu_are_read_in_units_a_person_reads(install) -> None:
    install(FakeNvml())
    assert nvml.read(UUID) == {
        "name": "Simulated H200",
        "uuid": UUID,
        "driver": "550.54.15",
        "sm_mhz": 1350,
        "sm_max_mhz": 1980,
        "sm_default_mhz": 1380,
        "memory_mhz": 2619,
        "memory_max_mhz": 2619,
        "power_w": 412.3,
        "power_limit_w": 700.0,
        "temperature_c": 61,
        "throttle_bits": 0,
        "slowed_by": [],
        "power_capped": False,
        "thermal_violation_ns": 1_000,
        "board_violation_ns": 3_000,
        "reliability_violation_ns": 5_000,
        "power_violation_ns": 70_000,
        "utilisation_percent": 97,
        "persistence": True,
        "ecc": True,
        "compute_mode": "default",
    }


def test_the_gpu_is_found_by_its_uuid_and_not_by_a_number(install) -> None:
    library = install(FakeNvml())
    assert nvml.read("GPU-ffffffff-0000-0000-0000-000000000000") == {}
    nvml.read(UUID)
    assert library.uuids == [b"GPU-ffffffff-0000-0000-0000-000000000000", UUID.encode()]


# The bits are those of nvml.h, nvmlClocksThrottleReason*.
@pytest.mark.parametrize(
    ("bits", "slowed_by", "capped"),
    [
        (0x0, [], False),
        (0x1, [], False),  # idle
        (0x2, [], False),  # applications clocks setting
        (0x4, [], True),
        (0x8, ["hardware slowdown"], False),
        (0x10, [], False),  # sync boost
        (0x20, ["software thermal slowdown"], False),
        (0x40, ["hardware thermal slowdown"], False),
        (0x80, ["power brake"], False),
        (0x100, [], False),  # display clocks
        (0x48 | 0x4, ["hardware slowdown", "hardware thermal slowdown"], True),
    ],
)
def test_only_heat_and_a_power_supply_in_need_slow_a_gpu_down(
    install, bits: int, slowed_by: list[str], capped: bool
) -> None:
    install(FakeNvml()).facts["reasons"] = bits
    facts = nvml.read(UUID)
    assert (facts["throttle_bits"], facts["slowed_by"]) == (bits, slowed_by)
    assert facts["power_capped"] is capped


VIOLATIONS = ("thermal", "board", "reliability", "power")
LEFT_OUT = (
    (
        "nvmlDeviceGetViolationStatus nvmlDeviceGetFieldValues",
        {f"{cause}_violation_ns" for cause in VIOLATIONS},
    ),
    ("nvmlDeviceGetClockInfo", {"sm_mhz", "memory_mhz"}),
    ("nvmlDeviceGetMaxClockInfo", {"sm_max_mhz", "memory_max_mhz"}),
    ("nvmlDeviceGetDefaultApplicationsClock nvmlDeviceGetClock", {"sm_default_mhz"}),
    ("nvmlDeviceGetPowerUsage", {"power_w"}),
    ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit_w"}),
    ("nvmlDeviceGetTemperature nvmlDeviceGetTemperatureV", {"temperature_c"}),
    ("nvmlDeviceGetUtilizationRates", {"utilisation_percent"}),
    ("nvmlDeviceGetPersistenceMode", {"persistence"}),
    ("nvmlDeviceGetEccMode", {"ecc"}),
    ("nvmlDeviceGetComputeMode", {"compute_mode"}),
)


@pytest.mark.parametrize("how", ["lacks", "refuses"])
@pytest.mark.parametrize(("functions", "facts"), LEFT_OUT)
def test_what_a_driver_cannot_tell_is_none_and_the_rest_is_told(
    install, how: str, functions: str, facts: set[str]
) -> None:
    install(FakeNvml(**{how: tuple(functions.split())}))
    assert {name for name, fact in nvml.read(UUID).items() if fact is None} == facts


@pytest.mark.parametrize("how", ["lacks", "refuses"])
def test_a_driver_without_the_functions_that_cuda_14_removes_tells_the_same(install, how) -> None:
    install(FakeNvml())
    before = nvml.read(UUID)
    nvml.load.cache_clear()
    install(FakeNvml(**{how: GONE_IN_14}))
    assert nvml.read(UUID) == before and None not in before.values()


def test_a_driver_without_the_functions_of_13_tells_the_same(install) -> None:
    install(FakeNvml())
    before = nvml.read(UUID)
    nvml.load.cache_clear()
    new = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetClock")
    install(FakeNvml(lacks=new))
    assert nvml.read(UUID) == before


@pytest.mark.parametrize("lacks", [(), GONE_IN_14])
def test_a_cause_that_a_gpu_does_not_count_is_none(install, lacks) -> None:
    counted = install(FakeNvml(lacks=lacks)).facts["violations_ns"]
    del counted[5]
    counted[1] = NOT_TOLD
    facts = nvml.read(UUID)
    assert facts["reliability_violation_ns"] is facts["thermal_violation_ns"] is None
    assert facts["board_violation_ns"] == 3_000


def test_the_reasons_are_read_by_their_old_name_too(install) -> None:
    old, new = "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons"
    for lacking in (old, new):
        nvml.load.cache_clear()
        install(FakeNvml(lacks=(lacking,))).facts["reasons"] = 0x40
        assert nvml.read(UUID)["slowed_by"] == ["hardware thermal slowdown"]
    nvml.load.cache_clear()
    install(FakeNvml(lacks=(old, new)))
    facts = nvml.read(UUID)
    assert facts["throttle_bits"] is facts["slowed_by"] is facts["power_capped"] is None


@pytest.mark.parametrize("driver", ["535.43.02", "535.54.03", "535.86.05"])
def test_a_driver_with_larger_records_in_the_newest_list_is_read_by_an_older_one(
    install, driver: str
) -> None:
    library = install(FakeNvml())
    library.facts["driver"] = driver
    library.processes = [(77, 512 << 20), (78, 5 << 20), (79, 1 << 20)]
    assert [one["pid"] for one in nvml.processes(UUID)] == [77, 78, 79]


@pytest.mark.parametrize(
    "lacks",
    [(), ("_v3",), ("_v2",), ("_v3", "_v2")],
)
def test_who_computes_is_listed_by_drivers_of_three_generations(install, lacks) -> None:
    name = "nvmlDeviceGetComputeRunningProcesses"
    library = install(FakeNvml(lacks=tuple(name + version for version in lacks)))
    library.processes = [(77, 512 << 20), (78, NOT_TOLD)]
    assert nvml.processes(UUID) == [
        {"pid": 77, "memory_mib": 512},
        {"pid": 78, "memory_mib": None},
    ]


def test_more_processes_than_expected_are_asked_for_again(install) -> None:
    install(FakeNvml()).processes = [(pid, 1 << 20) for pid in range(1, 101)]
    assert len(nvml.processes(UUID)) == 100


@pytest.mark.parametrize(
    "broken",
    [
        OSError("libnvidia-ml.so.1: cannot open shared object file"),
        FakeNvml(refuses=("nvmlInit_v2",)),
        FakeNvml(lacks=("nvmlInit_v2",)),
        object(),
        ValueError("odd"),
    ],
)
def test_a_machine_without_a_library_that_works_has_no_facts(install, broken: Any) -> None:
    install(broken)
    assert nvml.load() is None
    assert nvml.read(UUID) == {} and nvml.processes(UUID) == []


def test_a_library_that_breaks_later_is_no_failure(install) -> None:
    library = install(FakeNvml())
    assert nvml.read(UUID)
    library.nvmlDeviceGetClockInfo = lambda *arguments: 1 / 0
    assert nvml.read(UUID) == {}


def test_the_library_is_looked_for_once_a_process(monkeypatch, install) -> None:
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        raise OSError("not there")

    monkeypatch.setattr(nvml.ctypes, "CDLL", load)
    for _ in range(3):
        nvml.read(UUID)
    assert asked == ["libnvidia-ml.so.1"]


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
import ctypes
from fake_nvml import UUID, FakeNvml
library = FakeNvml()
ctypes.CDLL = lambda name: library
import atexit
atexit.register(lambda: print("shut" if library.shut else "open"))
from devices.agent import nvml
print(nvml.read(UUID)["sm_mhz"])
"""


def test_the_library_is_shut_down_with_the_process() -> None:
    root = Path(nvml.__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM, str(root), str(root / "tests/support")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1350", "shut"], done.stderr


def test_the_structures_are_as_large_as_those_of_the_header() -> None:
    assert ctypes.sizeof(nvml._Process) == 16
    assert ctypes.sizeof(nvml._ProcessOfInstance) == 24
    assert ctypes.sizeof(nvml._Violation) == 16
    assert ctypes.sizeof(nvml._Field) == 40
    assert ctypes.sizeof(nvml._Temperature) == 12
