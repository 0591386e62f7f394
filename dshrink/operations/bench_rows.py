"""The row of a benchmarked network: its speed, how it compares, what a table predicts of it.

A network is compared with its ``baseline``, by default the first of the run that was measured, by
the ratio of their visits in the same processes (``profiler.ratios``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork
from dshrink.operations.bench_tables import is_table_of
from dshrink.progress import Notice
from dshrink.results import BenchmarkResult
from latency_tables.errors import LatencyTableError
from latency_tables.predictor import Prediction, predict
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable
from profiler.levels import JobLatency, judge
from profiler.measurement import Measurement
from profiler.ratios import PairedVisits, Ratio, ranks, speedup

MIB = float(1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a network compares; ``ratio`` is None without a latency of both, or against itself."""

    baseline: str = ""
    is_baseline: bool = False
    ratio: Ratio | None = None
    rank: int | None = None


def check_baselines(networks: Sequence[BenchNetwork]) -> None:
    """Raise BenchmarkError for a baseline that is none of the networks."""
    labels = {network.label for network in networks}
    for network in networks:
        if network.baseline and network.baseline not in labels:
            raise BenchmarkError(
                f"{network.label}: its baseline {network.baseline} is not measured: name one of "
                f"{', '.join(sorted(labels))}"
            )


def baselines(
    networks: Sequence[BenchNetwork], latencies: Mapping[str, JobLatency]
) -> list[BenchNetwork | None]:
    """The baseline of each; None where it is not given and nothing has a latency."""
    by_label = {network.label: network for network in reversed(networks)}
    first = next((one for one in networks if one.job.id in latencies), None)
    return [by_label[one.baseline] if one.baseline else first for one in networks]


def standings(
    networks: Sequence[BenchNetwork],
    paired: PairedVisits,
    latencies: Mapping[str, JobLatency],
) -> list[Standing]:
    """How each of the networks compares with its baseline, and with all of them."""
    rank = ranks(paired, latencies, [network.job.id for network in networks])
    found = []
    for network, baseline in zip(networks, baselines(networks, latencies), strict=True):
        job, is_same = network.job.id, False
        ratio = None
        if baseline is not None:
            is_same = baseline.job.id == job
            ratio = None if is_same else speedup(paired, latencies, job, baseline.job.id)
        found.append(
            Standing(
                baseline=baseline.label if baseline else "",
                is_baseline=is_same and job in latencies,
                ratio=ratio,
                rank=rank.get(job),
            )
        )
    return found


def predicted(
    network: BenchNetwork, conditions: Conditions, tables: Sequence[LatencyTable], notice: Notice
) -> Prediction | None:
    """What the first table of this network under these conditions says that can predict it."""
    facts = network.facts
    for table in tables:
        if not is_table_of(table, network) or table.conditions.differences(conditions):
            continue
        # Tables hold merged blocks with the free activation; without it there is no prediction.
        segments = "spans" if table.chain else "blocks"
        same = facts.free_activation and facts.segments == segments
        if not network.original and facts.keep_mask and facts.segments != segments:
            notice(
                f"no prediction for {network.label}: its plan merges {facts.segments}, the table "
                f"is of {segments} (dshrink profile --segments {facts.segments})"
            )
        mask = table.forms.base if network.original else facts.keep_mask if same else ""
        try:
            if mask:
                return predict(table, mask, facts.padding or "repad")
        except LatencyTableError as error:
            notice(f"no prediction for {network.label}: {error}")
    return None


def benchmark_result(
    network: BenchNetwork,
    measurement: Measurement,
    latency: JobLatency | None,
    built: Mapping[str, Any],
    conditions: Conditions,
    prediction: Prediction | None,
    standing: Standing,
) -> BenchmarkResult:
    """The row of a network; ``latency`` is None where there is none.

    ``built`` is what the runtime reports of the engine that it built.
    """
    facts, batch_ms = network.facts, 1000.0 * conditions.batch
    known: dict[str, Any] = dict.fromkeys(_THROUGHPUT)
    latency = None if measurement.failed else latency
    verdict, reason = judge(measurement, latency, measurement.half_width)
    known |= _compared(standing)
    if latency is not None:
        known |= {name: getattr(latency, name) for name in _OF_LATENCY}
        known |= {name: getattr(measurement, name) for name in _OF_MEASUREMENT}
        known["p50_ms"] = measurement.median_ms
        ends = (latency.latency_ms, latency.high_ms, latency.low_ms)
        known |= {name: batch_ms / ms for name, ms in zip(_THROUGHPUT, ends, strict=True)}
        if (memory := measurement.peak_memory_bytes) is not None:
            known["peak_memory_mib"] = memory / MIB
        if (energy_j := measurement.energy_j) is not None:
            known["energy_mj"] = 1000.0 * energy_j / conditions.batch
    if prediction is not None:
        known |= {
            "predicted_ms": prediction.latency_ms,
            "predicted_low_ms": prediction.low_ms,
            "predicted_high_ms": prediction.high_ms,
        }
        if latency is not None:
            ratio = prediction.latency_ms / latency.latency_ms
            known["error_percent"] = 100.0 * (ratio - 1.0)
    has_blocks = facts.segments == "blocks" and facts.keep_mask
    return BenchmarkResult(
        network=network.label,
        **{name: getattr(facts, name) for name in _OF_FACTS},
        **{name: getattr(conditions, name) for name in _OF_CONDITIONS},
        **known,
        kept_blocks=facts.keep_mask.count("1") if has_blocks else None,
        macs=network.macs,
        parameters=network.parameters,
        verdict=verdict,
        reason=reason,
        file=network.file,
        build_s=_number(built, "build_s", 1.0),
        engine_mib=_number(built, "engine_bytes", MIB),
        gpu_memory_mib=_number(built, "device_memory_bytes", MIB),
        resolution="x".join(map(str, network.resolution)) if all(network.resolution) else "",
    )


def _compared(standing: Standing) -> dict[str, Any]:
    ratio = standing.ratio
    return {
        "baseline": standing.baseline,
        "speedup": ratio.speedup if ratio else 1.0 if standing.is_baseline else None,
        "speedup_low": ratio.low if ratio else None,
        "speedup_high": ratio.high if ratio else None,
        "compared": ratio.verdict if ratio else "",
        "rank": standing.rank,
    }


_OF_FACTS = (
    *("model", "keep_mask", "padding", "method", "recipe", "seed"),
    *("accuracy_percent", "validation_images", "data"),
)
_OF_CONDITIONS = (
    *("device", "runtime", "precision", "batch", "threads"),
    *("clock", "statistic", "launch", "cache_mode"),
)
_OF_LATENCY = ("latency_ms", "low_ms", "high_ms")
_OF_MEASUREMENT = ("median_ms", "enqueue_ms", "built_precision", "p95_ms", "p99_ms")
_THROUGHPUT = ("throughput_fps", "throughput_low_fps", "throughput_high_fps")


def _number(facts: Mapping[str, Any], name: str, unit: float) -> float | None:
    return None if facts.get(name) is None else float(facts[name]) / unit
