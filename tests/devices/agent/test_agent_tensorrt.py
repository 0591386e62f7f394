"""TensorRT's runtime against strict fakes of every version: a wrong name or argument fails here."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FOLDER, simulated
from onnx import TensorProto, helper
from strict_tensorrt import VERSIONS, machine, models

from devices.agent import worker
from devices.agent.checks import RequestError
from devices.agent.protocol import Rule
from devices.agent.runtimes.tensorrt import engines
from devices.agent.runtimes.tensorrt import model as tensorrt_model
from devices.agent.runtimes.tensorrt.api import API_VARIABLE, TACTICS_VARIABLE, Tensor
from devices.agent.runtimes.tensorrt.runtime import TensorRT

QUICK = Rule(
    warmup_s=0, warmup_cap_s=0.01, window_s=0.0001, min_samples=3, min_total_s=0, cap_s=0.02
)
WITH_BOTH = [version for version in VERSIONS if version.startswith(("8.5", "8.6"))]
WITH_FLAGS = [version for version in VERSIONS if not version.startswith("11")]
TYPED = [version for version in VERSIONS if version.startswith("11")]
ONE = "8.5.3.1"

Install = Callable[..., tuple[Any, TensorRT]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(version)``: a fake TensorRT of that version, and a new runtime that found it."""
    monkeypatch.delenv(API_VARIABLE, raising=False)
    monkeypatch.delenv(TACTICS_VARIABLE, raising=False)

    def make(version: str = ONE, **machine_has: Any) -> tuple[Any, TensorRT]:
        trt = machine.install(monkeypatch, version, **machine_has)
        runtime = TensorRT()
        runtime.load()
        return trt, runtime

    yield make


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        file = tmp_path / "model.onnx"
        file.write_bytes(content)
        return str(file)

    return write


def typed(version: str, precision: str) -> bytes:
    """The file that a host would send for this precision."""
    if precision == "int8":
        return models.quantized()
    return models.convolution(half=precision == "fp16" and version in TYPED)


def failure(runtime: TensorRT, file: str, **options: Any) -> RequestError:
    """The error of preparing a file, as the agent would answer it."""
    try:
        model = runtime.prepare(file, 1, 0, options)
    except Exception as error:
        known = error if isinstance(error, RequestError) else runtime.failure(error)
        assert known is not None, f"not recognised: {error!r}"
        return known
    model.close()
    raise AssertionError("it was prepared")


