"""Blocks and spans against published counts and the published span tables themselves."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import latency_tables
from dshrink.network.blocks import find_blocks
from dshrink.network.sections import find_sections
from latency_tables.opspec import Activation, Add, Conv, OpSpec

PUBLISHED = Path(latency_tables.__file__).parent / "data" / "published"

BLOCK_COUNTS = {
    "mobilenetv2_035": 17,
    "mobilenetv2_050": 17,
    "mobilenetv2_100": 17,
    "mobilenetv2_140": 17,
    "torchvision:mobilenet_v2": 17,
    "mnasnet_100": 17,
    "tf_efficientnet_lite0": 16,
    "tf_efficientnet_lite3": 24,
    "efficientnet_b0": 16,
    "mobilenetv3_large_100": 15,
    "mobilenetv1_100": 13,
    "resnet50": 16,
    "torchvision:resnet18": 8,
    "regnetx_002": 13,
    "torchvision:vgg11": 0,
}


def chain_of(net):
    return net.chain


@pytest.mark.parametrize(("name", "count"), BLOCK_COUNTS.items())
def test_blocks_are_found_from_structure(name, count, network):
    assert len(chain_of(network(name)).blocks) == count


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenetv2_100", "kim2023_2080ti_tensorrt_fp32_b128_mobilenetv2_100.csv"),
        ("mobilenetv2_140", "kim2023_2080ti_tensorrt_fp32_b128_mobilenetv2_140.csv"),
        ("torchvision:vgg19", "kim2023_2080ti_pytorch_fp32_b64_vgg19.csv"),
        ("vgg19", "kim2023_2080ti_pytorch_fp32_b64_vgg19.csv"),
    ],
)
def test_the_spans_are_those_of_the_published_table(name, file, network):
    with (PUBLISHED / file).open() as lines:
        published = sorted((int(row["st"]), int(row["end"])) for row in csv.DictReader(lines))
    assert chain_of(network(name)).spans("kim2023") == published


def test_a_stride_is_no_break_in_exact_mode(network):
    chain = chain_of(network("mobilenetv2_100"))
    assert (0, 50) in chain.spans()
    assert set(chain.spans("kim2023")) < set(chain.spans())


def test_an_unknown_span_mode_is_refused(network):
    with pytest.raises(ValueError, match="known: exact, kim2023"):
        chain_of(network("mobilenetv2_100")).spans("kim")


def test_skips_join_the_ends_of_residual_blocks(network):
    chain = chain_of(network("mobilenetv2_100"))
    assert len(chain.skips) == 10
    assert chain.skips[0] == (5, 8)


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("mobilenetv3_large_100", "blocks.2.0.se", "squeeze-excite"),
        ("tf_efficientnetv2_b0", "blocks.1.0.bn1.act", "silu is not removed"),
        ("convnext_atto", "stages.0.blocks.0", "does not merge"),
    ],
)
def test_a_block_that_cannot_merge_names_the_layer_and_the_reason(name, layer, reason, network):
    reasons = [b.unmergeable for b in chain_of(network(name)).blocks if b.unmergeable]
    assert any(r.startswith(layer) and reason in r for r in reasons)


def test_mobilenetv3_keeps_the_blocks_without_squeeze_excite_and_swish_mergeable(network):
    blocks = chain_of(network("mobilenetv3_large_100")).blocks
    assert [b.index for b in blocks if b.unmergeable is None] == [0, 1, 2]


def conv(source, channels, kernel=1, groups=1):
    pad = (kernel // 2,) * 4
    return Conv(
        inputs=(source,), out_channels=channels, kernel=(kernel, kernel), pads=pad, groups=groups
    )


def test_segments_cut_where_one_tensor_carries_on():
    relu = Activation(inputs=(1,), function="relu")
    spec = OpSpec(
        input_shape=(4, 8, 8), ops=(conv(0, 4), relu, conv(2, 4), Add(inputs=(3, 2)), conv(4, 4))
    )
    assert [(s.first, s.last) for s in find_sections(spec)] == [(0, 0), (1, 1), (2, 3), (4, 4)]


def test_a_plain_stack_of_convolutions_with_activations_has_no_block():
    ops = []
    for n in range(4):
        ops += [conv(2 * n, 4, 3), Activation(inputs=(2 * n + 1,), function="relu")]
    spec = OpSpec(input_shape=(4, 8, 8), ops=tuple(ops))
    assert find_blocks(spec, [f"layer{n}" for n in range(len(ops))]) == ()
