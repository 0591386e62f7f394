"""Plain data (TOML, a device's JSON) checked against types: a value, a record's fields, some facts.

The one place in this package where types are checked; ``replies`` reads the lines that hold them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

import msgspec

T = TypeVar("T")

_WORDS = {
    "str": "a text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table of fields",
}


class RecordError(ValueError):
    """Plain data that are not a valid record: one line that names the field."""


def checked_fields(kind: type, facts: Mapping[str, Any], apart: str = "") -> dict[str, Any]:
    """The facts as the fields of a record have them; ``apart`` is one that is no fact.

    Raises RecordError for a field that is unknown or missing, or of another type.
    """
    wanted = {one.name: one.default is MISSING for one in fields(kind) if one.name != apart}
    if unknown := set(facts) - set(wanted):
        raise RecordError(f"has the unknown fields {listed(unknown)}; known are {listed(wanted)}")
    if missing := {one for one, is_needed in wanted.items() if is_needed} - set(facts):
        raise RecordError(f"lacks the fields {listed(missing)}; known are {listed(wanted)}")
    types = _types(kind)
    return {name: checked(types[name], fact, name) for name, fact in facts.items()}


def check_facts(kind: type, facts: Mapping[str, Any], name: str) -> None:
    """Refuse facts of another type than the report has; it may lack some, or hold others.

    Raises RecordError.
    """
    for fact, known in _types(kind).items():
        if fact in facts:
            checked(known, facts[fact], f"{name}.{fact}")


def listed(names: Iterable[str]) -> str:
    """The names in order, as part of a sentence."""
    return ", ".join(sorted(names))


def checked(kind: type[T], fact: Any, name: str) -> T:
    """The fact as the type has it; fields that a report does not name are left out.

    Raises RecordError, which calls it by this name.
    """
    try:
        return msgspec.convert(fact, kind)
    except RecursionError:
        raise RecordError(f"{name} is nested too deeply") from None
    except msgspec.ValidationError as error:
        said, _, inside = str(error).partition(" - at `$")
        place, words = name + inside.rstrip("`"), _in_words(said)
        if not words.startswith("lacks"):
            words += f", got {repr(_inner(fact, inside))[:200]}"
        raise RecordError(f"{place} {words}") from None


_types = cache(get_type_hints)


def _inner(fact: Any, inside: str) -> Any:
    """The part of a fact at a place such as ".clocks.cpu[0]"; "[...]" is some value of a table."""
    for name, number in re.findall(r"\.(\w+)|\[([0-9]+|\.\.\.)\]", inside):
        if number == "...":
            return fact
        fact = fact[int(number)] if number else fact[name]
    return fact


def _in_words(said: str) -> str:
    """What msgspec says of a value, as the user has it: TOML knows no null."""
    found = re.match("Expected `([^`]*)`", said)
    if found is None:
        return said.replace("Object missing required field", "lacks").replace("`", "")
    words = found[1].removesuffix(" | null").split(" | ")
    return f"must be {' or '.join(_WORDS.get(word, word) for word in words)}"
