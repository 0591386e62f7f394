"""Which convolutions of a network are expanded: the paper's rules, or names.

A rule leaves out what cannot be expanded, with the reason; a layer that is given by name must be
expandable.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from dshrink.network.models import Network
from dshrink.train.errors import TrainError
from latency_tables.opspec import Conv

RULES = ("auto", "vgg", "inverted_residual")
NAMED = "layers"


class ExpansionError(TrainError):
    """A network or a layer that cannot be expanded, or an unknown rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The convolutions ``layers`` that ``rule`` chose, and the reasons for what it ``left_out``."""

    rule: str
    layers: tuple[str, ...]
    left_out: Mapping[str, str]


def choose(network: Network, rule: str = "auto", layers: Sequence[str] = ()) -> Choice:
    """The convolutions to expand (DepthShrinker, App. D), or exactly those named by ``layers``.

    "vgg": every dense 3x3 convolution but the first two and the last. "inverted_residual": the
    first pointwise of the first, third, ... inverted residual block that has one. "auto": the
    latter where there are such blocks. Raises ExpansionError where nothing is left.
    """
    if rule not in RULES:
        raise ExpansionError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    if layers and rule != "auto":
        raise ExpansionError(f"give either --layer or --rule {rule}: a rule chooses the layers")
    if layers:
        for name in layers:
            find_expandable(network, name)
        return Choice(rule=NAMED, layers=tuple(dict.fromkeys(layers)), left_out={})
    first_pointwise = _first_pointwise(network)
    if rule == "auto":
        rule = "inverted_residual" if first_pointwise else "vgg"
    if rule == "inverted_residual":
        wanted = first_pointwise[::2]
    else:
        convs = _convolutions(network)
        wanted = [n for n, op in convs if op.kernel == (3, 3) and op.groups == 1][2:-1]
    reasons = {number: why_not_expandable(network, number) for number in wanted}
    names = network.lowered.layers
    chosen = tuple(names[number] for number, reason in reasons.items() if reason is None)
    left_out = {names[number]: reason for number, reason in reasons.items() if reason}
    if not chosen:
        raise ExpansionError(_nothing(network, rule, left_out))
    return Choice(rule=rule, layers=chosen, left_out=left_out)


def _nothing(network: Network, rule: str, left_out: Mapping[str, str]) -> str:
    if left_out:
        name, reason = next(iter(left_out.items()))
        return f"{network.name}: nothing to expand by the rule {rule}: {name}: {reason}"
    wants = {
        "vgg": "a dense 3x3 convolution between the first two and the last",
        "inverted_residual": "an inverted residual block with a first pointwise",
    }
    return (
        f"{network.name}: nothing to expand by the rule {rule}: it has not {wants[rule]}; "
        "name the convolutions: --layer NAME"
    )


def _first_pointwise(network: Network) -> list[int]:
    """In each inverted residual block that has one, the pointwise before the depthwise."""
    spec, found = network.spec, []
    for block in network.blocks:
        inside = [(n, op) for n, op in _convolutions(network) if block.first <= n <= block.last]
        for (number, first), (_, second) in itertools.pairwise(inside):
            channels = spec.shapes[second.inputs[0]][0]
            if first.is_pointwise and first.groups == 1 and second.groups == channels > 1:
                found.append(number)
                break
    return found


def _convolutions(network: Network) -> list[tuple[int, Conv]]:
    return [(number, op) for number, op in enumerate(network.spec.ops) if isinstance(op, Conv)]


def find_convolution(network: Network, name: str) -> int:
    """The operator's number. Raises ExpansionError, with the nearest names, for an unknown one."""
    known = {network.lowered.layers[number]: number for number, _ in _convolutions(network)}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise ExpansionError(
            f"{network.name} has no convolution {name!r}; it has {', '.join(close)}, ... "
            "(`dshrink chain` lists them)"
        )
    return known[name]


def find_expandable(network: Network, name: str) -> int:
    """``find_convolution`` of one that can be expanded. Raises ExpansionError."""
    number = find_convolution(network, name)
    if reason := why_not_expandable(network, number):
        raise ExpansionError(f"{name} of {network.name} cannot be expanded: {reason}")
    return number


def why_not_expandable(network: Network, number: int) -> str | None:
    """Why a convolution cannot be expanded and shrunk back, or None."""
    op, modules = network.spec.ops[number], network.lowered.modules[number]
    assert isinstance(op, Conv)
    if op.groups > 1:
        return f"it has {op.groups} groups, and what its expansion contracts to has none"
    if sum(modules[0] in names for names in network.lowered.modules) > 1:
        return "it is used several times"
    conv = network.module.get_submodule(modules[0])
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is not None:
        return None
    norm = network.module.get_submodule(modules[1]) if len(modules) > 1 else None
    if getattr(norm, "running_mean", None) is None:
        return (
            "it has no bias, and no batch norm of its own after it, to absorb the biases of an "
            "expansion"
        )
    return None
