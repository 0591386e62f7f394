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
    from profiler.conditions import Target
    from profiler.profile import Profile


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
    statistic: options.Statistic = None,
    launch: options.Launch = "plain",
    cache_mode: options.CacheMode = "hot",
    scheduler: options.Scheduler = None,
    hold_clocks: options.HoldClocks = False,
    segments: Annotated[str, typer.Option(help="what is profiled: blocks")] = "blocks",
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
            "predicts best; a CPU's default is isolated"
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
    if segments != "blocks":
        raise DshrinkError(f"--segments {segments}: this version profiles blocks only")
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
) -> Profile:
    """Trace, measure with a progress bar, save the table, and those of its contexts below it."""
    from dshrink.models import load_network
    from dshrink.shrink import network_pieces, shrunk_spec
    from latency_tables.io import save_table
    from profiler.conditions import measuring_on
    from profiler.contexts import choose_contexts
    from profiler.profile import ProfileRequest, profile
    from profiler.runtimes import traits_of
    from profiler.settings import settings_for
    from profiler.workloads import build_onnx

    with measuring_on(target, notice) as (scheduler, conditions):
        able = traits_of(conditions).layer_profiles
        chosen = choose_contexts(contexts, conditions, layer_profiles=able)
        network = load_network(model, resolution=resolution)
        pieces = network_pieces(network, dense=dense)
        for block, reason in pieces.unmergeable.items():
            name = pieces.block_names[block]
            err.print(f"block {block} ({name}) cannot merge: {reason}", soft_wrap=True)
        request = ProfileRequest(
            pieces=pieces,
            compose=lambda mask, padding: shrunk_spec(network, mask, padding=padding),
            build=build_onnx,
            conditions=conditions,
            folder=out_dir,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            dshrink_version=__version__,
            hold_out=hold_out,
            contexts=chosen,
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
