"""Latencies that others published, read by key from their CSV files.

Two forms are known. Kim et al. (ICML 2023): ``id,st,end,time,stdev``, a line a span (st, end] with
T(st, end) in ms; ``id`` is a line's number and means nothing. DepthShrinker (ICML 2022):
``model,block,original_ms,merged_ms``, a line a block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from latency_tables.csv_lines import CsvLine, CsvSource, load_lines
from latency_tables.errors import TableFormatError
from latency_tables.places import Place, piece_name

SPAN_COLUMNS = ("st", "end", "time")
BLOCK_COLUMNS = ("model", "block", "original_ms", "merged_ms")
#: Optional columns of a table of spans.
_SPAN_EXTRAS = ("id", "stdev")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTime:
    """One latency in ms; ``stdev_ms`` is None where the source gives none."""

    place: Place
    latency_ms: float
    stdev_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTimes:
    """The latencies of one network; ``segments`` says what it is cut into: "spans" or "blocks"."""

    segments: str
    times: tuple[PublishedTime, ...]


def load_times(path: Traversable, where: str, model: str = "") -> PublishedTimes:
    """The latencies of ``model`` from a CSV in either form.

    A table of spans does not name its network; without ``model`` no other table will do. Raises
    TableFormatError, which names ``where``, the line, and what is wrong with it.
    """
    spans = f"{','.join(SPAN_COLUMNS)} (and {' or '.join(_SPAN_EXTRAS)})"
    fix = (
        f"give a CSV with the columns {spans} or {','.join(BLOCK_COLUMNS)}, or published:NAME for "
        "a table that ships with dshrink"
    )
    lines = load_lines(path, CsvSource(where=where, error=TableFormatError, fix=fix))
    if "st" in lines[0].values or "end" in lines[0].values:
        _check_columns(lines[0], SPAN_COLUMNS, _SPAN_EXTRAS)
        segments, found = "spans", [(line, _span_time(line)) for line in lines]
    else:
        _check_columns(lines[0], BLOCK_COLUMNS, ())
        segments, found = "blocks", list(_block_times(lines, model))
    _check_keys(found)
    return PublishedTimes(segments=segments, times=tuple(time for _, time in found))


def _check_columns(line: CsvLine, needed: Collection[str], extras: Collection[str]) -> None:
    missing = [name for name in needed if name not in line.values]
    unknown = [name for name in line.values if name not in (*needed, *extras)]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            raise line.source.bad(f"{problem} column(s) {', '.join(names)}", 1)


def _span_time(line: CsvLine) -> PublishedTime:
    i, j = line.whole("st"), line.whole("end")
    if i >= j:
        raise line.bad("st", f"smaller than end {j}: a span holds convolutions st+1..end")
    stdev_ms = line.number_in("stdev") if line.values.get("stdev", "").strip() else None
    if stdev_ms is not None and stdev_ms < 0:
        raise line.bad("stdev", "0 or more")
    latency_ms = line.number_in("time", above=0)
    return PublishedTime(place=("span", (i, j)), latency_ms=latency_ms, stdev_ms=stdev_ms)


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
