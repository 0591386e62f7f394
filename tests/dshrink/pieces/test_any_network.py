"""Networks that join tensors in any way: what cannot merge is measured as it is, the rest goes on.

Of every network: each operator of a shrunk network is in exactly the piece that its mask picks, and
every plan that can be listed can be bound, merged and certified.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import odd_networks
import pytest
from merging import merge_blocks, merge_spans
from span_oracle import random_span_mask

from dshrink.errors import DshrinkError, ShrinkError
from dshrink.merge.verify import certify
from dshrink.network.chain import span_chain
from dshrink.network.lowering import LoweredNetwork
from dshrink.network.models import Network
from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.operator_places import operator_places
from dshrink.pieces.plan_binding import bind_to_network
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.plan import Plan
from latency_tables.opspec import Activation, Concat, Conv, Flatten, Linear, OpSpec
from profiler.planning.hold_out import between_masks, merged_forms, smallest_mask

STORED = Path(__file__).parents[1] / "network" / "stored" / "chains.json"
KINDS = sorted(odd_networks.KINDS)

made = cache(odd_networks.made)


def made_by(spec, number):
    """What an operator is, wherever it stands."""
    op = spec.ops[number]
    return op.kind, tuple(spec.shapes[tensor] for tensor in op.inputs), spec.shapes[number + 1]


def pieces_of(net, segments):
    return span_pieces(net) if segments == "spans" else network_pieces(net, dense=False)


def masks_of(net, segments):
    """(mask, padding): as it is, merged throughout, and some between."""
    pieces = pieces_of(net, segments)
    forms = ("repad",) if segments == "spans" else merged_forms(pieces)
    found = [(pieces.forms.base, forms[0]), *((smallest_mask(pieces), form) for form in forms)]
    found += between_masks(pieces, 4, seed=3)
    if segments == "spans":
        spans = [at for kind, at in pieces.by_place if kind == "span"]
        known = SimpleNamespace(length=pieces.chain.length, spans=lambda mode: spans)
        for seed in range(6):
            found.append((random_span_mask(known, random.Random(f"{net.name}{seed}"), 7), "repad"))
    return list(dict.fromkeys(found))


def check_places(net, segments, mask, padding):
    pieces = pieces_of(net, segments)
    spec = shrunk_spec(net, mask, segments=segments, padding=padding)
    places = operator_places(net, mask, segments=segments, padding=padding)
    assert len(places) == len(spec.ops)
    assert set(places) == set(pieces.forms.places(mask, padding))
    found = {place: Counter() for place in places}
    for number, place in enumerate(places):
        found[place][made_by(spec, number)] += 1
    for place, operators in found.items():
        piece = pieces.by_place[place].spec
        linear = place[0] == "span" and mask[place[1][1] - 1] == "|"
        count = len(piece.ops) - linear  # the activation that the mask takes away
        assert operators == Counter(made_by(piece, number) for number in range(count))


@pytest.mark.parametrize("segments", ["blocks", "spans"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_operator_is_in_one_piece_and_every_plan_can_be_merged(kind, segments):
    net = made(kind)
    merge = merge_spans if segments == "spans" else merge_blocks
    for mask, padding in masks_of(net, segments):
        check_places(net, segments, mask, padding)
        field = "span_mask" if segments == "spans" else "keep_mask"
        bound = bind_to_network(Plan(model=kind, padding=padding, **{field: mask}), net)
        merged = merge(net, bound.mask, padding=padding)
        assert certify(merged).problem == ""
        assert merged.network.spec == shrunk_spec(net, mask, segments=segments, padding=padding)


NAMES = ["densenet121", "torchvision:squeezenet1_1", "regnety_002", "mobilenetv3_small_050"]


@pytest.mark.parametrize("name", [*NAMES, "ghostnet_050", "mobilenetv4_conv_small"])
def test_what_is_fixed_in_a_library_network_is_in_its_pieces_too(name, network):
    net = network(name, 64)
    for segments in ("blocks", "spans"):
        pieces = pieces_of(net, segments)
        check_places(net, segments, pieces.forms.base, "repad")
        check_places(net, segments, smallest_mask(pieces), "repad")


def opaque(piece):
    return any(op.kind == "opaque" for op in piece.spec.ops)


def digest(pieces):
    # What opaque operators are made of is the exporter's: their nodes change with its version.
    listed = [
        [p.name, list(p.layers), [op.kind for op in p.spec.ops] if opaque(p) else p.spec.digest]
        for p in pieces.pieces
    ]
    return sha256(json.dumps(listed).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", json.loads(STORED.read_text()))
def test_networks_of_residual_blocks_have_the_chains_that_tables_of_them_were_made_for(
    name, network
):
    stored, net = json.loads(STORED.read_text())[name], network(name, 64)
    chain = span_chain(net.chain)
    assert list(chain.convolutions) == stored["convolutions"]
    assert chain.mask == stored["activations"]
    assert [list(skip) for skip in net.chain.skips] == stored["skips"]
    breaks = net.chain.hard_breaks()
    assert {str(at): reason for at, reason in breaks.items()} == stored["breaks"]
    assert digest(span_pieces(net, mode="exact")) == stored["span_pieces"]
    if stored["blocks"]:
        assert [block.name for block in net.blocks] == stored["blocks"]
    if stored["block_pieces"]:
        assert digest(network_pieces(net, dense=False)) == stored["block_pieces"]


def test_a_block_of_parallel_branches_becomes_one_convolution():
    pieces = network_pieces(made("Reparameterised"), dense=False)
    assert pieces.unmergeable == {} and pieces.block_count == 4
    assert {("stem", None), ("head", None)}.isdisjoint(pieces.by_place)
    kinds = [[op.kind for op in pieces.piece("merged", block).spec.ops] for block in range(4)]
    # Merging takes no activation away, so it adds none to the third block, which is linear.
    assert kinds == [["conv", "activation"]] * 2 + [["conv"], ["conv", "activation"]]
    assert [pieces.piece("merged", b).spec.ops[0].kernel for b in range(4)] == [(3, 3)] * 4


def test_equal_branches_make_the_largest_convolution_the_position():
    net = made("ManyBranches")
    assert [conv.name for conv in net.chain.body] == ["large.0.0", "large.2.0"]
    assert net.chain.skips == ((0, 1), (1, 2))
    assert span_pieces(net).chain.skips == ()  # within the layers' own pieces
    assert network_pieces(net, dense=False).unmergeable == {}


def test_squeeze_excite_is_a_fixed_part_between_two_convolutions():
    net = made("Excited")
    pieces = span_pieces(net)
    assert pieces.chain.length == 9 and len(pieces.chain.skips) == 3
    gate = pieces.piece("between", (8, 8))
    assert gate.layers[0] == "gate.0" and gate.layers[-1] == "mul"
    assert net.chain.hard_breaks()[8] == "mul joins tensors by mul"
    assert ("span", (8, 9)) in pieces.by_place and ("span", (7, 9)) not in pieces.by_place


def test_sections_that_cannot_merge_are_blocks_of_their_own():
    blocks = made("Fires").blocks
    assert [block.convolutions for block in blocks] == [
        ("small", "large"),
        ("pooled.1", "straight.0.0", "straight.2.0"),
    ]
    assert all("concat does not merge" in b.unmergeable for b in blocks[:1])
    assert [conv.name for conv in made("Fires").chain.body] == ["stem", "squeeze", "classes"]


def test_two_blocks_in_one_module_are_named_by_their_ends_and_their_layers_have_free_paths():
    net = made("TwoRuns")
    assert [block.name for block in net.blocks] == ["body.0..body.2", "body.4..body.6"]
    names = [name for name, _ in merge_blocks(net, "00").module(net_dtype(net)).named_modules()]
    # Under one of these paths the network has a layer of its own.
    assert "body.0_to_2_merged_0" in names and "body.4_to_6.merged_0" in names
    spans = merge_spans(net, "010|").module(net_dtype(net))
    assert "body.span_0_2_merged_0" in [name for name, _ in spans.named_modules()]


def net_dtype(net):
    return next(net.module.parameters()).dtype


def test_additions_to_one_skip_share_a_piece():
    pieces = span_pieces(made("Mixer"))
    (place,) = [at for kind, at in pieces.by_place if kind == "addition"]
    assert [op.kind for op in pieces.piece("addition", place).spec.ops] == ["add", "conv", "add"]


def lowered(name, input_shape, ops):
    layers = tuple(f"{op.kind}{n}" for n, op in enumerate(ops))
    spec = OpSpec(input_shape=input_shape, ops=tuple(ops))
    return Network(
        name=name,
        module=None,
        lowered=LoweredNetwork(spec=spec, layers=layers, nodes=layers, modules=((),) * len(ops)),
    )


def test_without_blocks_the_advice_is_what_works():
    stack = lowered("stack", (3, 8, 8), [Conv(inputs=(0,), out_channels=4, kernel=(3, 3))])
    with pytest.raises(ShrinkError, match=r"stack: no building block .*1 convolution .*spans$"):
        network_pieces(stack, dense=False)
    assert span_pieces(stack).chain.length == 1


def test_without_a_convolution_on_the_trunk_the_advice_is_what_works():
    first, second = Conv(inputs=(0,), out_channels=4, kernel=(1, 1)), Concat(inputs=(0, 1))
    fork = lowered("fork", (3, 8, 8), [first, second])
    with pytest.raises(
        ShrinkError, match=r"none of its convolutions \(1\) .*concat.*1 block .*blocks$"
    ):
        span_pieces(fork)
    assert network_pieces(fork, dense=False).block_count == 1


def test_a_network_in_which_nothing_can_merge_is_told_so_both_ways():
    ops = [Flatten(inputs=(0,)), Linear(inputs=(1,), out_features=3)]
    net = lowered("plain", (3, 8, 8), [*ops, Activation(inputs=(2,), function="relu")])
    for cut in (span_pieces, network_pieces):
        with pytest.raises(DshrinkError, match=r"1 flatten, 1 linear.*`dshrink bench`"):
            cut(net)
