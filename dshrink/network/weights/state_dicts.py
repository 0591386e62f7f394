"""Weights into a network: by its names, whatever a training script has put before them.

What does not fit is told as a difference: the prefix that was seen, names that are missing, shapes
that differ; and where one option would make it fit, that option. Nothing is loaded in part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dshrink.errors import NetworkError, WeightsMisfitError
from dshrink.network.references import ModelChoice, Source
from dshrink.network.weights.files import plain_tensors, read_state
from dshrink.network.weights.known_layouts import network_of
from dshrink.progress import Notice, no_notice

#: What wrappers of training put before all names (DataParallel, torch.compile, Lightning, ...).
PREFIXES = ("module", "_orig_mod", "model", "net", "network")
#: A counter that old and stripped files lack; nothing but a momentum of None reads it.
COUNTER = "num_batches_tracked"
#: So many names of each kind are listed, the others counted.
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """How a state dict differs from a network's, by the network's names.

    ``shapes`` are those that differ: of the file, and of the network.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    wanted: int

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Misfit:
        shapes = {
            name: (tuple(state[name].shape), tuple(own[name].shape))
            for name in own
            if name in state and state[name].shape != own[name].shape
        }
        return cls(
            missing=tuple(n for n in own if n not in state and not _is_counter(n)),
            unexpected=tuple(n for n in state if n not in own and not _is_counter(n)),
            shapes=shapes,
            wanted=len(own),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        """In one line."""
        parts = []
        if self.missing:
            parts.append(
                f"{len(self.missing)} of {self.wanted} names missing: {_some(self.missing)}"
            )
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected: {_some(self.unexpected)}")
        if self.shapes:
            texts = (f"{n} {_shape(a)}, here {_shape(b)}" for n, (a, b) in self.shapes.items())
            parts.append(f"{len(self.shapes)} of another shape: {_some(texts)}")
        return "; ".join(parts)

    @property
    def remedies(self) -> tuple[str, ...]:
        """The options that make the network fit, where nothing but its ends differs."""
        heads = {
            (theirs[0], ours[0])
            for theirs, ours in self.shapes.values()
            if theirs and ours and theirs[0] != ours[0] and theirs[1:] == ours[1:]
        }
        inputs = {a[1] for a, b in self.shapes.values() if _differ_in_inputs(a, b)}
        ends = sum(_differ_in_inputs(a, b) or a[1:] == b[1:] for a, b in self.shapes.values())
        if self.missing or self.unexpected or ends < len(self.shapes) or len(heads) > 1:
            return ()
        return (
            *(f"--classes {theirs}" for theirs, _ in heads),
            *(f"--in-channels {channels}" for channels in inputs if len(inputs) == 1),
        )


def _differ_in_inputs(theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether of a convolution's shape only the input channels differ."""
    same = (theirs[0], *theirs[2:]) == (ours[0], *ours[2:]) if len(theirs) == 4 else False
    return same and len(ours) == 4 and theirs[1] != ours[1]


def load_weights(module: nn.Module, choice: ModelChoice, notice: Notice = no_notice) -> None:
    """Load the file ``choice.weights`` into its network; ``notice`` says what was taken of it.

    Raises NetworkError for a file that cannot be used and WeightsMisfitError for weights of another
    network, one line each.
    """
    path = Path(choice.weights)
    found = read_state(path, ema=choice.weights_ema)
    own = module.state_dict()
    prefix, state = _by_names_of(own, _uncompiled(found.tensors, own))
    if misfit := Misfit.of(state, own):
        by_name = choice.reference.source in (Source.TIMM, Source.TORCHVISION)
        whose = network_of(state, own, choice.name) if by_name else None
        seen = f", prefix {prefix} left out" if prefix else _other_prefixes(own, state)
        advice = f"; these are weights of {whose}: give that as MODEL" if whose else ""
        raise WeightsMisfitError(
            f"{path}: its weights do not fit {choice.name}{seen}: {misfit}"
            f"{advice or _advice(misfit, choice)}"
        )
    try:
        state = dict(plain_tensors(state))
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from None
    _check_numbers(state, path)
    module.load_state_dict({**own, **state})
    if choice.weights_ema:
        notice(f"{path}: took the moving average of the weights ({found.wrapper})")
    elif found.average:
        notice(
            f"{path}: took the weights ({found.wrapper}), not their moving average "
            f"({found.average})"
        )
    left_out = len(found.tensors) - len(state)
    if prefix and left_out:
        notice(f"{path}: took the {len(state)} weights under {prefix}, not the {left_out} others")


def load_state(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str, name: str
) -> None:
    """Load a state dict by the very names of a module. Raises WeightsMisfitError."""
    own = module.state_dict()
    if misfit := Misfit.of(state, own):
        raise WeightsMisfitError(
            f"{source}: its weights do not fit {name}: {misfit}; give a state dict of {name}"
        )
    module.load_state_dict({**own, **state})


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


def _uncompiled(
    state: Mapping[str, torch.Tensor], own: Iterable[str]
) -> Mapping[str, torch.Tensor]:
    """Without what torch.compile puts before the names of the part that it compiled."""
    mark = "_orig_mod."
    if any(mark in name for name in own):
        return state
    return {name.replace(mark, ""): tensor for name, tensor in state.items()}


def _by_names_of(
    own: Iterable[str], state: Mapping[str, torch.Tensor]
) -> tuple[str, dict[str, torch.Tensor]]:
    """The prefix under which most of the network's names are, and the state below it."""
    names = set(own)
    shared = {
        prefix: sum(name.startswith(prefix) and name[len(prefix) :] in names for name in state)
        for prefix in sorted(set(_prefixes(state)), key=len)
    }
    prefix = max(shared, key=lambda one: shared[one])
    if not shared[prefix]:  # none fits: then the longest that all names have, as it hides the rest
        common = [p for p in shared if all(name.startswith(p) for name in state)]
        prefix = max(common, key=len, default="")
    return prefix, {
        name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)
    }


def _other_prefixes(own: Iterable[str], state: Mapping[str, torch.Tensor]) -> str:
    """What stands before most of the network's names in a file that no known wrapper explains."""
    names = [name for name in own if not _is_counter(name)]
    ends = [name.removesuffix(names[0]) for name in state if name.endswith(f".{names[0]}")]
    shared = {prefix: sum(prefix + name in state for name in names) for prefix in ends}
    most = max(shared.values(), default=0)
    found = sorted(prefix for prefix, count in shared.items() if count == most)
    return f", prefix {' or '.join(found)} seen (save what is below it alone)" if found else ""


def _prefixes(names: Iterable[str]) -> Iterator[str]:
    yield ""
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in PREFIXES:
                break
            prefix += f"{part}."
            yield prefix


def _check_numbers(state: Mapping[str, torch.Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all():
            raise NetworkError(
                f"{path}: {name} holds NaN or infinity: the training diverged; give an earlier "
                "checkpoint"
            )
        if name.rpartition(".")[2] == "running_var" and (tensor < 0).any():
            raise NetworkError(
                f"{path}: {name} is negative in part, and a variance is not: the file is damaged; "
                "give an earlier checkpoint"
            )


def _advice(misfit: Misfit, choice: ModelChoice) -> str:
    options = " ".join(misfit.remedies)
    if not options:
        return f"; give a state dict of {choice.name}"
    if choice.reference.takes_classes:
        return f"; the weights are of a network with other ends: give {options}"
    values = options.replace("--", "")
    return f"; the weights are for {values}: tell the factory so by --model-arg KEY=VALUE"


def _some(texts: Iterable[str]) -> str:
    known = list(texts)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"{', '.join(known[:SHOWN])}{more}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
