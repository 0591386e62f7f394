"""The jobs of a list of layers: each alone and, in a context, behind a neighbour as well.

What a layer costs alone includes what its ends cost there: a runtime that computes in a layout of
its own converts the input and the output. In a network it does so seldom. Behind a pointwise
convolution of the layer's own input, less that convolution alone, the conversion of the input falls
out of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from latency_tables.layers.layer import Layer
from latency_tables.opspec import Conv, Linear, Op, OpSpec, join
from profiler.planning.jobs import Job, JobPlan

#: Layers that every board of a fleet measures, for comparison.
SHARED_LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class LayerPlan(JobPlan):
    """``alone`` are the job of each layer by its id; ``pairs`` (neighbour, neighbour and layer)."""

    jobs: Sequence[Job]
    layers: tuple[Layer, ...]
    pairs: Mapping[Layer, tuple[str, str]] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> Mapping[str, Job]:
        """The jobs by their id."""
        return {job.id: job for job in self.jobs}


def plan_layers(layers: Sequence[Layer], *, context: str = "alone") -> LayerPlan:
    """One job a distinct file; equal neighbours are one job."""
    specs: dict[str, tuple[str, OpSpec]] = {}
    pairs: dict[Layer, tuple[str, str]] = {}
    for layer in layers:
        specs.setdefault(layer.spec.digest, (layer.name, layer.spec))
    for layer in layers if context == "pair" else ():
        before = neighbour(layer)
        both = join([before, layer.spec])
        specs.setdefault(before.digest, (f"neighbour of {layer.name}", before))
        specs.setdefault(both.digest, (f"{layer.name} beside its neighbour", both))
        pairs[layer] = (before.digest, both.digest)
    jobs = [
        Job(id=digest, kind="piece", label=label, spec=spec)
        for digest, (label, spec) in specs.items()
    ]
    shared = tuple(job.id for job in jobs[:SHARED_LAYERS])
    return LayerPlan(jobs=jobs, layers=tuple(layers), pairs=pairs, shared=shared)


def neighbour(layer: Layer) -> OpSpec:
    """A pointwise convolution that gives the layer its input; for a linear layer a linear one."""
    channels = layer.in_channels
    op: Op
    if layer.kind == "linear":
        op = Linear(inputs=(0,), out_features=channels)
    else:
        op = Conv(inputs=(0,), out_channels=channels, kernel=(1, 1))
    return OpSpec(input_shape=layer.spec.input_shape, ops=(op,))
