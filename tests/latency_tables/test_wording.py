"""Counts in messages agree with their nouns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from latency_tables.wording import counted, noun, once_each

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (11, "11 epochs")]
)
def test_a_noun_agrees_with_its_number(number: int, said: str) -> None:
    assert counted(number, "epoch") == said


def test_a_plural_that_is_no_added_s_is_given() -> None:
    assert counted(1, "class", "classes") == "1 class"
    assert noun(2, "process", "processes") == "processes"


def test_no_message_leaves_the_plural_to_the_reader() -> None:
    files = [
        file
        for package in ("dshrink", "latency_tables", "profiler", "devices")
        for file in (ROOT / package).rglob("*.py")
    ]
    undecided = re.compile(r"[a-z]\(s\)(?!:|\))")
    found = {
        str(file): hit.group()
        for file in files
        for line in file.read_text("utf-8").splitlines()
        if '"' in line and (hit := undecided.search(line)) and "len(s)" not in line
    }
    assert {file for file in found if not file.endswith("wording.py")} == set()


def test_warnings_that_differ_in_numbers_are_said_once_with_the_worst_percentage() -> None:
    found = [
        "round 0: 120 measurements moved by +2.7 %",
        "too warm",
        "round 1: 9 measurements moved by -47.5 %",
        "round 2: 3 measurements moved by 4 %",
        "too warm",
    ]
    assert once_each(found) == (
        "round 1: 9 measurements moved by -47.5 % (the worst of 3 such)",
        "too warm",
    )
