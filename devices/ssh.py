"""A device behind the system's own ssh: the user's keys, configuration and jump hosts.

Host keys stay checked, and nothing is ever asked: what would need a password fails.  The agent is
sent ahead of every command (some ten kB), runs as the user that ssh logs in as, listens nowhere,
and is deleted in the end.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from devices.agent.protocol import MAX_FILES
from devices.agent_process import START_TIMEOUT_S, AgentProcess
from devices.boot import MARKER
from devices.connection import PushedFile
from devices.errors import AgentError, AgentLostError, InventoryError
from devices.file_sending import outgoing, send
from devices.line_process import LineProcess, LineTooLongError
from devices.parcel import agent_parcel, boot_command
from devices.replies import parse_line, printable
from devices.ssh_failures import after_boot, before_boot, old_python, refused

#: ssh takes the first value that it is given: the user's options come before these.
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    # The end of standard error is shown: neither banners nor notes.
    "LogLevel": "ERROR",
    # A master that the user has is used.  None is started: it would outlive us in the background.
    "ControlMaster": "no",
    # As scp has it: what a configuration adds for sessions by hand is in the way here.
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
}
#: What login scripts may print before the agent is there.
MAX_NOISE_BYTES = 64 << 10
CLOSE_TIMEOUT_S = 10.0
REMOVE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class SshConnection:
    """``host`` and ``options`` as one gives them to ssh; the paths are the device's.

    ``folder`` is where agent and files go, ``lock`` what one run at a time locks; None for the
    usual places.  With ``keep`` the agent and the files stay for the next time; ``name`` is by
    default the host.
    """

    host: str
    _: KW_ONLY
    python: str = "python3"
    options: Sequence[str] = ()
    folder: str | None = None
    lock: str | None = None
    keep: bool = False
    hold: bool = False
    name: str = ""
    start_timeout_s: float = START_TIMEOUT_S
    #: Folders on the device that hold something of ours.
    _left: set[str] = field(default_factory=set, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-"):
            raise InventoryError(f"host {self.host!r} is no host: ssh would take it for an option")
        boot_command(self.python)  # refuses one that a shell would not take
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "name", self.name or self.host)

    def start_agent(self) -> AgentProcess:
        """Send the agent over and start it."""
        agent = AgentProcess(
            self._boot("serve", self.start_timeout_s),
            timeout_s=self.start_timeout_s,
            hold=self.hold,
        )
        running, sent = agent.environment.agent_digest, agent_parcel().digest
        if running == sent:
            return agent
        agent.close()
        raise AgentLostError(
            "protocol_version",
            f"the agent on {self.host} says that it is {running}, sent was {sent}: there is a file "
            "too much in its folder",
            f"remove the folders agent-* from {', '.join(self._left)} on the device",
        )

    def push(self, files: Sequence[Path]) -> tuple[PushedFile, ...]:
        """Bring to the device what it lacks of these files, through one ssh."""
        announced = [outgoing(file) for file in files]
        pushed: tuple[PushedFile, ...] = ()
        for start in range(0, len(announced), MAX_FILES):
            with contextlib.closing(self._boot("receive", self.start_timeout_s)) as link:
                pushed += send(link, announced[start : start + MAX_FILES])
        return pushed

    def close(self) -> None:
        """Delete what was brought to the device, if it can still be reached.

        What another run uses stays, for that one to delete.  ``left_behind`` says what else stayed.
        """
        if self.keep or not self._left:
            return
        with contextlib.suppress(AgentError, TimeoutError, EOFError, LineTooLongError):
            link = self._boot("remove", CLOSE_TIMEOUT_S)
            with contextlib.closing(link):
                answer = link.exchange([], REMOVE_TIMEOUT_S, MAX_NOISE_BYTES)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if parse_line(answer)["ok"] is True:
                    self._left.clear()

    @property
    def left_behind(self) -> str:
        """A line for the user, after ``close``: what could not be deleted; "" for nothing."""
        if self.keep or not self._left:
            return ""
        places = ", ".join(sorted(self._left))
        return f"{places} on {self.name} could not be deleted; the end of the next run does it"

    def _boot(self, mode: str, timeout_s: float) -> LineProcess:
        """Start ssh and return it when what it answers is the agent's, in this mode."""
        by_hand = shlex.join(["ssh", *self.options, self.host])
        own = [part for key, value in OPTIONS.items() for part in ("-o", f"{key}={value}")]
        link = LineProcess(
            ["ssh", "-T", *self.options, *own, "--", self.host, boot_command(self.python)],
            name=f"ssh {self.host}",
            missing="install the OpenSSH client",
            explain=before_boot(self.host, self.python, by_hand),
        )
        try:
            words = self._first_words(link, mode, timeout_s)
            self._left.add(_ready(self.host, words))
        except BaseException:
            link.kill()
            raise
        link.explain = after_boot(self.host, by_hand)
        return link

    def _first_words(self, link: LineProcess, mode: str, timeout_s: float) -> str:
        """Send the agent and return what the boot program says of it."""
        pieces = [agent_parcel().preamble(mode, self.folder, self.lock)]
        deadline = time.monotonic() + timeout_s
        noise_bytes, marker = 0, MARKER.encode("ascii")
        try:
            while noise_bytes <= MAX_NOISE_BYTES:
                left_s = max(0.0, deadline - time.monotonic())
                line = link.exchange(pieces, left_s, MAX_NOISE_BYTES)
                if line.startswith(marker):
                    return printable(line[len(marker) :].decode("utf-8", "replace"))
                noise_bytes += len(line) + 1
                pieces = []
        except TimeoutError as error:
            raise AgentLostError(
                "unreachable",
                f"{self.host} has answered nothing for {timeout_s:g} s",
                f"see whether `{shlex.join(['ssh', *self.options, self.host])}` gets to a prompt",
            ) from error
        except EOFError as error:
            raise link.explained("the start of the agent") from error
        except LineTooLongError:
            pass
        raise AgentLostError(
            "start_failed",
            f"the login scripts of {self.host} print more than {MAX_NOISE_BYTES} bytes",
            "have them print only where there is a terminal",
        )


def _ready(host: str, words: str) -> str:
    """Return the folder that the boot program made; raise AgentLostError where it made none."""
    outcome, _, rest = words.partition(" ")
    if outcome == "ready":
        return rest
    if outcome == "old_python":
        raise old_python(host, rest)
    kind, _, message = rest.partition(" ")
    raise refused(host, kind, message)
