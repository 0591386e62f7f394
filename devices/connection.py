"""How files and requests reach a device.  Nothing here says which job runs where, or when.

This version has the local connection: an agent as a subprocess, files where they are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from devices.agent.protocol import file_digest
from devices.agent_process import START_TIMEOUT_S, AgentProcess
from devices.environment import Environment

AGENT_FOLDER = Path(__file__).parent / "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedFile:
    """A file on the device: its absolute path there, and the SHA-256 of its content."""

    path: str
    sha256: str


class Agent(Protocol):
    """A running agent; ``AgentProcess`` says what its methods do."""

    environment: Environment

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: Any) -> None: ...


class Connection(Protocol):
    """A way to a device."""

    def start_agent(self) -> Agent:
        """Start an agent; raises AgentLostError ("start_failed") where that does not work."""
        ...

    def push(self, file: Path) -> PushedFile:
        """Bring a file to the device."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConnection:
    """This machine; ``python`` is the interpreter that has the runtime."""

    python: str = sys.executable
    start_timeout_s: float = START_TIMEOUT_S

    def start_agent(self) -> AgentProcess:
        """Start an agent as a subprocess."""
        command = [self.python, str(AGENT_FOLDER / "__main__.py")]
        return AgentProcess(command, timeout_s=self.start_timeout_s)

    def push(self, file: Path) -> PushedFile:
        """Return where the file is: it need not move."""
        path = str(file.resolve())
        return PushedFile(path=path, sha256=file_digest(path))
