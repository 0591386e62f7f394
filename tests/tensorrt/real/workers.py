"""Two processes that are given files: NVIDIA's bindings, and the recorded parser of 8.4.

Both answer a line of JSON for a line. One that ended says why by its last lines.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from real.environment import Environment

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("bindings_worker.py")
LAST_CHARACTERS = 2000


class Worker:
    """A process; ``log`` is where its standard error goes."""

    def __init__(self, command: Sequence[str], libraries: Sequence[str], log: Path, **env: str):
        self._log = log
        environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries), **env}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )

    def ask(self, line: str) -> Any:
        """The answer to a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said is told below
        return self.read()

    def read(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise AssertionError(f"it ended with {code}: {self.said()[-LAST_CHARACTERS:]}")
        return json.loads(line)

    def said(self) -> str:
        """All that it wrote to standard error."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Bindings(Worker):
    """The agent's own build on NVIDIA's bindings."""

    def __init__(self, environment: Environment, log: Path) -> None:
        super().__init__(
            [environment.python, str(WORKER)],
            environment.bindings_libraries,
            log,
            PYTHONPATH=os.pathsep.join([environment.bindings, str(ROOT)]),
        )
        self.version: str = self.read()["version"]

    def build(self, file: Path, precision: str = "fp32", **more: object) -> Mapping[str, Any]:
        """The network definition of a file and facts of the build, or the error."""
        asked = {"file": str(file), "precision": precision, **more}
        answer: Mapping[str, Any] = self.ask(json.dumps(asked))
        return answer

    def load(self, engine: Path) -> Mapping[str, Any]:
        """What comes of loading an engine: without a GPU it is an error."""
        answer: Mapping[str, Any] = self.ask(json.dumps({"engine": str(engine)}))
        return answer


class Parser(Worker):
    """The parser of TensorRT 8.4 on a network definition that records."""

    def __init__(self, environment: Environment, log: Path) -> None:
        super().__init__([environment.recorder], environment.recorder_libraries, log)

    def parse(self, file: Path) -> Mapping[str, Any]:
        """The network definition of a file, or the parser's errors."""
        answer: Mapping[str, Any] = self.ask(str(file))
        return answer
