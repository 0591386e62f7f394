"""All accepted replies about one job, and the statistics and the verdict derived from them.

A ``Measurement`` stores replies only: every number is a property, so a measurement can never
disagree with its own summary. Times are read from the clock that the conditions name; the other
clock is kept as well.

A round is a process, or a build where the runtime builds engines: where its memory lies, or which
kernels were chosen, is a draw that moves the latency of the whole round. A machine shared with
others slows some visits down on top of that. The latency is therefore a quantile over rounds of a
quantile within each (``STATISTICS``); where two rounds or more were undisturbed, only such count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from latency_tables.schema import STATISTICS
from latency_tables.wording import counted
from profiler.errors import MeasurementError
from profiler.replies import Failure, LayerTimes, Reply, Samples
from profiler.statistics import latency, latency_interval, median, quantile, spread_percent

#: On a CPU a row has converged where half its interval is at most this share of the latency.
HALF_WIDTH = 0.01
#: With so many rounds of undisturbed samples the other rounds do not count.
UNDISTURBED_ROUNDS = 2
#: Above this share of the device's time the host, not the device, sets the pace.
HOST_BOUND_SHARE = 0.8
#: From this share of the time on it is worth a note that the power limit held the clock down.
POWER_CAPPED_SHARE = 0.01
#: A job is given up after this many failures that a second attempt might have fixed.
FAILURES_ALLOWED = 1

_NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The accepted replies about one job, one a round, in order of rounds.

    ``clock`` and ``statistic`` are those of the conditions.
    """

    job_id: str
    replies: tuple[Reply, ...]
    clock: str
    statistic: str = "median"
    rounds_wanted: int = 3
    half_width: float = HALF_WIDTH

    def __post_init__(self) -> None:
        rounds = [reply.round for reply in self.replies]
        if rounds != sorted(set(rounds)):
            raise MeasurementError(
                f"{self.job_id}: replies of rounds {rounds}; need one a round, in order"
            )

    @cached_property
    def parts(self) -> tuple[Samples, ...]:
        """The samples of each round that counts: throttled ones only where too few others are."""
        parts = tuple(reply.samples for reply in self.replies if reply.samples is not None)
        clean = tuple(part for part in parts if not part.throttled(self.clock))
        return clean if len(clean) >= self.rounds_wanted else parts

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(reply.failure for reply in self.replies if reply.failure is not None)

    @cached_property
    def layers(self) -> tuple[LayerTimes, ...]:
        """The runtime's profiles, a round each; only a job that asks for them has any."""
        return tuple(reply.layers for reply in self.replies if reply.layers is not None)

    @property
    def board(self) -> str:
        """Which board measured it; several joined by "+"."""
        counted: tuple[Samples | LayerTimes | Failure, ...]
        counted = self.parts or self.layers or self.failures
        boards = {reply.board for reply in self.replies if reply.outcome in counted}
        return "+".join(sorted(boards))

    @property
    def given_up(self) -> bool:
        """Whether no further round is worth its time."""
        permanent = any(failure.permanent for failure in self.failures)
        return permanent or len(self.failures) > FAILURES_ALLOWED

    @property
    def failed(self) -> bool:
        return self.given_up or not (self.parts or self.layers)

    @cached_property
    def counted(self) -> tuple[Samples, ...]:
        """The undisturbed rounds, or all where those are too few."""
        undisturbed = tuple(part for part in self.parts if part.undisturbed)
        return undisturbed if len(undisturbed) >= UNDISTURBED_ROUNDS else self.parts

    def _rounds_ns(self, clock: str) -> list[tuple[int, ...]]:
        return [part.times_ns(clock) for part in self.counted]

    def _latency_ms(self, clock: str) -> float:
        self._require_samples()
        return latency(self._rounds_ns(clock), STATISTICS[self.statistic]) / _NS_PER_MS

    def _require_samples(self) -> None:
        if not self.parts:
            raise MeasurementError(f"{self.job_id} has no latency: {self.reason}")

    @cached_property
    def _pooled_ns(self) -> list[int]:
        self._require_samples()
        return sorted(value for values in self._rounds_ns(self.clock) for value in values)

    def _quantile_ms(self, share: float) -> float:
        """Of the samples of all rounds that count."""
        return quantile(self._pooled_ns, share) / _NS_PER_MS

    @cached_property
    def round_medians_ms(self) -> tuple[float, ...]:
        return tuple(median(values) / _NS_PER_MS for values in self._rounds_ns(self.clock))

    @cached_property
    def latency_ms(self) -> float:
        return self._latency_ms(self.clock)

    @property
    def median_ms(self) -> float:
        return self._quantile_ms(0.5)

    @cached_property
    def _interval_ms(self) -> tuple[float, float]:
        self._require_samples()
        low, high = latency_interval(self._rounds_ns(self.clock), STATISTICS[self.statistic])
        return low / _NS_PER_MS, high / _NS_PER_MS

    @property
    def low_ms(self) -> float:
        return self._interval_ms[0]

    @property
    def high_ms(self) -> float:
        return self._interval_ms[1]

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width as a share of the latency."""
        return (self.high_ms - self.low_ms) / 2.0 / self.latency_ms

    @property
    def iqr_ms(self) -> float:
        return self._quantile_ms(0.75) - self._quantile_ms(0.25)

    @property
    def min_ms(self) -> float:
        return self._quantile_ms(0.0)

    @property
    def p90_ms(self) -> float:
        return self._quantile_ms(0.9)

    @property
    def p95_ms(self) -> float:
        return self._quantile_ms(0.95)

    @property
    def p99_ms(self) -> float:
        return self._quantile_ms(0.99)

    @property
    def wall_latency_ms(self) -> float:
        return self._latency_ms("wall")

    @property
    def cpu_latency_ms(self) -> float | None:
        """By the thread's CPU clock; None where a round has no such samples."""
        known = all(part.cpu_ns is not None for part in self.parts)
        return self._latency_ms("thread_cpu") if known else None

    @cached_property
    def enqueue_ms(self) -> float | None:
        """What the host takes to hand a GPU the work of one run; None on a CPU."""
        self._require_samples()
        rounds = [part.enqueue_ns for part in self.parts if part.enqueue_ns is not None]
        if len(rounds) < len(self.parts):
            return None
        return median([median(values) for values in rounds]) / _NS_PER_MS

    @property
    def host_bound(self) -> bool:
        """Whether the device waited for the host, so that the latency is the host's."""
        enqueue_ms = self.enqueue_ms
        return enqueue_ms is not None and enqueue_ms > HOST_BOUND_SHARE * self.latency_ms

    @property
    def peak_memory_bytes(self) -> int | None:
        """The most that it held while it ran, of all rounds; None where none of them tells it.

        What disturbs or slows a round does not change its memory.
        """
        samples = (reply.samples for reply in self.replies)
        told = (part.peak_memory_bytes for part in samples if part is not None)
        return max((count for count in told if count is not None), default=None)

    @property
    def energy_j(self) -> float | None:
        """Joules of one run (a batch); None where no round tells it.

        The median over the rounds that count, or over all where none of those tells it.
        """
        for parts in (self.counted, self.parts):
            told = [joules for part in parts if (joules := part.energy_j) is not None]
            if told:
                return median(told)
        return None

    @property
    def built_precision(self) -> str:
        """The precisions that the runtime reports it built; empty where it reports none."""
        said = (str(part.built.get("precision", "")) for part in self.parts)
        return " / ".join(sorted({one for one in said if one}))

    @cached_property
    def note(self) -> str:
        """What to know of a latency that is valid: what the runtime built, and the power limit."""
        parts = self.parts if self.clock == "cuda_events" else ()
        notes = sorted({str(part.built.get("precision_note", "")) for part in parts} - {""})[:1]
        capped = max((part.power_capped for part in parts), default=0.0)
        if capped >= POWER_CAPPED_SHARE:
            notes.append(f"the power limit held the GPU's clock down for {100 * capped:.0f} %")
        return "; ".join(notes)

    def with_note(self, reason: str) -> str:
        """A reason, and the note."""
        return "; ".join(filter(None, (reason, self.note)))

    @property
    def samples(self) -> int:
        return sum(len(values) for values in self._rounds_ns(self.clock))

    @property
    def rounds(self) -> int:
        return len(self.parts)

    @property
    def round_spread_percent(self) -> float:
        """Largest minus smallest median of a round, in percent of the latency."""
        self._require_samples()
        return spread_percent(self.round_medians_ms)

    @property
    def verdict(self) -> str:
        """One of VERDICTS; ``reason`` says why."""
        return self._verdict[0]

    @property
    def reason(self) -> str:
        """One line; empty when the verdict is ok."""
        return self._verdict[1]

    @cached_property
    def _verdict(self) -> tuple[str, str]:
        if self.failed:
            return "failed", str(self.failures[-1]) if self.failures else "never measured"
        if self.layers:
            return self._layers_verdict()
        slowed = [why for part in self.parts if (why := part.throttled(self.clock))]
        if slowed:
            return "throttled", f"in {len(slowed)} of {counted(self.rounds, 'round')} {slowed[-1]}"
        if self.rounds < self.rounds_wanted:
            why = f" ({self.failures[-1]})" if self.failures else ""
            return "noisy", f"only {self.rounds} of {counted(self.rounds_wanted, 'round')}{why}"
        if self.relative_half_width > self.half_width:
            return "noisy", (
                f"interval of ±{100 * self.relative_half_width:.1f} % (target: "
                f"±{100 * self.half_width:g} %) after {counted(self.rounds, 'round')}, which "
                f"differ by {self.round_spread_percent:.1f} %"
            )
        return ("host_bound", self.host_bound_reason) if self.host_bound else ("ok", self.note)

    @property
    def host_bound_reason(self) -> str:
        """One line about a latency that is the host's."""
        return (
            f"the host takes {self.enqueue_ms:.3g} ms to launch what the device does in "
            f"{self.latency_ms:.3g} ms: use --launch cuda_graph or a larger batch"
        )

    def _layers_verdict(self) -> tuple[str, str]:
        if len(self.layers) < self.rounds_wanted:
            return "noisy", f"only {len(self.layers)} of {counted(self.rounds_wanted, 'round')}"
        return "ok", ""
