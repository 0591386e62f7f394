"""Dense counterparts: the work of each stage stays, and what is made of it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dshrink.errors import ShrinkError
from dshrink.network.blocks import Block
from dshrink.network.models import Network, load_network
from dshrink.paper.dense_counterpart import dense_counterpart
from latency_tables.opspec import Activation, Add, Conv, OpSpec
from profiler.workloads import build_onnx

Networks = Callable[..., Network]
TABLE_1 = ["mobilenetv2_100", "mobilenetv2_140", "tf_efficientnet_lite0", "resnet50", "resnet101"]


def layers_of(spec: OpSpec) -> list[tuple[Conv, int]]:
    """Each convolution with its multiply-accumulates, counted by hand."""
    found = []
    for n, op in enumerate(spec.ops):
        if isinstance(op, Conv):
            channels, (_, height, width) = spec.shapes[op.inputs[0]][0], spec.shapes[n + 1]
            pairs = channels // op.groups * op.out_channels
            found.append((op, pairs * math.prod(op.kernel) * height * width))
    return found


def works(network: Network, dense: OpSpec) -> list[tuple[int, int]]:
    """Multiply-accumulates now and before: stem and first stage, stages, last stage and head."""
    spec, blocks = network.spec, network.blocks

    def shape(block: Block) -> tuple[int, ...]:
        return spec.shapes[block.last + 1]

    convs = [macs for _, macs in layers_of(dense)]
    stem = sum(isinstance(op, Conv) for op in spec.ops[: blocks[0].first])
    now, before, at = [], [], stem
    for _, group in groupby(blocks, key=shape):
        stage = list(group)
        now.append(sum(convs[at : at + len(stage)]))
        before.append(_macs(spec, stage[0].first, stage[-1].last + 1))
        at += len(stage)
    now[0] += sum(convs[:stem])
    before[0] += _macs(spec, 0, blocks[0].first)
    now[-1] += dense.macs - sum(now)
    before[-1] += _macs(spec, blocks[-1].last + 1, len(spec.ops))
    return list(zip(now, before, strict=True))


def _macs(spec: OpSpec, first: int, stop: int) -> int:
    return sum(op.macs([spec.shapes[t] for t in op.inputs]) for op in spec.ops[first:stop])


@pytest.mark.parametrize("name", TABLE_1)
def test_a_network_keeps_its_work_within_two_thousandths(name: str, network: Networks) -> None:
    net = network(name)
    assert dense_counterpart(net).macs == pytest.approx(net.spec.macs, rel=0.002)


@pytest.mark.parametrize("name", TABLE_1)
def test_every_stage_keeps_its_work(name: str, network: Networks) -> None:
    net = network(name)
    exact = works(net, dense_counterpart(net, multiple=1))
    assert [now / before for now, before in exact] == pytest.approx([1.0] * len(exact), abs=0.016)
    # In multiples of 8, narrow stages are off by half a step of one block.
    rounded = works(net, dense_counterpart(net))
    assert [now / before for now, before in rounded] == pytest.approx([1.0] * len(exact), abs=0.08)


@pytest.mark.parametrize("resolution", [224, 97])
@pytest.mark.parametrize("name", TABLE_1[1:4])
def test_kernels_strides_and_resolutions_stay(
    name: str, resolution: int, network: Networks
) -> None:
    net = network(name, resolution)
    spec, dense = net.spec, dense_counterpart(net)
    stem = sum(isinstance(op, Conv) for op in spec.ops[: net.blocks[0].first])
    numbers = [n for n, op in enumerate(dense.ops) if isinstance(op, Conv)][stem:]
    for n, block in zip(numbers, net.blocks, strict=False):
        conv = dense.ops[n]
        inside = [op for op in spec.ops[block.first : block.last + 1] if isinstance(op, Conv)]
        assert isinstance(conv, Conv)
        assert conv.groups == 1
        assert conv.kernel == max(op.kernel for op in inside)
        assert conv.stride == max(op.stride for op in inside)
        assert dense.shapes[n + 1][1:] == spec.shapes[block.last + 1][1:]
        end = spec.ops[block.last]
        function = end.function if isinstance(end, Activation) else "relu6"
        assert dense.ops[n + 1] == Activation(inputs=(n + 1,), function=function)
    assert dense.output_shape == spec.output_shape
    assert not any(isinstance(op, Add) for op in dense.ops)


@pytest.mark.parametrize("name", TABLE_1)
def test_widths_are_multiples_of_8_and_a_stage_has_nearly_one(name: str, network: Networks) -> None:
    net = network(name)
    stem = sum(isinstance(op, Conv) for op in net.spec.ops[: net.blocks[0].first])
    dense = dense_counterpart(net)
    widths = [conv.out_channels for conv, _ in layers_of(dense)]
    assert not any(width % 8 for width in widths)
    blocks = zip(net.blocks, widths[stem:], strict=False)
    for _, group in groupby(blocks, key=lambda one: net.spec.shapes[one[0].last + 1]):
        stage = [width for _, width in group]
        assert max(stage) - min(stage) <= 8


def test_the_widths_of_mobilenetv2_are_these(network: Networks) -> None:
    widths = [conv.out_channels for conv, _ in layers_of(dense_counterpart(network(TABLE_1[0])))]
    stages = "16 8 40 40 40 48 40 80 80 80 80 112 112 104 200 208 200 288 1280"
    assert widths == [int(width) for width in stages.split()]


@pytest.mark.parametrize("name", ["mobilenetv2_100", "torchvision:resnet18", "repvgg_a0"])
def test_a_dense_counterpart_runs(name: str, network: Networks) -> None:
    spec = dense_counterpart(network(name, 97))
    session = onnxruntime.InferenceSession(build_onnx(spec), providers=["CPUExecutionProvider"])
    image = np.zeros((1, 3, 97, 97), dtype=np.float32)
    (result,) = session.run(None, {session.get_inputs()[0].name: image})
    assert result.shape == (1, 1000)


NET = """
from torch import nn


