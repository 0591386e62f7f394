"""The paper's experiments that a device can measure, as data: networks, forms, published figures.

Networks of a group are compared with its first, as in the paper's tables. What the paper lists but
does not define (AMC, MetaPruning) stays in the list, with the reason why it is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dshrink.errors import DshrinkError
from dshrink.network.references import ModelChoice, Size
from dshrink.paper.factories import UNIFORM, table8_choice
from dshrink.paper.published import (
    BLOCK_LATENCIES,
    DEVICE_TITLES,
    PublishedNetwork,
    Setting,
    block_latencies,
    cpu_latencies,
    dense_counterparts,
    depths_and_widths,
    of_table,
)
from dshrink.search.published import published_masks

#: The experiment about Kim et al. (ICML 2023), which is not one of throughputs: ``paper.kim``.
KIM = "kim"
#: The form of a shrunk network whose activations are removed and whose convolutions all stay.
UNMERGED = "unmerged"
#: The paper's second batch size on small devices (Tab. 8).
SMALL_BATCHES = (32, 1)
#: Of Tab. 7, by its MFLOPs (``paper.flops``); all others are at 224, EfficientNet-Lite3 too.
RESOLUTIONS = {"tf_efficientnet_lite1": 240, "tf_efficientnet_lite2": 260}


class PaperError(DshrinkError):
    """No such experiment, or none that can be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperNetwork:
    """A row of an experiment.

    ``form`` is what becomes of its blocks: "original", "merged" as ``mask`` says (a name of
    Tab. 9), UNMERGED, or "dense" (convolutions of equal FLOPs). With ``keeps_block_0`` the first
    block is not merged even if the mask says so. ``fps`` are published frames per second,
    ``mflops`` published millions of multiply-accumulates, ``top1_percent`` the published accuracy
    after the longest training. ``method`` names its series in a front. ``missing`` says why it
    cannot be rebuilt; ``choice`` is None then.
    """

    name: str
    group: str
    choice: ModelChoice | None
    form: str = "original"
    mask: str = ""
    keeps_block_0: bool = False
    method: str = ""
    fps: Mapping[Setting, float] = field(default_factory=dict)
    mflops: float | None = None
    top1_percent: float | None = None
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A table or figure of throughputs.

    ``batches`` are measured on devices that nothing is published for (None: the device's own).
    ``remarks`` are sentences for who reads the rows.
    """

    name: str
    title: str
    networks: tuple[PaperNetwork, ...]
    batches: tuple[int | None, ...] = (None,)
    is_front: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Of published figures, in their order."""
        return tuple(dict.fromkeys(setting for one in self.networks for setting in one.fps))

    @property
    def count(self) -> int:
        """Of networks."""
        return len(self.networks)

    def batches_on(self, device: str) -> tuple[int | None, ...]:
        """What is measured on ``device``: the batches published for it, else ``batches``."""
        return tuple(one.batch for one in self.settings if one.device == device) or self.batches


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockExperiment:
    """A figure of a network's blocks, from its latency table.

    ``kind`` is what replaces a block: "merged" or "dense" for latencies, "memory" for weights and
    activations before and after merging. ``most_percent`` is the largest saving of a block's
    latency that the paper states, on an RTX 2080 Ti.
    """

    name: str
    title: str
    models: tuple[str, ...]
    kind: str
    most_percent: float | None = None

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Of published figures that are not drawn alone."""
        is_published = self.kind == "merged" and any(map(block_latencies, self.models))
        return (BLOCK_LATENCIES,) if is_published else ()

    @property
    def count(self) -> int:
        """Of networks."""
        return len(self.models)


def _model(name: str) -> ModelChoice:
    side = RESOLUTIONS.get(name)
    return ModelChoice(model=name, resolution=Size(side, side) if side else None)


def _table1() -> Experiment:
    networks = []
    for one in dense_counterparts():
        original = PaperNetwork(
            name=one.model,
            group=one.model,
            choice=_model(one.model),
            mflops=one.mflops,
            fps=one.original_fps,
        )
        dense = replace(original, name=f"{one.model} dense", form="dense", fps=one.dense_fps)
        networks += [original, dense]
    return Experiment(
        name="table1",
        title="networks and their dense counterparts of the same FLOPs",
        networks=tuple(networks),
    )


def _shrunk(one: PublishedNetwork, group: str) -> PaperNetwork:
    """A row of Tab. 2, 3, 5 or 7."""
    masks = published_masks()
    choice, missing, form, mask = None, "", "original", ""
    if one.name in masks:
        choice, form, mask = _model(masks[one.name].base_model), "merged", one.name
    elif one.base_model:
        choice = _model(one.base_model)
    elif one.name in UNIFORM:
        choice = UNIFORM[one.name]
    else:
        missing = f"the paper does not define the network of {one.name.partition('-')[0]}"
    return PaperNetwork(
        name=one.name,
        group=group,
        choice=choice,
        form=form,
        mask=mask,
        method="DepthShrinker" if mask else "original" if one.base_model else "width",
        fps=one.fps,
        mflops=one.mflops,
        top1_percent=one.best_top1_percent,
        missing=missing,
    )


#: By the published MFLOPs the paper's networks are these (``paper.flops``): the authors' code only
#: removes the activation of block 0, it does not merge it.
BLOCK_0_KEPT = ", block 0 kept"


def _with_block_0_kept(networks: Iterable[PaperNetwork]) -> Iterator[PaperNetwork]:
    """Behind each network whose mask merges block 0, the same without that."""
    for one in networks:
        yield one
        if one.mask and published_masks()[one.mask].keep_mask.startswith("0"):
            yield replace(one, name=f"{one.name}{BLOCK_0_KEPT}", keeps_block_0=True)


def _table(name: str, title: str, group: str) -> Experiment:
    published = _with_block_0_kept(_shrunk(one, group) for one in of_table(name))
    return Experiment(name=name, title=title, networks=tuple(published))


def _table7() -> Experiment:
    group = "EfficientNet-Lite"
    base = PaperNetwork(name="EffLite3", group=group, choice=_model("tf_efficientnet_lite3"))
    found = _table("table7", "EfficientNet-Lite3 shrunk, and smaller ones of its family", group)
    # The paper compares with EfficientNet-Lite1, its first row; what was shrunk is not among them.
    return Experiment(name=found.name, title=found.title, networks=(*found.networks, base))


def _table5() -> Experiment:
    titles = {"mobilenetv2_100": "MobileNetV2", "mobilenetv2_140": "MobileNetV2-1.4"}
    return Experiment(
        name="table5",
        title="latency on CPUs, one image at a time",
        networks=tuple(
            _with_block_0_kept(_shrunk(one, titles[one.base_model]) for one in cpu_latencies())
        ),
        batches=(1,),
    )


#: What channels of Tab. 8 are multiples of. The paper does not say how it rounds: exactly scaled,
#: MobileNetV2s have the same FLOPs within 6 %, and odd numbers of channels; in multiples of 8,
#: FLOPs differ by up to 19 %. ResNets differ by 4 % at most either way.
_ROUNDINGS = {"resnet": (8,), "mobilenetv2": (1, 8)}


def _table8() -> Experiment:
    networks = []
    for one in depths_and_widths():
        group, depth = {
            "resnet": ("ResNet", f"ResNet-{one.depth}"),
            "mobilenetv2": ("MobileNetV2", f"MBV2 [{one.depth.replace(',', '')}]"),
        }[one.family]
        for divisor in _ROUNDINGS[one.family]:
            # At width 1 there is nothing to round.
            if divisor == 1 or one.family == "resnet" or one.width != 1.0:
                rounded = ", rounded" if divisor > 1 and one.family != "resnet" else ""
                networks.append(
                    PaperNetwork(
                        name=f"{depth} x{one.width:g}{rounded}",
                        group=group,
                        choice=table8_choice(one.depth, one.width, divisor),
                        fps=one.fps,
                    )
                )
    # The unscaled network is what the others are compared with.
    networks.sort(key=lambda one: (one.group != "ResNet", not one.name.endswith("x1")))
    return Experiment(
        name="table8",
        title="depth against width at equal FLOPs",
        networks=tuple(networks),
        batches=SMALL_BATCHES,
        remarks=(
            "Rounded: channels in multiples of 8, as implementations have them; the others have "
            "exactly scaled channels, odd numbers among them, which kernels are slow for. ResNets "
            "are rounded. The paper does not say which it measured.",
        ),
    )


#: Top-1 accuracy (percent) of MobileNetV3: Howard et al., ICCV 2019, Tab. 3 and Fig. 1.
_MOBILENETV3 = {
    "mobilenetv3_large_100": 75.2,
    "mobilenetv3_large_075": 73.3,
    "mobilenetv3_small_100": 67.4,
    "mobilenetv3_small_075": 65.4,
}


def _fig6() -> Experiment:
    group = "all"
    shrunk = [
        _shrunk(one, group)
        for one in (*of_table("table2"), *of_table("table3"))
        if one.name in published_masks() or one.base_model
    ]
    rivals = [
        PaperNetwork(
            name=name, group=group, choice=_model(name), method="MobileNetV3", top1_percent=top1
        )
        for name, top1 in _MOBILENETV3.items()
    ]
    # Of these the paper has the masks, and accuracies in the drawing alone.
    lites = [
        PaperNetwork(
            name=name,
            group=group,
            choice=_model(mask.base_model),
            form="merged",
            mask=name,
            method="DepthShrinker",
        )
        for name, mask in published_masks().items()
        if mask.base_model == "tf_efficientnet_lite0"
    ]
    return Experiment(
        name="fig6",
        title="accuracy against throughput, beside MobileNetV3",
        networks=tuple(_with_block_0_kept((*shrunk, *rivals, *lites))),
        is_front=True,
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "table1": _table1,
    "table2": lambda: _table("table2", "MobileNetV2-1.4 shrunk", "MobileNetV2-1.4"),
    "table3": lambda: _table("table3", "MobileNetV2 shrunk", "MobileNetV2"),
    "table5": _table5,
    "table7": _table7,
    "table8": _table8,
    "fig6": _fig6,
}
BLOCK_EXPERIMENTS = {
    one.name: one
    for one in (
        BlockExperiment(
            name="fig1",
            title="latency of each block and of its dense counterpart of the same FLOPs",
            models=("mobilenetv2_100", "mobilenetv2_140"),
            kind="dense",
            most_percent=88.2,
        ),
        BlockExperiment(
            name="fig4",
            title="latency of each block before and after merging, and what the networks keep",
            models=("mobilenetv2_140",),
            kind="merged",
            most_percent=96.1,
        ),
        BlockExperiment(
            name="fig5",
            title="weights and peak activation memory of each block at 16 bit",
            models=("mobilenetv2_140",),
            kind="memory",
        ),
    )
}


def names() -> tuple[str, ...]:
    """Of all experiments, tables before figures."""
    return tuple(sorted([*EXPERIMENTS, *BLOCK_EXPERIMENTS, KIM], key=_order))


def _order(name: str) -> tuple[int, str]:
    return next(at for at, kind in enumerate(("table", "fig", "")) if name.startswith(kind)), name


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A line of the list of experiments; ``published`` names devices."""

    name: str
    title: str
    networks: int
    published: str


def listed() -> tuple[Listed, ...]:
    found = []
    for name in names():
        if name == KIM:
            what = "Kim et al.: published plans and tables; masks against the dynamic program"
            found.append(Listed(name=KIM, title=what, networks=2, published="RTX 2080 Ti"))
            continue
        one = experiment(name)
        devices = dict.fromkeys(DEVICE_TITLES[setting.device] for setting in one.settings)
        found.append(
            Listed(name=name, title=one.title, networks=one.count, published=", ".join(devices))
        )
    return tuple(found)


def experiment(name: str) -> Experiment | BlockExperiment:
    """Raises PaperError with what there is."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]()
    if name in BLOCK_EXPERIMENTS:
        return BLOCK_EXPERIMENTS[name]
    raise PaperError(f"no experiment {name!r} of the paper; known: {', '.join(names())}")
