"""Tables of layers measured on a scripted device."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from small_layers import CONDITIONS, GRID, device, latency_ms, run

from latency_tables.layers.layer_table import LayerTable
from latency_tables.opspec import OpSpec
from profiler.errors import InvalidJobError, JournalError
from profiler.fake_device import CRASH
from profiler.layers.plan import neighbour, plan_layers
from profiler.layers.profile import LEAST_ROUNDS, MOST_ROUNDS
from profiler.layers.schedule import LEVEL_LAYERS, LayerSchedule

SCRIPT = Path(__file__).with_name("small_layers.py")


def true_ms(table: LayerTable) -> list[float]:
    return [latency_ms(row.layer.spec) for row in table.rows]


def test_each_layer_is_known_within_the_target_and_near_the_truth(tmp_path: Path) -> None:
    found = run(tmp_path)
    table = found.table
    assert [row.layer for row in table.rows] == list(GRID.layers)
    assert table.within_target == len(table.rows)
    assert table.conditions == CONDITIONS
    ratios = [row.latency_ms / true for row, true in zip(table.rows, true_ms(table), strict=True)]
    # Samples are at or above the truth, by up to a few per cent; so is what a quantile makes of it.
    assert all(0.97 < ratio < 1.04 for ratio in ratios)
    assert max(ratios) / min(ratios) < 1.015
    for row in table.rows:
        assert row.low_ms <= row.latency_ms <= row.high_ms
        assert row.half_width_percent <= table.target_percent
        assert row.rounds >= LEAST_ROUNDS
    assert not list(tmp_path.glob("workloads/*"))


def test_beside_a_neighbour_a_layer_costs_what_it_adds(tmp_path: Path) -> None:
    table = run(tmp_path, device(noise=0.001, round_noise=0.001), context="pair").table
    for row in table.rows:
        # The constant of the file's ends is in both files, so it is in no difference.
        added_ms = latency_ms(row.layer.spec) - 0.01
        assert row.beside_ms == pytest.approx(added_ms, rel=0.05)
        assert row.beside_low_ms < added_ms < row.beside_high_ms


def test_equal_files_of_layers_and_neighbours_are_measured_once() -> None:
    plan = plan_layers(GRID.layers, context="pair")
    own = {layer.spec.digest for layer in GRID.layers}
    neighbours = {neighbour(layer).digest for layer in GRID.layers}
    # 8->8 and 16->16 with kernel 1 are their own neighbours' equals.
    assert len(neighbours & own) == 2
    assert len(plan.jobs) == len(own | neighbours) + len(GRID.layers)


def test_only_unsure_layers_get_further_rounds_with_others_for_the_level(tmp_path: Path) -> None:
    unsteady = GRID.layers[3].spec.digest
    calls = random.Random(1)

    def jumping_ms(spec: OpSpec) -> float:
        jump = calls.uniform(1.0, 1.1) if spec.digest == unsteady else 1.0
        return latency_ms(spec) * jump

    found = run(tmp_path, device(latency_ms=jumping_ms), target_percent=1.0)
    rounds = {row.digest: row.rounds for row in found.table.rows}
    assert rounds[unsteady] > LEAST_ROUNDS
    assert len(GRID.layers) <= LEVEL_LAYERS or min(rounds.values()) == LEAST_ROUNDS
    assert max(rounds.values()) <= MOST_ROUNDS


def test_a_layer_that_crashes_fails_alone_with_its_reason(tmp_path: Path) -> None:
    broken = GRID.layers[0].spec.digest
    fault = device(fault=lambda spec, call: CRASH if spec.digest == broken else None)
    table = run(tmp_path, fault).table
    failed, *others = table.rows
    assert failed.verdict == "failed"
    assert "SIGSEGV" in failed.reason
    assert failed.latency_ms is None
    assert all(row.verdict == "ok" for row in others)
    assert any("1 of 12 layers" in warning for warning in table.warnings)


def test_killed_three_times_a_run_resumes_and_measures_nothing_twice(tmp_path: Path) -> None:
    rng = random.Random(2026)
    for kill in range(3):
        command = [sys.executable, str(SCRIPT), str(tmp_path), str(kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(rng.randint(1, 15)):
                child.stdout.readline()
            child.kill()
        assert child.returncode == -9
    killed = (tmp_path / "journal.jsonl").read_bytes()
    found = run(tmp_path)
    journal = (tmp_path / "journal.jsonl").read_bytes()
    assert journal.startswith(killed[: killed.rindex(b"\n") + 1])
    assert found.session.reused > 0
    assert found.session.measured > 0
    again = run(tmp_path)
    assert again.session.measured == 0
    assert again.table == found.table


def test_another_list_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(JournalError):
        run(tmp_path, layers=GRID.layers[:5])


def test_a_time_limit_ends_after_the_least_rounds(tmp_path: Path) -> None:
    found = run(tmp_path, device(noise=0.3, round_noise=0.2), time_limit_s=0.001)
    assert {row.rounds for row in found.table.rows} == {LEAST_ROUNDS}
    assert found.table.within_target < len(found.table.rows)
    assert any("noisy" in warning for warning in found.table.warnings)


@pytest.mark.parametrize("wrong", [{"target_percent": 0.0}, {"time_limit_s": 0.0}])
def test_targets_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    given = {"target_percent": 2.0, "time_limit_s": 1.0} | wrong
    with pytest.raises(InvalidJobError):
        LayerSchedule(weigh=lambda measured: {}, least_rounds=4, most_rounds=20, **given)
