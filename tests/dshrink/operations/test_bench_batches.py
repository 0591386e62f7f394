"""Several batch sizes on a scripted device: sweeps, records and the picture beside the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dshrink.errors import DshrinkError
from dshrink.operations import bench, bench_run
from dshrink.operations.bench import bench_networks
from dshrink.operations.bench_networks import BenchNetwork, NetworkFacts
from dshrink.plots import PlotError, batches_figure
from dshrink.results import BenchmarkResult, load_results
from dshrink.saturation import saturated_from
from latency_tables.opspec import Conv, OpSpec
from latency_tables.schema import Conditions
from profiler.errors import SessionError
from profiler.fake_device import RUNTIME, RUNTIME_VERSION, FakeConnection, write_spec
from profiler.planning.jobs import Job
from profiler.schedule import FixedRounds
from profiler.scheduling.serial import SerialScheduler
from profiler.target import Target

CONDITIONS = Conditions(
    device="fake",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)


def spec_of(channels: int) -> OpSpec:
    conv = Conv(inputs=(0,), out_channels=channels, kernel=(1, 1), pads=(0,) * 4, groups=1)
    return OpSpec(input_shape=(3, 8, 8), ops=(conv,))


@dataclass(kw_only=True)
class Device:
    """Latency by network and batch, and how many images fit; ``measured`` counts visits."""

    latency_ms: dict[str, Callable[[int], float]]
    fits: dict[str, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    measured: int = 0

    @property
    def specs(self) -> dict[str, OpSpec]:
        return {name: spec_of(at + 1) for at, name in enumerate(self.latency_ms)}

    @contextmanager
    def measuring_on(self, target: Target, notice: Any) -> Iterator[Any]:
        batch = target.batch or 1
        self.batches.append(batch)
        names = {spec.digest: name for name, spec in self.specs.items()}

        def latency(spec: OpSpec) -> float:
            self.measured += 1
            return self.latency_ms[names[spec.digest]](batch)

        def fault(spec: OpSpec, call: int) -> str | None:
            return "out_of_memory" if batch > self.fits.get(names[spec.digest], 1 << 30) else None

        connection = FakeConnection(latency_ms=latency, fault=fault, noise=0.002, round_noise=0.02)
        yield SerialScheduler(connection), replace(CONDITIONS, batch=batch)

    def networks_at(self, inputs: Any, batch: int) -> list[BenchNetwork]:
        return [
            BenchNetwork(
                label=name,
                facts=NetworkFacts(model=name),
                resolution=(8, 8),
                job=Job(id=name, kind="network", label=name, spec=spec),
                baseline="" if name == "a" else "a",
            )
            for name, spec in self.specs.items()
        ]


def saturating(at: int, ms: float = 1.0) -> Callable[[int], float]:
    """As long for a batch up to ``at``, then in proportion."""
    return lambda batch: ms * max(batch, at) / at


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``on(device, ...)``: the results and the notices of a benchmark in the test's folder."""

    def run(device: Device, **more: Any) -> tuple[list[BenchmarkResult], list[str]]:
        monkeypatch.setattr(bench, "measuring_on", device.measuring_on)
        monkeypatch.setattr(bench.BenchInputs, "at", lambda *asked: device.networks_at(*asked))
        monkeypatch.setattr(bench_run, "build_onnx", write_spec)
        monkeypatch.setattr(bench_run, "BENCH_ROUNDS", FixedRounds(rounds=4))
        notices: list[str] = []
        found = bench_networks(
            [*device.latency_ms],
            tmp_path / "r.csv",
            notice=notices.append,
            **more,
        )
        return found, notices

    return run


def batches_of(results: Sequence[BenchmarkResult], name: str) -> list[int]:
    return [r.batch for r in results if r.network == name]


# where throughput saturates


@pytest.mark.parametrize(
    ("throughput", "batch"),
    [
        ({1: 100.0, 2: 102.0, 4: 104.0}, 1),
        ({1: 100.0, 2: 180.0, 4: 240.0, 8: 250.0, 16: 251.0}, 4),
        ({1: 100.0, 2: 200.0, 4: 400.0}, None),
        ({1: 100.0, 2: 100.0}, None),
        # Of batch sizes that are no doublings the next larger one counts.
        ({1: 10.0, 8: 50.0, 16: 51.0, 64: 51.5}, 8),
        ({}, None),
    ],
)
def test_throughput_saturates_where_two_doublings_bring_less_than_5_percent(
    throughput: dict[int, float], batch: int | None
) -> None:
    assert saturated_from(throughput) == batch


