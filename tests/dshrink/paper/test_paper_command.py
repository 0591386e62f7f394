"""``dshrink paper`` on this machine and on a simulated GPU, with small networks in the tables."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dshrink.network.references import ModelChoice
from dshrink.operations.paper import blocks, speeds
from dshrink.paper import experiments
from dshrink.paper.experiments import BlockExperiment, Experiment, PaperNetwork
from dshrink.paper.published import Setting
from latency_tables.io import load_table
from profiler.errors import DeviceMemoryError
from profiler.schedule import FixedRounds

SIMULATED_GPU = Path(__file__).parents[2] / "support" / "fake_gpu"
V100, TX2 = Setting("v100", 128), Setting("tx2", 64)


def small_table() -> Experiment:
    choice = ModelChoice(model="mobilenetv2_100", resolution=(32, 32), classes=10)
    return Experiment(
        name="table2",
        title="small networks",
        networks=(
            PaperNetwork(name="base", group="all", choice=choice, fps={V100: 100.0, TX2: 10.0}),
            PaperNetwork(
                name="shrunk",
                group="all",
                choice=choice,
                form="merged",
                mask="MBV2-DS-A",
                fps={V100: 180.0, TX2: 20.0},
                mflops=287.0,
                top1_percent=72.5,
            ),
            PaperNetwork(
                name="AMC",
                group="all",
                choice=None,
                fps={V100: 150.0},
                missing="the paper does not define the network of AMC",
            ),
        ),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dshrink.operations.bench_run.BENCH_ROUNDS", FixedRounds(rounds=3))
    monkeypatch.setitem(experiments.EXPERIMENTS, "table2", small_table)


def published(row, setting):
    """What a row says of the setting; nothing where nothing is published."""
    of_setting = (one for one in row["published"] if (one["device"], one["batch"]) == setting)
    return next(of_setting, {})


def journal_lines(folder: Path) -> int:
    journal = folder / "table2_batch1.journal" / "journal.jsonl"
    return len(journal.read_text().splitlines())


def test_a_table_is_measured_beside_the_published_and_resumes(tmp_path, dshrink):
    ran = dshrink("paper", "table2", "--out", tmp_path, "--json")
    assert ran.status == 0, ran.err
    rows = {row["network"]: row for row in ran.data["rows"]}
    assert list(rows) == ["base", "shrunk", "AMC"]
    assert rows["base"]["speedup"] == 1.0
    shrunk = rows["shrunk"]
    assert shrunk["speedup"] == pytest.approx(
        rows["base"]["latency_ms"] / shrunk["latency_ms"], rel=0.5
    )
    assert published(shrunk, ("tx2", 64))["speedup"] == 2.0
    assert published(shrunk, ("tx2", 64))["ratio"] == pytest.approx(shrunk["speedup"] / 2.0)
    assert shrunk["keep_mask"] == "00101110011111111"
    assert (shrunk["batch"], shrunk["mflops"], shrunk["top1_percent"]) == (1, 287.0, 72.5)
    assert rows["AMC"]["latency_ms"] is None and "does not define" in rows["AMC"]["missing"]
    written = {Path(name).name for name in ran.data["files"]}
    assert {"table2.csv", "table2.json", "table2.md", "table2_batch1.png"} <= written
    assert all((tmp_path / name).stat().st_size for name in written)
    with (tmp_path / "table2.csv").open() as file:
        assert [line["network"] for line in csv.DictReader(file)] == list(rows)
    stored = json.loads((tmp_path / "table2.json").read_text())
    assert stored["runs"][0]["conditions"]["batch"] == 1
    page = (tmp_path / "table2.md").read_text()
    assert "# Table 2: small networks (DepthShrinker)" in page
    assert "Not measured: AMC (the paper does not define the network of AMC)." in page

    before = journal_lines(tmp_path)
    again = dshrink("paper", "table2", "--out", tmp_path, "--json")
    assert again.data == ran.data
    assert journal_lines(tmp_path) == before, "nothing is measured again"


def test_unmerged_networks_show_what_merging_alone_brings(tmp_path, dshrink):
    assert dshrink("paper", "table2", "--out", tmp_path).status == 0
    before = journal_lines(tmp_path)
    ran = dshrink("paper", "table2", "--out", tmp_path, "--unmerged", "--json")
    rows = {row["network"]: row for row in ran.data["rows"]}
    unmerged, merged, base = rows["shrunk unmerged"], rows["shrunk"], rows["base"]
    assert unmerged["macs"] == base["macs"] != merged["macs"]
    assert unmerged["top1_percent"] is None and unmerged["published"] == []
    # Other networks are another run; the first one is there to go on with.
    assert (tmp_path / "table2_batch1_unmerged.journal" / "journal.jsonl").exists()
    assert journal_lines(tmp_path) == before


def test_several_batch_sizes_are_several_tables(tmp_path, dshrink):
    ran = dshrink("paper", "table2", "--out", tmp_path, "--batch", "2,1", "--json")
    assert [row["batch"] for row in ran.data["rows"]] == [2, 2, 2, 1, 1, 1]
    page = (tmp_path / "table2.md").read_text()
    assert page.index("batch 2") < page.index("batch 1,")


def test_a_batch_asked_for_twice_is_one_table(tmp_path, dshrink):
    ran = dshrink("paper", "table2", "--out", tmp_path, "--batch", "1,1", "--json")
    assert [row["batch"] for row in ran.data["rows"]] == [1, 1, 1]


def test_what_ends_a_batch_does_not_take_those_before(tmp_path, dshrink, monkeypatch):
    real = speeds.measure_run

    def too_large(networks, conditions, *more, **options):
        if conditions.batch == 2:
            raise DeviceMemoryError("5 jobs failed one after the other")
        return real(networks, conditions, *more, **options)

    monkeypatch.setattr(speeds, "measure_run", too_large)
    ran = dshrink("paper", "table2", "--out", tmp_path, "--batch", "1,2")
    assert ran.status == 2 and "5 jobs failed" in ran.err
    with (tmp_path / "table2.csv").open() as file:
        assert [line["batch"] for line in csv.DictReader(file)] == ["1", "1", "1"]


def test_a_board_of_ones_own_is_compared_with_the_figures_of_its_kind(
    tmp_path, dshrink, monkeypatch
):
    (tmp_path / "devices.toml").write_text('[lab_machine]\nlike = "local"\n')
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "devices.toml"))
    here = Setting("local", 2)
    base, shrunk, _ = small_table().networks
    networks = (replace(base, fps={here: 10.0, TX2: 1.0}), replace(shrunk, fps={here: 15.0}))
    table = replace(small_table(), networks=networks)
    monkeypatch.setitem(experiments.EXPERIMENTS, "table2", lambda: table)

    ran = dshrink("paper", "table2", "--device", "lab_machine", "--out", tmp_path, "--json")

    assert [row["batch"] for row in ran.data["rows"]] == [2, 2]
    page = (tmp_path / "table2.md").read_text()
    assert "Not measured by us: Jetson TX2, batch 64." in page
    assert "| ours / local, batch 2 |" in " ".join(page.split())


def test_it_prints_what_was_measured_where_and_what_it_is_compared_with(tmp_path, dshrink):
    ran = dshrink("paper", "table2", "--out", tmp_path)
    assert ran.status == 0
    assert "Table 2: small networks" in ran.out
    assert "Speed-ups are over base" in ran.out


def test_a_figure_of_blocks_is_drawn_from_a_table(tmp_path, dshrink, monkeypatch):
    model = "mobilenetv2_100"
    small = BlockExperiment(name="fig4", title="blocks", models=(model,), kind="merged")
    monkeypatch.setitem(experiments.BLOCK_EXPERIMENTS, "fig4", small)
    real = blocks.profile_network

    def quick_profile(choice, folder, target, **more):
        return real(replace(choice, resolution=(32, 32)), folder, target, time_limit=1, **more)

    monkeypatch.setattr(blocks, "profile_network", quick_profile)
    ran = dshrink("paper", "fig4", "--out", tmp_path, "--json")
    assert ran.status == 0, ran.err
    rows = ran.data["rows"]
    assert [row["block"] for row in rows] == list(range(17))
    first = rows[1]
    saving = 100 * (1 - first["replaced_ms"] / first["original_ms"])
    assert first["saving_percent"] == pytest.approx(saving)
    assert {"fig4.png", "fig4_kept.png", "fig4.md"} <= {Path(f).name for f in ran.data["files"]}
    assert (tmp_path / "table_mobilenetv2_100" / "table.csv").exists()

    mapped = dshrink("paper", "fig4", "--out", tmp_path, "--padding", "bias_map", "--json")
    of_table = load_table(tmp_path / "table_mobilenetv2_100").by_place
    costs = {
        block: of_table.get(("merged_bias_map", block), of_table["merged", block]).cost_ms
        for block in range(17)
    }
    assert {row["block"]: row["replaced_ms"] for row in mapped.data["rows"]} == costs
    assert costs != {row["block"]: row["replaced_ms"] for row in rows}

    shown = dshrink("paper", "fig4", "--out", tmp_path)
    assert "Figure 4: blocks\nlocal, onnxruntime" in shown.out
    refused = dshrink("paper", "fig4", "--out", tmp_path, "--unmerged")
    assert "--unmerged is for tables of networks, not fig4" in refused.err


def test_a_device_without_an_address_says_what_to_add(tmp_path, dshrink):
    ran = dshrink("paper", "table2", "--device", "v100", "--out", tmp_path)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert "v100 (NVIDIA Tesla V100) has no address yet" in ran.err
    assert "[v100]" in ran.err and 'host = "user@machine"' in ran.err


def test_on_a_simulated_v100_it_runs_to_the_end(tmp_path, dshrink, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SIMULATED_GPU))
    (tmp_path / "devices.toml").write_text('[v100]\nconnection = "local"\n')
    monkeypatch.setenv("DSHRINK_DEVICES", str(tmp_path / "devices.toml"))
    ran = dshrink(
        *("paper", "table2", "--device", "v100", "--precision", "fp16", "--out", tmp_path),
        *("--launch", "cuda_graph", "--json"),
    )
    assert ran.status == 0, ran.err
    shrunk = ran.data["rows"][1]
    assert (shrunk["batch"], shrunk["runtime"], shrunk["precision"]) == (128, "tensorrt", "fp16")
    ratio = published(shrunk, ("v100", 128))["ratio"]
    assert ratio == pytest.approx(shrunk["speedup"] / 1.8)
    page = (tmp_path / "table2.md").read_text()
    assert "| ours / V100, batch 128 |" in " ".join(page.split())
    assert "Not measured by us: Jetson TX2, batch 64." in page


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("table4",), "no experiment 'table4' of the paper; known: table1"),
        (("table2", "--batch", "0"), "'--batch': '0' is no batch size of 1 or more"),
        (("table2", "--batch", "1,x"), "'--batch': '1,x' is no batch size of 1 or more"),
        (("fig4", "--batch", "1,2"), "fig4 is of one latency table: give one --batch"),
        (("table2", "--padding", "none"), "none"),
        (("table2", "--device", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(words, part, tmp_path, dshrink):
    ran = dshrink("paper", *words, "--out", tmp_path)
    assert ran.status == 2
    assert part in ran.err
    assert ran.err.count("\n") == 1


def test_published_settings_are_named() -> None:
    assert Setting("tx2", 64).title == "Jetson TX2, batch 64"
