"""The scaled networks, against timm's own and against what the paper publishes of them."""

from __future__ import annotations

import pytest
from torch import nn

from dshrink.errors import NetworkError
from dshrink.network.models import Network, load
from dshrink.network.references import ModelChoice
from dshrink.network.tracing import import_timm
from dshrink.paper.factories import mobilenetv2, resnet, table8_choice

#: Tab. 8: depth and width scale.
RESNET_ROWS = (("18", 1.535), ("34", 1.07), ("50", 1.0), ("101", 0.73), ("152", 0.6))
MOBILENETV2_ROWS = (
    ("1,1,1,1,1,1,1", 1.45),
    ("1,2,2,2,1,1,1", 1.25),
    ("1,2,3,3,2,2,1", 1.11),
    ("1,2,3,4,3,3,1", 1.0),
    ("1,3,4,6,5,5,1", 0.85),
)
#: Multiply-accumulates of timm's resnet50 and mobilenetv2_100.
RESNET50, MOBILENETV2 = 4_089_184_256, 300_774_272


def scaled(factory: str, **arguments: object) -> Network:
    words = tuple(f"{key}={value}" for key, value in arguments.items())
    return load(ModelChoice(model=f"dshrink.paper.factories:{factory}", model_args=words))


def layers(module: nn.Module) -> dict[str, str]:
    """What each layer is, with its channels, kernel and stride."""
    return {name: str(one) for name, one in module.named_modules() if not any(one.children())}


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_an_unscaled_resnet_is_timms(depth: int) -> None:
    assert layers(resnet(depth)) == layers(import_timm().create_model(f"resnet{depth}"))


@pytest.mark.parametrize(("width", "name"), [(1.0, "mobilenetv2_100"), (1.4, "mobilenetv2_140")])
def test_mobilenetv2_of_the_usual_depths_is_timms(width: float, name: str) -> None:
    assert layers(mobilenetv2(width=width)) == layers(import_timm().create_model(name))


def test_timms_own_give_the_multiply_accumulates_that_others_are_compared_with() -> None:
    assert scaled("resnet").spec.macs == RESNET50
    assert scaled("mobilenetv2").spec.macs == MOBILENETV2


@pytest.mark.parametrize(("depth", "width"), RESNET_ROWS)
def test_the_resnets_of_table_8_have_equal_multiply_accumulates(depth: str, width: float) -> None:
    macs = load(table8_choice(depth, width)).spec.macs
    assert macs == pytest.approx(RESNET50, rel=0.025)


@pytest.mark.parametrize(("depths", "width"), MOBILENETV2_ROWS)
def test_the_mobilenets_of_table_8_have_nearly_equal_ones(depths: str, width: float) -> None:
    macs = load(table8_choice(depths, width)).spec.macs
    assert macs == pytest.approx(MOBILENETV2, rel=0.065)


@pytest.mark.parametrize(("depth", "width"), RESNET_ROWS)
def test_resnets_in_multiples_of_8_have_equal_ones_as_well(depth: str, width: float) -> None:
    macs = load(table8_choice(depth, width, 8)).spec.macs
    assert macs == pytest.approx(RESNET50, rel=0.04)


def test_the_whole_of_a_resnet_is_scaled() -> None:
    network = scaled("resnet", depth=101, width=0.5)
    assert network.spec.shapes[1][0] == 32
    ends = [network.spec.shapes[block.last + 1][0] for block in network.blocks]
    assert ends == [128] * 3 + [256] * 4 + [512] * 23 + [1024] * 3
    assert network.spec.macs == pytest.approx(7_801_405_440 / 4, rel=0.05)


def test_a_scaled_resnet_starts_from_hes_weights() -> None:
    scaled_up, usual = (deviations(resnet(18, width)) for width in (1.5, 1.0))
    # They go with the root of the channels.
    assert scaled_up == pytest.approx([one / 1.5**0.5 for one in usual], rel=0.05)


def deviations(module: nn.Module) -> list[float]:
    """Of the weights of all 3x3 and larger convolutions."""
    convs = [one for one in module.modules() if isinstance(one, nn.Conv2d)]
    return [float(one.weight.detach().std()) for one in convs if one.kernel_size != (1, 1)]


def test_the_features_before_the_classifier_are_scaled_too() -> None:
    classifier = mobilenetv2(width=0.35).get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    assert classifier.in_features == 448


def test_depths_come_as_a_text_or_as_numbers() -> None:
    assert layers(mobilenetv2("1,1,1,1,1,1,1")) == layers(mobilenetv2([1] * 7))


@pytest.mark.parametrize(
    ("factory", "argument", "message"),
    [
        ("resnet", "depth=20", r"depth 20: ResNet has one of 18, 34, 50, 101, 152"),
        ("resnet", "width=0", r"width 0: is a factor of the channels"),
        ("resnet", "divisor=0", r"divisor 0: channels are its multiples"),
        ("mobilenetv2", "depths=1,2", r"depths \(1, 2\): give the blocks of each of the 7 stages"),
        ("mobilenetv2", "depths=deep", r"depths 'deep': give the blocks"),
        ("mobilenetv2", "width=wide", r"width 'wide': is a factor"),
    ],
)
def test_what_makes_no_network_is_refused_in_one_line(
    factory: str, argument: str, message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        load(ModelChoice(model=f"dshrink.paper.factories:{factory}", model_args=(argument,)))
