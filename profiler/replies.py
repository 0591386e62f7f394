"""What the agent sends back about one job: raw samples, or a failure as a value.

A ``Reply`` is journalled as it came, so whatever is derived from it can be derived again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from devices.agent.health import throttle_reason
from profiler.errors import MeasurementError

#: Facts of health that say nothing about times read from a clock.
NOT_ABOUT: Mapping[str, tuple[str, ...]] = {
    "thread_cpu": ("quota_throttled", "gpu"),
    "wall": ("gpu",),
    "cuda_events": ("quota_throttled", "throttle_events"),
}
#: Failures that no second try mends: the same file fails in the same way.
PERMANENT_FAILURES = (
    "missing_file",
    "wrong_digest",
    "bad_model",
    "out_of_memory",
    "wrong_precision",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Nanoseconds of one run, a value a sample; ``cpu_ns`` is None where that clock says nothing.

    On a GPU ``device_ns`` is what its own events say and ``enqueue_ns`` how long the host took to
    hand over the work; elsewhere they are None. ``built`` is what the runtime says it made of the
    file. ``disturbed`` counts the samples that others took or slowed the core from, ``dropped`` how
    many of them the agent left out: all, or none where hardly a sample was undisturbed.
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

    def __post_init__(self) -> None:
        for name in ("wall_ns", "cpu_ns", "device_ns"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) <= 0):
                raise MeasurementError(
                    f"{name} holds {len(values)} sample(s), the smallest {min(values, default=0)}; "
                    "need at least one, all positive"
                )

    @property
    def calm(self) -> bool:
        """Whether the samples are what the device does when left alone."""
        return self.dropped == self.disturbed

    def throttled(self, clock: str) -> str:
        """Why the device was slower than it is while the clock ran; empty where it was not.

        A thread's CPU time stands still while a container's quota is used up, so that says nothing.
        Nor does a CPU's slowdown about a GPU's own time, or the other way round.
        """
        ignored = NOT_ABOUT[clock]
        before, after = (
            {name: value for name, value in health.items() if name not in ignored}
            for health in (self.health_before, self.health_after)
        )
        return throttle_reason(before, after)

    def times_ns(self, clock: str) -> tuple[int, ...]:
        """Nanoseconds of one run by a clock of ``CLOCKS``."""
        if clock == "wall":
            return self.wall_ns
        if clock == "cuda_events":
            if self.device_ns is None:
                raise MeasurementError('no times of a GPU among the samples; use the clock "wall"')
            return self.device_ns
        if self.cpu_ns is None:
            raise MeasurementError(
                'no thread CPU time among the samples; use the conditions\' clock "wall" '
                "(always, with more than one thread)"
            )
        return self.cpu_ns

    def to_json(self) -> dict[str, Any]:
        """The form that the agent sends, without what is empty on a CPU."""
        of_gpu = {
            "device_ns": None if self.device_ns is None else list(self.device_ns),
            "enqueue_ns": None if self.enqueue_ns is None else list(self.enqueue_ns),
            "built": dict(self.built) or None,
        }
        return {
            **{name: value for name, value in of_gpu.items() if value is not None},
            "wall_ns": list(self.wall_ns),
            "cpu_ns": None if self.cpu_ns is None else list(self.cpu_ns),
            "runs_per_sample": self.runs_per_sample,
            "dropped": self.dropped,
            "disturbed": self.disturbed,
            "stopped": self.stopped,
            "warmup_s": self.warmup_s,
            "prepare_s": self.prepare_s,
            "waited_s": self.waited_s,
            "health_before": dict(self.health_before),
            "health_after": dict(self.health_after),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Samples:
        """Read the agent's result. Raises MeasurementError for what is no result."""
        try:
            return cls(
                wall_ns=tuple(int(value) for value in data["wall_ns"]),
                cpu_ns=_numbers(data.get("cpu_ns")),
                device_ns=_numbers(data.get("device_ns")),
                enqueue_ns=_numbers(data.get("enqueue_ns")),
                built=dict(data.get("built") or {}),
                runs_per_sample=int(data.get("runs_per_sample", 1)),
                dropped=int(data.get("dropped", 0)),
                disturbed=int(data.get("disturbed", 0)),
                stopped=str(data.get("stopped", "")),
                warmup_s=float(data.get("warmup_s", 0.0)),
                prepare_s=float(data.get("prepare_s", 0.0)),
                waited_s=float(data.get("waited_s", 0.0)),
                health_before=data.get("health_before") or {},
                health_after=data.get("health_after") or {},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, MeasurementError):
                raise
            raise MeasurementError(f"not a result of a measurement: {error!r}") from error


