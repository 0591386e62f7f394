"""Time a piece of work until the median of its latency is known well enough.

A sample is k runs back to back, k chosen after the warm-up so that reading the clocks is lost in
it.  The clocks are an argument, and say which of a sample's times counts.  On a CPU with one thread
it is the thread's CPU time, and samples in which the kernel took the core away are dropped; with
more threads only the wall clock says how long a run took.  On a GPU it is the device's own events
(cuda/clocks.py).  Tests bring clocks of their own.
"""

import gc
import resource
import time
from functools import lru_cache
from statistics import median
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from .protocol import Rule

#: The noise estimate counts as stable when this many in a row lie this close to their mean.
STABLE_ESTIMATES = 5
STABLE_TOLERANCE = 0.05
#: Between two looks at the statistics the number of samples grows by this share.
GROWTH = 0.1
#: With fewer undisturbed samples than this, what dropping leaves would say too little.
LEAST_UNDISTURBED = 3
AGREEING_WINDOWS = 3
#: The cap is for those who look for precision; the fewest samples may take this many times as long.
CAP_STRETCH = 10.0

Run = Callable[[int], Any]


class Sample(NamedTuple):
    """One sample: time of all its runs, and whether the kernel took the core away meanwhile.

    ``device_ns`` is the time between a GPU's events, ``enqueue_ns`` what the host took to launch
    the runs; both are 0 on a CPU.
    """

    wall_ns: int
    cpu_ns: int
    disturbed: bool
    device_ns: int = 0
    enqueue_ns: int = 0


class Timing(NamedTuple):
    """What timing one piece gave; the lists hold ns a run, in the order they were taken."""

    wall_ns: List[int]
    cpu_ns: Optional[List[int]]
    runs_per_sample: int
    dropped: int
    disturbed: int
    warmup_s: float
    stopped: str
    device_ns: Optional[List[int]] = None
    enqueue_ns: Optional[List[int]] = None


class Clocks(object):
    """What ``measure`` reads.  ``counts_cpu``: the calling thread does all of the work.

    ``counts_device``: the samples carry a GPU's times.
    """

    counts_cpu = False
    counts_device = False

    def take(self, run: Run, runs: int) -> Sample:
        """One sample of ``runs`` runs."""
        raise NotImplementedError

    def reported_ns(self, sample: Sample) -> int:
        """Which of a sample's times is looked at."""
        if self.counts_device:
            return sample.device_ns
        return sample.cpu_ns if self.counts_cpu else sample.wall_ns

    def settle(self) -> None:
        """Get ready to take samples."""

    def release(self) -> None:
        """Undo ``settle``."""

    def wall_ns(self) -> int:
        """Monotonic time."""
        return int(time.perf_counter() * 1e9)


class SystemClocks(Clocks):
    """The clocks of this machine's CPU."""

    def __init__(self, threads: int) -> None:
        self.counts_cpu = threads == 1 and hasattr(resource, "RUSAGE_THREAD")  # Linux

    def cpu_ns(self) -> int:
        """CPU time of the calling thread; 0 where it means nothing."""
        if not self.counts_cpu:
            return 0
        return int(time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) * 1e9)

    def switches(self) -> int:
        """Times the kernel took the core away from the calling thread; 0 where not known."""
        if not self.counts_cpu:
            return 0
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw

    def take(self, run: Run, runs: int) -> Sample:
        """One sample of ``runs`` runs."""
        switches = self.switches()
        cpu = self.cpu_ns()
        wall = self.wall_ns()
        run(runs)
        wall = self.wall_ns() - wall
        cpu = self.cpu_ns() - cpu
        return Sample(wall_ns=wall, cpu_ns=cpu, disturbed=self.switches() != switches)


