"""A wall clock that is set while something is measured: no duration may be read from it.

On the device ``faketime`` makes it jump by an hour, forth or back, each time that anyone looks; the
clocks that only go forward are left alone, as they are when an administrator or NTP sets the time.
The host cannot run under ``faketime``, which breaks ``time.sleep`` from Python 3.11 on: there it is
Python's own ``time.time`` that jumps.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices.agent.protocol import file_digest
from devices.connection import AGENT_FOLDER, LocalConnection
from latency_tables.opspec import Activation, Conv, OpSpec
from profiler.workloads import build_onnx

Job = Callable[..., dict[str, Any]]

PATIENCE_S = 120.0
JUMPS_S = {"forth": 3600, "back": -3600}
BUSY_US = 200
SMALL = OpSpec(
    input_shape=(8, 16, 16),
    ops=(
        Conv(inputs=(0,), out_channels=8, kernel=(3, 3), pads=(1, 1, 1, 1)),
        Activation(inputs=(1,), function="relu6"),
    ),
)
needs_faketime = pytest.mark.skipif(
    shutil.which("faketime") is None, reason="faketime is not installed: apt-get install faketime"
)

#: A profile of a small network by real agents on this machine, in a process whose clock jumps.
PROFILE = """
import sys
import time
from contextlib import closing
from itertools import count
from pathlib import Path

looks = count()
time.time = lambda: 2e9 + 3600 * (number := next(looks)) * (-1) ** number

from devices.agent.protocol import Rule
from devices.connection import LocalConnection
from devices.inventory import load_inventory
from profiler.target import Target, probe_conditions
from profiler.profile import ProfileRequest, profile
from profiler.scheduling.serial import SerialScheduler
from profiler.settings import ProfileSettings
from profiler.workloads import build_onnx
from small_network import compose, network_pieces, operators

rule = Rule(
    warmup_s=0.0, warmup_cap_s=0.01, window_s=0.002, min_samples=5, min_total_s=0.0, cap_s=0.02
)
with closing(SerialScheduler(LocalConnection())) as scheduler:
    conditions = probe_conditions(
        load_inventory().get("local"), scheduler, Target(runtime="onnxruntime")
    )
    request = ProfileRequest(
        pieces=network_pieces(), compose=compose, operators=operators, build=build_onnx,
        conditions=conditions, folder=Path(sys.argv[1]), date="2026-01-01", dshrink_version="1",
        check=2, time_limit_s=1e-3, settings=ProfileSettings(rounds=1, repeats=0, rule=rule),
    )
    made = profile(request, scheduler)
assert made.session.failed == 0, made.session
assert all(row.latency_ms > 0 for row in made.table.rows), made.table
"""


@pytest.fixture(params=JUMPS_S)
def jumping_python(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An interpreter whose wall clock jumps at each look."""
    jump_s = JUMPS_S[request.param]
    python = tmp_path / "python"
    jumping = f"faketime --exclude-monotonic -f '+0 i{jump_s}'"
    python.write_text(f'#!/bin/sh\nexec {jumping} "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    looks = "import time; print(time.time() - time.time(), time.monotonic() - time.monotonic())"
    shown = subprocess.run([python, "-c", looks], capture_output=True, text=True, check=True)
    wall_s, monotonic_s = map(float, shown.stdout.split())
    assert wall_s == pytest.approx(-jump_s, abs=60) and abs(monotonic_s) < 60
    return str(python)


def check_durations(result: dict[str, Any], elapsed_s: float) -> None:
    """Whatever the agent says it took fits into the time that the host waited for it."""
    durations = {name: value for name, value in result.items() if name.endswith("_s")}
    assert {"warmup_s", "prepare_s"} <= set(durations)
    assert all(0 <= value <= elapsed_s for value in durations.values()), durations
    for samples in (result["wall_ns"], result["cpu_ns"]):
        assert len(samples) >= 3 and min(samples) > 0
        assert sum(samples) * result["runs_per_sample"] <= elapsed_s * 1e9


@needs_faketime
@pytest.mark.parametrize("runtime", ["fake", "onnxruntime"])
def test_an_agent_measures_as_ever_while_the_wall_clock_jumps(
    jumping_python: str, fake_job: Job, tmp_path: Path, runtime: str
) -> None:
    job = fake_job("work", busy_us=BUSY_US)
    if runtime != "fake":
        file = tmp_path / "model.onnx"
        file.write_bytes(build_onnx(SMALL))
        job |= {"runtime": runtime, "file": str(file), "sha256": file_digest(str(file))}
    with LocalConnection(python=jumping_python).start_agent() as agent:
        start = time.monotonic()
        result = agent.request(job, PATIENCE_S)
        check_durations(result, time.monotonic() - start)
    assert runtime != "fake" or min(result["wall_ns"]) >= BUSY_US * 1000


def test_a_profile_is_made_as_ever_while_the_wall_clock_of_the_host_jumps(tmp_path: Path) -> None:
    repository = AGENT_FOLDER.parents[1]
    paths = [str(repository), str(repository / "tests" / "profiler")]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROFILE, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "DSHRINK_DEVICES": "none.toml"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    elapsed_s = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    took_s = [line["took_s"] for line in lines if "took_s" in line]
    assert took_s and min(took_s) > 0 and sum(took_s) <= elapsed_s
