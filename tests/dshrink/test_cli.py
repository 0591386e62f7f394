"""Commands as a user gives them: what they print, where, and their exit status.

In process, through the entry point, so that a user's error takes the way it takes in a shell; two
commands run as real processes.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from ran_command import Ran
from synthetic_tables import synthetic_table
from typer.testing import CliRunner

from dshrink.cli import main as entry
from dshrink.network.tracing import import_timm
from dshrink.operations.bench_networks import network_of_file
from dshrink.search.plan import BlockLayers, Plan, save_plan
from latency_tables.io import load_table, save_table
from latency_tables.schema import Conditions
from profiler.schedule import FixedRounds

MODEL = "mobilenetv2_035"
NAMES = ["blocks.0.0"] + [
    f"blocks.{stage}.{block}"
    for stage, count in enumerate((2, 3, 4, 3, 3, 1), 1)
    for block in range(count)
]
SMALL = ["--resolution", "32"]


def check_refused(ran: Ran, *parts: str) -> None:
    """One line on stderr, nothing on stdout, status 2."""
    assert ran.status == 2
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) == 1
    assert ran.err.strip().startswith("dshrink: ")
    for part in parts:
        assert part in ran.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["profilee"], ["No such command 'profilee'", "`dshrink --help`"]),
        (["search", "gredy", "resnet18"], ["No such command 'gredy'", "`dshrink search --help`"]),
        (["merge"], ["Missing argument", "`dshrink merge --help`"]),
        (["chain", "resnet18", "--foo"], ["No such option: --foo", "`dshrink chain --help`"]),
        (["chain", "resnet18", "--resolution", "big"], ["'--resolution'", "224x160"]),
        (["bench", "resnet18", "--batch", "0"], ["'--batch'", "1"]),
    ],
)
def test_a_wrong_word_option_or_value_is_one_line(dshrink, words, parts):
    check_refused(dshrink(*words), *parts)


def test_a_group_without_a_command_shows_its_help(dshrink):
    ran = dshrink("table")
    assert ran.status == 2
    assert "compare" in ran.out + ran.err


def made_up_table(**kwargs):
    """Block k takes k + 1 ms, merged half; the network is that of MODEL at 32x32."""
    original = [float(k + 1) for k in range(17)]
    merged = [value / 2 for value in original]
    table = synthetic_table(original, merged, **kwargs)
    return replace(table, model=MODEL, resolution=(32, 32), block_names=tuple(NAMES))


@pytest.fixture
def table(tmp_path):
    save_table(made_up_table(), tmp_path / "table")
    return tmp_path / "table"


# help and usage


def test_help_names_every_command():
    result = CliRunner().invoke(entry.app, ["--help"])
    assert result.exit_code == 0
    for name in ("chain", "profile", "search", "merge", "bench", "demo", "table", "plot"):
        assert name in result.stdout


@pytest.mark.parametrize("words", [["merge"], ["chain", MODEL, "--resolution", "x"], ["nonsense"]])
def test_wrong_usage_has_status_2_and_leaves_stdout_empty(words, dshrink):
    ran = dshrink(*words)
    assert (ran.status, ran.out) == (2, "")
    assert "Traceback" not in ran.err


def test_ctrl_c_says_how_to_resume(dshrink, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    # What is imported on first use would keep the one of this test.
    import_module("dshrink.operations.chain")
    monkeypatch.setattr("dshrink.network.models.load", interrupted)
    ran = dshrink("chain", MODEL)
    assert ran.status == 130
    assert ran.err.strip() == "interrupted; run the same command again to resume"


def test_chain_says_which_convolutions_are_fixed_and_why(dshrink):
    words = ["chain", "torchvision:squeezenet1_1", "--resolution", 64]
    text = dshrink(*words).out
    assert "16 convolutions in 8 fixed parts, which no span enters" in text
    assert "block 0 (features.3) cannot merge: features.3.cat: concat" in text
    (data,) = json.loads(dshrink(*words, "--json").out)["networks"]
    assert data["fixed_parts"][0] == {
        "first_layer": "features.3.expand1x1",
        "last_layer": "features.3.cat",
        "convolutions": 2,
        "reason": "features.3.cat joins tensors by concat",
    }


def test_the_installed_command_refuses_in_one_line(tmp_path):
    command = [Path(sys.executable).with_name("dshrink"), "table", "show", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    check_refused(Ran(done.returncode, done.stdout, done.stderr), "nowhere/table.csv: no such file")


def test_the_installed_command_prints_json_and_nothing_else(tmp_path):
    command = [Path(sys.executable).with_name("dshrink"), "chain", MODEL, *SMALL, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["networks"][0]["model"] == MODEL


# chain


def test_chain_prints_convolutions_blocks_and_spans(dshrink):
    ran = dshrink("chain", MODEL, *SMALL)
    assert ran.status == 0
    assert f"{MODEL} at 32x32" in ran.out
    assert "17 blocks, 50 positions, 10 skips, 171 spans (kim2023)" in ran.out


def test_chain_continues_after_a_network_that_cannot_be_traced(dshrink):
    fixed = "vit_tiny_patch16_224"
    ran = dshrink("chain", fixed, MODEL, "nosuchnet", "--resolution", "64", "--json")
    assert ran.status == 2
    assert [found["model"] for found in ran.data["networks"]] == [MODEL]
    first, second = ran.err.strip().splitlines()
    assert f"{fixed}: torch.fx cannot trace it at 64x64: Input height (64)" in first
    assert "nosuchnet: no such network" in second


def test_chain_says_which_blocks_cannot_merge_and_why(dshrink):
    ran = dshrink("chain", "mobilenetv3_small_100", "--resolution", "64")
    assert ran.status == 0
    assert "block 0 (blocks.0.0) cannot merge: blocks.0.0.se" in ran.out


def test_chain_as_json_counts_exact_spans(dshrink):
    (found,) = dshrink("chain", MODEL, *SMALL, "--spans", "exact", "--json").data["networks"]
    assert len(found["blocks"]) == 17 and found["span_count"] > 171
    assert [block["name"] for block in found["blocks"]] == NAMES


def test_chain_refuses_an_unknown_way_to_count_spans(dshrink):
    check_refused(dshrink("chain", MODEL, *SMALL, "--spans", "all"), "known: exact, kim2023")


# table


def test_a_table_is_shown(table, dshrink):
    ran = dshrink("table", "show", table)
    assert ran.status == 0
    assert "block 16 merged" in ran.out and "Usable: predictions within" in ran.out
    assert len(dshrink("table", "show", table, "--json").data["rows"]) == 36


def test_a_fit_table_passes_its_check(table, dshrink):
    ran = dshrink("table", "check", table, "--json")
    assert ran.status == 0
    assert ran.data["fit_for_search"] and "rows" not in ran.data


def test_a_table_that_is_not_fit_has_status_1(tmp_path, dshrink):
    save_table(made_up_table(hold_out_errors_percent=[9.0, -9.0] * 4), tmp_path)
    ran = dshrink("table", "check", tmp_path)
    assert ran.status == 1
    assert "NOT fit for search" in ran.out


def test_a_damaged_table_is_refused(table, dshrink):
    file = table / "table.csv"
    file.write_text(file.read_text().replace("merged", "melted"))
    check_refused(dshrink("table", "check", table), "table.csv")


def test_a_prediction_is_the_sum_of_the_rows_that_were_made_up(table, dshrink):
    keep = "1" * 7 + "0" * 10
    found = dshrink("table", "predict", table, "--keep", keep, "--json").data
    # Stem and head 1 ms each, kept blocks in full, the others half.
    expected = 2.0 + sum(range(1, 8)) + sum(range(8, 18)) / 2
    assert found["latency_ms"] == pytest.approx(expected)
    assert found["low_ms"] < expected < found["high_ms"]
    assert f"{expected:.3f} ms (95 %: " in dshrink("table", "predict", table, "--keep", keep).out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--keep", "01"], "17 blocks"),
        (["--keep", "mask:01"], "17 blocks"),
        (["--keep", "paper:nothing"], "the paper has no network 'nothing'"),
        # As many blocks, another network: refused as `merge` refuses it.
        (["--keep", "paper:MBV2-1.4-DS-A"], f"for mobilenetv2_140, the network is {MODEL}"),
        (["--keep", "spans:" + "|" * 17], "merges spans, the table of"),
        (["--keep", "0" * 17, "--padding", "zero"], "unknown padding 'zero'"),
    ],
)
def test_a_prediction_that_makes_no_sense_is_refused(words, part, table, dshrink):
    check_refused(dshrink("table", "predict", table, *words), part)


def test_a_plan_in_a_file_is_predicted_with_its_padding(table, tmp_path, dshrink):
    mask = "1" * 16 + "0"
    blocks = tuple(BlockLayers(name=name) for name in reversed(NAMES))
    plan = Plan(model=MODEL, keep_mask=mask[::-1], padding="repad", blocks=blocks)
    save_plan(plan, tmp_path / "plan.json")
    words = ("table", "predict", table, "--json", "--keep")
    found = dshrink(*words, tmp_path / "plan.json").data
    assert (found["keep_mask"], found["padding"]) == (mask, "repad")
    assert (
        dshrink(*words, tmp_path / "plan.json", "--padding", "bias_map").data["padding"] != "repad"
    )

    save_plan(replace(plan, resolution=(64, 64)), tmp_path / "plan.json")
    check_refused(dshrink(*words, tmp_path / "plan.json"), "is for images of 64x64", "for 32x32")


def test_the_option_that_uses_an_unfit_table_is_named(tmp_path, dshrink):
    save_table(made_up_table(hold_out_errors_percent=[9.0, -9.0] * 4), tmp_path / "unfit")
    words = ("search", "greedy", MODEL, "--table", tmp_path / "unfit", "--keep", 15)
    check_refused(dshrink(*words, "--out", tmp_path / "p.json"), "not fit", "--allow-unfit")


def test_tables_are_compared_row_by_row(table, tmp_path, dshrink):
    slower = made_up_table(fixed_ms=2.0)
    save_table(slower, tmp_path / "slower")
    found = dshrink("table", "compare", table, tmp_path / "slower", "--json").data
    verdicts = {row["piece"]: row["verdict"] for row in found["rows"]}
    assert [piece for piece, verdict in verdicts.items() if verdict == "slower"] == ["stem", "head"]
    ran = dshrink("table", "compare", table, table)
    assert "Kendall 1.000" in ran.out and ran.out.endswith("A and B hold the same measurements\n")
    words = ("table", "compare", table, tmp_path / "slower")
    # Two ms of 155 more in every network.
    ran = dshrink(*words, "--fail-above", "1%")
    assert ran.status == 1 and "above the limit of 1 %" in ran.err
    assert dshrink(*words, "--fail-above", "2.5").status == 0
    check_refused(dshrink(*words, "--fail-above", "much"), "'much' is no share such as 5%")


# search


def test_greedy_meets_the_budget_and_writes_a_plan(table, tmp_path, dshrink):
    file = tmp_path / "[plans]" / "plan.json"
    words = ["search", "greedy", MODEL, "--table", table, "--budget-ms", "140", "--out", file]
    ran = dshrink(*words, "--json")
    # All blocks take 155.0 ms; merging 16 (17 ms) and 15 (16 ms) saves 8.5 and 8.
    assert ran.data["keep_mask"] == "1" * 15 + "00"
    assert ran.data["predicted"]["latency_ms"] == pytest.approx(155.0 - 16.5)
    assert json.loads(file.read_text()) == ran.data
    ran = dshrink(*words)
    assert f"plan: {file}" in ran.out.splitlines()
    assert "merge block 16: " in ran.out


def test_a_random_plan_keeps_as_many_as_asked_and_follows_its_seed(table, dshrink):
    def mask(seed):
        words = ["--table", table, "--keep", 6, "--seed", seed, "--json"]
        return dshrink("search", "random", MODEL, *words).data["keep_mask"]

    masks = [mask(seed) for seed in (0, 0, 1)]
    assert [m.count("1") for m in masks] == [6, 6, 6]
    assert masks[0] == masks[1] != masks[2]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        # The whole network takes 155.0 ms, of which 76.5 ms can be saved.
        (["--budget-ms", "50"], "the smallest possible latency is 78.5 ms"),
        (["--budget-ms", "-1"], "must be above 0 ms"),
        (["--keep", "18"], "ask for 0 to 17"),
        ([], "give either --budget-ms T or --keep K"),
        (["--keep", "3", "--budget-ms", "9"], "give either --budget-ms T or --keep K"),
    ],
)
def test_a_search_that_cannot_succeed_is_refused(words, part, table, dshrink):
    check_refused(dshrink("search", "greedy", MODEL, "--table", table, *words), part)


def test_a_search_for_another_network_is_refused(table, dshrink):
    ran = dshrink("search", "greedy", "mobilenetv2_050", "--table", table, "--keep", 3)
    check_refused(ran, "the plan is for mobilenetv2_035")


def test_a_table_that_is_not_fit_is_searched_only_when_allowed(tmp_path, dshrink):
    save_table(made_up_table(hold_out_errors_percent=[9.0, -9.0] * 4), tmp_path)
    words = ["search", "greedy", MODEL, "--table", tmp_path, "--keep", "3"]
    check_refused(dshrink(*words), "not fit for search")
    assert dshrink(*words, "--allow-unfit", "--json").data["keep_mask"].count("1") == 3


# merge


def merge_words(out, *more):
    plan = [] if "--plan" in more else ["--plan", "mask:" + "01" * 8 + "0"]
    weights = [] if "--weights" in more else ["--weights", "random"]
    size = [] if "--resolution" in more else SMALL
    return ["merge", MODEL, "--out", out, *plan, *weights, *size, *more]


@pytest.mark.parametrize("padding", ["bias_map", "repad", "interior"])
def test_merge_writes_a_file_and_its_certificate(padding, tmp_path, dshrink):
    file = tmp_path / "out" / "a.onnx"
    ran = dshrink(*merge_words(file, "--padding", padding, "--json"))
    assert ran.status == 0
    assert ran.data["blocks_merged"] == 9
    assert ran.data["onnx_difference"] < 1e-3
    onnx.checker.check_model(onnx.load(file), full_check=True)
    certificate = json.loads(Path(ran.data["certificate"]).read_text())
    assert certificate["problem"] == "" and len(certificate["blocks"]) == 9
    assert certificate["padding"] == padding


def test_merge_says_what_it_did_and_keeps_paths_whole(tmp_path, dshrink):
    file = (
        tmp_path / "[a] folder with a long name, so that the line is far beyond a screen" / "a.onnx"
    )
    ran = dshrink(*merge_words(file, "--no-free-activation", "--batch", 2))
    assert ran.out.startswith("merged 9 blocks in ")
    assert f"wrote {file} and {file}.certificate.json" in ran.out.splitlines()
    shape = onnx.load(file).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, 3, 32, 32]


def test_merge_takes_a_plan_file_at_its_resolution(table, tmp_path, dshrink):
    plan = tmp_path / "plan.json"
    dshrink("search", "greedy", MODEL, "--table", table, "--keep", 14, "--out", plan)
    words = ["--plan", plan, "--weights", "random", "--out", tmp_path / "a.onnx", "--json"]
    assert dshrink("merge", MODEL, *words).data["keep_mask"] == "1" * 14 + "000"
    shape = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape
    assert shape.dim[2].dim_value == 32


def test_merge_takes_a_mask_of_the_paper(tmp_path, dshrink):
    words = ["--plan", "paper:MBV2-1.4-DS-A", "--weights", "random", *SMALL, "--json"]
    ran = dshrink("merge", "mobilenetv2_140", "--out", tmp_path / "a.onnx", *words)
    assert ran.data["blocks_merged"] == ran.data["keep_mask"].count("0") > 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_merge_takes_weights_from_a_file(suffix, tmp_path, dshrink):
    from safetensors.torch import save_file

    torch.manual_seed(5)
    state = import_timm().create_model(MODEL).state_dict()
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    ran = dshrink(*merge_words(tmp_path / "a.onnx", "--weights", file, "--json"))
    assert ran.status == 0
    model = onnx.load(tmp_path / "a.onnx")
    bias = [
        onnx.numpy_helper.to_array(i) for i in model.graph.initializer if list(i.dims) == [1000]
    ]
    assert any((array == state["classifier.bias"].numpy()).all() for array in bias)


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path, dshrink, monkeypatch):
    timm = import_timm()

    def offline(name, *, pretrained):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("dshrink.network.downloads.unreachable", lambda url: "")
    ran = dshrink(*merge_words(tmp_path / "a.onnx", "--weights", "pretrained"))
    check_refused(ran, "pre-trained weights cannot be downloaded (no route)", "--weights FILE")


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--plan", "mask:01"], "has 2 characters, mobilenetv2_035 has 17 blocks"),
        (["--plan", "paper:MBV2-1.4-DS-A"], "the plan is for mobilenetv2_140"),
        (["--plan", "missing.json"], "missing.json: no such file"),
        (["--weights", "missing.pth"], "missing.pth: no such file"),
        (["--padding", "zero"], "unknown padding 'zero'"),
    ],
)
def test_a_merge_that_cannot_be_is_refused_and_writes_nothing(more, part, tmp_path, dshrink):
    check_refused(dshrink(*merge_words(tmp_path / "a.onnx", *more)), part)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_to_write(tmp_path, dshrink):
    check_refused(dshrink(*merge_words(tmp_path)), "is a folder")


def test_basic_blocks_are_refused_a_bias_map_and_advised_repad(tmp_path, dshrink):
    words = ["--plan", "mask:00111111", "--weights", "random", *SMALL, "--out", tmp_path / "a.onnx"]
    ran = dshrink("merge", "torchvision:resnet18", *words)
    check_refused(ran, "block 0 (layer1.0)", "layer1.0.conv2", "--padding repad")
    assert dshrink("merge", "torchvision:resnet18", *words, "--padding", "repad").status == 0


# bench


def local_conditions() -> Conditions:
    from devices.inventory import connect, load_inventory
    from profiler.scheduling.serial import SerialScheduler
    from profiler.target import Target, probe_conditions

    target = load_inventory().get("local")
    scheduler = SerialScheduler(connect(target))
    try:
        return probe_conditions(target, scheduler, Target(runtime="onnxruntime", statistic="quiet"))
    finally:
        scheduler.close()


def test_bench_measures_networks_plans_and_files_with_their_predictions(
    tmp_path, dshrink, monkeypatch
):
    # As precise as a noisy machine allows takes minutes; here the numbers do not matter.
    monkeypatch.setattr("dshrink.operations.bench_run.BENCH_ROUNDS", FixedRounds(rounds=2))
    save_table(made_up_table(conditions=local_conditions()), tmp_path / "table")
    mask = "1" * 14 + "000"
    file, results = tmp_path / "a.onnx", tmp_path / "results.csv"
    dshrink(*merge_words(file, "--plan", f"mask:{mask}"))
    words = ["bench", MODEL, file, "--table", tmp_path / "table", "--out", results, *SMALL]
    ran = dshrink(*words, "--plan", f"mask:{mask}", "--json")
    assert ran.status == 0
    found = ran.data["results"]
    assert [row["keep_mask"] for row in found] == ["1" * 17, mask, mask]
    # The rows of block 14 to 16 are halved; the table is made up, the measurement is not.
    predictions = [155.0, 155.0 - 24, 155.0 - 24]
    assert [row["predicted_ms"] for row in found] == pytest.approx(predictions)
    for row in found:
        assert row["throughput_fps"] == pytest.approx(1000 / row["latency_ms"])
        assert row["low_ms"] <= row["latency_ms"] <= row["high_ms"]
    with results.open() as lines:
        written = list(csv.DictReader(lines))
    assert [row["network"] for row in written] == [row["network"] for row in found]
    original, *shrunk = found
    assert {row["baseline"] for row in found} == {original["network"]}
    # Two processes are too few for a ratio of their own: it is that of the latencies.
    for row in shrunk:
        assert row["speedup"] == pytest.approx(original["latency_ms"] / row["latency_ms"])
        assert (row["speedup_low"], row["speedup_high"], row["compared"]) == (None, None, "")
        assert row["rank"] in (1, 2, 3)


SIMULATED_GPU = Path(__file__).parents[1] / "support" / "fake_gpu"


def test_bench_on_a_gpu_reports_what_was_built(tmp_path, dshrink, monkeypatch):
    monkeypatch.setattr("dshrink.operations.bench_run.BENCH_ROUNDS", FixedRounds(rounds=2))
    monkeypatch.setenv("PYTHONPATH", str(SIMULATED_GPU))
    words = ["bench", MODEL, "--device", "local_gpu", "--resolution", 32, "--precision", "fp16"]
    words += ["--launch", "cuda_graph", "--out", tmp_path / "r.csv"]
    save_table(made_up_table(), tmp_path / "table")
    check_refused(
        dshrink(*words, "--table", tmp_path / "table"),
        "table was measured under other conditions",
        "launch: plain / cuda_graph",
        "leave it out",
    )
    assert not (tmp_path / "r.journal").exists()
    ran = dshrink(*words, "--json")
    assert ran.status == 0
    (row,) = ran.data["results"]
    assert (row["batch"], row["launch"], row["clock"]) == (128, "cuda_graph", "cuda_events")
    assert row["built_precision"] == "fp16" and row["predicted_ms"] is None
    assert min(row["engine_mib"], row["gpu_memory_mib"], row["build_s"], row["enqueue_ms"]) > 0
    assert row["throughput_fps"] == pytest.approx(128_000 / row["latency_ms"])


def test_without_a_gpu_bench_says_where_to_look(tmp_path, dshrink):
    ran = dshrink("bench", MODEL, "--device", "local_gpu", "--out", tmp_path / "r.csv")
    check_refused(ran, "local_gpu shows no GPU", "nvidia-smi")


def test_a_table_of_another_resolution_predicts_nothing(tmp_path):
    from dshrink.network.models import load_network
    from dshrink.operations.bench_networks import networks_by_plan
    from dshrink.operations.bench_rows import predicted

    table = made_up_table()
    found = {
        size: predicted(
            networks_by_plan(load_network(MODEL, resolution=size), [], "bias_map")[0],
            table.conditions,
            [table],
            print,
        )
        for size in (32, 64)
    }
    assert found[64] is None
    assert found[32] is not None and found[32].latency_ms == pytest.approx(155.0)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["missing.onnx"], "missing.onnx: no such file"),
        (["nosuchnet"], "nosuchnet: no such network"),
        ([MODEL, "--plan", "mask:0"], "17 blocks"),
        ([MODEL, "--plan", "mask:" + "0" * 17, "--padding", "zero"], "unknown padding 'zero'"),
        ([MODEL, "--statistic", "mean"], "statistic 'mean' is not one of quiet, median"),
        ([MODEL, "--device", "nowhere"], "no device 'nowhere'"),
        ([MODEL, "--precision", "fp16"], "cannot measure fp16"),
        (["a.onnx", "--plan", "mask:0"], "a.onnx: no such file"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(words, part, tmp_path, dshrink):
    check_refused(dshrink("bench", *words, *SMALL, "--out", tmp_path / "r.csv"), part)
    assert not (tmp_path / "r.csv").exists()


def test_a_file_of_another_batch_is_refused(tmp_path, dshrink):
    dshrink(*merge_words(tmp_path / "a.onnx"))
    ran = dshrink("bench", tmp_path / "a.onnx", "--batch", 4, "--out", tmp_path / "r.csv")
    check_refused(ran, "its batch is 1, not 4: export it again with --batch 4")


@pytest.mark.parametrize("opened", ["n", -1])
def test_a_file_that_leaves_its_batch_open_is_measured_at_each(
    opened, tmp_path, dshrink, monkeypatch
):
    monkeypatch.setattr("dshrink.operations.bench_run.BENCH_ROUNDS", FixedRounds(rounds=2))
    weight = torch.randn(32, 32, 3, 3).numpy()
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    x, z = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [opened, 32, 24, 24])
        for name in "xz"
    )
    graph = helper.make_graph(nodes, "g", [x], [z], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, tmp_path / "a.onnx")
    before = (tmp_path / "a.onnx").read_bytes()

    words = ("bench", tmp_path / "a.onnx", "--batch", "1,8", "--out", tmp_path / "r.csv", "--json")
    ran = dshrink(*words)

    assert ran.status == 0, ran.err
    one, eight = ran.data["results"]
    assert (one["batch"], eight["batch"]) == (1, 8)
    measured = onnx.load_from_string(network_of_file(tmp_path / "a.onnx", 8).job.content)
    assert [d.dim_value for d in measured.graph.input[0].type.tensor_type.shape.dim][:1] == [8]
    assert eight["throughput_fps"] == pytest.approx(8000 / eight["latency_ms"])
    assert (tmp_path / "a.onnx").read_bytes() == before


def test_a_file_that_is_no_onnx_is_refused(tmp_path, dshrink):
    (tmp_path / "a.onnx").write_bytes(b"not a model")
    check_refused(dshrink("bench", tmp_path / "a.onnx"), "not an ONNX model")


def test_a_file_whose_data_is_in_another_file_is_refused_before_anything_is_measured(
    tmp_path, dshrink
):
    dshrink(*merge_words(tmp_path / "a.onnx"))
    onnx.save(
        onnx.load(tmp_path / "a.onnx"),
        tmp_path / "b.onnx",
        save_as_external_data=True,
        location="b.data",
        size_threshold=0,
    )
    (tmp_path / "b.data").rename(tmp_path / "c.data")
    check_refused(dshrink("bench", tmp_path / "b.onnx"), "is in another file, 'b.data'")


# profile


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--segments", "layers"], "known: blocks, spans"),
        (["--runtime", "tensorrt"], "has no runtime 'tensorrt'"),
        (["--precision", "fp16"], "cannot measure fp16"),
        (["--threads", "1000"], "cores: ask for --threads 1 to"),
        (["--statistic", "mean"], "statistic 'mean' is not one of quiet, median"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(words, part, tmp_path, dshrink):
    check_refused(dshrink("profile", MODEL, "--out", tmp_path, *SMALL, *words), part)
    assert list(tmp_path.iterdir()) == []


PLAIN = """
from torch import nn

layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
net = nn.Sequential(*layers)
"""


def test_a_network_without_blocks_is_told_to_be_profiled_by_spans(tmp_path, dshrink):
    (tmp_path / "plain.py").write_text(PLAIN)
    ran = dshrink("profile", f"{tmp_path}/plain.py:net", "--out", tmp_path / "table", *SMALL)
    check_refused(ran, "no building")
    assert "--segments spans" in ran.err


@pytest.mark.slow
def test_a_profile_from_end_to_end_and_again_from_its_journal(tmp_path, dshrink):
    words = ["profile", MODEL, *SMALL, "--hold-out", 8, "--out", tmp_path, "--json"]
    ran = dshrink(*words)
    assert ran.status == 0
    table = load_table(tmp_path)
    assert (table.model, table.resolution, table.block_names) == (MODEL, (32, 32), tuple(NAMES))
    assert table.hold_out is not None and len(table.hold_out.networks) == 8
    assert all(row.verdict for row in table.rows)
    assert len(ran.data["rows"]) == len(table.rows)
    again = dshrink(*words)
    assert again.err.strip().splitlines()[-1].startswith("0 measurements made")
    assert again.data["rows"] == ran.data["rows"]
    keep = dshrink(
        "search", "greedy", MODEL, "--table", tmp_path, "--keep", 5, "--allow-unfit", "--json"
    )
    assert keep.data["keep_mask"].count("1") == 5
