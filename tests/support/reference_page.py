"""docs/reference.md, made of the docstrings of what ``import dshrink`` gives; a test compares them.

After a change write it again: python tests/support/reference_page.py
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import dshrink

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
WIDTH = 100
_SELF = ("self", "cls")
HEAD = """# Reference of the Python API

What `import dshrink` gives, made from the docstrings (`python tests/support/reference_page.py`).
[python.md](python.md) is a session that uses most of it. `AnyNetwork` is a `Network`, a
`ModelChoice` or a name as the commands take it; `AnyTable` a `LatencyTable` or the path of its
folder; `AnyPlan` a `Plan`, the path of its file, or its text ("mask:0110", "spans:1|01",
"paper:NAME"); `AnyResults` a sequence of `BenchmarkResult` or the path of their CSV.
Latencies are in milliseconds a batch, throughputs in frames per second, resolutions (height, width)
in pixels, shapes (channels, height, width) of one image.
"""


def page() -> str:
    """The whole page."""
    given = {name: getattr(dshrink, name) for name in dshrink.__all__ if name != "__version__"}
    kinds: dict[str, dict[str, Any]] = {
        "Functions": {},
        "Pictures": {},
        "Records": {},
        "Errors": {},
    }
    for name, value in given.items():
        kinds[_kind(name, value)][name] = value
    lines = [HEAD]
    for title, members in kinds.items():
        lines.append(f"## {title}\n")
        for name, value in sorted(members.items()):
            lines += [f"### {name}\n", *(_class(value) if inspect.isclass(value) else _call(value))]
    return "\n".join(lines)


def _kind(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return "Errors" if issubclass(value, Exception) else "Records"
    return "Pictures" if name.startswith("plot_") else "Functions"


def _call(function: Any) -> Iterator[str]:
    yield _code(function.__name__, inspect.signature(function))
    yield f"{_prose(function)}\n"


def _class(kind: Any) -> Iterator[str]:
    yield f"{_prose(kind)}\n"
    if is_dataclass(kind):
        lines = []
        for field in fields(kind):
            if field.init and not field.name.startswith("_"):
                default = "" if field.default is MISSING else f" = {_default(field.default)}"
                if field.default_factory is not MISSING:
                    default = " = ..."
                lines.append(f"{field.name}: {_annotation(field.type)}{default}")
        yield "```python\n" + "\n".join(lines) + "\n```\n"
    members = list(_members(kind))
    if members:
        yield "\n".join(members) + "\n"


def _members(kind: Any) -> Iterator[str]:
    """Properties and methods, a line each; of a record also what it has from other records."""
    bases = [base for base in reversed(kind.__mro__) if base is kind or is_dataclass(base)]
    members = {name: member for base in bases for name, member in vars(base).items()}
    for name, member in members.items():
        found = getattr(member, "func", None) or getattr(member, "fget", None)
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if name.startswith("_"):
            continue
        if found and found.__doc__:
            yield f"- `{name}`: {_first(found)}"
        elif inspect.isfunction(member) and member.__doc__:
            taken = [one for one in inspect.signature(member).parameters if one not in _SELF]
            yield f"- `{name}({', '.join(taken)})`: {_first(member)}"


def _code(name: str, signature: inspect.Signature) -> str:
    parts, starred = [], False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        starred = starred or one.kind is one.VAR_POSITIONAL
        star = "*" if one.kind is one.VAR_POSITIONAL else ""
        default = "" if one.default is one.empty else f" = {_default(one.default)}"
        parts.append(f"{star}{one.name}: {_annotation(one.annotation)}{default}")
    result = f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])
    return f"```python\n{line}\n```\n"


def _annotation(found: Any) -> str:
    """With the quotes that ruff gives code in pages."""
    return str(found).replace("'", '"')


def _default(value: Any) -> str:
    if callable(value):
        return str(value.__name__)
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_default, value))}{',' * (len(value) == 1)})"
    if isinstance(value, str):
        return json.dumps(value)
    if is_dataclass(value) and value == type(value)():
        return f"{type(value).__name__}()"
    return repr(value)


def _prose(member: Any) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", inspect.getdoc(member) or "", flags=re.S)


def _first(member: Any) -> str:
    return " ".join(_prose(member).split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
