"""``dshrink devices``: list, show, probe, selftest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dshrink.cli import options, outputs
from dshrink.cli.console import err, notice, out, print_json, progress
from dshrink.cli.grids import Column, number, print_grid, print_page
from latency_tables.files import require_writable_folder
from latency_tables.wording import counted

if TYPE_CHECKING:
    from devices.inventory import Device
    from devices.preflight import Preflight, RuntimeFinding
    from dshrink.operations.selftest.check import Check

app = typer.Typer(no_args_is_help=True, help="List, show and probe the devices to measure on.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="a name of `dshrink devices list`")]
NOT_REPORTED = "not reported by this machine"


@app.command(name="list")
def list_devices(wide: options.Wide = False, json: options.Json = False) -> None:
    """List the devices of the catalog and of your devices.toml."""
    from devices.inventory import load_inventory

    devices = list(load_inventory().devices.values())
    if json:
        from dshrink.cli.payloads.devices import DevicesData

        print_json(DevicesData(devices=tuple(devices)))
        return
    columns: list[Column[Device]] = [
        Column("name", lambda device: device.name),
        Column("device", lambda device: device.title, least=16),
        Column("reached by", _reached_by, rank=1, least=12),
        Column("runtimes", lambda device: ", ".join(device.runtimes), least=20, is_prose=True),
        number("batch", lambda device: device.paper_batch, "d"),
    ]
    print_grid(columns, devices, wide=wide)


@app.command()
def show(name: Name, json: options.Json = False) -> None:
    """Show the inventory entry of a device."""
    from devices.inventory import load_inventory

    device = load_inventory().get(name)
    if json:
        print_json(device)
        return
    print_page(_facts(device))
    for runtime, support in device.runtimes.items():
        _print_install(runtime, support.install)


@app.command()
def probe(name: Name, json: options.Json = False) -> None:
    """Connect to a device; report its software and what would disturb a measurement.

    Exit with status 1 where it is another chip than its entry says, or lacks its first runtime.
    """
    from devices.inventory import load_inventory
    from devices.preflight import probe

    preflight = probe(load_inventory().get(name))
    if json:
        from dshrink.cli.payloads.devices import ProbeData

        print_json(ProbeData.of(preflight))
    else:
        _print_preflight(preflight)
    if preflight.problems:
        raise typer.Exit(1)


@app.command()
def selftest(
    name: Name,
    folder: Annotated[
        Path | None,
        outputs.folder_option(
            "--out", help="folder of the report and the tables; default: selftest_NAME"
        ),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="test this runtime; default: all of the device")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="test this precision; default: all of the device")
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option(help="seconds after which measuring a table ends; 0 measures none"),
    ] = 120.0,
    json: options.Json = False,
) -> None:
    """Check a device in a few minutes: outputs, timing, load and a small latency table.

    Writes a report that can be sent to others. Exit with status 1 where a check failed.
    """
    folder = folder or Path(f"selftest_{name}")
    require_writable_folder(folder)
    with progress(f"connect to {name}"):
        from dshrink.operations.selftest.device import (  # torch: seconds
            SelfTestRequest,
            selftest_device,
        )

    request = SelfTestRequest(
        device=name,
        folder=folder,
        runtime=runtime,
        precision=precision,
        table_limit_s=time_limit,
    )
    result = selftest_device(
        request, progress=progress, on_check=_notice_check if json else _print_check
    )
    if json:
        print_json(result)
    else:
        out.print(f"{result.verdict}; to send to others: {folder / 'selftest.md'}")
    if result.failed:
        raise typer.Exit(1)


def _print_check(check: Check) -> None:
    """As it is made: some take minutes."""
    print_page([(f"{check.word:<7}", f"{check.name}, {check.of}: {check.finding}")])


def _notice_check(check: Check) -> None:
    notice(f"{check.word}: {check.name}, {check.of}: {check.finding}")


def _print_preflight(preflight: Preflight) -> None:
    print_page(_findings(preflight))
    for finding in preflight.runtimes:
        is_missing = finding.state == "missing" and not preflight.why_missing(finding.name)
        if is_missing or finding.state == "other version":
            _print_install(finding.name, finding.install)
    for line in preflight.advice:
        out.print(f"advice: {line}")
    if not preflight.advice:
        out.print("nothing found that would disturb a measurement")
    for line in preflight.problems:
        err.print(f"warning: {line}", style="red", soft_wrap=True)


def _print_install(runtime: str, line: str) -> None:
    """Printed after the page: a line to copy is not wrapped."""
    out.print(f"to install {runtime} on the device: {line}")


def _reached_by(device: Device) -> str:
    if device.connection == "ssh":
        return device.host or "no host yet"
    return device.connection


def _facts(device: Device) -> Iterator[tuple[str, str]]:
    """What the inventory says, a line each; facts that are not given are left out."""
    facts = {
        "name": device.name,
        "device": device.title,
        "like": device.like,
        "chip": device.chip,
        "reached by": _reached_by(device),
        "python": device.python,
        "ssh options": " ".join(device.ssh_options),
        "folder": device.folder,
        "lock": device.lock,
        "keep": "files stay on the device" if device.keep else "",
        "paper's batch": str(device.paper_batch),
        "precisions": ", ".join(device.precisions),
        "power mode": device.power_mode,
        "known by": ", ".join(device.known_by),
    }
    yield from ((name, value) for name, value in facts.items() if value)
    for runtime, support in device.runtimes.items():
        opset = f", ONNX opset up to {support.max_opset}" if support.max_opset else ""
        ir = f", IR up to {support.max_ir}" if support.max_ir else ""
        yield "runtime", f"{runtime} {support.versions}{opset}{ir}"
    if device.notes:
        yield "notes", device.notes


def _findings(preflight: Preflight) -> Iterator[tuple[str, str]]:
    """What a device reported, a line each."""
    found: dict[str, Any] = dict(preflight.found)
    facts = found["environment"]
    health = found["health"]
    device = preflight.device
    yield "device", f"{device.name}, {device.title} ({_reached_by(device)})"
    yield "system", f"{facts['os']}, kernel {facts['kernel']}, {facts['machine']}"
    yield "processor", f"{facts['cpu_model']}, {_cores(facts)}"
    yield "memory", _memory(facts["memory_gib"], found["memory_available_gib"])
    if facts["gpu"] is not None:
        yield "GPU", _gpu(facts["gpu"])
    elif preflight.no_gpu:
        yield "GPU", f"none reported: {preflight.no_gpu}"
    yield "Python", facts["python"]
    yield "board", facts["board"] or NOT_REPORTED
    yield "governor", facts["governor"] or NOT_REPORTED
    if facts["power_mode"] is not None:
        yield "power mode", facts["power_mode"]
    for clock in list(_clocks(found["clocks"], health)) or [NOT_REPORTED]:
        yield "clocks", clock
    yield "temperature", _with_unit(health["temperature_c"], "°C")
    yield "throttling", _throttling(health)
    yield "load", _with_unit(health["load_average"], "in the last minute")
    yield "others", ", ".join(map(_process, found["processes"])) or "no process above 1 % of a core"
    if facts["gpu"] is not None:
        yield "GPU state", _gpu_state(health["gpu"] or {}) or NOT_REPORTED
        processes = ", ".join(map(_gpu_process, found["gpu_processes"]))
        yield "on the GPU", processes or "no other process"
    for finding in preflight.runtimes:
        reason = preflight.why_missing(finding.name)
        yield "runtime", _runtime(finding) + (f": {reason}" if reason else "")


def _cores(facts: dict[str, Any]) -> str:
    if facts["cores"] is None:
        return f"cores: {NOT_REPORTED}"
    usable = facts["cpu_affinity"]
    few = usable is not None and len(usable) != facts["cores"]
    return counted(facts["cores"], "core") + (
        f" (usable: {', '.join(map(str, usable))})" if few else ""
    )


def _memory(total_gib: float | None, available_gib: float | None) -> str:
    available = "" if available_gib is None else f", {available_gib:.1f} GiB available"
    return NOT_REPORTED if total_gib is None else f"{total_gib:.1f} GiB{available}"


def _gpu(gpu: dict[str, Any]) -> str:
    driver = f"driver {gpu['driver']}, " if gpu["driver"] else ""
    return (
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, "
        f"{gpu['memory_mib'] / 1024:.1f} GiB, {driver}CUDA {gpu['cuda']}"
    )


def _gpu_state(gpu: dict[str, Any]) -> str:
    """Temperature, power and utilisation now, as far as they are reported."""
    texts = {
        "temperature_c": "{:g} °C",
        "power_w": "{:g} W",
        "power_limit_w": "of at most {:g} W",
        "utilisation_percent": "{:g} % busy",
    }
    parts = [words.format(gpu[name]) for name, words in texts.items() if gpu.get(name) is not None]
    parts += ["at its power limit"] if gpu.get("power_capped") else []
    parts += ["ECC on"] if gpu.get("ecc") else []
    return ", ".join(parts)


def _clocks(clocks: dict[str, Any], health: dict[str, Any]) -> Iterator[str]:
    """Cores whose clocks have the same range are one entry; a large server has a clock per core."""
    by_range: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in clocks["cpu"]:
        by_range.setdefault((one["min_mhz"], one["max_mhz"], one["driver"]), []).append(one)
    for (low, high, driver), group in by_range.items():
        cores = " ".join(one["cores"] or "?" for one in group)
        now = sorted({round(one["mhz"]) for one in group if one["mhz"] is not None})
        yield (
            (f"cores {cores}: " if len(by_range) > 1 else "")
            + (" to ".join(map(str, dict.fromkeys(now[:1] + now[-1:]))) or "unknown")
            + ("" if low is None or high is None else f" (range {low:.0f} to {high:.0f})")
            + (f" MHz, {driver}" if driver else " MHz")
        )
    if not by_range and health["frequency_mhz"] is not None:
        yield f"{health['frequency_mhz']:.0f} MHz"
    for name in ("gpu", "memory"):
        if clocks[f"{name}_mhz"] is not None:
            yield f"{name} {clocks[f'{name}_mhz']} MHz"


def _throttling(health: dict[str, Any]) -> str:
    from devices.agent.health import throttled_now

    now = throttled_now(health)
    events, quota = health["throttle_events"], health["quota_throttled"]
    before = [f"the CPU {counted(events, 'time')} since boot"] if events else []
    before += [f"the container's CPU quota {counted(quota, 'time')}"] if quota else []
    signs = ("throttle_bits", "cooling_level", "throttle_events")
    gpu_reports = (health["gpu"] or {}).get("slowed_by") is not None
    if all(health[sign] is None for sign in signs) and not before and not gpu_reports:
        return NOT_REPORTED
    return "; ".join([now or "not now", *before])


def _runtime(finding: RuntimeFinding) -> str:
    texts = {
        "ok": f"{finding.version}, supported ({finding.versions})",
        "other version": f"{finding.version}, NOT within {finding.versions}",
        "missing": f"missing ({finding.versions})",
        "not driven": "not looked for: not supported by this version of dshrink",
    }
    return f"{finding.name} {texts[finding.state]}"


def _process(one: dict[str, Any]) -> str:
    return f"{one['name']} ({one['pid']}) {one['cpu_percent']:.0f} %"


def _gpu_process(one: dict[str, Any]) -> str:
    memory = "" if one["memory_mib"] is None else f" {one['memory_mib']} MiB"
    return f"{one['name']} ({one['pid']}){memory}"


def _with_unit(value: float | None, unit: str) -> str:
    return NOT_REPORTED if value is None else f"{value:g} {unit}"