def measure(run: Run, rule: Rule, clocks: Any) -> Timing:
    """Warm up, then take samples until the rule is met; ``run(n)`` makes n runs back to back."""
    collects = gc.isenabled()
    gc.disable()
    try:
        clocks.settle()
        warmup_s, run_ns = warm_up(run, rule, clocks)
        runs = max(1, -(-int(rule.sample_s * 1e9) // max(1, run_ns)))
        samples, stopped = sample(run, runs, rule, clocks)
    finally:
        clocks.release()
        if collects:
            gc.enable()
    kept = undisturbed(samples)

    def per_run(time: str) -> List[int]:
        return [(getattr(one, time) + runs // 2) // runs for one in kept]

    return Timing(
        wall_ns=per_run("wall_ns"),
        cpu_ns=per_run("cpu_ns") if clocks.counts_cpu else None,
        runs_per_sample=runs,
        dropped=len(samples) - len(kept),
        disturbed=sum(one.disturbed for one in samples),
        warmup_s=warmup_s,
        stopped=stopped,
        device_ns=per_run("device_ns") if clocks.counts_device else None,
        enqueue_ns=per_run("enqueue_ns") if clocks.counts_device else None,
    )


def warm_up(run: Run, rule: Rule, clocks: Any) -> Tuple[float, int]:
    """Run through the same path as the measurement until the latency has settled.

    Returns the seconds it took and the ns a run of the last window's median.
    """
    start = clocks.wall_ns()
    medians: List[int] = []
    while True:
        medians.append(_window_median(run, rule, clocks))
        elapsed_s = (clocks.wall_ns() - start) / 1e9
        settled = elapsed_s >= rule.warmup_s and _agree(medians, rule.warmup_tolerance)
        # The first window finds cold caches, so its time says little.
        if settled or (elapsed_s >= rule.warmup_cap_s and len(medians) > 1):
            return elapsed_s, medians[-1]


def sample(run: Run, runs: int, rule: Rule, clocks: Any) -> Tuple[List[Sample], str]:
    """Take samples of ``runs`` runs until the rule says enough; returns them and why it stopped.

    "interval": the median's interval is narrow enough.  "stable": the noise is known, and the time
    that is left would not make the interval narrow enough.  "cap": the time is over.
    """
    start = clocks.wall_ns()
    samples: List[Sample] = []
    noise: List[float] = []
    next_look = rule.min_samples
    while True:
        samples.append(clocks.take(run, runs))
        elapsed_s = (clocks.wall_ns() - start) / 1e9
        if len(samples) >= next_look:
            next_look = len(samples) + max(1, int(len(samples) * GROWTH))
            stopped = _look(samples, noise, elapsed_s, rule, clocks)
            if stopped is not None:
                return samples, stopped
        enough = len(samples) >= rule.min_samples or elapsed_s >= CAP_STRETCH * rule.cap_s
        if elapsed_s >= rule.cap_s and enough:
            return samples, "cap"


def undisturbed(samples: Sequence[Sample]) -> List[Sample]:
    """The samples to use: the undisturbed ones, or all where too few would be left."""
    clean = [one for one in samples if not one.disturbed]
    return clean if len(clean) >= LEAST_UNDISTURBED else list(samples)


def median_interval(
    sorted_samples: Sequence[float], confidence: float = 0.95
) -> Tuple[float, float]:
    """The distribution-free interval of the median from order statistics (binomial).

    The smallest symmetric pair of samples that holds the median with at least this confidence.
    With fewer samples than any pair could satisfy (6 at 95 %) it is the smallest and the largest.
    """
    count = len(sorted_samples)
    if count == 0:
        raise ValueError("no samples: the median of nothing has no interval")
    rank = _outer_rank(count, confidence)
    return sorted_samples[rank], sorted_samples[count - 1 - rank]


@lru_cache(maxsize=1024)
def _outer_rank(count: int, confidence: float) -> int:
    # Largest r with P(fewer than r + 1 of `count` fair coins show heads) <= (1 - confidence) / 2,
    # in exact integers: 2**-count leaves the range of floats at 1,075 samples.
    bound = int((1 - confidence) / 2 * 2**53) * 2**count >> 53
    ways, below, rank = 1, 0, -1
    while rank + 1 < (count + 1) // 2:
        below += ways
        if below > bound:
            break
        rank += 1
        ways = ways * (count - rank) // (rank + 1)
    return max(rank, 0)


def _look(
    samples: Sequence[Sample], noise: List[float], elapsed_s: float, rule: Rule, clocks: Any
) -> Optional[str]:
    kept = [one for one in samples if not one.disturbed]
    if len(kept) < rule.min_samples or sum(one.wall_ns for one in kept) < rule.min_total_s * 1e9:
        return None
    ordered = sorted(clocks.reported_ns(one) for one in kept)
    centre = max(median(ordered), 1)
    low, high = median_interval(ordered)
    half_width = (high - low) / 2 / centre
    if half_width <= rule.half_width:
        return "interval"
    quarter = len(ordered) // 4
    noise.append((ordered[-1 - quarter] - ordered[quarter]) / centre)
    # The interval narrows with the square root of the number of samples.
    needed_s = elapsed_s * (half_width / max(rule.half_width, 1e-9)) ** 2
    return "stable" if needed_s > rule.cap_s and _is_stable(noise) else None


def _is_stable(noise: Sequence[float]) -> bool:
    last = noise[-STABLE_ESTIMATES:]
    centre = sum(last) / len(last)
    enough = len(last) == STABLE_ESTIMATES
    return enough and max(abs(one - centre) for one in last) <= STABLE_TOLERANCE * centre


def _window_median(run: Run, rule: Rule, clocks: Any) -> int:
    start = clocks.wall_ns()
    times: List[int] = []
    while not times or clocks.wall_ns() - start < rule.window_s * 1e9:
        times.append(clocks.reported_ns(clocks.take(run, 1)))
    return int(median(times))


def _agree(medians: Sequence[int], tolerance: float) -> bool:
    last = medians[-AGREEING_WINDOWS:]
    return len(last) == AGREEING_WINDOWS and max(last) - min(last) <= tolerance * min(last)
