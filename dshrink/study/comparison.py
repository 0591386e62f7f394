"""What separates two rows of a study: the difference of their accuracies, with its 95 % interval.

Rows that share the searched mask and the seed are compared in pairs, which takes out what the mask
does; random draws have masks of their own, so there the two samples are independent (B. L. Welch,
Biometrika 34, 1947).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dshrink.fronts import half_width


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyDifference:
    """In percentage points; ``half_width`` is None where a single run gives no interval."""

    mean: float
    half_width: float | None
    runs: int

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def __str__(self) -> str:
        """As "+1.50 (+0.20 to +2.80)"."""
        if self.half_width is None:
            return f"{self.mean:+.2f}"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        return f"{self.mean:+.2f} ({low:+.2f} to {high:+.2f})"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> AccuracyDifference | None:
    """Mean of ``ours - theirs`` over the seeds that both have; None where they share none."""
    both = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not both:
        return None
    half = half_width(both) if len(both) > 1 else None
    return AccuracyDifference(mean=fmean(both), half_width=half, runs=len(both))


def welch(ours: Sequence[float], theirs: Sequence[float]) -> AccuracyDifference:
    """Difference of the means of two independent samples, with Welch's interval."""
    mean, runs, half = fmean(ours) - fmean(theirs), min(len(ours), len(theirs)), None
    if runs > 1 and len(set(ours)) == len(set(theirs)) == 1:
        half = 0.0
    elif runs > 1:
        from scipy import stats

        found = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
        half = float(found.high - found.low) / 2
    return AccuracyDifference(mean=mean, half_width=half, runs=runs)
