"""What separates two rows of a study: the difference of their accuracies, with its 95 % interval.

Rows that share the searched mask and the seed are compared in pairs, which takes out what the mask
does; random draws have masks of their own, so there the two samples are independent (B. L. Welch,
Biometrika 34, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from dshrink.fronts import half_width, t_quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """In percentage points; ``half_width`` is None where a single run tells no interval."""

    mean: float
    half_width: float | None
    runs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def __str__(self) -> str:
        """As "+1.50 (+0.20 to +2.80)"."""
        if self.half_width is None:
            return f"{self.mean:+.2f}"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        return f"{self.mean:+.2f} ({low:+.2f} to {high:+.2f})"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Mean of ``ours - theirs`` over the seeds that both have; None where they share none."""
    both = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not both:
        return None
    half = half_width(both) if len(both) > 1 else None
    return Difference(mean=fmean(both), half_width=half, runs=len(both))


def welch(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Difference of the means of two samples that have nothing to do with each other.

    The degrees of freedom are Welch's, rounded down, which makes the interval rather too wide.
    """
    mean, runs = fmean(ours) - fmean(theirs), min(len(ours), len(theirs))
    if runs < 2:
        return Difference(mean=mean, half_width=None, runs=runs)
    parts = [(variance(sample) / len(sample), len(sample) - 1) for sample in (ours, theirs)]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Difference(mean=mean, half_width=0.0, runs=runs)
    degrees = total**2 / sum(part**2 / free for part, free in parts)
    half = t_quantile(max(1, math.floor(degrees))) * math.sqrt(total)
    return Difference(mean=mean, half_width=half, runs=runs)
