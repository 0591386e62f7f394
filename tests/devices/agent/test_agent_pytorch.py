"""PyTorch driven by hand on a CPU; a GPU's path is in test_agent_pytorch_gpu.py."""

from __future__ import annotations

import random
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from devices.agent.checks import RequestError
from devices.agent.protocol import Rule
from devices.agent.runtimes.pytorch import runtime as pytorch
from latency_tables.opspec import (
    ACTIVATIONS,
    Activation,
    Add,
    BatchNorm,
    BiasMap,
    Concat,
    Conv,
    Flatten,
    GlobalPool,
    Linear,
    Mul,
    Op,
    OpSpec,
    Pool,
)
from profiler.workloads import build_onnx

QUICK = Rule(
    warmup_s=0.0, warmup_cap_s=0.01, window_s=0.001, min_samples=3, min_total_s=0.0, cap_s=0.05
)


@pytest.fixture
def runtime() -> Iterator[pytorch.PyTorch]:
    """The runtime; what it sets for the whole process is put back."""
    threads = torch.get_num_threads()
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    made = pytorch.PyTorch()
    made.load()
    yield made
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = flags


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], str]:
    """Write a model's bytes to a file."""

    def write(content: bytes) -> str:
        file = tmp_path / "model.onnx"
        file.write_bytes(content)
        return str(file)

    return write


def spec_of(*ops: Op, shape: tuple[int, ...] = (8, 11, 9)) -> OpSpec:
    return OpSpec(input_shape=shape, ops=ops)


def conv(tensor: int, out: int = 8, kernel: tuple[int, int] = (3, 3), **fields: Any) -> Conv:
    return Conv(inputs=(tensor,), out_channels=out, kernel=kernel, **fields)


def pool(function: str, **fields: Any) -> Pool:
    given: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2)} | fields
    return Pool(inputs=(0,), function=function, **given)


def relu6(tensor: int) -> Activation:
    return Activation(inputs=(tensor,), function="relu6")


EACH: dict[str, OpSpec] = {
    "convolution": spec_of(conv(0)),
    "stride": spec_of(conv(0, stride=(2, 1))),
    "pads": spec_of(conv(0, pads=(1, 2, 1, 2))),
    "pads that differ": spec_of(conv(0, stride=(2, 2), pads=(0, 0, 1, 1))),
    "dilation": spec_of(conv(0, dilation=(2, 3))),
    "groups": spec_of(conv(0, 16, groups=4)),
    "depthwise": spec_of(conv(0, 8, (5, 5), pads=(2, 2, 2, 2), groups=8)),
    "pointwise": spec_of(conv(0, 5, (1, 1))),
    "one output channel": spec_of(conv(0, 1)),
    "bias map": spec_of(BiasMap(inputs=(0,))),
    "norm": spec_of(BatchNorm(inputs=(0,))),
    "addition": spec_of(relu6(0), Add(inputs=(0, 1))),
    "gate": spec_of(GlobalPool(inputs=(0,)), Mul(inputs=(0, 1))),
    "concatenation": spec_of(relu6(0), Concat(inputs=(0, 1, 0))),
    "max pool": spec_of(pool("max", pads=(1, 1, 1, 1))),
    "max pool, pads that differ": spec_of(pool("max", pads=(0, 1, 1, 0))),
    "max pool, rounded up": spec_of(pool("max", kernel=(2, 2), ceil=True)),
    "average": spec_of(pool("average")),
    "average with its pads": spec_of(pool("average", pads=(1, 1, 1, 1), count_pads=True)),
    "average without its pads": spec_of(pool("average", pads=(1, 1, 1, 1))),
    "average, pads that differ": spec_of(pool("average", pads=(0, 0, 1, 1), count_pads=True)),
    "global pool": spec_of(GlobalPool(inputs=(0,))),
    "flatten": spec_of(conv(0), Flatten(inputs=(1,))),
    "linear": spec_of(Linear(inputs=(0,), out_features=7), shape=(20,)),
} | {name: spec_of(Activation(inputs=(0,), function=name)) for name in ACTIVATIONS}

NETWORK = spec_of(
    conv(0, 16, stride=(2, 2), pads=(1, 1, 1, 1)),
    relu6(1),
    conv(2, 96, (1, 1)),
    relu6(3),
    conv(4, 96, pads=(1, 1, 1, 1), groups=96),
    Activation(inputs=(5,), function="hard_swish"),
    conv(6, 16, (1, 1)),
    Add(inputs=(2, 7)),
    GlobalPool(inputs=(8,)),
    Flatten(inputs=(9,)),
    Linear(inputs=(10,), out_features=10),
    shape=(3, 32, 32),
)


