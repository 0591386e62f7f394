"""The self-test of a device: its checks on scripted devices, and all of it on this machine."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ran_command import run_command
from selftest_results import RESULT
from valid_json import check_json

from devices.agent.runtimes.onnxruntime.model import BoundSession
from devices.connection import LocalConnection, PushedFile
from devices.errors import AgentLostError, JobFailedError
from dshrink.operations.selftest import device as operation
from dshrink.operations.selftest.asking import AskedDevice, Computed
from dshrink.operations.selftest.check import Check, SelfTestError
from dshrink.operations.selftest.device import (
    LONGEST_FINDING,
    NETWORKS,
    SelfTestRequest,
    selftest_device,
)
from dshrink.operations.selftest.network import selftest_features, selftest_network
from dshrink.operations.selftest.outputs import _error, check_outputs
from dshrink.operations.selftest.result import SelfTest
from dshrink.operations.selftest.times import (
    TURNS,
    check_agent,
    check_host_clock,
    check_launch,
    check_load,
    check_plain_loop,
    check_second_timer,
)
from dshrink.pieces.specs import shrunk_spec
from latency_tables.schema import Conditions
from profiler.planning.jobs import PROFILE_RULE
from profiler.replies import Samples
from profiler.workloads import build_onnx

SIMULATED = Path(__file__).parents[2] / "support" / "fake_gpu"
ON_CPU = Conditions(
    device="local",
    runtime="onnxruntime",
    runtime_version="1.20",
    precision="fp32",
    batch=1,
    threads=1,
    power_mode="default",
    clock="thread_cpu",
    statistic="quiet",
)
ON_GPU = replace(
    ON_CPU, runtime="tensorrt", precision="fp16", clock="cuda_events", statistic="median"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The networks of the self-test in fp32, by their names and a batch of 2."""
    folder = tmp_path_factory.mktemp("files")
    network, features = selftest_network(), selftest_features()
    written = {}
    for name, (mask, padding) in NETWORKS.items():
        of = network if name == "original" else features
        spec = shrunk_spec(of, mask, segments="blocks", padding=padding)
        written[name] = folder / f"{name}.onnx"
        written[name].write_bytes(build_onnx(spec, batch=2))
    return written


