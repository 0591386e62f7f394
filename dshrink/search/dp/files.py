"""The files of the dynamic program: importances and latencies in, frontiers out.

Importance tables are CSV files, joined by key: ``st,end,st_act,end_act`` name one; ``id`` is a
line's number and means nothing. Raw tables hold ``val_acc``, the change of the accuracy in
percentage points (Kim et al. 2023), and are normalised by ``I - alpha * mean``, the mean taken over
the single layers, so that plans which merge much are not preferred for having fewer terms. Tables
with a column ``imp`` or ``importance`` are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dshrink.search.dp.frontier import Frontier
from dshrink.search.dp.problem import Key, SpanProblem, block_ends_of, key_name, key_names
from dshrink.search.errors import ImportanceError, SearchError
from dshrink.search.importance import importance_keys
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines, write_csv
from latency_tables.published import PREFIX, find_published
from latency_tables.published_times import load_times
from latency_tables.records import convert_record, load_record
from latency_tables.span_masks import Span
from latency_tables.wording import counted

#: What single layers' mean is multiplied by for raw tables: MobileNetV2-1.0's in the paper.
DEFAULT_ALPHA = 1.6
RAW = "val_acc"
VALUE_COLUMNS = ("importance", "imp", RAW)
#: What ``dshrink importance`` writes next to its table.
SIDECAR_SCHEMA, SIDECAR_VERSION = "dshrink.importance", 1
_KEY = ("st", "end", "st_act", "end_act")
_FIX = f"give a CSV with the columns {','.join(_KEY)} and {RAW} or importance"

K = TypeVar("K", bound=tuple[int, ...])


def load_importance(path: Path, alpha: float | None = None) -> dict[Key, float]:
    """Read and normalise a table. Raises ImportanceError, which names keys, file and line."""
    source = CsvSource(where=str(path), error=ImportanceError, fix=_FIX)
    column, lines = keyed_lines(path, source, VALUE_COLUMNS, _key, _KEY)
    values = {key: line.number_in(column) for key, line in lines.items()}
    if column == RAW:
        return _normalised(values, DEFAULT_ALPHA if alpha is None else alpha, path)
    if alpha is not None:
        raise ImportanceError(
            f"{path}: its column {column} is normalised already: alpha is for raw tables ({RAW})"
        )
    return values


def keyed_lines(
    path: Path,
    source: CsvSource,
    columns: Sequence[str],
    key_of: Callable[[CsvLine], K],
    needed: Collection[str],
) -> tuple[str, dict[K, CsvLine]]:
    """The first of the value ``columns`` that a file has, and its lines by their keys.

    Raises the source's error, which names keys, file and line.
    """
    lines = load_lines(path, source, needed)
    column = next((name for name in columns if name in lines[0].values), None)
    if column is None:
        raise source.bad(f"no column {' or '.join(columns)}", 1)
    found: dict[K, CsvLine] = {}
    for line in lines:
        key = key_of(line)
        if key[0] >= key[1]:
            raise line.error(
                f"st {key[0]} must be smaller than end {key[1]}: a span holds convolutions "
                "st+1..end"
            )
        if key in found:
            raise line.error(f"key {key_name(key)} is on line {found[key].number} already")
        found[key] = line
    return column, found


def _key(line: CsvLine) -> Key:
    i, j, a, b = (line.whole(name) for name in _KEY)
    if {a, b} - {0, 1}:
        raise line.error(f"st_act and end_act must be 0 or 1, got {a} and {b}")
    return i, j, a, b


def _normalised(raw: dict[Key, float], alpha: float, path: Path) -> dict[Key, float]:
    if not math.isfinite(alpha):
        raise ImportanceError(f"alpha must be a finite number, got {alpha}")
    singles = [value for (i, j, _, _), value in raw.items() if j == i + 1]
    if not singles:
        raise ImportanceError(f"{path}: no single layers (end = st + 1) to normalise by")
    offset = alpha * float(np.mean(singles))
    return {key: value - offset for key, value in raw.items()}


@dataclass(frozen=True, slots=True)
class _Missing:
    key: Key
    reason: str


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """What a search needs of the JSON next to an importance table."""

    model: str
    missing: tuple[_Missing, ...]


def load_unevaluated(path: Path, model: str) -> frozenset[Key]:
    """The keys that ``dshrink importance`` could not evaluate, by the JSON next to its table.

    No keys where there is no such file: tables of others are a CSV alone. Raises ImportanceError
    where it is of another network than ``model``, whose keys may be the same.
    """
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return frozenset()
    where, fix = str(sidecar), "write it again with `dshrink importance`, or remove the file"
    data = load_record(sidecar, dict[str, Any], error=ImportanceError, fix=fix)
    if data.get("schema") != SIDECAR_SCHEMA:
        return frozenset()
    names = {"schema", "schema_version", *_Sidecar.__dataclass_fields__}
    found = convert_record(
        {name: value for name, value in data.items() if name in names},
        _Sidecar,
        where=where,
        error=ImportanceError,
        fix=fix,
        schema=SIDECAR_SCHEMA,
        version=SIDECAR_VERSION,
    )
    if found.model.partition(".")[0] != model.partition(".")[0]:
        raise ImportanceError(
            f"{path} holds importances of {found.model}, the latency table is of {model}: both "
            "must be of one network"
        )
    return frozenset(each.key for each in found.missing)


def check_keys(
    importance: Collection[Key],
    available: Collection[Span],
    *,
    where: str,
    possible: Collection[Span] | None = None,
    block_ends: Collection[int] | None = None,
    excused: Collection[Key] = (),
) -> None:
    """Raise ImportanceError unless the table has a key wherever the spans need one, and no other.

    ``available`` are the spans with a latency, ``possible`` all that may have keys (the same if not
    given), ``excused`` keys that could not be evaluated: no plan uses them. Without ``block_ends``
    they are where a key has no activation.
    """
    ends = block_ends_of(importance) if block_ends is None else block_ends
    spans = set(available if possible is None else possible)
    missing = set(importance_keys(available, ends)) - set(importance) - set(excused)
    unknown = {key for key in importance if key[:2] not in spans}
    # Whoever has no network may as well evaluate every flag.
    needed = importance if block_ends is None else importance_keys(spans, ends)
    unneeded = set(importance) - set(needed)
    for keys, problem, fix in (
        (missing, "are missing", "every span of the latency table needs its keys"),
        (
            unknown,
            "belong to no span of the latency table",
            "both tables must be of one network",
        ),
        (
            unneeded,
            "have flags that no plan needs",
            f"the network's block ends are {', '.join(map(str, ends)) or 'none'}",
        ),
    ):
        if keys:
            raise ImportanceError(
                f"{where}: {counted(len(keys), 'key')} (st, end, st_act, end_act) {problem}: "
                f"{key_names(keys)}; {fix}"
            )


def load_problem(
    time_table: Path | str, importance_table: Path, alpha: float | None = None
) -> SpanProblem:
    """T of ``st,end,time``, a file or ``published:NAME``, and I of an importance table.

    Spans that ``times`` has as several convolutions alone are merged by no plan. The chain ends
    where its last span ends. Raises SearchError or LatencyTableError, which name
    keys, file and line.
    """
    name = str(time_table)
    shipped = name.startswith(PREFIX)
    times = find_published(name).load_times() if shipped else load_times(Path(name), name)
    if times.segments != "spans":
        raise SearchError(f"{name}: holds blocks; the dynamic program needs spans (st,end)")
    costs = {
        time.place[1]: (time.latency_ms,)
        for time in times.times
        if isinstance(time.place[1], tuple)
    }
    importance = load_importance(importance_table, alpha)
    spans = {*costs, *times.split}
    check_keys(importance, spans, where=str(importance_table))
    return SpanProblem(length=max(j for _, j in spans), costs=costs, importance=importance)


def save_frontier(
    frontier: Frontier, path: Path, predicted_ms: Callable[[str], float] | None = None
) -> None:
    """Write the points as CSV: ``time_ms,importance,mask``, from the fastest on.

    LayerMerge's have the column ``plan`` in place of ``mask``. Times are sums of spans, or what
    ``predicted_ms`` says of the mask: with a latency table, of the whole network.
    """
    plans = [frontier.plan(number) for number in range(len(frontier))]
    times = [predicted_ms(plan.mask) if predicted_ms else plan.time_ms for plan in plans]
    rows = [(t, plan.importance, plan.mask) for t, plan in zip(times, plans, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, ("time_ms", "importance", plans[0].kind), rows)
