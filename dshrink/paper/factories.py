"""The networks of DepthShrinker's tables that no library has by name: uniformly scaled ones.

Each is a MODEL, such as ``dshrink.paper.factories:resnet`` with ``--model-arg depth=18``. All
channels are scaled: the stem, every block, and the features before the classifier. So the
published MFLOPs of Tab. 2's Uniform-0.65 and Uniform-0.35 come out; timm, which leaves 1280
features where ``width`` is below 1, gives 3 and 8 % more.

Tab. 8 does not say how scaled channels are rounded. Multiples of 8, a network's usual, leave its
MobileNetV2 rows 7 % below to 19 % above equal multiply-accumulates; with ``divisor=1`` they are 3 %
below to 6 % above, and ResNet's at most 2.4 % above.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from dshrink.errors import NetworkError
from dshrink.network.references import ModelChoice
from dshrink.network.tracing import import_timm

MOBILENETV2_DEPTHS = "1,2,3,4,3,3,1"
#: Stages of MobileNetV2 without their depths, in timm's notation.
_MOBILENETV2_STAGES = (
    "ds_r{}_k3_s1_c16",
    "ir_r{}_k3_s2_e6_c24",
    "ir_r{}_k3_s2_e6_c32",
    "ir_r{}_k3_s2_e6_c64",
    "ir_r{}_k3_s1_e6_c96",
    "ir_r{}_k3_s2_e6_c160",
    "ir_r{}_k3_s1_e6_c320",
)
#: Blocks a stage of ResNet by depth; from 50 on they are bottlenecks.
_RESNET_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_RESNET_STEM, _RESNET_CHANNELS = 64, (64, 128, 256, 512)
_LEAST_BOTTLENECK = 50
_MODEL = f"{__name__}:"
#: Tab. 2's uniform baselines by the paper's names.
UNIFORM = {
    f"Uniform-{width}": ModelChoice(model=f"{_MODEL}mobilenetv2", model_args=(f"width={width}",))
    for width in (0.65, 0.35)
}


def table8_choice(depth: str, width: float, divisor: int = 1) -> ModelChoice:
    """The network of a row of Tab. 8: a ResNet of ``depth`` layers, a MobileNetV2 of 7 depths.

    Channels are multiples of ``divisor``: 1 keeps FLOPs closest to equal, 8 is what networks have.
    """
    factory, depths = ("mobilenetv2", "depths") if "," in depth else ("resnet", "depth")
    arguments = (f"{depths}={depth}", f"width={width}", f"divisor={divisor}")
    return ModelChoice(model=f"{_MODEL}{factory}", model_args=arguments)


def mobilenetv2(
    depths: str | Sequence[int] = MOBILENETV2_DEPTHS, width: float = 1.0, divisor: int = 8
) -> nn.Module:
    """MobileNetV2 with ``depths`` blocks in its 7 stages and all channels times ``width``.

    Scaled channels are rounded to multiples of ``divisor``, as timm rounds. Raises NetworkError.
    """
    counts = _depths(depths)
    _check(width, divisor)
    models = import_timm().models
    builder = models._efficientnet_builder
    scaled = partial(builder.round_channels, multiplier=width, divisor=divisor)
    stages = zip(_MOBILENETV2_STAGES, counts, strict=True)
    made: nn.Module = models.efficientnet.EfficientNet(
        block_args=builder.decode_arch_def([[stage.format(n)] for stage, n in stages]),
        num_features=scaled(1280),
        stem_size=32,
        round_chs_fn=scaled,
        act_layer=nn.ReLU6,
    )
    return made


def resnet(depth: int = 50, width: float = 1.0, divisor: int = 8) -> nn.Module:
    """timm's ResNet of this depth with all channels, the stem's too, times ``width``.

    Scaled channels are rounded to multiples of ``divisor``; a bottleneck ends in 4 times as many.
    Raises NetworkError.
    """
    if depth not in _RESNET_DEPTHS:
        known = ", ".join(map(str, _RESNET_DEPTHS))
        raise NetworkError(f"depth {depth!r}: ResNet has one of {known}; give depth=50")
    _check(width, divisor)
    models = import_timm().models
    timm_resnet = models.resnet
    scaled = partial(models._efficientnet_builder.round_channels, multiplier=width, divisor=divisor)
    block = timm_resnet.Bottleneck if depth >= _LEAST_BOTTLENECK else timm_resnet.BasicBlock
    stem, channels = scaled(_RESNET_STEM), tuple(map(scaled, _RESNET_CHANNELS))
    made = timm_resnet.ResNet(block, _RESNET_DEPTHS[depth], channels=channels)
    if stem != _RESNET_STEM:
        # timm's stem has 64 channels whatever is asked for; only the first stage meets it.
        made.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
        made.bn1 = nn.BatchNorm2d(stem)
        stages, _ = timm_resnet.make_blocks(
            (block,), channels[:1], _RESNET_DEPTHS[depth][:1], stem, norm_layer=nn.BatchNorm2d
        )
        made.layer1 = stages[0][1]
        made.init_weights()
    network: nn.Module = made
    return network


def _depths(depths: str | Sequence[int]) -> tuple[int, ...]:
    """The blocks of each stage, from a text or from numbers."""
    words = depths.split(",") if isinstance(depths, str) else depths
    try:
        counts = tuple(map(int, words))
    except (TypeError, ValueError):
        counts = ()
    if len(counts) != len(_MOBILENETV2_STAGES) or min(counts) < 1:
        raise NetworkError(
            f"depths {depths!r}: give the blocks of each of the {len(_MOBILENETV2_STAGES)} stages, "
            f"each 1 or more: depths={MOBILENETV2_DEPTHS}"
        )
    return counts


def _check(width: float, divisor: int) -> None:
    if not (isinstance(width, int | float) and width > 0):
        raise NetworkError(f"width {width!r}: is a factor of the channels: give width=0.65")
    if not (isinstance(divisor, int) and divisor >= 1):
        raise NetworkError(f"divisor {divisor!r}: channels are its multiples: give divisor=8")
