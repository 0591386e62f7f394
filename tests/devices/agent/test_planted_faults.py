"""The strict fakes bite: a mistake in TensorRT's runtime fails in the versions where it is one.

The mistakes are textual changes to a copy of the agent: wrong names, flags and argument orders of
the kind that a look at another version's documentation leads to.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from strict_tensorrt import VERSIONS, machine, models
from strict_tensorrt.strict import Crash, NotPlayedError

from devices.agent.protocol import Rule

AGENT = Path(__file__).parents[3] / "devices" / "agent"
QUICK = Rule(
    warmup_s=0, warmup_cap_s=0.01, window_s=0.0001, min_samples=3, min_total_s=0, cap_s=0.02
)
API, BUILD, ENGINE = "api.py", "build.py", "model.py"

ALL = "8.2 8.4 8.5 8.6 10 11"
#: What is planted: the file, the right text, the wrong one, and the versions where that is wrong.
FAULTS = {
    "the workspace of 8.4 in 8.2": (API, "if able.memory_pools:", "if True:", "8.2"),
    "the workspace of 8.2 in 10": (API, "if able.memory_pools:", "if False:", "10 11"),
    "a pool that has another name": (
        API,
        "MemoryPoolType.WORKSPACE",
        "MemoryPoolType.SCRATCH",
        "8.4 8.5 8.6 10 11",
    ),
    "pool and size exchanged": (
        API,
        "set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, count)",
        "set_memory_pool_limit(count, trt.MemoryPoolType.WORKSPACE)",
        "8.4 8.5 8.6 10 11",
    ),
    "no explicit batch": (API, "if not able.explicit_batch:", "if True:", "8.2 8.4 8.5 8.6"),
    "explicit batch in 11": (API, "if not able.explicit_batch:", "if False:", "11"),
    "a flag for a bit": (
        API,
        "1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)",
        "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "8.2 8.4 8.5 8.6",
    ),
    "fp16 by flag in 11": (API, "if able.precision_flags:", "if True:", "11"),
    "fp16 without its flag": (
        API,
        "config.set_flag(trt.BuilderFlag.FP16)",
        "pass",
        "8.2 8.4 8.5 8.6 10",
    ),
    "a type by the name of C++": (
        API,
        "trt.DataType.HALF",
        "trt.DataType.kHALF",
        "8.2 8.4 8.5 8.6 10",
    ),
    "int8 without its flag": (
        API,
        "config.set_flag(trt.BuilderFlag.INT8)",
        "pass",
        "8.2 8.4 8.5 8.6 10",
    ),
    "TF32 left on": (API, "config.clear_flag(trt.BuilderFlag.TF32)", "pass", ALL),
    "an optimization level before 8.6": (
        API,
        "if able.optimization_level:",
        "if True:",
        "8.2 8.4 8.5",
    ),
    "the name of C++": (
        API,
        "builder_optimization_level = level",
        "optimization_level = level",
        "8.6 10 11",
    ),
    "layers without details": (
        API,
        "ProfilingVerbosity.DETAILED",
        "ProfilingVerbosity.LAYER_NAMES_ONLY",
        ALL,
    ),
    "nvtx before 8.5": (
        API,
        "context is not None and able.nvtx_verbosity",
        "context is not None",
        "8.2 8.4",
    ),
    "node names before 10": (
        API,
        "if able.parser_names_nodes else",
        "if True else",
        "8.2 8.4 8.5 8.6",
    ),
    "named tensors before 8.5": (API, 'if api == "tensors":', "if True:", "8.2 8.4"),
    "bindings after 9": (API, 'if api == "bindings":', "if True:", "10 11"),
    "stream before bindings": (
        API,
        "execute_async_v2(bindings, stream)",
        "execute_async_v2(stream, bindings)",
        "8.2 8.4",
    ),
    "bindings without a stream": (
        API,
        "execute_async_v2(bindings, stream)",
        "execute_async_v2(bindings)",
        "8.2 8.4",
    ),
    "v3 with a batch": (
        API,
        "execute_async_v3(stream)",
        "execute_async_v3(1, stream)",
        "8.5 8.6 10 11",
    ),
    "address before name": (
        API,
        "set_tensor_address(tensor.name, address)",
        "set_tensor_address(address, tensor.name)",
        "8.5 8.6 10 11",
    ),
    "a tensor's mode by number": (
        API,
        "engine.get_tensor_mode(name)",
        "engine.get_tensor_mode(names.index(name))",
        "8.5 8.6 10 11",
    ),
    "sources as a list": (
        API,
        "config.set_tactic_sources(sum(members[name] for name in names))",
        "config.set_tactic_sources([members[name] for name in names])",
        ALL,
    ),
    "parser without logger": (
        BUILD,
        "trt.OnnxParser(network, logger)",
        "trt.OnnxParser(network)",
        ALL,
    ),
    "config before network": (
        BUILD,
        "builder.build_serialized_network(network, config)",
        "builder.build_serialized_network(config, network)",
        ALL,
    ),
    "an engine from a builder of 8": (
        BUILD,
        "builder.build_serialized_network(network, config)",
        "builder.build_engine(network, config).serialize()",
        "10 11",
    ),
    "a cache of None": (BUILD, 'create_timing_cache(b"")', "create_timing_cache(None)", ALL),
    "a cache by keyword": (
        BUILD,
        "config.set_timing_cache(cache, False)",
        "config.set_timing_cache(cache, ignore=False)",
        ALL,
    ),
    "timing iterations of 8": (
        BUILD,
        "config.avg_timing_iterations",
        "config.min_timing_iterations",
        "10 11",
    ),
    "a logger without its base": (BUILD, "trt.ILogger.__init__(self)", "pass", ALL),
    "a runtime without logger": (BUILD, "return kind(logger)", "return kind()", ALL),
    "the format by its number": (ENGINE, "self._trt.LayerInformationFormat.JSON", "1", ALL),
    "a profiler without its base": (ENGINE, "trt.IProfiler.__init__(self)", "pass", ALL),
    "a profiler's old method": (ENGINE, "def report_layer_time", "def report", ALL),
}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the agent that is imported as ``planted.agent``."""
    folder = tmp_path / "planted"
    shutil.copytree(AGENT, folder / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder / "agent" / "runtimes" / "tensorrt"
    for name in [one for one in sys.modules if one.split(".")[0] == "planted"]:
        del sys.modules[name]


def run_everything(version: str, patch: pytest.MonkeyPatch, folder: Path) -> None:
    """What a table asks of a version: each precision, an error of the parser, the layers."""
    machine.install(patch, version, capability=(8, 0))
    gpu = importlib.import_module("planted.agent.cuda")
    gpu.find_gpu.cache_clear()
    runtime: Any = importlib.import_module("planted.agent.runtimes.tensorrt.runtime").TensorRT()
    runtime.load()
    typed = models.convolution(half=version.startswith("11"))
    files = {"fp32": models.convolution(), "fp16": typed, "int8": models.quantized()}
    for precision, content in files.items():
        file = folder / "model.onnx"
        file.write_bytes(content)
        model = runtime.prepare(str(file), 1, 0, {"precision": precision, "launch": "cuda_graph"})
        try:
            assert model.facts()["precision"] == precision
            assert model.measure(QUICK, 1).device_ns
            assert model.layers(2)
        finally:
            model.close()
    file.write_bytes(models.write([models.node("Det", ["image"], "result")]))
    with pytest.raises(Exception, match=r"result/Det.*No importer registered"):
        runtime.prepare(str(file), 1, 0, {})
    runtime._cache = b"damaged"
    file.write_bytes(models.convolution())
    runtime.prepare(str(file), 1, 0, {}).close()


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_fault_every_version_runs(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    run_everything(version, monkeypatch, tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_where_it_is_one(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file, right, wrong, wrong_in = FAULTS[fault]
    source = (copied / file).read_text()
    assert right in source, f"{file} has no {right!r}: the fault does not apply any more"
    (copied / file).write_text(source.replace(right, wrong))
    failed = set()
    for version in VERSIONS:
        try:
            run_everything(version, monkeypatch, tmp_path)
        except NotPlayedError:
            continue  # it is no mistake in this version, only nothing that we use
        except (Exception, Crash):
            failed.add(re.match(r"8\.\d|\d+", version)[0])
    assert failed == set(wrong_in.split())
