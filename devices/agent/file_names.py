"""File names that mean the same file on both sides, whatever the locale of either.

In a message a name is the text that its bytes are in UTF-8.  Within a process it is Python's own,
which under a locale of ASCII or Latin-1 is another text.
"""

import os


def to_message(path: str) -> str:
    """The name for a message; raises UnicodeDecodeError where its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8")


def from_message(text: str) -> str:
    """The name by which this process opens the file."""
    return os.fsdecode(text.encode("utf-8"))


def readable(text: str) -> str:
    """A text for people in which names of this process may occur."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # it quotes halves of characters that came in a request
        return text.encode("utf-8", "replace").decode("utf-8")
