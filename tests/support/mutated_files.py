"""Valid files of ours with one or two places made hostile, as hypothesis draws them.

JSON and TOML are mutated by their whole shape: any value becomes another, any key goes or comes.
Bytes of any file are cut, flipped, and put in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

#: Values that are no such thing anywhere, or too much of it; as texts of JSON.
VALUES = (
    *("null", "true", "false", "0", "-1", "1", "2", "7", "100000", "1099511627776"),
    *("18446744073709551616", "9" * 400, "9" * 5000, "0.5", "-0.0", "1e300", "1e999"),
    *("NaN", "Infinity", "-Infinity", '""', '"x"', '"\\u0000"', '"\\ud800"', '"../x"', '"[red]"'),
    *('"\\u001b[2J"', '"\\u202e"', "[]", "{}", "[1]", '["x"]', "[[1, 2]]", '{"a": 1}', "[null]"),
    *('"' + "y" * 10_000 + '"', "[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000),
    *("[-1, -1]", "[0, 0]", "[100000, 100000]", "[1099511627776, 8]", "[0.5, 32]"),
)
BYTES = (b"\xff", b"\xff\xfe", b"\x00", b"{", b"]", b'"', b",", b"\n", b"\x80abc", b"1e9", b"\\")
_MARK = "@@here@@"


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in JSON data."""
    yield path
    parts = document.items() if isinstance(document, dict) else ()
    parts = enumerate(document) if isinstance(document, list) else parts
    for name, inner in parts:
        yield from places(inner, (*path, name))


def mutated_json(text: str) -> st.SearchStrategy[bytes]:
    """The document with a value replaced, removed, doubled or added, or with bytes changed."""
    document = json.loads(text)
    paths = st.sampled_from(list(places(document)))
    whole = st.builds(_replaced, st.just(text), paths, st.sampled_from(VALUES))
    less = st.builds(_removed, st.just(text), paths)
    more = st.builds(_added, st.just(text), paths, st.sampled_from(VALUES))
    return st.one_of(whole, whole, less, more, mutated_bytes(text.encode()))


def mutated_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """A file cut off, with some bytes replaced, or with a part of it twice."""
    at = st.integers(0, len(content))
    put = st.builds(
        lambda a, b, new: content[: min(a, b)] + new + content[max(a, b) :],
        at,
        at,
        st.sampled_from(BYTES) | st.binary(max_size=8),
    )
    inserted = st.builds(lambda a, new: content[:a] + new + content[a:], at, st.sampled_from(BYTES))
    return put | inserted | st.builds(lambda a: content[:a], at)


def mutated_lines(text: str, separator: str) -> st.SearchStrategy[bytes]:
    """Lines of cells with one of them replaced, or a line gone or twice."""
    lines = [line.split(separator) for line in text.splitlines()]
    cells = [(row, at) for row, line in enumerate(lines) for at in range(len(line))]
    values = st.sampled_from([json.loads(v) if v[0] == '"' else v for v in VALUES])

    def with_cell(place: tuple[int, int], value: str) -> bytes:
        changed = [list(line) for line in lines]
        changed[place[0]][place[1]] = value
        return _joined(changed, separator)

    one = st.builds(with_cell, st.sampled_from(cells), values)
    rows = st.integers(0, len(lines) - 1)
    gone = st.builds(lambda at: _joined(lines[:at] + lines[at + 1 :], separator), rows)
    twice = st.builds(lambda at: _joined(lines[: at + 1] + lines[at:], separator), rows)
    return st.one_of(one, one, gone, twice, mutated_bytes(text.encode()))


def refused_or_read(
    read: Callable[[], object], errors: tuple[type[BaseException], ...], limit_s: float = 5.0
) -> bool:
    """Whether it was read; what refuses it says so in one line that a terminal takes, in time."""
    begun = time.monotonic()
    try:
        read()
    except errors as error:
        said = " ".join(str(error).split())
        assert said
        said.encode()
        return False
    finally:
        assert time.monotonic() - begun < limit_s
    return True


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _joined(lines: list[list[str]], separator: str) -> bytes:
    text = "\n".join(separator.join(line) for line in lines) + "\n"
    return text.encode("utf-8", "surrogatepass")


def _replaced(text: str, path: tuple[Any, ...], value: str) -> bytes:
    document = json.loads(text)
    if not path:
        return value.encode()
    holder = _at(document, path[:-1])
    holder[path[-1]] = _MARK
    return json.dumps(document).replace(f'"{_MARK}"', value).encode()


def _removed(text: str, path: tuple[Any, ...]) -> bytes:
    document = json.loads(text)
    if path:
        del _at(document, path[:-1])[path[-1]]
    return json.dumps(document).encode() if path else b""


def _added(text: str, path: tuple[Any, ...], value: str) -> bytes:
    document = json.loads(text)
    inner = _at(document, path)
    if isinstance(inner, dict):
        inner["added"] = _MARK
    elif isinstance(inner, list):
        inner.append(_MARK)
    return json.dumps(document).replace(f'"{_MARK}"', value).encode()


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document
