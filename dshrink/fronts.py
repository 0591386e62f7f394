"""Fronts of accuracy against throughput: noise-aware dominance, and hypervolumes.

Noise means two things here. The speed of one architecture is one number, which every run measures a
little differently: a network must not stay on the front because it came out 0.1 % faster than its
equal of clearly higher accuracy. The accuracy is known from a few seeds and a limited number of
images, so that its intervals are wide: were all that they cover held for equal, a row of networks,
each within the noise of the next, would lose the one that is clearly the most accurate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from dshrink.errors import DshrinkError


class FrontError(DshrinkError):
    """Results without a front: one line that says how to fix it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanWithInterval:
    """A mean with the interval that it is known to, which holds it."""

    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.mean <= self.high:
            raise FrontError(f"{self.mean} is not between {self.low} and {self.high}")

    @property
    def ends(self) -> tuple[float, float, float]:
        """(low, mean, high)."""
        return self.low, self.mean, self.high

    def clearly_above(self, other: MeanWithInterval) -> bool:
        """Whether the whole interval lies above the other's."""
        return self.low > other.high


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % t-interval of their mean; 0 for one value, which says nothing of the spread."""
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))


def mean_interval(values: Sequence[float], highest: float = math.inf) -> MeanWithInterval:
    """The mean with its 95 % t-interval, cut to what the quantity can be (0 to ``highest``)."""
    mean, half = fmean(values), half_width(values)
    low, high = max(0.0, mean - half), min(highest, mean + half)
    # A mean of equal values may lie a rounding beside them.
    return MeanWithInterval(mean=mean, low=min(low, mean), high=max(high, mean))


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """Where a share found on that many images may lie (E. B. Wilson, 1927; 95 %).

    Wilson's rather than the normal one, which has no width where all images are classified
    correctly.
    """
    from scipy import stats

    found = stats.binomtest(round(share * images), images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def accuracy_interval(percents: Sequence[float], images: int | None) -> MeanWithInterval:
    """The mean, with the t-interval over seeds or Wilson's over images: the wider end.

    Seeds that agree, by chance or because there is only one, know the accuracy no better than the
    number of images allows. All seeds have the same images, so that more seeds are not more of
    them. None where their number is not known.
    """
    over_seeds = mean_interval(percents, highest=100.0)
    if images is None:
        return over_seeds
    low, high = wilson_interval(over_seeds.mean / 100, images)
    return MeanWithInterval(
        mean=over_seeds.mean,
        low=min(over_seeds.low, 100 * low),
        high=max(over_seeds.high, 100 * high),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One network of one method and recipe, over its ``seeds`` (empty where not known).

    ``kept_blocks`` is None where the blocks are not known, or seeds keep different numbers of them;
    ``of_seeds`` has (frames/s, percent) of each seed; ``validation_images`` is the number that
    the accuracy is of, None where not known.
    """

    method: str
    network: str
    model: str
    kept_blocks: int | None
    seeds: tuple[int, ...]
    throughput_fps: MeanWithInterval
    accuracy_percent: MeanWithInterval
    of_seeds: tuple[tuple[float, float], ...] = ()
    recipe: str = ""
    resolution: str = ""
    validation_images: int | None = None

    @property
    def series(self) -> tuple[str, str]:
        """What is drawn as one: (method, recipe)."""
        return self.method, self.recipe

    @property
    def has_accuracy_interval(self) -> bool:
        """Whether the noise of the accuracy is known: by its images, or by several seeds."""
        return self.validation_images is not None or len(self.of_seeds) > 1

    @property
    def accuracy_bounds(self) -> MeanWithInterval:
        """What the accuracy may be: from 0 to 100 % where its noise is not known."""
        if self.has_accuracy_interval:
            return self.accuracy_percent
        return MeanWithInterval(mean=self.accuracy_percent.mean, low=0.0, high=100.0)

    @property
    def mean(self) -> tuple[float, float]:
        """(frames/s, percent)."""
        return self.throughput_fps.mean, self.accuracy_percent.mean


