"""What is said of a latency table, in its lines and in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from synthetic_tables import synthetic_row, synthetic_table, without_networks

from dshrink.cli.console import json_document, set_verbose
from dshrink.cli.payloads.tables import TableData
from dshrink.cli.render import FUSED, LESS, MORE, difference_percent, note, summary_lines
from latency_tables.networks import Level
from latency_tables.schema import Row
from latency_tables.table import LatencyTable


def row(ms: float, half: float, **changes: object) -> Row:
    """A row of 1 ms alone that costs ``ms`` in the network."""
    found = {"in_network_ms": ms, "in_network_low_ms": ms - half, "in_network_high_ms": ms + half}
    return replace(synthetic_row("original", 1), **found | changes)


@pytest.mark.parametrize(
    ("shown", "percent", "words"),
    [
        (row(0.7, 0.05), -30, LESS),
        (row(1.2, 0.05), 20, MORE),
        (row(0.02, 0.05, profiled_ms=0.0), -98, FUSED),
        (row(1.05, 0.01), 5, ""),
        (row(0.8, 0.3), -20, "within interval"),
        (row(-0.2, 1.5), None, ""),
        (synthetic_row("original", 1), None, ""),
        (synthetic_row("original", 1, latency_ms=None, reason="timeout"), None, "timeout"),
        (replace(synthetic_row("original", 1), verdict="bounded", reason="slow"), None, "slow"),
    ],
)
def test_a_row_that_costs_other_than_alone_says_why(
    shown: Row, percent: float | None, words: str
) -> None:
    assert difference_percent(shown) == (None if percent is None else pytest.approx(percent))
    assert note(shown) == words


@pytest.fixture
def verbose() -> Iterator[None]:
    set_verbose(True)
    yield
    set_verbose(False)


def text(table: LatencyTable) -> str:
    return "\n".join(summary_lines(table))


def test_the_summary_is_five_lines_and_the_last_one_is_the_verdict() -> None:
    table = synthetic_table([1.0, 2.0], [0.5, 1.5], slope=1.2, offset_ms=0.1)
    check = table.hold_out
    assert check is not None
    assert summary_lines(table) == [
        f"{len(table.rows)} rows of {len(table.rows)} pieces",
        "whole network, measured: 5.100 ms",
        "prediction error on 8 other networks: 0.19 % on average, 0.30 % at most",
        f"95 % prediction interval: +-{check.interval_percent:.2f} % on average",
        "Usable: predictions within 0.19 % on average (limit 2 %); single rows are rough: 6 of 6 "
        "known to worse than ±10 %",
    ]


def with_rows(table: LatencyTable, **changes: object) -> LatencyTable:
    return replace(table, rows=tuple(replace(row, **changes) for row in table.rows))


def test_rough_rows_of_right_predictions_are_no_warning() -> None:
    table = with_rows(synthetic_table([1.0, 2.0], [0.5, 1.5]), verdict="noisy", reason="why")
    warned = f"{len(table.rows)} of {len(table.rows)} rows are noisy: stem, head, ..."
    said = text(replace(table, warnings=(warned,)))
    assert "warning" not in said and "noisy" not in said
    assert said.endswith(
        f"; single rows are rough: {len(table.rows)} of {len(table.rows)} known to worse than ±10 %"
    )


def test_failed_rows_are_counted_and_noisy_ones_with_verbose(verbose: None) -> None:
    table = with_rows(synthetic_table([1.0], [0.5]), verdict="noisy", reason="why")
    assert text(table).startswith(f"{len(table.rows)} rows of {len(table.rows)} pieces: ")
    set_verbose(False)
    assert "noisy" not in text(table)


def test_a_drifting_machine_is_one_warning_where_the_table_is_not_fit() -> None:
    level = Level(
        level_percent_low=99.4,
        level_percent_high=100.6,
        spread_percent=2.44,
        moved_percent=8.7,
        processes=8,
    )
    fit = synthetic_table([1.0], [0.5])
    unfit = synthetic_table([1.0], [0.5], hold_out_errors_percent=[9.0] * 8)
    assert "drifted" not in text(replace(fit, level=level))
    said = text(replace(unfit, level=level))
    assert said.count("warning: the machine's speed drifted by up to 8.7 %; close other") == 1
    assert "NOT fit for search: its predictions are off by" in said
    assert said.endswith("another folder, or search with --allow-unfit")


def test_warnings_of_one_kind_are_one_line_with_the_worst() -> None:
    loads = tuple(f"the load average was {load} on 2 cores before the start" for load in (1.3, 7.4))
    said = text(replace(synthetic_table([1.0], [0.5]), warnings=loads))
    assert said.count("warning: ") == 1
    assert (
        "warning: the load average was 7.4 on 2 cores before the start (the worst of 2 such)"
        in (said)
    )


def test_verbose_says_how_it_is_known(verbose: None) -> None:
    table = synthetic_table([1.0, 2.0], [0.5, 1.5], slope=1.2, offset_ms=0.1)
    check = table.hold_out
    assert check is not None
    said = text(table)
    for part in (
        "whole network, measured: 5.100 ms",
        "costs in the network: from what each piece takes alone, corrected by 4 whole networks",
        "prediction error on 8 other networks: 0.19 % on average, 0.30 % at most; they are "
        "known to 0.20 % themselves",
        f"95 % prediction interval: +-{check.interval_percent:.2f} % on average (posterior; it "
        "holds 100 % of them)",
        f"plain sum of the pieces alone {check.plain_sum_mape_percent:.2f} %, the best line "
        f"through such sums {check.line_mape_percent:.2f} %, scaled MACs",
        "Usable: predictions within 0.19 % on average",
    ):
        assert part in said
    assert "note:" not in said


def test_an_interval_that_was_widened_says_so(verbose: None) -> None:
    table = synthetic_table([1.0] * 3, [0.5] * 3, hold_out_errors_percent=[1.5] * 4 + [0.1] * 6)
    check = table.hold_out
    assert check is not None
    assert (
        f"(conformal: widened {check.interval_factor:.1f} times, for the posterior's own holds "
        "only 60 % of them)"
    ) in text(table)


def test_the_level_of_the_machine_is_a_line(verbose: None) -> None:
    level = Level(
        level_percent_low=99.4,
        level_percent_high=100.6,
        spread_percent=2.44,
        moved_percent=7.1,
        processes=8,
        disturbed_percent=11.6,
    )
    said = text(replace(synthetic_table([1.0], [0.5]), level=level))
    assert (
        "a single process: 95 % of visits were within +-2.4 % of these numbers, 12 % were more "
        "than 5 % slower\n"
        "the machine's level is known to +-0.6 % and moved by 7.1 % during the run (8 processes)"
    ) in said


def test_thin_data_are_noted() -> None:
    said = text(without_networks(synthetic_table([1.0], [0.5])))
    assert "note: no whole network was measured: each piece counts as much as alone" in said
    assert "NOT fit for search: no whole network was measured" in said


def test_the_json_data_hold_what_the_lines_say() -> None:
    table = synthetic_table([1.0, 2.0], [0.5, 1.5])
    data = json.loads(json.dumps(json_document(TableData.of(table))))
    assert [network["role"] for network in data["networks"]] == ["fit"] * 4 + ["check"] * 8
    assert data["estimate"]["prior"] == "alone"
    assert data["hold_out"]["coverage_percent"] == 100
    assert data["rows"][0]["in_network_ms"] == table.rows[0].in_network_ms
    assert (data["level"], data["data_note"]) == (None, "")
