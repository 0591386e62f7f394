"""Options that several commands share, each said once."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dshrink.cli.console import err

Result = TypeVar("Result")

#: The groups that ``--help`` shows options in (``rich_help_panel``); the rest is "Options".
CONDITIONS = "Measurement conditions"
SEARCH = "Search"
TRAINING = "Training"

Model = Annotated[str, typer.Argument(help="a timm name, or torchvision:NAME")]
Device = Annotated[str, typer.Option(help="a name of `dshrink devices list`")]
Runtime = Annotated[str | None, typer.Option(help="the device's first that is driven if not given")]
Precision = Annotated[str, typer.Option(help="fp32, fp16 or int8, where device and runtime can")]
Batch = Annotated[
    int | None, typer.Option(min=1, help="images a batch; the paper's on this device if not given")
]
FileBatch = Annotated[int, typer.Option(min=1, help="images a batch of the file")]
Threads = Annotated[int, typer.Option(min=1, help="threads on a CPU")]
Statistic = Annotated[
    str | None,
    typer.Option(
        help="what is reported: quiet (undisturbed machine; a CPU's default) or median (a GPU's)"
    ),
]
Launch = Annotated[
    str, typer.Option(help="how a GPU gets its work: plain, cuda_graph, or compiled (PyTorch)")
]
CacheMode = Annotated[
    str, typer.Option("--cache", help="the GPU's L2 cache before each run: hot, or cold (flushed)")
]
Resolution = Annotated[int, typer.Option(min=8, help="height and width in pixels")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="address of a Dask cluster whose workers drive the boards; see docs/fleets.md"
    ),
]
HoldClocks = Annotated[
    bool,
    typer.Option("--hold-clocks", help="hold the device's clocks meanwhile, where it permits that"),
]
Seed = Annotated[int, typer.Option(help="seed of everything random")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result")]
Table = Annotated[Path, typer.Option("--table", help="folder of a latency table")]
Padding = Annotated[str, typer.Option(help="borders of merged blocks: bias_map, repad or interior")]
TablePadding = Annotated[
    str | None,
    typer.Option(
        "--padding",
        help="borders of what is merged: bias_map (blocks by default), repad (spans by default) or "
        "interior",
    ),
]
PlanPadding = Annotated[
    str | None, typer.Option("--padding", help="bias_map, repad or interior; the plan's by default")
]
FreeActivation = Annotated[
    bool, typer.Option("--free-activation/--no-free-activation", help="ReLU6 after merged blocks")
]
WeightsFreeActivation = Annotated[
    bool | None,
    typer.Option(
        "--free-activation/--no-free-activation",
        help="ReLU6 after merged blocks; as fine-tuned weights say, else yes, if not given",
    ),
]
PlanResolution = Annotated[
    int | None,
    typer.Option(min=8, help="height and width in pixels; the plan's, else 224, if not given"),
]


def warn_of_plain_tcp(scheduler: str | None) -> None:
    """Say on standard error that a cluster beyond this machine should be reached by TLS."""
    if scheduler is None or scheduler.startswith(("tls://", "inproc://")):
        return
    host = scheduler.partition("://")[2] or scheduler
    if not host.startswith(("127.", "localhost", "[::1]")):
        err.print(
            f"warning: {scheduler} is not encrypted, and Dask runs what it is sent: use tls:// "
            "(docs/fleets.md)",
            soft_wrap=True,
        )


def call(context: typer.Context, function: Callable[..., Result], **more: Any) -> Result:
    """``function`` of the command's parameters that are named like its own, and of ``more``."""
    names = signature(function).parameters
    taken = {name: value for name, value in context.params.items() if name in names}
    return function(**{**taken, **more})