def computed(file: Path, change: Callable[[Any], Any] = lambda output: output) -> Computed:
    """What ONNX Runtime computes from drawn inputs, changed."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,), (told,) = session.get_inputs(), session.get_outputs()
    image = np.random.default_rng(3).standard_normal(given.shape).astype(np.float32)
    (output,) = session.run(None, {given.name: image})
    return Computed(inputs={given.name: image}, outputs={told.name: change(output)}, built={})


@dataclass
class Scripted:
    """A device whose ``visits`` are answered one after the other, by the launch or runtime."""

    answer: Callable[[Path], Computed] = computed
    visits: Mapping[str, list[float]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    engines: list[tuple[str, str]] = field(default_factory=list)
    refused: str = "none"

    def compute(self, file: Path, conditions: Conditions, rule: Any) -> Computed:
        return self.answer(file)

    def measure(
        self, file: Path, conditions: Conditions, rule: Any, *, engine="", resources=False
    ) -> Samples:
        names = (conditions.launch, conditions.runtime)
        name = next(one for one in names if one in self.visits)
        self.asked.append(name)
        self.engines.append((conditions.runtime, engine))
        if engine == self.refused:
            raise JobFailedError("runtime_error", "Got invalid engine!", "")
        ms = self.visits[name][min(self.asked.count(name), len(self.visits[name])) - 1]
        ns = (int(ms * 1e6),) * 3
        is_gpu = conditions.clock == "cuda_events"
        times = {
            "wall_ns": ns,
            "cpu_ns": None if is_gpu else ns,
            "device_ns": ns if is_gpu else None,
            "enqueue_ns": (1000,) * 3 if is_gpu else None,
        }
        return Samples(**{**times, **self.facts})


# What is computed


def outputs_of(precision: str, files: Mapping[str, Path], change: Callable[[Any], Any]) -> Check:
    device = Scripted(answer=lambda file: computed(file, change))
    conditions = replace(ON_CPU, precision=precision)
    return check_outputs(device, conditions, files, files)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "error", "state"),
    [
        ("fp32", 0.0, "passed"),
        ("fp32", 5e-5, "passed"),
        ("fp32", 5e-4, "failed"),
        ("fp16", 5e-4, "passed"),
        ("fp16", 5e-2, "failed"),
        ("int8", 5e-2, "passed"),
        ("int8", 2e-1, "failed"),
        ("int8", float("nan"), "failed"),
    ],
)
def test_outputs_are_equal_up_to_the_rounding_of_the_precision(
    files: dict[str, Path], precision: str, error: float, state: str
) -> None:
    found = outputs_of(
        precision, files, lambda output: output + error * np.sqrt(np.square(output).mean())
    )
    assert found.state == state, found.finding
    json.dumps(dict(found.figures), allow_nan=False)
    if error == error:
        for name in files:
            assert found.figures[f"relative_error, {name}"] == pytest.approx(error, abs=1e-6)


def without_maps(file: Path) -> bytes:
    """The file with bias maps of zeros."""
    model = onnx.load(file)
    for one in model.graph.initializer:
        if one.name.endswith(".map"):
            zeros = np.zeros_like(onnx.numpy_helper.to_array(one))
            one.CopyFrom(onnx.numpy_helper.from_array(zeros, one.name))
    return model.SerializeToString()


def without_bounds(file: Path) -> bytes:
    """The file with a bound of its ReLU6 that nothing reaches, as of bounds that are misread."""
    model = onnx.load(file)
    for one in model.graph.initializer:
        if one.name.endswith(".six"):
            one.CopyFrom(onnx.numpy_helper.from_array(np.float32(600.0), one.name))
    return model.SerializeToString()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("change", [without_maps, without_bounds])
def test_a_runtime_that_loses_bias_maps_or_bounds_fails_in_every_precision(
    files: dict[str, Path], tmp_path: Path, precision: str, change: Callable[[Path], bytes]
) -> None:
    def runs_another(file: Path) -> Computed:
        changed = tmp_path / file.name
        changed.write_bytes(change(file))
        return computed(changed)

    conditions = replace(ON_CPU, precision=precision)
    found = check_outputs(Scripted(answer=runs_another), conditions, files, files)  # type: ignore[arg-type]
    assert found.state == "failed", found.finding


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_runtime_that_mixes_up_the_images_of_a_batch_fails_in_every_precision(
    files: dict[str, Path], precision: str
) -> None:
    for mixed in (lambda output: output[::-1], lambda output: output[[0, 0]]):
        assert outputs_of(precision, files, mixed).state == "failed"


def test_an_engine_in_another_precision_than_asked_for_is_noted(files: dict[str, Path]) -> None:
    note = "fp16 was built where int8 was asked for: none of its 9 layers that multiply is in int8"
    built = {"precision": "fp16", "precision_note": note, "api": "tensors", "binding": "pycuda"}
    device = Scripted(answer=lambda file: replace(computed(file), built=built))
    found = check_outputs(device, replace(ON_GPU, precision="int8"), files, files)  # type: ignore[arg-type]
    assert found.state == "noted"
    assert "built in fp16, API tensors, pycuda; original: fp16 was built" in found.finding


def test_outputs_of_another_shape_or_name_and_inputs_of_zeros_are_no_success(
    files: dict[str, Path],
) -> None:
    short = outputs_of("fp32", files, lambda output: output[:1])
    assert short.state == "failed" and "another shape" in short.finding
    said = computed(files["original"])
    renamed = replace(said, outputs={"other": next(iter(said.outputs.values()))})
    for wrong, words in (
        (renamed, "has the outputs"),
        (replace(said, inputs={"image": np.zeros((2, 3))}), "not drawn from normal numbers"),
        (replace(said, inputs={"image": np.ones((2, 1)) * [-1, 1]}), "not drawn from normal"),
        (replace(said, inputs={"image": np.full((2, 3), 1e300)}), "not drawn from normal"),
        (replace(said, inputs={"t9": np.array([[1.0, -1.0], [-1.0, 1.0]])}), "on this host cannot"),
    ):
        with pytest.raises(SelfTestError, match=words):
            check_outputs(Scripted(answer=lambda _, wrong=wrong: wrong), ON_CPU, files, files)  # type: ignore[arg-type]


@pytest.mark.parametrize(("found", "wanted"), [(1e300, 1.0), (0.0, 0.0), (1e300, 0.0)])
def test_an_error_that_is_no_number_is_infinite(found: float, wanted: float) -> None:
    """A NaN would be the worst error of none of the files."""
    assert _error(np.full((2, 2), found), np.full((2, 2), wanted)) == float("inf")


# Times


@pytest.mark.parametrize(("graph_ms", "state"), [(0.5, "passed"), (1.02, "passed"), (1.2, "noted")])
def test_a_graph_that_is_slower_than_plain_launches_is_noted(
    files: dict[str, Path], graph_ms: float, state: str
) -> None:
    device = Scripted(visits={"plain": [1.0], "cuda_graph": [graph_ms]})
    found = check_launch(device, ON_GPU, files["original"])  # type: ignore[arg-type]
    assert found.state == state
    assert found.figures == {"plain_ms": 1.0, "graph_ms": graph_ms, "enqueue_ms": 0.001}
    assert device.asked == ["plain", "cuda_graph"] * TURNS  # by turns: machines change their speed


def test_two_timers_that_disagree_are_noted_and_twice_as_much_is_a_failure(
    files: dict[str, Path],
) -> None:
    second = replace(ON_GPU, runtime="trtexec")
    for theirs_ms, state in ((0.98, "passed"), (0.8, "noted"), (0.4, "failed")):
        device = Scripted(visits={"tensorrt": [1.0], "trtexec": [theirs_ms]})
        found = check_second_timer(device, ON_GPU, second, files["original"])  # type: ignore[arg-type]
        assert found.state == state
        assert f"higher than the {theirs_ms:g} ms of trtexec" in found.finding


def test_a_second_timer_runs_the_engine_that_the_first_built_or_its_own(
    files: dict[str, Path],
) -> None:
    second = replace(ON_GPU, runtime="trtexec", runtime_version="8.6.1")
    visits = {"tensorrt": [1.0], "trtexec": [1.0]}
    built = {"built": {"engine_sha256": "5" * 64}}
    device = Scripted(visits=visits, facts=built)
    found = check_second_timer(device, ON_GPU, second, files["original"])  # type: ignore[arg-type]
    assert set(device.engines) == {("tensorrt", ""), ("trtexec", "5" * 64)}
    assert found.finding.endswith("of trtexec with the same engine")
    device = Scripted(visits=visits, facts=built, refused="5" * 64)
    found = check_second_timer(device, ON_GPU, second, files["original"])  # type: ignore[arg-type]
    # Not by turns: of a file the device keeps one engine.
    assert device.asked[2:] == ["tensorrt"] * TURNS + ["trtexec"] * TURNS
    assert found.finding.endswith("of trtexec 8.6.1 with an engine of its own")


@pytest.mark.parametrize(
    ("host_ms", "state"), [(1.02, "passed"), (1.2, "noted"), (5.0, "failed"), (0.3, "failed")]
)
def test_events_that_do_not_span_the_runs_fail_by_the_hosts_clock(
    files: dict[str, Path], host_ms: float, state: str
) -> None:
    ns = (1_000_000,) * 3
    # Blocks of 4 runs, around which the host sees 5.
    wall = (int(host_ms * 1e6 * 5 / 4),) * 3
    device = Scripted(
        visits={"tensorrt": [1.0]},
        facts={"wall_ns": wall, "device_ns": ns, "runs_per_sample": 4},
    )
    found = check_host_clock(device, ON_GPU, files["original"])  # type: ignore[arg-type]
    assert (found.name, found.state) == ("host clock", state)
    assert found.figures["second_ms"] == pytest.approx(host_ms)


def test_a_plain_loop_measures_what_the_agent_measures(files: dict[str, Path]) -> None:
    loop_ms = check_plain_loop(Scripted(visits={"plain": [1.0]}), ON_CPU, files["original"])  # type: ignore[arg-type]
    assert loop_ms.figures["ours_ms"] == 1.0
    assert 0.01 < loop_ms.figures["second_ms"] < 1000


def test_a_device_that_gets_slower_under_load_or_throttles_is_noted(
    files: dict[str, Path],
) -> None:
    def loaded(visits_ms: list[float], **facts: Any) -> Check:
        seconds = iter(range(100))
        device = Scripted(visits={"onnxruntime": visits_ms}, facts=facts)
        return check_load(
            device,  # type: ignore[arg-type]
            ON_CPU,
            files["original"],
            seconds=8,
            clock=lambda: float(next(seconds)),
        )

    steady = loaded([1.0] * 8)
    assert steady.state == "passed" and "no temperature reported" in steady.finding
    slower = loaded([1.0] * 4 + [1.1] * 4)
    assert slower.state == "noted" and "10.0 % higher" in slower.finding
    hot = {"temperature_c": 81.5, "cooling_level": 2}
    throttled = loaded([1.0] * 8, health_before=hot, health_after=hot)
    assert throttled.state == "noted"
    assert "slowed in 8 of 8 visits" in throttled.finding and "81.5 to 81.5" in throttled.finding


def test_what_a_job_takes_beside_its_samples_is_told_with_memory_and_energy(
    files: dict[str, Path],
) -> None:
    resources = {"peak_memory_bytes": 3 << 20, "energy_j": 0.002}
    device = Scripted(visits={"plain": [1.0]}, facts={"resources": resources, "prepare_s": 0.5})
    found = check_agent(device, ON_CPU, files["original"])  # type: ignore[arg-type]
    assert found.state == "passed"
    assert "memory 3.0 MiB, energy 2 mJ a run" in found.finding
    assert found.figures["prepare_s"] == 0.5
    bare = check_agent(Scripted(visits={"plain": [1.0]}), ON_CPU, files["original"])  # type: ignore[arg-type]
    assert bare.state == "noted" and "does not report memory and energy" in bare.finding


# The agent


@dataclass
class OneAgent:
    """A connection to an agent that answers as it is told."""

    answers: list[Any]
    started: int = 0
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    environment: Any = None
    held: tuple[str, ...] = ()

    def start_agent(self) -> OneAgent:
        self.started += 1
        return self

    def push(self, files: list[Path]) -> tuple[PushedFile, ...]:
        return tuple(PushedFile(path=str(file), sha256="0" * 64) for file in files)

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self.asked.append(message)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        pass


def tensor(**changed: Any) -> dict[str, Any]:
    content = base64.b64encode(np.zeros(4, np.float32).tobytes()).decode()
    return {"name": "x", "element": "float32", "shape": [2, 2], "content": content, **changed}


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [2, 3]},
        {"shape": [-2, -2]},
        {"shape": [2**60, 2**60]},
        {"shape": [2, 2] + [1] * 63},
        {"shape": [2**20] * 10**6},
        {"shape": "2x2"},
        {"content": "no base64"},
        {"element": "object"},
        {"name": 3},
    ],
)
def test_tensors_that_make_no_sense_are_refused(changed: dict[str, Any]) -> None:
    device = AskedDevice(OneAgent([{"inputs": [tensor(**changed)], "outputs": []}]))  # type: ignore[arg-type]
    with pytest.raises(SelfTestError):
        device.compute(Path("a.onnx"), ON_CPU, PROFILE_RULE)


def test_a_file_is_built_once_by_a_runtime_in_a_precision(files: dict[str, Path]) -> None:
    """Two builds of a file differ, and take minutes on a small device."""

    def samples(digest: str) -> dict[str, Any]:
        return {"wall_ns": [9], "device_ns": [9], "built": {"engine_sha256": digest * 64}}

    read = {"inputs": [tensor()], "outputs": [tensor()], "built": {"engine_sha256": "a" * 64}}
    one = OneAgent([read, *map(samples, "abbc")])
    device = AskedDevice(one)  # type: ignore[arg-type]
    file, graph = files["original"], replace(ON_GPU, launch="cuda_graph")
    device.compute(file, ON_GPU, PROFILE_RULE)
    for conditions in (graph, graph, ON_GPU, replace(ON_GPU, runtime="trtexec")):
        device.measure(file, conditions, PROFILE_RULE)
    named = [message["options"].get("engine_sha256") for message in one.asked]
    # It names what it got last: the device builds anew where an engine is gone.
    assert named == [None, "a" * 64, "a" * 64, "b" * 64, None]


def test_a_lost_agent_is_replaced(files: dict[str, Path]) -> None:
    lost = AgentLostError("agent_crashed", "it is gone", "")
    one = OneAgent([lost, {"inputs": [tensor()], "outputs": [tensor()]}])
    device = AskedDevice(one)  # type: ignore[arg-type]
    with pytest.raises(AgentLostError):
        device.compute(files["original"], ON_CPU, PROFILE_RULE)
    assert device.compute(files["original"], ON_CPU, PROFILE_RULE).outputs["x"].shape == (2, 2)
    assert one.started == 2


# All of it


def test_this_machine_is_tested_and_the_report_can_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))
    made: list[Check] = []
    result = selftest_device(
        SelfTestRequest(
            device="local", folder=tmp_path, runtime="onnxruntime", load_s=0.1, table_limit_s=1.0
        ),
        on_check=made.append,
    )
    assert result.complete and not result.failed, result
    assert tuple(made) == result.checks
    assert [one.name for one in made] == [
        *("environment", "outputs", "agent", "second timer", "load", "table")
    ]
    assert made[1].figures["relative_error, original"] < 1e-6
    assert made[-1].figures["network_ms"] > 0
    check_json(json.loads((tmp_path / "selftest.json").read_text()))
    page = (tmp_path / "selftest.md").read_text()
    assert page.startswith("# Self-test of local\n\n6 checks: ")
    assert all(one.finding in page for one in made)
    assert "has not ended" not in page
    assert {one.name for one in tmp_path.iterdir()} == {
        *("selftest.json", "selftest.md", "table_onnxruntime_fp32")
    }


def simulate(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    gpu: str,
    capability: str,
    precisions: list[str],
) -> None:
    """Make the device one that is this machine with a simulated GPU."""
    file = folder / "devices.toml"
    entry = f'[{device}]\nconnection = "local"\npaper_batch = 2\n'
    file.write_text(f"{entry}precisions = {json.dumps(precisions)}\n")
    for name, value in (
        ("PYTHONPATH", str(SIMULATED)),
        ("DSHRINK_DEVICES", str(file)),
        ("SIMULATED_GPU_NAME", gpu),
        ("SIMULATED_GPU_CAPABILITY", capability),
        ("SIMULATED_GPU_REAL_TIME", "1"),
    ):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("version", "device", "gpu", "capability", "precisions"),
    [
        ("8.6.0", "v100", "Tesla V100-SXM2-16GB", "7.0", ["fp16", "int8"]),
        ("11.0.0.114", "rtx2080ti", "NVIDIA GeForce RTX 2080 Ti", "7.5", ["fp16"]),
    ],
)
def test_a_simulated_gpu_computes_and_launches_as_a_real_one_should(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    device: str,
    gpu: str,
    capability: str,
    precisions: list[str],
) -> None:
    simulate(tmp_path, monkeypatch, device, gpu, capability, precisions)
    monkeypatch.setenv("FAKE_TENSORRT", version)
    # A table of it is tested by test_profile_on_gpu.py.
    monkeypatch.setattr(operation._Test, "_of_tables", lambda self, every: iter(()))
    result = selftest_device(SelfTestRequest(device=device, folder=tmp_path, load_s=0.1))
    states = {(one.name, one.of): one.state for one in result.checks}
    for precision in precisions:
        for launch in ("plain", "cuda_graph"):
            assert states["outputs", f"tensorrt {precision} {launch}"] == "passed"
    assert states["launch", "tensorrt fp16"] == "passed"
    # This machine's PyTorch has no CUDA, and trtexec is not there: said once, and no fault.
    assert states["runtime", "pytorch"] == states["runtime", "trtexec"] == "skipped"
    assert not any(one.of.startswith("pytorch ") for one in result.checks)
    assert not result.failed, result


def test_outputs_that_differ_fail_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))
    for later in ("_of_tables", "_of_times"):
        monkeypatch.setattr(operation._Test, later, lambda self, every: iter(()))
    # PyTorch adds in another order than ONNX Runtime: its rounding is now too much.
    monkeypatch.setattr("dshrink.operations.selftest.outputs.TOLERANCES", {"fp32": 1e-9})
    result = selftest_device(
        SelfTestRequest(device="local", folder=tmp_path, runtime="pytorch", load_s=0.1)
    )
    assert [(one.name, one.state) for one in result.checks][1:] == [("outputs", "failed")]
    assert result.failed and "1 failed" in result.verdict
    assert "| FAILED " in (tmp_path / "selftest.md").read_text()


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        ("timeout", [("outputs", "failed")]),
        ("missing_runtime", [("runtime", "failed")]),
        ("runtime_error", [("outputs", "failed"), ("agent", "failed"), ("load", "failed")]),
    ],
)
def test_a_runtime_that_hangs_or_does_not_start_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, checks: list[tuple[str, str]]
) -> None:
    fail_always(monkeypatch, tmp_path, AgentLostError(kind, "it does not work" * 1000, ""))
    result = selftest_device(SelfTestRequest(device="local", folder=tmp_path, runtime="pytorch"))
    assert [(one.name, one.state) for one in result.checks][1:] == checks
    assert max(len(one.finding) for one in result.checks) < 2 * LONGEST_FINDING


def test_a_plain_loop_over_another_version_is_no_second_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_always(monkeypatch, tmp_path, JobFailedError("runtime_error", "it does not work", ""))
    request = SelfTestRequest(device="local", folder=tmp_path, runtime="onnxruntime")
    same = [one.name for one in selftest_device(request).checks]
    monkeypatch.setattr(operation, "version", lambda package: "1.10.0")
    other = [one.name for one in selftest_device(request).checks]
    assert "second timer" in same and set(same) - set(other) == {"second timer"}


def test_a_device_without_any_of_its_runtimes_has_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(tmp_path, monkeypatch, "v100", "Tesla V100-SXM2-16GB", "7.0", ["fp16"])
    monkeypatch.setenv("SIMULATED_GPU_COUNT", "0")
    result = selftest_device(SelfTestRequest(device="v100", folder=tmp_path))
    states = {(one.name, one.of): one.state for one in result.checks[1:]}
    assert states == {
        ("runtime", "tensorrt"): "failed",
        ("runtime", "pytorch"): "skipped",
        ("runtime", "trtexec"): "skipped",
    }
    assert result.complete and "has not ended" not in (tmp_path / "selftest.md").read_text()


def test_a_device_that_is_gone_ends_the_test_and_leaves_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_always(monkeypatch, tmp_path, AgentLostError("unreachable", "no route to host", ""))
    with pytest.raises(AgentLostError, match="no route to host"):
        selftest_device(SelfTestRequest(device="local", folder=tmp_path, runtime="pytorch"))
    page = (tmp_path / "selftest.md").read_text()
    assert "1 check: " in page and "The test has not ended." in page


def fail_always(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception) -> None:
    def fails(*given: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setenv("DSHRINK_DEVICES", str(folder / "none.toml"))
    monkeypatch.setattr(operation._Test, "_of_tables", lambda self, every: iter(()))
    for asks in ("compute", "measure"):
        monkeypatch.setattr(AskedDevice, asks, fails)


def test_pytorch_gives_out_what_it_computes(files: dict[str, Path]) -> None:
    conditions = replace(ON_CPU, runtime="pytorch")
    device = AskedDevice(LocalConnection())
    try:
        found = check_outputs(device, conditions, files, files)
    finally:
        device.close()
    assert found.state == "passed", found.finding
    assert all(0 < error < 1e-4 for error in found.figures.values())  # it is not ONNX Runtime


def test_outputs_are_read_after_the_run_where_reading_copies(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ONNX Runtime 1.10."""
    read = onnxruntime.OrtValue.numpy
    monkeypatch.setattr(onnxruntime.OrtValue, "numpy", lambda value: read(value).copy())
    file = files["original"]

    def open_session(profile: str) -> Any:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    session = BoundSession(onnxruntime, np, open_session, 0)
    (image,), (output,) = session.tensors()
    shape, element = image.shape, image.element
    drawn = np.frombuffer(image.content, element).reshape(shape)
    (wanted,) = open_session("").run(None, {image.name: drawn})
    assert output.content == wanted.tobytes()


