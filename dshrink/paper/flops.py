"""FLOPs that the paper publishes of its networks beside ours, and what makes the difference.

Ours are the multiply-accumulates of convolutions and matrix products of the network as it is
merged. How the paper counts is said nowhere and inferred from its figures. They agree with what
fvcore counts of a network in training mode:

- Each batch norm counts 5 operations an element (fvcore's "rough estimate"); a merged convolution
  has none. In timm's networks a norm follows every convolution.
- Block 0 is as it was: in the authors' code a mask that removes its activation does not merge it.
- EfficientNet-Lite3 is at 224x224; Lite1 and Lite2 are at their own 240x240 and 260x260.
- The uniform baselines have every channel scaled, the 1280 features too, in multiples of 8.

So counted, each figure is met to its last digit (most are cut off there, Lite1's and that of
Uniform-0.35 rounded). Tab. 8 gives no figures; what the rows of MetaPruning and AMC are is not
published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from dshrink.network.models import Network, load
from dshrink.network.references import ModelChoice
from dshrink.paper.experiments import EXPERIMENTS, PaperNetwork
from dshrink.pieces.specs import shrunk_spec
from dshrink.search.published import published_masks
from latency_tables.opspec import Conv

#: How the two counts differ, for readers of a report.
FLOPS_COUNTED = (
    "MFLOPs: ours are multiply-accumulates of the network as it is merged. The published figures "
    "add 5 operations an element of every batch norm and leave block 0 unmerged "
    "(EfficientNet-Lite3 is at 224x224): counted that way, ours meet every one of them to its last "
    "digit."
)
_TABLES = ("table1", "table2", "table3", "table7")
_OPERATIONS_OF_NORM = 5
#: Two decimals of GFLOPs, to which the networks of Tab. 1 are published in every table.
_COARSE_DIGIT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopsRow:
    """One network: ``macs`` as it is merged, and the paper's figure.

    ``norm_operations`` are what the paper counts for batch norms, ``first_block`` the
    multiply-accumulates that merging block 0 adds, 0 where it is not merged. ``published_digit``
    is what one unit in the figure's last place is worth, in millions.
    """

    table: str
    name: str
    base_model: str
    resolution: tuple[int, int]
    macs: int
    norm_operations: int
    first_block: int
    published_mflops: float
    published_digit: float

    @property
    def difference_percent(self) -> float:
        """Of ours from the published figure."""
        return 100 * (self.macs / 1e6 / self.published_mflops - 1)

    @property
    def recounted_mflops(self) -> float:
        """Counted as the paper counts."""
        return (self.macs - self.first_block + self.norm_operations) / 1e6

    @property
    def recounted_difference_percent(self) -> float:
        return 100 * (self.recounted_mflops / self.published_mflops - 1)

    @property
    def explanation(self) -> str:
        """What the paper counts otherwise, in millions."""
        said = [f"the paper counts {self.norm_operations / 1e6:.1f} M more for batch norms"]
        if self.first_block:
            said.append(f"{self.first_block / 1e6:.1f} M fewer, with block 0 unmerged")
        if self.base_model == "tf_efficientnet_lite3":
            said.append("at 224x224, where the network was made for 280x280")
        return "; ".join(said)


@cache
def published_flops() -> tuple[FlopsRow, ...]:
    """The networks of Tab. 1, 2, 3 and 7 that can be rebuilt, in the paper's order."""
    return tuple(_rows())


def _rows() -> Iterator[FlopsRow]:
    networks: dict[ModelChoice, Network] = {}
    coarse = {one.name for one in EXPERIMENTS["table1"]().networks}
    for table in _TABLES:
        for one in EXPERIMENTS[table]().networks:
            if one.choice is None or one.keeps_block_0 or one.mflops is None or one.form == "dense":
                continue
            if one.choice not in networks:
                networks[one.choice] = load(one.choice)
            is_coarse = one.form == "original" and one.choice.model in coarse
            digit = _COARSE_DIGIT if is_coarse else 1.0
            yield _row(table, one, networks[one.choice], one.mflops, digit)


def _row(table: str, one: PaperNetwork, network: Network, mflops: float, digit: float) -> FlopsRow:
    mask = published_masks()[one.mask].keep_mask if one.mask else "1" * len(network.blocks)
    macs = shrunk_spec(network, mask).macs
    counted = f"1{mask[1:]}"
    return FlopsRow(
        table=table,
        name=one.name,
        base_model=network.name,
        resolution=network.resolution,
        macs=macs,
        norm_operations=_norm_operations(network, counted),
        first_block=macs - shrunk_spec(network, counted).macs,
        published_mflops=mflops,
        published_digit=digit,
    )


def _norm_operations(network: Network, mask: str) -> int:
    """Of the norms after each convolution that ``mask`` leaves as it was."""
    spec = network.spec
    merged = {
        n
        for block, keep in zip(network.blocks, mask, strict=True)
        if keep == "0"
        for n in range(block.first, block.last + 1)
    }
    return _OPERATIONS_OF_NORM * sum(
        math.prod(spec.shapes[n + 1])
        for n, op in enumerate(spec.ops)
        if isinstance(op, Conv) and n not in merged
    )
