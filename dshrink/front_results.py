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
    make_front,
    mean_interval,
)
from dshrink.results import BenchmarkResult, load_results
from latency_tables.csv_lines import write_csv

#: Results that differ in one of these are never compared.
CONDITION_COLUMNS = (
    *("device", "runtime", "precision", "batch", "threads"),
    *("clock", "statistic", "launch", "cache_mode", "data"),
)
ACCURACY_ADVICE = (
    "`dshrink merge ... --data DIR` writes the accuracy into the ONNX file that `dshrink bench` "
    "reads it from, and `dshrink run` does all of it"
)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A result with accuracy and throughput, and where it stands."""

    result: BenchmarkResult
    place: str

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(str(getattr(self.result, name)) for name in CONDITION_COLUMNS)

    @property
    def seed(self) -> int | None:
        return self.result.seed

    @property
    def throughput_fps(self) -> MeanWithInterval:
        r = self.result
        assert r.throughput_fps is not None
        return MeanWithInterval(
            mean=r.throughput_fps,
            low=r.throughput_low_fps or r.throughput_fps,
            high=r.throughput_high_fps or r.throughput_fps,
        )

    @property
    def accuracy_percent(self) -> float:
        assert self.result.accuracy_percent is not None
        return self.result.accuracy_percent

    @property
    def name(self) -> str:
        """The network's name without its seed: random_k8_seed2.onnx is random_k8.onnx."""
        if self.seed is None:
            return self.result.network
        pattern = rf"(?:^|[-_. ])(?:seed|s)[-_=]?0*{self.seed}(?!\d)"
        return re.sub(pattern, "", self.result.network).strip() or self.result.network


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
    start from: by default the lowest of each front. ``source`` and ``places`` say in errors where
    the results, and each of them, stand. Raises FrontError.
    """
    placed = zip(results, places or [result.network for result in results], strict=True)
    wanted = [_Measured(*one) for one in placed if model in (None, one[0].model)]
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
    by_conditions: dict[tuple[str, ...], list[_Measured]] = {}
    for one in found:
        by_conditions.setdefault(one.conditions, []).append(one)
    fronts = []
    for conditions, members in by_conditions.items():
        points = [_point(group) for group in _groups(members)]
        lowest = min(point.accuracy_percent.mean for point in points)
        reference = lowest if reference_percent is None else reference_percent
        fronts.append(make_front(conditions, points, reference))
    return Fronts(fronts=tuple(fronts), left_out=len(wanted) - len(found))


def _groups(members: Sequence[_Measured]) -> list[list[_Measured]]:
    """What differs by nothing but the seed; without a seed each is alone.

    Names that carry their seed say it best: for a budget of latency each seed may keep another
    number of blocks. Otherwise what keeps as many blocks is alike, unless seeds repeat among it.
    """
    groups: list[list[_Measured]] = []
    for alike in _parted(members, by_name=False):
        if len({one.seed for one in alike}) == len(alike):
            groups.append(alike)
            continue
        for namesakes in _parted(alike, by_name=True):
            _check_seeds(namesakes)
            groups.append(namesakes)
    return groups


def _parted(members: Sequence[_Measured], *, by_name: bool) -> list[list[_Measured]]:
    parts: dict[tuple[object, ...], list[_Measured]] = {}
    for place, one in enumerate(members):
        r = one.result
        is_named = by_name or r.kept_blocks is None or one.name != r.network
        same = one.name if is_named else r.kept_blocks
        alone = place if one.seed is None else None
        key = (r.method, r.recipe, r.model, r.resolution, same, alone)
        parts.setdefault(key, []).append(one)
    return list(parts.values())


def _check_seeds(members: Sequence[_Measured]) -> None:
    first: dict[int | None, _Measured] = {}
    for one in members:
        if one.seed in first:
            raise FrontError(
                f"{one.place}: {one.result.method or 'the network'} with seed {one.seed} is given "
                f"already by {first[one.seed].place}, under the same conditions: delete one of the "
                "two, or give networks different names"
            )
        first[one.seed] = one


def _point(members: Sequence[_Measured]) -> FrontPoint:
    """The mean over seeds; see ``_throughput`` and ``accuracy_interval``."""
    first, ordered = members[0], sorted(members, key=lambda one: one.seed or 0)
    result = first.result
    counts = {one.result.kept_blocks for one in members}
    images = min(
        (one.result.validation_images for one in members if one.result.validation_images),
        default=None,
    )
    return FrontPoint(
        method=result.method,
        network=first.name if len(members) > 1 else result.network,
        model=result.model,
        kept_blocks=result.kept_blocks if len(counts) == 1 else None,
        seeds=tuple(one.seed for one in ordered if one.seed is not None),
        throughput_fps=_throughput([one.throughput_fps for one in ordered]),
        accuracy_percent=accuracy_interval([one.accuracy_percent for one in ordered], images),
        of_seeds=tuple((one.throughput_fps.mean, one.accuracy_percent) for one in ordered),
        recipe=result.recipe,
        resolution=result.resolution,
        validation_images=images,
    )


def _throughput(members: Sequence[MeanWithInterval]) -> MeanWithInterval:
    """The mean, with the t-interval over seeds or the mean of their own intervals: the wider end.

    Seeds may have masks, thus speeds, of their own; and two equal ones do not know it better than
    each was measured.
    """
    over_seeds = mean_interval([one.mean for one in members])
    return MeanWithInterval(
        mean=over_seeds.mean,
        low=min(over_seeds.low, fmean(one.low for one in members)),
        high=max(over_seeds.high, fmean(one.high for one in members)),
    )


def front_rows(front: Front) -> list[dict[str, object]]:
    """A row a point: its conditions, itself, and the hypervolumes of its series and of all."""
    volumes = {series: front.series_hypervolume(series) for series in front.series}
    return [
        {
            **dict(zip(CONDITION_COLUMNS, front.conditions, strict=True)),
            **_point_row(point),
            "on_front": int(on_front),
            "reference_percent": front.reference_percent,
            "method_hypervolume": volumes[point.series][0],
            "method_half_width": volumes[point.series][1],
            "hypervolume": front.hypervolume,
        }
        for point, on_front in zip(front.points, front.on_front, strict=True)
    ]


def _point_row(point: FrontPoint) -> dict[str, object]:
    """The interval of an accuracy is empty where nothing tells it."""
    accuracy = point.accuracy_percent
    return {
        "method": point.method,
        "recipe": point.recipe,
        "network": point.network,
        "model": point.model,
        "resolution": point.resolution,
        "kept_blocks": point.kept_blocks,
        "seeds": " ".join(map(str, point.seeds)),
        "throughput_fps": point.throughput_fps.mean,
        "throughput_low_fps": point.throughput_fps.low,
        "throughput_high_fps": point.throughput_fps.high,
        "accuracy_percent": accuracy.mean,
        "accuracy_low_percent": accuracy.low if point.has_accuracy_interval else None,
        "accuracy_high_percent": accuracy.high if point.has_accuracy_interval else None,
        "validation_images": point.validation_images,
    }


def save_fronts(fronts: Sequence[Front], path: Path) -> None:
    """Write the rows of all fronts as CSV; the file is replaced in one step."""
    rows = [row for front in fronts for row in front_rows(front)]
    write_csv(path, list(rows[0]), rows)
