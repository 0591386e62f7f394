"""Operations called as a notebook calls them: they return results and print nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from synthetic_tables import synthetic_table

from dshrink.errors import DshrinkError
from dshrink.network.references import ModelChoice
from dshrink.operations.bench import bench_networks
from dshrink.operations.merge import merge_by_plan
from dshrink.operations.search import search_blocks
from dshrink.search.errors import InfeasibleBudgetError, PlanError
from dshrink.search.plan import save_plan
from latency_tables.io import save_table

MODEL = "mobilenetv2_035"
CHOICE = ModelChoice(model=MODEL)
RANDOM = ModelChoice(model=MODEL, weights="random")
MASK = "1" * 15 + "00"


@pytest.fixture
def table(tmp_path: Path, network) -> Path:
    """Block 16 saves most, block 15 next; stem and head take 1 ms each."""
    original, merged = [1.0] * 17, [1.0] * 15 + [0.6, 0.4]
    blocks = network(MODEL, 32, "initial").blocks
    made = replace(
        synthetic_table(original, merged),
        model=MODEL,
        resolution=(32, 32),
        block_names=tuple(block.name for block in blocks),
    )
    return save_table(made, tmp_path / "table").parent


def test_a_search_returns_a_plan_with_the_names_of_the_network(table: Path, capfd) -> None:
    plan = search_blocks(CHOICE, table, keep=15)
    assert plan.keep_mask == MASK
    assert plan.blocks and plan.blocks[16].name == "blocks.6.0"
    assert plan.predicted is not None
    assert plan.predicted.latency_ms == pytest.approx(19.0 - 0.4 - 0.6)
    with pytest.raises(InfeasibleBudgetError, match="the smallest possible latency"):
        search_blocks(CHOICE, table, budget_ms=1.0)
    assert capfd.readouterr() == ("", "")


def test_a_merge_returns_what_it_wrote_and_proved(table: Path, tmp_path: Path, capfd) -> None:
    save_plan(search_blocks(CHOICE, table, keep=15), tmp_path / "plan.json")
    file = tmp_path / "new" / "small.onnx"
    result = merge_by_plan(RANDOM, str(tmp_path / "plan.json"), file).result
    assert (result.keep_mask, result.blocks_merged, result.spans_merged) == (MASK, 2, 0)
    assert result.onnx_difference < 1e-4
    assert result.agreement is None
    before, after = result.cost["macs"]
    assert before != after
    onnx.checker.check_model(onnx.load(file))
    assert Path(result.certificate).is_file()
    with pytest.raises(PlanError, match="has 17 blocks"):
        merge_by_plan(RANDOM, "mask:01", file)
    assert capfd.readouterr() == ("", "")


def test_a_benchmark_refuses_a_resolution_that_its_plan_is_not_for(
    table: Path, tmp_path: Path
) -> None:
    save_plan(search_blocks(CHOICE, table, keep=15), tmp_path / "plan.json")
    plans = [str(tmp_path / "plan.json")]
    at_64 = ModelChoice(model=MODEL, resolution=(64, 64))
    with pytest.raises(DshrinkError, match="--resolution 64: the plan is for 32x32"):
        bench_networks([MODEL], tmp_path / "r.csv", plans=plans, choice=at_64)
