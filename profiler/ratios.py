"""How many times as fast one network is as another, from visits of both in the same processes.

Two networks of a process share its level (``profiler.levels``), so the level is not in the
logarithm of the ratio of their visits. One such log ratio a process is one observation; the
interval comes from their spread over processes, never from the two latencies' own intervals, which
hold the level twice. A disturbed stretch may hit one visit of a pair and not the other, so the
location is Tukey's biweight, and the 95 % interval Student's t with the biweight's standard error
and 0.7 (n - 1) degrees of freedom (Mosteller and Tukey, *Data Analysis and Regression*, 1977).
With fewer than ``LEAST_ROBUST`` processes nobody can say which of them is odd: the standard error
is that of all, with n - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from profiler.errors import MeasurementError
from profiler.levels import DISTURBED, LEAST_SD, Floats, JobLatency, Visit
from profiler.statistics import LEAST_ROUNDS

#: With fewer common processes a ratio has no interval.
LEAST_PROCESSES = 3
#: With fewer, all processes count alike for the standard error.
LEAST_ROBUST = LEAST_ROUNDS
#: A log ratio does not count from so many median absolute deviations on (5 standard deviations).
REACH_MAD = 7.5
ITERATIONS = 10
FASTER, SLOWER, EQUAL = "faster", "slower", "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The speed-up: latency of the baseline by that of the network; above 1 is faster.

    ``low`` and ``high`` are the ends of its 95 % interval, None where fewer than
    ``LEAST_PROCESSES`` processes measured both.
    """

    speedup: float
    low: float | None
    high: float | None
    processes: int

    @property
    def half_width(self) -> float:
        """Half of the interval's width as a share of the speed-up; infinite without one."""
        if self.low is None or self.high is None:
            return math.inf
        return (self.high - self.low) / 2.0 / self.speedup

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" where the interval excludes 1, else "equal"; "" without one."""
        if self.low is None or self.high is None:
            return ""
        if self.low > 1.0:
            return FASTER
        return SLOWER if self.high < 1.0 else EQUAL


@dataclass(frozen=True, slots=True)
class PairedVisits:
    """The logarithms of visits by job and process, to compare any two jobs.

    ``every`` has those that do not count as well: a slow network is disturbed in nearly every
    process, and a baseline in others than it, so that too few would be left of both. What disturbs
    one process disturbs both of its visits, and the location is robust.
    """

    counted: Mapping[str, Mapping[str, float]]
    every: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(
        cls, visits: Iterable[Visit], undisturbed: Collection[tuple[str, str]] | None = None
    ) -> PairedVisits:
        """A process that visited a job again counts once, with the mean.

        Where they are given, only those count that are ``undisturbed`` (``Levelled``): a latency is
        of the same, and a ratio of two means the same as the ratio of their latencies.
        """
        found = tuple(visits)
        counted = (
            one
            for one in found
            if one.counts and (undisturbed is None or (one.job_id, one.process) in undisturbed)
        )
        return cls(_by_process(counted), _by_process(found))

    def ratio(self, job: str, baseline: str) -> Ratio | None:
        """How many times as fast ``job`` is as ``baseline``; None where no process has both."""
        pairs = _pairs(self.counted, job, baseline)
        if len(pairs) < LEAST_ROBUST:
            pairs = _pairs(self.every, job, baseline)
        if not len(pairs):
            return None
        counted = _undisturbed(pairs)
        centre, half = _location(counted[:, 0] - counted[:, 1])
        known = math.isfinite(half)
        return Ratio(
            speedup=math.exp(centre),
            low=math.exp(centre - half) if known else None,
            high=math.exp(centre + half) if known else None,
            processes=len(pairs),
        )


