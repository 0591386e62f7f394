"""A GPU's own clock: events on the stream, around the runs of a sample.

One run before the first event is not timed.  It keeps the GPU busy while the host
launches the next, so that the first launch's way to the GPU (some microseconds) is not in the
sample, and it leaves the caches as the runs before the others leave them.

With a cold cache each run has events of its own, behind a fill of memory that pushes everything
else out of the L2 cache; a fill and a run that is not timed come first here, too.  Events resolve
about 0.5 us: a cold run of 20 us is known to 3 % only, and the sum of many to better.
"""

from typing import Any, List, Optional, Tuple

from ..timing import Clocks, Run, Sample

#: The fill has at least so many times the cache's size.
FLUSH_TIMES_L2 = 2
#: Where the driver does not report the cache's size: no GPU of 2025 has more.
UNKNOWN_L2_BYTES = 128 << 20
#: Cold runs between two waits; what is enqueued far ahead would block the host.
COLD_BATCH = 32


class EventClocks(Clocks):
    """Clocks for ``timing.measure`` of work on a GPU: ``run(n)`` enqueues n runs on the stream.

    ``cold`` empties the L2 cache before each run.  A sample's ``wall_ns`` spans the run that is
    not timed too; its ``device_ns`` does not.
    """

    counts_device = True

    def __init__(self, gpu: Any, stream: int, cold: bool = False) -> None:
        self._gpu = gpu
        self._stream = stream
        self._cold = cold
        self._flush: Optional[Tuple[int, int]] = None
        self._pairs: List[Tuple[Any, Any]] = []

    def settle(self) -> None:
        """Allocate what flushes the cache; nothing is waited for, a GPU has no neighbours."""
        if self._cold and self._flush is None:
            count = FLUSH_TIMES_L2 * (self._gpu.info.l2_bytes or UNKNOWN_L2_BYTES)
            self._flush = (self._gpu.alloc(count), count)

    def release(self) -> None:
        """Give back what the samples needed."""
        for pair in self._pairs:
            for event in pair:
                self._gpu.destroy_event(event)
        self._pairs = []
        if self._flush is not None:
            pointer, self._flush = self._flush[0], None
            self._gpu.free(pointer)

    def take(self, run: Run, runs: int) -> Sample:
        """One sample of ``runs`` runs; ``enqueue_ns`` is what the host took to launch them."""
        self.settle()
        return self._take_cold(run, runs) if self._cold else self._take_hot(run, runs)

    def _take_hot(self, run: Run, runs: int) -> Sample:
        ((first, last),) = self._events(1)
        start = self.wall_ns()
        run(1)
        lead_ns = self.wall_ns() - start
        self._gpu.record(first, self._stream)
        before = self.wall_ns()
        run(runs)
        enqueue_ns = self.wall_ns() - before
        self._gpu.record(last, self._stream)
        self._gpu.synchronize(self._stream)
        return Sample(
            wall_ns=self.wall_ns() - start,
            cpu_ns=0,
            disturbed=False,
            device_ns=_ns(self._gpu.elapsed_ms(first, last)),
            # A full queue makes the host wait for the GPU; the run before found it empty.
            enqueue_ns=min(enqueue_ns, lead_ns * runs),
        )

    def _take_cold(self, run: Run, runs: int) -> Sample:
        assert self._flush is not None
        pointer, count = self._flush
        start = self.wall_ns()
        device_ns = enqueue_ns = 0
        for done in range(0, runs, COLD_BATCH):
            pairs = self._events(min(COLD_BATCH, runs - done))
            self._gpu.fill(pointer, 0, count, self._stream)
            run(1)
            for first, last in pairs:
                self._gpu.fill(pointer, 0, count, self._stream)
                self._gpu.record(first, self._stream)
                before = self.wall_ns()
                run(1)
                enqueue_ns += self.wall_ns() - before
                self._gpu.record(last, self._stream)
            self._gpu.synchronize(self._stream)
            device_ns += sum(_ns(self._gpu.elapsed_ms(first, last)) for first, last in pairs)
        wall_ns = self.wall_ns() - start
        return Sample(wall_ns, 0, False, device_ns=device_ns, enqueue_ns=enqueue_ns)

    def _events(self, pairs: int) -> List[Tuple[Any, Any]]:
        while len(self._pairs) < pairs:
            self._pairs.append((self._gpu.event(), self._gpu.event()))
        return self._pairs[:pairs]


def _ns(milliseconds: float) -> int:
    return int(round(milliseconds * 1e6))
