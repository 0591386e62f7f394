"""Why an ssh ended: its exit status and what it wrote to standard error, as a typed error.

``ssh`` exits with the status of the remote command, or with 255 for whatever went wrong itself.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from devices.boot import SHELL_STATUS
from devices.errors import AgentLostError
from devices.line_process import End, crashed

SSH_FAILED = 255
NOT_FOUND = (126, 127)
#: What standard error says: the first sign that is found decides, and "" is always found. Then the
#: type of the error, what it means, and how to fix it.
_SIGNS = (
    (
        r"host identification has changed",
        "host_key",
        "{host} has another host key than it had{says}",
        "find out why; `{by_hand}` names the outdated line of known_hosts: compare the new "
        "fingerprint with the device's own before you replace it",
    ),
    (
        r"host key verification failed|host key is known|host key .*revoked",
        "host_key",
        "the host key of {host} is not known{says}",
        "connect once by hand with `{by_hand}`, and compare the fingerprint that it shows with the "
        "device's own",
    ),
    (
        r"permission denied \(|too many authentication failures",
        "permission_denied",
        "{host} does not let you in{says}",
        "nothing can be typed in here: make `{by_hand}` work without a password (ssh-copy-id, "
        "ssh-add)",
    ),
    (
        r"bad configuration option|command-line|can't open user config|^usage:|bad owner",
        "start_failed",
        "ssh does not accept its options for {host}{says}",
        "fix ssh_options in devices.toml, or your ssh configuration",
    ),
    (
        "",
        "unreachable",
        "{host} cannot be reached{says}",
        "see that it is on and in the network, and that `{by_hand}` connects",
    ),
)
#: csh has no exit status of its own for this.
_NO_COMMAND = re.compile(r"(command )?not found|no such file or directory", re.IGNORECASE)
_ELSEWHERE = 'set `folder = "/another/place"` for this device in devices.toml'
#: What the boot program says it failed for: the type of the error, and how to fix it.
_REFUSALS = {
    "disk_full": ("disk_full", f"make room there, or {_ELSEWHERE}"),
    "device_busy": ("device_busy", "another run was just removing what it brought: start again"),
    "damaged": ("start_failed", "see that no login script there reads standard input"),
}
_NAME_PYTHON = 'set `python = "/path/to/python3"` (3.6 or newer) for this device in devices.toml'


def old_python(host: str, version: str) -> AgentLostError:
    """The error of a device whose interpreter says that it is too old."""
    return AgentLostError("old_python", f"{host} has Python {version}", _NAME_PYTHON)


def refused(host: str, kind: str, message: str) -> AgentLostError:
    """The error of a device on which there is no place for the agent."""
    error_type, advice = _REFUSALS.get(kind, ("start_failed", _ELSEWHERE))
    return AgentLostError(error_type, f"the agent has no place on {host}: {message}", advice)


def before_boot(host: str, python: str, by_hand: str) -> Callable[[End], AgentLostError]:
    """What an end means as long as nothing of ours runs; ``by_hand`` is the user's own way in."""

    def explain(end: End) -> AgentLostError:
        if end.status == SSH_FAILED:
            return _not_connected(host, by_hand, end)
        if end.status == SHELL_STATUS:
            return AgentLostError(
                "start_failed",
                f"the login shell of {host} starts another one, which takes what is sent for "
                "commands",
                "have its login scripts do that only where there is a terminal",
                exit_status=end.status,
            )
        if end.status in NOT_FOUND or _NO_COMMAND.search(end.errors):
            message = f"{host} cannot run `{python}`{end.last_words}"
            return AgentLostError("no_python", message, _NAME_PYTHON, exit_status=end.status)
        return AgentLostError(
            "start_failed",
            f"what {host} runs for `{python}` ended {end.how}{end.last_words}",
            f"see what `{by_hand} {python} --version` says",
            exit_status=end.status,
        )

    return explain


def after_boot(host: str, by_hand: str) -> Callable[[End], AgentLostError]:
    """What an end means from then on: the status is that of ``boot.run``."""

    def explain(end: End) -> AgentLostError:
        if end.status is None or end.status < 0 or end.status == SSH_FAILED:
            return AgentLostError(
                "connection_lost",
                f"the link to {host} broke during {end.during}{end.last_words}",
                f"see whether `{by_hand}` still connects, and start again",
                exit_status=end.status,
            )
        known = {int(one) for one in signal.Signals}
        status = 128 - end.status if end.status - 128 in known else end.status
        return crashed(end._replace(status=status))

    return explain


def _not_connected(host: str, by_hand: str, end: End) -> AgentLostError:
    kind, message, advice = next(
        meaning
        for sign, *meaning in _SIGNS
        if re.search(sign, end.errors, re.IGNORECASE | re.MULTILINE)
    )
    names = {"host": host, "by_hand": by_hand, "says": end.last_words}
    return AgentLostError(
        kind, message.format(**names), advice.format(**names), exit_status=end.status
    )
