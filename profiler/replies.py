"""What the agent sends back about one job: raw samples, or a failure as a value.

A ``Reply`` is journalled as it came, so whatever is derived from it can be derived again. Devices
and journals are read as if strangers had written them: what these records accept, everybody may
compute with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from devices.agent.health import power_capped_ns, throttle_reason
from devices.records import RecordError, check_facts
from devices.reports import Built, Health
from latency_tables.records import convert_record
from latency_tables.wording import counted
from profiler.errors import MeasurementError

#: Facts of health that do not affect the times of a clock.
NOT_ABOUT: Mapping[str, tuple[str, ...]] = {
    "thread_cpu": ("quota_throttled", "gpu"),
    "wall": ("gpu",),
    "cuda_events": ("quota_throttled", "throttle_events"),
}
#: Runs this long are always interrupted once (the kernel's own threads wake about that often).
LONG_RUN_NS = 200_000_000
#: A run of a minute a round would take two years.
MOST_ROUNDS = 10**6
#: No run takes a hundred days.
LONGEST_NS = 10**16
LONGEST_S = 1e7
#: Of bytes or joules: a petabyte.
MOST_RESOURCES = 1e15
#: The failure of a job whose answer makes no sense; the next run asks again.
BAD_REPLY = "bad_reply"
#: How to fix results of an agent that do not read.
SAME_VERSION = "bring host and agent to the same version of dshrink"
#: Failures that no second try fixes: the same file fails in the same way.
PERMANENT_FAILURES = (
    "missing_file",
    "wrong_digest",
    "bad_model",
    "out_of_memory",
    "wrong_precision",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Nanoseconds of one run, a value a sample; ``cpu_ns`` is None where that clock does not apply.

    On a GPU ``device_ns`` is by its own events and ``enqueue_ns`` how long the host took to hand
    over the work; elsewhere they are None. ``built`` is what the runtime made of the file,
    ``resources`` the memory and the energy that it took, as far as the device counts them.
    ``disturbed`` counts the samples during which other processes took or slowed the core,
    ``dropped`` how many of them the agent left out: all, or none where hardly any was undisturbed.
    """

    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...] | None = None
    runs_per_sample: int = 1
    dropped: int = 0
    disturbed: int = 0
    stopped: str = ""
    warmup_s: float = 0.0
    prepare_s: float = 0.0
    waited_s: float = 0.0
    health_before: Mapping[str, Any] = field(default_factory=dict)
    health_after: Mapping[str, Any] = field(default_factory=dict)
    device_ns: tuple[int, ...] | None = None
    enqueue_ns: tuple[int, ...] | None = None
    built: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("wall_ns", 1), ("cpu_ns", 1), ("device_ns", 1), ("enqueue_ns", 0)):
            if (values := getattr(self, name)) is not None:
                self._check_times(name, values, least)
        if self.runs_per_sample < 1 or not 0 <= self.dropped <= self.disturbed:
            raise MeasurementError(
                f"runs_per_sample is {self.runs_per_sample}, dropped {self.dropped}, disturbed "
                f"{self.disturbed}; need 1 or more, and 0 <= dropped <= disturbed"
            )
        _check_seconds(self, "warmup_s", "prepare_s", "waited_s")
        _check_report(Health, self.health_before, "health_before")
        _check_report(Health, self.health_after, "health_after")
        _check_report(Built, self.built, "built")
        for name in ("peak_memory_bytes", "energy_j"):
            told = self.resources.get(name)
            if told is not None and (
                type(told) not in (int, float) or not 0 < told <= MOST_RESOURCES
            ):
                raise MeasurementError(
                    f"resources.{name} is {told!r}; need a number above 0, up to "
                    f"{MOST_RESOURCES:g}, or none"
                )

    def _check_times(self, name: str, values: tuple[int, ...], least: int) -> None:
        if not values or min(values) < least or max(values) > LONGEST_NS:
            raise MeasurementError(
                f"{name} holds {counted(len(values), 'sample')}, from {min(values, default=0)} to "
                f"{max(values, default=0)}; need at least one, all positive and up to {LONGEST_NS}"
            )
        if len(values) != len(self.wall_ns):
            raise MeasurementError(
                f"{name} holds {counted(len(values), 'sample')}, wall_ns {len(self.wall_ns)}: "
                "need as many"
            )

    @property
    def undisturbed(self) -> bool:
        """Whether the samples are what the device does when left alone.

        No run of ``LONG_RUN_NS`` goes by without another process on the core: to measure it again
        would not help.
        """
        return self.dropped == self.disturbed or min(self.wall_ns) >= LONG_RUN_NS

    @property
    def peak_memory_bytes(self) -> int | None:
        """The memory it held while it ran; None where the agent was not asked, or cannot tell."""
        count = self.resources.get("peak_memory_bytes")
        return None if count is None else int(count)

    @property
    def energy_j(self) -> float | None:
        """Joules of one run; None where the agent was not asked, or the device counts none."""
        joules = self.resources.get("energy_j")
        return None if joules is None else float(joules)

    @property
    def engine(self) -> str:
        """The digest of the engine that was measured; empty where nothing is built."""
        return str(self.built.get("engine_sha256", ""))

    def throttled(self, clock: str) -> str:
        """Why the device was slower than it is while the clock ran; empty where it was not.

        A thread's CPU time does not advance while a container's quota is used up.
        Nor does a CPU's slowdown about a GPU's own time, or the other way round.
        """
        ignored = NOT_ABOUT[clock]
        before, after = (
            {name: value for name, value in health.items() if name not in ignored}
            for health in (self.health_before, self.health_after)
        )
        return throttle_reason(before, after)

    @property
    def power_capped(self) -> float:
        """The share of the time of its runs in which a GPU's power limit held the clock down."""
        capped_ns = power_capped_ns(dict(self.health_before), dict(self.health_after))
        return min(1.0, capped_ns / (sum(self.wall_ns) * self.runs_per_sample))

    def times_ns(self, clock: str) -> tuple[int, ...]:
        """Nanoseconds of one run by a clock of ``CLOCKS``. Raises MeasurementError without any."""
        by_clock = {"wall": self.wall_ns, "thread_cpu": self.cpu_ns, "cuda_events": self.device_ns}
        times = by_clock[clock]
        if times is None:
            raise MeasurementError(
                f'no times of the clock "{clock}" among the samples: use the clock "wall" (with '
                f"more than one thread always), or {SAME_VERSION}"
            )
        return times


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """The runtime's own profile: each layer's name, and its nanoseconds in each run.

    A profile slows the run, so its sum is not the latency. ``built`` is as in Samples.
    """

    layers: tuple[tuple[str, tuple[int, ...]], ...]
    waited_s: float = 0.0
    built: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise MeasurementError("a profile without layers; need at least one")
        for name, times in self.layers:
            if not times or min(times) < 0 or max(times) > LONGEST_NS:
                raise MeasurementError(
                    f"the profile's layer {name[:60]!r} has no times, or one below 0 or above "
                    f"{LONGEST_NS}"
                )
        _check_seconds(self, "waited_s")
        _check_report(Built, self.built, "built")


