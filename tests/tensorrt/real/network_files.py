"""The files that are given to NVIDIA's parsers: every kind of piece, and whole networks.

All blocks of a network are there in each form, original, merged, with a bias map and dense; of its
spans the smallest of each form, kernel and pads, and in fp32 all but large ones: spans that differ
in channels alone are read alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dshrink.errors import ShrinkError
from dshrink.network.models import Network, load_network
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from latency_tables.onnx_file import Arrays, write_onnx
from latency_tables.opspec import Op, OpSpec
from latency_tables.pieces import Piece
from latency_tables.span_masks import mask_of

NETWORKS = ("mobilenetv2_100", "tf_efficientnet_lite0", "resnet50", "vgg19_bn")
PRECISIONS = ("fp32", "fp16", "int8")
#: Spans with more numbers are left out, for they take long: the smallest of its form, kernel and
#: pads in fp32, the same in fp16 and int8, and any other in fp32.
MOST_NUMBERS, MOST_IN_OTHER_TYPES, MOST_OF_ALIKE = 60_000_000, 20_000_000, 10_000_000
#: The widest kernel of the spans in a shrunk network without blocks.
WIDEST_KERNEL = 5
_NUMBERS = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one file holds: a kind of piece, or "whole"; ``name`` says where it is from."""

    name: str
    kind: str
    spec: OpSpec
    precisions: tuple[str, ...] = PRECISIONS

    def write(self, folder: Path, precision: str) -> Path:
        """The file in this precision, written anew."""
        path = folder / f"{self.spec.digest}-{precision}.onnx"
        path.write_bytes(write_onnx(self.spec, _weights(self.spec), precision=precision))
        return path


def _weights(spec: OpSpec) -> list[Arrays]:
    """Numbers that repeat: as many different ones take longer to draw than to read and build."""
    return [tuple(np.resize(_NUMBERS, shape) for shape in shapes) for shapes in spec.array_shapes]


def workloads(model: str) -> list[Workload]:
    """All files of a network, each once."""
    network = load_network(model)
    found: dict[str, Workload] = {}
    for one in (*_blocks(network), *_whole(network), *_spans(network)):
        found.setdefault(one.spec.digest, one)
    return list(found.values())


def _blocks(network: Network) -> Iterator[Workload]:
    if network.blocks:
        for piece in network_pieces(network).pieces:
            yield _of(network, piece)


def _spans(network: Network) -> Iterator[Workload]:
    seen = set()
    for piece in sorted(span_pieces(network).pieces, key=lambda piece: piece.spec.parameters):
        form = piece.kind, *map(_form, piece.spec.ops)
        numbers, is_first = piece.spec.parameters, form not in seen
        if numbers <= (MOST_NUMBERS if is_first else MOST_OF_ALIKE):
            in_all = is_first and numbers <= MOST_IN_OTHER_TYPES
            yield _of(network, piece, PRECISIONS if in_all else PRECISIONS[:1])
        seen.add(form)


def _form(op: Op) -> tuple[object, ...]:
    """What an operator is, its channels aside."""
    said = (getattr(op, name, None) for name in ("function", "kernel", "stride", "pads"))
    return op.kind, len(op.inputs), getattr(op, "groups", 1) > 1, *said


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


def _of(network: Network, piece: Piece, precisions: tuple[str, ...] = PRECISIONS) -> Workload:
    name = f"{network.name} {piece.name}"
    return Workload(name=name, kind=piece.kind, spec=piece.spec, precisions=precisions)
