"""A GPU's clocks for work that PyTorch launches: its events, on the stream that it uses.

As ``cuda/clocks.py``, which needs no PyTorch: ``run(n)`` enqueues, the events stand on both sides.
"""

import time
from typing import Any, List, Tuple

from ..timing import Clocks, Run, Sample

#: Twice the largest L2 cache of the GPUs whose size old versions of PyTorch do not tell.
FLUSH_BYTES = 128 << 20


class TorchEventClocks(Clocks):
    """The time between two events; with ``cold``, around each run after its cache was emptied."""

    counts_device = True

    def __init__(self, torch: Any, is_cold: bool = False) -> None:
        self._torch = torch
        self._flush: Any = None
        if is_cold:
            told = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0)
            size = max(2 * told, 1) if told else FLUSH_BYTES
            self._flush = torch.empty(size, dtype=torch.int8, device="cuda")

    def take(self, run: Run, runs: int) -> Sample:
        """One sample of so many runs."""
        each = 1 if self._flush is not None else runs
        start_ns = self.wall_ns()
        enqueue_ns = 0
        pairs: List[Tuple[Any, Any]] = []
        for _ in range(runs // each):
            if self._flush is not None:
                self._flush.zero_()
            start, end = self._event(), self._event()
            start.record()
            before = time.perf_counter()
            run(each)
            enqueue_ns += int((time.perf_counter() - before) * 1e9)
            end.record()
            pairs.append((start, end))
        pairs[-1][1].synchronize()
        wall_ns = self.wall_ns() - start_ns
        device_ns = sum(int(start.elapsed_time(end) * 1e6) for start, end in pairs)
        return Sample(wall_ns, 0, False, device_ns, enqueue_ns)

    def _event(self) -> Any:
        return self._torch.cuda.Event(enable_timing=True)
