"""Points of fronts, out of the CSVs of ``dshrink bench``, and the CSV of a front.

Networks of one method and recipe that differ by nothing but their seed are one point. Results that
were measured under different conditions, or whose accuracies are of different images, never meet:
there is a front for each set of them. Images that nobody names are others than those with a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dshrink.fronts import (
    Estimate,
    Front,
    FrontError,
    FrontPoint,
    accuracy_estimate,
    estimate,
    make_front,
)
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines, write_csv

#: Results that differ in one of these are never compared.
CONDITION_COLUMNS = (
    *("device", "runtime", "precision", "batch", "threads"),
    *("clock", "statistic", "launch", "cache_mode", "data"),
)
#: What it means that a file lacks one of them.
OPTIONAL_CONDITIONS = {
    **{"clock": "", "statistic": "", "launch": "plain", "cache_mode": "hot", "data": ""}
}
COLUMNS = (
    "network",
    *(name for name in CONDITION_COLUMNS if name not in OPTIONAL_CONDITIONS),
    *("throughput_fps", "throughput_low_fps", "throughput_high_fps"),
)
ACCURACY_ADVICE = (
    "`dshrink merge ... --data DIR` writes the accuracy into the ONNX file that `dshrink bench` "
    "reads it from, and `dshrink run` does all of it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """One line with accuracy and throughput; ``seed`` is None where it is not known."""

    line: CsvLine
    conditions: tuple[str, ...]
    method: str
    recipe: str
    network: str
    model: str
    resolution: str
    kept_blocks: int | None
    seed: int | None
    throughput_fps: Estimate
    accuracy_percent: float
    validation_images: int | None

    @property
    def name(self) -> str:
        """The network's name without its seed: random_k8_seed2.onnx is random_k8.onnx."""
        if self.seed is None:
            return self.network
        pattern = rf"(?:^|[-_. ])(?:seed|s)[-_=]?0*{self.seed}(?!\d)"
        return re.sub(pattern, "", self.network).strip() or self.network


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFronts:
    """A front a set of conditions, and how many lines had no throughput, or no accuracy."""

    fronts: tuple[Front, ...]
    left_out: int


def load_fronts(
    paths: Sequence[Path], *, model: str | None = None, reference_percent: float | None = None
) -> LoadedFronts:
    """The fronts of all results in ``paths``, in the order in which their conditions come.

    Beside COLUMNS the files may have ``accuracy_percent`` (older ones lack it),
    ``validation_images`` that it is of, ``method``, ``recipe``, ``seed``, ``model``, ``resolution``
    and ``kept_blocks``. ``model`` leaves all other networks out;
    ``reference_percent`` is the accuracy that hypervolumes start from: by default the lowest of
    each front. No path, no front. Raises FrontError.
    """
    if not paths:
        return LoadedFronts(fronts=(), left_out=0)
    lines = [line for path in paths for line in load_lines(path, _source(path), COLUMNS)]
    wanted = [line for line in lines if model in (None, _optional(line, "model"))]
    if not wanted:
        models = sorted({_optional(line, "model") for line in lines} - {""})
        raise FrontError(
            f"{_named(paths)}: no results of {model}, only of {', '.join(models) or 'no model'}"
        )
    found = [one for one in map(_measured, wanted) if one]
    if not found:
        _raise_nothing_known(paths, wanted)
    by_conditions: dict[tuple[str, ...], list[_Measured]] = {}
    for one in found:
        by_conditions.setdefault(one.conditions, []).append(one)
    fronts = []
    for conditions, members in by_conditions.items():
        points = [_point(group) for group in _groups(members)]
        lowest = min(point.accuracy_percent.mean for point in points)
        reference = lowest if reference_percent is None else reference_percent
        fronts.append(make_front(conditions, points, reference))
    return LoadedFronts(fronts=tuple(fronts), left_out=len(wanted) - len(found))


def _source(path: Path) -> CsvSource:
    fix = "write it with `dshrink bench ... --out results.csv`"
    return CsvSource(where=str(path), error=FrontError, fix=fix, title="network")


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _raise_nothing_known(paths: Sequence[Path], lines: Sequence[CsvLine]) -> None:
    if any(_optional(line, "accuracy_percent") for line in lines):
        raise FrontError(
            f"{_named(paths)}: no network has both accuracy_percent and throughput_fps: bench "
            "those that failed again"
        )
    raise FrontError(f"{_named(paths)}: no accuracy_percent in any row: {ACCURACY_ADVICE}")


