"""What a user asks to measure on, and the conditions that the device reports for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from devices.agent.runtimes import RUNTIMES
from devices.environment import Environment
from devices.inventory import Device, Inventory, RuntimeSupport, connect, load_inventory
from latency_tables.onnx_file import IR_VERSION, OPSET
from latency_tables.schema import STATISTICS, Conditions
from latency_tables.wording import counted
from profiler.errors import SessionError
from profiler.runtimes import RuntimeTraits, traits
from profiler.scheduling.direct_board import Notice, ignore_notice
from profiler.scheduling.serial import Scheduler, SerialScheduler

#: Images of a batch, and threads: above, no device has memory, or cores, for them.
MOST_BATCH, MOST_THREADS = 65536, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to measure on and how, as a user asks for it.

    ``runtime`` is the first supported one of the device if not given, ``batch`` the paper's on
    this device, ``statistic`` the one that suits its processor, ``scheduler`` the address of a Dask
    cluster (this process alone if not given). ``hold_clocks`` asks the device to hold its clocks.
    """

    device: str = "local"
    runtime: str | None = None
    precision: str = "fp32"
    batch: int | None = None
    threads: int = 1
    statistic: str | None = None
    launch: str = "plain"
    cache_mode: str = "hot"
    scheduler: str | None = None
    hold_clocks: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (
            ("batch", self.batch, MOST_BATCH),
            ("threads", self.threads, MOST_THREADS),
        ):
            if value is not None and not 1 <= value <= most:
                shown = value if abs(value) < 1 << 99 else "so large a number"
                raise SessionError(f"--{name} {shown}: give a number from 1 to {most}")


#: This machine, as it measures where nothing else is asked for.
HERE = Target()


def probe_conditions(
    device: Device, scheduler: Scheduler, target: Target, notice: Notice = ignore_notice
) -> Conditions:
    """Ask the device for its runtime's version; check that it can do what is asked.

    On a CPU with one thread the thread's own CPU time is reported: time that other processes took
    from it does not count. With more, the wall clock; on a GPU its own events. Raises SessionError
    with what is missing and how to install it; ``notice`` hears of a machine that is another chip
    than the device's entry says.
    """
    check_supported(device, target)  # before the device is asked
    return conditions_of(device, scheduler.probe(), target, notice)


def check_supported(device: Device, target: Target) -> None:
    """Raise SessionError for what this kind of device, or dshrink on it, cannot do."""
    runtime = target.runtime or first_runtime(device)
    support = support_of(device, runtime)
    _check_choices(device, runtime, traits(runtime, support.processor), target)
    _check_onnx_versions(device, runtime)
    if target.statistic is not None and target.statistic not in STATISTICS:
        raise SessionError(f"statistic {target.statistic!r} is not one of {', '.join(STATISTICS)}")


def conditions_of(
    device: Device, environment: Environment, target: Target, notice: Notice = ignore_notice
) -> Conditions:
    """The conditions of a supported target on a device that reported this environment.

    As ``probe_conditions``, which asks the device.
    """
    runtime = target.runtime or first_runtime(device)
    is_gpu = support_of(device, runtime).processor == "gpu"
    if problem := device.chip_problem(environment.cpu_model, environment.gpu):
        notice(f"warning: {problem}")
    if is_gpu and environment.gpu is None:
        raise SessionError(f"{device.name} shows no GPU: {environment.gpu_problem}")
    version = _version(device, runtime, environment)
    _check_threads(device, environment, target.threads, is_gpu)
    clock = "thread_cpu" if target.threads == 1 else "wall"
    return Conditions(
        device=device.name,
        runtime=runtime,
        runtime_version=version,
        precision=target.precision,
        batch=target.batch or _usual_batch(device, runtime),
        threads=target.threads,
        power_mode=environment.gpu_clock_mode if is_gpu else environment.clock_mode,
        clock="cuda_events" if is_gpu else clock,
        statistic=target.statistic or ("median" if is_gpu else "quiet"),
        launch=target.launch,
        cache_mode=target.cache_mode,
    )


def batch_on(target: Target) -> int:
    """How many images a batch has on the target's device. Raises InventoryError."""
    device = load_inventory().get(target.device)
    return target.batch or _usual_batch(device, target.runtime or first_runtime(device))


