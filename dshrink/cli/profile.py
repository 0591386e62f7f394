"""``dshrink profile``: measure the pieces of a network and write its latency table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import err, notice, out, print_json, progress
from dshrink.cli.render import summary_lines, table_data
from dshrink.errors import DshrinkError
from dshrink.version import __version__

if TYPE_CHECKING:
    from dshrink.network.models import Network
    from latency_tables.pieces import NetworkPieces
    from latency_tables.span_masks import SpanChoice
    from profiler.conditions import Target
    from profiler.profile import Profile


SEGMENTS = ("blocks", "spans")
#: The spans that are profiled where no mode is asked for.
SPAN_MODE = "kim2023"


def register(app: typer.Typer) -> None:
    app.command(name="profile")(command)


def command(
    model: options.Model,
    out_dir: Annotated[Path, typer.Option("--out", help="folder of the table and its journal")],
    device: options.Device = "local",
    runtime: options.Runtime = None,
    precision: options.Precision = "fp32",
    batch: options.Batch = None,
    threads: options.Threads = 1,
    resolution: options.Resolution = 224,
    classes: Annotated[
        int | None,
        typer.Option(min=1, help="outputs of the last layer; the library's own number by default"),
    ] = None,
    statistic: options.Statistic = None,
    launch: options.Launch = "plain",
    cache_mode: options.CacheMode = "hot",
    scheduler: options.Scheduler = None,
    hold_clocks: options.HoldClocks = False,
    segments: Annotated[
        str,
        typer.Option(
            help="what is profiled: blocks, or spans (every run of convolutions that can become "
            "one, across blocks as well)"
        ),
    ] = "blocks",
    span_mode: Annotated[
        str | None,
        typer.Option(help="which spans: kim2023 (the paper's, the default) or exact (all valid)"),
    ] = None,
    max_kernel: Annotated[
        int | None, typer.Option(min=1, help="spans with a wider merged kernel are not measured")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="also measure same-FLOPs dense counterparts")
    ] = False,
    hold_out: Annotated[
        int, typer.Option(min=8, help="networks that only check the predictions")
    ] = 20,
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="what pieces are measured beside: isolated, pair, layers, several of them, or "
            "best (all that the runtime allows; a GPU's default). The table is the one that "
            "predicts best; a CPU's default is isolated, for spans pair"
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure every piece of MODEL on a device and write a latency table.

    An interrupted run goes on where it was: give the same command again.
    """
    from profiler.conditions import Target

    options.warn_of_plain_tcp(scheduler)
    result = run_profile(
        model,
        out_dir,
        Target(
            device=device,
            runtime=runtime,
            precision=precision,
            batch=batch,
            threads=threads,
            statistic=statistic,
            launch=launch,
            cache_mode=cache_mode,
            scheduler=scheduler,
            hold_clocks=hold_clocks,
        ),
        resolution=resolution,
        dense=dense,
        hold_out=hold_out,
        contexts=context or (),
        seed=seed,
        segments=segments,
        span_mode=span_mode,
        max_kernel=max_kernel,
        classes=classes,
    )
    if json:
        print_json({**table_data(result.table), "table": str(out_dir)})
        return
    out.print("\n".join(summary_lines(result.table)))
    out.print(f"table: {out_dir / 'table.csv'} (and .json); raw samples: {out_dir}/journal.jsonl")


def run_profile(
    model: str,
    out_dir: Path,
    target: Target,
    *,
    resolution: int = 224,
    dense: bool = False,
    hold_out: int = 20,
    contexts: Sequence[str] = (),
    seed: int = 0,
    segments: str = "blocks",
    span_mode: str | None = None,
    max_kernel: int | None = None,
    classes: int | None = None,
) -> Profile:
    """Trace, measure with a progress bar, save the table, and those of its contexts below it.

    ``classes`` is how many outputs the network has, the library's own number if not given.
    """
    from dshrink.network.models import load_network
    from dshrink.pieces.specs import shrunk_spec
    from latency_tables.io import save_table
    from profiler.conditions import measuring_on
    from profiler.contexts import choose_contexts
    from profiler.profile import ProfileRequest, profile
    from profiler.runtimes import traits_of
    from profiler.settings import settings_for
    from profiler.workloads import build_onnx

    _check_segments(segments, dense=dense, span_mode=span_mode, max_kernel=max_kernel)
    with measuring_on(target, notice) as (scheduler, conditions):
        able = traits_of(conditions).layer_profiles
        spans = segments == "spans"
        chosen = choose_contexts(contexts, conditions, layer_profiles=able, spans=spans)
        network = load_network(model, resolution=resolution, classes=classes)
        pieces = _pieces(network, segments, dense=dense, span_mode=span_mode)
        request = ProfileRequest(
            pieces=pieces,
            compose=lambda mask, padding: shrunk_spec(
                network, mask, segments=segments, padding=padding
            ),
            build=build_onnx,
            conditions=conditions,
            folder=out_dir,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            dshrink_version=__version__,
            hold_out=hold_out,
            contexts=chosen,
            spans=_span_choice(segments, span_mode, max_kernel),
            settings=settings_for(conditions, seed=seed),
        )
        with progress(f"profile {model}") as update:
            result = profile(
                request,
                scheduler,
                on_start=lambda e: err.print(f"{e}", soft_wrap=True),
                progress=update,
            )
    if len(result.tables) > 1:
        for name, table in result.tables.items():
            save_table(table, out_dir / name)
    save_table(result.table, out_dir)
    session = result.session
    err.print(
        f"{session.measured} measurements made ({session.remeasured} of them again), "
        f"{session.reused} reused from the journal, {session.failed} jobs failed",
        soft_wrap=True,
    )
    return result


def _check_segments(
    segments: str, *, dense: bool, span_mode: str | None, max_kernel: int | None
) -> None:
    """Raise unless the options that were given suit the segments."""
    if segments not in SEGMENTS:
        raise DshrinkError(f"unknown --segments {segments!r}; known: {', '.join(SEGMENTS)}")
    if segments == "spans" and dense:
        raise DshrinkError("--dense measures counterparts of blocks: use it with --segments blocks")
    if segments == "blocks" and (span_mode or max_kernel):
        raise DshrinkError("--span-mode and --max-kernel are for --segments spans")


def _span_choice(segments: str, span_mode: str | None, max_kernel: int | None) -> SpanChoice | None:
    from latency_tables.span_masks import SpanChoice

    if segments != "spans":
        return None
    return SpanChoice(mode=span_mode or SPAN_MODE, max_kernel=max_kernel)


def _pieces(
    network: Network, segments: str, *, dense: bool, span_mode: str | None
) -> NetworkPieces:
    """What is measured; says which blocks, or how many spans, cannot merge."""
    from dshrink.pieces.block_pieces import network_pieces
    from dshrink.pieces.span_pieces import span_pieces

    if segments == "spans":
        pieces = span_pieces(network, mode=span_mode or SPAN_MODE)
        spans = sum(piece.kind == "span" for piece in pieces.pieces)
        err.print(
            f"{spans} spans of {network.name}, {len(pieces.unique_specs)} distinct pieces with the "
            f"fixed ones; {len(pieces.unmergeable)} spans cannot merge",
            soft_wrap=True,
        )
        return pieces
    pieces = network_pieces(network, dense=dense)
    for at, reason in pieces.unmergeable.items():
        name = pieces.block_names[at] if isinstance(at, int) else at
        err.print(f"block {at} ({name}) cannot merge: {reason}", soft_wrap=True)
    return pieces
