"""Latencies of jobs that were measured in the same processes, freed of what the processes share.

All jobs of a process share a level: where its memory lies, which core it runs on, what a neighbour
does to that core. So visit v of job n in process r takes

    log v = log latency_n + level_r + e

and both are estimated at once. A machine shared with others has stretches, seconds long, in which
everything is 10 to 25 per cent slower: the level of a process is that of its densest half (the
half-sample mode; Robertson and Cryer, JASA 1974), visits far from it do not count, and processes
weigh by how well their visits agree. Latencies are those of undisturbed processes, on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latency_tables.estimator import NORMAL_95
from latency_tables.networks import Level
from latency_tables.schema import STATISTICS, Conditions
from latency_tables.wording import counted
from profiler.errors import MeasurementError
from profiler.measurement import Measurement
from profiler.statistics import quantile

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: With fewer jobs a process has no level apart from what its jobs take.
LEAST_JOBS = 3
#: A visit counts if it is within so many standard deviations of its process's level.
COUNTED_SD = 3.0
#: The least standard deviation of the visits of a process, and the least distance that counts.
LEAST_SD, LEAST_DISTANCE = 0.003, 0.01
#: A process whose level is by more above the lower quartile of all levels was disturbed.
DISTURBED = 0.05
ITERATIONS = 20
#: In the first of them a process's level is looked for anew, and a job's latency is a low quantile
#: of its visits, as disturbance only adds; then both only move.
FIRST_ITERATIONS = 6
LOW_QUANTILE = 0.3
#: So many visits' worth of the spread of all jobs are part of what is said of one job's spread.
POOLED_VISITS = 4.0

#: The standard deviation of a normal distribution in median absolute deviations.
NORMAL_MAD = 1.4826
#: A share of visits that may be odd by chance.
FEW = 0.1
#: A visit alone in its process says nearly nothing.
LEAST_FREE = 0.05
#: Draws of the bootstrap.
RESAMPLED = 400

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What a job took in one process, in ms; a board of a round is a process.

    ``counts``: whether it is one of those that the job's latency is of (``Measurement.counted``).
    """

    job_id: str
    process: str
    latency_ms: float
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLatency:
    """A job's expected latency over processes, and the standard error of that."""

    latency_ms: float
    error_ms: float
    processes: int

    @property
    def low_ms(self) -> float:
        """The lower end of the 95 % interval."""
        return max(self.latency_ms - NORMAL_95 * self.error_ms, 0.5 * self.latency_ms)

    @property
    def high_ms(self) -> float:
        return self.latency_ms + NORMAL_95 * self.error_ms

    @property
    def half_width(self) -> float:
        """Half of the interval's width as a share of the latency."""
        return NORMAL_95 * self.error_ms / self.latency_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Levelled:
    """The jobs' latencies by id, and what their processes had in common.

    ``undisturbed`` are the visits (job, process) that are as far from their job's latency as noise
    is; the latencies are of these.
    """

    jobs: Mapping[str, JobLatency]
    level: Level
    undisturbed: frozenset[tuple[str, str]]


def levelled(
    measurements: Iterable[Measurement], conditions: Conditions
) -> Mapping[str, JobLatency]:
    """The latencies of those that have samples, by job."""
    visits = visits_of(measurements, conditions)
    return without_levels(visits).jobs if visits else {}


def judge(measurement: Measurement, known: JobLatency | None, half_width: float) -> tuple[str, str]:
    """One of VERDICTS about a latency, and the reason; ``half_width`` is what is precise enough."""
    if known is None or measurement.failed or measurement.verdict == "throttled":
        return measurement.verdict, measurement.reason
    if measurement.host_bound:
        return "host_bound", measurement.with_note(measurement.host_bound_reason)
    if known.half_width > half_width:
        return "noisy", measurement.with_note(
            f"known to ±{100 * known.half_width:.1f} % (target: ±{100 * half_width:g} %) from "
            f"{counted(known.processes, 'process', 'processes')}"
        )
    return "ok", measurement.note


def visits_of(
    measurements: Iterable[Measurement], conditions: Conditions, *, every: bool = False
) -> tuple[Visit, ...]:
    """One visit a reply whose samples count: the statistic's quantile within it.

    With ``every`` those of disturbed rounds come along, which do not count.
    """
    share = STATISTICS[conditions.statistic][0]
    found = []
    for measurement in measurements:
        counted = {id(part) for part in measurement.counted}
        wanted = {id(part) for part in measurement.parts} if every else counted
        for reply in measurement.replies:
            if reply.samples is not None and id(reply.samples) in wanted:
                times_ns = reply.samples.times_ns(conditions.clock)
                visit = Visit(
                    job_id=measurement.job_id,
                    process=f"{reply.round} {reply.board}",
                    latency_ms=quantile(times_ns, share) / _NS_PER_MS,
                    counts=id(reply.samples) in counted,
                )
                found.append(visit)
    return tuple(found)


