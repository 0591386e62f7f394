"""Networks of ONNX files with operators that dshrink has no words for: counted and written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_exports import array, export, model
from spelled_networks import CASES, SIZE, made
from torch.utils.flop_counter import FlopCounterMode

from dshrink.merge.export import run_onnx
from dshrink.network.lowering import lower
from dshrink.network.onnx_files.reader import read_onnx
from latency_tables.onnx_file import write_onnx
from latency_tables.opspec import Opaque

#: Their kept operators are of one image, of several, and of several axes that hold the batch.
EXPORTED = [
    *("split", "channel shuffle", "attention", "windows in the batch axis"),
    *(
        "channels-last linear",
        "squeeze-excite by view",
        "transposed convolution",
        "another hardtanh",
    ),
]


@pytest.mark.parametrize("case", EXPORTED)
def test_a_network_read_from_a_file_is_written_as_torch_computes_it(case, tmp_path):
    net = made(CASES[case][0])
    image = torch.randn(1, 3, SIZE, SIZE)
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
    traced = read_onnx(export(net, tmp_path / "net.onnx", image, dynamic_axes=axes))
    low = lower(traced)
    assert any(isinstance(op, Opaque) for op in low.spec.ops)
    for batch in (1, 3):
        image = torch.randn(batch, 3, SIZE, SIZE)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expected = net(image).numpy()
        assert low.spec.macs * batch * 2 == counter.get_total_flops()
        data = write_onnx(low.spec, low.weights(traced), batch=batch)
        assert np.abs(run_onnx(data, image.numpy()) - expected).max() < 1e-5


def test_nodes_of_an_older_opset_are_written_in_that_of_our_files(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceSum", ["c"], ["s"], axes=[1], keepdims=0),
        helper.make_node("Unsqueeze", ["s"], ["y"], axes=[1]),
    ]
    made_by_hand = model(nodes, [array("w", 4, 3, 3, 3)], opset=11)
    path = tmp_path / "older.onnx"
    onnx.save(made_by_hand, path)
    traced = read_onnx(path)
    low = lower(traced)
    data = write_onnx(low.spec, low.weights(traced))
    image = torch.randn(1, 3, 16, 16).numpy()
    expected = run_onnx(made_by_hand.SerializeToString(), image)
    assert np.abs(run_onnx(data, image) - expected).max() < 1e-5


def test_an_operator_without_a_formula_is_said_not_to_be_counted(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Einsum", ["c", "m"], ["y"], equation="bchw,cd->bdhw"),
    ]
    path = tmp_path / "einsum.onnx"
    onnx.save(model(nodes, [array("w", 4, 3, 3, 3), array("m", 4, 4)]), path)
    (op,) = (op for op in lower(read_onnx(path)).spec.ops if isinstance(op, Opaque))
    assert op.counted is None and op.graph