def _by_process(visits: Iterable[Visit]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for visit in visits:
        of_job = found.setdefault(visit.job_id, {})
        of_job.setdefault(visit.process, []).append(math.log(visit.latency_ms))
    return {
        job: {process: math.fsum(logs) / len(logs) for process, logs in of_job.items()}
        for job, of_job in found.items()
    }


def _pairs(logs: Mapping[str, Mapping[str, float]], job: str, baseline: str) -> Floats:
    """(processes, 2): the baseline's logarithm and the job's in each process that has both."""
    own, other = logs.get(job, {}), logs.get(baseline, {})
    return np.array([(other[process], own[process]) for process in own if process in other])


def speedup(
    paired: PairedVisits, latencies: Mapping[str, JobLatency], job: str, baseline: str
) -> Ratio | None:
    """The ratio of two jobs; of their latencies, without an interval, where too few pairs are.

    None where one of them has no latency.
    """
    if job not in latencies or baseline not in latencies:
        return None
    found = paired.ratio(job, baseline)
    if found is not None and found.low is not None:
        return found
    return Ratio(
        speedup=latencies[baseline].latency_ms / latencies[job].latency_ms,
        low=None,
        high=None,
        processes=found.processes if found else 0,
    )


def ranks(
    paired: PairedVisits, latencies: Mapping[str, JobLatency], jobs: Sequence[str]
) -> Mapping[str, int]:
    """The rank of each job that has a latency: 1 plus the number of jobs clearly faster than it.

    One is clearly faster where the interval of the ratio excludes 1; where too few processes
    measured both, where the intervals of the latencies do not overlap. Jobs that nothing tells
    apart share a rank, and no rank is skipped but by jobs that are faster.
    """
    known = [job for job in dict.fromkeys(jobs) if job in latencies]
    faster = dict.fromkeys(known, 0)
    for at, one in enumerate(known):
        for other in known[:at]:
            first = _clearly_faster(paired, latencies, one, other)
            if first:
                faster[other if first == one else one] += 1
    return {job: 1 + count for job, count in faster.items()}


def _clearly_faster(
    paired: PairedVisits, latencies: Mapping[str, JobLatency], one: str, other: str
) -> str:
    """Which of two jobs is; empty where nothing tells them apart."""
    found = paired.ratio(one, other)
    verdict = found.verdict if found else ""
    if not verdict:
        if latencies[one].high_ms < latencies[other].low_ms:
            verdict = FASTER
        elif latencies[other].high_ms < latencies[one].low_ms:
            verdict = SLOWER
    return {FASTER: one, SLOWER: other}.get(verdict, "")


def _undisturbed(pairs: Floats) -> Floats:
    """Those of undisturbed processes, as levels have it, where most are; else all.

    A neighbour on the core slows networks down unequally, and a latency is that of undisturbed
    processes. Where levels are just wide, what each process says of the ratio is worth more.
    ``pairs`` (processes, 2) are logarithms.
    """
    levels = pairs.mean(axis=1)
    quiet = levels <= np.quantile(levels, 0.25) + DISTURBED
    is_enough = quiet.sum() >= max(LEAST_ROBUST, len(pairs) / 2)
    return pairs[quiet] if is_enough else pairs


def _location(values: Floats) -> tuple[float, float]:
    """Tukey's biweight and half of the 95 % interval, infinite for too few values."""
    count = len(values)
    if not count:
        raise MeasurementError("no ratios: no process measured both networks")
    # Where two halves are equally dense the median decides.
    centre = float(np.median(values)) if count >= LEAST_PROCESSES else float(values.mean())
    scale = REACH_MAD * max(_mad(values, centre), LEAST_SD)
    for _ in range(ITERATIONS):
        kept = np.clip(1.0 - ((values - centre) / scale) ** 2, 0.0, None)
        centre = float(np.average(values, weights=kept**2))
    if count < LEAST_PROCESSES:
        return centre, math.inf
    if count < LEAST_ROBUST:
        error, freedom = float(values.std(ddof=1)) / math.sqrt(count), count - 1.0
    else:
        error, freedom = _biweight_error(values, centre, scale), 0.7 * (count - 1)
    # Two visits of a process are not known better than each of them is.
    error = max(error, LEAST_SD * math.sqrt(2.0 / count))
    return centre, _t_975(freedom) * error


def _mad(values: Floats, centre: float) -> float:
    return float(np.median(np.abs(values - centre)))


def _biweight_error(values: Floats, centre: float, scale: float) -> float:
    squares = ((values - centre) / scale) ** 2
    near = squares < 1.0
    squares, distances = squares[near], values[near] - centre
    above = math.fsum(distances**2 * (1.0 - squares) ** 4)
    below = abs(math.fsum((1.0 - squares) * (1.0 - 5.0 * squares)))
    count = len(values)
    return math.sqrt(above * count / (count - 1)) / max(below, 1.0)


@cache
def _t_975(freedom: float) -> float:
    """The quantile of Student's t that a two-sided 95 % interval needs."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
