"""LayerMerge (Kim et al., ICML 2024): which layers go as well, by the kernel size that is left.

A span (i, j] may become convolutions of several kernel sizes k, depending on which of its own are
replaced by nothing; T(i, j, k) and I(i, j, k) are joined by key (the public code pairs them by
their order in the files). Every span ends with an activation, so a plan is a path of keys. The
exact frontier takes the same labels as that of spans; importances add up.

The files have the public code's columns ``st,end,ker,str,is_dw`` (or ``kernel``; ``is_dw`` only
where the table has depthwise convolutions, ``str`` only where keys differ in the stride alone) with
``time`` or with ``importance``; without that column, ``val_acc`` is taken as
``exp(val_acc / 100)``, the public normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dshrink.search.dp.files import RAW, VALUE_COLUMNS, keyed_lines
from dshrink.search.dp.frontier import ChainPlan, Frontier, points_at_the_end
from dshrink.search.dp.problem import key_names
from dshrink.search.dp.stages import Edge, forwards
from dshrink.search.errors import ImportanceError, NoPlanError
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.formats.layer_merge import KERNEL_COLUMNS, is_depthwise, kernel_column
from latency_tables.wording import counted


class KernelKey(NamedTuple):
    """Span (i, j], the kernel size of its one convolution (0: none), whether that is depthwise.

    ``stride`` is 0 where it tells no keys apart: that of a span follows from the network.
    """

    i: int
    j: int
    kernel: int
    depthwise: int = 0
    stride: int = 0

    @property
    def text(self) -> str:
        """ "3-7:5", "3-4:3dw" of a depthwise convolution, "3-4:3s2" where the stride is known."""
        stride = f"s{self.stride}" if self.stride else ""
        return f"{self.i}-{self.j}:{self.kernel}{'dw' if self.depthwise else ''}{stride}"


def solve_kernels(
    times: Mapping[KernelKey, float], importance: Mapping[KernelKey, float]
) -> Frontier:
    """The whole frontier of two tables with the same keys. Raises SearchError."""
    check_same_keys(times, importance)
    if not times:
        raise NoPlanError("tables without keys have no plan")
    keys = sorted(times, key=lambda key: (key.j, key.i, *key[2:]))
    edges = [
        Edge((key.i, 1), (key.j, 1), (key.i, key.j), (times[key],), importance[key]) for key in keys
    ]

    def make_plan(path: list[int], costs: tuple[float, ...], importance: float) -> ChainPlan:
        chosen = [keys[number] for number in path]
        return ChainPlan(
            kind="plan",
            mask=" ".join(key.text for key in chosen),
            costs=costs,
            importance=importance,
            layers=sum(key.kernel > 0 for key in chosen),
        )

    length = max(key.j for key in keys)
    reached = forwards(edges, 1)
    points = points_at_the_end(reached, length)
    if not points:
        raise NoPlanError(f"no plan is possible: the spans of the keys do not cover 0 to {length}")
    return Frontier(length, reached, points, make_plan)


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
                f"{whose} lacks {counted(len(lacking), 'key')} (st, end, kernel, depthwise, "
                "stride) of the "
                f"other: {key_names(lacking)}"
            )


def has_kernels(file: Path) -> bool:
    """Whether a file is a table of LayerMerge. Raises SearchError where it cannot be read."""
    source = CsvSource(where=str(file), error=ImportanceError, fix="give a CSV of latencies")
    return bool(kernel_column(load_lines(file, source)[0]))


def load_kernel_times(file: Path) -> dict[KernelKey, float]:
    """T(i, j, k) in ms, 0 or more. Raises SearchError, which names key, file and line."""
    _, lines = _load(file, ("time",))
    times = {key: line.number_in("time") for key, line in lines.items()}
    for key, value in times.items():
        # What becomes nothing takes no time.
        if value < 0 or (value == 0 and key.kernel):
            raise lines[key].error(f"time must be above 0 ms, got {value}")
    return times


def load_kernel_importance(file: Path) -> dict[KernelKey, float]:
    """I(i, j, k). Raises SearchError, which names key, file and line."""
    column, lines = _load(file, VALUE_COLUMNS)
    values = {key: line.number_in(column) for key, line in lines.items()}
    return {k: math.exp(v / 100) for k, v in values.items()} if column == RAW else values


def _load(file: Path, columns: Sequence[str]) -> tuple[str, dict[KernelKey, CsvLine]]:
    names = f"st, end, {' or '.join(KERNEL_COLUMNS)}, and {' or '.join(columns)}"
    fix = f"give a CSV with the columns {names}"
    source = CsvSource(where=str(file), error=ImportanceError, fix=fix)
    column, lines = keyed_lines(file, source, columns, _key, ("st", "end"))
    short = {key._replace(stride=0): line for key, line in lines.items()}
    return column, short if len(short) == len(lines) else lines


def _key(line: CsvLine) -> KernelKey:
    kernel = kernel_column(line)
    if not kernel:
        raise line.source.bad(f"no column {' or '.join(KERNEL_COLUMNS)}", 1)
    depthwise = is_depthwise(line)
    i, j, size = (line.whole(name) for name in ("st", "end", kernel))
    stride = line.whole("str") if "str" in line.values else 0
    return KernelKey(i, j, size, int(depthwise), stride)
