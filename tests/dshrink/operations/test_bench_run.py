"""A benchmark on a scripted device: speed-ups against baselines, ranks, and what a row says."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dshrink.operations import bench_run
from dshrink.operations.bench import run_benchmark
from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork, NetworkFacts
from dshrink.results import BenchmarkResult, load_results, save_results
from latency_tables.opspec import Conv, OpSpec
from latency_tables.schema import Conditions
from profiler.fake_device import CRASH, RUNTIME, RUNTIME_VERSION, FakeConnection, write_spec
from profiler.measurement import Measurement
from profiler.planning.jobs import Job
from profiler.scheduling.serial import SerialScheduler

CONDITIONS = Conditions(
    device="fake",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)
MS = {"base": 4.0, "twin": 4.0, "fast": 2.0, "slow": 5.0}


def bench_network(label: str, channels: int, **more: Any) -> BenchNetwork:
    conv = Conv(inputs=(0,), out_channels=channels, kernel=(1, 1), pads=(0,) * 4, groups=1)
    spec = OpSpec(input_shape=(3, 8, 8), ops=(conv,))
    job = Job(id=label, kind="network", label=label, spec=spec)
    facts = NetworkFacts(model=label)
    return BenchNetwork(label=label, facts=facts, resolution=(8, 8), job=job, **more)


NETWORKS = [bench_network(label, at + 1) for at, label in enumerate(MS)]
DIGESTS = {one.job.spec.digest: one.label for one in NETWORKS}  # type: ignore[union-attr]


def scripted(networks: list[BenchNetwork], folder: Path, **script: Any) -> list[BenchmarkResult]:
    """What a device with levels that move by 10 % says of the networks."""
    luck = random.Random(7)
    settings: dict[str, Any] = {
        "latency_ms": lambda spec: MS[DIGESTS[spec.digest]] * math.exp(luck.gauss(0, 0.005)),
        "round_noise": 0.1,
        "noise": 0.002,
        **script,
    }
    scheduler = SerialScheduler(FakeConnection(**settings))
    return run_benchmark(networks, CONDITIONS, scheduler, folder)


@pytest.fixture(autouse=True)
def files_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "build_onnx", write_spec)


def test_networks_are_compared_with_the_first_one(tmp_path: Path) -> None:
    base, twin, fast, slow = scripted(NETWORKS, tmp_path)

    assert [r.baseline for r in (base, twin, fast, slow)] == ["base"] * 4
    assert (base.speedup, base.speedup_low, base.speedup_high, base.compared) == (1, None, None, "")
    for found, verdict in ((twin, "equal"), (fast, "faster"), (slow, "slower")):
        true = MS["base"] / MS[found.network]
        assert found.speedup_low < true < found.speedup_high
        assert found.speedup_high / found.speedup_low < 1.04
        assert found.compared == verdict
    assert [r.rank for r in (base, twin, fast, slow)] == [2, 2, 1, 4]
    assert fast.speedup == pytest.approx(base.latency_ms / fast.latency_ms, rel=0.02)


def test_a_network_may_name_its_baseline(tmp_path: Path) -> None:
    networks = [*NETWORKS[:3], replace(NETWORKS[3], baseline="fast")]

    *others, slow = scripted(networks, tmp_path)

    assert [r.baseline for r in others] == ["base"] * 3
    assert slow.baseline == "fast" and slow.compared == "slower"
    assert slow.speedup == pytest.approx(2.0 / 5.0, rel=0.02)


def test_a_baseline_that_is_not_there_is_refused(tmp_path: Path) -> None:
    networks = [NETWORKS[0], replace(NETWORKS[1], baseline="absent")]
    with pytest.raises(BenchmarkError, match="twin: its baseline absent is not measured: name one"):
        scripted(networks, tmp_path)


def test_where_the_first_fails_the_next_is_the_baseline(tmp_path: Path) -> None:
    def fault(spec: OpSpec, call: int) -> str | None:
        return "bad_model" if DIGESTS[spec.digest] == "base" else None

    named = [*NETWORKS[:3], replace(NETWORKS[3], baseline="base")]
    base, twin, fast, slow = scripted(named, tmp_path, fault=fault)

    assert (base.verdict, base.speedup, base.rank, base.p50_ms) == ("failed", None, None, None)
    assert base.baseline == "twin"
    assert (twin.speedup, twin.speedup_low) == (1.0, None)
    assert fast.baseline == "twin" and fast.compared == "faster"
    assert (slow.baseline, slow.speedup, slow.compared) == ("base", None, "")


def test_a_network_that_was_given_up_is_in_no_ranking(tmp_path: Path) -> None:
    def fault(spec: OpSpec, call: int) -> str | None:
        return CRASH if DIGESTS[spec.digest] == "fast" and call > 1 else None

    base, _, fast, slow = scripted(NETWORKS, tmp_path, fault=fault)

    assert (fast.latency_ms, fast.speedup, fast.rank) == (None, None, None)
    assert (base.rank, slow.rank) == (1, 3)


def test_rounds_go_on_until_the_ratio_is_known(tmp_path: Path) -> None:
    """Only one is noisy; what it is compared with is measured beside it."""
    calls: dict[str, int] = {}

    def fault(spec: OpSpec, call: int) -> None:
        calls[DIGESTS[spec.digest]] = call + 1

    def latency(spec: OpSpec) -> float:
        name = DIGESTS[spec.digest]
        luck = random.Random(f"{name} {calls[name]}")
        return MS[name] * math.exp(luck.gauss(0.0, 0.015 if name == "fast" else 0.001))

    found = scripted(NETWORKS, tmp_path, latency_ms=latency, fault=fault, round_noise=0.05)

    assert calls["fast"] > 6
    assert calls["base"] == calls["fast"]
    assert calls["twin"] == calls["slow"] == 6
    assert found[2].speedup_high / found[2].speedup_low < 1.06


def test_a_run_that_is_in_the_journal_measures_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = scripted(NETWORKS, tmp_path)

    def refuse(spec: OpSpec) -> float:
        raise AssertionError("nothing is left to measure")

    assert scripted(NETWORKS, tmp_path, latency_ms=refuse) == first


def test_percentiles_are_of_single_samples(tmp_path: Path) -> None:
    base, *_ = scripted(NETWORKS, tmp_path, round_noise=0.0, noise=0.1, latency_ms=lambda spec: 4.0)

    assert base.median_ms == base.p50_ms
    # |normal| of 10 % on top of 4 ms.
    assert base.p50_ms == pytest.approx(4.0 * 1.0674, rel=0.02)
    assert base.p95_ms == pytest.approx(4.0 * 1.196, rel=0.05)
    assert base.p95_ms < base.p99_ms


def test_memory_and_energy_are_those_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measurement, "peak_memory_bytes", 3 << 20)
    monkeypatch.setattr(Measurement, "energy_j", 0.5)

    base, *_ = scripted(NETWORKS, tmp_path)

    assert (base.peak_memory_mib, base.energy_mj) == (3.0, 500.0)


def test_results_are_read_back_and_files_of_before_still_load(tmp_path: Path) -> None:
    found = scripted(NETWORKS, tmp_path / "journal")
    save_results(found, tmp_path / "r.csv")
    assert load_results(tmp_path / "r.csv").results == tuple(found)

    new = ("baseline", "speedup", "speedup_low", "speedup_high", "compared", "rank", "p50_ms")
    new += ("p95_ms", "p99_ms", "peak_memory_mib", "energy_mj")
    lines = [line.split(",") for line in (tmp_path / "r.csv").read_text().splitlines()]
    kept = [at for at, name in enumerate(lines[0]) if name not in new]
    (tmp_path / "old.csv").write_text(
        "\n".join(",".join(line[at] for at in kept) for line in lines) + "\n"
    )
    old = load_results(tmp_path / "old.csv").results
    assert [one.latency_ms for one in old] == [one.latency_ms for one in found]
    assert {(one.baseline, one.speedup, one.rank) for one in old} == {("", None, None)}
