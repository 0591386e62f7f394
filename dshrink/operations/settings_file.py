"""A first ``dshrink.toml``: what to measure on, as a probe of the device found it.

What is found is set, the rest stands there as a comment with what it means. Not set is what would
say something where a command knows better by itself: the batch, the resolution.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.inventory import Device, load_inventory
from devices.preflight import Preflight, probe
from dshrink.errors import DshrinkError
from latency_tables.files import write_atomically
from profiler.target import first_runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device as it answered; ``runtimes`` are those that it has in a version that will do."""

    device: Device
    processor: str
    cores: int | None
    gpu: str | None
    runtimes: dict[str, str]

    @classmethod
    def of(cls, preflight: Preflight) -> Found:
        facts = preflight.found["environment"]
        gpu = facts["gpu"]
        return cls(
            device=preflight.device,
            processor=facts["cpu_model"],
            cores=facts["cores"],
            gpu=gpu["name"] if gpu else None,
            runtimes={
                one.name: one.version
                for one in preflight.runtimes
                if one.state == "ok" and one.version is not None
            },
        )

    @property
    def runtime(self) -> str:
        """The first that is there; that of the device's entry where none is."""
        return next(iter(self.runtimes), first_runtime(self.device))

    @property
    def lines(self) -> tuple[str, ...]:
        """What was found."""
        cores = "" if self.cores is None else f", {self.cores} core{'s' if self.cores != 1 else ''}"
        yields = [f"{self.device.name}: {self.device.title}; {self.processor}{cores}"]
        if self.gpu:
            yields.append(f"GPU: {self.gpu}")
        known = ", ".join(f"{name} {version}" for name, version in self.runtimes.items())
        yields.append(f"runtimes: {known or 'none found: see `dshrink devices probe`'}")
        return tuple(yields)


def write_settings(file: Path, device: str) -> Found:
    """Probe the device, and write a file of options for it.

    Raises DshrinkError where there is such a file, InventoryError for an unknown device, and what
    the connection raises.
    """
    _require_none(file)
    found = Found.of(probe(load_inventory().get(device)))
    _require_none(file)  # that took seconds
    write_atomically(file, text_of(found))
    return found


def _require_none(file: Path) -> None:
    if file.exists():
        raise DshrinkError(
            f"{file} exists and is left as it is: edit it, remove it, or give another --out"
        )


def text_of(found: Found) -> str:
    """The file's text."""
    device = found.device
    threads = f", 1 to {found.cores}" if found.cores and found.cores > 1 else ""
    about = "\n".join(f"#   {line}" for line in found.lines)
    return f"""\
# Options of dshrink for commands that run in this folder. Those on the command line override them;
# `dshrink config COMMAND` shows which hold. Keys are the names of options; docs/configuration.md
# explains the file. Found here:
{about}

# For all commands. What to measure on:
device = {_text(device.name)}
runtime = {_text(found.runtime)}
precision = {_text(device.precisions[0])}  # {", ".join(device.precisions)}
threads = 1  # on a CPU{threads}
# batch = {device.paper_batch}  # of measurements; default: the paper's for the device
# statistic = "quiet"  # quiet (default on CPUs) or median (on GPUs)
# launch = "plain"  # on a GPU: plain, cuda_graph or compiled
# cache = "hot"  # of a GPU: hot or cold
# hold-clocks = true  # needs permission
# scheduler = "tls://ADDRESS"  # of a fleet

# The network, where plan, table or file do not say:
# resolution = "224x224"
# classes = 1000

# Images and training:
# data = "DIR"
# loaders = 2
# log-with = ["wandb"]

# For one command, such as:
# [profile]
# out = "table"
# target-error = 0.7
#
# [finetune]
# recipe = "mobilenetv2_100_180"
# batch = 256
"""


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
