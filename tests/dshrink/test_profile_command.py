"""``dshrink profile`` and what it writes, on a device that follows a script."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from synthetic_tables import synthetic_table

from dshrink.cli import main as entry
from dshrink.network.models import load_network
from latency_tables.io import load_table, save_table
from latency_tables.measured import MILLISECONDS_AND_PERCENT
from latency_tables.onnx_file import NotRepresentableError
from latency_tables.opspec import Opaque, OpSpec
from latency_tables.origin import Origin
from latency_tables.schema import IN_NETWORK, Conditions
from latency_tables.span_masks import mask_of
from profiler.errors import SessionError
from profiler.fake_device import RUNTIME, RUNTIME_VERSION, FakeConnection, write_spec
from profiler.profile import ProfileRequest
from profiler.scheduling.serial import Scheduler, SerialScheduler

MODEL = "mobilenetv2_035"
CONDITIONS = Conditions(
    device="fake",
    runtime=RUNTIME,
    runtime_version=RUNTIME_VERSION,
    power_mode="performance",
    clock="thread_cpu",
)


def latency_ms(spec: OpSpec) -> float:
    """A network takes what its operators do; a piece alone pays for its ends as well."""
    whole = spec.input_shape[0] == 3 and len(spec.output_shape) == 1
    return 1e-6 * spec.macs + 0.01 * len(spec.ops) + (0.0 if whole else 0.02)


def layers(spec: OpSpec) -> list[tuple[str, float]]:
    """A profile by operators."""
    outputs = [*(f"t{number + 1}" for number in range(len(spec.ops) - 1)), "result"]
    return [
        (f"{output}/{op.kind}", 1e-6 * op.macs([spec.shapes[at] for at in op.inputs]) + 0.01)
        for output, op in zip(outputs, spec.ops, strict=True)
    ]


@pytest.fixture
def profile_command(monkeypatch, capsys):
    """``profile_command("profile", "x")`` returns status, stdout and stderr."""

    @contextmanager
    def measuring_on(target, notice) -> Iterator[tuple[Scheduler, Conditions]]:
        yield SerialScheduler(FakeConnection(latency_ms=latency_ms, layers=layers)), CONDITIONS

    def run(*words: object, build=write_spec) -> tuple[int, str, str]:
        monkeypatch.setattr("dshrink.operations.profile.measuring_on", measuring_on)
        monkeypatch.setattr("dshrink.operations.profile.build_onnx", build)
        monkeypatch.setattr(sys, "argv", ["dshrink", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            entry.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def words(folder, *more: object) -> list[object]:
    return ["profile", MODEL, "--resolution", 32, "--hold-out", 8, "--out", folder, *more]


def test_a_profile_prints_what_its_predictions_are_worth(tmp_path, profile_command):
    status, text, said = profile_command(*words(tmp_path))
    assert status == 0
    assert "jobs in the first round, about " in said
    assert "0 reused from the journal, 0 jobs failed" in said
    table = load_table(tmp_path)
    assert table.fit_for_search, table.fit_reason
    assert len(table.hold_out.networks) == 8
    assert table.hold_out.max_error_percent < 0.1
    assert "Usable: predictions within" in text
    assert "prediction error on 8 other networks: 0.0" in text
    fitted = sum(network.role == "fit" for network in table.networks)
    shown = profile_command("--verbose", "table", "check", tmp_path)[1]
    assert f"corrected by {fitted} whole networks" in shown
    assert "warning: " not in text
    assert table.profile_command.endswith("--resolution 32 --out DIR")
    shown = json.loads(profile_command("table", "show", tmp_path, "--json")[1])
    assert len(shown["networks"]) == len(table.networks)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ([], (20, 0.7, math.inf)),
        (["--target-error", 1.5, "--time-limit", 90, "--hold-out", 8], (8, 1.5, 90.0)),
    ],
)
def test_a_profile_is_asked_for_the_target_and_the_time_that_are_given(
    more, wanted, tmp_path, profile_command, monkeypatch
):
    asked: list[ProfileRequest] = []

    def stop(request: ProfileRequest, scheduler: Scheduler, **others: object) -> None:
        asked.append(request)
        raise SessionError("enough was asked")

    monkeypatch.setattr("dshrink.operations.profile.profile", stop)
    command = ["profile", MODEL, "--resolution", 32, "--out", tmp_path, *more]
    assert "enough was asked" in profile_command(*command)[2]
    (request,) = asked
    assert (request.check, request.target_percent, request.time_limit_s) == wanted


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--target-error", 0], "the target error (0 %) must be between 0 and 100 %"),
        (["--time-limit", 0], "--time-limit"),
        (["--hold-out", 3], "--hold-out"),
        (["--neighbours", 3], "No such option: --neighbours"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_measured(
    more, part, tmp_path, profile_command
):
    status, text, problem = profile_command(*words(tmp_path, *more))
    assert (status, text) == (2, "")
    assert part in problem
    assert list(tmp_path.iterdir()) == []


def test_spans_are_profiled_shown_and_predicted_from(tmp_path, profile_command):
    more = ("--segments", "spans", "--max-kernel", 5, "--hold-out", 8)
    status, text, said = profile_command(*words(tmp_path, *more))
    assert status == 0
    assert "171 spans of mobilenetv2_035" in said
    table = load_table(tmp_path)
    assert Counter(row.kind for row in table.rows) == {
        "stem": 1,
        "span": 171,
        "addition": 10,
        "head": 1,
    }
    assert table.profile_command.endswith(
        "--segments spans --span-mode kim2023 --max-kernel 5 --out DIR"
    )
    wide = [row for row in table.rows if row.verdict == "bounded" and row.rounds == 0]
    assert wide
    assert "merged kernel is 7 wide, at most 5 was asked for" in {
        row.reason.removeprefix("not measured: its ") for row in wide
    }
    bounded = sum(row.verdict == "bounded" for row in table.rows)
    assert f"{bounded} bounded" in text
    assert table.hold_out is not None
    assert len(table.hold_out.networks) == 8
    shown = profile_command("table", "show", tmp_path)[1]
    assert "bounded not measured" in " ".join(shown.split())
    mask = table.hold_out.networks[0].keep_mask
    for keep in (mask, f"spans:{mask}"):
        asked = profile_command("table", "predict", tmp_path, "--keep", keep, "--json")[1]
        data = json.loads(asked)
        assert data["latency_ms"] == pytest.approx(table.hold_out.networks[0].predicted_ms)
        assert data["padding"] == "repad"
    bounded = mask_of(50, set(range(1, 51)) - set(range(wide[0].start + 1, wide[0].end)), ())
    status, _, problem = profile_command("table", "predict", tmp_path, "--keep", bounded)
    assert status == 2
    assert f"{wide[0].piece!r}, which is bounded: not measured" in problem


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--segments", "layers"], "unknown --segments 'layers'; known: blocks, spans"),
        (["--segments", "spans", "--dense"], "use it with --segments blocks"),
        (["--max-kernel", "5"], "are for --segments spans"),
        (["--span-mode", "exact"], "are for --segments spans"),
        (["--segments", "spans", "--span-mode", "all"], "unknown span mode 'all'"),
    ],
)
def test_options_that_do_not_suit_the_segments_are_refused(more, part, tmp_path, profile_command):
    status, text, problem = profile_command(*words(tmp_path, *more))
    assert (status, text) == (2, "")
    assert part in problem
    assert list(tmp_path.iterdir()) == []


def test_a_published_table_is_shown_with_where_it_comes_from(tmp_path, profile_command):
    made = synthetic_table([2.0], [1.0])
    names = (*MILLISECONDS_AND_PERCENT, *IN_NETWORK)
    empty = {name: None for name in names if name != "latency_ms"}
    rows = [
        replace(row, **{**empty, "stdev_ms": 0.125}, verdict="published", samples=0, rounds=0)
        for row in made.rows
    ]
    origin = Origin(source="A paper", licence="MIT", note="on paper")
    save_table(replace(made, rows=tuple(rows), networks=(), estimate=None, origin=origin), tmp_path)
    shown = profile_command("table", "show", tmp_path)[1]
    assert "published, not measured by us: A paper; licence: MIT (on paper)" in shown
    assert "sd 0.1250" in shown
    assert "4 published" in shown
    assert "costs in the network" not in shown
    status, text, _ = profile_command("table", "check", tmp_path, "--json")
    assert status == 1
    assert json.loads(text)["origin"]["licence"] == "MIT"


def test_a_profile_that_measured_nothing_keeps_its_table_and_exits_with_1(
    tmp_path, profile_command
):
    def build(spec: OpSpec, **options: object) -> bytes:
        raise NotRepresentableError("operator 3 cannot be written to ONNX")

    status, _, said = profile_command(*words(tmp_path), build=build)
    assert status == 1
    assert "nothing could be measured: " in said and "operator 3 cannot be written" in said
    assert all(row.latency_ms is None for row in load_table(tmp_path).rows)


def test_what_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path, profile_command, monkeypatch
):
    net = load_network(MODEL, resolution=32)
    ops = (*net.spec.ops, Opaque(inputs=(len(net.spec.ops),), operator="Sort", shape=(1000,)))
    stuck = replace(ops[-1], reason="torch.onnx has no symbolic function for it")
    spec = OpSpec(input_shape=net.spec.input_shape, ops=(*ops[:-1], stuck))
    lowered = replace(net.lowered, spec=spec, layers=(*net.lowered.layers, "sorted"))
    network = replace(net, lowered=lowered)
    monkeypatch.setattr("dshrink.operations.profile.opened", lambda *a, **b: network)
    status, text, problem = profile_command(*words(tmp_path))
    assert (status, text) == (2, "")
    assert "1 of its operators cannot be written to ONNX" in problem
    assert "sorted (Sort): torch.onnx has no symbolic function for it; give " in problem
    assert list(tmp_path.iterdir()) == []
