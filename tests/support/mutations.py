"""Documents as a stranger would damage them: one place replaced, deleted or torn."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

DELETED = object()
_RAW = "@@raw@@"
#: JSON texts in place of a value.
_NUMBERS = "-1 0 1 -0.5 1e300 -1e300 1e999 NaN Infinity -Infinity 1000000000"
VALUES = (
    *_NUMBERS.split(),
    *["null", "true", "false", "[]", "{}", "[5]"],
    '"x"',
    '""',
    '"x\\u001b[2J\\u202e"',
    "9" * 50,
    "9" * 5000,
    "[" * 100 + "]" * 100,
    '{"build_s":NaN}',
    '{"throttle_bits":"x"}',
    '[{"name":"\\u001b[2Jx","pid":1,"cpu_percent":"x"}]',
    "[" + ",".join(["1"] * 3000) + "]",
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document, but of the document itself."""
    found = [path] if path else []
    if isinstance(document, dict):
        parts = list(document.items())
    else:
        parts = list(enumerate(document)) if isinstance(document, list) else []
    return found + [one for name, value in parts for one in places(value, (*path, name))]


def replaced(document: Any, path: tuple[Any, ...], value: object) -> bytes:
    """The document as JSON with another value at the path, a JSON text, or with none."""
    whole = copy.deepcopy(document)
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    if value is DELETED:
        del inner[path[-1]]
        return json.dumps(whole).encode()
    inner[path[-1]] = _RAW
    return json.dumps(whole).replace(f'"{_RAW}"', str(value)).encode()


@st.composite
def mutations(draw: st.DrawFn, document: Any) -> bytes:
    """The document with one place changed, or its text torn or overwritten somewhere."""
    if draw(st.integers(0, 9)):
        path = draw(st.sampled_from(places(document)))
        return replaced(document, path, draw(st.sampled_from([*VALUES, DELETED])))
    text = json.dumps(document).encode()
    at = draw(st.integers(0, len(text) - 1))
    return (
        text[:at]
        + draw(st.sampled_from([b"", b"\xff", b'"', b"\\", b"{", b"\0"]))
        + (text[at + 1 :] if draw(st.booleans()) else b"")
    )
