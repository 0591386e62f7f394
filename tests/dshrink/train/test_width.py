"""Scaled networks against those that timm itself makes at other widths."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dshrink.errors import NetworkError
from dshrink.network.layers import ConstantMap
from dshrink.network.lowering import lower
from dshrink.network.models import Network, load_network
from dshrink.network.tracing import import_timm, trace
from dshrink.train.width import scaled_network, scaled_spec


@pytest.fixture(scope="module")
def mobile():
    return load_network("mobilenetv2_100", resolution=32, classes=10)


def shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def network_of(module, name="made", resolution=16):
    import_timm()
    traced = trace(module, (3, resolution, resolution))
    return Network(name=name, module=traced, lowered=lower(traced))


@pytest.mark.parametrize(("width", "digits"), [(0.35, "035"), (0.75, "075")])
def test_a_narrower_mobilenetv2_has_the_shapes_of_timms_up_to_its_head(mobile, width, digits):
    """timm never narrows the head: ``max(1280, ...)``. Here it is a count like all others."""
    found = shapes(scaled_network(mobile, width).module)
    expected = shapes(import_timm().create_model(f"mobilenetv2_{digits}", num_classes=10))
    different = {name for name in expected if found.get(name) != expected[name]}
    assert found.keys() == expected.keys()
    assert different == {
        "conv_head.weight",
        "classifier.weight",
        *(f"bn2.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    }
    assert found["classifier.weight"] == (10, 1280 * width)


def test_a_wider_mobilenetv2_has_the_shapes_of_timms(mobile):
    expected = import_timm().create_model("mobilenetv2_140", num_classes=10)
    assert shapes(scaled_network(mobile, 1.4).module) == shapes(expected)


def test_a_scaled_resnet_has_the_shapes_of_one_that_timm_makes_of_scaled_channels():
    expected = import_timm().create_model("resnet18d", channels=(48, 96, 192, 384), stem_width=24)
    network = load_network("resnet18d", resolution=32)
    assert shapes(scaled_network(network, 0.75).module) == shapes(expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_width_of_one_gives_the_shapes_of_the_network_itself(name):
    network = load_network(name, resolution=32)
    assert scaled_spec(network, 1).digest == network.spec.digest
    assert shapes(scaled_network(network, 1).module) == shapes(network.module)


def test_grouped_convolutions_keep_the_size_of_their_groups():
    module = nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1),
        nn.Conv2d(48, 96, 3, padding=1, groups=2),
        nn.Conv2d(96, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    found = scaled_network(network_of(module), 1.6).module
    # 76.8 rounded to groups of 24; twice as many out of each, as before.
    assert found.get_submodule("1").groups == 3
    assert shapes(found)["1.weight"] == (144, 24, 3, 3)
    assert shapes(found)["2.weight"] == (10, 144, 1, 1)


class Branches(nn.Module):
    """A concatenation, a skip over it, a flattened map, a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding=1, stride=8)
        self.right = nn.Conv2d(3, 12, 3, padding=1, stride=8)
        self.depthwise = nn.Conv2d(28, 28, 3, padding=1, groups=28)
        self.norm = nn.BatchNorm2d(28)
        self.hidden = nn.Linear(28 * 4, 24)
        self.classes = nn.Linear(24, 10, bias=False)

    def forward(self, x):
        both = torch.cat([F.max_pool2d(self.left(x), 1), self.right(x)], 1)
        both = both + self.norm(self.depthwise(both))
        return self.classes(torch.relu(self.hidden(torch.flatten(both, 1))))


