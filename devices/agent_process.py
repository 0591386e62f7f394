"""One running agent: requests in, replies out, and an end that leaves nothing behind.

The process that is asked is the agent itself, or the ssh that leads to it.  Killing that ssh ends
the agent as well: what the host sent ahead of it (``boot``) watches the link, gives the agent some
seconds to end by itself and kills it then.  Where the link is dead and the device does not notice,
the agent's own alarm ends it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Self

from devices.agent.checks import ERROR_TYPES, MAX_MESSAGE_CHARACTERS
from devices.agent.protocol import FILE_REQUESTS, PROTOCOL, RUNTIME_REQUESTS
from devices.environment import Environment
from devices.errors import AgentLostError, JobFailedError
from devices.line_process import LineProcess, LineTooLongError
from devices.records import RecordError, checked
from devices.replies import parse_line

#: A reply of 15 s of 1 ms samples has 0.5 MB; what a runtime learned from its builds has some.
MAX_REPLY_BYTES = 64 << 20
#: What a device says about itself.
MAX_REPORT_BYTES = 1 << 20
START_TIMEOUT_S = 60.0
#: A Jetson's tools wait until it has been up for a minute, and are several.
HOLD_TIMEOUT_S = 240.0
_HANGS = "the job hangs, or needs a longer timeout"
_ALARM = 14  # SIGALRM, wherever there is one
_SAME_VERSION = "bring host and agent to the same version of dshrink"


class AgentProcess:
    """An agent behind pipes.  Not for use by several threads at once.

    ``process`` is what to ask, or the command that starts it.  With ``hold`` the agent keeps clocks
    and power mode as long as it lives; ``held`` says what, ``environment`` how the device is then.

    On Linux a local agent dies with the thread that started it, so that not even ``kill -9`` of the
    host leaves it running: start it in the thread that asks it.
    """

    def __init__(
        self,
        process: LineProcess | Sequence[str],
        *,
        timeout_s: float = START_TIMEOUT_S,
        hold: bool = False,
    ) -> None:
        self._ids = count(1)
        self._process = process if isinstance(process, LineProcess) else LineProcess(process)
        self.held: tuple[str, ...] = ()
        try:
            self.environment = self._hello(timeout_s)
            if hold:
                self._hold()
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return not self._process.ended and self._process.process.poll() is None

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request (its ``protocol`` and ``id`` are filled in) and return the result.

        Raises JobFailedError where the agent answers with an error, and AgentLostError where it
        crashes or does not answer in time; then it is killed and cannot be asked again.
        """
        if self._process.ended:
            raise AgentLostError("agent_crashed", "the agent was ended before", "start a new one")
        whole = {"protocol": PROTOCOL, "id": str(next(self._ids)), **message}
        try:
            reply = self._ask(whole, timeout_s)
        except BaseException:
            # Its reply would be taken for the reply to the next request.
            self.kill()
            raise
        if reply["ok"]:
            result: dict[str, Any] = reply["result"]
            return result
        said = {name: text[: 2 * MAX_MESSAGE_CHARACTERS] for name, text in reply["error"].items()}
        raise JobFailedError(**said)

    def close(self) -> None:
        """Let the agent end (it does at the end of its input), and kill it if it does not."""
        self._process.close()

    def kill(self) -> None:
        """End the agent and all that it started, now."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _hello(self, timeout_s: float) -> Environment:
        try:
            return Environment.from_hello(self.request({"do": "hello"}, timeout_s))
        except AgentLostError as error:
            if error.type not in ("agent_crashed", "bad_reply", "timeout"):
                raise
            raise AgentLostError(
                "start_failed",
                f"no agent started by `{self._process.name}`: {error.message}",
                "check that this is a Python of 3.6 or newer that runs on the device",
                exit_status=error.exit_status,
            ) from error

    def _hold(self) -> None:
        result = self.request({"do": "hold"}, HOLD_TIMEOUT_S)
        self.environment = Environment.from_hello(result)
        try:
            self.held = checked(tuple[str, ...], result.get("held"), "held")
        except RecordError as error:
            raise AgentLostError(
                "start_failed", f"what the agent holds is not valid: {error}", _SAME_VERSION
            ) from error

    def _ask(self, whole: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return a well-formed reply; raise AgentLostError otherwise."""
        line = json.dumps(whole).encode("ascii") + b"\n"
        start_s = time.monotonic()
        try:
            is_long = whole["do"] in FILE_REQUESTS + RUNTIME_REQUESTS
            most = MAX_REPLY_BYTES if is_long else MAX_REPORT_BYTES
            reply = self._process.exchange([line], timeout_s, most)
            return _parse_reply(reply, whole["id"])
        except TimeoutError as error:
            self.kill()
            raise AgentLostError(
                "timeout",
                f"no reply within {timeout_s:g} s to {_shown(whole)}; the agent was killed",
                _HANGS,
                exit_status=self._process.process.returncode,
            ) from error
        except (ValueError, LineTooLongError) as error:
            self.kill()
            raise AgentLostError(
                "bad_reply",
                f"the agent answered what is no reply: {error}",
                _SAME_VERSION,
                exit_status=self._process.process.returncode,
            ) from error
        except EOFError as error:
            lost = self._process.explained(_shown(whole))
            raise _at_time_limit(whole, time.monotonic() - start_s, lost) from error


def _at_time_limit(
    whole: Mapping[str, Any], waited_s: float, lost: AgentLostError
) -> AgentLostError:
    """The error of an agent that is gone: "timeout" where its own alarm ended it in this job.

    An agent that nobody asked for too long ends by the same signal, but before it was asked.
    """
    # The two clocks do not go quite alike.
    is_over = waited_s >= 0.9 * whole.get("timeout_s", math.inf)
    if lost.exit_status != -_ALARM or not is_over:
        return lost
    return AgentLostError(
        "timeout",
        f"the device ended {_shown(whole)} after its time limit of {whole['timeout_s']:g} s",
        _HANGS,
        exit_status=lost.exit_status,
    )


def _parse_reply(line: bytes, identity: str) -> dict[str, Any]:
    """Return a well-formed reply to this request; raise ValueError otherwise."""
    try:
        reply = parse_line(line)
        spoken = reply["protocol"]
        if isinstance(spoken, bool) or not isinstance(spoken, int):
            raise ValueError("no protocol version")
        if spoken != PROTOCOL:
            raise AgentLostError(
                "protocol_version",
                f"the agent speaks protocol {spoken}, this host {PROTOCOL}",
                _SAME_VERSION,
            )
        if reply["ok"]:
            is_whole = reply["ok"] is True and isinstance(reply["result"], dict)
        else:
            error = reply["error"]
            is_text = all(isinstance(text, str) for text in error.values())
            is_whole = reply["ok"] is False and is_text
            is_whole = is_whole and set(error) == {"type", "message", "advice"}
            is_whole = is_whole and error["type"] in ERROR_TYPES
        # A request that the agent could not read is answered without its id.
        is_ours = reply["id"] == identity or (reply["id"] == "" and not reply["ok"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{line[:200]!r} ({error})") from error
    if not is_whole or not is_ours:
        raise ValueError(f"{line[:200]!r}")
    return dict(reply)


def _shown(message: Mapping[str, Any]) -> str:
    return " ".join(str(message[name]) for name in ("do", "file") if name in message)
