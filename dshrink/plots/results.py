"""The rows of a benchmark's CSV that a picture needs, read strictly.

Any CSV with these columns will do, so results of several runs can be put into one file. What a
picture does not need is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dshrink.plots.errors import PlotError
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines

#: What was measured: networks that agree in all of these form one series.
SERIES_COLUMNS = (
    *("model", "device", "runtime", "precision", "batch", "threads", "clock"),
    *("launch", "cache_mode", "resolution"),
)
#: What older files, which lack these columns, meant.
NEWER_COLUMNS = {"launch": "plain", "cache_mode": "hot", "resolution": ""}
COLUMNS = (
    "network",
    "keep_mask",
    "kept_blocks",
    *SERIES_COLUMNS,
    "throughput_fps",
    "throughput_low_fps",
    "throughput_high_fps",
    "predicted_ms",
    "predicted_low_ms",
    "predicted_high_ms",
)
MEND = "write it with `dshrink bench MODEL ... --out results.csv`"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResult:
    """One measured network. ``throughput_fps`` and its interval are None where it failed.

    ``kept_blocks`` is None for a network whose blocks are not known (somebody's ONNX file), the
    prediction where no table was given. ``series`` has the values of SERIES_COLUMNS.
    """

    network: str
    series: tuple[str, ...]
    block_count: int | None
    kept_blocks: int | None
    throughput_fps: float | None
    low_fps: float | None
    high_fps: float | None
    predicted_fps: float | None
    predicted_low_fps: float | None
    predicted_high_fps: float | None


def load_results(path: Path) -> tuple[NetworkResult, ...]:
    """Read the CSV that ``dshrink bench`` writes. Raises PlotError, which names the line."""
    columns = [name for name in COLUMNS if name not in NEWER_COLUMNS]
    source = CsvSource(where=str(path), error=PlotError, fix=MEND, title="network")
    return tuple(_result(line) for line in load_lines(path, source, columns))


def _result(line: CsvLine) -> NetworkResult:
    batch = _whole(line, "batch")
    if not batch:
        raise line.bad("batch", "1 or more")
    kept_blocks, mask = _whole(line, "kept_blocks"), line.text("keep_mask")
    if kept_blocks is not None and mask and mask.count("1") != kept_blocks:
        raise line.bad("kept_blocks", f"{mask.count('1')}, the 1s of keep_mask {mask}")
    low, fps, high = _ordered(line, "throughput_low_fps", "throughput_fps", "throughput_high_fps")
    predicted = _ordered(line, "predicted_low_ms", "predicted_ms", "predicted_high_ms")
    # The slowest latency is the smallest throughput.
    high_fps, predicted_fps, low_fps = (
        None if ms is None else 1000 * batch / ms for ms in predicted
    )
    return NetworkResult(
        network=line.text("network"),
        series=tuple(
            line.text(name) if name in line.values else NEWER_COLUMNS[name]
            for name in SERIES_COLUMNS
        ),
        block_count=len(mask) or None,
        kept_blocks=kept_blocks,
        throughput_fps=fps,
        low_fps=low,
        high_fps=high,
        predicted_fps=predicted_fps,
        predicted_low_fps=low_fps,
        predicted_high_fps=high_fps,
    )


def _whole(line: CsvLine, name: str) -> int | None:
    return line.whole(name) if line.text(name) else None


def _ordered(line: CsvLine, low: str, middle: str, high: str) -> tuple[float | None, ...]:
    """A value with its interval; the interval may be missing, the value may be, both may."""
    values = tuple(
        line.number_in(name, above=0) if line.text(name) else None for name in (low, middle, high)
    )
    known = [value for value in values if value is not None]
    if known != sorted(known):
        raise line.bad(middle, f"between {low} and {high}")
    return values
