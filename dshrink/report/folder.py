"""What a folder holds: every file that dshrink wrote and can read back, and those it cannot.

A file is known by what it says it is, not by its name, so a folder may have been put together by
hand. What cannot be read is named with the reason, and the rest is shown all the same.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from dshrink.errors import DshrinkError
from dshrink.plots.frontier import FrontierCurve, load_frontier
from dshrink.report.records import (
    BENCHMARK_SCHEMA,
    ExperimentFacts,
    MergeFacts,
    RefitFacts,
    ReportError,
    RunFacts,
    read_certificate,
    read_experiment,
    read_refit,
    read_runs,
)
from dshrink.results import NEEDED, BenchmarkResult, load_results
from dshrink.search.dp.files import load_importance
from dshrink.search.plan import Plan, load_plan
from latency_tables.errors import LatencyTableError
from latency_tables.io import load_table
from latency_tables.layers.io import load_layer_table
from latency_tables.layers.layer_table import LayerTable
from latency_tables.table import LatencyTable

T = TypeVar("T")

#: What is read of a file to know what it is.
_HEAD_CHARACTERS = 4000
_SCHEMA = re.compile(r'"schema":\s*"(dshrink\.\w+)"')
#: What spreadsheets leave before the names of the columns.
_BEFORE = re.compile(r'"?(#|sep=)', re.IGNORECASE)
#: Files that say what they are by their name alone.
_CERTIFICATE, _REFIT = ".certificate.json", "refit.json"
#: Names that only files of ours have, so that a damaged one is not passed over.
_OF_NAME = {"table.json": "table", "layers.json": "layers", "plan.json": "plan"}
_OF_SCHEMA = {
    "dshrink.latency_table": "table",
    "dshrink.layer_table": "layers",
    "dshrink.plan": "plan",
}


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """What a file says; ``file`` is its path from the folder on."""

    file: str
    value: T


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFacts:
    """The rows of a benchmark, and how they were measured, where that is known."""

    results: tuple[BenchmarkResult, ...]
    runs: tuple[RunFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What was found below ``root``, by kind, in the order of the paths."""

    root: Path
    tables: tuple[Held[LatencyTable], ...] = ()
    layers: tuple[Held[LayerTable], ...] = ()
    results: tuple[Held[ResultsFacts], ...] = ()
    plans: tuple[Held[Plan], ...] = ()
    certificates: tuple[Held[MergeFacts], ...] = ()
    refits: tuple[Held[RefitFacts], ...] = ()
    frontiers: tuple[Held[FrontierCurve], ...] = ()
    importances: tuple[Held[dict[Any, float]], ...] = ()
    experiments: tuple[Held[ExperimentFacts], ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def has_only_layers(self) -> bool:
        """Whether nothing here is about a network."""
        others = (self.tables, self.results, self.plans, self.certificates, self.refits)
        return bool(self.layers) and not any((*others, self.frontiers, self.experiments))

    @property
    def measured(self) -> tuple[BenchmarkResult, ...]:
        """All results that have a latency."""
        every = (one for held in self.results for one in held.value.results)
        return tuple(one for one in every if one.latency_ms is not None)


@dataclass(slots=True)
class _Found:
    kinds: dict[str, list[Held[Any]]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)


_READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "table": ("tables", load_table),
    "layers": ("layers", load_layer_table),
    "results": ("results", lambda path: _read_results(path)),
    "plan": ("plans", load_plan),
    "certificate": ("certificates", read_certificate),
    "refit": ("refits", read_refit),
    "frontier": ("frontiers", lambda path: load_frontier(path, path.stem)),
    "importance": ("importances", load_importance),
    "experiment": ("experiments", read_experiment),
}


def read_folder(root: Path, only: Sequence[Path] = ()) -> Contents:
    """Read what is below ``root``, or ``only`` these files.

    Raises ReportError for a folder that holds nothing known.
    """
    if not root.is_dir():
        raise ReportError(f"{root}: no such folder; give one that a dshrink command wrote")
    found = _Found()
    for path in only or _files(root):
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        try:
            kind = _kind(path)
            if kind is not None:
                group, read = _READERS[kind]
                found.kinds.setdefault(group, []).append(Held(name, read(path)))
        except (DshrinkError, LatencyTableError, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
            found.unreadable.append(Unreadable(file=name, reason=reason))
    if not found.kinds and not found.unreadable:
        raise ReportError(
            f"{root}: nothing to report: no table, results, plan, certificate, refit, frontier, "
            "importances or experiment of the paper is in it"
        )
    kinds = {group: tuple(held) for group, held in found.kinds.items()}
    kinds["results"] = tuple(_without_parts(kinds.get("results", ())))
    return Contents(root=root, unreadable=tuple(found.unreadable), **kinds)


def _files(root: Path) -> Iterator[Path]:
    """The files that may be ours, without journals and what is hidden."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith(".") and not n.endswith(".journal"))
        for name in sorted(files):
            if name.endswith((".json", ".csv")) and not name.startswith("."):
                yield Path(folder, name)


def _kind(path: Path) -> str | None:
    """Which of the readers a file is for; None where it is for none."""
    if path.suffix == ".csv":
        return _kind_of_csv(path)
    if path.name.endswith(_CERTIFICATE):
        return "certificate"
    head = _head(path)
    schema = _SCHEMA.search(head)
    if schema is None:
        if path.name == _REFIT:
            return "refit"
        if '"experiment":' in head and '"dshrink":' in head:
            return "experiment"
        return _OF_NAME.get(path.name)
    return _OF_SCHEMA.get(schema[1])


def _kind_of_csv(path: Path) -> str | None:
    lines = [line for line in _head(path).splitlines() if line.strip() and not _BEFORE.match(line)]
    if not lines:
        return None
    separator = max(",;\t", key=lines[0].count)
    cells = next(csv.reader(io.StringIO(lines[0]), delimiter=separator))
    columns = {cell.strip().lower() for cell in cells}
    for name, kind in (("piece", "table"), ("beside_ms", "layers")):
        # A table is read by its JSON file; without one it is half a table.
        if {name, "latency_ms", "conditions"} <= columns:
            return None if path.with_suffix(".json").exists() else kind
    # Points of a front, and rows of an experiment, are in other files as well.
    if "on_front" in columns or {"form", "mflops"} <= columns:
        return None
    if set(NEEDED) <= columns:
        return "results"
    if {"time_ms", "importance"} <= columns:
        return "frontier"
    return "importance" if {"st", "end", "st_act", "end_act"} <= columns else None


def _head(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_HEAD_CHARACTERS)
    return data.decode("utf-8-sig", errors="replace")


def _read_results(path: Path) -> ResultsFacts:
    """The rows of a CSV; a study's are measured in the benchmark beside it."""
    beside = path.with_suffix(".jsonl")
    runs = beside if beside.is_file() else path.with_name("bench.jsonl")
    head = _head(runs) if runs.is_file() else ""
    known = read_runs(runs) if BENCHMARK_SCHEMA in head else ()
    return ResultsFacts(results=load_results(path).results, runs=known)


def _without_parts(results: tuple[Held[ResultsFacts], ...]) -> Iterator[Held[ResultsFacts]]:
    """Without the benchmark of a study's structures, whose figures its results repeat."""
    files = {held.file for held in results}
    for held in results:
        folder, _, name = held.file.rpartition("/")
        whole = f"{folder}/results.csv" if folder else "results.csv"
        if name != "bench.csv" or whole not in files:
            yield held
