"""``dshrink chain``: a network's convolutions in order, its blocks, and what cannot merge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dshrink.cli import options
from dshrink.cli.console import notice, out, print_json, progress, show_error
from dshrink.cli.grids import Column, print_grid
from dshrink.errors import DshrinkError
from latency_tables.wording import counted

if TYPE_CHECKING:
    from dshrink.network.chain import Chain, ChainConv
    from dshrink.network.models import Network
    from dshrink.operations.chain import ChainNetwork
    from latency_tables.opspec import Conv


#: So many fixed parts are listed without --wide.
_FIXED = 4


def command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help=f"{options.FORMS}; several are possible")
    ],
    model_args: options.ModelArgs = None,
    resolution: options.Resolution = None,
    in_channels: options.InChannels = None,
    classes: options.Classes = None,
    spans: Annotated[
        str, typer.Option(help="which spans are counted: exact or kim2023")
    ] = "kim2023",
    wide: options.Wide = False,
    json: options.Json = False,
) -> None:
    """Print a network's chain of convolutions: sizes, activations, skips, breaks, blocks.

    A network that cannot be traced is reported, and the others are still printed.
    """
    from dshrink.cli.payloads.networks import ChainData
    from dshrink.network.models import load
    from dshrink.network.references import ModelChoice
    from dshrink.operations.chain import describe_chain

    found: list[ChainNetwork] = []
    failed: list[DshrinkError] = []
    for name in models:
        try:
            choice = ModelChoice(
                model=name,
                model_args=tuple(model_args or ()),
                resolution=resolution,
                in_channels=in_channels,
                classes=classes,
            )
            with progress(f"trace {name}"):
                network = load(choice, notice)
        except DshrinkError as error:
            failed.append(error)
            show_error(error)
            continue
        found.append(describe_chain(network, spans))
        if not json:
            _print(network, network.chain, spans, wide=wide)
    if json:
        print_json(ChainData(networks=tuple(found)))
    if failed:
        raise typer.Exit(2)


def _print(network: Network, chain: Chain, mode: str, *, wide: bool) -> None:
    from dshrink.operations.chain import span_mask
    from dshrink.pieces.advice import not_counted

    height, width = network.resolution
    ends = {q: p for p, q in chain.skips}
    columns: list[Column[ChainConv]] = [
        Column("#", lambda conv: str(conv.position or "")),
        Column("block", lambda conv: "" if conv.block is None else str(conv.block), rank=3),
        Column("convolution", lambda conv: conv.name, least=16),
        Column("kernel", lambda conv: _kernel(conv.conv)),
        Column("input", lambda conv: "x".join(map(str, conv.in_shape)), rank=5),
        Column("output", lambda conv: "x".join(map(str, conv.out_shape)), rank=2),
        Column("activation", lambda conv: conv.activation or "", rank=1),
        Column("after it", lambda conv: _after(conv, ends.get(conv.position or 0)), least=16),
    ]
    title = f"{network.name} at {height}x{width}"
    print_grid(columns, chain.convs, title=title, wide=wide)
    out.print(
        f"{counted(len(chain.blocks), 'block')}, {counted(chain.length, 'position')}, "
        f"{counted(len(chain.skips), 'skip')}, "
        f"{counted(len(chain.spans(mode)), 'span')} ({mode}); {network.spec.macs / 1e6:.1f} M "
        f"multiply-accumulates, {network.spec.parameters / 1e6:.2f} M parameters"
    )
    if missing := not_counted(network):
        out.print(missing)
    if mask := span_mask(network):
        out.print(f"as a plan: spans:{mask}")
    _print_fixed(network, chain, wide=wide)
    for block in chain.blocks:
        if block.unmergeable:
            out.print(f"block {block.index} ({block.name}) cannot merge: {block.unmergeable}")


def _print_fixed(network: Network, chain: Chain, *, wide: bool) -> None:
    """What no span enters; a part inside of a block that cannot merge is said with the block."""
    if not chain.fixed:
        return
    from dshrink.operations.chain import convolutions_in

    if convs := sum(convolutions_in(network, part) for part in chain.fixed):
        out.print(
            f"{counted(convs, 'convolution')} in {counted(len(chain.fixed), 'fixed part')}, "
            "which no "
            "span enters: measured as they are"
        )
    outside = [
        part
        for part in chain.fixed
        if not any(block.first <= part.ops[0] <= block.last for block in chain.blocks)
    ]
    shown = outside if wide else outside[:_FIXED]
    for part in shown:
        out.print(f"fixed: {network.lowered.layers[part.ops[0]]} and on: {part.reason}")
    if len(outside) > len(shown):
        out.print(f"and {counted(len(outside) - len(shown), 'more fixed part')}: --wide lists all")


def _after(conv: ChainConv, skip_from: int | None) -> str:
    notes = [] if skip_from is None else [f"+ skip from {skip_from}"]
    if conv.break_after and conv.position:
        notes.append(f"break: {conv.break_after}")
    return "; ".join(notes)


def _kernel(conv: Conv) -> str:
    text = "x".join(map(str, conv.kernel))
    if max(conv.stride) > 1:
        text += f" / {conv.stride[0]}"
    return text + (f", {conv.groups} groups" if conv.groups > 1 else "")
