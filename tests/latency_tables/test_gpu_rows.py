from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_tables import CONDITIONS, synthetic_row, synthetic_table

from latency_tables.csv_rows import format_rows
from latency_tables.errors import TableFormatError
from latency_tables.io import load_table, save_table

GPU = replace(CONDITIONS, clock="cuda_events", launch="cuda_graph")


def test_all_that_is_known_of_a_row_is_in_the_digest() -> None:
    made = synthetic_table([1.0], [0.5])
    first = made.rows[0]
    digests = {
        replace(made, rows=(replace(first, **more), *made.rows[1:])).digest
        for more in ({}, {"enqueue_ms": 0.0}, {"built_precision": "fp16"}, {"board": "fp16"})
    }
    assert len(digests) == 4


def test_the_launch_is_a_condition() -> None:
    assert GPU.to_json()["launch"] == "cuda_graph"
    assert CONDITIONS.differences(replace(CONDITIONS, launch="compiled")) == (
        "launch: plain / compiled",
    )


def test_what_a_gpu_says_of_a_row_survives_a_file(tmp_path: Path) -> None:
    made = synthetic_table([1.0, 2.0, 4.0], [0.5, None, 3.0], conditions=GPU)
    said = replace(
        made.rows[0],
        enqueue_ms=0.9,
        built_precision="fp16+fp32",
        verdict="host_bound",
        reason="the host takes 0.9 ms to launch it",
    )
    made = replace(made, rows=(said, *made.rows[1:]))
    save_table(made, tmp_path)
    assert load_table(tmp_path).rows[0] == said
    assert ",0.9,fp16+fp32," in format_rows((said,), GPU.digest)


def test_an_enqueue_time_below_nothing_or_of_a_failed_row_is_refused() -> None:
    with pytest.raises(TableFormatError, match="enqueue_ms must be 0 or more"):
        replace(synthetic_row("stem"), enqueue_ms=-0.1)
    with pytest.raises(TableFormatError, match="a failed row has no enqueue_ms"):
        replace(synthetic_row("stem", latency_ms=None), enqueue_ms=0.1)
