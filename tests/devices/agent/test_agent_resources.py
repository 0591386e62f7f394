"""Memory and energy beside a measurement: real networks of known size, and whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.agent import energy, resources, runtimes, worker
from devices.agent.checks import RequestError
from devices.agent.protocol import file_digest, parse_request
from devices.agent.service import Jobs
from devices.agent.timing import Timing
from devices.agent_process import AgentProcess
from devices.connection import LocalConnection
from devices.errors import JobFailedError
from latency_tables.opspec import Linear, OpSpec
from profiler.workloads import build_onnx

MIB = 1 << 20
WIDTH = 4096
WEIGHTS_BYTES = WIDTH * WIDTH * 4
PATIENCE_S = 120.0
QUICK = {"warmup_s": 0.0, "warmup_cap_s": 0.01, "min_samples": 3, "min_total_s": 0.0, "cap_s": 0.05}


def measure(file: Path, runtime: str = "onnxruntime", **fields: Any) -> dict[str, Any]:
    """A request to measure a file quickly."""
    request = {"do": "measure", "runtime": runtime, "file": str(file)}
    return request | {"sha256": file_digest(str(file)), "rule": QUICK} | fields


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network of 64 MiB of weights, and one of next to none."""
    made = {}
    for name, width in (("large", WIDTH), ("small", 16)):
        spec = OpSpec(input_shape=(width,), ops=(Linear(inputs=(0,), out_features=width),))
        made[name] = tmp_path_factory.mktemp("networks") / f"{name}.onnx"
        made[name].write_bytes(build_onnx(spec))
    return made


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    with LocalConnection().start_agent() as process:
        yield process


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


def memory_of(agent: AgentProcess, file: Path, runtime: str = "onnxruntime") -> dict[str, Any]:
    asked = measure(file, runtime, resources=True)
    told: dict[str, Any] = agent.request(asked, PATIENCE_S)["resources"]
    return told


@pytest.mark.parametrize("runtime", ["onnxruntime", "pytorch"])
def test_a_network_of_64_mib_takes_those_and_little_more_while_it_runs(
    agent: AgentProcess, files: dict[str, Path], runtime: str
) -> None:
    told = memory_of(agent, files["large"], runtime)
    assert told["memory_source"] == "vmhwm"
    assert WEIGHTS_BYTES <= told["peak_memory_bytes"] < WEIGHTS_BYTES + 40 * MIB
    # The file is parsed into memory of its own before the weights have their place.
    assert 2 * WEIGHTS_BYTES <= told["loading_memory_bytes"] < 6 * WEIGHTS_BYTES


def test_what_was_measured_before_in_the_same_agent_makes_no_difference(
    agent: AgentProcess, files: dict[str, Path]
) -> None:
    first = memory_of(agent, files["large"])["peak_memory_bytes"]
    small = memory_of(agent, files["small"])["peak_memory_bytes"]
    again = memory_of(agent, files["large"])["peak_memory_bytes"]
    assert again == pytest.approx(first, rel=0.03)
    assert small < WEIGHTS_BYTES / 2


def test_without_being_asked_a_cpu_tells_neither_and_takes_no_time_for_it(
    agent: AgentProcess, files: dict[str, Path]
) -> None:
    assert agent.request(measure(files["small"]), PATIENCE_S)["resources"] == {}


def test_memory_alone_is_no_request_of_a_host(agent: AgentProcess, files: dict[str, Path]) -> None:
    asked = measure(files["small"]) | {"do": "memory"}
    with pytest.raises(JobFailedError, match="ask to measure with resources"):
        agent.request(asked, PATIENCE_S)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_resources_are_asked_for_by_true_alone(
    agent: AgentProcess, files: dict[str, Path], value: Any
) -> None:
    with pytest.raises(JobFailedError, match=r"resources must be true or false"):
        agent.request(measure(files["small"], resources=value), PATIENCE_S)


# What goes wrong, on the fake runtime.


def asked_for(fake_job: Callable[..., dict[str, Any]], **fields: Any) -> Any:
    return parse_request(fake_job("work") | {"protocol": 1, "id": "a", "resources": True} | fields)


@pytest.mark.parametrize(
    "error", [RequestError("worker_crashed", "it died", ""), OSError("no more processes")]
)
def test_a_fresh_process_that_fails_leaves_memory_out_and_the_samples_in(
    jobs: Jobs, fake_job, monkeypatch: pytest.MonkeyPatch, capfd, error: Exception
) -> None:
    def fail(*given: Any) -> Any:
        raise error

    monkeypatch.setattr(worker, "ask_fresh", fail)
    result = jobs.do(asked_for(fake_job))
    assert result["wall_ns"] and "peak_memory_bytes" not in result["resources"]
    assert f"is not known: {error}" in capfd.readouterr().err


