from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from synthetic_tables import CONDITIONS, synthetic_row

from latency_tables.errors import ConditionsError, TableFormatError
from latency_tables.measured import one_line
from latency_tables.records import convert_record
from latency_tables.schema import COLUMNS, Conditions, Row


def read_conditions(data: object) -> Conditions:
    return convert_record(data, Conditions, where="here", error=ConditionsError, fix="edit it")


def test_the_columns_are_frozen() -> None:
    assert ",".join(COLUMNS) == (
        "piece,kind,block,first_layer,last_layer,digest,in_network_ms,"
        "in_network_low_ms,in_network_high_ms,profiled_ms,latency_ms,low_ms,high_ms,median_ms,"
        "iqr_ms,min_ms,p90_ms,p99_ms,wall_latency_ms,cpu_latency_ms,samples,rounds,"
        "round_spread_percent,macs,parameters,peak_activations,verdict,reason,board,enqueue_ms,"
        "built_precision,start,end,stdev_ms,conditions"
    )


def test_conditions_come_back_from_json() -> None:
    conditions = replace(CONDITIONS, precision="fp16", batch=8, threads=2, power_mode="15 W")
    assert read_conditions(conditions.to_json()) == conditions


def test_every_condition_changes_the_digest() -> None:
    changes = {
        "device": "elsewhere",
        "runtime": "other",
        "runtime_version": "2",
        "precision": "fp16",
        "batch": 2,
        "threads": 2,
        "power_mode": "max",
        "cache_mode": "cold",
        "clock": "thread_cpu",
        "statistic": "quiet",
    }
    digests = {replace(CONDITIONS, **{name: value}).digest for name, value in changes.items()}
    assert {*changes, "launch"} == {field.name for field in fields(Conditions)}
    changes["launch"] = "cuda_graph"
    digests.add(replace(CONDITIONS, launch="cuda_graph").digest)
    assert len(digests | {CONDITIONS.digest}) == len(changes) + 1
    assert all(len(digest) == 8 for digest in digests)


def test_the_digest_of_conditions_is_the_same_on_every_machine() -> None:
    assert CONDITIONS.digest == "f25d8126"


def test_differing_conditions_are_named() -> None:
    other = replace(CONDITIONS, batch=8, precision="fp16")
    assert CONDITIONS.differences(other) == ("precision: fp32 / fp16", "batch: 1 / 8")
    assert CONDITIONS.differences(CONDITIONS) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", ""),
        ("runtime", "two\nlines"),
        ("precision", "fp-16"),
        ("batch", 0),
        ("threads", -1),
        ("cache_mode", "warm"),
        ("clock", "sundial"),
        ("statistic", "mean"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConditionsError, match=name):
        replace(CONDITIONS, **{name: value})


def test_the_cpu_time_of_one_thread_cannot_time_two() -> None:
    with pytest.raises(ConditionsError, match="one thread only, got 2 threads"):
        replace(CONDITIONS, clock="thread_cpu", threads=2)