@pytest.mark.parametrize("launch", ["plain", "cuda_graph"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_runs_and_tells_what_it_built(
    install: Install, save: Callable[[bytes], str], version: str, precision: str, launch: str
) -> None:
    trt, runtime = install(version)
    file = save(typed(version, precision))
    before = len(trt.world.gpu.memory)
    model = runtime.prepare(file, 1, 3, {"precision": precision, "launch": launch})
    timing = model.measure(QUICK, 1)
    facts = json.loads(json.dumps(model.facts()))
    assert timing.device_ns is not None and min(timing.device_ns) > 0
    assert timing.enqueue_ns is not None and min(timing.enqueue_ns) > 0
    assert timing.cpu_ns is None
    assert facts["precision"] == precision and facts["precision_layers"] == {precision: 1}
    assert facts["engine_reused"] is False and facts["build_s"] > 0
    assert facts["engine_bytes"] == len(
        Path(engines.path_of(file, facts["engine_sha256"])).read_bytes()
    )
    assert facts["device_memory_bytes"] > 0
    assert facts["tactics"] and facts["tactic_sources"]
    assert facts["flags"]["tf32"] is False
    has_streams = not version.startswith(("8.2", "8.4", "8.5"))
    assert facts["auxiliary_streams"] == int(has_streams)
    assert (facts["gpu"], facts["binding"]) == ("Simulated H200", "libcuda")
    named = not version.startswith(("8.2", "8.4"))
    assert facts["api"] == ("tensors" if named else "bindings")
    assert set(trt.world.launched_by) == {"execute_async_v3" if named else "execute_async_v2"}
    model.close()
    assert trt.world.freed[-3:] == ["IExecutionContext", "ICudaEngine", "Runtime"]
    assert len(trt.world.gpu.memory) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_that_decides_what_is_built_is_set(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    trt, runtime = install(version)
    runtime.prepare(save(models.convolution()), 1, 0, {}).close()
    (config,) = trt.world.configs
    assert config["flags"] == []
    quarter = trt.world.gpu.gpu.memory_bytes // 4
    limit = "max_workspace_size" if version.startswith("8.2") else "WORKSPACE"
    assert config["workspace"] == {limit: quarter}
    assert config["avg_timing_iterations"] == 4
    assert config["verbosity"] in ("DETAILED", "VERBOSE")
    has_level = not version.startswith(("8.2", "8.4", "8.5"))
    assert config.get("optimization_level") == (3 if has_level else None)
    assert config["has_cache"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_inputs_and_outputs_are_fp16_where_the_layers_are(
    install: Install, save: Callable[[bytes], str], version: str, precision: str
) -> None:
    trt, runtime = install(version)
    model = runtime.prepare(save(typed(version, precision)), 1, 0, {"precision": precision})
    element = "HALF" if precision == "fp16" else "FLOAT"
    assert trt.world.configs[0]["io"] == {"image": element, "result": element}
    is_set = precision == "fp16" and version in WITH_FLAGS
    told = "fp32" if precision == "int8" else "fp16" if is_set else None
    assert model.facts()["flags"].get("io") == told
    model.close()


@pytest.mark.parametrize("version", WITH_FLAGS)
def test_inputs_of_integers_stay_what_they_are(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    trt, runtime = install(version)
    content = models.write([models.node("Identity", ["image"], "result")], kind=TensorProto.INT32)
    runtime.prepare(save(content), 1, 0, {"precision": "fp16"}).close()
    assert trt.world.configs[0]["io"] == {"image": "INT32", "result": "INT32"}


@pytest.mark.parametrize("version", VERSIONS)
def test_foreign_tactics_can_be_left_out(
    install: Install, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt, runtime = install(version)
    monkeypatch.setenv(TACTICS_VARIABLE, "own")
    model = runtime.prepare(save(models.convolution()), 1, 0, {})
    sources = model.facts()["tactic_sources"]
    assert not {"CUBLAS", "CUBLAS_LT", "CUDNN"} & set(sources)
    members = trt.TacticSource.__members__
    assert trt.world.configs[0]["sources"] == sum(1 << int(members[name]) for name in sources)
    asked = trt.world.configs[0]["preview"]
    assert bool(asked) == version.startswith(("8.5", "8.6"))
    model.close()


def outputs(model: Any) -> dict[str, bytes]:
    """The outputs of the last run, as they lie in memory."""
    return {
        tensor.name: model._gpu.to_host(pointer, tensorrt_model._bytes(tensor))
        for tensor, pointer in model._buffers
        if not tensor.is_input
    }


@pytest.mark.parametrize("version", WITH_BOTH)
def test_the_way_of_8_2_can_be_tried_where_both_exist(
    install: Install, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt, runtime = install(version)
    monkeypatch.setenv(API_VARIABLE, "bindings")
    model = runtime.prepare(save(models.convolution()), 1, 5, {})
    model.run(3)
    assert model.facts()["api"] == "bindings"
    assert set(trt.world.launched_by) == {"execute_async_v2"}
    old = outputs(model)
    model.close()
    monkeypatch.delenv(API_VARIABLE)
    model = runtime.prepare(save(models.convolution()), 1, 5, {})
    assert outputs(model) == old
    model.close()


def test_the_way_of_8_2_is_not_forced_on_a_version_without_it(
    install: Install, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runtime = install("10.0.1")
    monkeypatch.setenv(API_VARIABLE, "bindings")
    model = runtime.prepare(save(models.convolution()), 1, 0, {})
    assert model.facts()["api"] == "tensors"
    model.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_have_their_names_and_a_time_a_pass(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    _, runtime = install(version)
    model = runtime.prepare(save(typed(version, "fp16")), 1, 0, {"precision": "fp16"})
    layers = model.layers(4)
    names = [name for name, _ in layers]
    assert names[0].startswith("Reformatting CopyNode")
    assert names[1:] == ["t1/Conv + t2/Clip", "result/GlobalAveragePool"]
    assert all(len(ns) == 4 and min(ns) > 0 for _, ns in layers)
    model.run(2)  # the profiler was in another context: this one runs as before
    model.close()


@pytest.mark.parametrize("launch", ["plain", "cuda_graph"])
def test_a_profile_needs_the_memory_of_one_context(
    install: Install, save: Callable[[bytes], str], launch: str
) -> None:
    trt, runtime = install()
    model = runtime.prepare(save(models.convolution()), 1, 0, {"launch": launch})
    trt.world.gpu.gpu.memory_bytes -= trt.world.gpu.gpu.free_bytes()
    freed = len(trt.world.freed)
    assert model.layers(2)
    assert trt.world.freed[freed:] == ["IExecutionContext"] * 2
    model.run(1)
    model.close()


@pytest.mark.parametrize("do", ["close", "layers"])
def test_a_graph_goes_before_the_context_that_it_launches(
    install: Install, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, do: str
) -> None:
    trt, runtime = install()
    destroy = tensorrt_model.cuda.Gpu._destroy_graph

    def note(gpu: Any, executable: int) -> None:
        trt.world.freed.append("graph")
        destroy(gpu, executable)

    monkeypatch.setattr(tensorrt_model.cuda.Gpu, "_destroy_graph", note)
    model = runtime.prepare(save(models.convolution()), 1, 0, {"launch": "cuda_graph"})
    freed = len(trt.world.freed)
    model.close() if do == "close" else model.layers(1)
    assert trt.world.freed[freed:][:2] == ["graph", "IExecutionContext"]
    model.close()


def test_a_larger_convolution_takes_longer(install: Install, save: Callable[[bytes], str]) -> None:
    trt, runtime = install()
    trt.world.gpu.gpu.launch_ns = 0
    times = []
    for channels in (8, 64):
        model = runtime.prepare(save(models.convolution(channels, size=32)), 1, 0, {})
        found = model.measure(QUICK, 1).device_ns
        assert found is not None
        times.append(min(found))
        model.close()
    assert times[1] > 5 * times[0]


def test_a_cold_cache_makes_runs_slower(install: Install, save: Callable[[bytes], str]) -> None:
    trt, runtime = install()
    trt.world.gpu.gpu.launch_ns = 0
    times = {}
    for cache in ("hot", "cold"):
        model = runtime.prepare(save(models.convolution(32)), 1, 0, {"cache": cache})
        found = model.measure(QUICK, 1).device_ns
        assert found is not None
        times[cache] = min(found)
        model.close()
    assert times["cold"] > times["hot"]


# Engines and timing caches


def test_an_engine_is_used_again_only_where_its_digest_is_named(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    file = save(models.convolution())
    first = runtime.prepare(file, 1, 0, {})
    sha256 = first.facts()["engine_sha256"]
    first.close()
    runtime.prepare(file, 1, 0, {}).close()
    assert trt.world.builds == 2
    again = runtime.prepare(file, 1, 0, {"engine_sha256": sha256})
    assert trt.world.builds == 2
    assert again.facts()["engine_reused"] is True and again.facts()["engine_sha256"] == sha256
    assert again.facts()["precision"] == "fp32" and "build_s" not in again.facts()
    again.close()


def test_a_new_process_finds_the_engine_beside_the_file(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    file = save(models.convolution())
    first = runtime.prepare(file, 1, 0, {})
    sha256 = first.facts()["engine_sha256"]
    first.close()
    other = TensorRT()
    other.load()
    again = other.prepare(file, 1, 0, {"engine_sha256": sha256})
    assert again.facts()["engine_reused"] is True and trt.world.builds == 1
    again.close()


def test_an_engine_that_was_changed_is_not_loaded_but_built_anew(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    file = save(models.convolution())
    first = runtime.prepare(file, 1, 0, {})
    sha256 = first.facts()["engine_sha256"]
    first.close()
    path = Path(engines.path_of(file, sha256))
    path.write_bytes(path.read_bytes() + b" ")
    other = TensorRT()
    other.load()
    again = other.prepare(file, 1, 0, {"engine_sha256": sha256})
    assert again.facts()["engine_reused"] is False and trt.world.builds == 2
    again.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_of_another_version_is_refused_with_what_tensorrt_says(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    _, runtime = install("8.6.0" if version != "8.6.0" else ONE)
    file = save(models.convolution())
    first = runtime.prepare(file, 1, 0, {})
    sha256 = first.facts()["engine_sha256"]
    first.close()
    _, other = install(version)
    error = failure(other, file, engine_sha256=sha256)
    assert error.kind == "runtime_error" and "builds it anew" in error.advice
    assert f"TensorRT {version} does not take the engine" in error.message
    assert "Version tag does not match" in error.message


@pytest.mark.parametrize("version", VERSIONS)
def test_builds_share_one_timing_cache_and_so_choose_alike(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    trt, runtime = install(version)
    assert runtime.state() is None
    file = save(models.convolution())
    told = []
    for _ in range(2):
        model = runtime.prepare(file, 1, 0, {})
        told.append(model.facts())
        model.close()
    assert told[0]["engine_sha256"] == told[1]["engine_sha256"]
    assert [one["flags"]["timing_cache"] for one in told] == ["new", "used"]
    assert runtime.state() is not None
    fresh = runtime.prepare(file, 1, 0, {"build": 1})
    assert fresh.facts()["engine_sha256"] != told[0]["engine_sha256"]
    assert fresh.facts()["flags"]["timing_cache"] == "none"
    assert [one["has_cache"] for one in trt.world.configs] == [True, True, False]
    fresh.close()


def test_a_new_build_leaves_the_timing_cache_as_it_is(
    install: Install, save: Callable[[bytes], str]
) -> None:
    _, runtime = install()
    file = save(models.convolution())
    runtime.prepare(file, 1, 0, {}).close()
    before = runtime.state()
    runtime.prepare(file, 1, 0, {"build": 2}).close()
    assert runtime.state() == before


def handed_over(cache: Path, content: bytes) -> dict[str, str]:
    cache.write_bytes(content)
    return {
        "timing_cache": str(cache),
        "timing_cache_sha256": hashlib.sha256(content).hexdigest(),
    }


def test_the_host_s_timing_cache_is_where_a_new_process_starts(
    install: Install, save: Callable[[bytes], str], tmp_path: Path
) -> None:
    _, runtime = install()
    file = save(models.convolution())
    first = runtime.prepare(file, 1, 0, {})
    learned = runtime.state()
    assert learned is not None
    other = TensorRT()
    other.load()
    again = other.prepare(file, 1, 0, handed_over(tmp_path / "cache", learned))
    assert again.facts()["flags"]["timing_cache"] == "used"
    assert again.facts()["engine_sha256"] == first.facts()["engine_sha256"]
    for one in (first, again):
        one.close()


def test_a_timing_cache_of_another_gpu_or_a_damaged_one_is_replaced(
    install: Install, save: Callable[[bytes], str], tmp_path: Path
) -> None:
    trt, _ = install()
    file = save(models.convolution())
    foreign = trt.world.pack("timing cache", entries={}).replace(b"Simulated H200", b"Tesla T4")
    for content in (foreign, b"no cache"):
        other = TensorRT()
        other.load()
        model = other.prepare(file, 1, 0, handed_over(tmp_path / "cache", content))
        assert model.facts()["flags"]["timing_cache"] == "replaced"
        state = other.state()
        assert state is not None and b"t1/Conv" in state and b"Simulated H200" in state
        model.close()


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_timing_cache_that_was_lost_on_the_device_is_begun_anew(
    install: Install, save: Callable[[bytes], str], tmp_path: Path, how: str
) -> None:
    trt, runtime = install()
    file = save(models.convolution())
    cache = tmp_path / "cache"
    options: dict[str, Any] = handed_over(cache, trt.world.pack("timing cache", entries={}))
    if how == "changed":
        cache.write_bytes(cache.read_bytes() + b" ")
    else:
        cache.unlink()
    told = []
    for build in (1, 0, 0):
        model = runtime.prepare(file, 1, 0, {**options, "build": build})
        told.append(model.facts()["flags"]["timing_cache"])
        model.close()
    assert told == ["none", "lost", "used"]
    learned = runtime.state()
    assert learned is not None and b"t1/Conv" in learned


# What is refused


@pytest.mark.parametrize("version", WITH_FLAGS)
@pytest.mark.parametrize(("asked", "chosen"), [("fp16", "fp32"), ("int8", "fp16")])
def test_a_faster_precision_than_was_allowed_is_measured_and_told(
    install: Install, save: Callable[[bytes], str], version: str, asked: str, chosen: str
) -> None:
    """A TX2 may prefer fp32: the latency with fp16 allowed is what a user gets."""
    trt, runtime = install(version)
    trt.world.chooses = chosen
    file = save(typed(version, asked))
    model = runtime.prepare(file, 1, 0, {"precision": asked})
    told = model.facts()
    assert told["precision"] == chosen
    assert told["precision_note"].startswith(f"{chosen} was built where {asked} was asked for: ")
    assert model.measure(QUICK, 1).device_ns
    model.close()
    again = runtime.prepare(
        file, 1, 0, {"precision": asked, "engine_sha256": told["engine_sha256"]}
    )
    assert again.facts()["engine_reused"] and again.facts()["precision_note"]
    again.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chosen", ["fp16", "int8", "tf32"])
def test_an_fp32_engine_with_anything_less_in_it_fails(
    install: Install, save: Callable[[bytes], str], version: str, chosen: str
) -> None:
    trt, runtime = install(version)
    trt.world.chooses = chosen
    file = save(models.convolution())
    error = failure(runtime, file)
    assert error.kind == "wrong_precision" and f"in {chosen}" in error.message
    assert not list(Path(file).parent.glob(f"*{engines.ENGINE_SUFFIX}"))
    assert trt.world.gpu.memory == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_gpu_with_tf32_computes_in_fp32_all_the_same(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    """From Ampere on TF32 is on unless it is switched off."""
    capability = (8, 0)
    trt, runtime = install(version, capability=capability)
    model = runtime.prepare(save(models.convolution()), 1, 0, {})
    assert model.facts()["precision"] == "fp32"
    assert trt.world.gpu.gpu.capability == capability
    model.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_that_tells_no_details_is_no_proof_of_any_precision(
    install: Install, save: Callable[[bytes], str], precision: str
) -> None:
    trt, runtime = install()
    trt.world.tells_details = False
    error = failure(runtime, save(typed(ONE, precision)), precision=precision)
    assert error.kind == "runtime_error"
    assert "no details" in error.message and precision in error.message


@pytest.mark.parametrize("version", VERSIONS)
def test_a_piece_that_multiplies_nothing_is_in_fp16_all_the_same(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    trt, runtime = install(version)
    file = save(models.pooling())
    if version in WITH_FLAGS:
        model = runtime.prepare(file, 1, 0, {"precision": "fp16"})
        assert model.facts()["precision"] == "fp16"
        model.close()
        trt.world.chooses = "fp32"
        model = runtime.prepare(file, 1, 0, {"precision": "fp16"})
        assert "layers that compute" in model.facts()["precision_note"]
        model.close()
    else:
        assert failure(runtime, file, precision="fp16").kind == "bad_model"


@pytest.mark.parametrize("version", TYPED)
def test_from_11_on_an_fp16_engine_needs_a_file_in_fp16(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    _, runtime = install(version)
    error = failure(runtime, save(models.convolution()), precision="fp16")
    assert error.kind == "bad_model"
    assert "'image' is a FLOAT" in error.message and "FLOAT16" in error.advice


@pytest.mark.parametrize("version", VERSIONS)
def test_a_piece_without_products_needs_no_scales_in_int8(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    """A bias map, an addition or a pool alone has no Q/DQ nodes."""
    trt, runtime = install(version)
    model = runtime.prepare(save(models.pooling()), 1, 0, {"precision": "int8"})
    assert model.facts()["precision_note"] == "" and model.facts()["flags"]["io"] == "fp32"
    assert "INT8" not in trt.world.configs[0]["flags"]
    assert trt.world.configs[0]["io"] == {"image": "FLOAT", "result": "FLOAT"}
    assert model.measure(QUICK, 1).device_ns
    model.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_products_without_scales_are_refused(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    _, runtime = install(version)
    error = failure(runtime, save(models.convolution()), precision="int8")
    assert error.kind == "bad_model" and "QuantizeLinear" in error.message


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_that_the_parser_does_not_know_is_named_with_its_node(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    _, runtime = install(version)
    nodes = [models.node("Relu", ["image"], "t1"), models.node("Det", ["t1"], "result")]
    error = failure(runtime, save(models.write(nodes, result=[2, 8])))
    assert error.kind == "bad_model"
    assert "node 1 (Det result/Det)" in error.message
    assert "No importer registered for op: Det" in error.message
    assert "UNSUPPORTED_NODE" in error.message


def test_an_operator_without_a_name_is_named_by_its_kind(
    install: Install, save: Callable[[bytes], str]
) -> None:
    _, runtime = install()
    nodes = [helper.make_node("Det", ["image"], ["result"])]
    assert "node 0 (Det): " in failure(runtime, save(models.write(nodes))).message


def test_what_the_parser_says_in_several_lines_is_one(
    install: Install, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt, runtime = install()
    said = "Invalid Node - result/Det\nITensor::getDimensions: Error Code 4\n"
    monkeypatch.setattr(trt.ParserError, "desc", lambda self: said)
    error = failure(runtime, save(models.write([models.node("Det", ["image"], "result")])))
    assert "Invalid Node - result/Det ITensor::getDimensions: Error Code 4 [" in error.message


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_file_which_the_parsers_take_is_a_bad_model(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    _, runtime = install(version)
    error = failure(runtime, save(b""))
    assert error.kind == "bad_model" and "holds no network" in error.message


def test_a_shape_that_is_not_fixed_is_refused_by_the_tensor_s_name(
    install: Install, save: Callable[[bytes], str]
) -> None:
    _, runtime = install()
    content = models.write([models.node("Relu", ["image"], "result")], shape=["N", 8, 4, 4])
    error = failure(runtime, save(content))
    assert error.kind == "bad_model" and "'image'" in error.message


@pytest.mark.parametrize("content", [b"\x08\x07 no model", models.convolution()[:-20]])
def test_a_damaged_file_is_a_bad_model(
    install: Install, save: Callable[[bytes], str], content: bytes
) -> None:
    _, runtime = install()
    assert failure(runtime, save(content)).kind == "bad_model"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failed_build_says_what_the_builder_said(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    trt, runtime = install(version)
    trt.world.fails["build"] = "10: Could not find any implementation for node t1/Conv."
    error = failure(runtime, save(models.convolution()))
    assert error.kind == "runtime_error"
    assert "Could not find any implementation for node t1/Conv" in error.message
    assert version in error.message


@pytest.mark.parametrize(
    "said",
    [
        "2: Error Code 2: OutOfMemory (no further information)",
        "[defaultAllocator.cpp::allocate::56] Cuda Runtime (out of memory)",
        "Tactic Device request: 4096MB Available: 2048MB. insufficient memory on requested size",
    ],
)
@pytest.mark.parametrize("step", ["build", "deserialize", "context", "enqueue"])
def test_memory_that_tensorrt_could_not_have_is_out_of_memory(
    install: Install, save: Callable[[bytes], str], step: str, said: str
) -> None:
    trt, runtime = install()
    trt.world.fails[step] = said
    assert failure(runtime, save(models.convolution())).kind == "out_of_memory"
    assert trt.world.gpu.memory == {}


def test_a_model_larger_than_the_gpu_is_out_of_memory(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    trt.world.gpu.gpu.memory_bytes = 100_000
    error = failure(runtime, save(models.convolution(64)))
    assert error.kind == "out_of_memory" and "smaller batch" in error.advice


def test_buffers_that_do_not_fit_are_out_of_memory(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    file = save(models.convolution())
    model = runtime.prepare(file, 1, 0, {})
    needed = model.facts()["device_memory_bytes"]
    sha256 = model.facts()["engine_sha256"]
    model.close()
    trt.world.gpu.gpu.memory_bytes = needed // 2
    assert failure(runtime, file, engine_sha256=sha256).kind == "out_of_memory"
    assert trt.world.gpu.memory == {}


def test_an_engine_that_cannot_be_captured_names_the_other_way_to_launch(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    trt.world.fails["capture"] = "in the middle"
    error = failure(runtime, save(models.convolution()), launch="cuda_graph")
    assert error.kind == "bad_request" and "launch=plain" in error.advice
    assert trt.world.gpu.memory == {}
    assert "CAPTURE" in str(error.__cause__) or "enqueue" in str(error.__cause__)
    assert not runtime.is_broken()
    runtime.prepare(save(models.convolution()), 1, 0, {"launch": "plain"}).close()


def test_a_run_that_tensorrt_refuses_says_why(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    model = runtime.prepare(save(models.convolution()), 1, 0, {})
    trt.world.fails["enqueue"] = "1: Cuda Runtime (invalid argument)"
    with pytest.raises(RuntimeError, match="invalid argument"):
        model.run(1)
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.run(1)


def test_an_error_that_says_nothing_special_is_left_as_it_is(install: Install) -> None:
    _, runtime = install()
    assert runtime.failure(RuntimeError("something")) is None


def test_a_gpu_that_is_broken_for_good_is_noticed(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    assert not TensorRT().is_broken()  # no GPU was opened yet
    model = runtime.prepare(save(models.convolution()), 1, 0, {})
    assert not runtime.is_broken()
    trt.world.gpu.gpu.broken = trt.world.gpu.ILLEGAL_ADDRESS
    with pytest.raises(Exception, match=r"CUDA|Cuda"):
        model.run(1)
    assert runtime.is_broken()
    model.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("step", ["build", "deserialize", "context", "enqueue"])
def test_a_step_that_failed_and_broke_the_gpu_is_told_from_one_that_failed(
    install: Install, save: Callable[[bytes], str], version: str, step: str
) -> None:
    trt, runtime = install(version)
    for text, is_broken in [("10: no implementation", False), ("BROKEN", True)]:
        trt.world.fails[step] = text
        with pytest.raises((RequestError, RuntimeError), match=r"no implementation|illegal memory"):
            runtime.prepare(save(models.convolution()), 1, 0, {})
        assert runtime.is_broken() is is_broken


def test_a_capture_that_broke_the_gpu_says_so(
    install: Install, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt, runtime = install()

    def capture(gpu: Any, stream: int, enqueue: Any) -> None:
        trt.world.gpu.gpu.broken = trt.world.gpu.ILLEGAL_ADDRESS
        gpu.synchronize(stream)

    monkeypatch.setattr(tensorrt_model.cuda.Gpu, "capture", capture)
    error = failure(runtime, save(models.convolution()), launch="cuda_graph")
    assert isinstance(error.__cause__, tensorrt_model.cuda.GpuError) and error.__cause__.sticky
    assert runtime.is_broken()


def test_another_build_is_kept_in_place_of_the_first_and_used_where_it_is_named(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install()
    file = save(models.convolution())
    first = runtime.prepare(file, 1, 0, {})
    first.close()
    other = runtime.prepare(file, 1, 0, {"build": 1})
    assert other.facts()["engine_reused"] is False and trt.world.builds == 2
    wanted = other.facts()["engine_sha256"]
    other.close()
    kept = [one.name for one in Path(file).parent.glob("*.engine")]
    assert kept == [f"{Path(file).name}.{wanted}.engine"]
    again = runtime.prepare(file, 1, 0, {"build": 1, "engine_sha256": wanted})
    assert again.facts()["engine_reused"] is True and trt.world.builds == 2
    again.close()
    # One that is gone is built anew, as the build of that number.
    gone = {"build": 1, "engine_sha256": first.facts()["engine_sha256"]}
    anew = runtime.prepare(file, 1, 0, gone)
    assert anew.facts()["engine_reused"] is False and trt.world.builds == 3
    assert anew.facts()["flags"]["timing_cache"] == "none"
    anew.close()


def test_models_whose_names_are_alike_keep_their_own_engines(tmp_path: Path) -> None:
    for name in ("a.onnx.b", "a.onnx", "a[b].onnx", "ab.onnx"):
        engines.save(str(tmp_path / name), name.encode())
    engines.save(str(tmp_path / "a[b].onnx"), b"another")
    kept = {one.read_bytes() for one in tmp_path.glob("*.engine")}
    assert kept == {b"a.onnx", b"a.onnx.b", b"ab.onnx", b"another"}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_build_warns_of_is_not_why_it_failed(
    install: Install, save: Callable[[bytes], str], version: str
) -> None:
    """Every build skips tactics that want too much memory."""
    trt, runtime = install(version)
    trt.world.fails["build"] = "10: Could not find any implementation for node t1/Conv."
    error = failure(runtime, save(models.convolution()))
    assert error.kind == "runtime_error" and "insufficient" not in error.message


# Which machines


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["Builder", "Runtime"])
def test_a_driver_that_does_not_fit_is_missing_with_the_warning_that_says_so(
    install: Install, save: Callable[[bytes], str], version: str, what: str
) -> None:
    trt, runtime = install(version)
    trt.world.fails[what] = (
        "CUDA initialization failure with error: 35. Please check your CUDA installation"
    )
    error = failure(runtime, save(models.convolution()))
    assert error.kind == "missing_runtime"
    assert f"TensorRT {version} does not start on Simulated H200" in error.message
    assert "CUDA initialization failure with error: 35" in error.message
    assert "serves CUDA 12.4" in error.advice
    assert trt.world.gpu.memory == {}


def test_without_a_gpu_tensorrt_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    machine.install(monkeypatch, ONE, gpus=0)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it would fail
    runtime = TensorRT()
    assert runtime.version() is None
    with pytest.raises(RequestError, match="was found: cuInit: CUDA_ERROR_NO_DEVICE") as caught:
        runtime.load()
    assert caught.value.kind == "missing_runtime"


def test_a_tensorrt_that_does_not_import_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    machine.install(monkeypatch, ONE)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    runtime = TensorRT()
    assert runtime.version() is None
    assert "does not start" in runtime.problem() and "install tensorrt-cu12" in runtime.problem()
    with pytest.raises(RequestError, match="does not start") as caught:
        runtime.load()
    assert caught.value.kind == "missing_runtime" and "pip install" in caught.value.advice


def test_a_v100_with_10_16_is_told_to_install_10_4(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install(monkeypatch, "10.16.1.11", capability=(7, 0))
    with pytest.raises(RequestError, match=r"10\.16\.1\.11 does not support") as caught:
        TensorRT().load()
    assert caught.value.kind == "missing_runtime" and "10.4" in caught.value.advice


def test_int8_on_a_chip_without_int8_is_refused(
    install: Install, save: Callable[[bytes], str]
) -> None:
    trt, runtime = install("8.2.1.8", capability=(6, 2))
    error = failure(runtime, save(models.quantized()), precision="int8")
    assert error.kind == "missing_runtime" and "int8" in error.message
    assert trt.world.builds == 0


@pytest.fixture
def worker_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``worker_with(version)``: workers that find a GPU and this TensorRT."""

    def make(version: str, **environment: str) -> None:
        has = {"FAKE_TENSORRT": version, "SIMULATED_GPU_CAPABILITY": "7.5", **environment}
        for name, value in {"PYTHONPATH": str(FOLDER), **has}.items():
            monkeypatch.setenv(name, value)
        worker.close_all()

    yield make
    worker.close_all()


def asked(do: str, file: str, **fields: Any) -> dict[str, Any]:
    """A request to a worker about a file."""
    sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return {"do": do, "runtime": "tensorrt", "file": file, "sha256": sha256, **fields}


@pytest.mark.parametrize("binding", ["pycuda", "libcuda"])
@pytest.mark.parametrize("version", ["8.2.1.8", ONE, "11.4.0.106"])
def test_a_worker_measures_profiles_and_tells_its_timing_cache(
    worker_with: Callable[..., None], save: Callable[[bytes], str], version: str, binding: str
) -> None:
    worker_with(version, SIMULATED_GPU_BINDING=binding)
    assert worker.version("tensorrt") == (version, "")
    file = save(models.convolution())
    options = {"launch": "cuda_graph", "precision": "fp32"}
    rule = QUICK._asdict()
    measured = worker.ask("tensorrt", asked("measure", file, rule=rule, options=options))
    assert min(measured["device_ns"]) > 0 and measured["built"]["binding"] == binding
    assert measured["built"]["precision"] == "fp32"
    known = {"engine_sha256": measured["built"]["engine_sha256"]}
    profiled = worker.ask("tensorrt", asked("profile", file, passes=3, options=known))
    assert profiled["layers"][0][0] == "t1/Conv + t2/Clip"
    assert all(len(ns) == 3 for _, ns in profiled["layers"])
    assert profiled["built"]["engine_reused"] is True
    state = worker.ask("tensorrt", {"do": "state", "runtime": "tensorrt"})["state"]
    assert b"t1/Conv" in base64.b64decode(state)


def test_a_builder_that_ends_its_process_costs_one_job(
    worker_with: Callable[..., None], save: Callable[[bytes], str]
) -> None:
    worker_with(ONE, FAKE_TENSORRT_FAILS="build=CRASH")
    request = asked("measure", save(models.convolution()), rule=QUICK._asdict())
    with pytest.raises(RequestError, match="SIGSEGV") as caught:
        worker.ask("tensorrt", request)
    assert caught.value.kind == "worker_crashed"
    worker_with(ONE, FAKE_TENSORRT_FAILS="")
    assert worker.ask("tensorrt", request)["device_ns"]


def test_a_capture_that_failed_ends_its_process_and_the_next_job_has_a_new_one(
    worker_with: Callable[..., None], save: Callable[[bytes], str]
) -> None:
    worker_with(ONE, FAKE_TENSORRT_FAILS="capture=in the middle")
    options = {"launch": "cuda_graph"}
    request = asked("measure", save(models.convolution()), rule=QUICK._asdict(), options=options)
    with pytest.raises(RequestError, match="cannot be captured"):
        worker.ask("tensorrt", request)
    assert "tensorrt" not in worker._workers
    assert worker.ask("tensorrt", dict(request, options={}))["device_ns"]


def test_a_worker_without_a_gpu_tells_no_version(worker_with: Callable[..., None]) -> None:
    worker_with(ONE, SIMULATED_GPU_COUNT="0")
    assert worker.version("tensorrt")[0] is None


# Inputs


def random_input(tensor: Tensor, seed: int) -> bytes:
    """All that an input holds: the block that is drawn, repeated."""
    block = tensorrt_model._drawn(tensor, seed)
    size = tensorrt_model._bytes(tensor)
    return (block * -(-size // len(block)))[:size]


def test_inputs_are_drawn_from_the_seed() -> None:
    tensor = Tensor("image", True, (2, 3, 4), "FLOAT")
    assert random_input(tensor, 3) == random_input(tensor, 3) != random_input(tensor, 4)
    values = struct.unpack("<24f", random_input(tensor, 3))
    assert min(values) < 0 < max(values) and max(map(abs, values)) < 6


@pytest.mark.parametrize(
    ("element", "size"),
    [("FLOAT", 4), ("HALF", 2), ("INT8", 1), ("INT32", 4), ("INT64", 8), ("BOOL", 1)],
)
def test_large_inputs_are_filled_to_their_last_byte(element: str, size: int) -> None:
    count = 3 * 65537 + 11
    drawn = random_input(Tensor("image", True, (count,), element), 0)
    assert len(drawn) == count * size
    assert drawn[: 11 * size] == drawn[-11 * size :]  # so many numbers are drawn, and repeated
    if element in ("INT32", "INT64", "INT8", "BOOL"):
        assert set(drawn) == {0, 1}


def test_half_precision_inputs_are_the_same_numbers_rounded() -> None:
    full = struct.unpack("<8f", random_input(Tensor("x", True, (8,), "FLOAT"), 5))
    half = struct.unpack("<8e", random_input(Tensor("x", True, (8,), "HALF"), 5))
    assert half == pytest.approx(full, rel=1e-3)


@pytest.mark.parametrize("size", [3, 260, 700])
def test_an_input_lies_on_the_gpu_as_it_is_drawn(
    install: Install, save: Callable[[bytes], str], size: int
) -> None:
    """Larger ones than one copy takes, too: it holds a million numbers."""
    _, runtime = install()
    shape = [1, 3, size, size]
    content = models.write([models.node("Relu", ["image"], "result")], shape=shape)
    model = runtime.prepare(save(content), 1, 7, {})
    ((tensor, pointer),) = [one for one in model._buffers if one[0].is_input]  # type: ignore[attr-defined]
    expected = random_input(tensor, 7)
    assert simulated().read(pointer, len(expected)) == expected
    assert len(expected) == 3 * size * size * 4
    model.close()


def test_integer_inputs_reach_the_engine(install: Install, save: Callable[[bytes], str]) -> None:
    _, runtime = install()
    content = models.write([models.node("Identity", ["image"], "result")], kind=TensorProto.INT32)
    model = runtime.prepare(save(content), 1, 0, {})
    model.run(1)
    model.close()


def test_an_input_of_a_type_that_cannot_be_filled_is_refused() -> None:
    with pytest.raises(RequestError, match="BF16") as caught:
        random_input(Tensor("image", True, (4,), "BF16"), 0)
    assert caught.value.kind == "bad_model"