def without_levels(visits: Sequence[Visit]) -> Levelled:
    """Estimate the jobs' latencies and the processes' levels. Raises MeasurementError for none."""
    if not visits:
        raise MeasurementError("no visits: nothing was measured")
    jobs = {name: number for number, name in enumerate(dict.fromkeys(v.job_id for v in visits))}
    processes = {one: n for n, one in enumerate(dict.fromkeys(v.process for v in visits))}
    fit = _TwoWay(
        logs=np.log([visit.latency_ms for visit in visits]),
        job=np.array([jobs[visit.job_id] for visit in visits]),
        process=np.array([processes[visit.process] for visit in visits]),
        has_levels=len(jobs) >= LEAST_JOBS,
    )
    errors, counts = fit.errors()
    shift = _reference(fit.level)
    latencies = np.exp(fit.latency + shift)
    return Levelled(
        jobs={
            name: JobLatency(
                latency_ms=float(latencies[number]),
                error_ms=float(latencies[number] * errors[number]),
                processes=int(counts[number]),
            )
            for name, number in jobs.items()
        },
        level=_level(fit.level, fit.distances - shift),
        undisturbed=frozenset(
            (visit.job_id, visit.process)
            for visit, counts in zip(visits, fit.counts, strict=True)
            if counts
        ),
    )


class _TwoWay:
    """The fit: ``latency`` (jobs,) and ``level`` (processes,), both logarithms."""

    def __init__(self, logs: Floats, job: Integers, process: Integers, has_levels: bool) -> None:
        self._logs, self._job, self._process = logs, job, process
        self._has_levels = has_levels
        # The fewer visits a process has, the more of what they say goes into its level.
        visits = np.bincount(process)
        self._free = (1.0 - 1.0 / visits if has_levels else np.ones(len(visits)))[process]
        self._free = np.maximum(self._free, LEAST_FREE)
        self.level: Floats = np.zeros(int(process.max()) + 1)
        self._sd = np.full(len(self.level), 0.02)
        self._of_job, self._of_process = _members(job), _members(process)
        self.latency: Floats = np.array(
            [np.quantile(logs[own], LOW_QUANTILE) for own in self._of_job]
        )
        for iteration in range(ITERATIONS):
            is_first = iteration < FIRST_ITERATIONS
            if has_levels:
                self._fit_levels(from_modes=is_first)
            self._fit_latencies(from_quantiles=is_first)

    def _fit_levels(self, from_modes: bool) -> None:
        rest = self._logs - self.latency[self._job]
        for number, visits in enumerate(self._of_process):
            own = rest[visits]
            centre = half_sample_mode(own) if from_modes else self.level[number]
            reach = max(LEAST_DISTANCE, COUNTED_SD * self._sd[number])
            near = own[np.abs(own - centre) < reach]
            self.level[number] = np.mean(near) if len(near) else centre
            if len(near):
                deviation = np.median(np.abs(near - self.level[number]))
                self._sd[number] = max(LEAST_SD, NORMAL_MAD * deviation)
        # A process may weigh less than most for its disorder, and not more for its luck.
        self._sd = np.maximum(self._sd, np.median(self._sd))
        self.level -= np.average(self.level, weights=self._sd**-2)

    @property
    def _weights(self) -> Floats:
        """Of each visit: how much it says about its job."""
        return np.asarray(self._free / self._sd[self._process] ** 2)

    def _fit_latencies(self, from_quantiles: bool) -> None:
        if not self._has_levels:
            rest = self._logs - self.latency[self._job]
            self._sd[:] = max(LEAST_SD, NORMAL_MAD * float(np.median(np.abs(rest))))
        plain = self._logs - self.level[self._process]
        if from_quantiles:
            for number, own in enumerate(self._of_job):
                self.latency[number] = np.quantile(plain[own], LOW_QUANTILE)
        reach = COUNTED_SD * self._sd[self._process]
        self._counts = np.abs(plain - self.latency[self._job]) < np.maximum(LEAST_DISTANCE, reach)
        weights = self._counts * self._weights
        for number, own in enumerate(self._of_job):
            if weights[own].sum():
                self.latency[number] = np.average(plain[own], weights=weights[own])
            else:
                self.latency[number] = np.median(plain[own])

    @cached_property
    def _squares(self) -> Floats:
        """What is left of each visit, squared, with the share that the fit took of it."""
        rest = self._logs - self.level[self._process] - self.latency[self._job]
        used, fitted = int(self._counts.sum()), len(self.latency)
        fitted += len(self.level) if self._has_levels else 0
        return np.asarray(rest**2 * used / max(1, used - fitted))

    @property
    def counts(self) -> npt.NDArray[np.bool_]:
        """Which visits are undisturbed."""
        return self._counts

    @property
    def distances(self) -> Floats:
        """How far each visit is from its job's latency, the level of its process included."""
        return np.asarray(self._logs - self.latency[self._job])

    @cached_property
    def _spread(self) -> float:
        """Of the visits about their job and level, processes weighing as they do in the fit."""
        if not self._counts.any():
            return LEAST_SD
        weights = self._weights[self._counts]
        return max(LEAST_SD, math.sqrt(np.average(self._squares[self._counts], weights=weights)))

    def errors(self) -> tuple[Floats, Integers]:
        """The standard error of each latency, and in how many processes it was looked for."""
        weights = self._weights
        errors, counts = np.zeros(len(self.latency)), np.zeros(len(self.latency), dtype=np.int64)
        undisturbed = _is_undisturbed(self.level)[self._process]
        for number, every in enumerate(self._of_job):
            counted = every[self._counts[every]]
            own = counted if len(counted) else every
            counts[number] = len(set(self._process[every].tolist()))
            each = np.array([*self._squares[own], self._spread**2])
            variance = np.average(each, weights=[*[1.0] * len(own), POOLED_VISITS])
            effective = weights[own].sum() ** 2 / np.sum(weights[own] ** 2 / self._free[own])
            errors[number] = max(
                math.sqrt(variance / effective), self._doubt(number, every[undisturbed[every]])
            )
        return errors, counts

    def _doubt(self, number: int, own: Integers) -> float:
        """A standard error for a job of which more than few visits were clearly faster, else 0.

        ``own`` are its visits in undisturbed processes. Disturbance explains slow visits and, in
        undisturbed processes, no fast ones: such a job may be anywhere as far from its latency as
        those are (a uniform distribution).
        """
        rest = self._logs[own] - self.level[self._process[own]] - self.latency[number]
        reach = np.maximum(LEAST_DISTANCE, COUNTED_SD * self._sd[self._process[own]])
        faster = rest[rest < -reach]
        return float(-np.median(faster)) / math.sqrt(3) if len(faster) > FEW * len(rest) else 0.0


