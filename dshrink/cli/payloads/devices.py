"""JSON output of ``dshrink devices``: the inventory, and what the agent on a device reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from devices.inventory import Device
from devices.preflight import Preflight, RuntimeFinding
from devices.reports import Clocks, GpuProcess, Health, ProbedEnvironment, Process


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesData:
    """The devices of the catalog and of the user's devices.toml."""

    devices: tuple[Device, ...]


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
