"""A runtime's profile of a network's layers, shared out to the pieces that the network is made of.

Our nodes are named after the tensor they make ("t5/Conv", the last one "result/Gemm"), and runtimes
put the names of what they fused, or reformatted for, into a layer's name. A layer whose operators
belong to several pieces is shared between them by its operators' MACs there: the profile does not
say which of them took the time, and arithmetic is what a fused layer spends most of it on. A layer
that names nothing of ours is kept apart.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latency_tables.onnx_file import OUTPUT_NAME
from latency_tables.opspec import OpSpec, join

if TYPE_CHECKING:
    from profiler.replies import LayerTimes

#: A node of ours, as a whole word: "t5/Conv". With more behind its tensor's name it is a part that
#: the operator is written with ("t5.gate/Sigmoid", "t5.weight", "t5.q/QuantizeLinear").
_NODE = re.compile(rf"(?<![\w./])(?:t([1-9]\d*)|({OUTPUT_NAME}))(\.[\w.]+)?(?!\w)")
#: TensorRT's name for a part of the graph that it compiled as one: its first and last nodes.
_RANGE = re.compile(r"ForeignNode\[(.*?)\.\.\.(.*?)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceTimes:
    """Nanoseconds in each pass: a tuple a piece, and what layers without names of ours took."""

    pieces_ns: tuple[tuple[float, ...], ...]
    unnamed_ns: tuple[float, ...]

    @property
    def unnamed_percent(self) -> float:
        """The unnamed layers' share of the time of all layers."""
        unnamed = math.fsum(self.unnamed_ns)
        total = unnamed + math.fsum(value for piece in self.pieces_ns for value in piece)
        return 100.0 * unnamed / total if total else 0.0


def named_operators(layer: str, count: int) -> tuple[set[int], set[int]]:
    """The operators, by number of ``count``, that a layer's name mentions: whole ones, and those
    of which it mentions parts only."""
    found = _mentioned(layer, count)
    whole = {number for number, is_part in found if not is_part}
    for ends in _RANGE.findall(layer):
        numbers = [number for end in ends for number, _ in _mentioned(end, count)]
        whole.update(range(min(numbers), max(numbers) + 1) if numbers else ())
    return whole, {number for number, _ in found} - whole


def _mentioned(text: str, count: int) -> list[tuple[int, bool]]:
    # Operator k makes tensor k + 1.
    found = (
        (int(match[1]) - 1 if match[1] else count - 1, match[3] is not None)
        for match in _NODE.finditer(text)
    )
    return [(number, is_part) for number, is_part in found if number < count]


def share_out(layers: LayerTimes, specs: Sequence[OpSpec]) -> PieceTimes:
    """Share the layers of a network among its pieces, whose specs are given in its order."""
    network = join(specs)
    owners = [number for number, spec in enumerate(specs) for _ in spec.ops]
    passes = min(len(times) for _, times in layers.layers)
    pieces_ns = [[0.0] * passes for _ in specs]
    unnamed_ns = [0.0] * passes
    for name, times in layers.layers:
        shares = _shares(network, owners, *named_operators(name, len(network.ops)))
        for number, time_ns in enumerate(times[:passes]):
            for piece, share in shares.items():
                pieces_ns[piece][number] += share * time_ns
            if not shares:
                unnamed_ns[number] += time_ns
    return PieceTimes(
        pieces_ns=tuple(tuple(times) for times in pieces_ns), unnamed_ns=tuple(unnamed_ns)
    )


def _shares(
    network: OpSpec, owners: Sequence[int], whole: set[int], parts: set[int]
) -> dict[int, float]:
    """What each piece has of a layer, by MACs; by numbers written where no operator has any."""
    macs: dict[int, float] = defaultdict(float)
    written: dict[int, float] = defaultdict(float)
    for number in whole:
        op = network.ops[number]
        macs[owners[number]] += op.macs([network.shapes[tensor] for tensor in op.inputs])
    for number in whole | parts:
        written[owners[number]] += math.prod(network.shapes[number + 1])
    weights = macs if any(macs.values()) else written
    total = math.fsum(weights.values())
    return {piece: weight / total for piece, weight in weights.items()}
