"""Typed values out of a JSON document, with errors that say which file and which field.

``json.loads`` takes NaN, repeated keys and any type anywhere. A table or a plan is edited by people
and carried between machines, so each value is checked where it is read and the message quotes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Json = Any

_LARGEST = sys.float_info.max


def parse_document(text: str, where: str, error: type[ValueError], advice: str) -> JsonObject:
    """The JSON object in ``text``; ``error`` is raised with one line for anything else."""

    def refuse_constant(name: str) -> NoReturn:
        raise error(f"{where}: {name} is not a JSON number: {advice}")

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise error(f"{where}: field {twice!r} is given twice: {advice}")
        return found

    try:
        data = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
    except json.JSONDecodeError as broken:
        raise error(
            f"{where}: line {broken.lineno}: not valid JSON ({broken.msg}): {advice}"
        ) from None
    except RecursionError:
        raise error(f"{where}: not valid JSON (nested too deeply): {advice}") from None
    return JsonObject.of(data, where, error)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object that knows where it stands and which error to raise."""

    data: Mapping[str, Json]
    where: str
    error: type[ValueError]

    @classmethod
    def of(cls, data: Json, where: str, error: type[ValueError]) -> JsonObject:
        if not isinstance(data, Mapping):
            raise error(f"{where}: expected an object, got {_quote(data)}")
        return cls(data, where, error)

    def refuse(self, key: str, expected: str) -> NoReturn:
        raise self.error(
            f"{self.where}: field {key!r} must be {expected}, got {_quote(self.data.get(key))}"
        )

    def get(self, key: str) -> Json:
        if key not in self.data:
            raise self.error(f"{self.where}: field {key!r} is missing")
        return self.data[key]

    def check_fields(self, known: Sequence[str]) -> None:
        """Refuse fields that this version does not know: a typo would be ignored silently."""
        unknown = [name for name in self.data if name not in known]
        if unknown:
            raise self.error(
                f"{self.where}: unknown field {unknown[0]!r}; remove it, or update dshrink if a "
                f"newer one wrote the file (known: {', '.join(known)})"
            )

    def check_schema(self, schema: str, version: int) -> None:
        """Refuse another kind of file, and a version newer than this one."""
        if self.get("schema") != schema:
            self.refuse("schema", repr(schema))
        found = self.get("schema_version")
        if not _is_integer(found) or found < 1:
            self.refuse("schema_version", f"an integer from 1 to {version}")
        if found > version:
            raise self.error(
                f"{self.where}: schema_version {found} is newer than {version}, the newest that "
                "this dshrink reads: update dshrink"
            )

    def text(self, key: str) -> str:
        value = self.get(key)
        return value if isinstance(value, str) else self.refuse(key, "a text")

    def boolean(self, key: str) -> bool:
        value = self.get(key)
        return value if isinstance(value, bool) else self.refuse(key, "true or false")

    def integer(self, key: str) -> int:
        value = self.get(key)
        return int(value) if _is_integer(value) else self.refuse(key, "an integer")

    def optional_integer(self, key: str) -> int | None:
        return None if self.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, "a number")
        # Integers have no upper bound in JSON, and 1e999 reads as infinity.
        if abs(value) > _LARGEST:
            self.refuse(key, "a finite number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def mapping(self, key: str) -> JsonObject:
        return JsonObject.of(self.get(key), f"{self.where}: {key}", self.error)

    def optional_mapping(self, key: str) -> JsonObject | None:
        return None if self.get(key) is None else self.mapping(key)

    def items(self, key: str) -> list[Json]:
        value = self.get(key)
        return value if isinstance(value, list) else self.refuse(key, "a list")

    def mappings(self, key: str) -> list[JsonObject]:
        return [
            JsonObject.of(value, f"{self.where}: {key}[{number}]", self.error)
            for number, value in enumerate(self.items(key))
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            self.refuse(key, "a list of texts")
        return tuple(values)

    def integers(self, key: str) -> tuple[int, ...]:
        values = self.items(key)
        if not all(_is_integer(value) for value in values):
            self.refuse(key, "a list of integers")
        return tuple(values)


def _is_integer(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _quote(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
