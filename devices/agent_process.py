"""One running agent: requests in, replies out, and an end that leaves nothing behind.

The agent has a session and process group of its own: Ctrl-C reaches the host alone, and a job that
hangs is killed with everything it started.  Its standard error is drained only while a request
waits, by the same loop; no thread runs beside a measurement.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import IO, Any, Self

from devices.agent.checks import ERROR_TYPES
from devices.agent.protocol import PROTOCOL
from devices.environment import Environment
from devices.errors import AgentLostError, JobFailedError

#: A reply of 15 s of 1 ms samples has 0.5 MB.
MAX_REPLY_BYTES = 64 << 20
TAIL_BYTES = 4096
EXIT_PATIENCE_S = 5.0
START_TIMEOUT_S = 60.0


class AgentProcess:
    """An agent behind pipes.  Not for use by several threads at once.

    On Linux the agent dies with the thread that started it, so that not even ``kill -9`` of the
    host leaves it running: start it in the thread that asks it.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float = START_TIMEOUT_S) -> None:
        self._command = tuple(command)
        self._ids = count(1)
        self._received = bytearray()
        self._errors = bytearray()
        self._ended = False
        self._process = _popen(self._command)
        try:
            self.environment = Environment.from_hello(self.request({"do": "hello"}, timeout_s))
        except AgentLostError as error:
            self.kill()
            raise AgentLostError(
                "start_failed",
                f"no agent started by `{' '.join(self._command)}`: {error.message}",
                "check that this is a Python of 3.6 or newer that runs on the device",
                exit_status=error.exit_status,
            ) from error
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return not self._ended and self._process.poll() is None

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request (its ``protocol`` and ``id`` are filled in) and return the result.

        Raises JobFailedError where the agent answers with an error, and AgentLostError where it
        crashes or does not answer in time; then it is killed and cannot be asked again.
        """
        if self._ended:
            raise AgentLostError("agent_crashed", "the agent was ended before", "start a new one")
        whole = {"protocol": PROTOCOL, "id": str(next(self._ids)), **message}
        try:
            line = self._exchange(json.dumps(whole).encode("ascii") + b"\n", timeout_s)
            reply = _parse_reply(line, whole["id"])
        except TimeoutError as error:
            self.kill()
            raise AgentLostError(
                "timeout",
                f"no reply within {timeout_s:g} s to {_shown(message)}; the agent was killed",
                "the job hangs, or needs a longer timeout",
                exit_status=self._process.returncode,
            ) from error
        except _NonsenseError as error:
            self.kill()
            raise AgentLostError(
                "agent_crashed",
                f"the agent answered what is no reply: {error}",
                "bring host and agent to the same version of dshrink",
                exit_status=self._process.returncode,
            ) from error
        except EOFError as error:
            raise self._crashed(_shown(message)) from error
        except BaseException:
            # Its reply would be taken for the reply to the next request.
            self.kill()
            raise
        if reply["ok"]:
            result: dict[str, Any] = reply["result"]
            return result
        raise JobFailedError(**reply["error"])

    def close(self) -> None:
        """Let the agent end (it does at the end of its input), and kill it if it does not."""
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_PATIENCE_S)
        self.kill()

    def kill(self) -> None:
        """End the agent and all that it started, now."""
        if self._ended:
            return
        self._ended = True
        # The group is there as long as any of its processes is, even when the agent has gone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                _pipe(stream).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _exchange(self, line: bytes, timeout_s: float) -> bytes:
        """Write the line, return the next one; TimeoutError, or EOFError at the agent's end."""
        deadline = time.monotonic() + timeout_s
        to_send = memoryview(line)
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(_pipe(self._process.stderr), selectors.EVENT_READ)
            while to_send or b"\n" not in self._received:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                for key, _ in selector.select(left_s):
                    if key.fileobj is stdin:
                        to_send = _write_some(key.fd, to_send)
                        if not to_send:
                            selector.unregister(stdin)
                    elif key.fileobj is stdout:
                        self._receive(key.fd)
                    elif not self._keep_errors(key.fd):
                        selector.unregister(key.fileobj)
        reply, _, rest = self._received.partition(b"\n")
        self._received = rest
        return bytes(reply)

    def _receive(self, stdout: int) -> None:
        piece = os.read(stdout, 1 << 16)
        if not piece:
            raise EOFError
        self._received += piece
        if len(self._received) > MAX_REPLY_BYTES:
            raise _NonsenseError(f"a line of more than {MAX_REPLY_BYTES} bytes")

    def _keep_errors(self, stderr: int) -> bool:
        """Take what is in the pipe of standard error, keep the end; False at its end."""
        try:
            piece = os.read(stderr, 1 << 16)
        except BlockingIOError:
            return False
        self._errors = (self._errors + piece)[-TAIL_BYTES:]
        return bool(piece)

    def _crashed(self, during: str) -> AgentLostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_PATIENCE_S)
        stderr = self._process.stderr
        while stderr is not None and not stderr.closed and self._keep_errors(stderr.fileno()):
            pass
        self.kill()
        status = self._process.returncode
        lines = self._errors.decode("utf-8", "replace").strip().splitlines()
        last_words = f"; its last words: {lines[-1][-300:]}" if lines else ""
        return AgentLostError(
            "agent_crashed",
            f"the agent ended {_how(status)} during {during}{last_words}",
            _crash_advice(status),
            exit_status=status,
        )


class _NonsenseError(Exception):
    """What came is no reply of this protocol."""


def _popen(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise AgentLostError(
            "start_failed",
            f"`{command[0]}` cannot be run: {error.strerror}",
            "name a Python of 3.6 or newer that is on the device",
        ) from error
    for stream in (process.stdin, process.stdout, process.stderr):
        os.set_blocking(_pipe(stream).fileno(), False)
    return process


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # all three are pipes
    return stream


def _write_some(stdin: int, to_send: memoryview) -> memoryview:
    try:
        return to_send[os.write(stdin, to_send) :]
    except BlockingIOError:
        return to_send
    except BrokenPipeError:
        # It has ended: the end of its output says so, after what it still had to say.
        return to_send[len(to_send) :]


def _parse_reply(line: bytes, identity: str) -> dict[str, Any]:
    """Return a well-formed reply to this request; raise ``_NonsenseError`` otherwise."""
    try:
        reply = json.loads(line)
        if reply["protocol"] != PROTOCOL or reply["ok"] not in (True, False):
            raise ValueError("another protocol")
        if reply["ok"]:
            is_whole = isinstance(reply["result"], dict)
        else:
            error = reply["error"]
            is_whole = set(error) == {"type", "message", "advice"}
            is_whole = is_whole and all(isinstance(text, str) for text in error.values())
            is_whole = is_whole and error["type"] in ERROR_TYPES
        # A request that the agent could not read is answered without its id.
        is_ours = reply["id"] == identity or (reply["id"] == "" and not reply["ok"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _NonsenseError(f"{line[:200]!r} ({error})") from error
    if not is_whole or not is_ours:
        raise _NonsenseError(f"{line[:200]!r}")
    return dict(reply)


def _shown(message: Mapping[str, Any]) -> str:
    return " ".join(str(message[name]) for name in ("do", "file") if name in message)


def _how(status: int | None) -> str:
    if status is None:
        return "without a status"
    if status >= 0:
        return f"with exit status {status}"
    try:
        return f"by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"by signal {-status}"


def _crash_advice(status: int | None) -> str:
    if status == -signal.SIGKILL:
        return "unless someone killed it, the kernel did for lack of memory: see dmesg, use less"
    return "start a new agent; if the same job ends it again, the runtime cannot run this model"
