"""What is left to do in a round, and which board takes what.

A piece goes to the board that measured it in earlier rounds, so that a row comes from one board
where that is possible; a board with nothing of its own left helps the others out.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Fewest jobs that a board takes at once while others work too: each time brings files there.
LEAST_TAKEN = 5


class WorkQueue:
    """Job ids in order. ``last_boards``: the board that measured a job before."""

    def __init__(self, names: Iterable[str], last_boards: dict[str, str]) -> None:
        self._names = list(dict.fromkeys(names))
        self._boards = last_boards

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

    def take(self, board: str, most: int, boards: int = 1) -> list[str]:
        """Up to ``most`` jobs for a board, and no more than its share where several work."""
        if boards > 1:
            share = -(-len(self._names) // boards)
            most = min(most, max(LEAST_TAKEN, share))
        rank = {board: 0, None: 1}
        ordered = sorted(self._names, key=lambda name: rank.get(self._boards.get(name), 2))
        taken = ordered[:most]
        for name in taken:
            self._boards[name] = board
        self.remove(taken)
        return taken
