"""What the objects of one fake module share: its version, the simulated GPU, knobs and records."""

from __future__ import annotations

import json
import os
import signal
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .strict import Crash, new

MAGIC = b"FAKE TENSORRT "


@dataclass
class World:
    """``fails`` makes a step fail with a text; ``chooses`` is the builder's own mind.

    Steps: "Builder" and "Runtime", which cannot be made then and say why in a warning; "build",
    "deserialize", "context", "enqueue", "capture".  A text of "CRASH" ends the
    process as a fault in native code does; one of "BROKEN" leaves a GPU that nothing works on.
    """

    version: str
    gpu: Any
    classes: dict[str, type] = field(default_factory=dict)
    fails: dict[str, str] = field(default_factory=dict)
    chooses: str | None = None
    tells_details: bool = True
    builds: int = 0
    configs: list[dict[str, Any]] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    launched_by: list[str] = field(default_factory=list)

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def need_gpu(self, what: str) -> None:
        """Without a GPU the real one ends the process (seen with 8.6.0)."""
        if not self.gpu.gpu.count:
            raise Crash(f"{what} without a GPU")

    def made(self, what: str, logger: Any) -> None:
        """Refuse to make it as pybind does (seen with 8.4.1.5 and 8.5.3.1) where it is to fail."""
        self.need_gpu(what)
        if what in self.fails:
            self.tell(logger, "WARNING", self.fails[what])
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def error(self, logger: Any, text: str) -> None:
        """Tell the program's logger of an error."""
        self.tell(logger, "ERROR", text)

    def tell(self, logger: Any, severity: str, text: str) -> None:
        """Tell the program's logger."""
        logger.log(getattr(self.classes["ILogger"], severity), text)

    def fail(self, step: str, logger: Any) -> bool:
        """Whether a step is to fail; its text is told."""
        text = self.fails.get(step)
        if text == "CRASH":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "BROKEN":
            self.gpu.gpu.broken = self.gpu.ILLEGAL_ADDRESS
            text = "1: [runner.cpp::execute] Error Code 1: Cuda Runtime (an illegal memory access)"
        if text is not None:
            self.error(logger, text)
        return text is not None

    def make(self, name: str, *content: bytes, **state: Any) -> Any:
        """An object of one of the module's classes."""
        return new(self.classes[name], *content, **state)

    def note_end(self, thing: Any, name: str, after: Callable[[], None] | None = None) -> None:
        """Record when an object goes, and give back what it holds."""

        def end() -> None:
            self.freed.append(name)
            if after is not None:
                after()

        weakref.finalize(thing, end).atexit = False

    def hold(self, count: int) -> Callable[[], None]:
        """Take memory of the GPU; returns what gives it back."""
        pointer = self.gpu.allocate(max(1, count))

        def give_back() -> None:
            if pointer in self.gpu.memory and not self.gpu.gpu.broken:
                self.gpu.release(pointer)

        return give_back

    def pack(self, kind: str, **content: Any) -> bytes:
        """Bytes that only the same version on the same GPU takes back."""
        whole = {"kind": kind, "version": self.version, "gpu": self.gpu.gpu.name, **content}
        return MAGIC + json.dumps(whole).encode()

    def unpack(self, kind: str, content: bytes) -> dict[str, Any] | None:
        """What was packed; None where it is damaged."""
        if not content.startswith(MAGIC):
            return None
        found: dict[str, Any] = json.loads(content[len(MAGIC) :])
        return found if found["kind"] == kind else None

    def is_ours(self, found: dict[str, Any]) -> bool:
        """Whether this version packed it, on this GPU."""
        return (found["version"], found["gpu"]) == (self.version, self.gpu.gpu.name)
