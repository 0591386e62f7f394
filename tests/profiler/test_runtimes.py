"""What each runtime can be asked for, on which processor, and what it is told."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest
from small_network import latency_ms

from devices.agent import runtimes as on_device
from devices.inventory import CATALOG, Device, load_inventory
from latency_tables.schema import Conditions
from profiler.errors import SessionError
from profiler.fake_device import FakeConnection
from profiler.measurement import HALF_WIDTH
from profiler.runtimes import (
    GPU_RULE,
    TRAITS,
    file_precision,
    request_options,
    traits,
    traits_of,
)
from profiler.scheduling.serial import SerialScheduler
from profiler.settings import settings_for
from profiler.target import Target, probe_conditions

GPU = Conditions(
    device="d",
    runtime="tensorrt",
    runtime_version="8.6.0",
    clock="cuda_events",
    power_mode="gpu default",
)


def test_host_and_device_know_the_same_runtimes() -> None:
    assert {name for name, _ in TRAITS} == set(on_device.RUNTIMES)


def test_whatever_the_host_asks_for_the_device_checks() -> None:
    for (name, processor), able in TRAITS.items():
        clock = "cuda_events" if processor == "gpu" else "wall"
        taken = on_device.get(name).OPTIONS
        for precision in able.precisions:
            for launch in able.launches:
                for cache_mode in able.cache_modes:
                    asked = Conditions(
                        device="d",
                        runtime=name,
                        runtime_version="1",
                        clock=clock,
                        precision=precision,
                        launch=launch,
                        cache_mode=cache_mode,
                    )
                    for option, value in request_options(asked).items():
                        assert taken[option](option, value) == value
        if able.builds:
            assert {"build", "engine_sha256"} <= set(taken)
        if able.builds:
            assert {"timing_cache", "timing_cache_sha256"} <= set(taken)


def test_every_runtime_of_the_catalog_is_known_on_its_processor_or_not_driven_yet() -> None:
    tables = tomllib.loads(CATALOG.read_text())
    for device in load_inventory().devices.values():
        for name, support in device.runtimes.items():
            is_known = (name, support.processor) in TRAITS
            assert is_known == (name in on_device.RUNTIMES), (device.name, name)
    assert tables["tx2"]["runtimes"]["tensorrt"]["processor"] == "gpu"


def test_a_runtime_elsewhere_is_an_error_that_lists_what_there_is() -> None:
    with pytest.raises(
        SessionError,
        match=r"tensorrt on a cpu is not supported .*: .*tensorrt on a gpu",
    ):
        traits("tensorrt", "cpu")


@pytest.mark.parametrize(
    ("runtime", "version", "precision", "types"),
    [
        ("tensorrt", "8.6.0", "fp32", "fp32"),
        ("tensorrt", "8.6.0", "fp16", "fp32"),
        ("tensorrt", "10.4.0", "fp16", "fp32"),
        ("tensorrt", "11.0.0", "fp16", "fp16"),
        ("trtexec", "11.1", "fp16", "fp16"),
        ("tensorrt", "11.0.0", "fp32", "fp32"),
        ("tensorrt", "8.2.1", "int8", "int8"),
        ("pytorch", "11.0", "fp16", "fp32"),
    ],
)
def test_the_types_are_in_the_file_only_where_the_runtime_takes_them_from_there(
    runtime: str, version: str, precision: str, types: str
) -> None:
    asked = replace(GPU, runtime=runtime, runtime_version=version, precision=precision)
    assert file_precision(asked) == types


def test_the_device_is_told_what_the_conditions_say() -> None:
    assert request_options(replace(GPU, precision="fp16", launch="cuda_graph")) == {
        "precision": "fp16",
        "launch": "cuda_graph",
        "cache": "hot",
    }
    assert request_options(replace(GPU, runtime="trtexec")) == {
        "precision": "fp32",
        "launch": "plain",
    }
    on_cpu = replace(GPU, runtime="pytorch", clock="thread_cpu", launch="compiled")
    assert request_options(on_cpu)["processor"] == "cpu"
    assert request_options(replace(GPU, runtime="pytorch"))["processor"] == "gpu"
    assert request_options(replace(GPU, runtime="onnxruntime", clock="wall")) == {}


def test_a_gpu_is_timed_in_longer_blocks_and_to_a_narrower_interval() -> None:
    of_gpu = settings_for(GPU, seed=3)
    assert (of_gpu.rule, of_gpu.half_width, of_gpu.seed) == (GPU_RULE, 0.005, 3)
    assert of_gpu.rule.sample_s >= 0.002
    of_jetson = settings_for(replace(GPU, power_mode="MAXN"))
    assert (of_jetson.rule, of_jetson.half_width) == (GPU_RULE, HALF_WIDTH)
    of_cpu = settings_for(replace(GPU, runtime="onnxruntime", clock="wall"))
    assert of_cpu.half_width == HALF_WIDTH and of_cpu.rule != GPU_RULE
    assert traits_of(GPU).layer_profiles


# What a user asks for, and what the device says.


def conditions(target: Target, name: str = "local_gpu", **said: Any) -> Conditions:
    device: Device = load_inventory().get(name)
    connection = FakeConnection(latency_ms=latency_ms)
    facts = {
        "runtimes": {"tensorrt": "8.6.0", "pytorch": "2.4", "onnxruntime": "1.20"},
        "gpu": {"name": "G", "held_mhz": None},
        **said,
    }
    usual = connection.environment()
    connection.environment = lambda: replace(usual, **facts)  # type: ignore[method-assign]
    return probe_conditions(device, SerialScheduler(connection), target)


def test_a_gpu_is_measured_at_the_papers_batch_by_its_own_clock_and_the_median() -> None:
    found = conditions(Target(runtime="tensorrt"))
    assert (found.batch, found.clock, found.statistic) == (128, "cuda_events", "median")
    assert (found.launch, found.cache_mode, found.power_mode) == ("plain", "hot", "gpu default")
    assert conditions(Target(runtime="tensorrt", batch=4, statistic="quiet")).batch == 4
    with pytest.raises(SessionError, match=r"statistic 'quiet-1' is not one of quiet, median$"):
        conditions(Target(runtime="tensorrt", statistic="quiet-1"))
    assert (
        conditions(Target(runtime="onnxruntime"), "tx2", runtimes={"onnxruntime": "1.10.0"}).batch
        == 1
    )
    on_cpu = conditions(Target(runtime="pytorch"), name="local")
    assert (on_cpu.batch, on_cpu.clock, on_cpu.statistic) == (1, "thread_cpu", "quiet")


def test_held_clocks_are_part_of_the_conditions() -> None:
    held = conditions(Target(runtime="tensorrt"), gpu={"name": "G", "held_mhz": 1380})
    assert held.power_mode == "gpu 1380 MHz"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (Target(runtime="tensorrt", launch="compiled"), "--launch compiled: dshrink measures pl"),
        (Target(runtime="pytorch", precision="int8"), "--precision int8: dshrink measures fp32"),
        (Target(runtime="trtexec", cache_mode="cold"), "--cache cold: dshrink measures hot"),
        (Target(runtime="tensorrt", threads=2), "--threads 2: a GPU is given its work by one"),
        (Target(runtime="trtexec"), "has no trtexec; install it there"),
        (Target(runtime="onnxruntime"), "has no runtime 'onnxruntime' in its entry"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(target: Target, problem: str) -> None:
    with pytest.raises(SessionError, match=problem):
        conditions(target)


def test_a_runtime_that_is_installed_and_does_not_start_says_why() -> None:
    problems = {"trtexec": "trtexec cannot be run: it ended by SIGILL; run it by hand"}
    with pytest.raises(SessionError, match="local_gpu: trtexec cannot be run: it ended by SIGILL"):
        conditions(Target(runtime="trtexec"), runtime_problems=problems)


def test_a_machine_without_a_gpu_is_told_where_to_look() -> None:
    with pytest.raises(SessionError, match="local_gpu shows no GPU: join the group `video`"):
        conditions(
            Target(runtime="tensorrt"), gpu=None, gpu_problem="join the group `video` (error 100)"
        )
