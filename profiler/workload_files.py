"""The files that the device measures, written once a digest, before any clock runs.

Writing is atomic, so a file that is there is whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from devices.agent.runtimes.tensorrt.engines import ENGINE_SUFFIX
from latency_tables.files import write_atomically
from latency_tables.opspec import OpSpec
from profiler.planning.jobs import AnyJob, FileJob

#: What a timing cache's file ends with.
TIMING_CACHE_SUFFIX = ".bin"


class BuildFile(Protocol):
    """Serializes a piece or a whole network with weights of a seed, in the types of a precision."""

    def __call__(
        self, spec: OpSpec, *, batch: int = 1, seed: int = 0, precision: str = "fp32"
    ) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFolder:
    """A folder of files named by digest, batch and the seed of their weights.

    Files that a user gave are copied here as well: a runtime may put what it builds next to the
    file that it built it from.
    """

    folder: Path
    build: BuildFile
    batch: int = 1
    precision: str = "fp32"

    def file(self, job: AnyJob) -> Path:
        """The job's file, written where it is missing. Raises what ``build`` raises."""
        path = self._path(job)
        if path.exists():
            return path
        if isinstance(job, FileJob):
            content = job.content or job.file.read_bytes()
        else:
            seed, precision = job.weights_seed, self.precision
            content = self.build(job.spec, batch=self.batch, seed=seed, precision=precision)
        write_atomically(path, content)
        return path

    def missing_bytes(self, jobs: Iterable[AnyJob]) -> int:
        """About what the files of these jobs that are not there yet will take."""
        missing = {path: job for job in jobs if not (path := self._path(job)).exists()}
        return sum(self._bytes(job) for job in missing.values())

    def _path(self, job: AnyJob) -> Path:
        if isinstance(job, FileJob):
            return self.folder / f"{job.digest[:16]}.onnx"
        types = "" if self.precision == "fp32" else f"-{self.precision}"
        name = f"{job.digest}-batch{self.batch}-seed{job.weights_seed}{types}.onnx"
        return self.folder / name

    def _bytes(self, job: AnyJob) -> int:
        if isinstance(job, FileJob):
            return len(job.content) or job.file.stat().st_size
        return job.spec.parameters * (4 if self.precision == "fp32" else 2)

    def delete(self) -> None:
        """Remove the files of this folder, and the folder where nothing else is in it."""
        for pattern in ("*.onnx", ".*.tmp", f"*{ENGINE_SUFFIX}", f"*{TIMING_CACHE_SUFFIX}"):
            for path in self.folder.glob(pattern):
                path.unlink()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()
