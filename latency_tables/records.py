"""Records from JSON and TOML, checked against the annotations of their dataclass.

msgspec converts and checks the types. What is stricter here: files are edited by people and carried
between machines, so a field that is unknown or given twice is refused, as are a number that is not
finite or has more than 64 bits and a text that no file or terminal takes, and every error is one
line that names the file, the field, and what was found there.

A record may name properties in a class variable ``DERIVED``: ``format_record`` writes them for
whoever opens the file, and they are accepted but computed again when it is read. A later version of
a schema that adds fields gives them a default: files of an earlier one may lack them.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from latency_tables.errors import LatencyTableError
from latency_tables.reading import read_text

T = TypeVar("T")
_BEYOND_64_BITS = 1 << 64
Steps = tuple[str | int, ...]

_WORDS = {
    "float": "a number",
    "int": "an integer",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def load_record(
    path: Path,
    kind: type[T],
    *,
    error: type[ValueError],
    fix: str,
    schema: str = "",
    version: int = 1,
) -> T:
    """``parse_record`` of a file, which has to be there. Raises ``error``."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read as text ({_said(problem)}): {fix}") from None
    return parse_record(
        text, kind, where=str(path), error=error, fix=fix, schema=schema, version=version
    )


def load_toml(path: Path, *, error: type[ValueError]) -> dict[str, Any]:
    """The document in a file of TOML. Raises ``error``."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as problem:
        raise error(
            f"{path}: cannot be read as text ({_said(problem)}): restore the file"
        ) from None
    return parse_toml(text, where=str(path), error=error)


def parse_toml(text: str, *, where: str, error: type[ValueError]) -> dict[str, Any]:
    """The document in a text of TOML. Raises ``error``."""
    try:
        return tomllib.loads(text)
    except ValueError as problem:  # TOMLDecodeError, or an integer of too many digits
        raise error(f"{where}: not valid TOML: {problem}") from None
    except RecursionError:
        raise error(f"{where}: nested too deeply: correct the file") from None


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
    strict: bool = True,
) -> T:
    """The record in data that are parsed already, which may lack fields with a default.

    ``where`` begins each message and ``fix`` ends it. With a ``schema`` the data also hold the
    fields ``schema`` and ``schema_version``: another schema or a newer version is refused. Without
    ``strict`` numbers may be given as text. Raises ``error``; what the record itself refuses keeps
    its class if both are a LatencyTableError.
    """
    record: T = _Reader(where, error, fix, strict=strict).record(data, kind, schema, version)
    return record


def format_record(record: Any, schema: str = "", version: int = 1) -> str:
    """The JSON document of a record, as ``parse_record`` reads it.

    Raises LatencyTableError for texts and numbers that it would not read.
    """
    head = {"schema": schema, "schema_version": version} if schema else {}
    data = {**head, **plain(record)}
    where = f"a {type(record).__name__} to write"
    _Reader(where, LatencyTableError, "give it another value")._check(data, Any, ())
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


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
            found: dict[str, Any] = {}
            for name, value in pairs:
                if name in found:
                    raise self.error(
                        f"{self.where}: field {_quote(name, repr)} is given twice: {self.fix}"
                    )
                found[name] = value
            return found

        try:
            return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
        except json.JSONDecodeError as broken:
            at = f"{self.where}: line {broken.lineno}"
            raise self.error(f"{at}: not valid JSON ({broken.msg}): {self.fix}") from None
        except RecursionError:
            raise self._too_deep() from None
        except self.error:
            raise
        except ValueError:
            raise self.error(
                f"{self.where}: holds an integer of thousands of digits: {self.fix}"
            ) from None

    def record(self, data: Any, kind: Any, schema: str, version: int) -> Any:
        checked = self
        if schema:
            data, found = self._without_schema(data, schema, version)
            checked = replace(self, complete=self.complete and found == version)
        try:
            checked._check(data, kind, ())
            return msgspec.convert(data, kind, strict=self.strict)
        except RecursionError:
            raise self._too_deep() from None
        except msgspec.ValidationError as problem:
            raise self._explained(problem, data, kind, ()) from None

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
                f"{self.where}: schema_version {_quote(found)} is newer than {version}, the newest "
                "that this dshrink reads: update dshrink"
            )
        rest = {name: data[name] for name in data if name not in ("schema", "schema_version")}
        return rest, found

    def _check(self, data: Any, kind: Any, path: Steps) -> None:
        """Refuse what msgspec would let pass: unknown fields, odd numbers, odd texts."""
        if isinstance(data, float) and not math.isfinite(data):
            raise self._refusal(path, "a finite number", data)
        if isinstance(data, int) and not -_BEYOND_64_BITS < data < _BEYOND_64_BITS:
            raise self._refusal(path, "a number of up to 64 bits", data)
        if isinstance(data, str) and not _is_plain(data):
            raise self._refusal(path, "a text that UTF-8 can hold, without null characters", data)
        if (choices := _choices(kind)) and data not in choices:
            raise self._refusal(path, " or ".join(_quote(each) for each in choices), data)
        if isinstance(data, Mapping):
            if record := _record(kind):
                self._check_names(data, record, path)
            if odd := next((name for name in data if not _is_plain(name)), None):
                raise self._refusal(path, "an object whose names are plain texts", odd)
        for name, inner, inner_kind in _parts(data, kind):
            self._check(inner, inner_kind, (*path, name))

    def _check_names(self, data: Mapping[str, Any], record: Any, path: Steps) -> None:
        names = [field.name for field in fields(record)]
        known = (*names, *getattr(record, "DERIVED", ()))
        for name in data:
            if name not in known:
                raise self.error(
                    f"{self._at(path)}: unknown field {_quote(name, repr)}: remove or correct it, "
                    f"or update dshrink if a newer one wrote the file (known: {', '.join(known)})"
                )
        if missing := [name for name in names if self.complete and name not in data]:
            raise self._missing((*path, missing[0]))

    def _explained(
        self, problem: msgspec.ValidationError, data: Any, kind: Any, path: Steps
    ) -> ValueError:
        """The error in our words, of the innermost part of the data that has one."""
        for name, inner, inner_kind in _parts(data, kind):
            try:
                msgspec.convert(inner, inner_kind, strict=self.strict)
            except msgspec.ValidationError as deeper:
                return self._explained(deeper, inner, inner_kind, (*path, name))
        if isinstance(cause := problem.__cause__, ValueError):
            ours = LatencyTableError if issubclass(self.error, LatencyTableError) else self.error
            raised = type(cause) if isinstance(cause, ours) else self.error
            return raised(f"{self._at(path)}: {cause}: {self.fix}")
        if cause is not None:
            raise cause
        if missing := re.match("Object missing required field `(.*?)`", str(problem)):
            return self._missing((*path, missing[1]))
        return self._refusal(path, _expected(str(problem)), data)

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
def _alternatives(kind: Any) -> tuple[Any, ...]:
    """What a union such as "X | None" allows."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


