"""A lowered network computes what the traced one computes; errors say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dshrink.errors import NetworkError
from dshrink.merge.export import run_onnx
from dshrink.network.models import load_network
from latency_tables.onnx_file import write_onnx

ort = pytest.importorskip("onnxruntime")

NETWORKS = [
    "mobilenetv2_100",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "torchvision:resnet18",
    "resnet26d",
    "densenet121",
    "regnetx_002",
    "mnasnet_100",
]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_lowered_network_gives_in_onnx_runtime_what_torch_gives(name, network):
    net = network(name, 96, "random")
    data = write_onnx(net.spec, net.lowered.weights(net.module))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    image = torch.randn(1, *net.spec.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = net.module(image).numpy()
    (result,) = session.run(None, {"image": image.numpy()})
    assert np.abs(result - expected).max() < 1e-4 * np.abs(expected).max()


def test_random_weights_give_norms_that_do_something(network):
    norms = [
        layer
        for layer in network("mobilenetv2_100", 96, "random").module.modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    ]
    assert len(norms) == 52
    assert all(norm.running_mean.abs().max() > 1e-3 for norm in norms)


def test_a_layer_used_twice_gets_two_names(network):
    layers = network("torchvision:resnet18").lowered.layers
    assert "layer1.0.relu" in layers
    assert "layer1.0.relu@2" in layers
    assert len(set(layers)) == len(layers)


def test_a_layer_without_words_keeps_its_onnx_nodes_and_computes_the_same_there(network):
    net = network("convnext_atto", 96)
    assert {op.operator for op in net.spec.ops if op.kind == "opaque"} == {"LayerNorm2d", "mul"}
    image = torch.randn(3, *net.spec.input_shape)
    data = write_onnx(net.spec, net.lowered.weights(net.module), batch=3)
    expected = net.module(image).detach().numpy()
    assert np.abs(run_onnx(data, image.numpy()) - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_unknown_network_is_refused_with_what_is_close():
    with pytest.raises(NetworkError, match=r"mobilenetv2_10: no such network; did you mean .*100"):
        load_network("mobilenetv2_10")


def test_a_network_that_cannot_be_traced_is_one_line():
    with pytest.raises(NetworkError, match=r"torch\.fx cannot trace it at 64x64") as caught:
        load_network("vit_tiny_patch16_224", resolution=64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_are_the_weights_of_the_network(suffix, tmp_path: Path, network):
    timm = __import__("timm")
    source = timm.create_model("mobilenetv2_035")
    state = {key: value.clone() for key, value in source.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    net = load_network("mobilenetv2_035", resolution=64, weights=path)
    loaded = net.module.get_submodule("conv_stem").weight
    assert torch.equal(loaded, source.conv_stem.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(NetworkError, match="do not fit mobilenetv2_035"):
        load_network("mobilenetv2_035", weights=tmp_path / "w.safetensors")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match="not a readable state dict"):
        load_network("mobilenetv2_035", weights=tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["mobilenetv2_035", "torchvision:resnet18"])
def test_pretrained_weights_have_no_other_number_of_classes(name):
    with pytest.raises(NetworkError, match=r"not 3 of your own; .*--weights FILE"):
        load_network(name, weights="pretrained", classes=3)
    assert load_network(name, resolution=32, classes=3).spec.output_shape == (3,)


def test_a_missing_weight_file_is_named():
    with pytest.raises(NetworkError, match=r"nowhere\.pth: no such file"):
        load_network("mobilenetv2_035", weights="nowhere.pth")