def _numbers(values: Any) -> tuple[int, ...] | None:
    return None if values is None else tuple(int(value) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """The runtime's own profile: each layer's name, and its nanoseconds in each run.

    A profile slows the run, so its sum says nothing about the latency. ``built`` is as in Samples.
    """

    names: tuple[str, ...]
    times_ns: tuple[tuple[int, ...], ...]
    waited_s: float = 0.0
    built: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.times_ns):
            raise MeasurementError(
                f"a profile of {len(self.names)} layers with {len(self.times_ns)} times; "
                "need at least one layer, and the times of each"
            )
        if not all(times and min(times) >= 0 for times in self.times_ns):
            raise MeasurementError("a profile has a layer without times, or with one below 0")

    def to_json(self) -> dict[str, Any]:
        """The form that the agent sends."""
        pairs = zip(self.names, self.times_ns, strict=True)
        return {
            "layers": [[name, list(times)] for name, times in pairs],
            "waited_s": self.waited_s,
            "built": dict(self.built),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerTimes:
        """Read the agent's result. Raises MeasurementError for what is no result."""
        try:
            return cls(
                names=tuple(str(name) for name, _ in data["layers"]),
                times_ns=tuple(tuple(int(ns) for ns in times) for _, times in data["layers"]),
                waited_s=float(data.get("waited_s", 0.0)),
                built=dict(data.get("built") or {}),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, MeasurementError):
                raise
            raise MeasurementError(f"not a profile by layer: {error!r}") from error


def parse_result(data: Mapping[str, Any]) -> Samples | LayerTimes:
    """The outcome that an agent's result is. Raises MeasurementError for what is none."""
    return LayerTimes.from_json(data) if "layers" in data else Samples.from_json(data)


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

    def to_json(self) -> dict[str, str]:
        return {"type": self.type, "message": self.message, "advice": self.advice}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Failure:
        return cls(
            type=str(data["type"]),
            message=str(data.get("message", "")),
            advice=str(data.get("advice", "")),
        )


def board_of(line: Mapping[str, Any]) -> str:
    """The board that a line of a journal is about; the first journals knew one only."""
    return str(line.get("board", "local"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The outcome of a job in a round: samples, a profile or a failure; ``attempt`` is from 0."""

    job_id: str
    round: int
    attempt: int
    board: str
    outcome: Samples | LayerTimes | Failure
    took_s: float = 0.0

    @property
    def samples(self) -> Samples | None:
        return self.outcome if isinstance(self.outcome, Samples) else None

    @property
    def layers(self) -> LayerTimes | None:
        return self.outcome if isinstance(self.outcome, LayerTimes) else None

    @property
    def built(self) -> Mapping[str, Any]:
        """What the runtime made of the file; empty where it does not say."""
        return {} if isinstance(self.outcome, Failure) else self.outcome.built

    @property
    def failure(self) -> Failure | None:
        return self.outcome if isinstance(self.outcome, Failure) else None

    def to_json(self) -> dict[str, Any]:
        body = self.outcome.to_json()
        return {
            "job": self.job_id,
            "round": self.round,
            "attempt": self.attempt,
            "board": self.board,
            "took_s": round(self.took_s, 4),
            ("error" if isinstance(self.outcome, Failure) else "result"): body,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reply:
        outcome = (
            parse_result(data["result"]) if "result" in data else Failure.from_json(data["error"])
        )
        return cls(
            job_id=str(data["job"]),
            round=int(data["round"]),
            attempt=int(data["attempt"]),
            board=board_of(data),
            outcome=outcome,
            took_s=float(data.get("took_s", 0.0)),
        )
