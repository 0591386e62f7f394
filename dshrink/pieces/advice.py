"""What a network's pieces cannot be, said before anything is measured, and what to do instead."""

from __future__ import annotations

from collections import Counter

from dshrink.errors import ShrinkError
from dshrink.network.models import Network
from dshrink.network.tracing import only_batch
from latency_tables.opspec import Conv, Opaque
from latency_tables.wording import counted

#: So many layers are named in one line.
_NAMED = 3


def require_writable(network: Network) -> None:
    """Raise ShrinkError, with layers and reasons, where an operator cannot be written to ONNX.

    Such an operator merges with nothing, so the piece that holds it is part of every network.
    """
    stuck = [
        f"{layer} ({op.operator}): {op.reason}"
        for op, layer in zip(network.spec.ops, network.lowered.layers, strict=True)
        if isinstance(op, Opaque) and op.reason
    ]
    if stuck:
        more = f"; and {len(stuck) - _NAMED} more" if len(stuck) > _NAMED else ""
        raise ShrinkError(
            f"{network.name}: {len(stuck)} of its operators cannot be written to ONNX, and no "
            f"network of its pieces can be measured without them: {'; '.join(stuck[:_NAMED])}"
            f"{more}; give the network other layers there, or an ONNX file of your own"
        )


def require_batch(network: Network, batch: int) -> None:
    """Raise ShrinkError for another batch than the one that an ONNX file has in its constants."""
    only = only_batch(network.module)
    if only not in (None, batch):
        raise ShrinkError(
            f"{network.name}: some of its constants are for a batch of {only}, so it cannot be "
            f"measured with {batch}: give --batch {only}, or export it with an open batch"
        )


def not_counted(network: Network) -> str:
    """In one line, the operators whose multiply-accumulates nobody counts; empty without any."""
    spec, layers = network.spec, network.lowered.layers
    names = [f"{layers[n]} ({getattr(spec.ops[n], 'operator', '')})" for n in spec.uncounted]
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"multiply-accumulates of {', '.join(names[:_NAMED])}{more} are not counted: numbers of "
        "multiply-accumulates are without them"
    )


def no_blocks(network: Network) -> str:
    """For a network without building blocks."""
    found = f"{network.name}: no building block found (nothing in it forks and joins again)"
    positions = network.chain.length
    if not positions:
        return _nothing(network)
    return (
        f"{found}; the spans of its {counted(positions, 'convolution')} can be profiled: "
        "--segments spans"
    )


def no_spans(network: Network) -> str:
    """For a network without a convolution on its trunk."""
    if not network.blocks:
        return _nothing(network)
    convs = sum(isinstance(op, Conv) for op in network.spec.ops)
    says = (
        f"none of its convolutions ({convs}) is on the trunk" if convs else "it has no convolution"
    )
    if convs and network.chain.fixed:
        says += f" ({network.chain.fixed[0].reason})"
    blocks = len(network.blocks)
    return (
        f"{network.name}: {says}, so there are no spans; its "
        f"{counted(blocks, 'block')} can be profiled: --segments blocks"
    )


def _nothing(network: Network) -> str:
    kinds = Counter(getattr(op, "operator", op.kind) for op in network.spec.ops)
    made = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return (
        f"{network.name}: neither a building block nor a convolution that could merge (it is made "
        f"of {made}): there is nothing to profile piece by piece; `dshrink bench` measures it whole"
    )
