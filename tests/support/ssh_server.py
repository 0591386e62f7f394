"""A real OpenSSH server on this machine, with keys and configuration of its own.

``tests/conftest.py`` has the fixture ``ssh_server``, which starts one for a test, and fails where a
process of an agent outlives it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devices.ssh import SshConnection

PATIENCE_S = 30.0
#: Where OpenSSH's privilege separation wants an empty folder, when it runs as root.
PRIVILEGE_SEPARATION = Path("/run/sshd")
SERVER = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def missing() -> str | None:
    """Why there can be no server here, or None."""
    lacking = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if SERVER is None or lacking:
        return f"no {', '.join(['sshd'] if SERVER is None else lacking)} on this machine"
    if not Path("/proc/self/stat").exists():
        return "the server's sessions are found through /proc"
    if os.geteuid() == 0:
        try:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            return f"{PRIVILEGE_SEPARATION} cannot be made: {error}"
    return None


class SshServer:
    """The server, and what the client needs to reach it as ``host``.

    ``far`` is the same by way of a jump host.
    """

    host = "device"
    far = "far"

    def __init__(self, home: Path) -> None:
        self.home = home
        #: What the agents of ``connect`` get as their folder.
        self.folder = home / "root"
        self.options = ("-F", str(home / "client"))
        # Bound, so that nobody else is given the port, even while the server is stopped; who says
        # SO_REUSEADDR, as sshd does, can listen on it all the same.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = int(self._reserved.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir()
        for name in ("host_key", "user_key", "other_key"):
            make_key(home / name)
        shutil.copy(home / "user_key.pub", home / "authorized")
        self.trust("host_key")
        self.configure_client()
        self.configure()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._reserved.close()
        left = self.agents
        gone = wait_until(lambda: not self.agents)
        for pid in self.agents:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert gone, f"agents outlived the test: {left}"

    def connect(self, host: str | None = None, **changes: Any) -> SshConnection:
        """A connection to the server, with the Python that runs the tests."""
        given: dict[str, Any] = {"python": sys.executable, "options": self.options}
        given |= {"folder": str(self.folder)}
        return SshConnection(host or self.host, **given | changes)

    def configure(self, *lines: str) -> None:
        """Write the server's configuration; lines that come first win over these."""
        text = [
            *lines,
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.home / 'host_key'}",
            f"AuthorizedKeysFile {self.home / 'authorized'}",
            f"PidFile {self.home / 'pid'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "AllowTcpForwarding yes",
            "MaxStartups 100",
            f"SetEnv XDG_CACHE_HOME={self.home / 'cache'} "
            f"DSHRINK_DEVICE_LOCK={self.home / 'device.lock'}",
        ]
        (self.home / "server").write_text("\n".join(text) + "\n")

    def configure_client(self, *lines: str) -> None:
        """Write the client's configuration; lines that come first win over these."""
        text = [
            f"Host {self.far}",
            f"ProxyJump {self.host}",
            "Host *",
            *lines,
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {getpass.getuser()}",
            f"IdentityFile {self.home / 'user_key'}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.home / 'known_hosts'}",
            "GlobalKnownHostsFile none",
        ]
        (self.home / "client").write_text("\n".join(text) + "\n")

    def trust(self, key: str | None) -> None:
        """Have the client know this host key, or none."""
        line = "" if key is None else (self.home / f"{key}.pub").read_text()
        (self.home / "known_hosts").write_text(line and f"[127.0.0.1]:{self.port} {line}")

    def start(self) -> None:
        """Start to listen."""
        command = [str(SERVER), "-D", "-e", "-f", str(self.home / "server")]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        assert wait_until(self._listens) and self._process.poll() is None, (
            self.home / "log"
        ).read_text()

    def stop(self) -> None:
        """Stop to listen, and cut all links."""
        if self._process is not None:
            # It starts no further link meanwhile, whose process would keep the port taken.
            self._process.send_signal(signal.SIGSTOP)
            if self._process.poll() is None:
                os.waitpid(self._process.pid, os.WUNTRACED)
            self.cut()
            self._process.kill()
            self._process.wait()
            self._process = None

    def cut(self) -> None:
        """Kill what serves the links that there are now, and nothing else."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Have the links answer nothing any more, not even that they are there."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        self._signal(signal.SIGCONT)

    @property
    def agents(self) -> list[int]:
        """The processes of agents that were unpacked below this server's folder."""
        unpacked = f"{self.home}/".encode()
        return [
            pid
            for pid, (_, _, line) in processes().items()
            if any(part.startswith(unpacked) and b"/agent-" in part for part in line.split(b"\0"))
        ]

    def _signal(self, number: int) -> None:
        for pid in self._sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _sessions(self) -> Iterator[int]:
        table = processes()
        parents = {self._process.pid} if self._process is not None else set()
        while parents:
            parents = {
                pid
                for pid, (parent, name, _) in table.items()
                if parent in parents and name.startswith("sshd")
            }
            yield from parents

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return True
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


def make_key(file: Path) -> None:
    """Make a new key pair, in the place of one that may be there."""
    file.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def processes() -> dict[int, tuple[int, str, bytes]]:
    """Parent, name and command line of every process."""
    table = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            table[int(folder.name)] = int(rest.split()[1]), name, (folder / "cmdline").read_bytes()
    return table


def wait_until(holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
    """Whether it comes to hold within the time."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def free_port() -> int:
    """A port of this machine where nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
