"""What a mask changes in a network: regions that merge, activations that go, activations that come.

A keep mask (one character a block) and a span mask (one a convolution of the chain) both become a
``Rewriting``, the one thing that the structure of a shrunk network, its merge and its unmerged
reference are made from. Numbers are those of the network's ``OpSpec``: operator n makes tensor
n + 1. Structure only, no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from dshrink.errors import NotMergeable, ShrinkError
from dshrink.network.blocks import Block, why_unmergeable
from dshrink.network.chain import Chain, span_chain
from dshrink.network.models import Network
from latency_tables.errors import MaskError
from latency_tables.masks import REMOVABLE, check_mask
from latency_tables.opspec import Activation, OpSpec
from latency_tables.span_masks import ACTIVE, LINEAR, Span, check_span_mask, mask_spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Operators ``ops`` (in order) that become one convolution of tensor ``enters``.

    The last of them makes the tensor that the convolution gives; ``removed`` are the
    activations among them. ``path`` is that of the new layers among the network's modules. It is
    either a block or a span.
    """

    name: str
    path: str
    enters: int
    ops: tuple[int, ...]
    removed: tuple[int, ...]
    block: int | None = None
    span: Span | None = None

    @property
    def result(self) -> int:
        """The tensor that the region makes."""
        return self.ops[-1] + 1

    @property
    def label(self) -> str:
        """What errors call it: "block 3 (blocks.2.0)" or "span 3-6 (conv_a .. conv_b)"."""
        at = f"block {self.block}" if self.span is None else f"span {self.span[0]}-{self.span[1]}"
        return f"{at} ({self.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """What ``mask`` does to a network that it cuts into ``segments`` ("blocks" or "spans").

    ``removed`` are activations outside of the regions that go; ``activated`` maps a tensor to the
    path of the free activation that comes after it.
    """

    segments: str
    mask: str
    regions: tuple[Region, ...]
    removed: tuple[int, ...] = ()
    activated: Mapping[int, str] = field(default_factory=dict)
    free_activation: bool = True


def rewriting(
    network: Network, mask: str, *, segments: str = "blocks", free_activation: bool = True
) -> Rewriting:
    """What a keep mask (``segments="blocks"``) or a span mask ("spans") does to a network.

    Without ``free_activation`` none is added where the network has none. Raises ShrinkError for a
    mask that does not fit, and for what cannot merge.
    """
    makers = {"blocks": block_rewriting, "spans": span_rewriting}
    if segments not in makers:
        raise ShrinkError(f"unknown segments {segments!r}; known: {', '.join(makers)}")
    found = makers[segments](network, mask)
    return found if free_activation else replace(found, activated={}, free_activation=False)


def block_rewriting(network: Network, mask: str) -> Rewriting:
    """The blocks merge that a keep mask marks 0, each with an activation at its end.

    A block that loses no activation (parallel branches, as in RepVGG) gets none: merging it
    changes nothing of what the network computes.
    """
    blocks = network.blocks
    reasons = {block.index: block.unmergeable for block in blocks if block.unmergeable}
    try:
        check_mask(mask, [block.name for block in blocks], reasons, network.name)
    except MaskError as error:
        raise ShrinkError(str(error)) from None
    shrunk = [block for block, keep in zip(blocks, mask, strict=True) if keep == "0"]
    regions = [block_region(block) for block in shrunk]
    return Rewriting(
        segments="blocks",
        mask=mask,
        regions=tuple(regions),
        activated={
            region.result: region.path
            for region, block in zip(regions, shrunk, strict=True)
            if block.end_activation is None and block.inner_activations
        },
    )


def block_region(block: Block) -> Region:
    """A block up to its end activation."""
    return Region(
        name=block.name,
        path=_path_of(block.name),
        enters=block.first,
        ops=tuple(range(block.first, block.body_last + 1)),
        removed=block.inner_numbers,
        block=block.index,
    )


def _path_of(name: str) -> str:
    """Where a block's layers go: its module, or beside its ends, ``body.0_to_1``."""
    first, _, last = name.partition("..")
    if not last:
        return name
    ends = [first.split("."), last.split(".")]
    shared = len(list(takewhile(lambda level: level[0] == level[1], zip(*ends, strict=False))))
    return ".".join([*ends[0][:shared], "_to_".join("_".join(end[shared:]) for end in ends)])


