"""A user's fp16 file is given to TensorRT before 11 as fp32, which is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dshrink.operations import bench_types
from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork, network_of_file
from dshrink.operations.bench_types import readable
from latency_tables.onnx_file import write_onnx
from latency_tables.opspec import Activation, Conv, OpSpec
from latency_tables.schema import Conditions
from profiler.planning.jobs import FileJob

CONV = Conv(inputs=(0,), out_channels=4, kernel=(1, 1), pads=(0,) * 4, groups=1)
SPEC = OpSpec(input_shape=(3, 8, 8), ops=(CONV, Activation(inputs=(1,), function="relu6")))


def given(tmp_path: Path, precision: str, batch: int = 1) -> BenchNetwork:
    """A user's file in a precision, as ``dshrink bench`` reads it."""
    arrays = [tuple(np.ones(shape) for shape in shapes) for shapes in SPEC.array_shapes]
    file = tmp_path / "own.onnx"
    model = onnx.ModelProto.FromString(write_onnx(SPEC, arrays, precision=precision))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"  # what leaves it open
    onnx.save(model, file)
    return network_of_file(file, batch)


def conditions(version: str, runtime: str = "tensorrt", precision: str = "fp16") -> Conditions:
    return Conditions(
        device="v100",
        runtime=runtime,
        runtime_version=version,
        precision=precision,
        power_mode="gpu default",
        clock="cuda_events",
        statistic="median",
    )


def measured(network: BenchNetwork) -> onnx.ModelProto:
    """The model that the device is sent."""
    assert isinstance(network.job, FileJob)
    model: onnx.ModelProto = onnx.ModelProto.FromString(
        network.job.content or network.job.file.read_bytes()
    )
    return model


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("runtime", ["tensorrt", "trtexec"])
@pytest.mark.parametrize("version", ["8.2.1.8", "8.4.1.5", "10.4.0"])
def test_tensorrt_before_11_is_given_an_fp16_file_as_fp32(
    tmp_path: Path, version: str, runtime: str, precision: str
) -> None:
    notices: list[str] = []
    network = given(tmp_path, "fp16", batch=2)
    (found,) = readable([network], conditions(version, runtime, precision), notices.append)
    model = measured(found)
    assert {one.data_type for one in model.graph.initializer} == {TensorProto.FLOAT}
    kind = model.graph.input[0].type.tensor_type
    assert kind.elem_type == TensorProto.FLOAT
    assert kind.shape.dim[0].dim_value == 2
    assert found.job.digest != network.job.digest
    (notice,) = notices
    said = (
        f"own.onnx: its fp16 tensors are given to {runtime} {version} as fp32, for TensorRT before "
        "11 can misread them (bounds of a Clip)"
    )
    assert notice == said + ("" if precision == "fp16" else "; --precision fp16 allows fp16")


@pytest.mark.parametrize(
    ("precision", "under"),
    [
        ("fp32", conditions("8.4.1.5")),
        ("int8", conditions("8.4.1.5", precision="int8")),
        ("fp16", conditions("11.0.0")),
        ("fp16", conditions("11.4.0", "trtexec")),
        ("fp16", conditions("2.13.0", "pytorch")),
        ("fp16", conditions("1.10.0", "onnxruntime", "fp32")),
    ],
)
def test_any_other_file_is_measured_as_it_is(
    tmp_path: Path, precision: str, under: Conditions
) -> None:
    network = given(tmp_path, precision)
    assert readable([network], under, pytest.fail) == [network]


def test_a_file_that_becomes_too_large_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_types, "MOST_BYTES", 100)
    with pytest.raises(BenchmarkError) as caught:
        readable([given(tmp_path, "fp16")], conditions("8.4.1.5"), pytest.fail)
    assert str(caught.value) == (
        "own.onnx: tensorrt 8.4.1.5 is given fp16 files as fp32, which is above 2 GiB here: use "
        "TensorRT 11 or newer, or a smaller network"
    )
