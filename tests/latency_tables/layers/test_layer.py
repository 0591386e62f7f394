"""Layers against torch's own modules, and what is no layer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latency_tables.errors import PieceError
from latency_tables.layers.layer import Layer
from latency_tables.onnx_file import write_onnx
from profiler.workloads import random_weights

SIZES = st.integers(1, 9)


@given(
    channels=st.tuples(SIZES, SIZES),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(6, 12), st.integers(6, 12)),
    groups=st.sampled_from([1, 2, 3]),
    bias=st.booleans(),
)
def test_a_convolution_has_the_shape_macs_and_parameters_of_torchs(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    size: tuple[int, int],
    groups: int,
    bias: bool,
) -> None:
    cin, cout = (groups * one for one in channels)
    layer = Layer(
        in_channels=cin,
        out_channels=cout,
        kernel=kernel,
        stride=(stride, stride),
        groups=groups,
        height=size[0],
        width=size[1],
        bias=bias,
    )
    conv = nn.Conv2d(
        cin, cout, kernel, stride, tuple(k // 2 for k in kernel), groups=groups, bias=bias
    ).requires_grad_(False)
    # An even kernel cannot keep the size; torch's padding is then half of the kernel less one.
    conv.padding = layer.padding
    result = conv(torch.zeros(1, cin, *size))
    assert layer.spec.output_shape == tuple(result.shape[1:])
    assert (layer.out_height, layer.out_width) == tuple(result.shape[2:])
    assert layer.spec.parameters == sum(one.numel() for one in conv.parameters())
    assert layer.spec.macs == conv.weight.numel() * result.shape[2] * result.shape[3]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_file_of_a_layer_without_bias_computes_what_torch_does(kind: str, bias: bool) -> None:
    sizes = {} if kind == "linear" else {"kernel": (3, 3), "height": 5, "residual": True}
    layer = Layer(kind=kind, in_channels=6, out_channels=6, bias=bias, activation="relu", **sizes)
    weights = random_weights(layer.spec)
    assert len(weights[0]) == 1 + bias
    model = write_onnx(layer.spec, weights)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    x = np.random.default_rng(0).standard_normal((1, *layer.spec.input_shape), dtype=np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {"image": x})
    given, *biases = (torch.from_numpy(np.asarray(array, np.float32)) for array in weights[0])
    if kind == "linear":
        theirs = nn.functional.linear(torch.from_numpy(x), given, *biases)
    else:
        theirs = nn.functional.conv2d(torch.from_numpy(x), given, *biases, padding=1)
        theirs = theirs + torch.from_numpy(x)
    np.testing.assert_allclose(ours, theirs.relu().numpy(), rtol=1e-4, atol=1e-5)


def test_a_bias_goes_without_saying_in_a_digest() -> None:
    # Digests of tables written before layers could lack one stay what they were.
    with_bias = Layer(in_channels=8, out_channels=8, height=4)
    assert with_bias.spec.digest == "6a38ffa7b69184a3"
    assert Layer(in_channels=8, out_channels=8, height=4, bias=False).spec.digest != (
        with_bias.spec.digest
    )


def test_pools_keep_their_channels_and_have_no_weights() -> None:
    pool = Layer(kind="max_pool", in_channels=8, kernel=(3, 3), stride=(2, 2), height=9)
    assert pool.out_channels == 8
    assert pool.spec.output_shape == (8, 5, 5)
    assert pool.spec.parameters == 0
    overall = Layer(kind="global_pool", in_channels=8, height=9, width=7)
    assert overall.spec.output_shape == (8, 1, 1)
    assert overall == Layer(kind="global_pool", in_channels=8, height=9, width=7, kernel=(9, 7))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "convolution"}, "kind 'convolution' is not one of"),
        ({"in_channels": 0}, "in_channels must be 1 to"),
        ({"kernel": (3, 0)}, "kernel must be 1 to 1048576, got 3x0"),
        ({"groups": 3}, "divide into 3 groups"),
        ({"groups": 8, "out_channels": 12}, "divide into 8 groups"),
        ({"activation": "swishy"}, "activation 'swishy' is not one of relu,"),
        ({"residual": True, "out_channels": 9}, "a residual needs an output of the input's shape"),
        ({"kind": "linear"}, "height 4 means nothing for a layer of kind linear"),
        ({"kind": "max_pool", "out_channels": 9}, "cannot have 9 outputs"),
        ({"kernel": (9, 9), "padding": (0, 0)}, "kernel 9 is larger than the padded input 4"),
        ({"in_channels": 2**20, "height": 2**20}, "hold more than"),
    ],
)
def test_what_is_no_layer_is_refused_in_one_line(changes: dict[str, object], says: str) -> None:
    given: dict[str, object] = {"in_channels": 8, "out_channels": 8, "height": 4}
    with pytest.raises(PieceError) as refused:
        Layer(**given | changes)  # type: ignore[arg-type]
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_says_what_is_unusual_and_nothing_else() -> None:
    assert Layer(in_channels=3, out_channels=32, height=224, kernel=(3, 3)).name == (
        "conv 3x3 3->32 at 224x224"
    )
    unusual = Layer(
        in_channels=96,
        out_channels=96,
        groups=96,
        kernel=(3, 5),
        stride=(2, 1),
        height=28,
        width=14,
        bias=False,
        activation="relu6",
    )
    assert unusual.name == "depthwise 3x5 96->96 at 28x14, stride 2x1, no bias, relu6"
    assert Layer(kind="linear", in_channels=1280, out_channels=1000).name == "linear 1280->1000"


def test_a_layer_in_python_takes_numbers_for_pairs_and_refuses_what_is_no_number() -> None:
    one = Layer(in_channels=np.int64(3), out_channels=4, kernel=3, stride=[2, 2], height=8)
    assert one == Layer(in_channels=3, out_channels=4, kernel=(3, 3), stride=(2, 2), height=8)
    assert type(one.in_channels) is int and hash(one)
    for name, value in (("in_channels", 3.0), ("kernel", (3, 3, 3)), ("stride", "2")):
        with pytest.raises(PieceError, match=f"{name} must be a whole number"):
            Layer(**{"in_channels": 3, "out_channels": 4, "height": 8, name: value})
