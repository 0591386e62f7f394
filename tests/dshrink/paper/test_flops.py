"""The paper's figures, met to the last digit by the count that the module says is theirs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.resources import files

import pytest
import torch
from torch import nn

from dshrink.network.models import Network
from dshrink.network.tracing import import_timm
from dshrink.paper.flops import FlopsRow, published_flops

FILE = "data/published/depthshrinker_accuracy_throughput.csv"
#: Rounded where all others are cut off.
ROUNDED = {"EffLite1", "Uniform-0.35"}


def test_every_figure_of_the_paper_is_met_to_its_last_digit() -> None:
    rows = published_flops()
    assert len(rows) == 26
    for row in rows:
        excess = (row.recounted_mflops - row.published_mflops) / row.published_digit
        lowest, highest = (-0.5, 0.5) if row.name in ROUNDED else (0.0, 1.0)
        assert lowest <= excess < highest, row
    # That is far less than what is to be explained.
    assert max(abs(row.difference_percent) for row in rows) > 20
    fine = [row for row in rows if row.published_digit == 1]
    assert max(abs(row.recounted_difference_percent) for row in fine) < 0.3
    _rows_are_the_published(rows)
    _explanations_say_what_is_counted(rows)


def _rows_are_the_published(rows: tuple[FlopsRow, ...]) -> None:
    text = files("latency_tables").joinpath(FILE).read_text("utf-8")
    published = {line["name"]: float(line["mflops"]) for line in csv.DictReader(text.splitlines())}
    left_out = {"MetaPruning-1.0", "MetaPruning-0.65", "MetaPruning-0.35", "AMC"}
    found = {row.name: row.published_mflops for row in rows if row.table != "table1"}
    assert found == {name: one for name, one in published.items() if name not in left_out}
    coarse = {row.name for row in rows if row.published_digit == 10 and row.table != "table1"}
    assert coarse == {"MBV2-1.4", "MBV2"}


def _explanations_say_what_is_counted(rows: tuple[FlopsRow, ...]) -> None:
    said = {row.name: row.explanation for row in rows}
    norms = "the paper counts {} M more for batch norms"
    assert said["mobilenetv2_100"] == norms.format(33.4)
    assert said["MBV2-1.4-DS-F"] == f"{norms.format('8.0')}; 110.2 M fewer, with block 0 unmerged"
    assert said["EffLite3-DS-D"].endswith("; at 224x224, where the network was made for 280x280")
    # By hand: 3x3 from 48 to 24 channels at 112x112, or depthwise and pointwise.
    merged, unmerged = 9 * 48 * 24 * 112**2, (9 * 48 + 48 * 24) * 112**2
    (row,) = [one for one in rows if one.name == "MBV2-1.4-DS-F"]
    assert row.first_block == merged - unmerged
    # The stem's, those of block 0 and that of the features: no other layer has a norm left.
    assert row.norm_operations == 5 * ((48 + 48 + 24) * 112**2 + 1792 * 7**2)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet50"])
def test_what_counts_for_norms_is_what_comes_out_of_them(
    name: str, network: Callable[..., Network]
) -> None:
    module, sizes = import_timm().create_model(name), list[int]()
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.register_forward_hook(lambda _layer, _inputs, result: sizes.append(result.numel()))
    with torch.inference_mode():
        module.eval()(torch.zeros(1, 3, 224, 224))
    counted = network(name).spec.macs + 5 * sum(sizes)
    published = {"mobilenetv2_100": 0.33, "resnet50": 4.14}[name]
    assert int(counted / 1e7) / 100 == published