@pytest.mark.parametrize(
    "data", [[], {"device": "a"}, {**CONDITIONS.to_json(), "batch": "1"}, {"colour": "red"}]
)
def test_json_that_is_no_conditions_is_refused(data: object) -> None:
    with pytest.raises(ConditionsError):
        read_conditions(data)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latency_ms", None, "latency_ms is empty"),
        ("latency_ms", math.nan, "latency_ms must be a finite number"),
        ("p99_ms", math.inf, "p99_ms must be a finite number"),
        ("min_ms", 0.0, "min_ms must be above 0"),
        ("wall_latency_ms", -1.0, "wall_latency_ms must be above 0"),
        ("cpu_latency_ms", -1.0, "cpu_latency_ms must be above 0"),
        ("iqr_ms", -0.1, "iqr_ms must be 0 or more"),
        ("low_ms", 1.1, "low_ms <= latency_ms <= high_ms"),
        ("high_ms", 0.9, "low_ms <= latency_ms <= high_ms"),
        ("p90_ms", 2.0, "min_ms <= median_ms <= p90_ms <= p99_ms"),
        ("median_ms", 1.015, "min_ms <= median_ms <= p90_ms <= p99_ms"),
        ("median_ms", 0.5, "min_ms <= median_ms <= p90_ms <= p99_ms"),
        ("median_ms", None, "median_ms is empty"),
        ("samples", 0, "0 samples in 3 rounds"),
        ("rounds", 0, "45 samples in 0 rounds"),
        ("macs", -1, "macs must not be negative"),
        ("digest", "xyz", "16 hex digits"),
        ("digest", "0123456789ABCDEF", "16 hex digits"),
        ("piece", "head", "should be named 'block 1 original'"),
        ("kind", "tail", "unknown kind"),
        ("block", None, "needs the number of its block"),
        ("first_layer", "a\nb", "not one line"),
        ("verdict", "good", "not one of ok, host_bound, noisy"),
        ("verdict", "noisy", "noisy needs a reason"),
        ("verdict", "failed", "needs a reason"),
    ],
)
def test_a_row_refuses_what_no_measurement_gives(name: str, value: object, message: str) -> None:
    with pytest.raises(TableFormatError, match=message):
        replace(synthetic_row("original", 1), **{name: value})


def test_a_failed_row_has_no_latency() -> None:
    row = synthetic_row("original", 1, latency_ms=None, reason="timeout after 60 s")
    assert not row.is_measured
    with pytest.raises(TableFormatError, match="a failed row has no latency_ms"):
        replace(row, latency_ms=1.0)


def test_a_quiet_latency_may_lie_below_the_median_and_its_interval_too() -> None:
    row = replace(synthetic_row("stem"), latency_ms=0.985, low_ms=0.98, high_ms=0.99)
    assert row.median_ms == 1.0


def test_zero_spread_is_possible() -> None:
    row = replace(synthetic_row("stem"), iqr_ms=0.0, round_spread_percent=0.0)
    assert row.is_measured


def test_a_reason_becomes_one_line() -> None:
    row = synthetic_row("stem", latency_ms=None, reason="Traceback\n  boom\x1b[0m\t!")
    assert row.reason == "Traceback boom [0m !"
    assert one_line("plain text") == "plain text"


def test_numpy_numbers_become_plain_ones() -> None:
    row = replace(synthetic_row("stem"), latency_ms=np.float64(1.0), samples=np.int64(45))
    assert type(row.latency_ms) is float
    assert type(row.samples) is int


def in_network(ms: float, half: float = 0.1, **changes: object) -> dict[str, object]:
    values = {"in_network_ms": ms, "in_network_low_ms": ms - half, "in_network_high_ms": ms + half}
    return values | changes


def test_a_piece_that_the_runtime_fuses_may_cost_nothing_in_the_network() -> None:
    row = replace(synthetic_row("addition", (1, 3)), **in_network(-0.01), profiled_ms=0)
    assert (row.in_network_ms, row.profiled_ms, row.in_networks) == (-0.01, 0.0, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (in_network(1.0, -0.1), "in_network_low_ms <= in_network_ms <= in_network_high_ms"),
        (in_network(math.nan), "must all be finite numbers, or empty"),
        (in_network(1.0, in_network_low_ms=None), "must all be finite numbers, or empty"),
        ({"profiled_ms": -0.1}, "profiled_ms must be 0 or more"),
        ({"profiled_ms": math.inf}, "profiled_ms must be 0 or more"),
        (
            in_network(1.0, verdict="bounded", reason="slow"),
            r"no network says what this row \(original, bounded\) costs in it",
        ),
        (
            in_network(1.0, kind="dense", piece="block 1 dense"),
            r"no network says what this row \(dense, ok\) costs in it",
        ),
    ],
)
def test_costs_in_the_network_refuse_what_cannot_be(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TableFormatError, match=message):
        replace(synthetic_row("original", 1), **changes)


def test_each_field_of_a_row_is_a_column_once() -> None:
    names = [field.name for field in fields(Row)]
    assert sorted([*names, "conditions"]) == sorted(COLUMNS)
