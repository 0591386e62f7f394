"""How files and requests reach a device.  Nothing here says which job runs where, or when.

Here is what all connections have in common, and the local one: an agent as a subprocess, files
where they are.  ``ssh`` has the one to other machines.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from devices.agent.file_names import from_message, to_message
from devices.agent.lock import PATH_VARIABLE
from devices.agent.protocol import file_digest
from devices.agent_process import START_TIMEOUT_S, AgentProcess
from devices.environment import Environment
from devices.errors import JobFailedError
from devices.line_process import LineProcess

AGENT_FOLDER = Path(__file__).parent / "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedFile:
    """A file on the device: its absolute path there, and the SHA-256 of its content."""

    path: str
    sha256: str


class Agent(Protocol):
    """A running agent; ``AgentProcess`` says what its methods do."""

    environment: Environment
    held: tuple[str, ...]

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: Any) -> None: ...


class Connection(Protocol):
    """A way to a device."""

    @property
    def name(self) -> str:
        """What messages and journals call the device."""

    def start_agent(self) -> Agent:
        """Start an agent; raises AgentLostError where that does not work.

        "start_failed" where no other type says more.
        """

    def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        """Bring files to the device and return where they are, in the order given.

        Raises AgentError: what the device says, or how the link to it broke.
        """

    def close(self) -> None:
        """Take from the device what was brought there, unless it was to stay; never raises."""

    @property
    def left_behind(self) -> str:
        """A line for the user, after ``close``: what could not be deleted; "" for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConnection:
    """This machine; ``python`` is the interpreter that has the runtime.

    ``lock`` is the file that one run at a time locks, None for the usual one.
    """

    python: str = sys.executable
    hold: bool = False
    name: str = "local"
    lock: str | None = None
    start_timeout_s: float = START_TIMEOUT_S

    def start_agent(self) -> AgentProcess:
        """Start an agent as a subprocess."""
        process = LineProcess(
            [self.python, str(AGENT_FOLDER / "__main__.py")],
            environment={} if self.lock is None else {PATH_VARIABLE: from_message(self.lock)},
        )
        return AgentProcess(process, timeout_s=self.start_timeout_s, hold=self.hold)

    def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        """Return where the files are: they need not move."""
        paths = [str(file.resolve()) for file in files]
        try:
            return tuple(
                PushedFile(path=to_message(path), sha256=file_digest(path)) for path in paths
            )
        except UnicodeDecodeError as error:
            raise JobFailedError(
                "missing_file",
                f"the name of a file, or of a folder above it, is not UTF-8: {error.object!r}",
                "rename it",
            ) from error

    def close(self) -> None:
        """Nothing was brought anywhere."""

    @property
    def left_behind(self) -> str:
        """Nor is anything left."""
        return ""
