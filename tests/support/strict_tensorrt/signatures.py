"""pybind's signatures: which arguments a call may have, and of what coarse kind.

A call that no overload takes is a ``TypeError`` that says what pybind says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

#: C++ names that pybind did not know a Python name for.
RENAMED = {"IEngineInspector": "EngineInspector", "IParserError": "ParserError"}
INTEGERS = ("int", "typing.SupportsInt")
FLOATS = ("float", "typing.SupportsFloat")
BUFFERS = ("buffer", "typing_extensions.Buffer")
SEQUENCE = re.compile(r"(?:List|collections\.abc\.Sequence)\[(.*)\]\Z")


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    default: str | None = None


@dataclass(frozen=True)
class Signature:
    """One overload, without self."""

    text: str
    parameters: tuple[Parameter, ...]
    result: str

    def bind(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], classes: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The arguments by name; None where this overload does not take them."""
        if len(args) > len(self.parameters):
            return None
        names = [one.name for one in self.parameters]
        given = dict(zip(names, args, strict=False))
        if set(kwargs) & set(given) or set(kwargs) - set(names):
            return None
        given.update(kwargs)
        for one in self.parameters:
            if one.name not in given:
                if one.default is None:
                    return None
            elif not fits(given[one.name], one, classes):
                return None
        return given


@cache
def parse(text: str) -> Signature:
    """``name(self: T, a: int, b: str = None) -> R``."""
    head, _, result = text.rpartition(" -> ")
    inside = head[head.index("(") + 1 : head.rindex(")")]
    parameters = []
    for part in _split(inside):
        name, _, rest = part.partition(": ")
        kind, _, default = rest.partition(" = ")
        parameters.append(Parameter(name.strip(), _plain(kind), default or None))
    if parameters and parameters[0].name == "self":
        del parameters[0]
    return Signature(text, tuple(parameters), _plain(result))


def bind(
    name: str,
    signatures: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    classes: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of the first overload that takes them."""
    for text in signatures:
        bound = parse(text).bind(args, kwargs, classes)
        if bound is not None:
            return bound
    shown = "\n".join(f"    {number}. {text}" for number, text in enumerate(signatures, 1))
    invoked = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
    raise TypeError(
        f"{name}(): incompatible function arguments. The following argument types are supported:\n"
        f"{shown}\n\nInvoked with: {invoked}"
    )


def fits(value: Any, parameter: Parameter, classes: Mapping[str, Any]) -> bool:
    """Whether pybind would convert a value to a parameter's type."""
    if value is None:
        return parameter.default == "None"
    return _is(value, parameter.kind, classes)


def _is(value: Any, kind: str, classes: Mapping[str, Any]) -> bool:
    if kind in INTEGERS:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in FLOATS:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in ("str", "bool"):
        return type(value).__name__ == kind
    if kind in BUFFERS:
        try:
            memoryview(value)
        except TypeError:
            return False
        return True
    if sequence := SEQUENCE.match(kind):
        listed = isinstance(value, (list, tuple))
        return listed and all(_is(one, sequence[1], classes) for one in value)
    wanted = classes.get(kind)
    if wanted is not None:
        return isinstance(value, wanted)
    return not isinstance(value, (int, float, str, bytes))


def _plain(kind: str) -> str:
    last = kind.strip().split("::")[-1] if "::" in kind else kind.strip()
    last = last.rsplit(".", 1)[-1] if last.startswith("ILogger.") else last
    return RENAMED.get(last, last)


def _split(inside: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, character in enumerate(inside):
        depth += {"[": 1, "<": 1, "(": 1, "]": -1, ">": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(inside[start:at])
            start = at + 1
    last = inside[start:].strip()
    return [one.strip() for one in [*parts, last] if one.strip()]
