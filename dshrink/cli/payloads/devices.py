"""JSON output of ``dshrink devices``: the inventory, and what the agent on a device reports.

The typed dictionaries say what the agent sends; it is Python 3.6 and has no records of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from devices.environment import Gpu
from devices.inventory import Device
from devices.preflight import Preflight, RuntimeFinding


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesData:
    """The devices of the catalog and of the user's devices.toml."""

    devices: tuple[Device, ...]


class Process(TypedDict):
    """Another process on the device, by its share of a core."""

    pid: int
    name: str
    cpu_percent: float


class GpuProcess(TypedDict):
    """Another process that computes on the GPU; in a container its name may be "?"."""

    pid: int
    name: str
    memory_mib: int | None


class ProbedEnvironment(TypedDict):
    """Hardware and software of the device; null where it does not report one."""

    board: str
    python: str
    os: str
    kernel: str
    machine: str
    cpu_model: str
    cores: int | None
    cpu_affinity: list[int] | None
    governor: str | None
    power_mode: str | None
    frequency_mhz: float | None
    load_average: float | None
    memory_gib: float | None
    gpu: Gpu | None
    gpu_problem: str | None
    runtimes: Mapping[str, str]
    runtime_problems: Mapping[str, str]
    agent_digest: str
    protocol: int


class GpuHealth(TypedDict, total=False):
    """The GPU now; what neither NVML nor, on a Jetson, tegrastats reports is null or left out."""

    name: str | None
    uuid: str | None
    driver: str | None
    sm_mhz: float | None
    sm_max_mhz: float | None
    sm_default_mhz: float | None
    memory_mhz: float | None
    memory_max_mhz: float | None
    power_w: float | None
    power_limit_w: float | None
    temperature_c: float | None
    throttle_bits: int | None
    slowed_by: list[str] | None
    power_capped: bool | None
    thermal_violation_ns: int | None
    board_violation_ns: int | None
    reliability_violation_ns: int | None
    power_violation_ns: int | None
    utilisation_percent: float | None
    persistence: bool | None
    ecc: bool | None
    compute_mode: str | None


class Health(TypedDict):
    """What could make the device slower than it is, now; null where it is not reported."""

    governor: str | None
    frequency_mhz: float | None
    temperature_c: float | None
    throttle_events: int | None
    throttle_bits: int | None
    cooling_level: int | None
    quota_throttled: int | None
    load_average: float | None
    steal_ms: float | None
    power_mode: str | None
    gpu_mhz: float | None
    gpu: GpuHealth | None


class CpuClock(TypedDict):
    """The clock that some cores share."""

    cores: str | None
    governor: str | None
    driver: str | None
    min_mhz: float | None
    max_mhz: float | None
    mhz: float | None


class Clocks(TypedDict):
    """Clocks of the CPU, an entry for the cores that share one, and of the GPU."""

    cpu: list[CpuClock]
    gpu_mhz: float | None
    memory_mhz: float | None
    gpu_max_mhz: float | None
    gpu_by_hand: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeData:
    """What a device reports about itself, and what would disturb a measurement now."""

    device: str
    processes: list[Process]
    gpu_processes: list[GpuProcess]
    environment: ProbedEnvironment
    health: Health
    clocks: Clocks
    memory_available_gib: float | None
    runtimes: Mapping[str, RuntimeFinding]
    advice: tuple[str, ...]
    problems: tuple[str, ...]

    @classmethod
    def of(cls, found: Preflight) -> ProbeData:
        return cls(
            device=found.device.name,
            **found.found,
            runtimes={one.name: one for one in found.runtimes},
            advice=found.advice,
            problems=found.problems,
        )
