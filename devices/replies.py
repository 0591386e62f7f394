"""What a device answers, read as if a stranger had written it.

Every line that comes from a device goes through here before it is shown, stored or computed with:
it is JSON of bounded numbers, and its texts hold nothing that a terminal acts on. Its fields, those
of ``devices.reports``, are checked by ``devices.records``. Journals are read the same way.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: No count, size or time that a device tells needs more than 64 bits.
_BEYOND = 1 << 64
#: So many lists and objects lie in each other at most; ours are five.
MOST_DEEP = 50


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object that a line is; its texts are printable. Raises ValueError."""
    try:
        found = msgspec.json.decode(line)
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return {printable(name): _bounded(value, MOST_DEEP) for name, value in found.items()}
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def printable(text: str) -> str:
    """The text without what a terminal acts on: escapes, line ends, marks of direction."""
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "?"


def _bounded(value: Any, left: int) -> Any:
    """The value with printable texts; ``left`` is how much deeper it may go."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int) and not -_BEYOND < value < _BEYOND:
        raise ValueError("a number of more than 64 bits")
    if not isinstance(value, list | dict):
        return value
    if not left:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [_bounded(one, left - 1) for one in value]
    return {printable(name): _bounded(one, left - 1) for name, one in value.items()}
