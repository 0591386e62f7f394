"""A runtime without a model, which fails on demand: for tests, and to rehearse faults on a device.

Its file is JSON: ``{"behaviour": "work", "busy_us": 50}``.  ``behaviour`` is one of ``BEHAVIOURS``;
``at`` says whether it shows in "prepare" or in "run" (the default).
"""

import json
import mmap
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..checks import JobError
from . import Prepared, Runtime

SPENT = "an illegal memory access was encountered"


class FakeRuntime(Runtime):
    """Does what the file says."""

    def version(self) -> Optional[str]:
        """It needs nothing installed."""
        return "1"

    def load(self) -> None:
        """Nothing to import."""

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """Read the script and, where it says so, fail already."""
        try:
            with open(file, encoding="utf-8") as stream:
                script = json.load(stream)
            behave = BEHAVIOURS[script["behaviour"]]
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(
                "bad_model",
                f"{file} is no script of the fake runtime: {error!r}",
                f"write JSON with a behaviour of {', '.join(sorted(BEHAVIOURS))}",
            ) from error
        if script.get("at", "run") == "prepare":
            behave(script)
            behave = work
        return FakeModel(behave, script)


class IsolatedFake(FakeRuntime):
    """The same in a process of its own, as runtimes that build have it."""

    ISOLATED = True

    def __init__(self) -> None:
        self._prepared = 0
        self._is_broken = False

    def prepare(self, file: str, threads: int, seed: int, options: Dict[str, Any]) -> Prepared:
        """As ever, and remember that it was done."""
        self._prepared += 1
        return super(IsolatedFake, self).prepare(file, threads, seed, options)

    def failure(self, error: Exception) -> Optional[JobError]:
        """Remember an error after which nothing works."""
        self._is_broken = str(error) == SPENT
        return None

    def is_broken(self) -> bool:
        """Whether there was such an error."""
        return self._is_broken

    def state(self) -> Optional[bytes]:
        """How many files this process has prepared."""
        return b"%d" % self._prepared if self._prepared else None


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
    "work": work,
    "crash": crash,
    "leave": leave,
    "hang": hang,
    "allocate": allocate,
    "reserve": reserve,
    "fail": fail,
    "chatter": chatter,
    "spend": spend,
}
