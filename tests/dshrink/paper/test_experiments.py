"""The experiments as data: what the paper published, and what can be rebuilt of it."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from dshrink.paper.experiments import (
    BLOCK_EXPERIMENTS,
    KIM,
    Experiment,
    PaperError,
    experiment,
    listed,
    names,
)
from dshrink.paper.published import Setting, block_latencies, dense_counterparts, of_table
from dshrink.paper.report import speed_lines
from dshrink.paper.results import paper_results, reference

V100, RTX, TX2 = Setting("v100", 128), Setting("rtx2080ti", 128), Setting("tx2", 64)


def speeds(name: str) -> Experiment:
    found = experiment(name)
    assert isinstance(found, Experiment)
    return found


def test_every_experiment_is_listed_with_tables_first() -> None:
    assert [one.name for one in listed()] == list(names())
    assert names()[0] == "table1"
    assert names()[-1] == KIM
    assert set(BLOCK_EXPERIMENTS) <= set(names())
    assert all(one.title and one.networks for one in listed())


def test_an_unknown_experiment_names_those_that_there_are() -> None:
    with pytest.raises(PaperError, match=r"no experiment 'table4' of the paper; known: table1, "):
        experiment("table4")


@pytest.mark.parametrize(
    ("table", "network", "setting", "printed"),
    [
        ("table2", "MBV2-1.4-DS-A", V100, 1.80),
        ("table2", "MBV2-1.4-DS-C", RTX, 2.19),
        ("table2", "MBV2-1.4-DS-F", TX2, 4.71),
        ("table2", "Uniform-0.35", TX2, 3.60),
        ("table2", "MetaPruning-0.65", RTX, 2.28),
    ],
)
def test_published_speedups_are_those_that_the_paper_prints(
    table: str, network: str, setting: Setting, printed: float
) -> None:
    rows = paper_results(speeds(table).networks, 1, [])
    row = next(one for one in rows if one.network.name == network)
    assert row.published[setting] == pytest.approx(printed, abs=0.005)


def test_published_speedups_of_dense_counterparts_are_those_of_table_1() -> None:
    text = files("latency_tables").joinpath(
        "data/published/depthshrinker_table1_dense_counterparts.csv"
    )
    printed = {
        (line["model"], line["device"]): float(line["speedup"])
        for line in csv.DictReader(text.read_text().splitlines())
    }
    rows = paper_results(speeds("table1").networks, 1, [])
    found = {
        (row.network.group, setting.device): speedup
        for row in rows
        if row.network.form == "dense"
        for setting, speedup in row.published.items()
    }
    assert found == pytest.approx(printed, abs=0.001)
    assert len(found) == 3 * len(dense_counterparts()) == 18


def test_what_the_paper_does_not_define_says_so_and_everything_else_can_be_built() -> None:
    missing = {
        one.name: one.missing
        for name in ("table1", "table2", "table3", "table5", "table7", "table8", "fig6")
        for one in speeds(name).networks
        if one.choice is None
    }
    assert sorted(missing) == ["AMC", "MetaPruning-0.35", "MetaPruning-0.65", "MetaPruning-1.0"]
    assert missing["AMC"] == "the paper does not define the network of AMC"


def test_batches_are_those_published_for_the_device() -> None:
    assert speeds("table2").batches_on("v100") == (128,)
    assert speeds("table2").batches_on("tx2") == (64,)
    assert speeds("table2").batches_on("local") == (None,)
    assert speeds("table8").batches_on("tx2") == (32, 1)
    assert speeds("table8").batches_on("local") == (32, 1)
    assert speeds("table8").batches_on("rtx2080ti") == (128,)
    assert speeds("table5").batches_on("local") == (1,)


def test_a_measurement_is_compared_with_its_own_device_then_its_batch_then_the_smallest() -> None:
    settings = speeds("table2").settings
    assert settings == (V100, RTX, TX2)
    assert reference(settings, V100) == V100
    assert reference(settings, Setting("v100", 1)) == V100
    assert reference(settings, Setting("local", 64)) == TX2
    assert reference(settings, Setting("local", 128)) == RTX
    assert reference(settings, Setting("local", 1)) == TX2
    assert reference((), Setting("local", 1)) is None


def test_a_batch_that_another_run_measured_is_not_said_to_be_missing() -> None:
    table8 = speeds("table8")
    rows = paper_results(table8.networks, 32, [])
    runs = [(f"TX2, batch {batch}", Setting("tx2", batch), rows) for batch in (32, 1)]
    missing = [line for line in speed_lines(table8, runs) if line.startswith("Not measured by us")]
    assert missing == ["Not measured by us: RTX 2080 Ti, batch 128."] * 2


def test_the_first_of_a_group_is_what_the_others_are_compared_with() -> None:
    first = {}
    for one in speeds("table8").networks:
        first.setdefault(one.group, one.name)
    assert first == {"ResNet": "ResNet-50 x1", "MobileNetV2": "MBV2 [1234331] x1"}
    assert speeds("table2").networks[0].name == "MBV2-1.4"


def test_accuracies_are_those_of_the_longest_training() -> None:
    by_name = {one.name: one for one in speeds("table2").networks}
    assert by_name["MBV2-1.4-DS-A"].top1_percent == 75.65
    assert by_name["MBV2-1.4"].top1_percent == 75.3
    assert of_table("table3")[2].top1_percent == 72.43


def test_block_latencies_are_published_of_the_networks_of_the_authors_code() -> None:
    assert len(block_latencies("mobilenetv2_140")) == 17
    assert block_latencies("resnet50") == ()
