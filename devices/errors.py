"""What can go wrong between host and device.

DevicesError
    InventoryError      a device that is not in the inventory, or cannot be reached from here
    AgentError          a request that was not done; has ``type``, ``message`` and ``advice``
        JobFailedError      the agent said no, and lives on
        AgentLostError      the agent is gone; start another one
"""

from __future__ import annotations

from typing import Any

from devices.agent.checks import ERROR_TYPES

#: What only the host can find, beside what the agent may answer.
HOST_ERROR_TYPES = (
    "agent_crashed",
    "bad_reply",  # what it answered makes no sense
    "start_failed",
    "unreachable",  # no link came about
    "connection_lost",  # there was one, and it broke
    "permission_denied",
    "host_key",
    "no_python",
    "old_python",
)


class DevicesError(Exception):
    """Base of every error of this package."""


class InventoryError(DevicesError):
    """The inventory has no such device, is not valid, or this version cannot reach the device."""


class AgentError(DevicesError):
    """A request that was not done.

    ``type`` is one of ``ERROR_TYPES`` or ``HOST_ERROR_TYPES``; ``message`` says what and where,
    ``advice`` how to fix it.
    """

    def __init__(self, type: str, message: str, advice: str) -> None:
        if type not in ERROR_TYPES + HOST_ERROR_TYPES:
            raise ValueError(f"{type!r} is no type of an agent's error")
        super().__init__(f"{message}; {advice}" if advice else message)
        self.type = type
        self.message = message
        self.advice = advice

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their text alone; a scheduler sends them between processes.
        return type(self), (self.type, self.message, self.advice), self.__dict__


class JobFailedError(AgentError):
    """The agent answered with an error; it can be asked for the next job."""


class AgentLostError(AgentError):
    """The agent crashed, hung (and was killed), never started, or the link to it broke.

    ``exit_status`` is that of its process, negative for a signal, None where it is not known.
    """

    def __init__(
        self, type: str, message: str, advice: str, *, exit_status: int | None = None
    ) -> None:
        super().__init__(type, message, advice)
        self.exit_status = exit_status
