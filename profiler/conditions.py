"""The conditions of a run: what was asked for, and what the device says it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from devices.agent.runtimes import RUNTIMES
from devices.inventory import Device, Inventory, connect, load_inventory
from latency_tables.onnx_file import IR_VERSION, OPSET
from latency_tables.schema import Conditions
from profiler.errors import SessionError
from profiler.schedulers import Notice, Scheduler, SerialScheduler, say_nothing


def probe_conditions(
    device: Device,
    scheduler: Scheduler,
    *,
    runtime: str,
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    statistic: str = "quiet",
) -> Conditions:
    """Ask the device for its runtime's version; check that it can do what is asked.

    With one thread the thread's own CPU time is reported: time that other processes took from it
    does not count. With more, the wall clock. Raises SessionError with what is missing and how to
    install it.
    """
    _check_runtime(device, runtime)
    if precision not in device.precisions:
        raise SessionError(
            f"{device.name} cannot measure {precision}; it does {', '.join(device.precisions)}"
        )
    if precision != "fp32":
        raise SessionError(f"this version of dshrink measures fp32 with {runtime}, not {precision}")
    _check_onnx_versions(device, runtime)
    environment = scheduler.probe()
    version = environment.runtimes.get(runtime)
    if version is None:
        install = device.runtimes[runtime].install
        raise SessionError(f"{device.name} has no {runtime}; install it there: {install}")
    support = device.runtimes[runtime]
    if not support.includes(version):
        raise SessionError(
            f"{device.name} has {runtime} {version}, its entry allows {support.versions}: install "
            f"one of these there ({support.install}), or change the entry"
        )
    cores = environment.cores or threads
    if threads > cores:
        raise SessionError(f"{device.name} has {cores} cores; ask for 1 to {cores} threads")
    return Conditions(
        device=device.name,
        runtime=runtime,
        runtime_version=version,
        precision=precision,
        batch=batch,
        threads=threads,
        power_mode=environment.clock_mode,
        clock="thread_cpu" if threads == 1 else "wall",
        statistic=statistic,
    )


def _check_runtime(device: Device, runtime: str) -> None:
    if runtime not in device.runtimes:
        raise SessionError(
            f"{device.name} has no runtime {runtime!r} in its entry; "
            f"it lists {', '.join(device.runtimes) or 'none'}"
        )
    if runtime not in RUNTIMES:
        raise SessionError(
            f"{device.name}: this version of dshrink does not drive {runtime} yet; it drives "
            f"{', '.join(RUNTIMES)}"
        )


def first_runtime(device: Device) -> str:
    """The first runtime of the device that this version drives, else the first of all."""
    return next((name for name in device.runtimes if name in RUNTIMES), next(iter(device.runtimes)))


def _check_onnx_versions(device: Device, runtime: str) -> None:
    """Refuse a device whose oldest allowed runtime cannot read the files that dshrink writes."""
    support = device.runtimes[runtime]
    opset, ir = support.max_opset or OPSET, support.max_ir or IR_VERSION
    if opset < OPSET or ir < IR_VERSION:
        raise SessionError(
            f"{device.name}: the oldest {runtime} of its entry ({support.versions}) reads ONNX "
            f"files up to opset {opset} and IR {ir}, dshrink writes opset {OPSET} and IR "
            f"{IR_VERSION}: allow newer versions only, and raise max_opset and max_ir"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to measure on and how, as a user asks for it.

    ``runtime`` is the first of the device's that is driven if not given, ``scheduler`` the address
    of a Dask cluster (this process alone if not given). ``hold_clocks`` asks the device to hold its
    clocks.
    """

    device: str = "local"
    runtime: str | None = None
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    statistic: str = "quiet"
    scheduler: str | None = None
    hold_clocks: bool = False


@contextmanager
def measuring_on(
    target: Target, notice: Notice = say_nothing
) -> Iterator[tuple[Scheduler, Conditions]]:
    """A scheduler for the target and the conditions there, closed at the end.

    ``notice`` is told what a user should know meanwhile: a link that broke, a device that is busy,
    the clocks that are held.
    """
    inventory = load_inventory()
    device = inventory.get(target.device)
    scheduler = _open_scheduler(inventory, device, target, notice)
    try:
        yield (
            scheduler,
            probe_conditions(
                device,
                scheduler,
                runtime=target.runtime or first_runtime(device),
                precision=target.precision,
                batch=target.batch,
                threads=target.threads,
                statistic=target.statistic,
            ),
        )
    finally:
        scheduler.close()


def _open_scheduler(
    inventory: Inventory, device: Device, target: Target, notice: Notice
) -> Scheduler:
    """One board in this process, or all boards of the device's kind behind a Dask cluster."""
    if target.scheduler is None:
        return SerialScheduler(connect(device, hold=target.hold_clocks), notice=notice)
    from profiler.fleet import DaskScheduler

    boards = (one.name for one in inventory.devices.values() if one.kind == device.name)
    names = dict.fromkeys([device.name, *boards])
    return DaskScheduler(target.scheduler, tuple(names), hold=target.hold_clocks)