def _check_seconds(record: Any, *names: str) -> None:
    for name in names:
        if not 0.0 <= getattr(record, name) <= LONGEST_S:  # nor is NaN
            raise MeasurementError(
                f"{name} is {getattr(record, name)}; need 0 to {LONGEST_S:g} seconds"
            )


def _check_report(kind: type, facts: Mapping[str, Any], name: str) -> None:
    try:
        check_facts(kind, facts, name)
    except RecordError as error:
        raise MeasurementError(str(error)) from None


def parse_result(
    data: Any,
    *,
    do: str | None = None,
    where: str = "the result of a job",
    error: type[ValueError] = MeasurementError,
    fix: str = SAME_VERSION,
) -> Samples | LayerTimes:
    """The outcome that an agent's result is; other fields are left out.

    ``do`` is what was asked for, where that is known. Raises ``error`` for what is none.
    """
    kind: type[Samples | LayerTimes] = Samples
    if isinstance(data, Mapping):
        is_profile = "layers" in data if do is None else do == "profile"
        kind = LayerTimes if is_profile else Samples
        data = {one.name: data[one.name] for one in fields(kind) if one.name in data}
    return convert_record(data, kind, where=where, error=error, fix=fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job has no samples; ``type`` is one of the protocol's error types."""

    type: str
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"

    @property
    def permanent(self) -> bool:
        return self.type in PERMANENT_FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The outcome of a job in a round: samples, a profile or a failure; ``attempt`` is from 0."""

    job_id: str
    round: int
    attempt: int
    board: str
    outcome: Samples | LayerTimes | Failure
    took_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.round <= MOST_ROUNDS or self.attempt < 0:
            raise MeasurementError(
                f"round {self.round}, attempt {self.attempt}; need 0 to {MOST_ROUNDS}, and 0 or "
                "more"
            )
        _check_seconds(self, "took_s")

    @property
    def samples(self) -> Samples | None:
        return self.outcome if isinstance(self.outcome, Samples) else None

    @property
    def layers(self) -> LayerTimes | None:
        return self.outcome if isinstance(self.outcome, LayerTimes) else None

    @property
    def built(self) -> Mapping[str, Any]:
        """What the runtime made of the file; empty where it does not report it."""
        return {} if isinstance(self.outcome, Failure) else self.outcome.built

    @property
    def failure(self) -> Failure | None:
        return self.outcome if isinstance(self.outcome, Failure) else None
