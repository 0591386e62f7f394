"""A network's chain of convolutions as data: what ``dshrink chain`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dshrink.network.chain import span_chain
from dshrink.network.models import Network
from dshrink.network.trunk import FixedPart
from dshrink.operations.opening import AnyNetwork, opened

if TYPE_CHECKING:
    import pandas as pd

#: The spans that are counted where none are asked for.
SPANS = "kim2023"


def describe_chain(network: AnyNetwork, spans: str = SPANS) -> dict[str, Any]:
    """The chain as JSON data: its convolutions, skips, blocks, fixed parts, and what cannot merge.

    Shapes are (channels, height, width) of one image, ``macs`` are of one image. ``spans`` says
    which spans are counted: "kim2023" or "exact". Raises NetworkError.
    """
    found = opened(network)
    chain = found.chain
    return {
        "model": found.name,
        "resolution": found.resolution,
        "macs": found.spec.macs,
        "parameters": found.spec.parameters,
        "not_counted": [found.lowered.layers[n] for n in found.spec.uncounted],
        "convolutions": [
            {
                "position": conv.position,
                "name": conv.name,
                "block": conv.block,
                "kernel": conv.conv.kernel,
                "stride": conv.conv.stride,
                "groups": conv.conv.groups,
                "input_shape": conv.in_shape,
                "output_shape": conv.out_shape,
                "activation": conv.activation,
                "break_after": conv.break_after,
            }
            for conv in chain.convs
        ],
        "span_mask": span_mask(found),
        "skips": chain.skips,
        "blocks": [
            {"index": b.index, "name": b.name, "unmergeable": b.unmergeable} for b in chain.blocks
        ],
        "fixed": [
            {
                "first": found.lowered.layers[part.ops[0]],
                "last": found.lowered.layers[part.ops[-1]],
                "convolutions": convolutions_in(found, part),
                "reason": part.reason,
            }
            for part in chain.fixed
        ],
        "hard_breaks": {str(at): why for at, why in sorted(chain.hard_breaks(spans).items())},
        "spans": len(chain.spans(spans)),
    }


def chain_frame(network: AnyNetwork) -> pd.DataFrame:
    """The convolutions of the chain in order, a row each, as pandas: what ``describe_chain`` says.

    ``input_shape`` and ``output_shape`` are (channels, height, width). Raises NetworkError.
    """
    import pandas as pd

    return pd.DataFrame(describe_chain(network)["convolutions"])


def span_mask(network: Network) -> str:
    """The mask of the network as it is; empty where it has no chain."""
    return span_chain(network.chain).mask if network.chain.body else ""


def convolutions_in(network: Network, part: FixedPart) -> int:
    """How many convolutions stand in a fixed part."""
    return sum(network.spec.ops[n].kind == "conv" for n in part.ops)
