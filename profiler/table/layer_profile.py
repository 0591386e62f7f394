"""A runtime's profile of a network's layers, shared out to the places of its pieces.

Our nodes are named after the tensor they make ("t5/Conv", the last one "result/Gemm"), and runtimes
put the names of what they fused, or reformatted for, into a layer's name. A layer whose operators
belong to several places is shared between them by its operators' MACs there: the profile does not
say which of them took the time, and arithmetic is what a fused layer spends most of it on. A change
of layout belongs to the operator that wants another layout than its neighbours. A layer that names
nothing of ours is kept apart.

A profiled run is slower than a plain one, so its times are shares of the network's latency.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latency_tables.onnx_file import OUTPUT_NAME
from latency_tables.opspec import OpSpec
from latency_tables.places import Place
from profiler.statistics import quantile

if TYPE_CHECKING:
    from profiler.replies import LayerTimes

#: A node of ours, as a whole word: "t5/Conv". With more behind its tensor's name it is a part that
#: the operator is written with ("t5.gate/Sigmoid", "t5.weight", "t5.q/QuantizeLinear"). In its
#: blocked layout ONNX Runtime names a node after a tensor of what it fused: a convolution's own, or
#: that of the activation right behind it ("t6_nchwc/Conv").
_NODE = re.compile(rf"(?<![\w./])(?:t([1-9]\d*)|({OUTPUT_NAME}))(?:_nchwc|(\.[\w.]+))?(?!\w)")
#: TensorRT's name for a part of the graph that it compiled as one: its first and last nodes.
_RANGE = re.compile(r"ForeignNode\[(.*?)\.\.\.(.*?)\]")
#: ONNX Runtime's changes of layout, which run right before the node that is not in the blocked
#: layout (Output) and right after it (Input).
_LAYOUT = re.compile(r"Reorder(Output|Input)")
#: Disturbance only adds: of passes, and of processes and networks, the lower quartile counts.
LOW = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceTimes:
    """Nanoseconds in each pass: of each place, and of the layers without names of ours.

    A place that no layer names was fused into others. It has no time of its own where it multiplies
    nothing; where it does, it is left out, as nothing is known of it.
    """

    places_ns: Mapping[Place, tuple[float, ...]]
    unnamed_ns: tuple[float, ...]

    @property
    def unnamed_percent(self) -> float:
        """The unnamed layers' share of the time of all layers."""
        unnamed = math.fsum(self.unnamed_ns)
        total = unnamed + math.fsum(value for times in self.places_ns.values() for value in times)
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


def share_out(layers: LayerTimes, network: OpSpec, owners: Sequence[Place]) -> PieceTimes:
    """Share the layers of a network among the places that its operators have, one an operator."""
    passes = min(len(times) for _, times in layers.layers)
    found: dict[Place, list[float]] = defaultdict(lambda: [0.0] * passes)
    unnamed_ns = [0.0] * passes
    names = [name for name, _ in layers.layers]
    for at, (_, times) in enumerate(layers.layers):
        spoken_for = named_operators(_speaking(names, at), len(network.ops))
        shares = _shares(network, owners, *spoken_for)
        for number, time_ns in enumerate(times[:passes]):
            for place, share in shares.items():
                found[place][number] += share * time_ns
            if not shares:
                unnamed_ns[number] += time_ns
    multiplying = {place for op, place in enumerate(owners) if _macs(network, op)}
    silent = (place for place in owners if place not in found and place not in multiplying)
    return PieceTimes(
        places_ns={
            **{place: tuple(times) for place, times in found.items()},
            **dict.fromkeys(silent, (0.0,) * passes),
        },
        unnamed_ns=tuple(unnamed_ns),
    )


def _speaking(names: Sequence[str], at: int) -> str:
    """A layer's name; for a change of layout that of the layer that it was made for."""
    change = _LAYOUT.match(names[at])
    if change is None:
        return names[at]
    nearest = names[at + 1 :] if change[1] == "Output" else names[:at][::-1]
    return next((name for name in nearest if not _LAYOUT.match(name)), names[at])


def _shares(
    network: OpSpec, owners: Sequence[Place], whole: set[int], parts: set[int]
) -> dict[Place, float]:
    """What each place has of a layer, by MACs; by numbers written where no operator has any."""
    macs: dict[Place, float] = defaultdict(float)
    written: dict[Place, float] = defaultdict(float)
    for number in whole:
        macs[owners[number]] += _macs(network, number)
    for number in whole | parts:
        written[owners[number]] += math.prod(network.shapes[number + 1])
    weights = macs if any(macs.values()) else written
    total = math.fsum(weights.values())
    return {place: weight / total for place, weight in weights.items()}


def _macs(network: OpSpec, number: int) -> int:
    op = network.ops[number]
    return op.macs([network.shapes[tensor] for tensor in op.inputs])


def profiled_ms(profiles: Iterable[tuple[PieceTimes, float]]) -> dict[Place, float]:
    """What each place costs in a network, in ms, from profiles of networks that hold it.

    A profile is one network's in one process, with the latency of that network in ms, measured
    without the profiler: the places' times, lower quartiles over the passes, are scaled to add up
    to it, which spreads what is unnamed in proportion. Of a place in several profiles the lower
    quartile counts. A profile in which nothing of ours took time says nothing.
    """
    found: dict[Place, list[float]] = defaultdict(list)
    for profile, latency_ms in profiles:
        times_ns = {place: quantile(times, LOW) for place, times in profile.places_ns.items()}
        total_ns = math.fsum(times_ns.values())
        for place, time_ns in times_ns.items() if total_ns else ():
            found[place].append(time_ns * latency_ms / total_ns)
    return {place: quantile(times_ms, LOW) for place, times_ms in found.items()}
