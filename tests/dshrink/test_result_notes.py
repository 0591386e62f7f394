"""What is said beside results: failures each, doubts once."""

from __future__ import annotations

from dshrink.result_notes import result_notes
from dshrink.results import BenchmarkResult


def row(network: str, verdict: str = "ok", reason: str = "", batch: int = 1) -> BenchmarkResult:
    return BenchmarkResult(
        network=network,
        device="shed",
        runtime="onnxruntime",
        precision="fp32",
        batch=batch,
        threads=1,
        throughput_fps=1.0,
        throughput_low_fps=1.0,
        throughput_high_fps=1.0,
        verdict=verdict,
        reason=reason,
    )


def doubted(name: str, percent: float) -> BenchmarkResult:
    return row(name, "noisy", f"known to ±{percent} % (target: ±1 %) from 6 processes")


def test_noisy_networks_are_one_line_with_the_worst() -> None:
    failed = row("c", "failed", "out of\nmemory")
    results = [doubted("a", 1.2), doubted("b", 3.4), failed]
    assert [*result_notes(results)] == [
        "c: failed, out of memory",
        "2 of 3 networks are noisy, the worst b: known to ±3.4 % (target: ±1 %) from 6 processes; "
        "close other programs and measure into another file",
    ]


def test_one_doubt_names_its_network_and_batch() -> None:
    (said,) = result_notes([doubted("a", 1.2), row("b", batch=8)])
    assert said.startswith("1 of 2 networks is noisy, a, batch 1: known to ±1.2 %")


def test_each_is_said_where_details_are_asked_for() -> None:
    said = [*result_notes([doubted("a", 1.2), doubted("b", 3.4)], each=True)]
    assert [line.partition(":")[0] for line in said] == ["a", "b"]
