"""PyTorch's GPU for the event clocks: its events, on the stream that it uses.

So what PyTorch runs is timed as what TensorRT runs is (cuda/clocks.py), by the same code.
"""

from types import SimpleNamespace
from typing import Any, Dict


class TorchGpu(object):
    """The part of ``cuda.Gpu`` that ``EventClocks`` uses, by ``torch.cuda``."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._held: Dict[int, Any] = {}
        size = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0)
        self.info = SimpleNamespace(l2_bytes=size or None)  # what the clocks ask of a GPU

    def alloc(self, count: int) -> int:
        """Take memory; returns a number that identifies it."""
        memory = self._torch.empty(count, dtype=self._torch.int8, device="cuda")
        self._held[id(memory)] = memory
        return id(memory)

    def free(self, pointer: int) -> None:
        """Give it back."""
        del self._held[pointer]

    def fill(self, pointer: int, byte: int, count: int, stream: int) -> None:
        """Write to all of it."""
        self._held[pointer].fill_(byte)

    def event(self) -> Any:
        """An event that can be timed."""
        return self._torch.cuda.Event(enable_timing=True)

    def destroy_event(self, event: Any) -> None:
        """PyTorch does it."""

    def record(self, event: Any, stream: int) -> None:
        """Put it behind what was enqueued until now."""
        event.record()

    def synchronize(self, stream: int) -> None:
        """Wait for all of that."""
        self._torch.cuda.synchronize()

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """The time between two events that were waited for."""
        return float(first.elapsed_time(last))
