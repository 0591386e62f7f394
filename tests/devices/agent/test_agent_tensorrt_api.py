"""What each version of TensorRT can do, what its inspector tells, which GPUs it knows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from strict_tensorrt import VERSIONS, build
from strict_tensorrt.strict import NotPlayedError

from devices.agent.checks import RequestError
from devices.agent.cuda import GpuInfo
from devices.agent.runtimes.tensorrt import chips, engines, inspection
from devices.agent.runtimes.tensorrt.api import API_VARIABLE, Capabilities

#: What a family of versions has; the columns are the fields of ``Capabilities`` in their order.
FIELDS = (
    "named_tensors",
    "bindings",
    "explicit_batch",
    "memory_pools",
    "precision_flags",
    "tf32_flag",
    "optimization_level",
    "nvtx_verbosity",
    "parser_names_nodes",
    "no_foreign_tactics",
    "auxiliary_streams",
)
TABLE = {
    "8.2": (0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0),
    "8.4": (0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0),
    "8.5": (1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0),
    "8.6": (1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1),
    "10.": (1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1),
    "11.": (1, 0, 0, 1, 0, 1, 1, 1, 1, 0, 1),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_capabilities_of_each_version_are_those_of_the_table(version: str) -> None:
    able = Capabilities.of(build(version))
    assert able.version == version
    found = tuple(int(getattr(able, field)) for field in FIELDS)
    assert dict(zip(FIELDS, found, strict=True)) == dict(
        zip(FIELDS, TABLE[version[:3]], strict=True)
    )
    assert set(Capabilities._fields) == {"version", "tactic_sources", *FIELDS}
    foreign = {"CUBLAS", "CUBLAS_LT", "CUDNN"} & set(able.tactic_sources)
    assert len(foreign) == (0 if version.startswith("11") else 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_older_way_is_taken_only_where_it_is_forced_and_exists(version: str) -> None:
    able = Capabilities.of(build(version))
    assert able.api({}) == ("tensors" if able.named_tensors else "bindings")
    assert able.api({API_VARIABLE: "bindings"}) == ("bindings" if able.bindings else "tensors")


# The fakes themselves


def test_the_fake_has_the_names_of_its_version_and_no_others() -> None:
    old, new = build("8.4.1.5"), build("11.4.0.106")
    with pytest.raises(AttributeError):
        _ = old.TensorIOMode
    with pytest.raises(AttributeError):
        _ = new.BuilderFlag.FP16
    with pytest.raises(AttributeError):
        _ = new.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    with pytest.raises(AttributeError):
        _ = old.ICudaEngine.num_io_tensors
    assert old.BuilderFlag.FP16.name == "FP16" and int(old.BuilderFlag.TF32) == 7


def test_8_2_lacks_what_8_4_added() -> None:
    trt = build("8.2.1.8")
    assert not hasattr(trt, "MemoryPoolType")
    assert not hasattr(trt.IBuilderConfig, "set_memory_pool_limit")
    assert hasattr(trt.IBuilderConfig, "max_workspace_size")
    assert sorted(trt.TacticSource.__members__) == ["CUBLAS", "CUBLAS_LT", "CUDNN"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_refuses_wrong_arguments_as_pybind_does(version: str) -> None:
    trt = build(version)
    logger = trt.Logger()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        trt.Builder()
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    for wrong in (
        lambda: builder.create_network("1"),
        lambda: builder.create_network(flag=0),
        lambda: config.set_flag(7),
        lambda: config.set_flag(trt.ProfilingVerbosity.NONE),
        lambda: config.create_timing_cache("text"),
        lambda: config.set_timing_cache(False, config),
        lambda: builder.build_serialized_network(config, config),
    ):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            wrong()
    with pytest.raises(AttributeError, match="no attribute"):
        config.max_workspace = 1
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.ICudaEngine()
    with pytest.raises(TypeError):
        _ = trt.BuilderFlag.TF32 | 1


def test_a_logger_that_does_not_start_its_base_is_refused() -> None:
    trt = build("8.6.0")

    class Careless(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.lines: list[str] = []

    with pytest.raises(TypeError, match=r"__init__\(\) must be called"):
        Careless()


def test_a_name_that_the_fake_does_not_play_is_not_silently_there() -> None:
    trt = build("8.6.0")
    with pytest.raises(NotPlayedError, match=r"Builder\.reset"):
        trt.Builder(trt.Logger()).reset()


# The inspector


def engine(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["image", "result"]})


def layer(kind: str, datatype: str, tactic: str = "", **fields: Any) -> dict[str, Any]:
    tensor = {"Name": "x", "Dimensions": [1, 3], "Format/Datatype": datatype}
    return {
        "Name": f"a {kind}",
        "LayerType": kind,
        "Inputs": [tensor],
        "Outputs": [tensor],
        "TacticName": tactic,
        **fields,
    }


@pytest.mark.parametrize(
    ("datatype", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Channel major FP32 format where channel % 4 == 0", "fp32"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0 with 3 or fewer spatial", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Half NHWC8", "fp16"),
        ("Float", "fp32"),
        ("Int8 NC/32HW32", "int8"),
        ("BFloat16", "bf16"),
    ],
)
def test_a_convolution_s_precision_is_read_in_the_words_of_every_version(
    datatype: str, precision: str
) -> None:
    for kind in ("CaskConvolution", "CaskGemmConvolution", "CaskJitConv", "correlation", "gemm"):
        found = inspection.inspect(engine(layer(kind, datatype)))
        assert found.precision_layers == {precision: 1} and found.layers[0].multiplies


def test_from_11_on_the_type_has_a_field_of_its_own() -> None:
    tensor = {"Name": "x", "Format": "Row major linear format (kLINEAR)", "DataType": "Half"}
    conv = {"Name": "c", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor]}
    assert inspection.inspect(engine(conv)).precision == "fp16"


def test_weights_say_more_than_what_a_convolution_reads() -> None:
    mixed = layer("CaskConvolution", "Row major linear FP32", Weights={"Type": "Half", "Count": 9})
    assert inspection.inspect(engine(mixed)).precision == "fp16"


def test_what_moves_data_does_not_count() -> None:
    found = inspection.inspect(
        engine(
            layer("Reformat", "Row major linear FP16 format"),
            layer("CaskConvolution", "Row major linear FP32"),
            layer("CaskPooling", "Row major linear FP16 format"),
            layer("NoOp", "Row major Int8 format"),
        )
    )
    assert found.precision_layers == {"fp32": 1}


def test_a_mixed_engine_says_both() -> None:
    found = inspection.inspect(
        engine(layer("CaskConvolution", "Half"), layer("CaskConvolution", "Float"))
    )
    assert found.precision == "fp16+fp32"
    inspection.check(found, "fp16")
    with pytest.raises(RequestError, match="1 layers are not in fp32") as caught:
        inspection.check(found, "fp32")
    assert caught.value.kind == "wrong_precision"


@pytest.mark.parametrize(
    "tactic",
    [
        "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16",
        "sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize64x64x32",
        "cutlass_tensorop_s1688fprop_optimized_tf32_64x64_16x10_nhwc_align4",
    ],
)
def test_a_kernel_that_rounds_to_tf32_is_no_fp32(tactic: str) -> None:
    found = inspection.inspect(engine(layer("CaskConvolution", "Float", tactic)))
    assert found.precision == "tf32"
    with pytest.raises(RequestError, match="in tf32"):
        inspection.check(found, "fp32")


@pytest.mark.parametrize(
    "tactic",
    [
        "ampere_scudnn_128x64_relu_medium_nn_v1",
        "implicit_convolve_sgemm",
        "sm50_xmma_f32f32_f32f32",
    ],
)
def test_plain_fp32_kernels_are_fp32(tactic: str) -> None:
    found = inspection.inspect(engine(layer("CaskConvolution", "Float", tactic)))
    inspection.check(found, "fp32")
    assert found.tactics == [["a CaskConvolution", tactic]]


def test_a_tf32_kernel_is_found_by_its_name_whatever_calls_it() -> None:
    fused = layer("Myelin", "Float", "sm80_xmma_gemm_tf32f32_tf32f32_f32_tn_n")
    assert inspection.inspect(engine(fused)).precision == "tf32"
    numbered = layer("CaskConvolution", "Float", "", TacticValue="0x0000000000051688")
    found = inspection.inspect(engine(numbered))
    assert found.precision == "fp32" and found.tactics[0][1] == "0x0000000000051688"
    inspection.check(found, "fp32")


HALF, FLOAT = layer("CaskConvolution", "Half"), layer("CaskConvolution", "Float")
MYELIN = {"LayerType": "Myelin", "Name": "{ForeignNode[t1/Conv...t9/Add]}"}
COMPILED = {"LayerType": "kgen", "Name": "__myl_ConvAdd_myl0_1"}


@pytest.mark.parametrize(
    "layers",
    [
        [layer("PointWiseV2", "Half")],
        [HALF, layer("CaskPooling", "Float")],
        [HALF, FLOAT],
        [layer("Myelin", "Half", **MYELIN)],
        [layer("kgen", "Half", **COMPILED), layer("signal", "Float", Name="__myl_s")],
        [layer("NoOp", "Half"), layer("Reformat", "Half")],
    ],
)
def test_an_engine_that_is_half_fp16_or_more_is_what_was_asked_for(
    layers: list[dict[str, Any]],
) -> None:
    assert inspection.check(inspection.inspect(engine(*layers)), "fp16") == ""


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([layer("PointWiseV2", "Float")], "none of its 1 layers that compute is in fp16"),
        ([HALF, *[FLOAT] * 9], "only 1 of its 10 layers that multiply is in fp16"),
        ([layer("PointWiseV2", "Half"), FLOAT], "none of its 1 layers that multiply"),
        ([layer("Myelin", "Float", **MYELIN)], "none of its 1 layers that multiply"),
        ([HALF, *[layer("Myelin", "Float", **MYELIN)] * 2], "only 1 of its 3 layers"),
    ],
)
def test_an_engine_with_little_fp16_is_taken_and_says_so(
    layers: list[dict[str, Any]], said: str
) -> None:
    found = inspection.inspect(engine(*layers))
    note = inspection.check(found, "fp16")
    assert said in note and note.startswith(f"{found.precision} was built where fp16 was asked for")


def test_one_int8_product_is_what_a_network_with_scales_is_asked_for() -> None:
    mixed = [layer("CaskConvolution", "Int8"), *[FLOAT] * 9]
    found = inspection.inspect(engine(*mixed))
    assert inspection.check(found, "int8") == ""
    assert found.precision_layers == {"int8": 1, "fp32": 9}
    assert "none of its 9" in inspection.check(inspection.inspect(engine(*[FLOAT] * 9)), "int8")
    assert inspection.check(inspection.inspect(engine(layer("Reduce", "Float"))), "int8") == ""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_of_names_alone_is_refused(precision: str) -> None:
    for layers in (["t1/Conv", "result/Gemm"], [HALF, "result/Gemm"]):
        found = inspection.inspect(engine(*layers))
        with pytest.raises(RequestError, match="no details") as caught:
            inspection.check(found, precision)
        assert caught.value.kind == "runtime_error"


def test_names_alone_tell_no_precision() -> None:
    found = inspection.inspect(engine("t1/Conv + t2/Clip", "result/Gemm"))
    assert [one.name for one in found.layers] == ["t1/Conv + t2/Clip", "result/Gemm"]
    assert (found.precision, found.tactics) == ("", [])


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"Layer": []}', "null"])
def test_an_answer_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(RequestError, match="not understood") as caught:
        inspection.inspect(text)
    assert caught.value.kind == "runtime_error"


# Chips


def gpu(*capability: int) -> GpuInfo:
    return GpuInfo("A GPU", (capability[0], capability[1]), "12.4", 1 << 34, None, "GPU-1")


@pytest.mark.parametrize(
    ("capability", "version", "advice"),
    [
        ((7, 0), "10.5.0", "install TensorRT 8.2 to 10.4"),
        ((7, 0), "11.0.0.114", "install TensorRT 8.2 to 10.4"),
        ((6, 2), "8.4.1.5", "install TensorRT 8.2"),
        ((6, 1), "10.0.1", "install TensorRT 8.2 to 8.6"),
        ((9, 0), "8.4.1.5", "install TensorRT 8.5 or newer"),
        ((8, 9), "8.4.1.5", "install TensorRT 8.5 or newer"),
        ((12, 0), "10.7.0", "install TensorRT 10.8 or newer"),
        ((7, 5), "8.0.1", "install TensorRT 8.2 or newer"),
        ((13, 0), "7.2.3", "install TensorRT 8.2 or newer"),
    ],
)
def test_a_version_that_does_not_fit_the_chip_is_told_which_one_does(
    capability: tuple[int, int], version: str, advice: str
) -> None:
    with pytest.raises(RequestError) as caught:
        chips.check(gpu(*capability), version)
    assert caught.value.kind == "missing_runtime"
    assert version in caught.value.message and caught.value.advice == advice


@pytest.mark.parametrize(
    ("capability", "version"),
    [
        ((7, 0), "10.4.0"),
        ((7, 0), "8.2.1.8"),
        ((6, 2), "8.2.1.8"),
        ((7, 5), "11.4.0.106"),
        ((9, 0), "8.5.3.1"),
        ((12, 0), "10.8.0.43"),
        ((13, 0), "11.4.0.106"),
    ],
)
def test_a_version_that_fits_is_let_through(capability: tuple[int, int], version: str) -> None:
    chips.check(gpu(*capability), version)


def test_chips_without_int8_are_refused_for_int8_alone() -> None:
    for precision in ("fp32", "fp16"):
        chips.check(gpu(6, 2), "8.2.1.8", precision)
    with pytest.raises(RequestError, match="no int8 arithmetic"):
        chips.check(gpu(6, 2), "8.2.1.8", "int8")
    chips.check(gpu(6, 1), "8.6.0", "int8")


# Engine files


def test_an_engine_s_file_is_the_owner_s_alone_and_named_by_its_digest(tmp_path: Path) -> None:
    model = str(tmp_path / "model.onnx")
    sha256 = engines.save(model, b"an engine")
    file = Path(engines.path_of(model, sha256))
    assert file.name == f"model.onnx.{sha256}{engines.ENGINE_SUFFIX}"
    assert file.stat().st_mode & 0o777 == 0o600
    assert engines.load(model, sha256) == b"an engine"
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_an_engine_that_is_gone_or_changed_is_not_loaded(tmp_path: Path) -> None:
    model = str(tmp_path / "model.onnx")
    assert engines.load(model, "0" * 64) is None
    sha256 = engines.save(model, b"an engine")
    Path(engines.path_of(model, sha256)).write_bytes(b"an engjne")
    assert engines.load(model, sha256) is None


def test_nothing_is_left_of_an_engine_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        engines.save(str(tmp_path / "model.onnx"), b"an engine")
    assert list(tmp_path.iterdir()) == []
