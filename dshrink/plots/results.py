"""The rows of a benchmark's CSV that a picture needs, read strictly.

Any CSV with these columns will do, so results of several runs can be put into one file. What a
picture does not need is not looked at.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from dshrink.plots.errors import PlotError

#: What was measured: networks that agree in all of these form one series.
SERIES_COLUMNS = (
    *("model", "device", "runtime", "precision", "batch", "threads", "clock"),
    *("launch", "cache_mode"),
)
#: What older files, which lack these columns, meant.
NEWER_COLUMNS = {"launch": "plain", "cache_mode": "hot"}
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
MEND = "correct it, or measure again with `dshrink bench`"


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
    reader = csv.DictReader(io.StringIO(_read(path), newline=""), strict=True)
    known = {*(reader.fieldnames or ()), *NEWER_COLUMNS}
    missing = [name for name in COLUMNS if name not in known]
    if missing:
        raise PlotError(
            f"{path}: line 1: missing column(s) {', '.join(missing)}; a benchmark's CSV comes from "
            "`dshrink bench MODEL ... --out results.csv`"
        )
    results = []
    try:
        for values in reader:
            results.append(_Line(path, reader.line_num, values).result())
    except csv.Error as error:
        raise PlotError(f"{path}: line {reader.line_num}: not CSV ({error}): {MEND}") from None
    if not results:
        raise PlotError(f"{path}: no rows below the header: {MEND}")
    return tuple(results)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PlotError(
            f"{path}: no such file; write it with `dshrink bench MODEL ... --out {path}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlotError(f"{path}: cannot be read as text ({error}): restore the file") from None


@dataclass(frozen=True, slots=True)
class _Line:
    path: Path
    number: int
    values: dict[str, str | None]

    def result(self) -> NetworkResult:
        if None in self.values or None in self.values.values():
            raise PlotError(
                f"{self.path}: line {self.number}: as many values as columns expected (cut off, or "
                f"a decimal comma?): {MEND}"
            )
        batch = self._whole("batch")
        if not batch:
            raise self._bad("batch", "1 or more")
        kept_blocks, mask = self._whole("kept_blocks"), self._text("keep_mask")
        if kept_blocks is not None and mask and mask.count("1") != kept_blocks:
            raise self._bad("kept_blocks", f"{mask.count('1')}, the 1s of keep_mask {mask}")
        low, fps, high = self._ordered(
            "throughput_low_fps", "throughput_fps", "throughput_high_fps"
        )
        predicted = self._ordered("predicted_low_ms", "predicted_ms", "predicted_high_ms")
        # The slowest latency is the smallest throughput.
        high_fps, predicted_fps, low_fps = (
            None if ms is None else 1000 * batch / ms for ms in predicted
        )
        return NetworkResult(
            network=self._text("network"),
            series=tuple(
                self._text(name) if name in self.values else NEWER_COLUMNS[name]
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

    def _text(self, name: str) -> str:
        return (self.values[name] or "").strip()

    def _bad(self, name: str, expected: str) -> PlotError:
        shown = self._text(name) or "an empty value"
        where = f"{self.path}: line {self.number} ({self._text('network')})"
        return PlotError(f"{where}: {name} must be {expected}, got {shown}: {MEND}")

    def _whole(self, name: str) -> int | None:
        text = self._text(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit()):
            raise self._bad(name, "a whole number, 0 or more")
        return int(text)

    def _positive(self, name: str) -> float | None:
        text = self._text(name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise self._bad(name, "a finite number above 0")
        return value

    def _ordered(self, low: str, middle: str, high: str) -> tuple[float | None, ...]:
        """A value with its interval; the interval may be missing, the value may be, both may."""
        values = tuple(self._positive(name) for name in (low, middle, high))
        known = [value for value in values if value is not None]
        if known != sorted(known):
            raise self._bad(middle, f"between {low} and {high}")
        return values