def test_a_fresh_process_has_what_is_left_of_the_time_limit(
    fake_job, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = []

    def answer(runtime: str, message: dict[str, Any], patience_s: float) -> dict[str, Any]:
        assert (runtime, message["do"]) == ("fake", "memory")
        patience.append(patience_s)
        return {"peak_memory_bytes": 5}

    monkeypatch.setattr(worker, "ask_fresh", answer)
    message = fake_job("work")
    for limit_s, spent_s in ((None, 100.0), (300.0, 10.0), (40.0, 10.0)):
        told = resources.of_process(dict(message, timeout_s=limit_s), spent_s)
        assert told == {"peak_memory_bytes": 5}
    assert patience == [60.0, 60.0, 25.0]
    assert resources.of_process(dict(message, timeout_s=40.0), 36.0) == {}


class Counting(energy.Meter):
    """Counts 2 J at each look."""

    source, window_s, count = "rapl", 0.0, 0.0

    def joules(self) -> float:
        self.count += 2.0
        return self.count


class Broken(Counting):
    def joules(self) -> float:
        raise ValueError("odd")


def told_with(jobs: Jobs, fake_job, monkeypatch: pytest.MonkeyPatch, meter: Any) -> dict[str, Any]:
    monkeypatch.setattr(worker, "ask_fresh", lambda *given: {})
    monkeypatch.setattr(energy, "meter", lambda processor: meter)
    result: dict[str, Any] = jobs.do(asked_for(fake_job))
    assert result["wall_ns"]
    return result


def test_the_energy_of_one_run_is_beside_the_samples(jobs, fake_job, monkeypatch) -> None:
    result = told_with(jobs, fake_job, monkeypatch, Counting())
    told = result["resources"]
    assert told["energy_source"] == "rapl"
    # A look each READ_EVERY_S: one run of 20 us and more has its share of 2 J.
    runs = energy.READ_EVERY_S / (sorted(result["wall_ns"])[len(result["wall_ns"]) // 2] / 1e9)
    assert told["energy_j"] == pytest.approx(2.0 / runs, rel=0.1)
    json.dumps(result)


@pytest.mark.parametrize("meter", [None, Broken()])
def test_a_missing_or_broken_counter_fails_nothing(jobs, fake_job, monkeypatch, meter) -> None:
    assert told_with(jobs, fake_job, monkeypatch, meter)["resources"] == {}


def test_a_profile_of_layers_has_no_resources(jobs: Jobs, fake_job) -> None:
    assert "resources" not in jobs.do(asked_for(fake_job, do="profile"))


# GPUs.


class OnGpu(runtimes.Prepared):
    """A model on a GPU that holds so much of its memory."""

    def __init__(self, memory_bytes: int | None) -> None:
        self._facts = {} if memory_bytes is None else {"device_memory_bytes": memory_bytes}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def run(self, times: int) -> None:
        raise AssertionError("it must not be run here")


def test_a_gpus_memory_is_what_its_runtime_says() -> None:
    told = resources.of_gpu(OnGpu(5 * MIB))
    assert told == {"peak_memory_bytes": 5 * MIB, "memory_source": "cuda"}
    assert resources.of_gpu(OnGpu(None)) == resources.of_gpu(OnGpu(0)) == {}


def timed(run_ns: int) -> Timing:
    return Timing([run_ns], None, 1, 0, 0, 0.1, "interval", device_ns=[run_ns])


def test_runs_from_a_cold_cache_and_very_long_ones_have_no_energy(monkeypatch) -> None:
    monkeypatch.setattr(energy, "meter", lambda processor: Counting())
    model = OnGpu(None)
    assert resources.of_runs(model, "gpu", {"cache": "cold"}, timed(1000)) == {}
    assert resources.of_runs(model, "gpu", {}, timed(6_000_000_000)) == {}
    monkeypatch.setattr(model, "RUNS_HERE", False, raising=False)
    assert resources.of_runs(model, "gpu", {}, timed(1000)) == {}


@pytest.mark.parametrize(
    ("runtime", "options", "processor"),
    [
        ("onnxruntime", {}, "cpu"),
        ("tensorrt", {}, "gpu"),
        ("trtexec", {"precision": "fp16"}, "gpu"),
        ("pytorch", {}, "cpu"),
        ("pytorch", {"processor": "gpu", "precision": "fp16"}, "gpu"),
    ],
)
def test_each_runtime_says_what_does_its_work(runtime: str, options, processor: str) -> None:
    assert runtimes.get(runtime).processor(options) == processor
