"""A network's chain of convolutions as data: what ``dshrink chain`` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dshrink.network.chain import span_chain
from dshrink.network.models import Network
from dshrink.network.trunk import FixedPart
from dshrink.operations.opening import AnyNetwork, opened

if TYPE_CHECKING:
    import pandas as pd

#: The spans that are counted where none are asked for.
SPANS = "kim2023"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionData:
    """A convolution of the chain; ``position`` is null in the stem and the head."""

    position: int | None
    name: str
    block: int | None
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    activation: str | None
    break_after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockData:
    """A building block."""

    index: int
    name: str
    unmergeable: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedData:
    """A part that no span enters, as it joins tensors by more than a residual addition."""

    first_layer: str
    last_layer: str
    convolutions: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakData:
    """A place that nothing merges across."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainNetwork:
    """The chain of convolutions of a network: positions 1 to L, spans (i, j] between them."""

    model: str
    resolution: tuple[int, int]
    macs: int
    parameters: int
    not_counted: tuple[str, ...]
    convolutions: tuple[ConvolutionData, ...]
    span_mask: str
    skips: tuple[tuple[int, int], ...]
    blocks: tuple[BlockData, ...]
    fixed_parts: tuple[FixedData, ...]
    hard_breaks: tuple[BreakData, ...]
    span_count: int


def describe_chain(network: AnyNetwork, spans: str = SPANS) -> ChainNetwork:
    """The chain as data: its convolutions, skips, blocks, fixed parts, and what cannot merge.

    Shapes are (channels, height, width) of one image, ``macs`` are of one image. ``spans`` says
    which spans are counted: "kim2023" or "exact". Raises NetworkError.
    """
    found = opened(network)
    chain, layers = found.chain, found.lowered.layers
    return ChainNetwork(
        model=found.name,
        resolution=found.resolution,
        macs=found.spec.macs,
        parameters=found.spec.parameters,
        not_counted=tuple(layers[n] for n in found.spec.uncounted),
        convolutions=tuple(
            ConvolutionData(
                position=conv.position,
                name=conv.name,
                block=conv.block,
                kernel=conv.conv.kernel,
                stride=conv.conv.stride,
                groups=conv.conv.groups,
                input_shape=conv.in_shape,
                output_shape=conv.out_shape,
                activation=conv.activation,
                break_after=conv.break_after,
            )
            for conv in chain.convs
        ),
        span_mask=span_mask(found),
        skips=chain.skips,
        blocks=tuple(
            BlockData(index=b.index, name=b.name, unmergeable=b.unmergeable) for b in chain.blocks
        ),
        fixed_parts=tuple(
            FixedData(
                first_layer=layers[part.ops[0]],
                last_layer=layers[part.ops[-1]],
                convolutions=convolutions_in(found, part),
                reason=part.reason,
            )
            for part in chain.fixed
        ),
        hard_breaks=tuple(
            BreakData(position=at, reason=why)
            for at, why in sorted(chain.hard_breaks(spans).items())
        ),
        span_count=len(chain.spans(spans)),
    )


def chain_frame(network: AnyNetwork) -> pd.DataFrame:
    """The convolutions of the chain in order, a row each, as pandas: what ``describe_chain`` says.

    ``input_shape`` and ``output_shape`` are (channels, height, width). Raises NetworkError.
    """
    import pandas as pd

    return pd.DataFrame([asdict(conv) for conv in describe_chain(network).convolutions])


def span_mask(network: Network) -> str:
    """The mask of the network as it is; empty where it has no chain."""
    return span_chain(network.chain).mask if network.chain.body else ""


def convolutions_in(network: Network, part: FixedPart) -> int:
    """How many convolutions stand in a fixed part."""
    return sum(network.spec.ops[n].kind == "conv" for n in part.ops)
