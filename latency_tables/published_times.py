"""Latencies that others published, read by key from their CSV files.

Three forms are known. Kim et al. (ICML 2023): ``id,st,end,time,stdev``, a line a span (st, end]
with T(st, end) in ms; ``id`` is a line's number and means nothing. LayerMerge (ICML 2024) has lines
of several kernel sizes a span (``formats.layer_merge``). DepthShrinker (ICML 2022):
``model,block,original_ms,merged_ms``, a line a block.

The ``opt_time_*.csv`` of Kim et al. have T_opt in place of T, and ``breaks``, where the fastest way
to run a span is cut: "0,1,2" is the sum of two convolutions. Such a line says nothing of the
span as one convolution, only that this is no faster; the lines without a cut have T.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import pairwise

from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.errors import TableFormatError
from latency_tables.formats.layer_merge import KERNEL_COLUMNS, kernel_column, whole_spans
from latency_tables.places import Place, piece_name
from latency_tables.span_masks import Span
from latency_tables.wording import noun

SPAN_COLUMNS = ("st", "end", "time")
BLOCK_COLUMNS = ("model", "block", "original_ms", "merged_ms")
#: Optional columns of a table of spans, and those that LayerMerge's have besides.
_SPAN_EXTRAS = ("id", "stdev", "breaks")
_KERNEL_EXTRAS = ("id", "stdev", "str", "is_dw", *KERNEL_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTime:
    """One latency in ms; ``stdev_ms`` is None where the source gives none."""

    place: Place
    latency_ms: float
    stdev_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTimes:
    """The latencies of one network; ``segments`` says what it is cut into: "spans" or "blocks".

    ``split`` are the spans that are known to be fastest as several convolutions. ``note`` says what
    else the file holds, which no table of spans has a place for.
    """

    segments: str
    times: tuple[PublishedTime, ...]
    split: frozenset[Span] = frozenset()
    note: str = ""


def load_times(path: Traversable, where: str, model: str = "") -> PublishedTimes:
    """The latencies of ``model`` from a CSV in any of the forms.

    A table of spans does not name its network; without ``model`` no other table will do. Raises
    TableFormatError, which names ``where``, the line, and what is wrong with it.
    """
    columns = f"{','.join(SPAN_COLUMNS)} (and {', '.join(_SPAN_EXTRAS)})"
    fix = (
        f"give a CSV with the columns {columns} or {','.join(BLOCK_COLUMNS)}, or published:NAME "
        "for a table that ships with dshrink"
    )
    lines = load_lines(path, CsvSource(where=where, error=TableFormatError, fix=fix))
    if "st" in lines[0].values or "end" in lines[0].values:
        kernels = bool(kernel_column(lines[0]))
        _check_columns(lines[0], SPAN_COLUMNS, _KERNEL_EXTRAS if kernels else _SPAN_EXTRAS)
        given = len(lines)
        lines = whole_spans(lines) if kernels else lines
        spans = [(line, _span(line)) for line in lines]
        found = [(line, _span_time(line, span)) for line, span in spans]
        _check_keys(found)
        split = _split(spans)
        times = tuple(time for _, time in found if time.place[1] not in split)
        note = (
            f"{given - len(lines)} of {given} latencies are of spans from which convolutions were "
            "dropped (LayerMerge): left out, `dshrink search csv` takes them"
        )
        return PublishedTimes(
            segments="spans", times=times, split=split, note=note if len(lines) < given else ""
        )
    _check_columns(lines[0], BLOCK_COLUMNS, ())
    found = list(_block_times(lines, model))
    _check_keys(found)
    return PublishedTimes(segments="blocks", times=tuple(time for _, time in found))


def _check_columns(line: CsvLine, needed: Collection[str], extras: Collection[str]) -> None:
    missing = [name for name in needed if name not in line.values]
    unknown = [name for name in line.values if name not in (*needed, *extras)]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise line.source.bad(f"{problem} {noun(len(names), 'column')} {', '.join(names)}", 1)


def _span(line: CsvLine) -> Span:
    i, j = line.whole("st"), line.whole("end")
    if i >= j:
        raise line.bad("st", f"smaller than end {j}: a span holds convolutions st+1..end")
    return i, j


def _split(spans: Sequence[tuple[CsvLine, Span]]) -> frozenset[Span]:
    """The spans whose latency is a sum, by the column ``breaks``."""
    parts = {span: [*pairwise(_cuts(line, *span))] for line, span in spans}
    split = frozenset(span for span, found in parts.items() if len(found) > 1)
    for line, span in spans:
        if lacking := [part for part in parts[span] if part not in parts or part in split]:
            raise line.error(
                f"{piece_name(('span', lacking[0]))}, one of its convolutions by breaks, has no "
                "latency of its own"
            )
    return split


def _cuts(line: CsvLine, i: int, j: int) -> list[int]:
    """Where a span's fastest way has the ends of its convolutions, from i to j."""
    text = line.values.get("breaks", "").strip()
    cuts = [int(digits) for digits in re.findall(r"\d+", text)] if text else [i, j]
    if [cuts[:1], cuts[-1:]] != [[i], [j]] or any(a >= b for a, b in pairwise(cuts)):
        raise line.bad("breaks", f"positions from {i} to {j}, as in {i},{j}")
    return cuts


def _span_time(line: CsvLine, span: Span) -> PublishedTime:
    stdev_ms = line.number_if_any("stdev")
    if stdev_ms is not None and stdev_ms < 0:
        raise line.bad("stdev", "0 or more")
    latency_ms = line.number_in("time", above=0)
    return PublishedTime(place=("span", span), latency_ms=latency_ms, stdev_ms=stdev_ms)


def _block_times(lines: Sequence[CsvLine], model: str) -> Iterator[tuple[CsvLine, PublishedTime]]:
    wanted = model.partition(".")[0]
    if not wanted:
        raise lines[0].source.bad("holds blocks, where spans are needed (st,end)")
    models = {line.text("model") for line in lines}
    if wanted not in models:
        raise lines[0].source.bad(f"no rows of {wanted}, only of {', '.join(sorted(models))}")
    for line in lines:
        if line.text("model") == wanted:
            block = line.whole("block")
            for kind in ("original", "merged"):
                latency_ms = line.number_in(f"{kind}_ms", above=0)
                yield line, PublishedTime(place=(kind, block), latency_ms=latency_ms)


def _check_keys(found: Sequence[tuple[CsvLine, PublishedTime]]) -> None:
    first: dict[Place, CsvLine] = {}
    for line, time in found:
        if time.place in first:
            raise line.error(
                f"{piece_name(time.place)} is a duplicate of line {first[time.place].number}"
            )
        first[time.place] = line
