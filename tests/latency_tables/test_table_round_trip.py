from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tables import synthetic_row, synthetic_table, without_networks

from latency_tables.csv_rows import format_rows, parse_rows
from latency_tables.io import load_table, save_table
from latency_tables.measured import one_line
from latency_tables.records import convert_record
from latency_tables.schema import CLOCKS, PRECISIONS, STATISTICS, Conditions, Row
from latency_tables.table import LatencyTable

latency = st.floats(1e-6, 1e6)
line = st.text(max_size=20).map(one_line)
# What files hold: numbers of 64 bits, texts without null characters.
whole = st.integers(-(2**63), 2**63 - 1)
numbers = whole | st.floats(allow_nan=False, allow_infinity=False)
plain = st.characters(codec="utf-8", exclude_characters="\0")
short = st.text(plain, max_size=5)
json_data = st.recursive(
    st.none() | st.booleans() | numbers | short,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    clock = draw(st.sampled_from(CLOCKS))
    named = line.filter(bool)
    return Conditions(
        device=draw(named),
        runtime=draw(named),
        runtime_version=draw(named),
        precision=draw(st.sampled_from(PRECISIONS)),
        batch=draw(st.integers(1, 10**9)),
        threads=1 if clock == "thread_cpu" else draw(st.integers(1, 512)),
        power_mode=draw(named),
        cache_mode=draw(st.sampled_from(("hot", "cold"))),
        clock=clock,
        statistic=draw(st.sampled_from(tuple(STATISTICS))),
    )


@st.composite
def rows(draw: st.DrawFn) -> Row:
    kind, block = draw(
        st.sampled_from([("stem", None), ("head", None), ("between", 3), ("original", 12)])
    )
    if draw(st.booleans()):
        reason = draw(line.filter(bool))
        return synthetic_row(kind, block, latency_ms=None, reason=reason)
    low, middle, high = sorted(draw(st.tuples(latency, latency, latency)))
    least, median, p90, p99 = sorted(draw(st.tuples(latency, latency, latency, latency)))
    verdict = draw(st.sampled_from(("ok", "noisy", "throttled")))
    return replace(
        synthetic_row(kind, block),
        first_layer=draw(line),
        last_layer=draw(line),
        latency_ms=middle,
        low_ms=low,
        high_ms=high,
        median_ms=median,
        iqr_ms=draw(st.floats(0, 1e6)),
        min_ms=least,
        p90_ms=p90,
        p99_ms=p99,
        wall_latency_ms=draw(latency),
        cpu_latency_ms=draw(st.none() | latency),
        samples=draw(st.integers(1, 10**12)),
        rounds=draw(st.integers(1, 100)),
        round_spread_percent=draw(st.floats(0, 1e6)),
        macs=draw(st.integers(0, 2**70)),
        verdict=verdict,
        reason=draw(line if verdict == "ok" else line.filter(bool)),
    )


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    blocks = draw(st.integers(0, 4))
    original = draw(st.lists(st.floats(1, 100), min_size=blocks, max_size=blocks))
    share = st.none() | st.integers(1, 20).map(lambda tenths: tenths / 10)
    shares = draw(st.lists(share, min_size=blocks, max_size=blocks))
    merged = [None if s is None else s * o for o, s in zip(original, shares, strict=True)]
    made = synthetic_table(
        original,
        merged,
        bias_map_ms={
            block: value * 1.1
            for block, value in enumerate(merged)
            if value is not None and draw(st.booleans())
        },
        hold_out_errors_percent=draw(st.lists(st.floats(-50, 50), max_size=25)),
        offset_ms=draw(st.floats(0, 3)),
        conditions=draw(conditions()),
    )
    if draw(st.booleans()):
        made = without_networks(made, role=draw(st.sampled_from(["check", "fit", None])))
    free_form: dict[str, Any] = draw(st.dictionaries(short, json_data, max_size=3))
    return replace(
        made,
        model=draw(st.text(plain, min_size=1, max_size=10)),
        fingerprint=free_form,
        boards=(free_form,),
        warnings=tuple(draw(st.lists(st.text(plain, max_size=10), max_size=2))),
        seed=draw(whole),
        date=draw(st.text(plain, max_size=10)),
    )


@settings(deadline=None)
@given(st.lists(rows(), min_size=1, unique_by=lambda row: row.kind))
def test_rows_come_back_from_csv_as_they_were(written: list[Row]) -> None:
    found = parse_rows(format_rows(tuple(written), "12345678"), "table.csv")
    assert [entry.row for entry in found] == written
    assert {entry.conditions for entry in found} == {"12345678"}
    assert [entry.line for entry in found] == list(range(2, len(written) + 2))


@settings(max_examples=60, deadline=None)
@given(tables())
def test_a_table_comes_back_from_its_files_as_it_was(table: LatencyTable) -> None:
    with tempfile.TemporaryDirectory() as name:
        save_table(table, Path(name))
        found = load_table(Path(name))
    assert found == table
    assert found.digest == table.digest


@settings(deadline=None)
@given(conditions())
def test_conditions_come_back_from_json_with_the_same_digest(written: Conditions) -> None:
    found = convert_record(written.to_json(), Conditions, where="x", error=ValueError, fix="x")
    assert found == written
    assert found.digest == written.digest


@settings(deadline=None)
@given(json_data)
def test_any_json_is_either_an_object_or_refused(value: Any) -> None:
    try:
        assert convert_record(value, dict, where="here", error=ValueError, fix="x") == value
    except ValueError as error:
        assert not isinstance(value, dict)
        assert str(error).startswith("here: expected an object")
