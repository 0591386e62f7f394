"""PyTorch on a GPU: the order of its calls, its clocks and its memory, on a strict stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from strict_torch_cuda import IN_USE_BEFORE, LOST, MODEL, ONE_RUN, StrictTorch

from devices.agent.checks import RequestError
from devices.agent.cuda.clocks import EventClocks
from devices.agent.protocol import Rule
from devices.agent.runtimes.pytorch import build as onnx_in_torch
from devices.agent.runtimes.pytorch import runtime as pytorch
from devices.agent.runtimes.pytorch.clocks import TorchGpu
from devices.agent.runtimes.pytorch.model import WARM_RUNS
from latency_tables.opspec import Activation, Conv, OpSpec
from profiler.workloads import build_onnx

RULE = Rule(
    warmup_s=0.0,
    warmup_cap_s=0.0,
    window_s=0.0,
    sample_s=0.002,
    min_samples=3,
    min_total_s=0.0,
    cap_s=0.05,
)
SPEC = OpSpec(
    input_shape=(3, 8, 8),
    ops=(
        Conv(inputs=(0,), out_channels=4, kernel=(3, 3)),
        Activation(inputs=(1,), function="relu"),
    ),
)


@pytest.fixture
def gpu() -> StrictTorch:
    return StrictTorch()


@pytest.fixture
def runtime(gpu: StrictTorch, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytorch.PyTorch]:
    """The runtime on the stand-in, which is told of each run; what is set globally is put back."""
    build = onnx_in_torch.build

    def build_and_tell(*given: Any) -> Any:
        wired = build(*given)
        wired.module.register_forward_pre_hook(lambda *call: gpu.cuda.ran())
        return wired

    monkeypatch.setattr(onnx_in_torch, "build", build_and_tell)
    threads = torch.get_num_threads()
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    made = pytorch.PyTorch()
    made.load()
    made._torch = gpu
    yield made
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = flags


@pytest.fixture
def prepare(runtime: pytorch.PyTorch, tmp_path: Path) -> Callable[..., Any]:
    file = tmp_path / "model.onnx"
    file.write_bytes(build_onnx(SPEC))

    def do(**options: str) -> Any:
        return runtime.prepare(str(file), 1, 0, {"processor": "gpu", **options})

    return do


def test_a_plain_model_is_warm_before_its_memory_is_looked_at(prepare, gpu) -> None:
    model = prepare()
    warm = ["run on main"] * (1 + WARM_RUNS) + ["wait"]
    assert gpu.cuda.log == ["empty_cache", *warm, "reset peak", "run on main", "wait"]
    facts = model.facts()
    assert facts["gpu"] == "Simulated H200" and facts["flags"]["launch"] == "plain"
    # One run and what stays; neither the search nor what others had.
    assert facts["device_memory_bytes"] == MODEL + ONE_RUN
    assert gpu.cuda.memory_allocated() == IN_USE_BEFORE + MODEL


def test_a_graph_is_recorded_between_waits_and_after_runs_on_another_stream(prepare, gpu) -> None:
    model = prepare(launch="cuda_graph")
    assert gpu.cuda.log == [
        "empty_cache",
        "run on main",
        "side waits for main",
        *["run on side"] * WARM_RUNS,
        "main waits for side",
        "reset peak",
        "record",
        "recorded",
        "end of record",
        *["replay"] * WARM_RUNS,
        "wait",
    ]
    # What the graph took when it was recorded: a replay takes nothing.
    assert model.facts()["device_memory_bytes"] == MODEL + ONE_RUN
    gpu.cuda.log.clear()
    model.run(2)
    assert gpu.cuda.log == ["replay", "replay", "wait"]


@pytest.mark.parametrize(("launch", "run"), [("plain", "run on main"), ("cuda_graph", "replay")])
def test_a_measurement_has_the_gpu_s_times(prepare, gpu, launch: str, run: str) -> None:
    model = prepare(launch=launch)
    gpu.cuda.log.clear()
    found = model.measure(RULE, 1)
    assert found.runs_per_sample == 8  # of 0.25 ms in 2 ms
    assert set(found.device_ns) == {250_000}
    assert len(found.enqueue_ns) == len(found.device_ns) and found.cpu_ns is None
    assert gpu.cuda.log[-12:] == [run, "event", *[run] * 8, "event", "wait"]


def test_a_cold_measurement_flushes_before_each_run(prepare, gpu) -> None:
    model = prepare(cache="cold")
    gpu.cuda.log.clear()
    found = model.measure(RULE, 1)
    assert set(found.device_ns) == {250_000}
    assert gpu.cuda.log[-33:] == ["flush", "event", "run on main", "event"] * 8 + ["wait"]


def test_layers_are_timed_between_events_that_were_waited_for(prepare, gpu) -> None:
    model = prepare()
    gpu.cuda.log.clear()
    names = [name for name, _ in model.layers(3)]
    assert names == ["t1/Conv", "result/Relu"]
    assert gpu.cuda.log == (["event"] * 4 + ["wait"]) * 4  # the first pass is thrown away


@pytest.mark.parametrize("launch", ["plain", "cuda_graph"])
def test_closing_drops_everything_and_then_gives_the_memory_back(prepare, gpu, launch: str) -> None:
    model = prepare(launch=launch)
    gpu.cuda.log.clear()
    model.close()
    assert gpu.cuda.log == ["empty_cache"]
    assert model._graph is model._call is model._wired is model.outputs is None
    assert model._inputs == []


@pytest.mark.parametrize("launch", ["plain", "cuda_graph"])
def test_an_error_of_cuda_in_a_run_is_its_own_and_the_gpu_is_known_to_be_lost(
    runtime, prepare, gpu, launch: str
) -> None:
    model = prepare(launch=launch)
    assert not runtime.is_broken()
    gpu.cuda.is_lost = True
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        model.measure(RULE, 1)
    assert runtime.failure(caught.value) is None  # told as it is
    assert runtime.is_broken()


def test_an_error_while_a_graph_is_recorded_leaves_no_recording_open(
    prepare, gpu, monkeypatch
) -> None:
    ran = gpu.cuda.ran

    def fail_when_recorded() -> None:
        ran()
        if gpu.cuda.log[-1] == "recorded":
            raise RuntimeError(LOST)

    monkeypatch.setattr(gpu.cuda, "ran", fail_when_recorded)
    with pytest.raises(RequestError, match="illegal memory access") as caught:
        prepare(launch="cuda_graph")
    assert "launch=plain" in caught.value.advice and caught.value.ends_process
    gpu.cuda.synchronize()  # which a recording would forbid


@pytest.mark.parametrize(("l2_bytes", "at_least"), [(1000, 2000), (None, 256 << 20)])
def test_what_flushes_is_larger_than_the_cache_though_its_size_is_unknown(
    l2_bytes: int | None, at_least: int
) -> None:
    gpu = StrictTorch(l2_bytes)
    clocks = EventClocks(TorchGpu(gpu), 0, cold=True)
    clocks.settle()
    assert gpu.flush_bytes == at_least
    clocks.release()
