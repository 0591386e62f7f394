"""Pieces of networks cut into spans: all their work, the merged shapes, and what cannot merge."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from span_oracle import random_span_mask

from dshrink.errors import ShrinkError
from dshrink.merge.linear_graph import collapse
from dshrink.merge.region_graph import region_graph
from dshrink.network.chain import span_chain
from dshrink.network.lowering import LoweredNetwork
from dshrink.network.mask_changes import span_region
from dshrink.network.models import Network
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import Activation, Add, Conv, OpSpec

NETWORKS = ["mobilenetv2_100", "tf_efficientnet_lite0", "resnet50", "vgg19", "repvgg_a0"]


def chain_of(net):
    return net.chain


def test_mobilenetv2_has_the_spans_of_the_paper(network):
    pieces = span_pieces(network("mobilenetv2_100"))
    spans = [piece for piece in pieces.pieces if piece.kind == "span"]
    assert (len(spans), len({piece.spec.digest for piece in spans})) == (171, 115)
    assert sum(piece.kind == "addition" for piece in pieces.pieces) == 10
    assert pieces.unmergeable == {}
    assert pieces.chain.mask == "1|" + "11|" * 16
    assert pieces.chain.block_ends == (2, *range(5, 51, 3))
    assert pieces.chain.convolutions[3] == "blocks.1.0.conv_dw"


def test_exact_mode_has_pieces_for_kernels_of_any_size(network):
    pieces = span_pieces(network("mobilenetv2_100"), mode="exact")
    conv, _ = pieces.piece("span", (0, 50)).spec.ops
    # k = 1 + 2 * (the product of the strides before it), summed over the 17 layers of 3x3.
    before = [1, 1, 2, 2, 4, 4, 4, *[8] * 6, 8, 16, 16, 16]
    assert conv.kernel == (1 + 2 * sum(before),) * 2 == (245, 245) and conv.stride == (16, 16)
    assert pieces.piece("span", (0, 50)).spec.output_shape == (320, 7, 7)


def test_vgg_is_spans_and_pools_without_stem_or_blocks(network):
    pieces = span_pieces(network("vgg19"))
    assert sum(piece.kind == "span" for piece in pieces.pieces) == 36
    assert pieces.chain.mask == "1" * 16 and pieces.chain.block_ends == ()
    pools = [piece for piece in pieces.pieces if piece.kind == "between"]
    assert [piece.span for piece in pools] == [(2, 2), (4, 4), (8, 8), (12, 12)]
    assert {piece.spec.ops[0].kind for piece in pools} == {"pool"}
    assert ("stem", None) not in pieces.by_place


def work(spec, ops):
    """Operators with the shapes that they read and make; where these stand does not count."""
    return Counter(
        (replace(op, inputs=()), tuple(spec.shapes[t] for t in op.inputs), spec.shapes[n])
        for n, op in enumerate(ops, start=1)
    )


def work_of_pieces(pieces, mask):
    """What the pieces of a mask hold, less the activation of spans that end without one."""
    total = Counter()
    for place in pieces.forms.places(mask, "repad"):
        spec = pieces.by_place[place].spec
        linear = place[0] == "span" and mask[place[1][1] - 1] == "|"
        assert not linear or isinstance(spec.ops[-1], Activation)
        total += work(spec, spec.ops[:-1] if linear else spec.ops)
    return total


@pytest.mark.parametrize("name", [*NETWORKS, "darknet17"])
def test_the_pieces_of_a_mask_hold_the_operators_of_its_network(name, network):
    net = network(name)
    pieces = span_pieces(net)
    spans = [piece.span for piece in pieces.pieces if piece.kind == "span"]
    known = SimpleNamespace(length=pieces.chain.length, spans=lambda mode: spans)
    for mask in (pieces.chain.mask, random_span_mask(known, random.Random(name), 7)):
        spec = shrunk_spec(net, mask, segments="spans")
        assert work_of_pieces(pieces, mask) == work(spec, spec.ops)
        assert spec.output_shape == net.spec.output_shape


def test_the_mask_of_the_original_network_changes_nothing(network):
    for name in NETWORKS:
        net = network(name)
        assert shrunk_spec(net, span_chain(chain_of(net)).mask, segments="spans") == net.spec


def test_one_convolution_is_the_layer_itself_with_an_activation(network):
    net = network("mobilenetv2_100")
    pieces = span_pieces(net)
    depthwise, act = pieces.piece("span", (3, 4)).spec.ops
    assert (depthwise.groups, depthwise.stride, act.function) == (96, (2, 2), "relu6")
    project, act = pieces.piece("span", (4, 5)).spec.ops  # linear in the network
    assert (project.kernel, act.function) == ((1, 1), "relu6")
    assert pieces.piece("span", (4, 5)).layers == ("blocks.1.0.conv_pwl",)
    assert pieces.piece("span", (3, 4)).layers == ("blocks.1.0.conv_dw", "blocks.1.0.bn2.act")


def test_a_merged_span_has_the_shape_that_merging_gives(network):
    net = network("resnet50", 224)
    chain = chain_of(net)
    pieces = span_pieces(net)
    for span in [(0, 3), (3, 4), (4, 6), (9, 12), (3, 9)]:
        region = span_region(net.spec, net.lowered.layers, chain, span)
        merged = collapse(region_graph(net.spec, region))
        conv = pieces.piece("span", span).spec.ops[0]
        assert conv.kernel == merged.kernel and conv.stride == merged.stride
        assert (conv.pads, conv.groups) == (merged.pads, merged.groups)
        assert conv.out_channels == merged.out_channels


def test_an_addition_holds_the_layers_of_its_shortcut(network):
    pieces = span_pieces(network("resnet50"))
    conv, add = pieces.piece("addition", (0, 3)).spec.ops
    assert (conv.kernel, conv.out_channels, add) == ((1, 1), 256, Add(inputs=(1, 1)))
    assert pieces.piece("addition", (0, 3)).layers == ("layer1.0.downsample.0", "layer1.0.add")
    assert pieces.piece("addition", (3, 6)).spec.ops == (Add(inputs=(0, 0)),)


def kinds_behind(spec, channels, number):
    """The operators behind the convolution ``number`` of those that give so many channels."""
    at = [n for n, op in enumerate(spec.ops) if isinstance(op, Conv)][number]
    assert spec.ops[at].out_channels == channels
    behind = []
    for op in spec.ops[at + 1 :]:
        if isinstance(op, Conv):
            break
        behind.append(op.kind)
    return behind


@pytest.mark.parametrize(
    ("at", "sign", "behind"),
    [
        (8, "1", ["add", "activation"]),  # the free one, behind the addition
        (8, "|", ["add"]),
        (5, "1", ["activation"]),  # where a skip starts
        (7, "1", ["activation"]),  # the network's own
        (7, "|", []),
    ],
)
def test_the_mask_says_what_stands_behind_a_convolution(at, sign, behind, network):
    net = network("mobilenetv2_100")
    mask = span_chain(chain_of(net)).mask
    spec = shrunk_spec(net, mask[: at - 1] + sign + mask[at:], segments="spans")
    channels = {5: 24, 7: 144, 8: 24}[at]
    assert kinds_behind(spec, channels, at) == behind  # the stem's convolution is number 0
    functions = {op.function for op in spec.ops if isinstance(op, Activation)}
    assert functions == {"relu6"}


def test_without_the_free_activation_none_is_added(network):
    net = network("mobilenetv2_100")
    mask = "1" * 50
    spec = shrunk_spec(net, mask, segments="spans", free_activation=False)
    assert spec == net.spec != shrunk_spec(net, mask, segments="spans")


def test_a_span_that_cannot_merge_is_named_with_its_reason(network):
    # At 97 the shortcuts' average pools hang over the end of their inputs.
    net = network("resnet14t", 97)
    pieces = span_pieces(net)
    skip = chain_of(net).skips[1]
    assert "pool" in pieces.unmergeable[skip]
    assert ("span", skip) not in pieces.by_place
    assert ("addition", skip) in pieces.by_place
    mask = list(pieces.chain.mask)
    mask[skip[0] : skip[1] - 1] = "0" * (skip[1] - skip[0] - 1)
    with pytest.raises(ShrinkError, match=r"span 3-6 \(layer2\.0\.conv1 \.\. layer2\.0\.conv3\)"):
        shrunk_spec(net, "".join(mask), segments="spans")


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("mobilenetv2_100", "1" * 49, "49 characters, the chain of mobilenetv2_100 has 50"),
        ("mobilenetv2_100", "1" * 49 + "0", "ends with 0"),
        ("mobilenetv2_100", "000000" + "1" * 44, "the end of a skip"),
        ("vgg19", "1011" + "1" * 12, "merges features.2 .. features.5 of vgg19"),  # across a pool
        ("efficientnet_b0", "|" + "1" * 46, "activation silu is not removed"),
    ],
)
def test_a_span_mask_that_does_not_fit_is_refused(name, mask, message, network):
    with pytest.raises(ShrinkError, match=message):
        shrunk_spec(network(name), mask, segments="spans")


def test_what_is_added_past_one_convolution_is_in_the_piece_of_that_layer(network):
    # RepVGG adds a 3x3, a 1x1 and an identity with a norm of its own.
    pieces = span_pieces(network("repvgg_a0"))
    kinds = [op.kind for op in pieces.piece("span", (2, 3)).spec.ops]
    assert sorted(kinds) == ["activation", "add", "add", "batch_norm", "conv", "conv"]
    assert pieces.chain.skips == ()
    assert not any(piece.kind == "addition" for piece in pieces.pieces)
    assert pieces.unmergeable == {}
    assert pieces.piece("span", (0, 2)).spec.ops[0].kernel == (7, 7)  # 3x3 at stride 2, twice


def test_two_additions_to_one_skip_are_one_piece():
    conv = Conv(inputs=(0,), out_channels=4, kernel=(3, 3), pads=(1, 1, 1, 1))
    # Two convolutions, and behind them their input twice: as it is, and through a convolution.
    ops = (
        replace(conv, inputs=(0,)),
        replace(conv, inputs=(1,)),
        replace(conv, inputs=(2,)),
        replace(conv, inputs=(1,), kernel=(1, 1), pads=(0, 0, 0, 0)),
        Add(inputs=(3, 1)),
        Add(inputs=(5, 4)),
    )
    layers = ("stem", "a", "b", "side", "first", "second")
    spec = OpSpec(input_shape=(4, 8, 8), ops=ops)
    lowered = LoweredNetwork(spec=spec, layers=layers, nodes=layers, modules=((),) * 6)
    pieces = span_pieces(Network(name="net", module=None, lowered=lowered))
    piece = pieces.piece("addition", (0, 2))
    assert piece.layers == ("first", "side", "second")
    side = replace(conv, inputs=(0,), kernel=(1, 1), pads=(0, 0, 0, 0))
    assert piece.spec.ops == (Add(inputs=(0, 0)), side, Add(inputs=(2, 2)))


def test_unknown_segments_are_refused(network):
    with pytest.raises(ShrinkError, match="known: blocks, spans"):
        shrunk_spec(network("mobilenetv2_100"), "1" * 17, segments="layers")
