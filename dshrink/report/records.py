"""What the page reads of files that no other part of dshrink reads back: a few fields of each.

Certificates of merges, reports of refits, the records of benchmarks, the paper's experiments.
Fields that are not named here may be there or not, so files of other versions are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dshrink.errors import DshrinkError
from latency_tables.networks import Level
from latency_tables.reading import read_text
from latency_tables.records import convert_record, load_record, parse_record
from latency_tables.schema import Conditions

T = TypeVar("T")

BENCHMARK_SCHEMA = "dshrink.benchmark"


class ReportError(DshrinkError):
    """A folder of which there is nothing to show, or a file that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How networks were measured; ``processes`` is the least and the largest number a network."""

    conditions: Conditions
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    level: Level | None = None
    warnings: tuple[str, ...] = ()
    date: str = ""
    dshrink_version: str = ""
    processes: tuple[int, int] | None = None
    measured_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relative:
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementFacts:
    """Of merged and unmerged network on validation images; accuracies are in per cent.

    ``as_original`` counts the images that the merged one classifies as the original does.
    """

    images: int
    differing: int
    unmerged_accuracy_percent: float | None = None
    merged_accuracy_percent: float | None = None
    original_accuracy_percent: float | None = None
    as_original: int | None = None

    @property
    def percent(self) -> float:
        """Of the images that merged and unmerged network classify alike."""
        return 100 * (1 - self.differing / max(self.images, 1))

    @property
    def original_percent(self) -> float | None:
        """Of the images that are classified as by the original; None where it was not run."""
        return None if self.as_original is None else 100 * self.as_original / max(self.images, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationFacts:
    """What the weights of a merge lack, and ways to mend it; empty where they lack nothing."""

    warning: str = ""
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFacts:
    """A certificate: how far a merged network is from the unmerged one, relative."""

    model: str
    mask: str
    padding: str
    merged: int
    float64: float
    float32: float
    problem: str = ""
    activations: ActivationFacts = ActivationFacts()
    validation: AgreementFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosenessFacts:
    """Per cent of images, by "algebraic" (merged as it was), "refitted", "original"."""

    images: int
    agreement_percent: Mapping[str, float]
    accuracy_percent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitFacts:
    model: str
    mask: str
    padding: str
    images: int
    seconds: float
    held_out: ClosenessFacts
    validation: ClosenessFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentFacts:
    """An experiment of the paper: its rows as in its CSV, and the runs that they come from."""

    name: str
    rows: tuple[Mapping[str, Any], ...]
    runs: tuple[RunFacts, ...] = ()
    headline: tuple[Mapping[str, Any], ...] = ()


def read_certificate(path: Path) -> MergeFacts:
    data = _object(path, "`dshrink merge`")
    kind = "blocks" if "blocks" in data else "spans"
    mask = data.get("keep_mask") or data.get("span_mask") or ""
    regions = data.get(kind, ())
    errors = {
        name: convert(data.get(f"network_{name}"), _Relative, path).relative
        for name in ("float64", "float32")
    }
    facts = {**data, **errors, "mask": mask, "merged": len(regions)}
    facts["validation"] = _chosen(data.get("validation"), AgreementFacts)
    facts["activations"] = _chosen(data.get("activations", {}), ActivationFacts)
    return convert(facts, MergeFacts, path)


def read_refit(path: Path) -> RefitFacts:
    data = dict(_object(path, "`dshrink refit`"))
    for name in ("held_out", "validation"):
        if data.get(name) is not None:
            data[name] = _chosen(data[name], ClosenessFacts)
    return convert(data, RefitFacts, path)


def read_experiment(path: Path) -> ExperimentFacts:
    data = _object(path, "`dshrink paper`")
    version, runs = str(data.get("dshrink", "")), data.get("runs")
    if runs is None:
        runs = [data] if "conditions" in data else []
    found = []
    for run in runs:
        whole = {"dshrink_version": version, "date": data.get("date", ""), **run}
        found.append(convert(whole, RunFacts, path))
    facts = convert({**data, "name": data.get("experiment"), "runs": ()}, ExperimentFacts, path)
    return replace(facts, runs=tuple(found))


def read_runs(path: Path) -> tuple[RunFacts, ...]:
    """The runs of a benchmark, one a set of conditions, from the JSON lines beside its CSV."""
    if not path.is_file():
        return ()
    runs: dict[str, RunFacts] = {}
    counts: dict[str, list[int]] = {}
    spent: dict[str, float] = {}
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read as text ({error}): {_FIX}") from None
    for line in text.splitlines():
        data = parse_record(line, dict[str, Any], where=str(path), error=ReportError, fix=_FIX)
        effort = convert(data, _Effort, path)
        run = convert({**data, "processes": None, "measured_s": 0.0}, RunFacts, path)
        digest = run.conditions.digest
        runs.setdefault(digest, run)
        counts.setdefault(digest, []).append(effort.processes)
        spent[digest] = spent.get(digest, 0.0) + effort.measured_s
    return tuple(
        replace(
            run,
            processes=(min(counts[digest]), max(counts[digest])),
            measured_s=spent[digest],
        )
        for digest, run in runs.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effort:
    processes: int = 0
    measured_s: float = 0.0


_FIX = "write it again with the command that made it"


def convert(data: Any, kind: type[T], path: Path) -> T:
    """The record in the fields that it has. Raises ReportError, which names the file."""
    return convert_record(_chosen(data, kind), kind, where=str(path), error=ReportError, fix=_FIX)


def _chosen(data: Any, kind: type[Any]) -> Any:
    names = {one.name for one in fields(kind)}
    if not isinstance(data, Mapping):
        return data
    return {name: value for name, value in data.items() if name in names}


def _object(path: Path, command: str) -> Mapping[str, Any]:
    return load_record(
        path,
        dict[str, Any],
        error=ReportError,
        fix=f"write it again with {command}",
    )
