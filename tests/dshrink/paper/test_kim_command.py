"""``dshrink paper kim``: what was published, and masks against the dynamic program by a table."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from plan_enumeration import keys_of, valid_spans
from synthetic_tables import synthetic_span_table

from dshrink.paper.kim import headline
from latency_tables.io import save_table

SKIPS, ENDS = ((2, 5),), (2, 5, 6)
SPANS = valid_spans(6, (), SKIPS)


@pytest.fixture
def measured(tmp_path: Path) -> tuple[object, ...]:
    """The options that name a table of spans and importances of all of its keys."""
    draw = random.Random(3)
    table = synthetic_span_table(
        {(i, j): round(draw.uniform(0.5, 1 + 0.7 * (j - i)), 3) for i, j in SPANS},
        mask="1|11|1",
        skips=SKIPS,
        block_ends=ENDS,
    )
    save_table(table, tmp_path / "spans")
    lines = [
        f"{st},{end},{first},{last},{draw.uniform(-1, 2)}"
        for st, end, first, last in keys_of(SPANS, ENDS)
    ]
    importance = tmp_path / "importance.csv"
    importance.write_text("\n".join(["st,end,st_act,end_act,importance", *lines]) + "\n")
    return "--table", tmp_path / "spans", "--importance", importance


def test_without_a_table_it_is_what_was_published(tmp_path, dshrink):
    ran = dshrink("paper", "kim", "--out", tmp_path, "--json")

    assert ran.status == 0, ran.err
    assert ran.data["masks"] is None
    assert [row["published_speedup"] for row in ran.data["headline"]] == [
        row.published_speedup for row in headline()
    ]
    with (tmp_path / "kim.csv").open() as file:
        assert [line["model"] for line in csv.DictReader(file)] == [
            row["model"] for row in ran.data["headline"]
        ]
    stored = json.loads((tmp_path / "kim.json").read_text())
    assert stored["headline"] == ran.data["headline"]
    page = (tmp_path / "kim.md").read_text()
    assert "No plan of Kim et al. can be rebuilt" in page
    assert "Masks against" not in page


def test_with_a_table_masks_are_compared_with_the_plans_of_the_program(tmp_path, dshrink, measured):
    plans = ("--plan", "mask:001", "--plan", "mask:111")
    ran = dshrink("paper", "kim", *measured, *plans, "--out", tmp_path, "--json")

    assert ran.status == 0, ran.err
    merged, kept = ran.data["masks"]
    assert (merged["keep_mask"], kept["keep_mask"]) == ("001", "111")
    for row in (merged, kept):
        assert row["dp_ms_at_latency"] <= row["predicted_ms"]
        assert row["importance_gain"] == pytest.approx(
            row["dp_importance_at_latency"] - row["importance"]
        )
        assert row["importance_gain"] >= -1e-9 and row["faster_percent"] >= -1e-9
    assert {"kim.csv", "kim.json", "kim.md", "kim.png", "kim.svg"} == {
        Path(name).name for name in ran.data["files"]
    }
    page = (tmp_path / "kim.md").read_text()
    assert f"| mask:001 | {merged['predicted_ms']:.3f} " in " ".join(page.split())
    stored = json.loads((tmp_path / "kim.json").read_text())
    assert stored["rows"] == ran.data["masks"]
    assert len(stored["headline"]) == len(headline())


def test_it_prints_both_tables(tmp_path, dshrink, measured):
    ran = dshrink("paper", "kim", *measured, "--plan", "mask:001", "--out", tmp_path)
    assert "Published by Kim et al. (ICML 2023)" in ran.out
    assert "Masks against the dynamic program" in ran.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("kim", "--table", "spans"), "give both --table and --importance, or neither"),
        (("kim", "--plan", "mask:001"), "kim compares --plan by a table"),
        (("kim", "--batch", "2"), "kim measures nothing: it takes neither --batch nor --unmerged"),
        (("table2", "--table", "spans"), "--allow-unfit are for kim, not table2"),
    ],
)
def test_options_that_do_not_fit_are_one_line(words, part, tmp_path, dshrink):
    ran = dshrink("paper", *words, "--out", tmp_path)
    assert ran.status == 2
    assert part in ran.err
    assert ran.err.count("\n") == 1


def test_a_network_without_published_masks_asks_for_a_plan(tmp_path, dshrink, measured):
    ran = dshrink("paper", "kim", *measured, "--out", tmp_path)
    assert ran.status == 2
    assert "published no masks for synthetic: give --plan mask:0011..." in ran.err
