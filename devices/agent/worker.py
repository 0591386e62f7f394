"""A process of its own for runtimes that may take theirs with them.

TensorRT's builder and CUDA end their process on some models.  So the agent runs such a runtime in a
worker: the same agent in a process of its own, with the same messages.  Its death costs one job;
the next job starts a new one.  It has its own time limit, and dies with the agent.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import count
from typing import IO, Any, Dict, Optional, Tuple

from .checks import RequestError
from .ending import how_ended
from .protocol import PROTOCOL

AGENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
#: How much later than a worker's own time limit the agent's is: it then hangs in the kernel.
GRACE_S = 10.0
#: Finding a version imports the runtime: on a small board that takes a while, and may hang.
VERSION_TIMEOUT_S = 25.0
EXIT_PATIENCE_S = 5.0
MOST_PASSED_ON_BYTES = 1 << 16

_workers: Dict[str, "Worker"] = {}


class Worker(object):
    """A process that drives one runtime."""

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime
        self._ids = count(1)
        self._said: IO[bytes] = tempfile.TemporaryFile()
        self._passed_on = 0
        try:
            self._process = subprocess.Popen(
                [sys.executable, AGENT, "work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
        except OSError:
            self._said.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, message: Dict[str, Any], patience_s: Optional[float] = None) -> Dict[str, Any]:
        """Return the result of a request; raise its error, or that of the worker's death.

        With ``patience_s`` a worker that has not answered by then is killed.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        identity = str(next(self._ids))
        whole = dict(message, protocol=PROTOCOL, id=identity)
        self._pass_on()  # what it said after its last answer are not the words of this request
        try:
            self._process.stdin.write(json.dumps(whole).encode("ascii") + b"\n")
            self._process.stdin.flush()
            if patience_s is not None:
                answers, _, _ = select.select([self._process.stdout], [], [], patience_s)
                if not answers:
                    self._process.kill()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise self._death(message)
        self._pass_on()
        reply = json.loads(line.decode("ascii"))
        assert reply["id"] == identity
        if reply["ok"]:
            result: Dict[str, Any] = reply["result"]
            return result
        if reply.get("last"):
            self._end()
        error = reply["error"]
        raise RequestError(error["type"], error["message"], error["advice"])

    def close(self) -> None:
        """Let it end, and kill it if it does not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._end()
        self._pass_on()
        self._process.stdout.close()
        self._said.close()

    def _end(self) -> int:
        """Wait for its end, kill it if that does not come; returns its status."""
        try:
            return self._process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _death(self, message: Dict[str, Any]) -> RequestError:
        status = self._end()
        said = self._pass_on().strip().splitlines()
        last_words = f"; its last words: {said[-1][-300:]}" if said else ""
        what = message.get("file", "its version")
        if status == -signal.SIGALRM:
            return RequestError(
                "timeout",
                f"{self._runtime} took longer than its time limit with {what}",
                "the build or the run hangs, or needs a longer timeout",
            )
        return RequestError(
            "worker_crashed",
            f"{self._runtime} ended its process {how_ended(status)} with {what}{last_words}",
            "the runtime cannot build or run this model here; other jobs continue in a new process",
        )

    def _pass_on(self) -> str:
        """Write to our standard error what it wrote to its own since the last time; returns that.

        Of a flood only the end: native libraries can be talkative.  The place in the file is the
        worker's, which continues to write there: it is left alone.
        """
        size = os.fstat(self._said.fileno()).st_size
        start, self._passed_on = max(self._passed_on, size - MOST_PASSED_ON_BYTES), size
        said = os.pread(self._said.fileno(), size - start, start).decode("utf-8", "replace")
        with suppress(OSError):  # nobody may read ours any more
            sys.stderr.write(said)
            sys.stderr.flush()
        return said


def ask(
    runtime: str, message: Dict[str, Any], patience_s: Optional[float] = None
) -> Dict[str, Any]:
    """Ask the runtime's worker, started where there is none."""
    known = _workers.get(runtime)
    if known is None or not known.is_alive:
        _drop(runtime)
        known = _workers[runtime] = Worker(runtime)
    try:
        return known.ask(message, patience_s)
    finally:
        if not known.is_alive:
            _drop(runtime)


def ask_fresh(runtime: str, message: Dict[str, Any], patience_s: float) -> Dict[str, Any]:
    """Ask a process that has done nothing before, and ends with this."""
    fresh = Worker(runtime)
    try:
        return fresh.ask(message, patience_s)
    finally:
        fresh.close()


def version(runtime: str, patience_s: float = VERSION_TIMEOUT_S) -> Tuple[Optional[str], str]:
    """The runtime's version; None, and why, where it does not import, or ends its process."""
    patience_s = min(patience_s, VERSION_TIMEOUT_S)
    if patience_s <= 0:
        return None, "no time was left to look for it"
    try:
        told = ask(runtime, {"do": "version", "runtime": runtime}, patience_s)
    except (RequestError, OSError) as error:  # there may be no room for another process
        return None, str(error)
    return told["version"], str(told["problem"])


def close_all() -> None:
    """End every worker."""
    for runtime in list(_workers):
        _drop(runtime)


def _drop(runtime: str) -> None:
    known = _workers.pop(runtime, None)
    if known is not None:
        known.close()
