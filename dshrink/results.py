"""Benchmark results: the record of one measured network, and the CSV of many.

A file may have more columns than these and, where it was put together by hand, fewer: those of the
conditions and of the throughput are needed, what another one says is then not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from dshrink.errors import DshrinkError
from latency_tables.csv_lines import CsvLine, CsvSource, load_lines, write_csv
from latency_tables.mask_cells import as_text, check_lengths, mask_in

if TYPE_CHECKING:
    import pandas as pd

NEEDED = (
    *("network", "device", "runtime", "precision", "batch", "threads"),
    *("throughput_fps", "throughput_low_fps", "throughput_high_fps"),
)
#: A value and the ends of its interval, all above 0.
_INTERVALS = (
    ("low_ms", "latency_ms", "high_ms"),
    ("throughput_low_fps", "throughput_fps", "throughput_high_fps"),
    ("predicted_low_ms", "predicted_ms", "predicted_high_ms"),
    ("speedup_low", "speedup", "speedup_high"),
)
#: Of a name in a file: no figure has room for a longer one.
LONGEST_TEXT = 300
_ABOVE_ZERO = frozenset(name for names in _INTERVALS for name in names)


class ResultsError(DshrinkError):
    """A file of results that cannot be read: file, line, column, value and how to fix it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """One row of the results file; latencies in ms a batch, throughput in frames per second.

    Where the runtime builds an engine: how long the first build took, how large the engine is, and
    the memory that it and its tensors hold on the GPU. ``method`` to ``recipe`` is what the ONNX
    file says of itself, and not measured here; ``data`` is the digest of the images that its
    accuracy is of. ``resolution`` is "224x224", or empty where the input has none.

    ``speedup`` is against the network ``baseline`` of the same run, by turns in the same processes;
    its interval is None where too few processes measured both, and of a network against itself.
    ``compared`` is "faster", "slower" or "equal" (the interval holds 1), ``rank`` 1 plus the number
    of networks of the run that are clearly faster. The percentiles are of single samples.
    ``energy_mj`` is of one frame.
    """

    network: str
    model: str = ""
    keep_mask: str = ""
    kept_blocks: int | None = None
    padding: str = ""
    device: str
    runtime: str
    precision: str
    batch: int
    threads: int
    clock: str = ""
    statistic: str = ""
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    median_ms: float | None = None
    throughput_fps: float | None
    throughput_low_fps: float | None
    throughput_high_fps: float | None
    predicted_ms: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    error_percent: float | None = None
    macs: int | None = None
    parameters: int | None = None
    verdict: str = ""
    reason: str = ""
    file: str = ""
    launch: str = "plain"
    cache_mode: str = "hot"
    enqueue_ms: float | None = None
    built_precision: str = ""
    build_s: float | None = None
    engine_mib: float | None = None
    gpu_memory_mib: float | None = None
    method: str = ""
    seed: int | None = None
    accuracy_percent: float | None = None
    validation_images: int | None = None
    data: str = ""
    recipe: str = ""
    resolution: str = ""
    baseline: str = ""
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    compared: str = ""
    rank: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    peak_memory_mib: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResults:
    """What files hold; ``places`` are those of the results, such as "r.csv: line 2 (a.onnx)"."""

    results: tuple[BenchmarkResult, ...]
    places: tuple[str, ...]


def load_results(*paths: Path | str) -> StoredResults:
    """Read the CSVs that ``dshrink bench`` and ``dshrink run`` write. Raises ResultsError."""
    fix = "write it with `dshrink bench MODEL ... --out results.csv`"
    lines: list[CsvLine] = []
    for path in map(Path, paths):
        source = CsvSource(where=str(path), error=ResultsError, fix=fix, title="network")
        lines += load_lines(path, source, NEEDED)
    _check_masks(lines)
    return StoredResults(
        results=tuple(_result(line) for line in lines),
        places=tuple(
            f"{line.source.where}: line {line.number} ({line.text('network')})" for line in lines
        ),
    )


def results_frame(results: Sequence[BenchmarkResult]) -> pd.DataFrame:
    """A line a result, its columns those of the CSV; what is not known is NaN or None."""
    import pandas as pd

    return pd.DataFrame([asdict(one) for one in results], columns=list(_kinds()))


def save_results(results: Sequence[BenchmarkResult], path: Path) -> None:
    """Write the results as CSV; the file is replaced in one step."""
    write_csv(path, list(_kinds()), map(asdict, results))


def _check_masks(lines: Sequence[CsvLine]) -> None:
    """Masks of one network have one length: as many characters as blocks, or as convolutions."""
    by_network: dict[tuple[str, bool], list[tuple[CsvLine, str]]] = {}
    for line in lines:
        mask = mask_in(line, "keep_mask")
        if mask and {"model", "kept_blocks"} <= line.values.keys():
            # Only masks of blocks have a number of kept ones.
            network = (line.text("model"), bool(line.text("kept_blocks")))
            by_network.setdefault(network, []).append((line, mask))
    for masks in by_network.values():
        check_lengths(masks, "keep_mask")


def _result(line: CsvLine) -> BenchmarkResult:
    found = BenchmarkResult(**{name: _value(line, name) for name in _kinds()})
    if found.batch < 1:
        raise line.bad("batch", "1 or more")
    if found.accuracy_percent is not None and not 0 <= found.accuracy_percent <= 100:
        raise line.bad("accuracy_percent", "between 0 and 100")
    if found.validation_images == 0:
        raise line.bad("validation_images", "1 or more")
    kept, ones = found.kept_blocks, found.keep_mask.count("1")
    if kept is not None and found.keep_mask and kept != ones:
        raise line.error(
            f"kept_blocks must be {ones}, the 1s of keep_mask {found.keep_mask}, got {kept} "
            f"({as_text('keep_mask')})"
        )
    for low, middle, high in _INTERVALS:
        values = (getattr(found, name) for name in (low, middle, high))
        known = [value for value in values if value is not None]
        if known != sorted(known):
            raise line.bad(middle, f"between {low} and {high}")
    return found


def _value(line: CsvLine, name: str) -> Any:
    """The value of a column; its default where the file lacks the column, or the cell is empty."""
    kind, default = _kinds()[name]
    if not (name in line.values and line.text(name)) and default is not MISSING:
        return default
    if kind is int:
        return line.whole(name)
    if kind is float:
        return line.number_in(name, above=0 if name in _ABOVE_ZERO else None)
    if len(line.text(name)) > LONGEST_TEXT:
        raise line.error(f"{name} has {len(line.text(name))} characters, at most {LONGEST_TEXT}")
    return line.text(name)


@cache
def _kinds() -> dict[str, tuple[type, Any]]:
    """The type of each column, None aside, and its default; no value is a default where allowed."""
    hints = get_type_hints(BenchmarkResult)
    found = {}
    for one in fields(BenchmarkResult):
        kind, *optional = get_args(hints[one.name]) or (hints[one.name],)
        found[one.name] = (kind, None if optional and one.default is MISSING else one.default)
    return found