@cache
def _record(kind: Any) -> Any:
    return next((part for part in _alternatives(kind) if is_dataclass(part)), None)


@cache
def _choices(kind: Any) -> tuple[Any, ...]:
    parts = _alternatives(kind)
    literal = next((part for part in parts if get_origin(part) is Literal), None)
    return (*get_args(literal), *([None] if NoneType in parts else [])) if literal else ()


@cache
def _arguments(kind: Any, container: type) -> tuple[Any, ...]:
    """The arguments of a type of such containers: "X" and "..." of tuple[X, ...]."""
    origins = ((get_origin(part), get_args(part)) for part in _alternatives(kind))
    found = (args for of, args in origins if isinstance(of, type) and issubclass(of, container))
    return next(found, (Any,))


_hints = cache(get_type_hints)


def _parts(data: Any, kind: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """The parts of a mapping or list: the key of each, its value, and the type it should have."""
    if isinstance(data, Mapping):
        record, other = _record(kind), _arguments(kind, Mapping)[-1]
        for name, value in data.items():
            yield name, value, _hints(record).get(name, Any) if record else other
    elif isinstance(data, list | tuple):
        kinds = _arguments(kind, Sequence)
        is_fixed = Ellipsis not in kinds
        for number, value in enumerate(data):
            yield number, value, kinds[number if is_fixed and number < len(kinds) else 0]


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


def _is_plain(text: object) -> bool:
    """Whether it can be written to any file and printed."""
    if not isinstance(text, str) or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON may hold half of a pair of surrogates
        return False
    return True


def _said(problem: Exception) -> str:
    """The reason alone: the file is named already."""
    return getattr(problem, "strerror", None) or str(problem)


def _quote(value: Any, words: Callable[[Any], str] | None = None) -> str:
    words = words or partial(json.dumps, default=str)
    try:
        text = words(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
