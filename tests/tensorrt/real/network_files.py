"""The files that are given to NVIDIA's parsers: every kind of piece, and whole networks.

All blocks of a network are there in each form, original, merged, with a bias map and dense; of its
spans one of each form, the smallest: those that differ in channels and in how large kernels and
pads are alone are read alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dshrink.errors import ShrinkError
from dshrink.network.models import Network, load_network
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import Op, OpSpec
from latency_tables.pieces import Piece
from latency_tables.span_masks import mask_of
from profiler.workloads import build_onnx

NETWORKS = ("mobilenetv2_100", "tf_efficientnet_lite0", "resnet50", "vgg19_bn")
PRECISIONS = ("fp32", "fp16", "int8")
#: A file with more numbers is written as fp32 alone.
MOST_NUMBERS = 50_000_000
#: The widest kernel of the spans in a shrunk network without blocks.
WIDEST_KERNEL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one file holds: a kind of piece, or "whole"; ``name`` says where it is from."""

    name: str
    kind: str
    spec: OpSpec

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it is written as."""
        return PRECISIONS if self.spec.parameters <= MOST_NUMBERS else PRECISIONS[:1]

    def write(self, folder: Path, precision: str) -> Path:
        """The file in this precision, written anew."""
        path = folder / f"{self.spec.digest}-{precision}.onnx"
        path.write_bytes(build_onnx(self.spec, precision=precision))
        return path


def workloads(model: str) -> list[Workload]:
    """All files of a network, each once."""
    network = load_network(model)
    every = [*_blocks(network), *_spans(network), *_whole(network)]
    return list({one.spec.digest: one for one in every}.values())


def _blocks(network: Network) -> Iterator[Workload]:
    if network.blocks:
        for piece in network_pieces(network).pieces:
            yield _of(network, piece)


def _spans(network: Network) -> Iterator[Workload]:
    smallest: dict[tuple[object, ...], Piece] = {}
    for piece in span_pieces(network).pieces:
        kind = piece.kind, *map(_form, piece.spec.ops)
        if kind not in smallest or piece.spec.parameters < smallest[kind].spec.parameters:
            smallest[kind] = piece
    for piece in smallest.values():
        yield _of(network, piece)


def _form(op: Op) -> tuple[object, ...]:
    """What an operator is, its channels and the sizes of its kernel and pads aside."""
    top, left, bottom, right = getattr(op, "pads", (0, 0, 0, 0))
    return (
        op.kind,
        len(op.inputs),
        getattr(op, "groups", 1) > 1,
        getattr(op, "function", None),
        max(getattr(op, "kernel", (0,))) > 1,
        getattr(op, "stride", None),
        (top > 0, bottom > 0, (top, left) == (bottom, right)),
    )


def _whole(network: Network) -> Iterator[Workload]:
    yield Workload(name=f"{network.name} original", kind="whole", spec=network.spec)
    if not network.blocks:
        mask = _span_mask(network)
        spec = shrunk_spec(network, mask, segments="spans")
        yield Workload(name=f"{network.name} {mask}", kind="whole", spec=spec)
        return
    mask = "".join("1" if block.unmergeable else "0" for block in network.blocks)
    for padding in ("repad", "bias_map"):
        try:
            spec = shrunk_spec(network, mask, padding=padding)
        except ShrinkError:
            continue
        yield Workload(name=f"{network.name} {mask} {padding}", kind="whole", spec=spec)


def _span_mask(network: Network) -> str:
    """As few spans as there are of kernels no wider than that."""
    made = span_pieces(network)
    ends: dict[int, int] = {}
    for piece in made.pieces:
        if piece.kind == "span" and piece.span and piece.spec.ops[0].kernel[0] <= WIDEST_KERNEL:
            ends[piece.span[0]] = max(piece.span[1], ends.get(piece.span[0], 0))
    at, cuts = 0, set()
    while at < network.chain.length:
        at = ends[at]
        cuts.add(at)
    return mask_of(network.chain.length, cuts, cuts)


def _of(network: Network, piece: Piece) -> Workload:
    return Workload(name=f"{network.name} {piece.name}", kind=piece.kind, spec=piece.spec)
