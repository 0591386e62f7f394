"""A list of layers on a scripted device whose truth is known; run as a script it is killed."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from latency_tables.layers.texts import parse_grid
from latency_tables.opspec import OpSpec
from latency_tables.schema import Conditions
from profiler.fake_device import RUNTIME, RUNTIME_VERSION, FakeConnection, write_spec
from profiler.layers.profile import LayersProfile, LayersRequest, profile_layers
from profiler.scheduling.serial import SerialScheduler

CONDITIONS = Conditions(
    device="fake",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)
GRID = parse_grid("cin=8,16,32 cout=8,16 k=1,3 hw=14")


def latency_ms(spec: OpSpec) -> float:
    """Each operator takes its share, and the ends of a file a constant."""
    return 0.01 + sum(
        1e-6 * op.macs([spec.shapes[at] for at in op.inputs]) + 0.002 for op in spec.ops
    )


def device(seed: int = 0, **script: object) -> FakeConnection:
    given = {"latency_ms": latency_ms, "noise": 0.02, "round_noise": 0.01, "seed": seed}
    return FakeConnection(**given | script)  # type: ignore[arg-type]


def request(folder: Path, **changes: object) -> LayersRequest:
    given: dict[str, object] = {
        "layers": GRID.layers,
        "build": write_spec,
        "conditions": CONDITIONS,
        "folder": folder,
        "date": "2026-11-30",
        "dshrink_version": "0",
        "time_limit_s": math.inf,
    }
    return LayersRequest(**given | changes)  # type: ignore[arg-type]


def run(
    folder: Path, on: FakeConnection | None = None, progress=None, **changes: object
) -> LayersProfile:
    return profile_layers(
        request(folder, **changes), SerialScheduler(on or device()), progress=progress
    )


if __name__ == "__main__":

    def say(done: int, total: int, label: str) -> None:
        sys.stdout.write(f"{label}\n")
        sys.stdout.flush()

    run(Path(sys.argv[1]), device(int(sys.argv[2])), progress=say)