def _optional(line: CsvLine, name: str) -> str:
    return line.text(name) if name in line.values else ""


def _measured(line: CsvLine) -> _Measured | None:
    """None for a line without throughput (failed), or without accuracy."""
    texts = [line.text(f"throughput{end}_fps") for end in ("_low", "", "_high")]
    known = _optional(line, "accuracy_percent")
    accuracy = line.number_in("accuracy_percent") if known else None
    if accuracy is not None and not 0 <= accuracy <= 100:
        raise line.bad("accuracy_percent", "between 0 and 100")
    images = _whole(line, "validation_images")
    if images == 0:
        raise line.bad("validation_images", "1 or more")
    if accuracy is None or not texts[1]:
        return None
    fps = line.number_in("throughput_fps", above=0)
    low = line.number_in("throughput_low_fps", above=0) if texts[0] else fps
    high = line.number_in("throughput_high_fps", above=0) if texts[2] else fps
    if not low <= fps <= high:
        raise line.bad("throughput_fps", "between throughput_low_fps and throughput_high_fps")
    return _Measured(
        line=line,
        conditions=tuple(
            _optional(line, name) or OPTIONAL_CONDITIONS.get(name, "") for name in CONDITION_COLUMNS
        ),
        method=_optional(line, "method"),
        recipe=_optional(line, "recipe"),
        network=line.text("network"),
        model=_optional(line, "model"),
        resolution=_optional(line, "resolution"),
        kept_blocks=_whole(line, "kept_blocks"),
        seed=_whole(line, "seed"),
        throughput_fps=Estimate(mean=fps, low=low, high=high),
        accuracy_percent=accuracy,
        validation_images=images,
    )


def _whole(line: CsvLine, name: str) -> int | None:
    return line.whole(name) if _optional(line, name) else None


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
        is_named = by_name or one.kept_blocks is None or one.name != one.network
        same = one.name if is_named else one.kept_blocks
        alone = place if one.seed is None else None
        key = (one.method, one.recipe, one.model, one.resolution, same, alone)
        parts.setdefault(key, []).append(one)
    return list(parts.values())


def _check_seeds(members: Sequence[_Measured]) -> None:
    first: dict[int | None, _Measured] = {}
    for one in members:
        if one.seed in first:
            raise one.line.error(
                f"{one.method or 'the network'} with seed {one.seed} stands already on line "
                f"{first[one.seed].line.number} of {first[one.seed].line.source.where}, under the "
                "same conditions: delete one of the two, or give networks different names"
            )
        first[one.seed] = one


def _point(members: Sequence[_Measured]) -> FrontPoint:
    """The mean over seeds; see ``_throughput`` and ``accuracy_estimate``."""
    first, ordered = members[0], sorted(members, key=lambda one: one.seed or 0)
    counts = {one.kept_blocks for one in members}
    images = min((one.validation_images for one in members if one.validation_images), default=None)
    return FrontPoint(
        method=first.method,
        network=first.name if len(members) > 1 else first.network,
        model=first.model,
        kept_blocks=first.kept_blocks if len(counts) == 1 else None,
        seeds=tuple(one.seed for one in ordered if one.seed is not None),
        throughput_fps=_throughput([one.throughput_fps for one in ordered]),
        accuracy_percent=accuracy_estimate([one.accuracy_percent for one in ordered], images),
        of_seeds=tuple((one.throughput_fps.mean, one.accuracy_percent) for one in ordered),
        recipe=first.recipe,
        resolution=first.resolution,
        validation_images=images,
    )


def _throughput(members: Sequence[Estimate]) -> Estimate:
    """The mean, with the t-interval over seeds or the mean of their own intervals: the wider end.

    Seeds may have masks, thus speeds, of their own; and two equal ones do not know it better than
    each was measured.
    """
    over_seeds = estimate([one.mean for one in members])
    return Estimate(
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
    rows: list[Mapping[str, object]] = [row for front in fronts for row in front_rows(front)]
    write_csv(path, list(rows[0]), rows)
