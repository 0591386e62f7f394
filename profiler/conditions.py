"""The conditions of a run: what was asked for, and what the device says it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from devices.inventory import Device, connect
from latency_tables.schema import Conditions
from profiler.errors import SessionError
from profiler.schedulers import Scheduler, SerialScheduler


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
    if runtime not in device.runtimes:
        raise SessionError(
            f"{device.name} has no runtime {runtime!r} in its entry; "
            f"it lists {', '.join(device.runtimes) or 'none'}"
        )
    if precision not in device.precisions:
        raise SessionError(
            f"{device.name} cannot measure {precision}; it does {', '.join(device.precisions)}"
        )
    if precision != "fp32":
        raise SessionError(f"this version of dshrink measures fp32 with {runtime}, not {precision}")
    environment = scheduler.start_round()
    version = environment.runtimes.get(runtime)
    if version is None:
        install = device.runtimes[runtime].install
        raise SessionError(f"{device.name} has no {runtime}; install it there: {install}")
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
        power_mode=environment.governor or "default",
        clock="thread_cpu" if threads == 1 else "wall",
        statistic=statistic,
    )


@contextmanager
def measuring_on(
    device: Device, *, runtime: str | None = None, **asked: Any
) -> Iterator[tuple[Scheduler, Conditions]]:
    """A scheduler for the device and the conditions there, closed at the end.

    ``runtime`` is the first of the device's if not given; ``asked`` is as for ``probe_conditions``.
    """
    scheduler = SerialScheduler(connect(device))
    try:
        first = next(iter(device.runtimes))
        yield scheduler, probe_conditions(device, scheduler, runtime=runtime or first, **asked)
    finally:
        scheduler.close()
