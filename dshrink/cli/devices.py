"""``dshrink devices``: list, show, probe."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table

from dshrink.cli import options
from dshrink.cli.console import out, print_json

app = typer.Typer(no_args_is_help=True)


@app.command(name="list")
def list_devices(json: options.Json = False) -> None:
    """List the devices of the catalog and of your devices.toml."""
    from devices.inventory import load_inventory

    inventory = load_inventory()
    devices = [inventory.get(name) for name in inventory.names]
    if json:
        print_json([asdict(device) for device in devices])
        return
    grid = Table()
    for column in ("name", "device", "reached by", "runtimes", "paper's batch"):
        grid.add_column(column)
    for device in devices:
        grid.add_row(
            device.name,
            device.title,
            device.connection,
            ", ".join(device.runtimes),
            str(device.paper_batch),
        )
    out.print(grid)


@app.command()
def show(name: str, json: options.Json = False) -> None:
    """Show everything that is known about a device."""
    from devices.inventory import load_inventory

    device = load_inventory().get(name)
    if json:
        print_json(asdict(device))
        return
    for key, value in asdict(device).items():
        if isinstance(value, dict):
            for runtime, facts in value.items():
                out.print(f"runtime {runtime}: {facts['versions']}; install: {facts['install']}")
        elif value not in (None, ""):
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            out.print(f"{key}: {text}", markup=False)


@app.command()
def probe(name: str, json: options.Json = False) -> None:
    """Connect to a device and say what it runs; for what is missing, how to install it."""
    from devices.inventory import connect, load_inventory

    device = load_inventory().get(name)
    with connect(device).start_agent() as agent:
        found = agent.environment.fingerprint()
    missing = {
        runtime: support.install
        for runtime, support in device.runtimes.items()
        if runtime not in found["runtimes"]
    }
    if json:
        print_json({"device": name, **found, "missing": missing})
        return
    for key, value in found.items():
        if key != "runtimes":
            out.print(f"{key}: {value}", markup=False)
    for runtime, version in found["runtimes"].items():
        out.print(f"runtime {runtime} {version}", markup=False)
    for runtime, install in missing.items():
        out.print(f"runtime {runtime} is missing; install it: {install}", markup=False)
