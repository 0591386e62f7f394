"""The layers that a refit fits, in order: merged regions, and convolutions that stay.

A convolution that stays is fitted too where the activation behind it goes or comes, or where it
can make good what the merged regions before it have changed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dshrink.network.mask_changes import Region, Rewriting
from dshrink.network.models import Network
from latency_tables.opspec import Activation, Add, Conv, OpSpec

#: What the free activation computes.
FREE_ACTIVATION = "relu6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One convolution to fit; numbers of tensors are those of the original's ``OpSpec``.

    It reads tensor ``enters`` and makes tensor ``makes``; ``result`` is that tensor, or that of the
    additions behind it, which shall equal tensor ``wanted`` of the original. ``function`` is the
    activation that the refitted network has behind ``result``, empty for none. ``region`` is what
    merged, None for operator ``number``, which stays. ``goes`` is an activation to remove behind
    it, ``comes`` the path of one to put there.
    """

    label: str
    enters: int
    makes: int
    result: int
    wanted: int
    function: str
    region: Region | None = None
    number: int | None = None
    goes: int | None = None
    comes: str | None = None


def units_of(
    network: Network, changes: Rewriting, *, merged_only: bool = False
) -> tuple[Unit, ...]:
    """The regions of ``changes``, and convolutions that stay, in the order of their results.

    Those that stay are all that give a block's result behind the first region; with
    ``merged_only`` those alone whose activation changes.
    """
    spec = network.spec
    inside = {number for region in changes.regions for number in region.ops}
    first = min((region.result for region in changes.regions), default=len(spec.ops))
    calls = Counter(name for names in network.lowered.modules for name in names)
    found = [_unit(network, changes, region=region) for region in changes.regions]
    for number, op in enumerate(spec.ops):
        if not isinstance(op, Conv) or number in inside:
            continue
        if any(calls[name] != 1 for name in network.lowered.modules[number]):
            continue  # shared weights belong to several places
        unit = _unit(network, changes, number=number)
        changed = unit.goes is not None or unit.comes is not None
        if changed or (number >= first and not merged_only and _gives_block(unit)):
            found.append(unit)
    return tuple(sorted(found, key=lambda unit: unit.makes))


def _gives_block(unit: Unit) -> bool:
    """Whether an addition or no activation stands behind it: the last convolution of a block."""
    return unit.result != unit.makes or not unit.function


def _unit(
    network: Network,
    changes: Rewriting,
    *,
    region: Region | None = None,
    number: int | None = None,
) -> Unit:
    spec = network.spec
    if region is not None:
        enters, makes, label = region.enters, region.result, region.label
    else:
        assert number is not None
        enters, makes = spec.ops[number].inputs[0], number + 1
        label = network.lowered.layers[number]
    result = _added(spec, makes)
    readers = _readers(spec, result)
    activation = next((n for n in readers if isinstance(spec.ops[n], Activation)), None)
    if len(readers) > 1:
        activation = None
    goes = activation if activation in changes.removed else None
    comes = changes.activated.get(result)
    function = FREE_ACTIVATION if comes is not None else ""
    if activation is not None and goes is None:
        op = spec.ops[activation]
        assert isinstance(op, Activation)
        function = op.function
    return Unit(
        label=label,
        enters=enters,
        makes=makes,
        result=result,
        wanted=result if goes is None else goes + 1,
        function=function,
        region=region,
        number=number,
        goes=goes,
        comes=comes,
    )


def _added(spec: OpSpec, tensor: int) -> int:
    """The tensor of the additions that alone read ``tensor``, or that tensor."""
    readers = _readers(spec, tensor)
    while len(readers) == 1 and isinstance(spec.ops[readers[0]], Add):
        tensor = readers[0] + 1
        readers = _readers(spec, tensor)
    return tensor


def _readers(spec: OpSpec, tensor: int) -> list[int]:
    return [number for number, op in enumerate(spec.ops) if tensor in op.inputs]
