"""What an agent reports, by its fields.

The agent is Python 3.6 and has no records of its own. What a device answers is checked against
these (``devices.records``) before anybody reads it; fields that are not named here are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class Gpu(TypedDict):
    """A GPU: ``compute_capability`` is such as "9.0", ``held_mhz`` what the agent locked it to."""

    name: str
    compute_capability: str
    driver: str | None
    cuda: str
    memory_mib: int
    held_mhz: int | None


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
    cpu_quota: float | None
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


class Probe(TypedDict):
    """The result of ``probe``."""

    environment: ProbedEnvironment
    health: Health
    clocks: Clocks
    memory_available_gib: float | None
    processes: list[Process]
    gpu_processes: list[GpuProcess]


class Built(TypedDict, total=False):
    """What a runtime made of a file, as far as anybody here asks for it.

    ``precision_note`` says what else was built than what was asked for; ``api`` and ``binding``
    are the interface of TensorRT and the CUDA binding that drove it.
    """

    api: str | None
    binding: str | None
    build_s: float | None
    device_memory_bytes: int | None
    engine_bytes: int | None
    engine_reused: bool | None
    engine_sha256: str | None
    precision: str | None
    precision_note: str | None


class TensorReport(TypedDict):
    """An input or output of a file: ``content`` is base64 of what lies in memory, row-major.

    ``element`` is numpy's name of the type of its elements.
    """

    name: str
    element: str
    shape: list[int]
    content: str


class TensorsReport(TypedDict):
    """The result of ``tensors``, as far as anybody here asks for it."""

    inputs: list[TensorReport]
    outputs: list[TensorReport]
