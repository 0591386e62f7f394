"""What a script of the fake runtime can do: work, or fail in each of the ways that runtimes do."""

import mmap
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Tuple

from .. import Prepared

SPENT = "an illegal memory access was encountered"


class FakeModel(Prepared):
    """Behaves as its script says in each run."""

    def __init__(self, behave: Callable[[Dict[str, Any]], None], script: Dict[str, Any]) -> None:
        self._behave = behave
        self._script = script

    def run(self, times: int) -> None:
        """Behave so often."""
        for _ in range(times):
            self._behave(self._script)

    def layers(self, passes: int) -> List[Tuple[str, List[int]]]:
        """Two layers that never change."""
        return [("t1/Conv", [1000] * passes), ("result/Relu", [500] * passes)]

    def facts(self) -> Dict[str, Any]:
        """Which process it was."""
        return {"pid": os.getpid()}


def work(script: Dict[str, Any]) -> None:
    """Keep the core busy for ``busy_us``."""
    end = time.perf_counter() + script.get("busy_us", 20) / 1e6
    while time.perf_counter() < end:
        pass


def crash(script: Dict[str, Any]) -> None:
    """Die by ``signal``, as after a fault in native code."""
    os.kill(os.getpid(), script.get("signal", signal.SIGKILL))


def leave(script: Dict[str, Any]) -> None:
    """Exit with ``status``, as a library that calls exit() does."""
    sys.stderr.write("the fake runtime leaves\n")
    sys.stderr.flush()
    os._exit(script.get("status", 0))


def hang(script: Dict[str, Any]) -> None:
    """Never come back."""
    while True:
        signal.pause()


def allocate(script: Dict[str, Any]) -> None:
    """Take ``mib`` of memory."""
    bytearray(script.get("mib", 1) << 20)


def reserve(script: Dict[str, Any]) -> None:
    """Take ``mib`` of address space that is never touched."""
    mmap.mmap(-1, script.get("mib", 1) << 20).close()


def fail(script: Dict[str, Any]) -> None:
    """Raise, as a runtime does in mid run."""
    raise RuntimeError(script.get("message", "the fake runtime fails"))


def spend(script: Dict[str, Any]) -> None:
    """Fail as CUDA does after an illegal address: nothing works in this process any more."""
    raise RuntimeError(SPENT)


def chatter(script: Dict[str, Any]) -> None:
    """Write to file descriptor 1, as native libraries do."""
    os.write(1, b'{"protocol": 1, "id": "not a reply"}\n')


BEHAVIOURS = {
    behave.__name__: behave
    for behave in (work, crash, leave, hang, allocate, reserve, fail, chatter, spend)
}
