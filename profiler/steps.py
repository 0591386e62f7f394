"""What a lane asks of its board, one step at a time, and the answer that each step gets.

A lane is a generator: it yields steps and is sent their answers. So the order of a round is written
once, as one plain function, and whoever drives lanes (one after the other here, many at once on a
cluster) decides only how a step reaches a board. Lanes of one run share its journal and queue
without locks, because only one of them runs at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Start a fresh agent in place of the last one. Answer: the ``Environment`` it reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Bring files to the board. Answer: a ``PushedFile`` each, in their order."""

    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Run jobs, one after the other. Answer: ``Samples | Failure`` each, in their order.

    ``timeout_s`` is for each of them.
    """

    requests: tuple[Mapping[str, Any], ...]
    timeout_s: float


Step = Begin | Push | Execute
#: A ``SessionError`` is thrown into a lane whose board cannot do what it asked.
Lane = Generator[Step, Any, None]
MakeLane = Callable[[str], Lane]