def block(channels):
    middle = [nn.Conv2d(channels, 192, 1), nn.ReLU6(), nn.Conv2d(192, 192, 3, 1, 1, groups=192)]
    return nn.Sequential(*middle, nn.ReLU6(), nn.Conv2d(192, 32, 1))


def net(end):
    ends = {
        "depthwise": nn.Conv2d(32, 32, 16, groups=32),
        "group_norm": nn.Sequential(nn.GroupNorm(4, 32), nn.AdaptiveAvgPool2d(1)),
    }
    stem = nn.Conv2d(3, 32, 3, 2, 1)
    return nn.Sequential(
        stem, nn.ReLU6(), block(32), block(32), ends[end], nn.Flatten(), nn.Linear(32, 10)
    )
"""


def net_ending_with(end: str, folder: Path) -> Network:
    (folder / "net.py").write_text(NET)
    return load_network(f"{folder / 'net.py'}:net", resolution=32, model_args=[f"end={end}"])


def test_a_depthwise_head_has_as_many_channels_as_enter_it(tmp_path: Path) -> None:
    net = net_ending_with("depthwise", tmp_path)
    dense = dense_counterpart(net, multiple=1)
    stem, *stage, head = [conv for conv, _ in layers_of(dense)]
    assert stem.out_channels != 32
    assert head.groups == head.out_channels == stage[-1].out_channels != 32
    assert dense.macs == pytest.approx(net.spec.macs, rel=0.02)


def test_a_layer_of_set_channels_outside_of_the_blocks_is_named(tmp_path: Path) -> None:
    net = net_ending_with("group_norm", tmp_path)
    with pytest.raises(ShrinkError, match=r"^4\.0 \.\. 6: cannot have other channels.*takes 32"):
        dense_counterpart(net)


def test_a_network_that_does_not_merge_throughout_has_no_counterpart(network: Networks) -> None:
    message = r"^block 0 \(blocks\.0\.0\) of mobilenetv3_small_050 cannot .*squeeze-excite"
    with pytest.raises(ShrinkError, match=message):
        dense_counterpart(network("mobilenetv3_small_050"))


def test_a_network_without_blocks_has_none_either(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 8, 3))\n"
    )
    with pytest.raises(ShrinkError, match=r"^net\.py:net: no building block found"):
        dense_counterpart(load_network(f"{tmp_path / 'net.py'}:net", resolution=32))
