"""What is left to do in a round, and which board takes what.

A job goes to whichever board is free, another one in each round: what boards differ by can then be
told from what jobs do.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Fewest jobs that a board takes at once while others work too: each time brings files there.
LEAST_TAKEN = 5


class WorkQueue:
    """Job ids in order."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(dict.fromkeys(names))

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def remove(self, names: Iterable[str]) -> None:
        """Drop jobs that need not be done after all."""
        gone = set(names)
        self._names = [name for name in self._names if name not in gone]

    def put(self, names: Iterable[str]) -> None:
        """Add jobs at the end; those that are there already stay where they are."""
        self._names = list(dict.fromkeys([*self._names, *names]))

    def put_back(self, names: Iterable[str]) -> None:
        """Return jobs that were taken, to the front."""
        self._names = list(dict.fromkeys([*names, *self._names]))

    def take(self, most: int, boards: int = 1) -> list[str]:
        """Up to ``most`` jobs, and no more than a board's share where several work."""
        if boards > 1:
            share = -(-len(self._names) // boards)
            most = min(most, max(LEAST_TAKEN, share))
        taken, self._names = self._names[:most], self._names[most:]
        return taken
