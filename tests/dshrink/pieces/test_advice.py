"""What is said of a network before anything is measured or trained."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_exports import array, model
from spelled_networks import CASES, SIZE, Net, made

from dshrink.errors import NetworkError, ShrinkError
from dshrink.network.lowering import lower
from dshrink.network.models import Network, load_network
from dshrink.network.references import ModelChoice
from dshrink.network.tracing import trace
from dshrink.pieces.advice import not_counted, require_batch, require_writable
from dshrink.train.opening import require_trainable


def network_of(net: torch.nn.Module) -> Network:
    traced = trace(net, (3, SIZE, SIZE))
    return Network(name="net", module=traced, lowered=lower(traced))


def test_what_is_not_counted_is_named_and_nothing_else():
    counted = network_of(made(CASES["attention"][0]))
    assert not_counted(counted) == ""
    transformed = network_of(made(lambda: Net(lambda s, x: torch.fft.rfft2(x).abs())))
    assert not_counted(transformed).startswith("multiply-accumulates of abs (abs) are not counted")


def test_an_operator_that_cannot_be_written_is_named_with_its_layer_and_reason():
    require_writable(network_of(made(CASES["attention"][0])))
    pooled = network_of(
        made(lambda: Net(lambda s, x: s.odd(x), odd=torch.nn.AvgPool2d(2, divisor_override=3)))
    )
    with pytest.raises(
        ShrinkError, match=r"net: 1 of its operators .*odd \(AvgPool2d\): what torch"
    ):
        require_writable(pooled)


def test_a_batch_in_the_constants_of_a_file_is_the_batch_that_it_is_measured_with(tmp_path):
    shape = numpy_helper.from_array(torch.tensor([4, 1, -1]).numpy(), "shape")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[1, 0, 2]),
    ]
    path = tmp_path / "one.onnx"
    onnx.save(model(nodes, [array("w", 4, 3, 3, 3), shape]), path)
    network = load_network(str(path))
    require_batch(network, 1)
    with pytest.raises(ShrinkError, match=r"one\.onnx: some of its constants are for a batch of 1"):
        require_batch(network, 8)
    require_batch(network_of(made(CASES["attention"][0])), 8)


def test_an_onnx_file_is_not_trained():
    require_trainable(ModelChoice(model="mobilenetv2_100"))
    with pytest.raises(NetworkError, match=r"a\.onnx: an ONNX file is not trained here"):
        require_trainable(ModelChoice(model="a.onnx"))