def dominates(a: FrontPoint, b: FrontPoint) -> bool:
    """Whether ``a`` is better than ``b`` by more than the noise of both, and no trade for it.

    Either its accuracy is clearly higher and its throughput not clearly lower, or its throughput is
    clearly higher and the mean of its accuracy not lower. Clearly: the 95 % intervals do not meet;
    where the noise of an accuracy is not known, it is never clearly higher nor lower.
    The relation never runs in a circle, but it is not transitive: where the interval of b's
    throughput covers those of a and c, a may dominate b and b dominate c though a is clearly slower
    than c.
    """
    if a.accuracy_bounds.clearly_above(b.accuracy_bounds):
        return not b.throughput_fps.clearly_above(a.throughput_fps)
    is_faster = a.throughput_fps.clearly_above(b.throughput_fps)
    return is_faster and a.accuracy_percent.mean >= b.accuracy_percent.mean


def pareto_front(points: Sequence[FrontPoint]) -> tuple[bool, ...]:
    """Whether each point is on the front.

    None on it dominates another one there, and every other point is dominated by one of them; there
    is one such set. A point stays that only points off the front dominate: what it is inferior to
    is no choice either.
    """
    # What dominates a point is more accurate, or as accurate and faster: it comes before.
    order = sorted(
        range(len(points)),
        key=lambda at: (points[at].accuracy_percent.mean, points[at].throughput_fps.mean),
        reverse=True,
    )
    on_front: set[int] = set()
    for at in order:
        if not any(dominates(points[leading], points[at]) for leading in on_front):
            on_front.add(at)
    return tuple(at in on_front for at in range(len(points)))


def staircase(means: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners (x, y) of what is within reach: x rises, y falls, and no mean lies outside."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(set(means), reverse=True):
        if not corners or y > corners[-1][1]:
            corners.append((x, y))
    return corners[::-1]


def hypervolume(means: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that (x, y) points dominate above a reference point, in the product of their units.

    Exact, a sum of rectangles (E. Zitzler and L. Thiele, 1998, in two dimensions); what lies
    below the reference adds nothing.
    """
    area, (left, floor) = 0.0, reference
    for x, y in staircase(means):
        area += max(0.0, x - left) * max(0.0, y - floor)
        left = max(left, x)
    return area


@dataclass(frozen=True, kw_only=True)
class Front:
    """All points that were measured under one set of conditions, from the same reference.

    ``conditions`` has the values of ``front_results.CONDITION_COLUMNS``.
    """

    conditions: tuple[str, ...]
    points: tuple[FrontPoint, ...]
    reference_percent: float

    @cached_property
    def on_front(self) -> tuple[bool, ...]:
        """Of each point."""
        return pareto_front(self.points)

    @property
    def series(self) -> tuple[tuple[str, str], ...]:
        """(method, recipe), in the order of the points."""
        return tuple(dict.fromkeys(point.series for point in self.points))

    @property
    def hypervolume(self) -> float:
        """Of the means of all points together, in frames/s x percent."""
        return self._volume([point.mean for point in self.points])

    def series_hypervolume(self, series: tuple[str, str]) -> tuple[float, float | None]:
        """Of one series alone, and the half-width of its 95 % t-interval, in frames/s x percent.

        The mean of the volumes that each seed has alone, which the interval is of. Where the points
        do not all have the same seeds, two at least, it is the volume of their means, and there
        is no interval.
        """
        points = [point for point in self.points if point.series == series]
        seeds = points[0].seeds
        if len(seeds) < 2 or any(point.seeds != seeds for point in points):
            return self._volume([point.mean for point in points]), None
        by_seed = zip(*(point.of_seeds for point in points), strict=True)
        volumes = [self._volume(means) for means in by_seed]
        return fmean(volumes), half_width(volumes)

    def _volume(self, means: Sequence[tuple[float, float]]) -> float:
        return hypervolume(means, (0.0, self.reference_percent))
