"""Tables that cannot predict what is about to be measured are refused before it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import typer
from synthetic_tables import synthetic_table

from dshrink.cli.bench import exit_unless_measured
from dshrink.operations.bench import bench_networks
from dshrink.operations.bench_networks import BenchmarkError, BenchNetwork, NetworkFacts
from dshrink.operations.bench_rows import predicted
from dshrink.operations.bench_tables import require_tables_of, require_tables_under
from dshrink.results import BenchmarkResult
from latency_tables.io import save_table
from latency_tables.opspec import Conv, OpSpec
from profiler.planning.jobs import Job

TABLE = synthetic_table([2.0], [1.0])
AT = "there"


def a_network(model: str, resolution: tuple[int, int] = TABLE.resolution) -> BenchNetwork:
    conv = Conv(inputs=(0,), out_channels=4, kernel=(1, 1), pads=(0,) * 4, groups=1)
    spec = OpSpec(input_shape=(3, *resolution), ops=(conv,))
    return BenchNetwork(
        label=model,
        facts=NetworkFacts(model=model),
        resolution=resolution,
        job=Job(id=model, kind="network", label=model, spec=spec),
        original=True,
    )


def test_a_table_of_another_network_or_resolution_is_refused() -> None:
    require_tables_of({AT: TABLE}, [a_network("other"), a_network(TABLE.model)])
    for network in (a_network("other"), a_network(TABLE.model, (64, 64))):
        with pytest.raises(BenchmarkError, match=rf"the table there is of {TABLE.model} at "):
            require_tables_of({AT: TABLE}, [network])


def test_a_table_under_other_conditions_is_refused_with_what_differs() -> None:
    now = TABLE.conditions
    require_tables_under({AT: TABLE}, now, [now.batch])
    with pytest.raises(BenchmarkError, match="threads: 1 / 2"):
        require_tables_under({AT: TABLE}, replace(now, threads=2, clock="wall"), [now.batch])


def test_of_several_batch_sizes_the_table_is_of_one() -> None:
    at_8 = replace(TABLE.conditions, batch=8)
    both = [TABLE.conditions.batch, 8]
    require_tables_under({AT: TABLE}, at_8, both)
    require_tables_under({AT: TABLE}, at_8, None)
    with pytest.raises(BenchmarkError, match="batch: 1 / 8"):
        require_tables_under({AT: TABLE}, at_8, [8, 16])


def test_the_tag_of_a_network_of_timm_makes_no_other_network() -> None:
    tagged = a_network(f"{TABLE.model}.ra_in1k")
    require_tables_of({AT: TABLE}, [tagged])
    assert predicted(tagged, TABLE.conditions, [TABLE], print) is not None


def test_a_table_that_cuts_the_network_otherwise_says_why_it_predicts_nothing() -> None:
    said: list[str] = []
    facts = NetworkFacts(model=TABLE.model, segments="spans", keep_mask="|0|")
    merged = replace(a_network(TABLE.model), label="m.onnx", facts=facts, original=False)
    assert predicted(merged, TABLE.conditions, [TABLE], said.append) is None
    assert said == [
        "no prediction for m.onnx: its plan merges spans, the table is of blocks (dshrink profile "
        "--segments spans)"
    ]


def test_bench_refuses_such_a_table_before_it_reaches_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_table(TABLE, tmp_path / "table")
    monkeypatch.setattr("dshrink.operations.bench.measuring_on", None)
    with pytest.raises(BenchmarkError, match="not among the networks to measure"):
        bench_networks(["mobilenetv2_035"], tmp_path / "r.csv", tables=[tmp_path / "table"])


def result(network: str, latency_ms: float | None) -> BenchmarkResult:
    return BenchmarkResult(
        network=network,
        device="local",
        runtime="onnxruntime",
        precision="fp32",
        batch=1,
        threads=1,
        latency_ms=latency_ms,
        throughput_fps=None,
        throughput_low_fps=None,
        throughput_high_fps=None,
        verdict="ok" if latency_ms else "failed",
        reason="" if latency_ms else "not_supported: no such\noperator",
    )


@pytest.mark.parametrize(
    ("latencies", "said"),
    [
        ([None, None], "nothing could be measured: a, batch 1: not_supported: no such operator"),
        ([1.0, None], "not all (1 failed) could be measured: b, batch 1: not_supported"),
    ],
)
def test_networks_without_a_latency_end_with_status_1_and_why(
    latencies: list[float | None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as end:
        exit_unless_measured([result(n, ms) for n, ms in zip("ab", latencies, strict=True)])
    assert end.value.exit_code == 1
    assert said in capsys.readouterr().err


def test_where_all_have_a_latency_the_command_goes_on() -> None:
    exit_unless_measured([result("a", 1.0)])
