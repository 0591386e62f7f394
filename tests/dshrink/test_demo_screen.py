"""The demo's last screen: what it says of a quiet run, a disturbed one and one with weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dshrink.cli import demo, grids, render_demo
from dshrink.cli.render_demo import print_demo
from dshrink.operations.demo_results import DemoAgreement, DemoNetwork, DemoResult
from dshrink.refit.agreement import Closeness
from dshrink.results import BenchmarkResult

Show = Callable[..., list[str]]

CLOSENESS = Closeness(
    images=13,
    agreement_percent={"algebraic": 0.0, "refitted": 46.2},
    in_top5_percent={"algebraic": 0.0, "refitted": 84.6},
    error={"algebraic": 4.88, "refitted": 0.18},
    accuracy_percent={},
)


def measured(
    name: str, kept: int, ms: float, predicted_ms: float, whole_ms: float = 14.24
) -> BenchmarkResult:
    return BenchmarkResult(
        network=name, kept_blocks=kept, device="local", runtime="onnxruntime", precision="fp32",
        batch=1, threads=1, clock="thread_cpu", statistic="quiet", latency_ms=ms, low_ms=ms * 0.993,
        high_ms=ms * 1.007, throughput_fps=1000 / ms, throughput_low_fps=993 / ms,
        throughput_high_fps=1007 / ms, predicted_ms=predicted_ms,
        predicted_low_ms=predicted_ms * 0.98, predicted_high_ms=predicted_ms * 1.02,
        verdict="ok", speedup=whole_ms / ms, speedup_low=0.99 * whole_ms / ms,
        speedup_high=1.01 * whole_ms / ms,
    )  # fmt: skip


def result(factor: float = 1.0, **more: Any) -> DemoResult:
    """Networks that take ``factor`` times what the table says."""
    rows = [(13, 11.83, 11.9), (10, 10.95, 11.0), (3, 9.77, 9.84)]
    first = measured("mobilenetv2_140", 17, 14.24 * factor, 14.24)
    others = [
        DemoNetwork(
            result=measured(f"shrunk{number}.onnx", kept, ms * factor, ms, 14.24 * factor),
            blocks=17,
            budget_ms=budget_ms,
            plan=f"demo/plan{number}.json",
            file=f"demo/shrunk{number}.onnx",
            certificate=number * 1e-15,
        )
        for number, (kept, ms, budget_ms) in enumerate(rows, start=1)
    ]
    found = DemoResult(
        model="mobilenetv2_140",
        resolution=(224, 224),
        weights="random",
        table="demo/table",
        fit_for_search=True,
        usable="Usable: predictions within 0.8 % on average (limit 2 %); single rows are rough: 40 "
        "of 52 known to worse than ±10 %",
        networks=(DemoNetwork(result=first, blocks=17), *others),
        agreement=None,
        notes=(),
        report="demo/report.html",
        pictures="demo/pictures",
    )
    return replace(found, **more)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """``show(result)``: the lines on a terminal of 80 columns; ``width=None``: in a pipe."""

    def lines(one: DemoResult, width: int | None = 80) -> list[str]:
        for module in (grids, render_demo):
            monkeypatch.setattr(module, "screen_width", lambda: width)
        monkeypatch.setenv("COLUMNS", str(width or 80))
        print_demo(one)
        return capsys.readouterr().out.splitlines()

    return lines


def text(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())


DISTURBED = dict(
    fit_for_search=False,
    usable="NOT fit for search: predictions are off by 4.8 % on average; close other programs and "
    "profile again into another folder, or search with --allow-unfit",
    notes=(
        "4 of 4 networks are noisy, the worst shrunk3.onnx: known to ±3.1 %; close other programs "
        "and measure into another file",
    ),
    agreement=DemoAgreement(merged=3, predicted_speedup=1.06, closeness=CLOSENESS),
)


@pytest.mark.parametrize("one", [result(), result(factor=1.06, **DISTURBED)])
def test_the_screen_fits_80_columns_and_40_lines_and_cuts_no_number(
    one: DemoResult, show: Show
) -> None:
    lines = show(one)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    said = text(lines)
    for network in one.networks:
        assert f"{network.result.latency_ms:.2f} +- " in said
        assert f"{network.result.predicted_ms:.2f} +- " in said
    for name in ("shrunk1.onnx", "13/17", "11.9 ms", "demo/report.html", "demo/pictures"):
        assert name in said
    assert [line.strip() for line in lines if line.startswith("  dshrink")] == [
        *render_demo.OWN,
        render_demo.TUNE,
    ]


def test_a_quiet_run_says_that_its_predictions_hold(show: Show) -> None:
    said = text(show(result()))
    assert "now it takes 14.24 ms, 70.2 frames per second" in said
    assert "table Usable: predictions within 0.8 %" in said
    assert "latencies off by 0.0 % at most, 4 of 4 measured intervals meet" in said
    assert "predicted speed-ups: 1.204, 1.300, 1.458" in said
    assert "disturbed" not in said
    assert "to 3e-15 in float64" in said
    assert "accuracy not measured: the weights are random" in said


def test_a_machine_at_another_speed_is_told_apart_from_wrong_predictions(show: Show) -> None:
    said = text(show(result(factor=1.06)))
    assert "0 of 4 measured intervals" in said
    assert "it was disturbed: everything ran 6.0 % slower" in said
    assert "predicted speed-ups: 1.204, 1.300, 1.458" in said
    # One network that is off is not the machine's fault.
    one = result()
    wrong = replace(one.networks[3], result=measured("shrunk3.onnx", 3, 10.5, 9.77))
    said = text(show(replace(one, networks=(*one.networks[:3], wrong))))
    assert "3 of 4 measured intervals" in said
    assert "disturbed" not in said


def test_with_weights_the_agreement_is_said_and_no_accuracy(show: Show) -> None:
    agreement = DemoAgreement(merged=3, predicted_speedup=1.06, closeness=CLOSENESS)
    said = text(show(result(agreement=agreement, weights="pretrained"), width=None))
    assert (
        "with 3 blocks merged (predicted: 1.06 times as fast) the network names the original's "
        "class for 0 % on 13 crops of photographs that were not fitted; refitted, without labels "
        "or training, for 46 % (85 % among its first five)"
    ) in said
    assert "accuracy not measured" in said
    no_logits = replace(CLOSENESS, agreement_percent={}, in_top5_percent={})
    said = text(show(result(agreement=replace(agreement, closeness=no_logits)), width=None))
    assert "is 4.88; refitted, without labels or training, 0.18" in said


def test_a_network_that_failed_is_named_and_the_rest_is_shown(show: Show) -> None:
    unknown = dict.fromkeys(
        ("latency_ms", "low_ms", "high_ms", "throughput_fps", "throughput_low_fps",
         "throughput_high_fps", "speedup", "speedup_low", "speedup_high"),
    )  # fmt: skip
    one = result()
    failed = replace(one.networks[2].result, **unknown, verdict="failed", reason="crash")
    networks = (*one.networks[:2], replace(one.networks[2], result=failed), one.networks[3])
    said = text(show(replace(one, networks=networks, notes=("shrunk2.onnx: failed, crash",))))
    assert "not known" in said
    assert "shrunk2.onnx: failed, crash" in said
    assert "3 of 3 measured intervals" in said


def test_the_network_of_the_demo_is_one_of_the_paper() -> None:
    from dshrink.search.published import published_masks

    model = demo.command.__defaults__[1]  # type: ignore[index]
    assert model in {mask.base_model for mask in published_masks().values()}