def random_spec(seed: int) -> OpSpec:
    """A chain of operators with whatever skips fit."""
    draw = random.Random(seed)
    ops: list[Op] = []
    shapes: list[tuple[int, ...]] = [(draw.choice([3, 4, 8]), draw.randint(9, 16), 12)]
    for _ in range(draw.randint(2, 8)):
        last = len(ops)
        kernel = draw.choice([1, 3, 5])
        choices: list[Op] = [
            conv(
                last,
                draw.choice([4, 6, 8]),
                (kernel, 3),
                stride=(draw.choice([1, 1, 2]), 1),
                pads=(kernel // 2, 1, draw.randint(0, 2), draw.randint(0, 1)),
                groups=draw.choice([1, 1, 2]) if shapes[-1][0] % 2 == 0 else 1,
            ),
            Activation(inputs=(last,), function=draw.choice(ACTIVATIONS)),
            BatchNorm(inputs=(last,)),
        ]
        choices += [Add(inputs=(n, last)) for n in range(last) if shapes[n] == shapes[-1]]
        choices += [Concat(inputs=(n, last)) for n in range(last) if shapes[n] == shapes[-1]]
        op = draw.choice(choices)
        ops.append(op)
        shapes.append(op.output_shape([shapes[tensor] for tensor in op.inputs]))
    return OpSpec(input_shape=shapes[0], ops=tuple(ops))


def results(model: Any) -> list[np.ndarray[Any, Any]]:
    """What the prepared model computes."""
    model.run(1)
    return [one.numpy() for one in model.outputs]


def expected(file: str, model: Any) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    given = [one.contiguous().numpy() for one in model._inputs]
    found: list[np.ndarray[Any, Any]] = session.run(None, dict(zip(names, given, strict=True)))
    return found


def check(runtime: pytorch.PyTorch, file: str, **options: Any) -> None:
    model = runtime.prepare(file, 1, 3, options)
    for found, wanted in zip(results(model), expected(file, model), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    model.close()


@pytest.mark.parametrize("spec", EACH.values(), ids=EACH)
def test_each_operator_computes_what_onnx_runtime_does(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], spec: OpSpec
) -> None:
    check(runtime, save(build_onnx(spec, batch=2)))


def test_a_whole_network_computes_what_onnx_runtime_does(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    check(runtime, save(build_onnx(NETWORK, batch=3)))


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_compute_what_onnx_runtime_does(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], seed: int
) -> None:
    check(runtime, save(build_onnx(random_spec(seed))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile uses its own old parts
def test_a_compiled_network_computes_what_onnx_runtime_does(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    check(runtime, save(build_onnx(NETWORK)), launch="compiled")


def test_a_file_typed_fp16_runs_in_the_precision_that_is_asked_for(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    model = runtime.prepare(save(build_onnx(NETWORK, precision="fp16")), 1, 0, {})
    facts = model.facts()
    assert facts["precision"] == "fp32" and facts["precision_layers"] == {"fp32": 5}


def test_tensors_and_kernels_lie_channels_last(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    model: Any = runtime.prepare(save(build_onnx(NETWORK, batch=2)), 1, 0, {})
    last = torch.channels_last
    (image,) = model._inputs
    assert image.is_contiguous(memory_format=last) and not image.is_contiguous()
    kernels = [one for one in model._wired.module.parameters() if one.dim() == 4]
    assert len(kernels) == 4
    assert all(one.is_contiguous(memory_format=last) for one in kernels)
    with torch.inference_mode():
        values = torch.fx.Interpreter(model._wired.module)
        values.garbage_collect_values = False
        values.run(image)
    maps = [one for one in values.env.values() if getattr(one, "ndim", 0) == 4]
    assert len(maps) > 9 and all(one.is_contiguous(memory_format=last) for one in maps)


def test_the_choices_that_decide_the_latency_are_made_and_said(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    model = runtime.prepare(save(build_onnx(NETWORK)), 2, 0, {})
    assert torch.get_num_threads() == 2
    facts = model.facts()
    assert facts["flags"] == {
        "channels_last": True,
        "cudnn_benchmark": True,
        "tf32": False,
        "launch": "plain",
        "threads": 2,
    }
    assert facts["build_s"] > 0
    assert "gpu" not in facts and "device_memory_bytes" not in facts


def test_nothing_is_kept_for_gradients(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    model: Any = runtime.prepare(save(build_onnx(NETWORK)), 1, 0, {})
    assert all(one.is_inference() for one in model.outputs)
    assert not any(one.requires_grad for one in model._wired.module.parameters())
    assert not model._wired.module.training


def test_the_same_seed_gives_the_same_inputs(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    file = save(build_onnx(NETWORK))
    first, again, other = (
        runtime.prepare(file, 1, seed, {})._inputs[0]  # type: ignore[attr-defined]
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_measurement_has_samples_of_the_clocks_that_count(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], threads: int
) -> None:
    model = runtime.prepare(save(build_onnx(NETWORK)), threads, 0, {})
    # Two threads that wait for each other crawl beside others: they get the time for three samples.
    found = model.measure(QUICK._replace(cap_s=1.0), threads)
    assert len(found.wall_ns) >= 3 and min(found.wall_ns) > 0
    assert (found.cpu_ns is not None) == (threads == 1)
    assert found.device_ns is None and found.enqueue_ns is None


def test_the_layers_are_the_operators_of_the_file_in_their_order(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    content = build_onnx(NETWORK)
    layers = runtime.prepare(save(content), 1, 0, {}).layers(4)
    nodes = onnx.load_from_string(content).graph.node
    assert [name for name, _ in layers] == [node.name for node in nodes]
    assert all(len(times) == 4 and min(times) > 0 for _, times in layers)


def test_what_one_operator_takes_several_calls_for_is_one_layer(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    layers = runtime.prepare(save(build_onnx(EACH["pads that differ"])), 1, 0, {}).layers(2)
    assert [name for name, _ in layers] == ["result/Conv"]


def test_the_installed_version_is_read_without_importing_torch() -> None:
    code = (
        "import sys; from devices.agent.runtimes.pytorch.runtime import PyTorch\n"
        "print(PyTorch().is_installed(), PyTorch().version(), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", torch.__version__, "False"]


def test_where_there_is_no_torch_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch.importlib.util, "find_spec", lambda name: None)
    assert pytorch.PyTorch().version() is None
    assert not pytorch.PyTorch().is_installed()


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = pytorch.importlib.import_module

    def without(wanted: str) -> Any:
        if wanted == name:
            raise ImportError(f"no {wanted}")
        return real(wanted)

    monkeypatch.setattr(pytorch.importlib, "import_module", without)
    with pytest.raises(RequestError, match=f"needs {name}") as caught:
        pytorch.PyTorch().load()
    assert caught.value.kind == "missing_runtime"
    assert caught.value.advice.endswith(f"-m pip install {name}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp16"}, "fp16 on a CPU"),
        ({"launch": "cuda_graph"}, "cuda_graph is for a GPU"),
        ({"cache": "cold"}, "cache cold is for a GPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], options: dict[str, str], said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        runtime.prepare(save(build_onnx(NETWORK)), 1, 0, options)
    assert caught.value.kind == "bad_request"


def test_options_outside_of_what_there_is_are_refused() -> None:
    for name, value in {"precision": "int8", "launch": "fast", "processor": "tpu"}.items():
        with pytest.raises(RequestError, match=f"{name}.*{value}"):
            pytorch.PyTorch.OPTIONS[name](name, value)


@pytest.mark.parametrize(
    ("cuda", "raised", "why"),
    [
        (None, None, "it was built without CUDA"),
        ("12.6", None, "no GPU was found"),
        ("12.6", RuntimeError("The NVIDIA driver is too old\nC++ frames"), "driver is too old"),
        ("12.6", AssertionError("no _cuda_init"), "no _cuda_init"),
    ],
)
def test_why_pytorch_finds_no_gpu_is_what_it_says_itself(
    cuda: str | None, raised: Exception | None, why: str
) -> None:
    """``is_available`` answers no, and makes the reason a warning."""

    def init() -> None:
        if raised is not None:
            raise raised

    runtime = pytorch.PyTorch()
    runtime._torch = types.SimpleNamespace(
        __version__="2.6.0",
        version=types.SimpleNamespace(cuda=cuda),
        cuda=types.SimpleNamespace(is_available=lambda: False, init=init),
    )
    with pytest.raises(RequestError, match=why) as caught:
        runtime._device(on_gpu=True)
    assert caught.value.kind == "missing_runtime" and "\n" not in caught.value.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_a_missing_runtime(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str]
) -> None:
    with pytest.raises(RequestError, match="cannot use a GPU here") as caught:
        runtime.prepare(save(build_onnx(NETWORK)), 1, 0, {"processor": "gpu"})
    assert caught.value.kind == "missing_runtime"


def model_of(
    kind: str,
    shape: list[Any],
    constants: dict[str, Any] | None = None,
    opset: int = 13,
    element: int = TensorProto.FLOAT,
    result: list[Any] | None = None,
    **attributes: Any,
) -> bytes:
    """A file with one operator."""
    constants = constants or {}
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *constants], ["y"], name="it", **attributes)],
        "test",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, result or shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=7
    ).SerializeToString()
    return content


WEIGHT = {"w": np.ones((2, 2, 3, 3), np.float32)}
MAP = [1, 2, 6, 6]
REFUSED = {
    "an operator that we do not know": (model_of("Hardmax", MAP), "Hardmax 'it' is an operator"),
    "an attribute that is not as assumed": (
        model_of("MaxPool", MAP, kernel_shape=[1, 1], storage_order=1),
        "storage_order 1",
    ),
    "automatic pads": (model_of("Conv", MAP, WEIGHT, auto_pad="SAME_UPPER"), "auto_pad"),
    "another hard sigmoid": (model_of("HardSigmoid", MAP, alpha=0.2), "alpha 0.2"),
    "an average that leaves differing pads out": (
        model_of("AveragePool", MAP, kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        "leaves the pads",
    ),
    "four dimensions": (
        model_of("MaxPool", [1, 2, 6, 6, 6, 6], kernel_shape=[1, 1, 1, 1]),
        "not one- to three-dimensional",
    ),
    "a batch that is not fixed": (model_of("Relu", ["N", 2, 6, 6]), "fixed sizes"),
    "integers": (model_of("Relu", MAP, element=TensorProto.INT32), "fixed sizes"),
    "an old opset": (model_of("Relu", MAP, opset=9), "opset 9"),
    "a damaged file": (model_of("Relu", MAP)[:-9], "no valid ONNX file"),
    "no model": (b"\x08\x07", "no valid ONNX file"),
    "shapes that are not those of the file": (
        model_of("Conv", MAP, WEIGHT, result=[1, 2, 6, 6]),
        "and says",
    ),
    "quantization": (build_onnx(NETWORK, precision="int8"), "QuantizeLinear"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_run_is_a_bad_model_that_says_why(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], content: bytes, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        runtime.prepare(save(content), 1, 0, {})
    assert caught.value.kind == "bad_model"


def test_without_a_compiler_the_error_says_what_to_install(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(module: Any, **given: Any) -> Any:
        assert given == {"mode": "default", "fullgraph": True}

        def fail(*inputs: Any) -> Any:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ...")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(RequestError, match="no compiler") as caught:
        runtime.prepare(save(build_onnx(NETWORK)), 1, 0, {"launch": "compiled"})
    assert caught.value.kind == "missing_runtime" and "g++" in caught.value.advice


def test_a_compiled_model_has_no_layers(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **given: module)
    model = runtime.prepare(save(build_onnx(NETWORK)), 1, 0, {"launch": "compiled"})
    assert model.facts()["flags"]["launch"] == "compiled"
    with pytest.raises(RequestError, match="no separate operators"):
        model.layers(1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_memory_that_could_not_be_had_is_out_of_memory(error: Exception) -> None:
    found = pytorch.PyTorch().failure(error)
    assert found is not None and found.kind == "out_of_memory"


def test_other_errors_are_left_to_the_agent() -> None:
    assert pytorch.PyTorch().failure(RuntimeError("something else")) is None


@pytest.mark.parametrize("works", [True, False])
def test_a_gpu_that_is_lost_to_the_process_is_found_by_asking_it(works: bool) -> None:
    def synchronize() -> None:
        if not works:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    runtime = pytorch.PyTorch()
    assert not runtime.is_broken(), "nothing was loaded yet"
    cuda = types.SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
    runtime._torch = types.SimpleNamespace(cuda=cuda)
    assert runtime.is_broken() is not works
    cuda.is_initialized = lambda: False
    assert not runtime.is_broken()


def test_a_torch_without_compile_says_what_came_when(
    runtime: pytorch.PyTorch, save: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "compile")
    with pytest.raises(RequestError, match=r"no torch\.compile, which came with 2\.0"):
        runtime.prepare(save(build_onnx(NETWORK)), 1, 0, {"launch": "compiled"})
