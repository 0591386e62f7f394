"""The trtexec runtime against recorded output and a strict stand-in for each version."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.agent.checks import RequestError
from devices.agent.cuda import GpuInfo
from devices.agent.protocol import Rule, file_digest
from devices.agent.runtimes.tensorrt import build as tensorrt_build
from devices.agent.runtimes.tensorrt import engines
from devices.agent.runtimes.trtexec import flags, output, process
from devices.agent.runtimes.trtexec import runtime as trtexec
from devices.agent.runtimes.trtexec.runtime import Trtexec
from latency_tables.opspec import Conv, OpSpec
from profiler.workloads import build_onnx

RECORDED = Path(__file__).parent / "trtexec_recorded"
VERSIONS = ["8.2.1", "8.4.2", "8.5.3", "8.6.1", "10.3.0", "10.16.1", "11.1.0"]
RULE = Rule(warmup_s=0.2, min_samples=30, min_total_s=0.3, cap_s=15.0)
SPEC = OpSpec(input_shape=(3, 8, 8), ops=(Conv(inputs=(0,), out_channels=4, kernel=(3, 3)),))
FIRST = "t1/Conv + t2/Clip"


class Device:
    """A machine with one version of the stand-in, and a model."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._patch = patch
        self.calls_file = folder / "calls.jsonl"
        self.binary = folder / "bin" / "trtexec"
        self.binary.parent.mkdir()
        fake = RECORDED / "fake_trtexec.py"
        self.binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{fake}" "$@"\n')
        self.binary.chmod(0o755)
        (folder / "models").mkdir()
        self.model = folder / "models" / "m.onnx"
        self.model.write_bytes(build_onnx(SPEC))
        patch.setenv("FAKE_TRTEXEC_CALLS", str(self.calls_file))
        patch.setenv(process.PATH_VARIABLE, str(self.binary))
        patch.setattr(trtexec, "find_gpu", lambda: None)
        self.become("8.5.3")

    def become(self, version: str, fault: str = "", file_type: str = "fp32") -> Trtexec:
        """Change the version; returns a runtime that finds it."""
        self._patch.setenv("FAKE_TRTEXEC_VERSION", version)
        self._patch.setenv("FAKE_TRTEXEC_FAULT", fault)
        self._patch.setenv("FAKE_TRTEXEC_FILE_TYPE", file_type)
        return Trtexec()

    def prepare(self, runtime: Trtexec, **options: Any) -> Any:
        runtime.load()
        return runtime.prepare(str(self.model), 1, 0, options)

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call that was no question for the version."""
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    @property
    def left(self) -> set[str]:
        """What lies beside the model."""
        return {file.name for file in self.model.parent.iterdir()} - {self.model.name}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    yield Device(tmp_path, monkeypatch)


def failure(
    device: Device, version: str = "8.5.3", fault: str = "", **options: Any
) -> RequestError:
    """The error of a whole job."""
    with pytest.raises(RequestError) as caught:
        model = device.prepare(device.become(version, fault), **options)
        try:
            model.measure(RULE, 1)
        finally:
            model.close()
    return caught.value


@pytest.mark.parametrize("launch", ["plain", "cuda_graph"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_builds_and_times_in_each_precision_and_launch(
    device: Device, version: str, precision: str, launch: str
) -> None:
    runtime = device.become(version, file_type=precision)
    assert runtime.version() == version
    model = device.prepare(runtime, precision=precision, launch=launch)
    timing = model.measure(RULE, 1)
    # Runs of the warm-up take 99 ms in the stand-in.
    assert timing.device_ns == [250_000] * 30 and timing.wall_ns == timing.device_ns
    assert timing.enqueue_ns == [12_500] * 30
    assert timing.cpu_ns is None and timing.runs_per_sample == 1 and timing.stopped == "trtexec"
    facts = model.facts()
    assert facts["precision"] == precision and facts["precision_layers"] == {precision: 2}
    assert facts["build_s"] == 3.25 and not facts["engine_reused"]
    assert facts["gpu"] == "NVIDIA TITAN Fake" and facts["device_memory_bytes"] == 266 << 20
    assert facts["tactics"][0][0] == FIRST
    assert facts["flags"]["launch"] == launch and not facts["flags"]["tf32"]
    plan = engines.load(str(device.model), facts["engine_sha256"])
    assert plan is not None and len(plan) == facts["engine_bytes"]
    built = json.loads(plan)
    assert built["workspace"] == str(flags.WORKSPACE_MIB)
    assert not built["tf32"] and built["verbosity"] == "detailed"
    is_set = precision == "fp16" and version != "11.1.0"
    assert built["io"] == (["fp16:chw"] * 2 if is_set else [None] * 2)
    told = "fp32" if precision == "int8" else "fp16" if is_set else None
    assert facts["flags"].get("io") == told and facts["precision_note"] == ""
    model.close()
    assert device.left == {Path(engines.path_of("m.onnx", facts["engine_sha256"])).name}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_profiles_its_layers(device: Device, version: str) -> None:
    model = device.prepare(device.become(version))
    layers = model.layers(7)
    assert layers[0][0] == FIRST and len(layers) == 3
    # The first run of the stand-in is ten times as slow; medians came with 8.5.
    has_medians = version not in ("8.2.1", "8.4.2")
    assert layers[0][1] == ([100_000] if has_medians else pytest.approx([100_000], rel=0.1))
    assert ("--iterations=7" in device.calls[-1]) is has_medians
    model.close()


def commands(version: tuple[int, int, int]) -> Iterator[list[str]]:
    """Every command line of a version."""
    for precision in ("fp32", "fp16", "int8"):
        for cache in (None, "cache"):
            yield flags.build(version, "onnx", "engine", precision, 9, cache)
    for launch in ("plain", "cuda_graph"):
        yield flags.time(version, "engine", launch, RULE, "times")
    yield flags.profile(version, "engine", 3, "profile")
    yield [flags.LAYER_INFO]


@pytest.mark.parametrize("version", [*VERSIONS, "8.0.3", "9.2.0", "10.0.1", "11.4.1"])
def test_every_flag_is_one_that_the_stand_in_knows_and_the_table_lists(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("FAKE_TRTEXEC_VERSION", version)
    knows = runpy.run_path(str(RECORDED / "fake_trtexec.py"))["knows"]
    numbers: Any = tuple(int(part) for part in version.split("."))
    used = {word.partition("=")[0] for words in commands(numbers) for word in words}
    if version == "8.0.3":  # too old, which the stand-in notices too
        assert not all(knows(name) for name in used)
        return
    assert used == {name for name in flags.FLAGS if flags.takes(numbers, name)}
    assert all(knows(name) for name in used)


@pytest.mark.parametrize("version", ["8.2.1", "11.1.0"])
def test_a_flag_that_the_binary_does_not_know_is_named(device: Device, version: str) -> None:
    error = failure(device, version, "unknown:--noTF32")
    assert error.kind == "runtime_error" and "does not know --noTF32" in error.message


def test_a_binary_that_cannot_tell_layers_is_run_without(device: Device) -> None:
    runtime = device.become("8.2.1", fault="unknown:--exportLayerInfo")
    model = device.prepare(runtime, precision="fp16")
    assert model.measure(RULE, 1).device_ns == [250_000] * 30
    assert model.layers(3)[0][0] == FIRST
    facts = model.facts()
    assert facts["flags"]["layer_info"] is False
    assert not {"precision", "precision_layers", "tactics"} & set(facts)
    assert facts["gpu"] == "NVIDIA TITAN Fake"
    asked = [any("--exportLayerInfo" in word for word in call) for call in device.calls]
    assert asked == [False, True, False, False]  # it is built, and asked once


@pytest.mark.parametrize(
    ("name", "since", "before", "version", "launch"),
    [
        ("--memPoolSize", (8, 2), None, "8.2.1", "plain"),
        ("--builderOptimizationLevel", (8, 2), None, "8.5.3", "plain"),
        ("--noCudaGraph", (8, 2), None, "10.3.0", "plain"),
        ("--noCudaGraph", (12, 0), None, "11.1.0", "plain"),
        ("--fp16", (8, 2), None, "11.1.0", "plain"),
        ("--useCudaGraph", (8, 2), (10, 0), "10.3.0", "cuda_graph"),
        ("--noDataTransfers", (8, 6), (11, 0), "8.5.3", "plain"),
        ("--useSpinWait", (8, 6), (11, 0), "8.5.3", "plain"),
    ],
)
def test_an_error_in_the_table_of_flags_ends_the_job(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    since: tuple[int, int],
    before: tuple[int, int] | None,
    version: str,
    launch: str,
) -> None:
    monkeypatch.setitem(flags.FLAGS, name, flags.Flag(since, before))
    error = failure(device, version, precision="fp16", launch=launch)
    assert "does not know" in error.message or "did not time what was asked" in error.message


@pytest.mark.parametrize(
    ("precision", "allowed"),
    [("fp32", set()), ("fp16", {"--fp16"}), ("int8", {"--fp16", "--int8"})],
)
def test_a_build_is_allowed_what_its_precision_needs_and_nothing_else(
    device: Device, precision: str, allowed: set[str]
) -> None:
    for version in ("8.2.1", "10.3.0"):
        device.prepare(device.become(version), precision=precision)
        assert set(device.calls[-1]) & {"--fp16", "--int8", "--best"} == allowed
    device.prepare(device.become("11.1.0", file_type=precision), precision=precision)
    assert not set(device.calls[-1]) & {"--fp16", "--int8", "--best"}


def test_old_versions_get_whole_numbers_and_long_enough_runs(device: Device) -> None:
    rule = RULE._replace(warmup_s=0.0505, min_total_s=1.2, min_samples=17)
    device.prepare(device.become("8.2.1")).measure(rule, 1)
    call = device.calls[-1]
    assert {"--warmUp=51", "--duration=2", "--iterations=17"} <= set(call)


def test_the_cap_of_the_rule_bounds_the_length(device: Device) -> None:
    device.prepare(device.become("8.5.3")).measure(RULE._replace(min_total_s=0.1, cap_s=0.4), 1)
    assert "--duration=1" in device.calls[-1]


def test_the_run_s_engine_is_loaded_and_not_built_again(device: Device) -> None:
    runtime = device.become("8.5.3")
    first = device.prepare(runtime)
    sha256 = first.facts()["engine_sha256"]
    first.close()
    again = device.prepare(runtime, engine_sha256=sha256)
    assert again.facts()["engine_reused"] and again.facts()["engine_sha256"] == sha256
    assert "build_s" not in again.facts()
    assert sum(any("--onnx" in word for word in call) for call in device.calls) == 1
    assert again.measure(RULE, 1).device_ns


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_an_engine_that_is_not_what_this_run_built_is_never_loaded(
    device: Device, how: str
) -> None:
    runtime = device.become("8.5.3")
    sha256 = device.prepare(runtime).facts()["engine_sha256"]
    kept = Path(engines.path_of(str(device.model), sha256))
    if how == "changed":
        kept.write_bytes(kept.read_bytes() + b" ")
    else:
        kept.unlink()
    again = device.prepare(runtime, engine_sha256=sha256)
    assert not again.facts()["engine_reused"]
    assert sum(any("--onnx" in word for word in call) for call in device.calls) == 2


def test_a_further_build_takes_no_timing_cache_and_replaces_the_engine(device: Device) -> None:
    runtime = device.become("8.5.3")
    device.prepare(runtime).close()
    before, learned = device.left, runtime.state()
    model = device.prepare(runtime, build=2)
    assert model.facts()["flags"]["timing_cache"] == "none"
    building = next(call for call in device.calls[::-1] if "--noBuilderCache" in call)
    assert not any(word.startswith("--timingCacheFile") for word in building)
    assert runtime.state() == learned
    assert model.measure(RULE, 1).device_ns
    model.close()
    sha256 = model.facts()["engine_sha256"]
    assert device.left == {Path(engines.path_of("m.onnx", sha256)).name} != before
    again = device.prepare(runtime, build=2, engine_sha256=sha256)
    assert again.facts()["engine_reused"]


def test_builds_start_from_the_host_s_timing_cache_and_give_theirs_back(device: Device) -> None:
    runtime = device.become("8.5.3")
    first = device.prepare(runtime)
    assert first.facts()["flags"]["timing_cache"] == "new"
    first.close()
    assert runtime.state() == b"timed\n"
    pushed = device.folder / "pushed.cache"
    pushed.write_bytes(b"timed\n")
    given = {"timing_cache": str(pushed), "timing_cache_sha256": file_digest(str(pushed))}
    model = device.prepare(runtime, **given)
    assert model.facts()["flags"]["timing_cache"] == "used"
    plan = engines.load(str(device.model), model.facts()["engine_sha256"])
    assert plan is not None and json.loads(plan)["hits"] == 1
    assert runtime.state() == b"timed\ntimed\n"
    assert pushed.read_bytes() == b"timed\n"  # the host's file stays what it pushed


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_timing_cache_that_was_lost_on_the_device_is_begun_anew(device: Device, how: str) -> None:
    pushed = device.folder / "pushed.cache"
    if how == "changed":
        pushed.write_bytes(b"changed")
    given = {"timing_cache": str(pushed), "timing_cache_sha256": "0" * 64}
    runtime = device.become("8.5.3")
    model = device.prepare(runtime, **given)
    assert model.facts()["flags"]["timing_cache"] == "lost"
    assert runtime.state() == b"timed\n"
    model.close()


def test_the_cold_cache_is_refused(device: Device) -> None:
    error = failure(device, cache="cold")
    assert error.kind == "bad_request" and "cannot empty the cache" in error.message


V100 = GpuInfo(
    name="Tesla V100",
    compute_capability=(7, 0),
    driver_cuda="12.4",
    memory_bytes=12 << 30,
    l2_bytes=6 << 20,
    uuid="GPU-0",
)


def test_a_gpu_that_the_version_does_not_support_is_refused_before_a_build(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trtexec, "find_gpu", lambda: V100)
    error = failure(device, "10.5.0")
    assert error.kind == "missing_runtime" and "10.4" in error.message
    assert device.calls == []


@pytest.mark.parametrize(
    ("version", "flag"),
    [("8.2.1", "--workspace=3072"), ("10.3.0", "--memPoolSize=workspace:3072")],
)
def test_it_builds_with_the_choices_of_our_own_builds(
    device: Device, monkeypatch: pytest.MonkeyPatch, version: str, flag: str
) -> None:
    monkeypatch.setattr(trtexec, "find_gpu", lambda: V100)
    model = device.prepare(device.become(version))
    share = V100.memory_bytes // tensorrt_build.WORKSPACE_SHARE
    assert model.facts()["flags"]["workspace_mib"] << 20 == share
    assert {flag, f"--avgTiming={tensorrt_build.AVERAGED_TIMINGS}"} <= set(device.calls[0])


FAULTS: dict[str, tuple[str, str]] = {
    "parse": ("bad_model", "No importer registered for op: Foo"),
    "memory": ("out_of_memory", "8589934592"),
    "old gpu": ("missing_runtime", "SM 70 is not supported"),
    "no gpu": ("missing_runtime", "no CUDA-capable device"),
    "old driver": ("missing_runtime", "CUDA initialization failure with error: 35"),
    "other": ("runtime_error", "Could not find any implementation"),
    "crash": ("worker_crashed", "SIGSEGV"),
    "does not save": ("runtime_error", "save the engine"),
    "transfers": ("runtime_error", "Data transfers Enabled"),
    "no --exportTimes": ("runtime_error", "without writing times.json"),
    "no --exportLayerInfo": ("runtime_error", "without writing layers.json"),
    "damaged --exportTimes": ("runtime_error", "--exportTimes cannot be used"),
    "damaged --exportLayerInfo": ("runtime_error", "inspector"),
}


@pytest.mark.parametrize("version", ["8.2.1", "11.1.0"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_failure_says_what_happened_and_leaves_nothing_behind(
    device: Device, fault: str, version: str
) -> None:
    kind, said = FAULTS[fault]
    error = failure(device, version, fault)
    assert (error.kind, said in error.message) == (kind, True), error.message
    assert error.advice
    assert all(name.endswith(".engine") for name in device.left)


def test_an_engine_of_another_precision_than_was_allowed_is_measured_and_told(
    device: Device,
) -> None:
    model = device.prepare(device.become("8.5.3", "ignores precision"), precision="fp16")
    assert model.measure(RULE, 1).device_ns
    assert model.facts()["precision"] == "fp32"
    assert "fp32 was built where fp16 was asked for" in model.facts()["precision_note"]
    model.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_that_could_not_be_recorded_is_no_result(device: Device, version: str) -> None:
    """11.0 says it in other words."""
    error = failure(device, version, "graph", launch="cuda_graph")
    assert error.kind == "runtime_error" and "CUDA graph" in error.message


def test_without_a_binary_there_is_no_version(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(process.PATH_VARIABLE)
    monkeypatch.setenv("PATH", str(device.folder))
    monkeypatch.setattr(process, "USUAL_PATH", str(device.folder / "none"))
    runtime = Trtexec()
    assert not runtime.is_installed() and runtime.version() is None
    with pytest.raises(RequestError, match="no trtexec") as caught:
        runtime.load()
    assert caught.value.kind == "missing_runtime"
    assert process.PATH_VARIABLE in caught.value.advice


def test_the_path_comes_before_the_usual_place_and_the_user_s_word_before_both(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "USUAL_PATH", str(device.binary))
    assert process.find() == str(device.binary)
    monkeypatch.setenv(process.PATH_VARIABLE, str(device.folder / "not here"))
    assert process.find() is None  # what the user names must be there
    monkeypatch.delenv(process.PATH_VARIABLE)
    monkeypatch.setenv("PATH", str(device.folder))
    assert process.find() == str(device.binary)
    monkeypatch.setenv("PATH", str(device.binary.parent))
    monkeypatch.setattr(process, "USUAL_PATH", "/nowhere")
    assert process.find() == str(device.binary)


@pytest.mark.parametrize("version", ["7.2.3", "8.0.1", "12.0.0"])
def test_a_version_whose_flags_nobody_knows_is_refused(device: Device, version: str) -> None:
    error = failure(device, version)
    assert error.kind == "missing_runtime" and version in error.message
    assert version in device.become(version).problem()
    assert device.become(version).version() is None


def test_a_binary_that_says_no_version_is_refused(device: Device) -> None:
    error = failure(device, fault="mute")
    assert error.kind == "missing_runtime" and "does not say" in error.message


def test_a_file_that_cannot_be_run_is_refused(device: Device) -> None:
    device.binary.write_bytes(b"\x00")
    error = failure(device)
    assert error.kind == "missing_runtime" and "cannot be run" in error.message


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the child")
def test_the_binary_dies_with_the_process_that_drives_it(device: Device) -> None:
    fifo = device.folder / "fifo"
    os.mkfifo(fifo)
    device.become("8.5.3", fault="hang")
    code = (
        "import sys; from devices.agent.runtimes.trtexec import runtime as trtexec\n"
        "trtexec.find_gpu = lambda: None\n"
        "runtime = trtexec.Trtexec(); runtime.load()\n"
        "runtime.prepare(sys.argv[1], 1, 0, {})\n"
    )
    environment = {**os.environ, "FAKE_TRTEXEC_FIFO": str(fifo)}
    with (
        subprocess.Popen([sys.executable, "-c", code, device.model], env=environment) as driver,
        fifo.open() as stream,
    ):
        assert stream.readline() == "here\n"
        driver.kill()
        assert stream.read() == ""  # ends when nobody has it open for writing


LOGS: dict[str, tuple[tuple[int, int, int], str, float, int, str, str]] = {
    "8.2.1": ((8, 2, 1), "NVIDIA Tegra X2", 184.708, 80, "plain", "0.12207"),
    "8.4.2": ((8, 4, 2), "NVIDIA GeForce RTX 2080 Ti", 21.4411, 12, "cuda_graph", "0.12207"),
    "8.5.3": ((8, 5, 3), "Tesla V100-SXM2-16GB", 9.73511, 7, "plain", "0.00292969"),
    "8.6.1": ((8, 6, 1), "NVIDIA GeForce RTX 2080", 15.2, 9, "cuda_graph", "0.00292969"),
    "10.2.0": ((10, 2, 0), "NVIDIA GeForce RTX 4090", 4.90184, 3, "plain", "0.00292969"),
    "11.1.0": ((11, 1, 0), "NVIDIA H200", 2.25, 2, "plain", "0.00292969"),
}


@pytest.mark.parametrize("name", LOGS)
def test_recorded_output_is_read(name: str) -> None:
    said = (RECORDED / f"{name}.log").read_text()
    version, gpu, seconds, mib, launch, enqueue_ms = LOGS[name]
    assert output.version(said) == version
    assert output.gpu(said) == gpu
    assert output.build_s(said) == seconds
    assert output.device_memory_bytes(said) == mib << 20
    output.check_options(said, launch)
    other = "plain" if launch == "cuda_graph" else "cuda_graph"
    with pytest.raises(RequestError, match="CUDA Graph"):
        output.check_options(said, other)
    (run,) = output.runs('[{"startComputeMs" : 1, "computeMs" : 0.5}]', said, 0)
    assert run.enqueue_ns == round(float(enqueue_ms) * 1e6)


@pytest.mark.parametrize(
    ("number", "version"),
    [
        ("v8201", (8, 2, 1)),
        ("v8503", (8, 5, 3)),
        ("v8601", (8, 6, 1)),
        ("v9200", (9, 2, 0)),
        ("v100001", (10, 0, 1)),
        ("v101601", (10, 16, 1)),
        ("v110000] [b114", (11, 0, 0)),
    ],
)
def test_the_number_of_the_version_is_read_in_its_old_and_new_form(
    number: str, version: tuple[int, int, int]
) -> None:
    said = f"&&&& RUNNING TensorRT.trtexec [TensorRT {number}] # trtexec --help"
    assert output.version(said) == version


def test_without_the_median_in_the_log_the_enqueue_time_is_the_difference() -> None:
    written = '[{"startEnqMs" : 1, "endEnqMs" : 1.25, "startComputeMs" : 2, "computeMs" : 0.5}]'
    assert output.runs(written, "", 0) == [output.Run(500_000, 250_000)]


@pytest.mark.parametrize(
    "written", ["", "{}", "[3]", "[]", '[{"startComputeMs" : 1, "computeMs" : 2}]']
)
def test_times_that_hold_no_run_after_the_warm_up_are_no_result(written: str) -> None:
    with pytest.raises(RequestError, match="exportTimes"):
        output.runs(written, "", 200)


@pytest.mark.parametrize("written", ["[", "[{}]", '[{ "count" : 7 }]'])
def test_a_profile_without_layers_is_no_result(written: str) -> None:
    with pytest.raises(RequestError, match="exportProfile"):
        output.layers(written)


def test_the_numbers_that_json_lacks_are_read_as_nothing() -> None:
    written = '{"a" : -nan, "b" : inf, "c": nan, "name" : "info : nano"}'
    found = output.read_json(written, "--exportProfile")
    assert found == {"a": None, "b": None, "c": None, "name": "info : nano"}


def test_the_control_characters_that_8_6_0_writes_into_names_are_read() -> None:
    """Issue 2779 of TensorRT."""
    written = '[{"count": 1}, {"name": "conv\x01\x1f", "averageMs": 0.5}]'
    assert output.layers(written) == [("conv\x01\x1f", 500_000)]


def test_options_outside_of_what_there_is_are_refused() -> None:
    check: Callable[[str, Any], Any]
    for name, value in {"launch": "compiled", "precision": "bf16", "build": -1}.items():
        check = Trtexec.OPTIONS[name]
        with pytest.raises(RequestError, match=name):
            check(name, value)
