"""LayerMerge (Kim et al., ICML 2024): which layers go as well, by the kernel size that is left.

A span (i, j] may become convolutions of several kernel sizes k, depending on which of its own are
replaced by nothing; T(i, j, k) and I(i, j, k) are joined by key (the public code pairs them by
their order in the files). Every span ends with an activation, so a plan is a path of keys. The
exact frontier takes the same labels as that of spans; importances add up.

The files have the public code's columns ``st,end,ker,is_dw`` (or ``kernel``; ``is_dw`` only where
the table has depthwise convolutions) with ``time`` or with ``importance``; without that column,
``val_acc`` is taken as ``exp(val_acc / 100)``, the public normalisation.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dshrink.search.dp.labels import Floats
from dshrink.search.dp.problem import key_names
from dshrink.search.dp.reach import Edge, Reached, State, forwards
from dshrink.search.errors import ImportanceError, InfeasibleBudgetError, NoPlanError, SearchError
from dshrink.search.goal import round_up
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines

#: How the kernel size may be called: its column marks a table as LayerMerge's.
KERNEL_COLUMNS = ("kernel", "ker")

_TRUE, _FALSE = ("1", "true"), ("0", "false", "")


class KernelKey(NamedTuple):
    """Span (i, j], the kernel size of its one convolution (0: none), whether that is depthwise."""

    i: int
    j: int
    kernel: int
    depthwise: int = 0

    @property
    def text(self) -> str:
        """ "3-7:5", or "3-4:3dw" of a depthwise convolution."""
        return f"{self.i}-{self.j}:{self.kernel}{'dw' if self.depthwise else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlan:
    """A network: what each span becomes, in order, its latency and its importance."""

    keys: tuple[KernelKey, ...]
    time_ms: float
    importance: float

    @property
    def layers(self) -> int:
        """The convolutions that are left."""
        return sum(key.kernel > 0 for key in self.keys)

    @property
    def text(self) -> str:
        """The spans with their kernels: "0-3:5 3-4:1"."""
        return " ".join(key.text for key in self.keys)

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.text,
            "time_ms": self.time_ms,
            "importance": self.importance,
            "layers": self.layers,
        }


@dataclass(frozen=True, slots=True)
class KernelFrontier:
    """The non-dominated plans, in ascending order of latency and importance."""

    keys: Sequence[KernelKey]
    reached: Reached
    end: State

    def __len__(self) -> int:
        return len(self.importances)

    @property
    def times_ms(self) -> Floats:
        return self.reached.labels[self.end].costs[:, 0]

    @property
    def importances(self) -> Floats:
        return self.reached.labels[self.end].importances

    def plan(self, number: int) -> KernelPlan:
        """The network of a point."""
        return KernelPlan(
            keys=tuple(self.keys[n] for n in self.reached.path(self.end, number)),
            time_ms=float(self.times_ms[number]),
            importance=float(self.importances[number]),
        )

    def best(self, budget_ms: float) -> KernelPlan:
        """The plan of the largest importance whose latency is at most ``budget_ms``.

        Raises InfeasibleBudgetError, which names the smallest latency.
        """
        if not (math.isfinite(budget_ms) and budget_ms > 0):
            raise SearchError(f"the latency budget must be above 0 ms, got {budget_ms}")
        count = int(np.searchsorted(self.times_ms, budget_ms, side="right"))
        if not count:
            smallest = float(self.times_ms[0])
            raise InfeasibleBudgetError(
                f"no plan meets {budget_ms:g} ms: the smallest possible latency is {smallest:.4g} "
                f"ms; ask for at least {round_up(smallest)} ms",
                smallest_ms=smallest,
            )
        return self.plan(count - 1)


def solve_kernels(
    times: Mapping[KernelKey, float], importance: Mapping[KernelKey, float]
) -> KernelFrontier:
    """The whole frontier of two tables with the same keys. Raises SearchError."""
    check_same_keys(times, importance)
    if not times:
        raise NoPlanError("tables without keys have no plan")
    keys = sorted(times, key=lambda key: (key.j, key.i, *key[2:]))
    edges = [
        Edge((key.i, 1), (key.j, 1), (key.i, key.j), (times[key],), importance[key]) for key in keys
    ]
    end = (max(key.j for key in keys), 1)
    reached = forwards(edges, 1)
    if end not in reached.labels:
        raise NoPlanError(f"no plan is possible: the keys leave no way from 0 to {end[0]}")
    return KernelFrontier(keys, reached, end)


def check_same_keys(
    times: Mapping[KernelKey, float], importance: Mapping[KernelKey, float]
) -> None:
    """Raise ImportanceError unless both tables have the same keys."""
    for lacking, whose in (
        (set(times) - set(importance), "the importance table"),
        (set(importance) - set(times), "the latency table"),
    ):
        if lacking:
            raise ImportanceError(
                f"{whose} lacks {len(lacking)} key(s) (st, end, kernel, depthwise) of the other: "
                f"{key_names(lacking)}"
            )


def has_kernels(file: Path) -> bool | None:
    """Whether a file is a table of LayerMerge, None where it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return any(name.strip() in KERNEL_COLUMNS for name in header)


def load_kernel_times(file: Path) -> dict[KernelKey, float]:
    """T(i, j, k) in ms, 0 or more. Raises SearchError, which names key, file and line."""
    found = _load(file, ("time",))
    for key, (line, value) in found.items():
        # What becomes nothing takes no time.
        if value < 0 or (value == 0 and key.kernel):
            raise line.error(f"time must be above 0 ms, got {value}")
    return {key: value for key, (_, value) in found.items()}


def load_kernel_importance(file: Path) -> dict[KernelKey, float]:
    """I(i, j, k). Raises SearchError, which names key, file and line."""
    found = _load(file, ("importance", "imp", "val_acc"))
    raw = not {"importance", "imp"} & set(next(iter(found.values()))[0].values)
    return {key: math.exp(v / 100) if raw else v for key, (_, v) in found.items()}


def _load(file: Path, columns: Sequence[str]) -> dict[KernelKey, tuple[CsvLine, float]]:
    names = f"st, end, {' or '.join(KERNEL_COLUMNS)}, and {' or '.join(columns)}"
    fix = f"give a CSV with the columns {names}"
    source = CsvSource(where=str(file), error=ImportanceError, fix=fix)
    lines = load_lines(file, source, ("st", "end"))
    header = lines[0].values
    kernel = next((name for name in KERNEL_COLUMNS if name in header), None)
    column = next((name for name in columns if name in header), None)
    if kernel is None or column is None:
        raise source.bad(f"it needs kernel (or ker) and {' or '.join(columns)}", 1)
    found: dict[KernelKey, tuple[CsvLine, float]] = {}
    for line in lines:
        key = KernelKey(line.whole("st"), line.whole("end"), line.whole(kernel), _depthwise(line))
        if key.i >= key.j:
            raise line.error(f"st {key.i} must be smaller than end {key.j}")
        if key in found:
            raise line.error(f"key {tuple(key)} stands on line {found[key][0].number} already")
        found[key] = line, line.number_in(column)
    return found


def _depthwise(line: CsvLine) -> int:
    text = line.values.get("is_dw", "").strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise line.error(f"is_dw must be True or False, got {text!r}")
    return int(text in _TRUE)
