"""Plans tied to networks: names of real layers, and refusals that say why."""

from __future__ import annotations

import pytest
from synthetic_tables import synthetic_table
from torch import nn

from dshrink.pieces.plan_binding import bind_to_network
from dshrink.search.errors import PlanError
from dshrink.search.greedy import greedy
from dshrink.search.plan import load_plan, parse_plan, save_plan
from dshrink.search.published import published_masks


def test_a_bare_mask_gets_the_names_of_blocks_and_activations(network):
    net = network("mobilenetv2_100")
    plan = bind_to_network(parse_plan("mask:10" + "1" * 15), net)
    assert plan.model == "mobilenetv2_100"
    assert plan.keep_mask == "10" + "1" * 15
    assert plan.blocks[1].name == "blocks.1.0"
    assert plan.blocks[1].activations == ("blocks.1.0.bn1.act", "blocks.1.0.bn2.act")


@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0", "resnet50"])
def test_every_activation_of_a_plan_is_a_layer_of_the_network(name, network):
    net = network(name)
    count = {"mobilenetv2_100": 17, "tf_efficientnet_lite0": 16, "resnet50": 16}[name]
    plan = bind_to_network(parse_plan("mask:" + "0" * count), net)
    kinds = {type(net.module.get_submodule(layer)) for b in plan.blocks for layer in b.activations}
    assert kinds <= {nn.ReLU, nn.ReLU6} and kinds
    assert all(len(block.activations) in (1, 2) for block in plan.blocks)


@pytest.mark.parametrize("name", list(published_masks()))
def test_the_published_masks_fit_their_networks(name, network):
    mask = published_masks()[name]
    plan = bind_to_network(parse_plan(f"paper:{name}"), network(mask.base_model))
    assert plan.keep_mask == mask.keep_mask
    assert plan.source == f"paper:{name}"


def test_a_bound_plan_survives_its_file(network, tmp_path):
    net = network("mobilenetv2_100")
    plan = bind_to_network(parse_plan("mask:" + "01" * 8 + "1"), net)
    save_plan(plan, tmp_path / "plan.json")
    assert bind_to_network(load_plan(tmp_path / "plan.json"), net) == plan


def test_a_plan_of_another_network_is_refused(network):
    plan = bind_to_network(parse_plan("mask:" + "0" * 17), network("mobilenetv2_100"))
    with pytest.raises(PlanError, match="is for mobilenetv2_100, the network is mobilenetv2_140"):
        bind_to_network(plan, network("mobilenetv2_140"))


def test_a_mask_of_another_length_is_refused(network):
    with pytest.raises(PlanError, match="has 16 characters, mobilenetv2_100 has 17 blocks"):
        bind_to_network(parse_plan("mask:" + "0" * 16), network("mobilenetv2_100"))


def test_a_plan_that_shrinks_what_cannot_merge_is_refused(network):
    with pytest.raises(PlanError, match="squeeze-excite"):
        bind_to_network(parse_plan("mask:1110" + "1" * 11), network("mobilenetv3_large_100"))


def test_a_plan_is_merged_and_measured_with_the_padding_it_was_made_for():
    table = synthetic_table([4.0, 3.0, 2.0], [1.0, 1.0, 1.0])
    assert greedy(table, keep=1, padding="repad").padding == "repad"
    assert parse_plan("mask:0101").padding == "bias_map"