def test_what_is_too_large_to_send_is_refused_in_one_line(tmp_path: Path) -> None:
    spec = shrunk_spec(selftest_network(), "1111", segments="blocks", padding="repad")
    file = tmp_path / "large.onnx"
    file.write_bytes(build_onnx(spec, batch=128))
    device = AskedDevice(LocalConnection())
    try:
        with pytest.raises(JobFailedError, match="ask with a smaller batch"):
            device.compute(file, ON_CPU, PROFILE_RULE)
    finally:
        device.close()


# The command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere"),
        (("local", "--runtime", "tensorrt"), "has no runtime 'tensorrt'"),
        (("local", "--precision", "fp16"), "cannot measure fp16"),
        (("local", "--precision", "half"), "half"),
        (("tx2",), "no address yet"),
        (("local", "--time-limit", "0.5"), "give a number from 1 to"),
    ],
)
def test_a_device_that_cannot_be_tested_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "none.toml"))
    ran = run_command(("devices", "selftest", *words), monkeypatch, capsys)
    assert ran.status == 2 and said in ran.err.splitlines()[-1], ran
    assert "Traceback" not in ran.err


def test_the_command_shows_each_check_and_fails_where_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Check(name="outputs", of="pytorch fp32 plain", state="failed", finding="NOT those")

    def tested(request: SelfTestRequest, *, on_check: Any, **rest: Any) -> SelfTest:
        on_check(wrong)
        return replace(RESULT, checks=(wrong,))

    monkeypatch.setattr(operation, "selftest_device", tested)
    ran = run_command(("devices", "selftest", "local", "--out", "here"), monkeypatch, capsys)
    assert ran.status == 1
    assert ran.out.splitlines() == [
        "FAILED   outputs, pytorch fp32 plain: NOT those",
        "1 check: 1 failed; to send to others: here/selftest.md",
    ]
