"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dshrink.cli import outputs
from dshrink.cli.console import err, notice, progress
from dshrink.errors import DshrinkError
from dshrink.network.references import FORMS, Size
from dshrink.progress import OnProgress

Result = TypeVar("Result")

# The groups that ``--help`` shows options in; the rest is "Options".
condition = partial(typer.Option, rich_help_panel="Measurement conditions")
merging = partial(typer.Option, rich_help_panel="Merging")
searching = partial(typer.Option, rich_help_panel="Search")
bound = partial(typer.Option, rich_help_panel="Bounds")
of_devices = partial(typer.Option, rich_help_panel="Several devices")

network = partial(typer.Option, rich_help_panel="Network")


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except DshrinkError as error:
        raise typer.BadParameter(str(error)) from None


Model = Annotated[str, typer.Argument(metavar="MODEL", help=FORMS)]
ModelArgs = Annotated[
    list[str] | None,
    network(
        "--model-arg",
        metavar="KEY=VALUE",
        help="argument of the factory that makes MODEL (or of the library's); repeatable",
    ),
]
Resolution = Annotated[
    Size | None,
    network(
        parser=_size,
        metavar="HxW",
        help="height and width in pixels, or one number for both; default: what plan, table or "
        "file say, else 224",
    ),
]
InChannels = Annotated[
    int | None,
    network(help="channels of an image; default: what plan, table or file say, else 3"),
]
Classes = Annotated[
    int | None,
    network(
        help="number of outputs of a library's network; default: what images or weights say, else "
        "the library's",
    ),
]
Weights = Annotated[
    str,
    network(
        metavar="NAME|FILE",
        help="initial (as library or factory make them), pretrained (downloaded, or kept from an "
        "earlier download), random (norms drawn, too: for speed and proofs) or a file of weights",
    ),
]
Ema = Annotated[
    bool,
    network(
        "--ema",
        "--weights-ema",
        help="take the moving average of the weights from a file that holds both",
    ),
]
WeightsEma = Annotated[
    bool,
    network(
        "--weights-ema",
        help="take the moving average of the weights from a file that holds both",
    ),
]
Device = Annotated[str, condition(help="a name of `dshrink devices list`")]
Runtime = Annotated[
    str | None, condition(help="default: the first supported runtime of the device")
]
Precision = Annotated[str, condition(help="fp32, fp16 or int8, if device and runtime support it")]
Batch = Annotated[
    int | None,
    # The least is here as well: dshrink.toml is then named as where it stands.
    condition(min=1, help="batch size; default: the paper's for this device"),
]


class BatchSizes(tuple[int, ...]):
    """Batch sizes in the order asked for; a class, as Typer takes a plain tuple apart."""


def _batch_sizes(text: str) -> BatchSizes:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and len(size) < 19 and int(size) for size in sizes):
        raise typer.BadParameter(f"{text!r} is no batch size of 1 or more, nor several as in 1,2,4")
    return BatchSizes(map(int, sizes))


Batches = Annotated[
    BatchSizes | None,
    condition(
        "--batch",
        parser=_batch_sizes,
        metavar="N[,N...]",
        help="batch size, or several; default: the paper's for this device",
    ),
]
FileBatch = Annotated[int, typer.Option(help="batch size of the file")]
Threads = Annotated[int, condition(min=1, help="threads on a CPU")]
Statistic = Annotated[
    str | None,
    condition(
        help="quiet (lower quartile of a process's samples; default on CPUs) or median (on GPUs)"
    ),
]
Launch = Annotated[
    str, condition(help="launch mode on a GPU: plain, cuda_graph or compiled (torch.compile)")
]
CacheMode = Annotated[
    str, condition("--cache", help="L2 cache of the GPU before each run: hot or cold (flushed)")
]
Scheduler = Annotated[
    str | None, condition(help="address of the Dask scheduler of a fleet; see docs/fleets.md")
]
HoldClocks = Annotated[
    bool,
    condition("--hold-clocks", help="lock the device's clocks during the run (needs permission)"),
]


def _seed(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise typer.BadParameter("a seed is an integer of up to 64 bits")
    return value


Seed = Annotated[int, typer.Option(callback=_seed, help="random seed")]
Wide = Annotated[bool, typer.Option("--wide", help="all columns of tables, untruncated")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result")]
Report = Annotated[
    Path | None,
    outputs.file_option(
        "--report", metavar="FILE", help="also write one page of it all (HTML; `dshrink report`)"
    ),
]
Table = Annotated[Path, typer.Option("--table", help="folder of a latency table")]
Padding = Annotated[str, merging(help="padding of merged blocks: bias_map, repad or interior")]
BlockPadding = Annotated[
    str | None,
    merging(
        "--padding",
        help="padding of merged blocks: bias_map (default), repad (default for networks without "
        "bias maps, such as ResNets) or interior",
    ),
]
TablePadding = Annotated[
    str | None,
    merging(
        "--padding",
        help="padding of merged blocks or spans: bias_map (default for blocks), repad (default "
        "for spans) or interior",
    ),
]
PlanPadding = Annotated[
    str | None, merging("--padding", help="bias_map, repad or interior; default: the plan's")
]
WeightsFreeActivation = Annotated[
    bool | None,
    merging(
        "--free-activation/--no-free-activation",
        help="ReLU6 after merged blocks; default: as recorded in fine-tuned weights, else yes",
    ),
]
BudgetMs = Annotated[float | None, searching(help="latency budget in ms")]
Keep = Annotated[int | None, searching(help="number of blocks to keep unmerged")]
AllowUnfit = Annotated[
    bool, searching("--allow-unfit", help="use a table that is not fit for search")
]
Importance = Annotated[
    Path, typer.Option(help="CSV of `dshrink importance`, or a published one: one line per key")
]
Alpha = Annotated[
    float | None,
    searching(help="importances minus alpha times the mean of single layers; default: 1.6"),
]
FrontierFile = Annotated[
    Path | None,
    outputs.file_option("--frontier", help="CSV to write: the best plan for every budget"),
]
PlanFile = Annotated[Path | None, outputs.file_option("--out", help="plan to write")]


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


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave this parameter."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