def _members(groups: Integers) -> list[Integers]:
    """The places of each group's number, in their order."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups))[:-1])


def half_sample_mode(values: Floats) -> float:
    """Where the values are densest: half of them again and again, the half that is narrowest."""
    ordered = np.sort(values)
    while len(ordered) > 3:
        half = -(-len(ordered) // 2)
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        start = int(np.argmin(widths))
        ordered = ordered[start : start + half]
    return float(ordered.mean())


def _is_undisturbed(levels: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(levels <= np.quantile(levels, 0.25) + DISTURBED)


def _reference(levels: Floats) -> float:
    """The mean level of the undisturbed processes."""
    return float(levels[_is_undisturbed(levels)].mean())


def _references(levels: Floats) -> Floats:
    """``_reference`` of each row."""
    quiet = levels <= np.quantile(levels, 0.25, axis=1, keepdims=True) + DISTURBED
    return np.asarray((levels * quiet).sum(axis=1) / quiet.sum(axis=1))


def _level(levels: Floats, distances: Floats) -> Level:
    """``distances`` are those of all visits from the latencies that are reported.

    The interval is that of the reference over resampled processes (bootstrap percentiles).
    """
    draw = np.random.default_rng(0)
    drawn = draw.choice(levels, (RESAMPLED, len(levels)))
    low, high = np.quantile(_references(drawn), (0.025, 0.975)) - _reference(levels)
    ratios = 100.0 * np.expm1(distances)
    return Level(
        level_percent_low=100.0 * math.exp(min(low, 0.0)),
        level_percent_high=100.0 * math.exp(max(high, 0.0)),
        spread_percent=float(np.quantile(np.abs(ratios), 0.95)),
        moved_percent=100.0 * math.expm1(float(levels.max() - levels.min())),
        disturbed_percent=100.0 * float(np.mean(ratios > 100.0 * DISTURBED)),
        processes=len(levels),
    )
