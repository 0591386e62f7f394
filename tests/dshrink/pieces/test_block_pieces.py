"""Pieces add up to the network; merged convolutions have the shape that running the block gives."""

from __future__ import annotations

import pytest

from dshrink.errors import ShrinkError
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import BiasMap, Conv, join
from profiler.planning.hold_out import merged_forms

NETWORKS = ["mobilenetv2_100", "tf_efficientnet_lite0", "resnet50", "torchvision:resnet18"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pieces_of_a_network_hold_all_its_work(name, network):
    net = network(name)
    pieces = network_pieces(net)
    kept = [p for p in pieces.pieces if p.kind in ("stem", "between", "head", "original")]
    assert sum(p.spec.macs for p in kept) == net.spec.macs
    assert sum(p.spec.parameters for p in kept) == net.spec.parameters


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("resolution", [224, 97])
def test_a_merged_block_has_the_shapes_of_the_block(name, resolution, network):
    pieces = network_pieces(network(name, resolution))
    for block in range(pieces.block_count):
        original = pieces.piece("original", block).spec
        merged = pieces.piece("merged", block).spec
        assert merged.input_shape == original.input_shape
        assert merged.output_shape == original.output_shape
        assert sum(isinstance(op, Conv) for op in merged.ops) == 1


@pytest.mark.parametrize("padding", ["repad", "bias_map"])
def test_a_shrunk_network_holds_the_merged_pieces(padding, network):
    net = network("mobilenetv2_100")
    pieces = network_pieces(net)
    mask = "10011010101101111"
    spec = shrunk_spec(net, mask, padding=padding)
    expected = pieces.piece("stem").spec.macs + pieces.piece("head").spec.macs
    for block, keep in enumerate(mask):
        kind = "original" if keep == "1" else "merged"
        expected += pieces.piece(kind, block).spec.macs
    assert spec.macs == expected
    maps = sum(isinstance(op, BiasMap) for op in spec.ops)
    assert maps == (mask.count("0") if padding == "bias_map" else 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_its_pieces_one_after_the_other(name, network):
    # By this a runtime's layer tells its piece.
    made = network(name)
    pieces = network_pieces(made, dense=False)
    kept = "".join("01"[block in pieces.unmergeable] for block in range(pieces.block_count))
    for mask in ("1" * pieces.block_count, kept):
        for padding in merged_forms(pieces):
            order = [pieces.piece(*place) for place in pieces.forms.places(mask, padding)]
            whole = shrunk_spec(made, mask, padding=padding)
            assert join([piece.spec for piece in order]).digest == whole.digest


def test_keeping_everything_changes_nothing(network):
    net = network("mobilenetv2_100")
    assert shrunk_spec(net, "1" * 17) == net.spec


def test_the_first_block_of_mobilenetv2_needs_no_bias_map(network):
    pieces = network_pieces(network("mobilenetv2_100"))
    kinds = {(p.kind, p.block) for p in pieces.pieces}
    assert ("merged_bias_map", 0) not in kinds
    assert all(("merged_bias_map", block) in kinds for block in range(1, 17))


def test_without_the_free_activation_a_linear_bottleneck_ends_linear(network):
    net = network("mobilenetv2_100")
    with_it = shrunk_spec(net, "0" * 17)
    without = shrunk_spec(net, "0" * 17, free_activation=False)
    assert len(with_it.ops) - len(without.ops) == 17


def test_a_dense_counterpart_has_the_work_of_its_block(network):
    pieces = network_pieces(network("mobilenetv2_140"))
    for block in range(17):
        original = pieces.piece("original", block).spec.macs
        assert pieces.piece("dense", block).spec.macs == pytest.approx(original, rel=0.05)


def test_equal_blocks_share_a_digest(network):
    pieces = network_pieces(network("mobilenetv2_100"))
    digests = [pieces.piece("original", b).spec.digest for b in range(17)]
    assert digests[7] == digests[8] == digests[9]
    assert len({piece.spec.digest for piece in pieces.pieces}) < len(pieces.pieces)


@pytest.mark.parametrize("mask", ["", "1" * 16, "1" * 18, "2" * 17])
def test_a_mask_that_does_not_fit_is_refused(mask, network):
    with pytest.raises(ShrinkError, match=r"keep mask .*(17 blocks|is neither 1)"):
        shrunk_spec(network("mobilenetv2_100"), mask)


def test_a_mask_that_shrinks_what_cannot_merge_names_block_and_layer(network):
    with pytest.raises(ShrinkError, match=r"block 3 \(blocks\.2\.0\).*squeeze-excite"):
        shrunk_spec(network("mobilenetv3_large_100"), "1110" + "1" * 11)


@pytest.mark.parametrize("resolution", [224, 112])
def test_where_a_block_has_no_exact_bias_map_no_piece_is_made(resolution, network):
    # At 112 block 6 alone has one (its last stride drops the end); the network as a whole has not.
    pieces = network_pieces(network("torchvision:resnet18", resolution))
    assert {p.kind for p in pieces.pieces if p.block is not None} == {"original", "merged", "dense"}


def test_a_bias_map_that_cannot_be_exact_is_refused_with_the_way_out(network):
    with pytest.raises(
        ShrinkError, match=r"block 1 \(layer1\.1\) cannot merge: layer1\.1\.conv2 .*--padding repad"
    ):
        shrunk_spec(network("torchvision:resnet18"), "10111111", padding="bias_map")


def test_bottlenecks_keep_their_bias_maps(network):
    pieces = network_pieces(network("resnet50"))
    assert all(("merged_bias_map", block) in pieces.by_place for block in range(16))


def test_an_unknown_padding_is_refused(network):
    with pytest.raises(ValueError, match="unknown padding 'zero'"):
        shrunk_spec(network("mobilenetv2_100"), "0" * 17, padding="zero")


def test_a_network_without_blocks_is_refused_with_the_way_out(network):
    with pytest.raises(ShrinkError, match="no building block found"):
        network_pieces(network("torchvision:vgg11"))
