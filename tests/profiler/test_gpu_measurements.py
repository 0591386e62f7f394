"""What a GPU's samples become: its own clock, host-bound rows, what was built, layers."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_network import latency_ms, small_plan

from devices.errors import AgentLostError, JobFailedError
from latency_tables.schema import Conditions
from profiler.errors import MeasurementError
from profiler.fake_device import FakeAgent, FakeConnection
from profiler.journal_lines import read_entry, write_entry
from profiler.levels import judge, levelled
from profiler.measurement import Measurement
from profiler.replies import Failure, LayerTimes, Reply, Samples, parse_result
from profiler.scheduling.board_protocol import run_blocking
from profiler.scheduling.direct_board import DirectBoard
from profiler.table.audit import audit, speed_limit

MS = 1_000_000
GPU_FP32 = Conditions(
    device="d", runtime="tensorrt", runtime_version="8.5.3", clock="cuda_events", batch=2
)


def of_gpu(device_ms: float, enqueue_ms: float = 0.01, precision: str = "fp16") -> Samples:
    count = 12
    return Samples(
        wall_ns=(round(2 * device_ms * MS),) * count,
        device_ns=(round(device_ms * MS),) * count,
        enqueue_ns=(round(enqueue_ms * MS),) * count,
        built={"precision": precision} if precision else {},
    )


def measurement(*parts: Samples, job_id: str = "j") -> Measurement:
    replies = tuple(
        Reply(job_id=job_id, round=number, attempt=0, board="b", outcome=part)
        for number, part in enumerate(parts)
    )
    return Measurement(job_id=job_id, replies=replies, clock="cuda_events", half_width=0.005)


def test_the_latency_is_what_the_gpu_says_and_the_wall_clock_stands_beside_it() -> None:
    m = measurement(of_gpu(1.0), of_gpu(1.0), of_gpu(1.0))
    assert (m.latency_ms, m.wall_latency_ms, m.cpu_latency_ms) == (1.0, 2.0, None)
    assert m.verdict == "ok" and m.enqueue_ms == 0.01 and m.built_precision == "fp16"


def capped(samples: Samples, ns: int) -> Samples:
    """The same, its clock held down by the power limit for so long."""
    before, after = ({"gpu": {"power_violation_ns": 7_000_000 + more}} for more in (0, ns))
    return replace(samples, health_before=before, health_after=after)


def test_a_latency_that_the_power_limit_decides_says_so_and_is_valid() -> None:
    """12 runs of 2 ms by the wall clock are 24 ms."""
    m = measurement(of_gpu(1.0), capped(of_gpu(1.0), 6 * MS), capped(of_gpu(1.0), 3 * MS))
    assert (m.verdict, m.latency_ms) == ("ok", 1.0)
    assert m.reason == "the power limit held the GPU's clock down for 25 %"
    assert measurement(*[capped(of_gpu(1.0), 100)] * 3).reason == ""
    assert measurement(*[of_gpu(1.0)] * 3).reason == ""
    bound = measurement(*[capped(of_gpu(1.0, enqueue_ms=0.9), 6 * MS)] * 3)
    verdict, reason = judge(bound, levelled([bound], GPU_FP32)["j"], 0.1)
    assert verdict == "host_bound" and reason.endswith("; " + bound.note)


def test_what_was_built_in_place_of_what_was_asked_for_is_the_note_of_a_valid_row() -> None:
    note = "fp32 was built where fp16 was asked for: none of its 1 layers that multiply is in fp16"
    other = replace(of_gpu(1.0), built={"precision": "fp32", "precision_note": note})
    m = measurement(other, other, of_gpu(1.0))
    assert (m.verdict, m.reason, m.built_precision) == ("ok", note, "fp16 / fp32")
    assert judge(m, levelled([m], GPU_FP32)["j"], 0.1) == ("ok", note)


def test_a_row_whose_host_sets_the_pace_is_marked_and_says_the_way_out() -> None:
    bound = measurement(*[of_gpu(1.0, enqueue_ms=0.81)] * 3)
    assert bound.host_bound and bound.verdict == "host_bound"
    assert "--launch cuda_graph" in bound.reason
    free = measurement(*[of_gpu(1.0, enqueue_ms=0.79)] * 3)
    assert not free.host_bound and free.verdict == "ok"


def test_noise_is_said_before_the_host() -> None:
    noisy = measurement(of_gpu(1.0, 0.9), of_gpu(1.2, 0.9), of_gpu(1.1, 0.9))
    assert noisy.verdict == "noisy"


def test_builds_of_several_precisions_are_all_named() -> None:
    m = measurement(of_gpu(1.0), of_gpu(1.0, precision="fp16+fp32"), of_gpu(1.0))
    assert m.built_precision == "fp16 / fp16+fp32"
    assert measurement(of_gpu(1.0, precision="")).built_precision == ""


def of_engine(device_ms: float, engine: str) -> Samples:
    return replace(of_gpu(device_ms), built={"engine_sha256": engine})


def test_the_latency_is_the_median_of_the_builds_of_the_rounds() -> None:
    builds = [of_engine(ms, f"engine {ms}") for ms in (0.95, 1.0, 1.01, 1.0, 1.2, 0.99)]
    m = measurement(*builds)
    assert m.latency_ms == 1.0
    assert (m.low_ms, m.high_ms) == (0.95, 1.2)
    # An engine that is built again counts as often as it is built: that is how likely it is.
    again = measurement(*builds, *[of_engine(0.95, "engine 0.95")] * 6)
    assert again.latency_ms == 0.95


def test_each_processor_answers_for_its_own_throttling() -> None:
    slowed = {"gpu": {"slowed_by": ["hardware slowdown"]}, "throttle_events": 0}
    gpu = replace(of_gpu(1.0), cpu_ns=(1,), health_before=slowed, health_after=slowed)
    assert "hardware slowdown" in gpu.throttled("cuda_events")
    assert gpu.throttled("thread_cpu") == "" == gpu.throttled("wall")
    cpu = replace(gpu, health_before={"throttle_events": 0}, health_after={"throttle_events": 2})
    assert cpu.throttled("cuda_events") == ""
    assert "2 times" in cpu.throttled("thread_cpu")


def test_samples_of_a_cpu_have_no_gpu_times() -> None:
    of_cpu = Samples(wall_ns=(1, 2))
    with pytest.raises(MeasurementError, match='no times of the clock "cuda_events"'):
        of_cpu.times_ns("cuda_events")
    m = Measurement(
        job_id="j",
        replies=(Reply(job_id="j", round=0, attempt=0, board="b", outcome=of_cpu),),
        clock="wall",
    )
    assert m.enqueue_ms is None and not m.host_bound


def test_results_survive_the_journal() -> None:
    layers = LayerTimes(layers=(("t1/Conv", (5, 6)), ("reformat", (1, 1))))
    for outcome in (of_gpu(1.0), layers, Samples(wall_ns=(3,)), Failure(type="t", message="m")):
        reply = Reply(job_id="j", round=1, attempt=0, board="b", outcome=outcome)
        line = json.loads(json.dumps(write_entry(reply)))
        assert read_entry(line, "here") == reply


@pytest.mark.parametrize(
    "result",
    [
        {"layers": []},
        {"layers": [["t1/Conv", []]]},
        {"layers": [["t1/Conv", [-1]]]},
        {"layers": [["t1/Conv"]]},
        {"layers": 3},
        {"wall_ns": [1], "device_ns": [0]},
        {"wall_ns": [1], "device_ns": "soon"},
        {"wall_ns": [1], "built": 3},
    ],
)
def test_what_is_no_result_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError):
        parse_result(result)


def test_no_gpu_is_as_fast_as_the_limit_and_real_ones_stay_below() -> None:
    limit = speed_limit(GPU_FP32)
    assert limit is not None
    # An H200: 67 TFLOPS fp32 and 4.8 TB/s (NVIDIA's data sheet).
    assert limit.macs_per_s > 2 * 33.5e12 and limit.bytes_per_s > 4.8e12
    plan = small_plan()
    impossible = {job.id: measurement(*[of_gpu(1e-6)] * 3, job_id=job.id) for job in plan.jobs}
    assert audit(plan.jobs, impossible, GPU_FP32)
    possible = {job.id: measurement(*[of_gpu(1.0)] * 3, job_id=job.id) for job in plan.jobs}
    assert not audit(plan.jobs, possible, GPU_FP32)


def recall(monkeypatch: pytest.MonkeyPatch, answer: Any) -> tuple[Any, list[Any], DirectBoard]:
    asked: list[Any] = []

    def request(agent: FakeAgent, message: Any, timeout_s: float) -> Any:
        asked.append(message)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(FakeAgent, "request", request)
    board = DirectBoard(FakeConnection(latency_ms=latency_ms))
    return run_blocking(board.recall("tensorrt")), asked, board


def test_what_a_runtime_learned_is_recalled(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"state": base64.b64encode(b"cache").decode()}
    learned, asked, _ = recall(monkeypatch, said)
    assert learned == b"cache"
    assert asked == [{"do": "state", "runtime": "tensorrt"}]


@pytest.mark.parametrize(
    "answer",
    [
        {"state": None},
        {"state": "no base64!"},
        {"state": 3},
        {},
        JobFailedError("worker_crashed", "gone", "go on"),
        AgentLostError("connection_lost", "gone", "go on"),
    ],
)
def test_no_run_ends_for_want_of_what_was_learned(
    monkeypatch: pytest.MonkeyPatch, answer: Any, tmp_path: Path
) -> None:
    learned, _, board = recall(monkeypatch, answer)
    assert learned is None
    monkeypatch.undo()
    assert run_blocking(board.begin()).cpu_model == "scripted"
