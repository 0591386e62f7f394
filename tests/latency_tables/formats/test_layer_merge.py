"""LayerMerge's latencies as its own code makes them; the oracle is its rule of merged kernels."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from latency_tables.errors import TableFormatError
from latency_tables.published_times import PublishedTimes, load_times

HEADER = "id,st,end,ker,str,is_dw,time,stdev\n"


def times_of(text: str, folder: Path) -> PublishedTimes:
    file = folder / "theirs.csv"
    file.write_text(text)
    return load_times(file, file.name)


def merged(convolutions: list[tuple[int, bool]]) -> tuple[int, bool]:
    """Kernel and depthwise of what these (kernel, depthwise) become as one."""
    return sum(k - 1 for k, _ in convolutions) + 1, all(dw for _, dw in convolutions)


@pytest.mark.parametrize("true", ["True", "TRUE", "1", "1.0"])
def test_a_span_has_the_latency_of_all_its_convolutions(tmp_path: Path, true: str) -> None:
    chain = [(1, False), (3, True), (1, False), (3, True), (5, True)]
    text, expected, number = HEADER, {}, 0
    for st, end in product(range(5), range(1, 6)):
        if st >= end:
            continue
        whole = merged(chain[st:end])
        # Every subset of the span's convolutions, as the public code lists them.
        kept = product((False, True), repeat=end - st)
        subsets = {
            merged([c for c, k in zip(chain[st:end], keep, strict=True) if k])
            for keep in kept
            if any(keep)
        }
        for ker, depthwise in sorted(subsets):
            number += 1
            text += f"{number},{st},{end},{ker},1,{true if depthwise else 0},{number / 8},0.01\n"
            if (ker, depthwise) == whole:
                expected["span", (st, end)] = number / 8
    found = times_of(text, tmp_path)
    assert {time.place: time.latency_ms for time in found.times} == expected
    assert found.note.startswith(f"{number - 15} of {number} latencies are of spans from which")


def test_what_becomes_nothing_is_no_span(tmp_path: Path) -> None:
    found = times_of(HEADER + "0,0,1,0,1,True,0.0,0.0\n1,0,1,3,1,False,0.5,0.01\n", tmp_path)
    assert [(time.place, time.latency_ms) for time in found.times] == [(("span", (0, 1)), 0.5)]


def test_without_dropped_convolutions_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert times_of("st,end,kernel,time\n0,1,3,0.5\n", tmp_path).note == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0,0,1,3,1,0,1,0\n1,0,1,3,2,0,1,0\n", "line 3: span 0-1 has kernel 3 on line 2 already"),
        ("0,0,1,3,1,maybe,1,0\n", "line 2: is_dw must be True or False, got 'maybe'"),
        ("0,1,1,3,1,0,1,0\n", "line 2: st must be smaller than end 1"),
        ("0,0,1,3,1,0,0.0,0\n", "line 2: time must be a finite number above 0, got 0.0"),
    ],
)
def test_what_is_not_clear_is_refused_by_line(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableFormatError) as caught:
        times_of(HEADER + lines, tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
