"""Counted nouns of messages: "1 thread", "2 threads", never "1 thread(s)".

Every package above has messages with counts, and this is the lowest one that all of them import.
The device agent, which imports nothing of ours, spells out its three.
"""

from __future__ import annotations


def noun(number: int, singular: str, plural: str = "") -> str:
    """The form of a noun that follows a number; ``plural`` where it is not made by an "s"."""
    return singular if number == 1 else plural or f"{singular}s"


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number and its noun: "1 epoch", "0 epochs", "2 classes"."""
    return f"{number} {noun(number, singular, plural)}"
