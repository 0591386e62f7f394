"""The paper's rules (App. D) on the networks that it names, layer by layer."""

from __future__ import annotations

import re

import pytest
from expandable import make_network, plain, tiny_vgg
from torch import nn

from dshrink.network.models import load_network
from dshrink.train.expansion import expand
from dshrink.train.expansion_rules import ExpansionError, choose


@pytest.mark.parametrize(
    ("layout", "layers"),
    [("A", "6 8 11 13 16"), ("B", "5 7 10 12 15 17 20")],
    ids=["VGG-11", "VGG-13"],
)
def test_of_a_vgg_every_3x3_but_the_first_two_and_the_last(layout, layers):
    choice = choose(tiny_vgg(layout))
    assert (choice.rule, choice.layers, choice.left_out) == ("vgg", tuple(layers.split()), {})


def test_of_a_mobilenet_the_first_pointwise_of_every_other_block_that_has_one():
    choice = choose(load_network("mobilenetv2_035", resolution=32))
    blocks = ["1.0", "2.0", "2.2", "3.1", "3.3", "4.1", "5.0", "5.2"]
    assert choice.rule == "inverted_residual"
    assert choice.layers == tuple(f"blocks.{block}.conv_pw" for block in blocks)
    assert choice.left_out == {}


def test_the_rule_for_vgg_serves_any_network_with_dense_3x3_convolutions():
    network = load_network("test_resnet", resolution=32)
    choice = choose(network)
    kernels = {network.module.get_submodule(name).kernel_size for name in choice.layers}
    assert choice.rule == "vgg"
    assert kernels == {(3, 3)}


def test_a_rule_leaves_alone_what_cannot_be_expanded_and_says_so():
    layers = [nn.Conv2d(4, 4, 3, padding=1, bias=number != 3) for number in range(6)]
    choice = choose(make_network(nn.Sequential(*layers), (4, 8, 8)))
    assert choice.layers == ("2", "4")
    assert list(choice.left_out) == ["3"]
    assert choice.left_out["3"].startswith("it has no bias, and no batch norm")


def test_depthwise_convolutions_are_none_of_the_3x3_that_are_counted():
    groups = (1, 1, 4, 1, 4, 1)
    layers = [nn.Conv2d(4, 4, 3, padding=1, groups=number) for number in groups]
    choice = choose(make_network(nn.Sequential(*layers), (4, 8, 8)), "vgg")
    assert (choice.layers, choice.left_out) == (("3",), {})


class Residual(nn.Sequential):
    """One building block: its layers, and a skip over all of them."""

    def forward(self, x):
        return super().forward(x) + x


def test_a_block_has_one_first_pointwise_which_is_dense_and_before_a_depthwise():
    def depthwise():
        return nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def pointwise(groups=1):
        return nn.Conv2d(4, 4, 1, groups=groups)

    blocks = [
        Residual(pointwise(), depthwise(), pointwise(), depthwise(), pointwise()),
        Residual(nn.Conv2d(4, 4, 3, padding=1), depthwise(), pointwise()),
        Residual(pointwise(groups=2), depthwise(), pointwise()),
        Residual(pointwise(), depthwise(), pointwise()),
        Residual(pointwise(), depthwise(), pointwise()),
    ]
    choice = choose(make_network(nn.Sequential(*blocks), (4, 8, 8)), "inverted_residual")
    assert choice.layers == ("0.0", "4.0")


def test_layers_by_name_are_those_and_once_each():
    choice = choose(tiny_vgg("A"), layers=["8", "0", "8"])
    assert (choice.rule, choice.layers) == ("layers", ("8", "0"))


class Twice(nn.Module):
    """One convolution used twice, and one whose result its norm does not read alone."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.shared = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.shared(self.twice(self.twice(x)))
        return x + self.norm(x)


REFUSED = {
    "groups": (plain(nn.Conv2d(4, 4, 3, groups=2)), "1", "it has 2 groups"),
    "depthwise": (plain(nn.Conv2d(4, 4, 3, groups=4)), "1", "it has 4 groups"),
    "no bias": (
        plain(nn.Conv2d(4, 4, 3, bias=False)),
        "1",
        "no bias, and no batch norm of its own",
    ),
    "a shared result": (Twice(), "shared", "no bias, and no batch norm of its own"),
    "used twice": (Twice(), "twice", "it is used several times"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_named_layer_that_cannot_be_expanded_is_refused(case):
    module, layer, reason = REFUSED[case]
    network = make_network(module, (3, 8, 8))
    line = f"^{layer} of by_hand cannot be expanded: .*{re.escape(reason)}"
    with pytest.raises(ExpansionError, match=line):
        choose(network, layers=[layer])
    with pytest.raises(ExpansionError, match=line):
        expand(network, [layer])


def test_an_unknown_layer_gets_the_nearest_names():
    with pytest.raises(ExpansionError, match=r"no convolution '66'; it has 6, .*dshrink chain"):
        choose(tiny_vgg("A"), layers=["66"])
    with pytest.raises(ExpansionError, match=r"no convolution '7'"):
        choose(tiny_vgg("A"), layers=["7"])  # an activation
    with pytest.raises(ExpansionError, match=r"no convolution 'conv'; it has 0, 3, 6, \.\.\. "):
        choose(tiny_vgg("A"), layers=["conv"])


def test_a_rule_that_finds_nothing_says_what_it_wants():
    with pytest.raises(ExpansionError, match="inverted_residual: it has not an inverted residual"):
        choose(tiny_vgg("A"), "inverted_residual")
    with pytest.raises(ExpansionError, match=r"rule vgg: it has not a dense 3x3 .*--layer NAME"):
        choose(make_network(plain(nn.Conv2d(4, 4, 3)), (3, 8, 8)))


def test_a_rule_all_of_whose_layers_cannot_be_expanded_says_why():
    layers = [nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(4)]
    with pytest.raises(
        ExpansionError, match="nothing to expand by the rule vgg: 2: it has no bias"
    ):
        choose(make_network(nn.Sequential(*layers), (3, 8, 8)))


def test_an_unknown_rule_and_a_rule_beside_names_are_refused():
    with pytest.raises(ExpansionError, match="unknown rule 'resnet'; known: auto, vgg"):
        choose(tiny_vgg("A"), "resnet")
    with pytest.raises(ExpansionError, match="either --layer or --rule vgg"):
        choose(tiny_vgg("A"), "vgg", ["6"])
