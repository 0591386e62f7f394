"""A process that answers in lines: bytes in, one line out, in bounded time, whatever it does.

It has a session and process group of its own: Ctrl-C reaches the host alone, and what hangs is
killed with everything it started.  Its standard error is drained only while an answer is awaited,
by the same loop; no thread runs beside a measurement.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, NamedTuple

from devices.agent.ending import how_ended
from devices.errors import AgentLostError
from devices.replies import printable

TAIL_BYTES = 4096
EXIT_PATIENCE_S = 5.0


class LineTooLongError(Exception):
    """A line that does not end: whatever writes it does not speak our protocol."""


class End(NamedTuple):
    """How a process ended, for whoever explains it."""

    #: Negative for a signal; None where it closed its output and lives on.
    status: int | None
    #: The end of what it wrote to standard error.
    errors: str
    #: What was asked of it.
    during: str

    @property
    def how(self) -> str:
        """As part of a sentence: "with exit status 3", "by signal 9 (SIGKILL)"."""
        return "without a status" if self.status is None else how_ended(self.status)

    @property
    def last_words(self) -> str:
        """The last line of its standard error, as the end of a sentence; "" where it said none."""
        lines = self.errors.strip().splitlines()
        return f"; its last words: {printable(lines[-1][-300:])}" if lines else ""


def crashed(end: End) -> AgentLostError:
    """The error of an agent that is this very process."""
    advice = "start a new agent; if the same job ends it again, the runtime cannot run this model"
    if end.status == -signal.SIGKILL:
        advice = "unless someone killed it, the kernel did for lack of memory: see dmesg, use less"
    return AgentLostError(
        "agent_crashed",
        f"the agent ended {end.how} during {end.during}{end.last_words}",
        advice,
        exit_status=end.status,
    )


class LineProcess:
    """A command behind pipes.  Not for use by several threads at once.

    ``name`` is what messages call it.  ``explain`` makes the error of its end: what a status means
    depends on what the command is, and may change while it runs.  ``environment`` is added to ours.
    ``process`` leads a group of the same number.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str | None = None,
        missing: str = "name a Python of 3.6 or newer that is on the device",
        environment: Mapping[str, str] | None = None,
        explain: Callable[[End], AgentLostError] = crashed,
    ) -> None:
        self.name = name or " ".join(command)
        self.explain = explain
        self._received = bytearray()
        self._errors = bytearray()
        #: Whether it was ended from here.
        self.ended = False
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise AgentLostError(
                "start_failed", f"`{command[0]}` cannot be run: {error.strerror}", missing
            ) from error
        except UnicodeEncodeError as error:
            raise AgentLostError(
                "start_failed",
                f"{error.object!r} cannot be written in this locale, which is {error.encoding}",
                "choose one of UTF-8, such as LC_ALL=C.UTF-8",
            ) from error
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            os.set_blocking(_pipe(stream).fileno(), False)

    def exchange(self, pieces: Iterable[bytes], timeout_s: float, max_bytes: int) -> bytes:
        """Write the pieces and return the next line.

        Raises TimeoutError where for so long nothing is taken and no whole line comes, EOFError at
        the end of its output, LineTooLongError beyond ``max_bytes``.
        """
        outgoing = _Outgoing(pieces)
        if outgoing or b"\n" not in self._received:
            self._wait(outgoing, timeout_s, max_bytes)
        line, _, self._received = self._received.partition(b"\n")
        return bytes(line)

    def _wait(self, outgoing: _Outgoing, timeout_s: float, max_bytes: int) -> None:
        """Write all, and read until there is a line."""
        stdin, stdout = _pipe(self.process.stdin), _pipe(self.process.stdout)
        with selectors.DefaultSelector() as selector:
            if outgoing:
                selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(_pipe(self.process.stderr), selectors.EVENT_READ)
            deadline = time.monotonic() + timeout_s
            while outgoing or b"\n" not in self._received:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                for key, _ in selector.select(left_s):
                    if key.fileobj is stdin:
                        outgoing.write_some(key.fd)
                        deadline = time.monotonic() + timeout_s
                        if not outgoing:
                            selector.unregister(stdin)
                    elif key.fileobj is stdout:
                        if not self._receive(key.fd, max_bytes):
                            outgoing.drop()
                    elif not self._keep_errors(key.fd):
                        selector.unregister(key.fileobj)

    def explained(self, during: str) -> AgentLostError:
        """The error of its end, after EOFError: waits for its status and its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_PATIENCE_S)
        status = self.process.poll()
        stderr = self.process.stderr
        while stderr is not None and not stderr.closed and self._keep_errors(stderr.fileno()):
            pass
        self.kill()
        return self.explain(End(status, self._errors.decode("utf-8", "replace"), during))

    def close(self) -> None:
        """Let it end (it should at the end of its input), and kill it if it does not."""
        with contextlib.suppress(OSError):
            _pipe(self.process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_PATIENCE_S)
        self.kill()

    def kill(self) -> None:
        """End it and all that it started, now."""
        if self.ended:
            return
        self.ended = True
        # The group is there as long as any of its processes is, even when the leader has gone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                _pipe(stream).close()

    def _receive(self, stdout: int, max_bytes: int) -> bool:
        """Take what it wrote; False at the end of its output, behind the line it ended with."""
        piece = os.read(stdout, 1 << 16)
        if not piece:
            if b"\n" in self._received:
                return False
            raise EOFError
        self._received += piece
        if len(self._received) > max_bytes:
            raise LineTooLongError(f"a line of more than {max_bytes} bytes")
        return True

    def _keep_errors(self, stderr: int) -> bool:
        """Take what is in the pipe of standard error, keep the end; False where nothing is.

        Its end is not waited for: whatever the process started may hold the pipe for ever.
        """
        try:
            piece = os.read(stderr, 1 << 16)
        except BlockingIOError:
            return False
        self._errors = (self._errors + piece)[-TAIL_BYTES:]
        return bool(piece)


class _Outgoing:
    """Bytes on their way into a pipe, a piece at a time; true as long as there are any."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")
        self._advance()

    def __bool__(self) -> bool:
        return len(self._left) > 0

    def write_some(self, stdin: int) -> None:
        try:
            self._left = self._left[os.write(stdin, self._left) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            # It has ended: the end of its output says so, after what it still had to say.
            self.drop()
        self._advance()

    def drop(self) -> None:
        """Send no more."""
        self._pieces, self._left = iter(()), memoryview(b"")

    def _advance(self) -> None:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return
            self._left = memoryview(piece)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # all three are pipes
    return stream
