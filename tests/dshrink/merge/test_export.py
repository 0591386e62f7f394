"""Exported files: equal to the library's own model, and never written where they are not."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from merging import merge_blocks

import dshrink.merge.export
from dshrink.merge.export import ExportError, export_onnx, merge_metadata
from dshrink.merge.verify import certify
from dshrink.network.tracing import import_timm

MASK = "10110111101111110"


def run_file(path, image):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return entry, session.run(None, {entry.name: image})[0]


def image_of(net, batch=1):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(batch, *net.spec.input_shape, generator=generator)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0", "resnet26"])
def test_a_network_in_onnx_runtime_is_what_its_library_computes(name, network, tmp_path):
    net = network(name, 96, "random")
    difference = export_onnx(net, tmp_path / "a.onnx", batch=2)
    model = import_timm().create_model(name, pretrained=False)
    model.load_state_dict(net.module.state_dict())
    image = image_of(net, batch=2)
    with torch.inference_mode():
        expected = model.double().eval()(image.double()).numpy()
    entry, result = run_file(tmp_path / "a.onnx", image.numpy())
    assert entry.shape == [2, 3, 96, 96]
    error = np.abs(result - expected).max() / np.abs(expected).max()
    assert error < 1e-4
    assert 0 < difference < 1e-4


@pytest.mark.parametrize("padding", ["bias_map", "repad", "interior"])
def test_a_merged_file_computes_the_merged_network(padding, network, tmp_path):
    net = network("mobilenetv2_100", 96, "random")
    merged = merge_blocks(net, MASK, padding=padding)
    certificate = certify(merged)
    path = tmp_path / "deep" / "folder" / "a.onnx"
    export_onnx(merged.network, path, metadata=merge_metadata(merged, certificate))
    image = image_of(net)
    with torch.inference_mode():
        expected = merged.module(torch.float64)(image.double()).numpy()
    _, result = run_file(path, image.numpy())
    assert np.abs(result - expected).max() / np.abs(expected).max() < 1e-3


def test_the_file_says_what_it_is(network, tmp_path):
    net = network("mobilenetv2_100", 96, "random")
    merged = merge_blocks(net, MASK, padding="repad", free_activation=False)
    metadata = merge_metadata(merged, certify(merged))
    export_onnx(merged.network, tmp_path / "a.onnx", metadata=metadata)
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (7, 13)
    found = json.loads({entry.key: entry.value for entry in model.metadata_props}["dshrink"])
    assert found["model"] == "mobilenetv2_100"
    assert found["keep_mask"] == MASK
    assert (found["padding"], found["free_activation"]) == ("repad", False)
    assert found["resolution"] == [96, 96]
    assert found["certificate"]["network_float64"] < 1e-9


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_file_with_one_wrong_weight_is_not_written(before, network, tmp_path, monkeypatch):
    write = dshrink.merge.export.write_onnx

    def one_wrong(spec, weights, **kwargs):
        wrong = [tuple(array.copy() for array in arrays) for arrays in weights]
        wrong[0][0][0, 0, 0, 0] += 5.0
        return write(spec, wrong, **kwargs)

    monkeypatch.setattr(dshrink.merge.export, "write_onnx", one_wrong)
    path = tmp_path / "a.onnx"
    if before:
        path.write_bytes(before)
    with pytest.raises(ExportError, match=r"a\.onnx: not written: the file gives results that"):
        export_onnx(network("mobilenetv2_100", 96, "random"), path)
    assert list(tmp_path.iterdir()) == ([path] if before else [])
    assert before is None or path.read_bytes() == before


def test_a_folder_is_no_file_to_write(network, tmp_path):
    with pytest.raises(ExportError, match="is a folder"):
        export_onnx(network("mobilenetv2_100", 96, "random"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing_behind(network, tmp_path, monkeypatch):
    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        export_onnx(network("mobilenetv2_100", 96, "random"), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