# sweeps


def test_a_sweep_ends_when_all_networks_are_saturated(on: Any) -> None:
    device = Device(latency_ms={"a": saturating(1), "b": saturating(4)})

    found, _ = on(device, sweep=True)

    # b gains up to 4; 16 is two doublings further.
    assert device.batches == [1, 2, 4, 8, 16]
    assert batches_of(found, "a") == batches_of(found, "b") == [1, 2, 4, 8, 16]
    assert {r.baseline for r in found} == {"a"}
    of_b = {r.batch: r for r in found if r.network == "b"}
    assert of_b[16].speedup == pytest.approx(4.0, rel=0.02)
    assert of_b[1].compared == "equal" and of_b[2].compared == "faster"


def test_the_end_of_memory_ends_a_sweep_and_is_no_failure(on: Any) -> None:
    device = Device(latency_ms={"a": saturating(64), "b": saturating(64)}, fits={"a": 2, "b": 8})

    found, notices = on(device, sweep=True)

    assert batches_of(found, "a") == [1, 2]
    assert batches_of(found, "b") == [1, 2, 4, 8]
    assert all(r.verdict != "failed" for r in found)
    # Without its baseline b is compared with what is left.
    assert [r.baseline for r in found if r.network == "b"][2:] == ["a", "b"]
    assert notices[:2] == [
        "a: batch 4 is more than the device's memory",
        "b: batch 16 is more than the device's memory",
    ]


def test_where_no_network_fits_any_more_the_sweep_ends(on: Any) -> None:
    """A session stops after a few failures in a row, which are no jobs' fault."""
    names = "abcdef"
    device = Device(latency_ms=dict.fromkeys(names, saturating(64)), fits=dict.fromkeys(names, 2))

    found, notices = on(device, sweep=True)

    assert sorted({r.batch for r in found}) == [1, 2]
    assert notices[0] == "batch 4: more than the device's memory; the sweep ends"


def test_where_not_even_one_image_fits_that_is_a_failure(on: Any) -> None:
    names = "abcdef"
    with pytest.raises(SessionError, match="out_of_memory"):
        on(Device(latency_ms=dict.fromkeys(names, saturating(2)), fits=dict.fromkeys(names, 0)),
           sweep=True)  # fmt: skip


def test_one_network_of_which_no_image_fits_is_a_failure_beside_the_others(on: Any) -> None:
    few = Device(latency_ms={"a": saturating(2), "b": saturating(2)}, fits={"a": 0})

    found, _ = on(few, sweep=True)

    assert [r.verdict for r in found if r.network == "a"] == ["failed"]
    assert batches_of(found, "b") == [1, 2, 4, 8]


def test_memory_that_ends_in_batches_asked_for_is_a_failure(on: Any) -> None:
    device = Device(latency_ms={"a": saturating(4), "b": saturating(4)}, fits={"b": 2})

    found, _ = on(device, batches=[1, 4])

    failed = [(r.network, r.batch) for r in found if r.latency_ms is None]
    assert failed == [("b", 4)]


def test_what_ends_a_batch_does_not_take_the_results_of_those_before(
    on: Any, tmp_path: Path
) -> None:
    names = "abcdef"
    device = Device(latency_ms=dict.fromkeys(names, saturating(4)), fits=dict.fromkeys(names, 2))

    with pytest.raises(SessionError, match="out_of_memory"):
        on(device, batches=[1, 2, 4])

    assert batches_of(load_results(tmp_path / "r.csv").results, "a") == [1, 2]
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2 * len(names)


def test_a_batch_is_in_a_journal_of_its_own_and_measured_once(on: Any, tmp_path: Path) -> None:
    device = Device(latency_ms={"a": saturating(2), "b": saturating(8)})
    first, _ = on(device, batches=[1, 8])
    assert sorted(path.name for path in tmp_path.glob("*.journal")) == [
        f"r.batch{batch}.journal" for batch in (1, 8)
    ]
    written = {name: (tmp_path / name).read_bytes() for name in ("r.csv", "r.jsonl", "r.md")}

    measured = device.measured
    again, _ = on(device, batches=[1, 8])

    assert device.measured == measured
    assert again == first
    assert written == {name: (tmp_path / name).read_bytes() for name in written}


def test_one_batch_keeps_its_journal_and_draws_nothing(on: Any, tmp_path: Path) -> None:
    device = Device(latency_ms={"a": saturating(2)})
    on(device, batches=[4])
    assert device.batches == [4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "r.csv", "r.journal", "r.jsonl", "r.md",
    ]  # fmt: skip


