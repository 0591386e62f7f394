"""The structure of what merging makes: merged convolutions and whole shrunk networks.

Structure only, no weights: the merge must give convolutions of exactly these shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dshrink.errors import NotMergeable, ShrinkError
from dshrink.merge.linear_graph import LinearGraph
from dshrink.merge.padding import pads_inside, require_constant_border
from dshrink.merge.region_graph import region_graph
from dshrink.network.mask_changes import Region, Rewriting, rewriting
from dshrink.network.models import Network
from latency_tables.masks import check_padding
from latency_tables.opspec import Activation, BiasMap, Conv, Op, OpSpec

FREE_ACTIVATION = "relu6"


def merged_conv(spec: OpSpec, region: Region) -> Conv:
    """The dense (or depthwise) convolution that replaces ``region``; its input is tensor 0.

    Raises NotMergeable.
    """
    return _conv_of(region_graph(spec, region))


def _conv_of(graph: LinearGraph) -> Conv:
    window = graph.window
    return Conv(
        inputs=(0,),
        out_channels=graph.channels[-1],
        kernel=window.kernel,
        stride=window.stride,
        pads=window.pads,
        groups=graph.groups[-1],
    )


def merged_ops(
    spec: OpSpec, region: Region, *, padding: str = "repad", layers: Sequence[str] = ()
) -> tuple[Op, ...]:
    """What replaces ``region``: a convolution and, under ``bias_map`` alone, a bias map if needed.

    ``layers`` names the network's operators in reasons. Raises ShrinkError where the region cannot
    merge, or where a bias map is asked for and none is exact.
    """
    check_padding(padding)
    try:
        graph = region_graph(spec, region, layers=layers)
        if padding == "bias_map":
            require_constant_border(graph)
    except NotMergeable as error:
        raise ShrinkError(f"{region.label} cannot merge: {error}") from None
    mapped = padding == "bias_map" and pads_inside(graph)
    return (_conv_of(graph), BiasMap(inputs=(1,))) if mapped else (_conv_of(graph),)


def activated(ops: tuple[Op, ...], function: str) -> tuple[Op, ...]:
    """These operators with an activation after the last one."""
    return (*ops, Activation(inputs=(len(ops),), function=function))


def shrunk_spec(
    network: Network,
    mask: str,
    *,
    segments: str = "blocks",
    padding: str = "repad",
    free_activation: bool = True,
    merged: bool = True,
) -> OpSpec:
    """The whole network shrunk as ``mask`` says, in the order of the rewritten graph.

    ``segments`` says what the mask is: "blocks" for a keep mask, "spans" for a span mask. Not
    ``merged``, it has all of its convolutions, and only the activations are gone. Raises
    ShrinkError for a mask that does not fit or merges what cannot merge.
    """
    changes = rewriting(network, mask, segments=segments, free_activation=free_activation)
    if not merged:
        gone = (n for region in changes.regions for n in region.removed)
        changes = replace(changes, regions=(), removed=(*changes.removed, *gone))
    ops = tuple(op for op, _ in rewritten_ops(network, changes, padding=padding))
    return OpSpec(input_shape=network.spec.input_shape, ops=ops)


def rewritten_ops(
    network: Network, changes: Rewriting, *, padding: str
) -> Iterator[tuple[Op, int]]:
    """The operators of a rewritten network, each with the one of the network that it comes from.

    What replaces a region comes from the region's last operator, a free activation from the
    operator before it. Raises ShrinkError for a region that cannot merge.
    """
    spec, layers = network.spec, network.lowered.layers
    merged = {
        region.ops[-1]: (region.enters, merged_ops(spec, region, padding=padding, layers=layers))
        for region in changes.regions
    }
    gone = {n for region in changes.regions for n in region.ops}
    made = 0
    number = {0: 0}  # tensor of the old network -> tensor of the new one
    for n, op in enumerate(spec.ops):
        new: tuple[Op, ...] = ()
        if n in merged:
            enters, replacing = merged[n]
            base = number[enters]
            new = tuple(
                replace(o, inputs=tuple(made + t if t else base for t in o.inputs))
                for o in replacing
            )
        elif n in changes.removed:
            number[n + 1] = number[op.inputs[0]]
            continue
        elif n in gone:
            continue
        else:
            new = (replace(op, inputs=tuple(number[t] for t in op.inputs)),)
        if n + 1 in changes.activated:
            new += (Activation(inputs=(made + len(new),), function=FREE_ACTIVATION),)
        yield from ((o, n) for o in new)
        made += len(new)
        number[n + 1] = made
