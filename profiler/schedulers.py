"""Which job runs where and when. Whatever the scheduler, a device runs one job at a time.

A scheduler owns the agent: it starts a fresh one for each round and after each loss, and turns what
it answers into samples or a failure. How commands and files reach the device is the connection's
business; the two multiply.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from devices.connection import Agent, Connection, PushedFile
from devices.environment import Environment
from devices.errors import AgentError, AgentLostError
from profiler.errors import MeasurementError, SessionError
from profiler.replies import Failure, Samples

#: Failures that say something about the run, not about the job: no other job would fare better.
FATAL_FAILURES = ("start_failed", "missing_runtime", "bad_request", "protocol_version")


class Scheduler(Protocol):
    """Runs requests, one at a time a device; ``SerialScheduler`` says what its methods do."""

    def push(self, file: Path) -> PushedFile: ...

    def start_round(self) -> Environment: ...

    def execute(self, request: Mapping[str, Any], timeout_s: float) -> Samples | Failure: ...

    def close(self) -> None: ...


class SerialScheduler:
    """One device, in this process and thread, one job after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._agent: Agent | None = None

    def push(self, file: Path) -> PushedFile:
        """Bring a file to the device, before any clock runs."""
        return self._connection.push(file)

    def start_round(self) -> Environment:
        """Start a fresh agent in place of the last one; return the environment it reports."""
        self.close()
        return self._running().environment

    def execute(self, request: Mapping[str, Any], timeout_s: float) -> Samples | Failure:
        """Run one job. Raises SessionError where no other job could run either."""
        try:
            return Samples.from_json(self._running().request(request, timeout_s))
        except AgentError as error:
            if isinstance(error, AgentLostError):
                self.close()
            if error.type in FATAL_FAILURES:
                raise SessionError(str(error)) from error
            return Failure(type=error.type, message=error.message, advice=error.advice)
        except MeasurementError as error:
            return Failure(type="runtime_error", message=str(error))

    def close(self) -> None:
        """End the agent; a later request starts another."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _running(self) -> Agent:
        if self._agent is None:
            try:
                self._agent = self._connection.start_agent()
            except AgentLostError as error:
                raise SessionError(str(error)) from error
        return self._agent
