"""Points of fronts, out of benchmark results, and the CSV of a front.

Networks of one method and recipe that differ by nothing but their seed are one point. Results that
were measured under different conditions, or whose accuracies are of different images, never meet:
there is a front for each set of them. Images that nobody names are others than those with a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dshrink.fronts import (
    Front,
    FrontError,
    FrontPoint,
    MeanWithInterval,
    accuracy_interval,
    mean_interval,
)
from dshrink.results import BenchmarkResult, load_results
from latency_tables.csv_lines import write_csv

#: Results that differ in one of these are never compared.
CONDITION_COLUMNS = (
    *("device", "runtime", "precision", "batch", "threads"),
    *("clock", "statistic", "launch", "cache_mode", "data"),
)
_POINT_COLUMNS = ("method", "recipe", "network", "model", "resolution", "kept_blocks")
ACCURACY_ADVICE = (
    "`dshrink merge ... --data DIR` writes the accuracy into the ONNX file that `dshrink bench` "
    "reads it from, and `dshrink run` does all of it"
)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A result with accuracy and throughput, and where it is found."""

    result: BenchmarkResult
    place: str

    @property
    def name(self) -> str:
        """The network's name without its seed: random_k8_seed2.onnx is random_k8.onnx."""
        seed, network = self.result.seed, self.result.network
        if seed is None:
            return network
        pattern = rf"(?:^|[-_. ])(?:seed|s)[-_=]?0*{seed}(?!\d)"
        return re.sub(pattern, "", network).strip() or network


@dataclass(frozen=True, slots=True, kw_only=True)
class Fronts:
    """A front a set of conditions, and how many results had no throughput, or no accuracy."""

    fronts: tuple[Front, ...]
    left_out: int


def load_fronts(
    paths: Sequence[Path], *, model: str | None = None, reference_percent: float | None = None
) -> Fronts:
    """``fronts_of`` all results in files; no path, no front. Raises FrontError and ResultsError."""
    if not paths:
        return Fronts(fronts=(), left_out=0)
    stored = load_results(*paths)
    return fronts_of(
        stored.results,
        model=model,
        reference_percent=reference_percent,
        source=", ".join(map(str, paths)),
        places=stored.places,
    )


def fronts_of(
    results: Sequence[BenchmarkResult],
    *,
    model: str | None = None,
    reference_percent: float | None = None,
    source: str = "results",
    places: Sequence[str] = (),
) -> Fronts:
    """The fronts of results, in the order in which their conditions come.

    ``model`` leaves all other networks out; ``reference_percent`` is the accuracy that hypervolumes
    start from: by default the lowest of each front. ``source`` and ``places`` name the results, and
    each of them, in errors. Raises FrontError.
    """
    placed = zip(results, places or [result.network for result in results], strict=True)
    wanted = [_Placed(*one) for one in placed if model in (None, one[0].model)]
    if not wanted:
        models = ", ".join(sorted({result.model for result in results} - {""}))
        raise FrontError(f"{source}: no results of {model}, only of {models or 'no model'}")
    found = [
        one
        for one in wanted
        if one.result.throughput_fps is not None and one.result.accuracy_percent is not None
    ]
    if not found:
        if any(one.result.accuracy_percent is not None for one in wanted):
            raise FrontError(
                f"{source}: no network has both accuracy_percent and throughput_fps: bench those "
                "that failed again"
            )
        raise FrontError(f"{source}: no accuracy_percent in any row: {ACCURACY_ADVICE}")
    by_conditions: dict[tuple[str, ...], list[_Placed]] = {}
    for one in found:
        conditions = tuple(str(getattr(one.result, name)) for name in CONDITION_COLUMNS)
        by_conditions.setdefault(conditions, []).append(one)
    fronts = []
    for conditions, members in by_conditions.items():
        points = [_point(group) for group in _groups(members)]
        lowest = min(point.accuracy_percent.mean for point in points)
        reference = lowest if reference_percent is None else reference_percent
        front = Front(conditions=conditions, points=tuple(points), reference_percent=reference)
        fronts.append(front)
    return Fronts(fronts=tuple(fronts), left_out=len(wanted) - len(found))


def _groups(members: Sequence[_Placed]) -> list[list[_Placed]]:
    """What differs by nothing but the seed; without a seed each is alone.

    Names that carry their seed say it best: for a budget of latency each seed may keep another
    number of blocks. Otherwise those that keep the same number are one, unless seeds repeat.
    """
    groups: list[list[_Placed]] = []
    for group in _parted(members, by_name=False):
        seeds = {one.result.seed for one in group}
        for same in [group] if len(seeds) == len(group) else _parted(group, by_name=True):
            _check_seeds(same)
            groups.append(same)
    return groups


