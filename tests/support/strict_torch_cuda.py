"""A strict stand-in for the part of ``torch.cuda`` that the PyTorch runtime uses.

The tensors are real and on the CPU.  Time and memory are made up: each run of the module takes
``RUN_MS``; the first one, in which cuDNN would search, takes far more memory than the others.  It
raises an ``AssertionError`` for what CUDA forbids or PyTorch's notes on graphs tell one to do:
waiting while a graph is recorded, runs on another stream that has not waited, a graph recorded
before the stream has waited for the warm-up, times read of events that nobody has waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

RUN_MS, FLUSH_MS = 0.25, 7.0
IN_USE_BEFORE, MODEL, ONE_RUN, SEARCH = 500, 2000, 300, 9000
LOST = "CUDA error: an illegal memory access was encountered"


class Stream:
    """A stream: ``seen`` says of each other one how much of its work this one has waited for."""

    def __init__(self, cuda: StrictCuda, name: str) -> None:
        self.cuda, self.name = cuda, name
        self.work = 0
        self.seen: dict[str, int] = {}

    def wait_stream(self, other: Stream) -> None:
        self.cuda.no_capture("wait_stream")
        self.seen[other.name] = other.work
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class Event:
    """An event on the current stream."""

    def __init__(self, cuda: StrictCuda, enable_timing: bool = False) -> None:
        assert enable_timing, "without it an event has no time"
        self._cuda = cuda
        self._at_ms: float | None = None
        self._is_over = False

    def record(self) -> None:
        self._cuda.no_capture("an event")
        self._cuda.log.append("event")
        self._at_ms, self._is_over = self._cuda.now_ms, False
        self._cuda.pending.append(self)

    def elapsed_time(self, end: Event) -> float:
        assert self._at_ms is not None and end._at_ms is not None, "never recorded"
        assert self._is_over and end._is_over, "nobody has waited for it"
        return end._at_ms - self._at_ms

    def reach(self) -> None:
        self._is_over = True


class CUDAGraph:
    """A recorded run."""

    def __init__(self, cuda: StrictCuda) -> None:
        self._cuda = cuda
        self.runs = 0
        self.is_whole = False

    def replay(self) -> None:
        assert self.is_whole, "replayed before it was recorded"
        self._cuda.no_capture("a replay")
        self._cuda.check()
        self._cuda.log.append("replay")
        self._cuda.now_ms += RUN_MS * self.runs


class StrictCuda:
    """``torch.cuda``; ``log`` is what was asked for, in order."""

    def __init__(self, l2_bytes: int | None = 1000) -> None:
        self.log: list[str] = []
        self.now_ms = 0.0
        self.pending: list[Event] = []
        self.is_lost = False
        self._l2_bytes = l2_bytes
        self._main = self._current = Stream(self, "main")
        self._capturing: CUDAGraph | None = None
        self._has_searched = False
        self._peak = 0

    # What the module and the clocks do on the GPU

    def ran(self) -> None:
        """The module was called."""
        assert torch.is_inference_mode_enabled()
        self.check()
        self._peak = max(self._peak, IN_USE_BEFORE + MODEL + ONE_RUN)
        if not self._has_searched:
            assert self._capturing is None, "the search cannot be recorded"
            self._peak += SEARCH
        self._has_searched = True
        if self._capturing is not None:
            self._capturing.runs += 1
            self.log.append("recorded")
            return
        if self._current is not self._main:
            assert self._current.seen.get("main") == self._main.work, "side did not wait"
        self._current.work += 1
        self.now_ms += RUN_MS
        self.log.append(f"run on {self._current.name}")

    def flush(self) -> None:
        self.check()
        self.log.append("flush")
        self.now_ms += FLUSH_MS

    def check(self) -> None:
        """As every call does once the GPU is lost to the process."""
        if self.is_lost:
            raise RuntimeError(LOST)

    def no_capture(self, what: str) -> None:
        assert self._capturing is None, f"{what} while a graph is recorded"

    # torch.cuda

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_device_name(self) -> str:
        return "Simulated H200"

    def get_device_properties(self, number: int) -> Any:
        known = {} if self._l2_bytes is None else {"L2_cache_size": self._l2_bytes}
        return SimpleNamespace(**known)

    def Event(self, enable_timing: bool = False) -> Event:  # noqa: N802
        return Event(self, enable_timing)

    def Stream(self) -> Stream:  # noqa: N802
        return Stream(self, "side")

    def CUDAGraph(self) -> CUDAGraph:  # noqa: N802
        return CUDAGraph(self)

    def current_stream(self) -> Stream:
        return self._current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    @contextmanager
    def graph(self, graph: CUDAGraph) -> Iterator[None]:
        assert self._current is self._main and self._has_searched
        assert self._main.seen.get("side", 0) >= 1, "main did not wait for the runs on side"
        self.no_capture("another graph")
        self.log.append("record")
        self._capturing = graph
        try:
            yield
        finally:
            self._capturing = None
        graph.is_whole = True
        self.log.append("end of record")

    def synchronize(self) -> None:
        self.no_capture("waiting")
        self.check()
        self.log.append("wait")
        for event in self.pending:
            event.reach()
        self.pending = []

    def empty_cache(self) -> None:
        self.no_capture("empty_cache")
        self.log.append("empty_cache")

    def memory_allocated(self) -> int:
        return IN_USE_BEFORE + (MODEL if self._has_searched else 0)

    def reset_peak_memory_stats(self) -> None:
        self.log.append("reset peak")
        self._peak = self.memory_allocated()

    def max_memory_allocated(self) -> int:
        return self._peak


class StrictTorch:
    """PyTorch with a GPU: as the real one, but for what is done on "cuda"."""

    def __init__(self, l2_bytes: int | None = 1000) -> None:
        self.cuda = StrictCuda(l2_bytes)
        self.flush_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, name: str) -> Any:
        assert name == "cuda"
        return torch.device("cpu")

    def empty(self, size: int, dtype: Any, device: str) -> Any:
        assert (dtype, device) == (torch.int8, "cuda")
        self.flush_bytes = size
        return SimpleNamespace(fill_=lambda byte: self.cuda.flush())