def test_counts_follow_through_concatenation_skips_flattening_and_linear_layers():
    """16 becomes 20.8, to a multiple of 8; 12 becomes 15.6, to one of 4; 24 becomes 31.2."""
    network = network_of(Branches())
    found = scaled_network(network, 1.3)
    assert {name: shape for name, shape in shapes(found.module).items() if "weight" in name} == {
        "left.weight": (24, 3, 3, 3),
        "right.weight": (16, 3, 3, 3),
        "depthwise.weight": (40, 1, 3, 3),
        "norm.weight": (40,),
        "hidden.weight": (32, 160),
        "classes.weight": (10, 32),
    }
    assert found.module(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert found.spec.digest == scaled_spec(network, 1.3).digest
    assert not found.module.get_parameter("left.bias").any()


class Circle(nn.Module):
    """Two grouped convolutions, each of which would have its count from the other's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3)
        self.down = nn.Conv2d(24, 12, 1, groups=3)
        self.up = nn.Conv2d(12, 24, 1, groups=3)
        self.last = nn.Conv2d(24, 10, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.up(self.down(x))).mean((2, 3))


def test_counts_that_follow_from_each_other_are_settled():
    found = shapes(scaled_network(network_of(Circle()), 2).module)
    assert found["down.weight"] == (24, 8, 1, 1)
    assert found["up.weight"] == (48, 4, 1, 1)


def test_the_middle_of_an_inverted_bottleneck_on_the_image_scales_though_the_image_does_not():
    module = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 8, 1),
        nn.Conv2d(8, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    assert shapes(scaled_network(network_of(module), 2).module)["2.weight"] == (32, 1, 3, 3)


@pytest.mark.parametrize(("result", "middle"), [(24, 56), (88, 48)])
def test_only_a_middle_wider_than_both_ends_keeps_its_ratio_to_the_input(result, middle):
    """24 becomes 16, not 12; 88 / 24 of that are 58.7, and half of 88 are 44."""
    module = nn.Sequential(
        nn.Conv2d(3, 24, 3),
        nn.ReLU(),
        nn.Conv2d(24, 88, 1),
        nn.ReLU(),
        nn.Conv2d(88, 88, 3, groups=88),
        nn.Conv2d(88, result, 1),
        nn.ReLU(),
        nn.Conv2d(result, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    found = shapes(scaled_network(network_of(module), 0.5).module)
    assert found["2.weight"] == (middle, 16, 1, 1)


def test_squeeze_excite_scales_with_what_it_multiplies():
    network = load_network("mobilenetv3_small_100", resolution=32)
    found = shapes(scaled_network(network, 0.75).module)
    expected = shapes(import_timm().create_model("mobilenetv3_small_075"))
    names = [name for name in expected if "se.conv_expand" in name and "weight" in name]
    assert len(names) == 9
    assert {name: found[name][0] for name in names} == {name: expected[name][0] for name in names}


def test_the_lowered_structure_is_the_one_predicted_and_counts_what_runs(mobile):
    found = scaled_network(mobile, 0.6)
    assert found.spec.digest == scaled_spec(mobile, 0.6).digest
    macs = []

    def count(layer, inputs, output):
        per_output = layer.weight[0].numel()
        macs.append(per_output * output.numel())

    for layer in found.module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        found.module(torch.zeros(1, 3, 32, 32))
    assert found.spec.macs == sum(macs)


def test_weights_are_drawn_anew_by_the_seed_and_the_original_stays(mobile):
    before = {name: value.clone() for name, value in mobile.module.state_dict().items()}
    state = torch.random.get_rng_state()
    one, again, other = (scaled_network(mobile, 1, seed).module.state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    drawn = [name for name in one if one[name].ndim > 1]
    assert not [name for name in drawn if torch.equal(one[name], other[name])]
    assert not [name for name in drawn if torch.equal(one[name], before[name])]
    after = mobile.module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_convolutions_start_with_the_variance_of_their_fan_out_and_norms_at_one(mobile):
    module = scaled_network(mobile, 0.8).module
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            fan_out = layer.weight.numel() / layer.weight.shape[1] / layer.groups
            assert float(layer.weight.detach().std()) == pytest.approx(
                math.sqrt(2 / fan_out), rel=0.1
            )
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight)
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
            assert (layer.running_var == 1).all() and (layer.running_mean == 0).all()
    linear = module.get_submodule("classifier")
    assert float(linear.weight.detach().abs().max()) <= linear.in_features**-0.5


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf])
def test_a_width_that_is_no_factor_is_refused(mobile, width):
    with pytest.raises(NetworkError, match="a width is a number above 0"):
        scaled_network(mobile, width)


def test_weights_that_no_rule_scales_are_named():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(NetworkError, match=r"made cannot have 0.5 times .* weights of 1 "):
        scaled_network(network_of(module), 0.5)


def test_the_border_of_a_merge_is_refused():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), ConstantMap(torch.zeros(8, 14, 14)), nn.AdaptiveAvgPool2d(1)
    )
    with pytest.raises(NetworkError, match=r"weights of 1 \(border of a merge\) do not scale"):
        scaled_network(network_of(module), 2)


def test_groups_that_do_not_divide_the_classes_are_refused():
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 10, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(NetworkError, match=r"1: 24 channels in and 10 out .* groups of 8"):
        scaled_network(network_of(module), 1.5)


class WrittenOut(nn.Module):
    """Its forward pass knows that there are eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.first(x).view(-1, 8, 16, 16)
        return self.second(x).mean((2, 3))


def test_a_count_written_out_in_the_forward_pass_is_refused_in_one_line(capfd):
    with pytest.raises(NetworkError, match="its forward pass fails") as refused:
        scaled_network(network_of(WrittenOut()), 3)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""
