"""A board that this process controls through a connection, with one agent at a time.

It gets a fresh agent for each round and after each loss. A transient fault (a link that
broke, a device that someone else measures on, an agent that was killed) is retried after a
pause. How commands and files reach the device is the connection's business.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from devices.connection import Agent, Connection, PushedFile
from devices.environment import Environment
from devices.errors import AgentError, AgentLostError
from profiler.errors import MeasurementError, SessionError
from profiler.replies import BAD_REPLY, Failure, parse_result
from profiler.scheduling.board_protocol import Outcome, Request

#: Failures of a single job; after any other failure no other job would succeed either.
JOB_FAILURES = (
    "missing_file",
    "wrong_digest",
    "bad_model",
    "out_of_memory",
    "runtime_error",
    "agent_crashed",
    BAD_REPLY,
    "worker_crashed",
    "wrong_precision",
    "timeout",
)

_RECONNECT_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
#: Pauses before each further try, by the type of the error; other errors are not tried again.
PAUSES_S: Mapping[str, Sequence[float]] = {
    "connection_lost": _RECONNECT_S,
    "unreachable": _RECONNECT_S,
    "device_busy": (1.0, 5.0, 15.0, 30.0),
    "agent_crashed": (0.0,),
    BAD_REPLY: (0.0,),
    "missing_file": (0.0,),
    "wrong_digest": (0.0,),
}
#: Errors after which the job's file is brought to the device once more.
PUSHED_AGAIN = ("missing_file", "wrong_digest")
#: How much longer than the device itself the host waits for a job.
GRACE_S = 30.0
RECALL_TIMEOUT_S = 60.0

_T = TypeVar("_T")

#: What a user should know meanwhile, in one line.
Notice = Callable[[str], None]


def ignore_notice(text: str) -> None:
    """The notice of those who need none."""


class DirectBoard:
    """A ``board_protocol.Board`` whose methods block; ``run_blocking`` runs them."""

    def __init__(
        self,
        connection: Connection,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        notice: Notice = ignore_notice,
    ) -> None:
        self._connection = connection
        self._pause = pause
        self._clock = clock
        self._notice = notice
        self._agent: Agent | None = None
        self._environment: Environment | None = None
        self._held: tuple[str, ...] = ()
        self._asked_at = 0.0
        self._reached = False
        self._sources: dict[str, Path] = {}

    @property
    def name(self) -> str:
        return self._connection.name

    def close(self) -> None:
        """End the agent and take from the device what was brought there."""
        self._end_agent()
        self._connection.close()
        if self._connection.left_behind:
            self._notice(self._connection.left_behind)

    async def begin(self) -> Environment:
        """Start a fresh agent in place of the last one."""
        self._end_agent()
        self._environment = None
        try:
            return self._persist(self._running).environment
        except AgentError as error:
            raise SessionError(str(error)) from error

    async def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        """Bring files to the board."""
        return self._push(files)

    async def execute(self, requests: Sequence[Request], timeout_s: float) -> tuple[Outcome, ...]:
        """Run jobs one after the other; what an agent answers becomes samples or a failure."""
        return tuple(self._execute(request, timeout_s) for request in requests)

    def _push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        try:
            pushed = self._persist(lambda: self._connection.push(files))
        except AgentError as error:
            raise SessionError(str(error)) from error
        self._sources.update(zip((one.path for one in pushed), files, strict=True))
        return pushed

    def _execute(self, request: Request, timeout_s: float) -> Outcome:
        start = self._clock()
        try:
            said = self._persist(lambda: self._request(request, timeout_s))
            result = parse_result(said, do=request["do"])
            return Outcome(result=result, lost_s=self._asked_at - start + result.waited_s)
        except AgentError as error:
            if error.type not in JOB_FAILURES:
                raise SessionError(str(error)) from error
            failure = Failure(type=error.type, message=error.message, advice=error.advice)
        except MeasurementError as error:
            failure = Failure(type=BAD_REPLY, message=str(error))
        return Outcome(result=failure)

    async def recall(self, runtime: str) -> bytes | None:
        """What a runtime learned from its builds; no run should end for want of it."""
        try:
            said = self._running().request({"do": "state", "runtime": runtime}, RECALL_TIMEOUT_S)
            state = said.get("state")
            return None if state is None else base64.b64decode(state, validate=True)
        except AgentLostError:
            self._end_agent()
        except (AgentError, ValueError, TypeError):
            pass
        return None

    def _request(self, request: Request, timeout_s: float) -> dict[str, Any]:
        # The device itself ends a job that hangs: over a broken link nobody else could.
        bounded = {**request, "timeout_s": timeout_s}
        agent = self._running()
        self._asked_at = self._clock()
        try:
            return agent.request(bounded, timeout_s + GRACE_S)
        except AgentError as error:
            source = self._sources.get(request["file"])
            if error.type in PUSHED_AGAIN and source is not None:
                self._push([source])
            raise

    def _persist(self, act: Callable[[], _T]) -> _T:
        """Do it, and again after a pause where what went wrong may pass by itself."""
        tries = 0
        while True:
            try:
                return act()
            except AgentError as error:
                if isinstance(error, AgentLostError):
                    self._end_agent()
                pauses = PAUSES_S.get(error.type, ())
                # A device that was never reached is more likely misspelt than on its way back.
                if tries >= len(pauses) or not self._reached:
                    raise
                if pauses[tries]:
                    self._notice(f"{error.message}; trying again in {pauses[tries]:g} s")
                self._pause(pauses[tries])
                tries += 1

    def _end_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _running(self) -> Agent:
        if self._agent is None:
            self._agent = self._connection.start_agent()
            self._reached = True
            self._check_unchanged(self._agent.environment)
            self._say_held(self._agent.held)
        return self._agent

    def _say_held(self, held: tuple[str, ...]) -> None:
        """Once, not with each agent: what --hold-clocks set, or that there is nothing to set."""
        if held != self._held:
            self._held = held
            self._notice(f"{self._connection.name}: {'; '.join(held)}")

    def _check_unchanged(self, environment: Environment) -> None:
        """Refuse an agent that replaces a lost one on what is no longer the same device."""
        before, self._environment = self._environment, environment
        changes = environment.differences(before) if before is not None else ()
        if changes:
            raise SessionError(
                f"{self._connection.name} is not what it was before the agent was lost "
                f"({'; '.join(changes)}): fix that, then run the same command again"
            )
