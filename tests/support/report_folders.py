"""A folder with a file of every kind that the page of ``dshrink report`` shows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from synthetic_tables import synthetic_table

from dshrink.results import BenchmarkResult, save_results
from dshrink.search.greedy import greedy
from dshrink.search.plan import save_plan
from latency_tables.csv_lines import write_csv
from latency_tables.io import save_table
from latency_tables.networks import Level
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable

#: What an attacker would call a device, were the page not escaped.
EVIL = "</script><script>alert(1)</script>"
ORIGINAL_MS = (4.0, 2.0, 3.0, 1.0, 5.0, 2.5)
MERGED_MS = (1.0, 2.5, None, 0.25, 2.0, 1.5)
DRIFT = "the machine's speed drifted by up to {} %; close other programs and run again"
LACKS = "the weights were trained with the 4 activations that the merge removes"
CONDITIONS = Conditions(
    device="shed", runtime="onnxruntime", runtime_version="1.31.1", batch=1, clock="thread_cpu"
)
FINGERPRINT = {"cpu_model": "Shed CPU", "cores": 2, "memory_gib": 4.0, "load_average": 0.1}
LEVEL = Level(
    level_percent_low=99.0,
    level_percent_high=101.0,
    spread_percent=20.0,
    moved_percent=30.0,
    processes=12,
    disturbed_percent=40.0,
)


def shed_table(**changes: Any) -> LatencyTable:
    table = synthetic_table(ORIGINAL_MS, MERGED_MS, conditions=CONDITIONS)
    facts = {"level": LEVEL, "fingerprint": FINGERPRINT, "date": "2026-11-30T01:02:03+00:00"}
    return replace(table, **{**facts, "warnings": (DRIFT.format(8.7),), **changes})


def shed_results() -> list[BenchmarkResult]:
    """The network as it is, and merged with four blocks kept: 1.25 times as fast, less accurate."""
    common: dict[str, Any] = {
        **{"model": "synthetic", "device": "shed", "runtime": "onnxruntime", "precision": "fp32"},
        **{"batch": 1, "threads": 1, "clock": "thread_cpu", "baseline": "synthetic"},
        **{"validation_images": 400, "data": "0123456789abcdef", "resolution": "224x224"},
    }
    return [
        BenchmarkResult(
            network="synthetic",
            keep_mask="111111",
            kept_blocks=6,
            **_speed(20.0),
            accuracy_percent=91.0,
            speedup=1.0,
            verdict="ok",
            **common,
        ),
        BenchmarkResult(
            network="plan.onnx",
            keep_mask="011101",
            kept_blocks=4,
            padding="repad",
            **_speed(16.0),
            accuracy_percent=89.5,
            speedup=1.25,
            speedup_low=1.24,
            speedup_high=1.26,
            compared="faster",
            predicted_ms=16.1,
            predicted_low_ms=15.9,
            predicted_high_ms=16.3,
            error_percent=0.625,
            verdict="noisy",
            reason="only 3 rounds",
            **common,
        ),
    ]


def _speed(latency_ms: float) -> dict[str, float]:
    fps = 1000 / latency_ms
    return {
        **{"latency_ms": latency_ms, "low_ms": 0.99 * latency_ms, "high_ms": 1.01 * latency_ms},
        **{"throughput_fps": fps, "throughput_low_fps": 0.99 * fps},
        "throughput_high_fps": 1.01 * fps,
    }


def write_everything(root: Path) -> None:
    """Every kind of file, in the places that the commands write them to."""
    table = shed_table()
    save_table(table, root / "table")
    save_plan(greedy(table, keep=4), root / "plan.json")
    results = shed_results()
    save_results(results, root / "results.csv")
    provenance = {
        "schema": "dshrink.benchmark",
        "schema_version": 1,
        "conditions": CONDITIONS.to_json(),
        "fingerprint": FINGERPRINT,
        "level": asdict(LEVEL),
        "warnings": [DRIFT.format(3.1)],
        "date": "2026-11-30T02:02:03+00:00",
        "dshrink_version": "0.1.0",
    }
    lines = [
        json.dumps({**asdict(one), **provenance, "processes": 7 + at, "measured_s": 1.5})
        for at, one in enumerate(results)
    ]
    (root / "results.jsonl").write_text("\n".join(lines) + "\n")
    _write_json(root / "plan.onnx.certificate.json", CERTIFICATE)
    _write_json(root / "refit" / "refit.json", REFIT)
    _write_json(root / "table2.json", EXPERIMENT)
    points = [(5.0, 70.0, "1|11"), (6.0, 80.0, "1111")]
    write_csv(root / "frontier.csv", ("time_ms", "importance", "mask"), points)
    keys = [(0, 1, 1, 1, -0.5), (1, 2, 1, 1, -1.5), (0, 2, 1, 1, -4.0)]
    names = ("st", "end", "st_act", "end_act", "val_acc")
    write_csv(root / "importance.csv", names, keys)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


_CLOSE = {"absolute": 1e-12, "relative": 1.5e-14}
CERTIFICATE = {
    "model": "synthetic",
    "segments": "blocks",
    "keep_mask": "011101",
    "padding": "repad",
    "blocks": [{"label": "block 0"}, {"label": "block 4"}],
    "network_float64": _CLOSE,
    "network_float32": {"absolute": 1e-3, "relative": 5e-6},
    "problem": "",
    "validation": {
        **{"images": 400, "differing": 3},
        **{"unmerged_accuracy_percent": 89.75, "merged_accuracy_percent": 89.5, "as_original": 240},
    },
    "activations": {
        **{"removed": 4, "added": 0, "trained": "with", "warning": LACKS},
        "advice": ["refit them: dshrink refit", "fine-tune them: dshrink finetune"],
    },
}
REFIT = {
    "model": "synthetic",
    "mask": "011101",
    "padding": "repad",
    "images": 205,
    "seconds": 12.0,
    "held_out": {
        "images": 51,
        "agreement_percent": {"algebraic": 17.6, "refitted": 98.0},
        "accuracy_percent": {},
    },
    "validation": None,
}
EXPERIMENT = {
    "experiment": "table2",
    "dshrink": "0.1.0",
    "date": "2026-11-30T03:02:03+00:00",
    "runs": [
        {
            "conditions": CONDITIONS.to_json(),
            "fingerprint": FINGERPRINT,
            "level": asdict(LEVEL),
            "warnings": [],
        }
    ],
    "rows": [
        {
            **{"network": "MBV2-1.4", "batch": 1, "form": "original", "latency_ms": 14.2},
            **{"speedup": 1.0, "tx2_batch64_speedup": 1.0, "verdict": "ok"},
        },
        {
            **{"network": "MBV2-1.4-DS-A", "batch": 1, "form": "merged", "latency_ms": 11.7},
            **{"speedup": 1.21, "tx2_batch64_speedup": 1.84, "verdict": "ok"},
        },
    ],
}
