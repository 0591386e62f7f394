"""What a plan says of each block, or of each convolution, by name.

A plan that merges blocks has one choice a block, one that merges spans of the chain across blocks
has one a convolution. Either list spells out the plan's mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latency_tables.json_fields import JsonObject
from latency_tables.span_masks import ACTIVE, LINEAR, MERGED


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChoice:
    """What happens to one block.

    ``activations`` names the block's activation layers, where they are known: kept if ``keep``,
    removed otherwise. ``first_layer`` to ``last_layer`` become one convolution if it is not kept.
    """

    index: int
    name: str
    keep: bool
    activations: tuple[str, ...] = ()
    first_layer: str = ""
    last_layer: str = ""

    @classmethod
    def from_json(cls, source: JsonObject) -> BlockChoice:
        source.check_fields(tuple(cls.__dataclass_fields__))
        return cls(
            index=source.integer("index"),
            name=source.text("name"),
            keep=source.boolean("keep"),
            activations=source.texts("activations"),
            first_layer=source.text("first_layer"),
            last_layer=source.text("last_layer"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionChoice:
    """What follows one convolution of the chain; ``position`` counts from 1.

    Without a ``boundary`` it merges into the next one. At a boundary an activation stands behind it
    (the network's own or the free one) if ``activation``, nothing otherwise.
    """

    position: int
    name: str
    boundary: bool
    activation: bool

    @property
    def sign(self) -> str:
        """Its character in the span mask."""
        if not self.boundary:
            return MERGED
        return ACTIVE if self.activation else LINEAR

    @classmethod
    def from_json(cls, source: JsonObject) -> ConvolutionChoice:
        source.check_fields(tuple(cls.__dataclass_fields__))
        return cls(
            position=source.integer("position"),
            name=source.text("name"),
            boundary=source.boolean("boundary"),
            activation=source.boolean("activation"),
        )


def block_choices(
    keep_mask: str,
    block_names: Sequence[str],
    activations: Mapping[int, Sequence[str]] | None = None,
    layers: Mapping[int, tuple[str, str]] | None = None,
) -> tuple[BlockChoice, ...]:
    """One choice a block; ``layers`` gives a block's first and last layer."""
    choices = []
    for index, (bit, name) in enumerate(zip(keep_mask, block_names, strict=True)):
        first_layer, last_layer = (layers or {}).get(index, ("", ""))
        choices.append(
            BlockChoice(
                index=index,
                name=name,
                keep=bit == "1",
                activations=tuple((activations or {}).get(index, ())),
                first_layer=first_layer,
                last_layer=last_layer,
            )
        )
    return tuple(choices)


def convolution_choices(
    span_mask: str, convolutions: Sequence[str]
) -> tuple[ConvolutionChoice, ...]:
    """One choice a convolution of the chain."""
    return tuple(
        ConvolutionChoice(
            position=position, name=name, boundary=sign != MERGED, activation=sign == ACTIVE
        )
        for position, (sign, name) in enumerate(zip(span_mask, convolutions, strict=True), start=1)
    )
