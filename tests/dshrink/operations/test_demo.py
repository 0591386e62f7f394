"""The steps of the demo: its budgets, what it reuses, and what it refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_tables import synthetic_table

from dshrink.errors import DshrinkError, NetworkError
from dshrink.network.models import Network
from dshrink.network.references import ModelChoice
from dshrink.operations import demo
from dshrink.operations.demo import Demo, DemoRequest
from dshrink.operations.demo_plans import SHARES, DemoError, budgets_ms, mild_plan
from dshrink.operations.demo_results import DemoResult
from dshrink.refit.agreement import Closeness
from dshrink.refit.photographs import write_photographs
from dshrink.results import BenchmarkResult, save_results
from dshrink.search.plan import load_plan
from latency_tables.io import save_table
from latency_tables.predictor import predict
from latency_tables.table import LatencyTable

MODEL = "test_resnet"
CLOSENESS = Closeness(
    images=13,
    agreement_percent={"algebraic": 0.0, "refitted": 46.0},
    in_top5_percent={"algebraic": 0.0, "refitted": 92.0},
    error={"algebraic": 4.8, "refitted": 0.4},
    accuracy_percent={},
)


@pytest.fixture
def small(network: Callable[..., Network]) -> Network:
    """Four blocks, all of which can merge."""
    return network(MODEL, 32, "random")


@pytest.fixture
def table(small: Network) -> LatencyTable:
    found = synthetic_table([5.0, 4.0, 3.0, 2.0], [3.0, 3.5, 1.0, 2.5])
    here = replace(found.conditions, device="local", runtime="onnxruntime")
    names = tuple(block.name for block in small.blocks)
    return replace(found, model=MODEL, resolution=(32, 32), block_names=names, conditions=here)


@pytest.fixture
def calls(table: LatencyTable, small: Network, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the demo calls; nothing is measured, and a refit finds what is written here."""
    found: list[str] = []
    merge = demo.merge_by_plan

    def load(choice: ModelChoice, notice: Any) -> Network:
        found.append(f"load {choice.weights}")
        if choice.weights == "pretrained":
            raise NetworkError("no weights here")
        return replace(small, weights=choice.weights)

    def profile(network: Network, folder: Path, target: Any, **more: Any) -> Any:
        found.append("profile")
        save_table(table, folder)
        return SimpleNamespace(table=table)

    def merged(*arguments: Any, **more: Any) -> Any:
        found.append("merge")
        return merge(*arguments, **more)

    def refit(network: Network, plan: Any, data: str, folder: Path, **more: Any) -> Any:
        found.append(f"refit {Path(data).name}")
        folder.mkdir()
        agreement = '"images": 13, "agreement_percent": {"algebraic": 0.0, "refitted": 46.0}'
        rest = '"in_top5_percent": {"algebraic": 0.0, "refitted": 92.0}, "accuracy_percent": {}'
        error = '"error": {"algebraic": 4.8, "refitted": 0.4}'
        (folder / "refit.json").write_text(
            f'{{"mask": "{plan.mask}", "held_out": {{{agreement}, {rest}, {error}}}}}'
        )
        return SimpleNamespace(result=SimpleNamespace(held_out=CLOSENESS))

    def refittable(network: Network) -> None:
        if network.weights == "random":
            raise DshrinkError("random weights have nothing to keep")

    def bench(networks: Any, file: Path, target: Any, **more: Any) -> list[BenchmarkResult]:
        found.append("bench")
        results = [result_of(table, one) for one in networks]
        save_results(results, file)
        return results

    monkeypatch.setattr(demo, "load", load)
    monkeypatch.setattr(demo, "profile_network", profile)
    monkeypatch.setattr(demo, "merge_by_plan", merged)
    monkeypatch.setattr(demo, "refit_by_plan", refit)
    monkeypatch.setattr(demo, "require_refittable", refittable)

    def page(folder: Path, file: Path, *, only: list[Path], notice: Any) -> None:
        found.append("page of " + " ".join(sorted(one.name for one in only if one.exists())))

    monkeypatch.setattr(demo, "bench_networks", bench)
    monkeypatch.setattr(demo, "write_report", page)
    monkeypatch.setattr(demo, "save_figure", lambda figure, file: found.append(file.name))
    return found


def result_of(table: LatencyTable, one: Any) -> BenchmarkResult:
    """As predicted; a network in hand is the original."""
    mask = "1111"
    if not isinstance(one, Network):
        mask = load_plan(Path(one.replace("shrunk", "plan").replace(".onnx", ".json"))).keep_mask
    prediction = predict(table, mask, "repad")
    return BenchmarkResult(
        network=MODEL if isinstance(one, Network) else Path(one).name, model=MODEL,
        keep_mask=mask, kept_blocks=mask.count("1"), device="local", runtime="onnxruntime",
        precision="fp32", batch=1, threads=1, clock="thread_cpu", statistic="quiet",
        latency_ms=prediction.latency_ms, low_ms=prediction.latency_ms * 0.99,
        high_ms=prediction.latency_ms * 1.01, throughput_fps=prediction.throughput_fps,
        throughput_low_fps=prediction.throughput_fps * 0.99,
        throughput_high_fps=prediction.throughput_fps * 1.01,
        predicted_ms=prediction.latency_ms, predicted_low_ms=prediction.low_ms,
        predicted_high_ms=prediction.high_ms, verdict="ok",
    )  # fmt: skip


def whole_demo(folder: Path) -> DemoResult:
    choice = ModelChoice(model=MODEL, resolution=(32, 32), weights="w.safetensors")
    steps = Demo.of(DemoRequest(choice=choice, folder=folder, or_random=False))
    table = steps.measure_table()
    shrunk = steps.merge(steps.search(table))
    agreement = steps.refit(table)
    return steps.write(table, shrunk, agreement, steps.measure_networks(table, shrunk))


