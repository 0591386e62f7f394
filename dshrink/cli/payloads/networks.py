"""JSON output about networks: chains, searches, importances, benchmarks, studies, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from dshrink.operations.chain import ChainNetwork
from dshrink.results import BenchmarkResult
from dshrink.search.dp.frontier import ChainPlan
from dshrink.search.dp.many_devices import DeviceOutcome
from dshrink.search.importance import ImportanceKey
from dshrink.search.plan import Plan
from dshrink.study.recipe import ImageCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainData:
    """The networks that could be traced, in the order asked for; errors are on standard error."""

    networks: tuple[ChainNetwork, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsData:
    """A folder of images to train on."""

    folder: str
    classes: int
    training_images: int
    validation_images: int
    written: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDocument(Plan):
    """A plan as its file has it: saved by itself, it is one."""

    schema: Literal["dshrink.plan"] = "dshrink.plan"
    schema_version: Literal[2] = 2

    @classmethod
    def of(cls, plan: Plan) -> PlanDocument:
        return cls(**{one.name: getattr(plan, one.name) for one in fields(Plan)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPlan:
    """A plan as the solver knows it: a span ``mask`` or, of LayerMerge's files, a ``plan``."""

    mask: str | None
    plan: str | None
    time_ms: float
    importance: float
    layers: int

    @classmethod
    def of(cls, chosen: ChainPlan) -> ChosenPlan:
        return cls(
            mask=chosen.mask if chosen.kind == "mask" else None,
            plan=chosen.mask if chosen.kind == "plan" else None,
            time_ms=chosen.time_ms,
            importance=chosen.importance,
            layers=chosen.layers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DpData:
    """The plans that were asked for, one a device or one for all; none without a budget.

    ``plans`` are empty where there is no network (``search csv``).
    """

    plans: tuple[PlanDocument, ...]
    chosen: tuple[ChosenPlan, ...]
    devices: tuple[DeviceOutcome, ...]
    frontier_points: int | None
    overrun_ms: float | None
    unevaluated_keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingImportance:
    """A key without a value."""

    key: ImportanceKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceData:
    """What was evaluated; of a shard alone nothing but ``evaluated`` and ``reused`` is known."""

    evaluated: int
    reused: int
    shard: str | None = None
    file: str | None = None
    keys: int | None = None
    missing: tuple[MissingImportance, ...] = ()
    original_accuracy_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchData:
    """A result for each network and batch size, in the order asked for."""

    results: tuple[BenchmarkResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """The results of a study, as in results.csv, and the files that were written."""

    results: tuple[BenchmarkResult, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStep:
    """One thing that a study does; ``step`` is its folder below the study's."""

    step: str
    kind: str
    method: str
    seed: int
    epochs: int | None
    needs: tuple[str, ...]
    folder: str
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySteps:
    """What a study would do, in order."""

    recipe: str
    images: ImageCounts
    steps: tuple[StudyStep, ...]
    epochs_left: int
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeData:
    """A recipe that ships with dshrink."""

    name: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipesData:
    """The recipes that ship with dshrink."""

    recipes: tuple[RecipeData, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotData:
    """The files that were written: a picture in two formats."""

    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPointData:
    """A network of a front: the mean over seeds, with 95 % intervals, and its conditions.

    A series is the points of one method and recipe. Hypervolumes are in per cent times frames per
    second, above ``reference_percent``.
    """

    device: str
    runtime: str
    precision: str
    batch: int
    threads: int
    clock: str
    statistic: str
    launch: str
    cache_mode: str
    data: str
    method: str
    recipe: str
    network: str
    model: str
    resolution: str
    kept_blocks: int | None
    seeds: tuple[int, ...]
    throughput_fps: float
    throughput_low_fps: float
    throughput_high_fps: float
    accuracy_percent: float
    accuracy_low_percent: float | None
    accuracy_high_percent: float | None
    validation_images: int | None
    on_front: bool
    reference_percent: float
    method_hypervolume: float
    method_half_width: float | None
    hypervolume: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> FrontPointData:
        """A row of the CSV, with its numbers as numbers."""
        numbers = {name: int(row[name]) for name in ("batch", "threads")}
        seeds = tuple(map(int, row["seeds"].split()))
        return cls(**{**row, **numbers, "seeds": seeds, "on_front": bool(row["on_front"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontData:
    """The files that were written, and the measured points of all fronts."""

    files: tuple[str, ...]
    points: tuple[FrontPointData, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaData:
    """A schema, and the commands whose ``--json`` it describes."""

    name: str
    version: int
    commands: tuple[str, ...]
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemasData:
    """The schemas that there are."""

    schemas: tuple[SchemaData, ...]
