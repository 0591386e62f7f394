"""A recorded conversation with TensorRT's worker: both ends still speak it.

recorded_worker.jsonl holds what an agent asked a worker on the simulated GPU, and the answers.
Written by running this file:  python tests/devices/agent/test_recorded_worker.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from devices.agent.protocol import decode, file_digest, parse_request
from devices.agent.worker import AGENT
from latency_tables.opspec import Activation, Conv, OpSpec
from profiler.replies import LayerTimes, Samples, parse_result
from profiler.workloads import build_onnx

RECORD = Path(__file__).with_name("recorded_worker.jsonl")
SIMULATED = Path(__file__).parents[2] / "support" / "fake_gpu"
VERSION = "8.5.3.1"
RULE = {"warmup_s": 0.0, "warmup_cap_s": 0.01, "min_samples": 3, "min_total_s": 0.0, "cap_s": 0.01}
SPEC = OpSpec(
    input_shape=(3, 8, 8),
    ops=(
        Conv(inputs=(0,), out_channels=4, kernel=(3, 3), pads=(1, 1, 1, 1)),
        Activation(inputs=(1,), function="relu6"),
    ),
)
#: What differs from run to run: its value is not compared.
MODEL_PLACE = "MODEL"


def requests(model: Path) -> list[dict[str, Any]]:
    """One of everything a worker is asked, and two requests that must fail."""
    about = {"runtime": "tensorrt"}
    file = {**about, "file": str(model), "sha256": file_digest(str(model)), "rule": RULE}
    asked: Sequence[Mapping[str, Any]] = (
        {"do": "version", **about},
        {"do": "state", **about},
        {"do": "measure", **file, "options": {"precision": "fp16", "launch": "cuda_graph"}},
        {"do": "state", **about},
        {"do": "measure", **file, "options": {"precision": "fp32", "cache": "cold", "build": 1}},
        {"do": "profile", **file, "passes": 3},
        {"do": "measure", **file, "options": {"precision": "int8"}},
        {"do": "measure", **file, "options": {"precision": "fp4"}},
        {"do": "measure", **file, "resources": True},
        {"do": "quit"},
    )
    return [{"protocol": 1, "id": str(n), **message} for n, message in enumerate(asked)]


def converse(model: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Ask a worker on the simulated GPU, and return each request with its reply."""
    asked = requests(model)
    environment = {**os.environ, "PYTHONPATH": str(SIMULATED), "FAKE_TENSORRT": VERSION}
    ended = subprocess.run(
        [sys.executable, AGENT, "work"],
        input="".join(json.dumps(message) + "\n" for message in asked).encode(),
        stdout=subprocess.PIPE,
        check=True,
        env=environment,
        timeout=120,
    )
    replies = [json.loads(line) for line in ended.stdout.splitlines()]
    return list(zip(asked, replies, strict=True))


def recorded() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    lines = [json.loads(line) for line in RECORD.read_text().splitlines()]
    return [(line["request"], line["reply"]) for line in lines]


def form(value: Any) -> Any:
    """What a value is made of: names and types, not the numbers."""
    if isinstance(value, dict):
        return {name: form(one) for name, one in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "model.onnx"
    path.write_bytes(build_onnx(SPEC))
    yield path


def test_a_worker_still_answers_what_was_recorded_in_the_same_form(model: Path) -> None:
    for (_, then), (asked, now) in zip(recorded(), converse(model), strict=True):
        assert form(now) == form(then), asked
        assert (now["ok"], now["id"]) == (then["ok"], then["id"])
        if not now["ok"]:
            assert now["error"]["type"] == then["error"]["type"]


def test_the_recorded_requests_are_still_understood(tmp_path: Path) -> None:
    for asked, reply in recorded():
        whole = json.loads(json.dumps(asked).replace(MODEL_PLACE, str(tmp_path / "model.onnx")))
        request = parse_request(decode(json.dumps(whole).encode()))
        assert request.id == reply["id"]


def test_the_host_reads_what_the_worker_answered() -> None:
    by_request = {asked["id"]: (asked, reply) for asked, reply in recorded()}
    assert by_request["0"][1]["result"] == {"version": VERSION, "problem": ""}
    assert by_request["1"][1]["result"] == {"state": None}
    assert by_request["3"][1]["result"]["state"]
    fp16, cold = (parse_result(by_request[n][1]["result"]) for n in ("2", "4"))
    assert isinstance(fp16, Samples) and isinstance(cold, Samples)
    assert fp16.device_ns and fp16.enqueue_ns and fp16.built["precision"] == "fp16"
    assert cold.built["precision"] == "fp32" and cold.built["flags"]["timing_cache"] == "none"
    layers = parse_result(by_request["5"][1]["result"])
    assert isinstance(layers, LayerTimes) and any("Conv" in name for name, _ in layers.layers)
    failed = [by_request[n][1]["error"]["type"] for n in ("6", "7")]
    assert failed == ["bad_model", "bad_request"]
    taking = parse_result(by_request["8"][1]["result"])
    assert isinstance(taking, Samples) and taking.peak_memory_bytes and taking.energy_j is None


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.onnx"
        place.write_bytes(build_onnx(SPEC))
        lines = [
            json.dumps({"request": asked, "reply": reply}).replace(str(place), MODEL_PLACE)
            for asked, reply in converse(place)
        ]
    RECORD.write_text("\n".join(lines) + "\n")