def _parted(members: Sequence[_Placed], *, by_name: bool) -> list[list[_Placed]]:
    parts: dict[tuple[object, ...], list[_Placed]] = {}
    for number, one in enumerate(members):
        r = one.result
        is_named = by_name or r.kept_blocks is None or one.name != r.network
        same = one.name if is_named else r.kept_blocks
        alone = number if r.seed is None else None
        key = (r.method, r.recipe, r.model, r.resolution, same, alone)
        parts.setdefault(key, []).append(one)
    return list(parts.values())


def _check_seeds(members: Sequence[_Placed]) -> None:
    first: dict[int | None, _Placed] = {}
    for one in members:
        seed, method = one.result.seed, one.result.method or "the network"
        if seed in first:
            raise FrontError(
                f"{one.place}: {method} with seed {seed} is given already by {first[seed].place}, "
                "under the same conditions: delete one of the two, or give networks different names"
            )
        first[seed] = one


def _point(members: Sequence[_Placed]) -> FrontPoint:
    """The mean over seeds; see ``_throughput`` and ``accuracy_interval``."""
    first, several = members[0].result, len(members) > 1
    results = sorted((one.result for one in members), key=lambda r: r.seed or 0)
    of_seeds = tuple((r.throughput_fps or 0.0, r.accuracy_percent or 0.0) for r in results)
    images = min((r.validation_images for r in results if r.validation_images), default=None)
    return FrontPoint(
        method=first.method,
        network=members[0].name if several else first.network,
        model=first.model,
        kept_blocks=first.kept_blocks if len({r.kept_blocks for r in results}) == 1 else None,
        seeds=tuple(r.seed for r in results if r.seed is not None),
        throughput_fps=_throughput(results),
        accuracy_percent=accuracy_interval([percent for _, percent in of_seeds], images),
        of_seeds=of_seeds,
        recipe=first.recipe,
        resolution=first.resolution,
        validation_images=images,
    )


def _throughput(results: Sequence[BenchmarkResult]) -> MeanWithInterval:
    """The mean, with the t-interval over seeds or the mean of their own intervals: the wider end.

    Seeds may have masks, thus speeds, of their own; and two equal ones do not know it better than
    each was measured.
    """
    fps = [r.throughput_fps or 0.0 for r in results]
    over_seeds = mean_interval(fps)
    low = fmean(r.throughput_low_fps or mean for r, mean in zip(results, fps, strict=True))
    high = fmean(r.throughput_high_fps or mean for r, mean in zip(results, fps, strict=True))
    return MeanWithInterval(
        mean=over_seeds.mean, low=min(over_seeds.low, low), high=max(over_seeds.high, high)
    )


def front_rows(front: Front) -> list[dict[str, object]]:
    """A row a point: its conditions, itself, and the hypervolumes of its series and of all."""
    conditions = dict(zip(CONDITION_COLUMNS, front.conditions, strict=True))
    volumes = {series: front.series_hypervolume(series) for series in front.series}
    rows = []
    for point, on_front in zip(front.points, front.on_front, strict=True):
        fps, accuracy = point.throughput_fps, point.accuracy_percent
        is_known = point.has_accuracy_interval
        rows.append(
            {
                **conditions,
                **{name: getattr(point, name) for name in _POINT_COLUMNS},
                "seeds": " ".join(map(str, point.seeds)),
                "throughput_fps": fps.mean,
                "throughput_low_fps": fps.low,
                "throughput_high_fps": fps.high,
                "accuracy_percent": accuracy.mean,
                "accuracy_low_percent": accuracy.low if is_known else None,
                "accuracy_high_percent": accuracy.high if is_known else None,
                "validation_images": point.validation_images,
                "on_front": int(on_front),
                "reference_percent": front.reference_percent,
                "method_hypervolume": volumes[point.series][0],
                "method_half_width": volumes[point.series][1],
                "hypervolume": front.hypervolume,
            }
        )
    return rows


def save_fronts(fronts: Sequence[Front], path: Path) -> None:
    """Write the rows of all fronts as CSV; the file is replaced in one step."""
    rows = [row for front in fronts for row in front_rows(front)]
    write_csv(path, list(rows[0]), rows)