def test_what_excludes_each_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DshrinkError, match="--sweep chooses the batch sizes itself"):
        bench_networks(["a"], tmp_path / "r.csv", batches=[2], sweep=True)
    with pytest.raises(DshrinkError, match=r"written beside the CSV: name it r\.csv"):
        bench_networks(["a"], tmp_path / "r.md")


# records


def test_a_line_of_json_says_all_about_a_result(on: Any, tmp_path: Path) -> None:
    found, _ = on(Device(latency_ms={"a": saturating(2), "b": saturating(4)}), batches=[1, 4])

    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]

    assert [(line["network"], line["batch"]) for line in lines] == [
        ("a", 1), ("b", 1), ("a", 4), ("b", 4),
    ]  # fmt: skip
    names = BenchmarkResult.__dataclass_fields__
    for line, result in zip(lines, found, strict=True):
        assert {name: line[name] for name in names} == {
            name: getattr(result, name) for name in names
        }
        conditions = replace(CONDITIONS, batch=result.batch)
        assert line["conditions"] == conditions.to_json()
        assert line["conditions_digest"] == conditions.digest
        assert line["fingerprint"]["cpu_model"] == "scripted"
        assert line["level"] is None or line["level"]["processes"] >= 4
        assert line["processes"] == 4 and line["samples"] > 0 and line["measured_s"] > 0
        assert {"host", "dshrink_version", "date", "seed_of_order"} <= line.keys()
        assert str(tmp_path) not in json.dumps(line)


def test_the_page_says_what_was_measured_how_and_what_words_mean(on: Any, tmp_path: Path) -> None:
    found, _ = on(Device(latency_ms={"a": saturating(1), "b": saturating(64, 2.0)}), sweep=True)

    page = (tmp_path / "r.md").read_text()

    head, *_ = page.splitlines()
    assert head.startswith(f"# Throughput on fake, {RUNTIME} {RUNTIME_VERSION}, fp32, batch 1, 2,")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "aligned as plain text"
    header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    assert len(rows) == len(found)
    assert not {"built in s", "predicted ms", "accuracy %"} & set(header)
    for row, result in zip(rows, found, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells["network"] == result.network and int(cells["batch"]) == result.batch
        assert float(cells["speed-up"]) == pytest.approx(result.speedup, abs=6e-4)
        assert cells["compared"] == result.compared
    assert "*faster* or *slower*" in page and "The rank is 1 plus" in page
    assert "- a: throughput saturates at batch 1" in page
    assert "## How it was measured" in page and "scripted" in page


def test_failures_are_warnings_on_the_page(on: Any, tmp_path: Path) -> None:
    on(Device(latency_ms={"a": saturating(1), "b": saturating(1)}, fits={"b": 0}), batches=[1])

    page = (tmp_path / "r.md").read_text()
    assert "## Warnings" in page and "- b, batch 1: failed, out_of_memory: the script" in page


# the picture


def test_the_picture_has_a_line_a_network_and_rings_where_throughput_saturates(
    on: Any, tmp_path: Path
) -> None:
    found, notices = on(Device(latency_ms={"a": saturating(1), "b": saturating(4)}), sweep=True)
    assert (tmp_path / "r.png").exists() and (tmp_path / "r.svg").exists()
    assert notices[-1] == f"wrote {tmp_path / 'r.png'} and {tmp_path / 'r.svg'}"

    throughput, latency = batches_figure(load_results(tmp_path / "r.csv").results).axes

    for axes, column in ((throughput, "throughput_fps"), (latency, "latency_ms")):
        drawn = {one.get_label(): one.lines[0] for one in axes.containers}
        assert list(drawn) == ["a", "b"]
        assert drawn["a"].get_color() != drawn["b"].get_color()
        for name, line in drawn.items():
            of_network = [r for r in found if r.network == name]
            assert list(line.get_xdata()) == [r.batch for r in of_network]
            assert list(line.get_ydata()) == [getattr(r, column) for r in of_network]
    (rings,) = [one for one in throughput.collections if one.get_label() == "_saturated"]
    assert [int(batch) for batch, _ in rings.get_offsets()] == [1, 4]
    assert latency.get_xscale() == "log"
    assert [tick.get_text() for tick in latency.get_xticklabels()] == ["1", "2", "4", "8", "16"]


def test_one_batch_size_is_no_picture(on: Any) -> None:
    found, _ = on(Device(latency_ms={"a": saturating(1)}), batches=[2])
    with pytest.raises(PlotError, match="none of the 1 results is of a network at two batch"):
        batches_figure(found)