def span_rewriting(network: Network, mask: str) -> Rewriting:
    """Spans of several convolutions merge; at each boundary the mask's activation, or none.

    A span swallows the skips that start and end in it. Other additions stay, with the activation
    after them.
    """
    spec, layers = network.spec, network.lowered.layers
    chain = network.chain
    try:
        check_span_mask(mask, span_chain(chain), set(chain.spans()), model=network.name)
    except MaskError as error:
        raise ShrinkError(str(error)) from None
    regions = []
    for i, j in mask_spans(mask):
        try:
            if j > i + 1:
                regions.append(span_region(spec, layers, chain, (i, j)))
        except NotMergeable as error:
            names = f"{chain.body[i].name} .. {chain.body[j - 1].name}"
            raise ShrinkError(
                f"span {i}-{j} ({names}) of {network.name} cannot merge: {error}; put a boundary "
                f"({ACTIVE} or {LINEAR}) inside"
            ) from None
    removed, activated = [], {}
    for conv, sign in zip(chain.body, mask, strict=True):
        if sign == LINEAR and conv.activation_op is not None:
            if conv.activation not in REMOVABLE:
                raise ShrinkError(
                    f"{layers[conv.activation_op]} of {network.name}: activation {conv.activation} "
                    f"is not removed (only {' and '.join(REMOVABLE)} are): keep it ({ACTIVE} at "
                    f"position {conv.position})"
                )
            removed.append(conv.activation_op)
        elif sign == ACTIVE and conv.activation_op is None:
            activated[conv.linear] = _beside(conv.name, f"position_{conv.position}")
    return Rewriting(
        segments="spans",
        mask=mask,
        regions=tuple(regions),
        removed=tuple(removed),
        activated=activated,
    )


def _beside(layer: str, name: str) -> str:
    """A path next to a layer: ``blocks.1.0.span_3_6`` for ``blocks.1.0.conv_dw``."""
    return ".".join([*layer.split(".")[:-1], name])


def span_region(spec: OpSpec, layers: Sequence[str], chain: Chain, span: Span) -> Region:
    """The convolutions i+1..j with the additions that they swallow, as one region.

    Raises NotMergeable, with the reason, where they make no single convolution.
    """
    i, j = span
    first, last = chain.body[i], chain.body[j - 1]
    enters = spec.ops[first.op].inputs[0]
    ops = operators_between(spec, layers, enters, _span_result(layers, chain, span))
    reason = why_unmergeable(spec, layers, ops) if j > i + 1 else None
    if reason:
        raise NotMergeable(reason)
    return Region(
        name=first.name if j == i + 1 else f"{first.name} .. {last.name}",
        path=_beside(last.name, f"span_{i}_{j}"),
        enters=enters,
        ops=ops,
        removed=tuple(n for n in ops if isinstance(spec.ops[n], Activation)),
        span=span,
    )


def _span_result(layers: Sequence[str], chain: Chain, span: Span) -> int:
    """The tensor that a span makes: that of the last addition it swallows, or its convolution's."""
    i, j = span
    last = chain.body[j - 1]
    swallowed = [a for a in chain.additions if a.end == j and a.start >= i]
    if swallowed != list(last.additions[: len(swallowed)]):
        raise NotMergeable(
            f"{layers[swallowed[-1].op]} ends a skip inside, but follows an activation or "
            "the end of a longer skip"
        )
    return (swallowed[-1].op if swallowed else last.op) + 1


def operators_between(
    spec: OpSpec, layers: Sequence[str], enters: int, result: int
) -> tuple[int, ...]:
    """The operators that make tensor ``result`` of tensor ``enters`` alone, in order.

    Raises NotMergeable where they read another tensor, or one of theirs is read elsewhere.
    """
    inside: set[int] = set()
    waiting = [result]
    while waiting:
        tensor = waiting.pop()
        if tensor == enters or tensor - 1 in inside:
            continue
        if tensor < enters:
            name = layers[tensor - 1] if tensor else "the image"
            raise NotMergeable(f"{name} enters it as well as what the first convolution reads")
        inside.add(tensor - 1)
        waiting += spec.ops[tensor - 1].inputs
    for number, op in enumerate(spec.ops):
        if number not in inside:
            for tensor in op.inputs:
                if tensor != result and tensor - 1 in inside:
                    raise NotMergeable(f"{layers[number]} reads what {layers[tensor - 1]} makes")
    return tuple(sorted(inside))
