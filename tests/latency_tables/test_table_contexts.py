from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_tables import CONDITIONS, synthetic_row, synthetic_table

from latency_tables.compare import compare
from latency_tables.contexts import CONTEXTS, ContextCheck, best_context
from latency_tables.csv_rows import format_rows
from latency_tables.errors import TableFormatError
from latency_tables.io import load_table, save_table
from latency_tables.schema import Conditions
from latency_tables.table import LatencyTable

GPU = replace(CONDITIONS, clock="cuda_events", launch="cuda_graph")


def check(mape_percent: float | None, unnamed_percent: float | None = None) -> ContextCheck:
    worst = None if mape_percent is None else 2 * mape_percent
    return ContextCheck(
        mape_percent=mape_percent,
        plain_sum_mape_percent=worst,
        max_error_percent=worst,
        unnamed_percent=unnamed_percent,
    )


def table(conditions: Conditions = CONDITIONS) -> LatencyTable:
    """A table whose pieces were costed in pairs, the best of three contexts."""
    made = synthetic_table([1.0, 2.0, 4.0], [0.5, None, 3.0], conditions=conditions)
    checks = {
        "isolated": check(1.5),
        "pair": ContextCheck.of(made.hold_out),
        "layers": check(None, unnamed_percent=3.5),
    }
    return replace(made, context="pair", contexts=checks)


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        ({"isolated": 1.0, "pair": 0.5, "layers": 0.7}, "pair"),
        ({"isolated": 1.0, "pair": 0.5, "layers": 0.3}, "layers"),
        ({"isolated": 0.4, "pair": 0.5, "layers": 0.7}, "isolated"),
        # Within 0.1 points of the smallest the simpler one is taken, whatever stands between.
        ({"isolated": 0.6, "pair": 0.5, "layers": 0.7}, "isolated"),
        ({"isolated": 0.61, "pair": 0.5, "layers": 0.5}, "pair"),
        ({"layers": 0.88, "pair": 0.95, "isolated": 1.0}, "pair"),
        ({"isolated": None, "pair": 4.0}, "pair"),
        ({"isolated": 3.0, "pair": None}, "isolated"),
        ({"layers": None, "pair": None}, "pair"),
        ({"layers": 9.0}, "layers"),
    ],
)
def test_the_context_that_predicts_best_is_chosen_and_of_equals_the_simplest(
    errors: dict[str, float | None], best: str
) -> None:
    assert best_context(errors) == best


def test_without_any_context_there_is_none_to_choose() -> None:
    with pytest.raises(TableFormatError, match="no context"):
        best_context({})


@pytest.mark.parametrize("conditions", [CONDITIONS, GPU])
def test_the_context_and_the_comparison_survive_a_file(
    conditions: Conditions, tmp_path: Path
) -> None:
    made = table(conditions)
    save_table(made, tmp_path)
    assert load_table(tmp_path) == made
    data = json.loads((tmp_path / "table.json").read_text())
    assert data["context"] == "pair"
    assert list(data["contexts"]) == list(CONTEXTS)
    assert data["contexts"]["isolated"] == {
        "mape_percent": 1.5,
        "plain_sum_mape_percent": 3.0,
        "max_error_percent": 3.0,
        "unnamed_percent": None,
    }
    assert data["contexts"]["layers"]["mape_percent"] is None
    assert data["contexts"]["layers"]["unnamed_percent"] == 3.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": "alone"}, "context 'alone' is not one of isolated, pair, layers"),
        ({"context": 3}, "'context' must be a text"),
        ({"contexts": {"alone": {}}}, "contexts: alone: field 'mape_percent' is missing"),
        ({"contexts": {"pair": {"colour": 1}}}, "unknown field 'colour'"),
        ({"contexts": []}, "field 'contexts' must be an object, got"),
        ({"contexts": {"pair": asdict(check(0.01))}}, "not what its hold-out networks show"),
        ({"contexts": {"isolated": asdict(check(1.0)) | {"mape_percent": -1}}}, "0 or more"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_table(table(), tmp_path)
    sidecar = tmp_path / "table.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
    with pytest.raises(TableFormatError, match=message):
        load_table(tmp_path)


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
    made = table(GPU)
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


@pytest.mark.parametrize(
    ("context", "contexts", "clock", "words"),
    [
        ("isolated", {}, "wall", ""),
        ("isolated", {"isolated": check(None)}, "wall", ""),
        ("isolated", {}, "cuda_events", "--context isolated "),
        ("pair", {}, "wall", "--context pair "),
        ("pair", {"isolated": check(1.0), "pair": check(None)}, "wall", "--context isolated,pair "),
    ],
)
def test_the_command_of_a_table_asks_for_its_contexts(
    context: str, contexts: dict[str, ContextCheck], clock: str, words: str
) -> None:
    made = replace(
        synthetic_table([1.0], [0.5]),
        context=context,
        contexts=contexts,
        conditions=replace(CONDITIONS, clock=clock),
    )
    assert made.profile_command.endswith(f"--resolution 224 {words}--out DIR")


def test_tables_of_different_contexts_are_compared_with_a_word_about_it() -> None:
    made = synthetic_table([1.0, 2.0, 4.0], [0.5, None, 3.0])
    behind = replace(made, context="pair")
    assert compare(made, behind).differing_conditions == ("context: isolated / pair",)
    assert compare(made, made).differing_conditions == ()