def test_budgets_are_shares_of_the_largest_saving_of_all_masks(table: LatencyTable) -> None:
    every = ["".join(bits) for bits in itertools.product("01", repeat=4)]
    latencies = [predict(table, mask, "repad").latency_ms for mask in every]
    whole, smallest = predict(table, "1111").latency_ms, min(latencies)
    wanted = [whole - share * (whole - smallest) for share in SHARES]
    assert list(budgets_ms(table)) == pytest.approx(wanted, rel=0.001)
    # Rounding takes no plan.
    assert min(budgets_ms(table)) > smallest


def test_a_network_that_merging_makes_no_faster_is_refused() -> None:
    with pytest.raises(DemoError, match=r"merging saves 0\.05 of 12 ms.*choose another --model"):
        budgets_ms(synthetic_table([5.0, 5.0], [4.95, 6.0]))


def test_a_second_run_merges_and_refits_nothing_again(tmp_path: Path, calls: list[str]) -> None:
    first = whole_demo(tmp_path)
    merges = len(first.networks) - 1
    steps = ["load w.safetensors", "profile", *["merge"] * merges, "refit photographs", "bench"]
    plans = [f"plan{n}.json" for n in range(1, merges + 1)]
    certificates = [f"shrunk{n}.onnx.certificate.json" for n in range(1, merges + 1)]
    shown = [*plans, "refit.json", "results.csv", *certificates, "table.json"]
    drawn = ["blocks.png", "predicted.png", "kept.png", "throughput.png"]
    assert calls == [*steps, *drawn, f"page of {' '.join(shown)}"]
    assert merges >= 2
    assert first.agreement is not None
    assert first.agreement.closeness == CLOSENESS
    assert max(one.certificate for one in first.networks[1:]) < 1e-9
    assert all(Path(one.file).exists() and Path(one.plan).exists() for one in first.networks[1:])
    calls.clear()
    again = whole_demo(tmp_path)
    assert calls[:4] == ["load w.safetensors", "profile", "bench", "blocks.png"]
    assert again == first
    # A kill between the two files of a merge left the certificate of another.
    certificate = tmp_path / certificates[0]
    certificate.write_text(json.dumps({**json.loads(certificate.read_text()), "onnx_sha256": "0"}))
    calls.clear()
    assert whole_demo(tmp_path) == first
    assert calls.count("merge") == 1


def test_the_command_prints_the_screen_or_its_record(
    tmp_path: Path, calls: list[str], dshrink: Callable[..., Any]
) -> None:
    words = ("demo", "--model", MODEL, "--resolution", 32, "--out", tmp_path)
    ran = dshrink(*words)
    assert ran.status == 0
    assert "6 of 6" in ran.out and "  dshrink profile MODEL" in ran.out
    assert "no weights here: random ones stand in" in ran.err
    ran = dshrink(*words, "--json")
    assert "6 of 6" in ran.err
    found = ran.data
    assert [one["file"] for one in found["networks"]][:2] == [None, str(tmp_path / "shrunk1.onnx")]
    assert found["report"] == str(tmp_path / "report.html")


def test_weights_that_cannot_be_had_are_random_and_say_so_once(
    tmp_path: Path, calls: list[str], table: LatencyTable
) -> None:
    choice = ModelChoice(model=MODEL, weights="pretrained")
    request = DemoRequest(choice=choice, folder=tmp_path)
    notices: list[str] = []
    steps = Demo.of(request, notice=notices.append)
    assert calls == ["load pretrained", "load random"]
    (line,) = notices
    assert line.startswith("no weights here: random ones stand in")
    assert steps.refit(table) is None
    assert notices[1:] == ["no refit: random weights have nothing to keep"]
    # A run that goes on stays with them.
    Demo.of(request, notice=notices.append)
    assert calls[2:] == ["load random"]
    assert len(notices) == 2
    with pytest.raises(NetworkError, match="no weights here"):
        Demo.of(replace(request, folder=tmp_path / "other", or_random=False))


def test_a_folder_of_another_demo_is_refused(tmp_path: Path, calls: list[str]) -> None:
    request = DemoRequest(choice=ModelChoice(model=MODEL), folder=tmp_path)
    Demo.of(request)
    with pytest.raises(DemoError, match="holds a demo with data None, now images: choose another"):
        Demo.of(replace(request, data="images"))


def test_the_blocks_that_are_refitted_have_a_skip_and_save_most(
    network: Callable[..., Network],
) -> None:
    inverted = network("mobilenetv2_035", 32)
    # As MobileNetV2 has them (Sandler et al., Tab. 2): all but the first block of each stage.
    table = synthetic_table([2.0] * 17, [2.0 - 0.05 * at for at in range(17)])
    plan = mild_plan(inverted, table)
    assert [at for at, kept in enumerate(plan.keep_mask) if kept == "0"] == [12, 14, 15]


def test_photographs_come_with_packages_and_are_copied_once(tmp_path: Path) -> None:
    written = write_photographs(tmp_path)
    assert {"china.jpg", "flower.jpg"} <= {path.name for path in written}
    written[0].write_bytes(b"mine")
    assert write_photographs(tmp_path) == written
    assert written[0].read_bytes() == b"mine"


def test_damaged_state_is_named(tmp_path: Path, calls: list[str]) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(DshrinkError, match=r"demo\.json: cannot be read"):
        Demo.of(DemoRequest(choice=ModelChoice(model=MODEL), folder=tmp_path))
