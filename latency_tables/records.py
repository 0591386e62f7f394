"""Records from JSON and TOML, checked against the annotations of their dataclass.

msgspec converts and checks the types. What is stricter here: files are edited by people and carried
between machines, so a field that is unknown or given twice is refused, as is a number that is not
finite, and every error is one line that names the file, the field, and what was found there.

A record may name properties in a class variable ``DERIVED``: ``format_record`` writes them for
whoever opens the file, and they are accepted but computed again when it is read. A later version of
a schema that adds fields gives them a default: files of an earlier one may lack them.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from latency_tables.errors import LatencyTableError

T = TypeVar("T")
Steps = tuple[str | int, ...]

_WORDS = {
    "float": "a number",
    "int": "an integer",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def parse_record(
    text: str,
    kind: type[T],
    *,
    where: str,
    error: type[ValueError],
    fix: str,
    schema: str = "",
    version: int = 1,
) -> T:
    """The record of type ``kind`` in a JSON document, which has all of its fields.

    Raises ``error``; see ``convert_record``.
    """
    reader = _Reader(where, error, fix, complete=True)
    record: T = reader.record(reader.document(text), kind, schema, version)
    return record


def convert_record(
    data: Any,
    kind: type[T],
    *,
    where: str,
    error: type[ValueError],
    fix: str,
    schema: str = "",
    version: int = 1,
    complete: bool = False,
    strict: bool = True,
) -> T:
    """The record in data that are parsed already; with ``complete`` they have all of its fields.

    ``where`` begins each message and ``fix`` ends it. With a ``schema`` the data also hold the
    fields ``schema`` and ``schema_version``: another schema or a newer version is refused. Without
    ``strict`` numbers may be given as text. Raises ``error``; what the record itself refuses keeps
    its class if both are a LatencyTableError.
    """
    record: T = _Reader(where, error, fix, complete, strict).record(data, kind, schema, version)
    return record


def format_record(record: Any, schema: str = "", version: int = 1) -> str:
    """The JSON document of a record, as ``parse_record`` reads it."""
    head = {"schema": schema, "schema_version": version} if schema else {}
    return json.dumps({**head, **plain(record)}, indent=2, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Records as JSON data, with their ``DERIVED`` properties first."""
    if is_dataclass(value):
        names = (*getattr(value, "DERIVED", ()), *(field.name for field in fields(value)))
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


@dataclass(frozen=True, slots=True)
class _Reader:
    where: str
    error: type[ValueError]
    fix: str
    complete: bool = False
    strict: bool = True

    def document(self, text: str) -> Any:
        def refuse_constant(name: str) -> NoReturn:
            raise self.error(f"{self.where}: {name} is not a JSON number: {self.fix}")

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            names = [name for name, _ in pairs]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise self.error(f"{self.where}: field {twice!r} is given twice: {self.fix}")
            return dict(pairs)

        try:
            return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
        except json.JSONDecodeError as broken:
            at = f"{self.where}: line {broken.lineno}"
            raise self.error(f"{at}: not valid JSON ({broken.msg}): {self.fix}") from None
        except RecursionError:
            raise self._too_deep() from None
        except self.error:
            raise
        except ValueError as problem:  # an integer of more digits than Python converts
            raise self.error(f"{self.where}: {problem}: {self.fix}") from None

    def record(self, data: Any, kind: Any, schema: str, version: int) -> Any:
        checked = self
        if schema:
            data, found = self._without_schema(data, schema, version)
            checked = replace(self, complete=self.complete and found == version)
        try:
            checked._check(data, _type_info(kind), ())
            return msgspec.convert(data, kind, strict=self.strict)
        except RecursionError:
            raise self._too_deep() from None
        except msgspec.ValidationError as problem:
            raise self._explained(problem, data, kind) from None

    def _too_deep(self) -> ValueError:
        return self.error(f"{self.where}: nested too deeply: {self.fix}")

    def _without_schema(self, data: Any, schema: str, version: int) -> tuple[Any, int]:
        if not isinstance(data, Mapping):
            raise self._refusal((), "an object", data)
        for name in ("schema", "schema_version"):
            if name not in data:
                raise self._missing((name,))
        found = data["schema_version"]
        if data["schema"] != schema:
            raise self._refusal(("schema",), repr(schema), data["schema"])
        if type(found) is not int or found < 1:
            raise self._refusal(("schema_version",), f"an integer from 1 to {version}", found)
        if found > version:
            raise self.error(
                f"{self.where}: schema_version {found} is newer than {version}, the newest that "
                "this dshrink reads: update dshrink"
            )
        rest = {name: data[name] for name in data if name not in ("schema", "schema_version")}
        return rest, found

    def _check(self, data: Any, kind: Any, path: Steps) -> None:
        """Refuse what msgspec would let pass: unknown fields, and numbers that are not finite."""
        if isinstance(data, float) and not math.isfinite(data):
            raise self._refusal(path, "a finite number", data)
        if isinstance(data, Mapping):
            for name, inner, inner_kind in self._entries(data, kind, path):
                self._check(inner, inner_kind, (*path, name))
        elif isinstance(data, list | tuple):
            for number, inner in enumerate(data):
                self._check(inner, _item_kind(kind, number), (*path, number))
        elif (choices := _choices(kind)) and data not in choices:
            raise self._refusal(path, " or ".join(_quote(each) for each in choices), data)

    def _entries(self, data: Mapping[str, Any], kind: Any, path: Steps) -> list[tuple[Any, ...]]:
        record = _part(kind, inspect.DataclassType | inspect.StructType)
        if record is None:
            inner = getattr(_part(kind, inspect.DictType), "value_type", None)
            return [(name, value, inner) for name, value in data.items()]
        known = {field.encode_name: field.type for field in record.fields}
        derived = getattr(record.cls, "DERIVED", ())
        for name in data:
            if name not in known and name not in derived:
                raise self.error(
                    f"{self._at(path)}: unknown field {name!r}; remove it, or update dshrink if a "
                    f"newer one wrote the file (known: {', '.join((*known, *derived))})"
                )
        if missing := [name for name in known if self.complete and name not in data]:
            raise self._missing((*path, missing[0]))
        return [(name, value, known.get(name)) for name, value in data.items()]

    def _explained(self, problem: msgspec.ValidationError, data: Any, kind: Any) -> ValueError:
        path, found = _place(problem, data, kind)
        if isinstance(cause := problem.__cause__, ValueError):
            ours = LatencyTableError if issubclass(self.error, LatencyTableError) else self.error
            raised = type(cause) if isinstance(cause, ours) else self.error
            return raised(f"{self._at(path)}: {cause}: {self.fix}")
        if cause is not None:
            raise cause
        message = str(problem).partition(" - at `$")[0]
        if missing := re.fullmatch("Object missing required field `(.*)`", message):
            return self._missing((*path, missing[1]))
        return self._refusal(path, _expected(message), found)

    def _missing(self, path: Steps) -> ValueError:
        return self.error(f"{self._at(path[:-1])}: field {path[-1]!r} is missing: {self.fix}")

    def _refusal(self, path: Steps, expected: str, found: Any) -> ValueError:
        *outer, last = _words(path) or [""]
        field = f"field {last!r} must be" if last else "expected"
        at = ": ".join((self.where, *outer))
        return self.error(f"{at}: {field} {expected}, got {_quote(found)}: {self.fix}")

    def _at(self, path: Steps) -> str:
        return ": ".join((self.where, *_words(path)))


