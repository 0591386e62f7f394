"""JSON Schemas derived from what the commands print, which a test compares with the shipped ones.

After an intended change write them again: python tests/support/schema_files.py
It refuses where a field goes or changes its type without a raised version.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import dshrink.schemas
from dshrink.schemas import SCHEMAS, Schema

FOLDER = Path(dshrink.schemas.__file__).parent
#: What is not a field's type but what a reader is told of it may change at any time.
WORDS = frozenset({"description", "title", "$comment"})
#: In the texts of a record: another one whose texts it has as well.
LIKE = "_like"
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


@cache
def descriptions() -> Mapping[str, Mapping[str, str]]:
    """The text of each field by the name of its record; of "any" those that mean it everywhere."""
    return tomllib.loads((FOLDER / "descriptions.toml").read_text("utf-8"))


class Derivation:
    """The schema of one payload; ``defs`` takes the records inside of it."""

    def __init__(self) -> None:
        self.defs: dict[str, Any] = {}
        self.used: set[tuple[str, str]] = set()
        self.without_text: list[str] = []

    def document(self, schema: Schema) -> dict[str, Any]:
        module, _, name = schema.payload.partition(":")
        kind = getattr(import_module(module), name)
        inner = self.record(kind)
        head = {key: {"const": value} for key, value in schema.head.items()}
        for key in head:
            head[key]["description"] = descriptions()["any"][key]
        commands = ", ".join(f"dshrink {command}" for command in schema.commands)
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:dshrink:{schema.name}:{schema.version}",
            "title": f"--json of {commands}",
            "description": inner["description"],
            "type": "object",
            "properties": {**head, **inner["properties"]},
            "required": [*head, *inner["required"]],
            "additionalProperties": False,
            "$defs": dict(sorted(self.defs.items())),
        }

    def record(self, kind: Any) -> dict[str, Any]:
        """A dataclass, with its ``DERIVED`` properties first as ``plain`` has them, or a typed
        dictionary."""
        names = {**dict(_derived(kind)), **dict(_fields(kind))}
        properties = {}
        for name, hint in names.items():
            properties[name] = self.of(hint)
            text = self.text(kind, name)
            if text:
                properties[name]["description"] = text
            else:
                self.without_text.append(f"[{kind.__name__}] {name}")
        required = list(names)
        if is_typeddict(kind):
            required = [name for name in names if name in kind.__required_keys__]
        return {
            "description": _in_json(inspect.getdoc(kind) or ""),
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def text(self, kind: Any, name: str) -> str:
        for table in _tables(kind):
            if found := descriptions().get(table, {}).get(name):
                self.used.add((table, name))
                return found
        return ""

    def of(self, hint: Any) -> dict[str, Any]:
        origin, arguments = get_origin(hint), get_args(hint)
        if hint in _PLAIN:
            return {"type": _PLAIN[hint]}
        if hint is Any:
            return {}
        if origin is Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return _union([self.of(one) for one in arguments])
        if is_dataclass(hint) or is_typeddict(hint):
            return self.reference(hint)
        if hasattr(hint, "_fields"):  # a named tuple is a list in JSON
            return self.of(tuple[tuple(get_type_hints(hint).values())])  # type: ignore[misc]
        if origin is tuple and Ellipsis not in arguments:
            items = [self.of(one) for one in arguments]
            count = {"minItems": len(items), "maxItems": len(items)}
            same = all(one == items[0] for one in items)
            return {
                "type": "array",
                **({"items": items[0]} if same else {"prefixItems": items}),
            } | count
        if issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if issubclass(origin, Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        raise TypeError(f"no JSON schema of {hint}")

    def reference(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if name not in self.defs:
            self.defs[name] = {}
            self.defs[name] = self.record(kind)
        return {"$ref": f"#/$defs/{name}"}


def _in_json(docstring: str) -> str:
    """On one line, with the names that values have in JSON."""
    return re.sub(r"\bNone\b", "null", " ".join(docstring.split()).replace("``", "`"))


def _tables(kind: Any) -> Iterator[str]:
    """Where the texts of a record's fields may be, its own first."""
    for base in getattr(kind, "__mro__", ()) if is_dataclass(kind) else (kind,):
        yield base.__name__
        if like := descriptions().get(base.__name__, {}).get(LIKE):
            yield like
    yield "any"


def _union(parts: list[dict[str, Any]]) -> dict[str, Any]:
    if all(set(part) == {"type"} for part in parts):
        return {"type": [part["type"] for part in parts]}
    return {"anyOf": parts}


def _fields(kind: Any) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)] if is_dataclass(kind) else list(hints)
    return ((name, hints[name]) for name in names if get_origin(hints[name]) is not ClassVar)


def _derived(kind: Any) -> Iterator[tuple[str, Any]]:
    for name in getattr(kind, "DERIVED", ()):
        found = inspect.getattr_static(kind, name)
        made = getattr(found, "func", None) or found.fget
        yield name, get_type_hints(made)["return"]


@cache
def derived() -> dict[str, dict[str, Any]]:
    """Every schema by its name, as the code has it."""
    return {name: Derivation().document(schema) for name, schema in SCHEMAS.items()}


def stored(name: str) -> dict[str, Any] | None:
    """The committed schema, None of one that is new."""
    file = FOLDER / f"{name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text("utf-8")) if file.exists() else None
    return found


def places(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Where each field is ("$defs/Row/latency_ms"), and its type without the words on it."""
    objects = {"": schema, **{f"$defs/{k}/": v for k, v in schema.get("$defs", {}).items()}}
    return {
        f"{at}{name}": {key: v for key, v in found.items() if key not in WORDS}
        for at, one in objects.items()
        for name, found in one["properties"].items()
        if (at, name) != ("", "schema_version")
    }


def broken(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a script that reads ``old`` would miss in ``new``, a line each."""
    before, after = places(old), places(new)
    return [
        f"{place} {'has gone' if place not in after else f'was {found}, is {after[place]}'}"
        for place, found in before.items()
        if after.get(place) != found
    ]


def main() -> None:
    for name, schema in SCHEMAS.items():
        new, old = derived()[name], stored(name)
        if old and old["$id"] == new["$id"] and (lines := broken(old, new)):
            sys.exit("\n".join([f"{name}: raise its version in dshrink/schemas:", *lines]))
        (FOLDER / f"{schema.name}.json").write_text(json.dumps(new, indent=1) + "\n", "utf-8")
    for file in FOLDER.glob("*.json"):
        if file.stem not in SCHEMAS:
            sys.exit(f"{file}: of no schema any more; delete it")


if __name__ == "__main__":
    main()
