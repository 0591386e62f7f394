"""Each operator of a shrunk network belongs to the piece that holds it."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from span_oracle import random_span_mask

from dshrink.pieces.block_pieces import network_pieces
from dshrink.pieces.operator_places import operator_places
from dshrink.pieces.span_pieces import span_pieces
from dshrink.pieces.specs import shrunk_spec
from latency_tables.opspec import Activation, Add, BiasMap, Conv
from profiler.planning.hold_out import between_masks, merged_forms, smallest_mask

BLOCKS = ["mobilenetv2_100", "torchvision:resnet18", "resnet50", "tf_efficientnet_lite0"]
SPANS = [*BLOCKS, "vgg19_bn", "repvgg_a0"]


def networks_of(pieces):
    """(mask, padding): the original network, the one merged throughout, and some between."""
    forms = merged_forms(pieces) if pieces.chain is None else ("repad",)
    ends = [(mask, form) for mask in (pieces.forms.base, smallest_mask(pieces)) for form in forms]
    return [*ends, *between_masks(pieces, 6, seed=2)]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_network_of_blocks_is_its_pieces_operators_one_piece_after_the_other(name, network):
    net = network(name)
    pieces = network_pieces(net, dense=False)
    for mask, padding in networks_of(pieces):
        order = pieces.forms.places(mask, padding)
        joined = [place for place in order for _ in pieces.by_place[place].spec.ops]
        assert list(operator_places(net, mask, padding=padding)) == joined


def made_by(spec, number):
    """What an operator is, wherever it stands."""
    op = spec.ops[number]
    return op.kind, tuple(spec.shapes[tensor] for tensor in op.inputs), spec.shapes[number + 1]


def random_masks(pieces, seed):
    """Masks of any valid spans, with and without activations, also where no sensible one is."""
    spans = [at for kind, at in pieces.by_place if kind == "span"]
    known = SimpleNamespace(length=pieces.chain.length, spans=lambda mode: spans)
    return [random_span_mask(known, random.Random(f"{seed} {n}"), 7) for n in range(4)]


@pytest.mark.parametrize("name", SPANS)
def test_a_network_of_spans_has_in_each_place_the_operators_of_the_piece(name, network):
    net = network(name)
    pieces = span_pieces(net)
    masks = [*(mask for mask, _ in networks_of(pieces)), *random_masks(pieces, name)]
    for mask in masks:
        spec = shrunk_spec(net, mask, segments="spans")
        places = operator_places(net, mask, segments="spans")
        assert len(places) == len(spec.ops)
        assert set(places) == set(pieces.forms.places(mask, "repad"))
        found = {place: Counter() for place in places}
        for number, place in enumerate(places):
            found[place][made_by(spec, number)] += 1
        for place, operators in found.items():
            piece = pieces.by_place[place].spec
            count = len(piece.ops)
            if place[0] == "span" and mask[place[1][1] - 1] == "|":
                count -= 1  # the activation that the mask takes away
            assert operators == Counter(made_by(piece, number) for number in range(count))


def test_an_activation_behind_an_addition_belongs_to_the_span_that_it_ends(network):
    net = network("mobilenetv2_100")
    mask = "1" * 50
    spec = shrunk_spec(net, mask, segments="spans")
    places = operator_places(net, mask, segments="spans")
    at = places.index(("addition", (5, 8)))
    assert [type(op) for op in spec.ops[at - 1 : at + 2]] == [Conv, Add, Activation]
    assert places[at - 1] == places[at + 1] == ("span", (7, 8))


def test_a_shortcut_with_layers_of_its_own_belongs_to_the_addition(network):
    net = network("resnet50")
    spec, chain = net.spec, net.chain
    places = operator_places(net, span_pieces(net).chain.mask, segments="spans")
    first = [spec.ops[n] for n, place in enumerate(places) if place == ("addition", (0, 3))]
    assert [type(op) for op in first] == [Conv, Add]
    second = [spec.ops[n] for n, place in enumerate(places) if place == ("addition", (3, 6))]
    assert [type(op) for op in second] == [Add]
    assert chain.skips[0] == (0, 3)


def test_the_form_of_a_merged_block_is_that_of_the_padding(network):
    net = network("mobilenetv2_100")
    mask = "00" + "1" * 15
    places = operator_places(net, mask, padding="bias_map")
    spec = shrunk_spec(net, mask, padding="bias_map")
    assert ("merged", 0) in places  # the first block pads nowhere inside
    assert [type(op) for op, place in zip(spec.ops, places, strict=True) if place[1] == 1] == [
        Conv,
        BiasMap,
        Activation,
    ]
    assert {place[0] for place in places if place[1] == 1} == {"merged_bias_map"}
    assert ("merged", 1) in operator_places(net, mask, padding="interior")
