"""ONNX Runtime driven by a real agent, on small models built here."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from devices.agent import runtimes
from devices.agent.protocol import file_digest
from devices.agent.runtimes.onnxruntime.profile import read_layers
from devices.agent_process import AgentProcess
from devices.connection import LocalConnection
from devices.errors import JobFailedError

PATIENCE_S = 120.0
QUICK = {
    "warmup_s": 0.01,
    "warmup_cap_s": 0.05,
    "window_s": 0.005,
    "min_samples": 5,
    "min_total_s": 0.01,
    "cap_s": 0.2,
}


def request(file: Path, **fields: Any) -> dict[str, Any]:
    """A request to measure a file with ONNX Runtime."""
    whole = {"do": "measure", "runtime": "onnxruntime", "file": str(file), "rule": QUICK}
    return whole | {"sha256": file_digest(str(file))} | fields


def model(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
    kind: int = TensorProto.FLOAT,
) -> bytes:
    """A model of opset 13 and IR version 7, as the files of dshrink are."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opset = helper.make_opsetid("", 13)
    made = helper.make_model(graph, opset_imports=[opset], ir_version=7)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def convolution(channels: int, size: int) -> bytes:
    """A 3x3 convolution and its ReLU."""
    weights = np.full((channels, channels, 3, 3), 0.01, np.float32)
    shape = [1, channels, size, size]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return model(nodes, {"x": shape}, {"y": shape}, {"w": weights})


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a model's bytes to a file."""

    def write(content: bytes) -> Path:
        file = tmp_path / "model.onnx"
        file.write_bytes(content)
        return file

    return write


