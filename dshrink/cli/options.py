"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dshrink.cli.console import err, notice, progress
from dshrink.progress import OnProgress

Result = TypeVar("Result")

#: The groups that ``--help`` shows options in (``rich_help_panel``); the rest is "Options".
CONDITIONS = "Measurement conditions"
MERGING = "Merging"
SEARCH = "Search"
TRAINING = "Training"
condition = partial(typer.Option, rich_help_panel=CONDITIONS)
merging = partial(typer.Option, rich_help_panel=MERGING)

Model = Annotated[str, typer.Argument(help="a timm name, or torchvision:NAME")]
Device = Annotated[str, condition(help="a name of `dshrink devices list`")]
Runtime = Annotated[str | None, condition(help="the device's first supported one if not given")]
Precision = Annotated[str, condition(help="fp32, fp16 or int8, as device and runtime support")]
Batch = Annotated[
    int | None, condition(min=1, help="images a batch; the paper's on this device if not given")
]
FileBatch = Annotated[int, typer.Option(min=1, help="images a batch of the file")]
Threads = Annotated[int, condition(min=1, help="threads on a CPU")]
Statistic = Annotated[
    str | None,
    condition(help="quiet (of the undisturbed samples; a CPU's default) or median (a GPU's)"),
]
Launch = Annotated[
    str, condition(help="how work is launched on a GPU: plain, cuda_graph, or compiled (PyTorch)")
]
CacheMode = Annotated[
    str, condition("--cache", help="the GPU's L2 cache before each run: hot, or cold (flushed)")
]
Resolution = Annotated[int, typer.Option(min=8, help="height and width in pixels")]
Scheduler = Annotated[
    str | None,
    condition(help="address of a Dask cluster whose workers drive the boards; see docs/fleets.md"),
]
HoldClocks = Annotated[
    bool,
    condition("--hold-clocks", help="fix the device's clocks while measuring, where permitted"),
]
Seed = Annotated[int, typer.Option(help="seed of everything random")]
Wide = Annotated[
    bool, typer.Option("--wide", help="all columns of tables, untruncated, on any terminal")
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result")]
Table = Annotated[Path, typer.Option("--table", help="folder of a latency table")]
Padding = Annotated[str, merging(help="padding of merged blocks: bias_map, repad or interior")]
TablePadding = Annotated[
    str | None,
    merging(
        "--padding",
        help="padding of what is merged: bias_map (default for blocks), repad (default for spans) "
        "or interior",
    ),
]
PlanPadding = Annotated[
    str | None, merging("--padding", help="bias_map, repad or interior; the plan's by default")
]
FreeActivation = Annotated[
    bool, merging("--free-activation/--no-free-activation", help="ReLU6 after merged blocks")
]
WeightsFreeActivation = Annotated[
    bool | None,
    merging(
        "--free-activation/--no-free-activation",
        help="ReLU6 after merged blocks; if not given, as recorded in fine-tuned weights, else yes",
    ),
]
PlanResolution = Annotated[
    int | None,
    typer.Option(min=8, help="height and width in pixels; the plan's, else 224, if not given"),
]


def warn_of_plain_tcp(scheduler: str | None) -> None:
    """Warn that a cluster on another machine should be reached by TLS."""
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


def run(
    context: typer.Context,
    function: Callable[..., Result],
    title: str,
    *,
    bar: Callable[[str], AbstractContextManager[OnProgress]] = progress,
    **more: Any,
) -> Result:
    """``call`` of an operation, with a progress bar of that title and its notices."""
    with bar(title) as update:
        return call(context, function, on_progress=update, notice=notice, **more)