@cache
def _type_info(kind: Hashable) -> Any:
    return inspect.type_info(kind)


def _part(kind: Any, wanted: Any) -> Any:
    """``kind``, or its part if it is a union such as "X or null", that is of the wanted sort."""
    parts = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return next((part for part in parts if isinstance(part, wanted)), None)


def _item_kind(kind: Any, number: int) -> Any:
    if fixed := _part(kind, inspect.TupleType):
        return fixed.item_types[number] if number < len(fixed.item_types) else None
    return getattr(_part(kind, inspect.ListType | inspect.VarTupleType), "item_type", None)


def _choices(kind: Any) -> tuple[Any, ...]:
    literal = _part(kind, inspect.LiteralType)
    if literal is None:
        return ()
    return (*literal.values, *((None,) if _part(kind, inspect.NoneType) else ()))


def _place(problem: msgspec.ValidationError, data: Any, kind: Any) -> tuple[Steps, Any]:
    """Where the error is, and the value there; msgspec says "[...]" for the keys of a mapping."""
    at = data = copy.deepcopy(data)
    path: list[str | int] = []
    _, separator, tail = str(problem).rpartition(" - at `$")
    for name, item in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", tail if separator else ""):
        key = _failing_key(at, data, kind, str(problem)) if item == "..." else name or int(item)
        path.append(key)
        at = at[key]
    return tuple(path), at


def _failing_key(mapping: dict[str, Any], data: Any, kind: Any, message: str) -> str:
    """The key of the entry that causes the error: alone in its mapping it still does."""
    entries = dict(mapping)
    for key, value in entries.items():
        mapping.clear()
        mapping[key] = value
        try:
            msgspec.convert(data, kind)
        except msgspec.ValidationError as problem:
            if str(problem) == message:
                return key
    return "..."


def _expected(message: str) -> str:
    """What msgspec expected, in words: "a number or null", "a list of length 2"."""
    found = re.match(r"Expected `([^`]*)`(.*), got ", message)
    if not found:
        return "a finite number" if message == "Number out of range" else message
    return " or ".join(_WORDS.get(name, name) for name in found[1].split(" | ")) + found[2]


def _words(path: Steps) -> list[str]:
    """One text a name, list indices appended: "networks[0]"."""
    words: list[str] = []
    for step in path:
        if isinstance(step, int):
            words.append(f"{words.pop() if words else ''}[{step}]")
        else:
            words.append(step)
    return words


def _quote(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