def _usual_batch(device: Device, runtime: str) -> int:
    """The paper's, where the device's first runtime, which the paper is about, works on the same
    processor; else 1."""
    first = next(iter(device.runtimes.values()))
    support = device.runtimes.get(runtime, first)
    return device.paper_batch if support.processor == first.processor else 1


def support_of(device: Device, runtime: str) -> RuntimeSupport:
    """The device's entry of a runtime. Raises SessionError for one that dshrink does not drive."""
    if runtime not in device.runtimes:
        raise SessionError(
            f"{device.name} has no runtime {runtime!r} in its entry; "
            f"it lists {', '.join(device.runtimes) or 'none'}"
        )
    if runtime not in RUNTIMES:
        raise SessionError(
            f"{device.name}: {runtime} is not supported by this version of dshrink; supported: "
            f"{', '.join(RUNTIMES)}"
        )
    return device.runtimes[runtime]


def _check_choices(device: Device, runtime: str, able: RuntimeTraits, target: Target) -> None:
    """Refuse what the device, or the runtime on it, cannot do."""
    if target.precision not in device.precisions:
        does = " or ".join(device.precisions)
        raise SessionError(
            f"{device.name} cannot measure {target.precision}: ask for --precision {does}"
        )
    for what, wanted, known in (
        ("--precision", target.precision, able.precisions),
        ("--launch", target.launch, able.launches),
        ("--cache", target.cache_mode, able.cache_modes),
    ):
        if wanted not in known:
            raise SessionError(
                f"{what} {wanted}: dshrink measures {', '.join(known)} with {runtime} on "
                f"{device.name}"
            )


def _version(device: Device, runtime: str, environment: Environment) -> str:
    support, version = device.runtimes[runtime], environment.runtimes.get(runtime)
    problem = (environment.runtime_problems or {}).get(runtime)
    if version is None and problem:
        raise SessionError(f"{device.name}: {problem}")
    if version is None:
        raise SessionError(f"{device.name} has no {runtime}; install it there: {support.install}")
    if not support.includes(version):
        raise SessionError(
            f"{device.name} has {runtime} {version}, its entry allows {support.versions}: install "
            f"one of these there ({support.install}), or change the entry"
        )
    return version


def _check_threads(device: Device, environment: Environment, threads: int, is_gpu: bool) -> None:
    cores = environment.cores or threads
    if is_gpu and threads != 1:
        raise SessionError(f"--threads {threads}: a GPU is given its work by one thread")
    allowed = environment.cpu_affinity
    what = f"has {counted(cores, 'core')}"
    if allowed and len(allowed) < cores:
        cores = len(allowed)
        what = f"lets this job run on {counted(cores, 'core')} (its CPU set)"
    quota = environment.cpu_quota
    if quota is not None and int(quota) < cores:
        # A thread at least: with less than a core its visits are marked as throttled.
        cores = max(1, int(quota))
        what = f"leaves this job {quota:g} cores' worth of time (its cgroup's CPU quota)"
    if threads > cores:
        most = "1" if cores == 1 else f"1 to {cores}"
        raise SessionError(f"{device.name} {what}: ask for --threads {most}")


def first_runtime(device: Device) -> str:
    """The first runtime of the device that this version supports, else the first of all."""
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


@contextmanager
def measuring_on(
    target: Target, notice: Notice = ignore_notice
) -> Iterator[tuple[Scheduler, Conditions]]:
    """A scheduler for the target and the conditions there, closed at the end.

    ``notice`` gets notices for the user: a link that broke, a device that is busy, the clocks
    that are held.
    """
    inventory = load_inventory()
    device = inventory.get(target.device)
    scheduler = _open_scheduler(inventory, device, target, notice)
    try:
        yield scheduler, probe_conditions(device, scheduler, target, notice)
    finally:
        scheduler.close()


def _open_scheduler(
    inventory: Inventory, device: Device, target: Target, notice: Notice
) -> Scheduler:
    """One board in this process, or all boards of the device's kind behind a Dask cluster."""
    if target.scheduler is None:
        return SerialScheduler(connect(device, hold=target.hold_clocks), notice=notice)
    from profiler.scheduling.fleet import DaskScheduler

    boards = (one.name for one in inventory.devices.values() if one.kind == device.name)
    names = dict.fromkeys([device.name, *boards])
    return DaskScheduler(target.scheduler, tuple(names), hold=target.hold_clocks)