def test_a_small_convolution_is_measured_by_both_clocks(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    result = agent.request(request(save(convolution(16, 32))), PATIENCE_S)
    assert len(result["wall_ns"]) == len(result["cpu_ns"]) >= 3
    assert min(result["wall_ns"]) > 0 and min(result["cpu_ns"]) > 0
    assert result["runs_per_sample"] >= 1
    assert result["prepare_s"] > 0 and result["warmup_s"] > 0
    assert result["dropped"] >= 0


def test_a_convolution_of_a_hundred_times_the_work_takes_longer(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    small = agent.request(request(save(convolution(8, 16))), PATIENCE_S)
    large = agent.request(request(save(convolution(32, 64))), PATIENCE_S)
    assert median(large["cpu_ns"]) > 3 * median(small["cpu_ns"])


def test_with_two_threads_the_thread_time_means_nothing(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    result = agent.request(request(save(convolution(16, 32)), threads=2), PATIENCE_S)
    assert result["cpu_ns"] is None and len(result["wall_ns"]) >= 3


def test_hello_names_the_version_that_is_installed(agent: AgentProcess) -> None:
    assert agent.environment.runtimes["onnxruntime"] == onnxruntime.__version__


@pytest.mark.parametrize("content", [b"", b"no model", convolution(8, 8)[:-20]])
def test_a_damaged_file_is_a_bad_model_and_the_agent_lives(
    agent: AgentProcess, save: Callable[[bytes], Path], content: bytes
) -> None:
    with pytest.raises(JobFailedError, match=r"model\.onnx") as caught:
        agent.request(request(save(content)), PATIENCE_S)
    assert caught.value.type == "bad_model"
    assert agent.request(request(save(convolution(8, 8))), PATIENCE_S)["wall_ns"]


def test_an_operator_that_does_not_exist_is_a_bad_model(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    made = onnx.load_from_string(convolution(8, 8))
    made.graph.node[1].op_type = "Abracadabra"
    with pytest.raises(JobFailedError, match="Abracadabra") as caught:
        agent.request(request(save(made.SerializeToString())), PATIENCE_S)
    assert caught.value.type == "bad_model"


def test_a_shape_that_is_not_fixed_is_refused_by_the_tensor_s_name(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    nodes = [helper.make_node("Relu", ["picture"], ["y"])]
    shapes = ["N", 3, 8, 8]
    content = model(nodes, {"picture": shapes}, {"y": shapes})
    with pytest.raises(JobFailedError, match=r"'picture'.*fixed sizes") as caught:
        agent.request(request(save(content)), PATIENCE_S)
    assert caught.value.type == "bad_model"


def test_an_element_type_that_cannot_be_filled_is_a_bad_model(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    content = model(nodes, {"x": [2]}, {"y": [2]}, kind=TensorProto.STRING)
    with pytest.raises(JobFailedError, match=r"tensor\(string\)") as caught:
        agent.request(request(save(content)), PATIENCE_S)
    assert caught.value.type == "bad_model"


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_element_types_are_filled(
    agent: AgentProcess, save: Callable[[bytes], Path], kind: int
) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    content = model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, kind=kind)
    assert agent.request(request(save(content)), PATIENCE_S)["wall_ns"]


def test_an_index_out_of_range_fails_in_the_run_as_a_runtime_error(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    # The inputs are zeros and ones, so a table of one row is overrun.
    nodes = [helper.make_node("Gather", ["rows", "x"], ["y"])]
    rows = {"rows": np.zeros((1, 2), np.int64)}
    content = model(nodes, {"x": [64]}, {"y": [64, 2]}, rows, kind=TensorProto.INT64)
    with pytest.raises(JobFailedError, match="Gather") as caught:
        agent.request(request(save(content)), PATIENCE_S)
    assert caught.value.type == "runtime_error"


@pytest.mark.parametrize("inside", [True, False])
def test_a_tensor_beyond_the_memory_limit_is_out_of_memory_and_the_agent_lives(
    agent: AgentProcess, save: Callable[[bytes], Path], inside: bool
) -> None:
    """8 GiB as an intermediate tensor (fails in the run) or as an output (in the preparation)."""
    big = [1 << 31]
    nodes = [helper.make_node("Expand", ["x", "shape"], ["big"])]
    if inside:
        nodes.append(helper.make_node("ReduceMax", ["big"], ["y"], keepdims=1))
    outputs: dict[str, list[Any]] = {"y": [1]} if inside else {"big": big}
    content = model(nodes, {"x": [1]}, outputs, {"shape": np.array(big, np.int64)})
    with pytest.raises(JobFailedError) as caught:
        limit = {"memory_limit_mib": 4096}
        agent.request(request(save(content), options=limit), PATIENCE_S)
    assert caught.value.type == "out_of_memory"
    assert agent.request(request(save(convolution(8, 8))), PATIENCE_S)["wall_ns"]


def test_a_file_that_was_changed_on_the_way_is_not_run(
    agent: AgentProcess, save: Callable[[bytes], Path]
) -> None:
    job = request(save(convolution(8, 8)))
    save(convolution(8, 4))
    with pytest.raises(JobFailedError) as caught:
        agent.request(job, PATIENCE_S)
    assert caught.value.type == "wrong_digest"


def test_the_same_seed_gives_the_same_inputs() -> None:
    from devices.agent.runtimes.onnxruntime.model import _random_input

    first, again = (_random_input(np.random.RandomState(3), [4, 5], "float32") for _ in range(2))
    other = _random_input(np.random.RandomState(4), [4, 5], "float32")
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.dtype == np.float32


def test_the_bound_inputs_and_outputs_are_those_of_the_model(
    save: Callable[[bytes], Path],
) -> None:
    """What the agent runs computes what a plain session computes on the same input."""
    file = save(convolution(8, 8))
    runtime = runtimes.get("onnxruntime")
    runtime.load()
    prepared = runtime.prepare(str(file), 1, 7, {})
    prepared.run(2)
    (output,) = prepared._binding.copy_outputs_to_cpu()  # type: ignore[attr-defined]
    picture = np.random.RandomState(7).standard_normal((1, 8, 8, 8)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(file)).run(None, {"x": picture})
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    prepared.close()


def test_every_session_option_that_decides_the_latency_is_set(
    save: Callable[[bytes], Path],
) -> None:
    runtime = runtimes.get("onnxruntime")
    runtime.load()
    prepared = runtime.prepare(str(save(convolution(8, 8))), 3, 0, {})
    session = prepared._session  # type: ignore[attr-defined]
    options = session.get_session_options()
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.graph_optimization_level == level
    assert options.get_session_config_entry("session.use_env_allocators") == "1"
    prepared.close()


def separated() -> bytes:
    """Two convolutions of 16 channels; between them an addition that neither of them takes in."""
    shape, kernel = [1, 16, 12, 12], np.full((16, 16, 3, 3), 0.01, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t1"], name="t1/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["t1", "map"], ["t2"], name="t2/Add"),
        helper.make_node("Conv", ["t2", "w"], ["t3"], name="t3/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["t3"], ["result"], name="result/Relu"),
    ]
    constants = {"w": kernel, "map": np.ones(shape, np.float32)}
    return model(nodes, {"x": shape}, {"result": shape}, constants)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary ones are made in, by this process and those that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_profile_has_every_node_in_every_pass_and_leaves_no_file(
    temporary: Path, save: Callable[[bytes], Path]
) -> None:
    with LocalConnection().start_agent() as agent:
        job = request(save(separated())) | {"do": "profile", "passes": 3}
        layers = agent.request(job, PATIENCE_S)["layers"]
        assert list(temporary.glob("dshrink-*")) == []
    assert all(len(times) == 3 and min(times) >= 0 for _, times in layers)
    # Ours, whether or not this processor has the blocked layout; what is fused has one name.
    names = [name for name, _ in layers if not name.startswith("Reorder")]
    assert len(names) == 3
    for name, operator, tensor in zip(
        names, ("Conv", "Add", "Conv"), ("t1", "t2", "t3|result"), strict=True
    ):
        assert re.fullmatch(rf"(fused )?({tensor})(_nchwc)?/{operator}.*", name)
    assert sum(times[0] for _, times in layers) > 0


def test_a_profile_that_fails_leaves_no_file_either(
    temporary: Path, save: Callable[[bytes], Path]
) -> None:
    nodes = [helper.make_node("Gather", ["rows", "x"], ["y"])]
    rows = {"rows": np.zeros((1, 2), np.int64)}
    content = model(nodes, {"x": [64]}, {"y": [64, 2]}, rows, kind=TensorProto.INT64)
    runtime = runtimes.get("onnxruntime")
    runtime.load()
    prepared = runtime.prepare(str(save(content)), 1, 0, {})
    with pytest.raises(Exception, match="Gather"):
        prepared.layers(2)
    prepared.close()
    assert list(temporary.iterdir()) == []


def test_the_session_that_is_timed_is_not_profiled(save: Callable[[bytes], Path]) -> None:
    runtime = runtimes.get("onnxruntime")
    runtime.load()
    prepared = runtime.prepare(str(save(convolution(8, 8))), 1, 0, {})
    prepared.layers(1)
    options = prepared._session.get_session_options()  # type: ignore[attr-defined]
    assert not options.enable_profiling
    prepared.run(1)
    prepared.close()


def events(file: Path, *runs: list[tuple[str, str, int]]) -> str:
    """A file as the profiler writes them: a run is its nodes, with operator and microseconds."""
    written: list[dict[str, Any]] = [{"cat": "Session", "name": "model_run", "dur": 9, "args": {}}]
    for name, operator, micros in (node for run in runs for node in run):
        for end, took in (("fence_before", 0), ("kernel_time", micros)):
            event = {"cat": "Node", "name": f"{name}_{end}", "dur": took}
            written.append(event | {"args": {"op_name": operator}})
    file.write_text(json.dumps(written))
    return str(file)


def test_a_profile_is_read_in_order_and_sorted_into_runs(tmp_path: Path) -> None:
    first = [("t2_nchwc", "Conv", 30), ("ReorderOutput_token_4", "ReorderOutput", 2)]
    second = [("t2_nchwc", "Conv", 20), ("ReorderOutput_token_4", "ReorderOutput", 1)]
    file = events(tmp_path / "nodes.json", [*first, ("t3/Add", "Add", 5)])
    assert read_layers(file, 1)[2] == ("t3/Add", [5000])
    assert read_layers(events(tmp_path / "nodes.json", first, second), 2) == [
        ("t2_nchwc/Conv", [30_000, 20_000]),
        ("ReorderOutput_token_4", [2000, 1000]),
    ]


def test_a_profile_whose_runs_differ_is_refused(tmp_path: Path) -> None:
    file = events(tmp_path / "nodes.json", [("t1/Conv", "Conv", 30)], [("t2/Conv", "Conv", 20)])
    with pytest.raises(RuntimeError, match="same nodes in each run"):
        read_layers(file, 2)
    with pytest.raises(RuntimeError, match="same nodes in each run"):
        read_layers(events(tmp_path / "nodes.json"), 2)
