"""A profile through real agents and workers on a simulated GPU, with a strict fake of TensorRT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_network import compose, jobs_by_round, network_pieces, operators

from devices.agent.protocol import Rule
from devices.inventory import connect, load_inventory
from profiler.errors import JournalError
from profiler.planning.profile_plan import plan_jobs
from profiler.profile import Profile, ProfileRequest, profile
from profiler.scheduling.serial import SerialScheduler
from profiler.settings import ProfileSettings
from profiler.target import Target, probe_conditions
from profiler.workloads import build_onnx

SIMULATED = Path(__file__).parents[1] / "support" / "fake_gpu"
#: A sample of few runs: what they take is made up, and each costs the time of a strict fake.
QUICK = Rule(
    warmup_s=0.0,
    warmup_cap_s=0.01,
    window_s=0.0001,
    sample_s=0.0001,
    min_samples=10,
    min_total_s=0.0,
    cap_s=0.02,
)
SETTINGS = ProfileSettings(rule=QUICK)
#: Six networks lie between none and all of the blocks that merge: each file costs a build.
PIECES = network_pieces(dict.fromkeys(range(3, 6), "made up to be unmergeable"))

TARGET = Target(runtime="tensorrt", batch=2)

Lines = list[Mapping[str, Any]]


@pytest.fixture
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Agents that are started now find a GPU."""
    monkeypatch.setenv("PYTHONPATH", str(SIMULATED))
    return monkeypatch


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, fp32; copied by those who go on with it."""
    folder = tmp_path_factory.mktemp("first") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SIMULATED))
        run(folder, TARGET)
    return folder


def run(folder: Path, target: Target) -> Profile:
    device = load_inventory().get("local_gpu")
    scheduler = SerialScheduler(connect(device))
    try:
        conditions = probe_conditions(device, scheduler, target)
        request = ProfileRequest(
            pieces=PIECES,
            compose=compose,
            operators=operators,
            build=build_onnx,
            conditions=conditions,
            folder=folder,
            date="2026-01-01",
            dshrink_version="0",
            check=3,
            time_limit_s=1e-3,  # two rounds
            settings=SETTINGS,
        )
        return profile(request, scheduler)
    finally:
        scheduler.close()


def lines_of(folder: Path) -> Lines:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def built(lines: Lines, number: int) -> list[Mapping[str, Any]]:
    """What was built, of each reply of a round."""
    return [
        line["result"]["built"] for line in lines if "result" in line and line["round"] == number
    ]


def test_a_table_of_a_gpu_says_what_was_built_and_how_it_was_timed(
    tmp_path: Path, simulated_gpu: pytest.MonkeyPatch
) -> None:
    target = Target(runtime="tensorrt", precision="fp16", launch="cuda_graph", batch=2)
    table = run(tmp_path, target).table
    assert (table.conditions.clock, table.conditions.launch) == ("cuda_events", "cuda_graph")
    assert (table.conditions.batch, table.conditions.statistic) == (2, "median")
    assert table.fingerprint["gpu"]["compute_capability"] == "9.0"
    for row in table.rows:
        # The head's only product is one of those that fp16 is for, too.
        assert row.verdict in ("ok", "host_bound"), row.reason
        assert "fp16" in row.built_precision
        assert row.enqueue_ms is not None and row.enqueue_ms >= 0
        assert row.profiled_ms is not None and row.profiled_ms >= 0
        assert row.in_network_ms is not None
    # What the simulated GPU takes adds up but for what each launch costs.
    assert table.hold_out is not None
    assert len(table.hold_out.networks) == 3
    assert table.hold_out.mape_percent < 2.0


def test_each_round_builds_each_file_anew(first_run: Path) -> None:
    lines = lines_of(first_run)
    plan = plan_jobs(PIECES, compose, operators, check=3, profiles=True)
    for number, jobs in enumerate(jobs_by_round(first_run)):
        facts = built(lines, number)
        new = [one["engine_sha256"] for one in facts if not one["engine_reused"]]
        # The layers of a network are those of the engine that was timed.
        files = {plan.by_id[name].digest for name in jobs}
        assert len(new) == len(set(new)) == len(files) < len(jobs)
        assert all("build_s" in one for one in facts if not one["engine_reused"])
        assert {one["engine_sha256"] for one in facts} == set(new)
        caches = {one["flags"]["timing_cache"] for one in facts if not one["engine_reused"]}
        assert caches == ({"none"} if number else {"new", "used"})
    assert not (first_run / "workloads").exists(), "no engine stays behind"
    (cache,) = first_run.glob("timing_cache-*.bin")
    assert cache.stat().st_size


def test_a_timing_cache_from_an_earlier_run_is_used(
    first_run: Path, tmp_path: Path, simulated_gpu: pytest.MonkeyPatch
) -> None:
    assert "new" in {facts["flags"]["timing_cache"] for facts in fresh(lines_of(first_run))}
    folder = shutil.copytree(first_run, tmp_path / "again")
    (folder / "journal.jsonl").unlink()
    run(folder, TARGET)
    again = lines_of(folder)
    assert {facts["flags"]["timing_cache"] for facts in fresh(again)} == {"used"}


def test_another_gpu_does_not_go_on_with_the_journal_of_the_first(
    first_run: Path, tmp_path: Path, simulated_gpu: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(first_run, tmp_path / "again")
    journal = folder / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:20]))
    simulated_gpu.setenv("SIMULATED_GPU_NAME", "Another GPU")
    with pytest.raises(JournalError, match=r"the GPU's name is Simulated H200, on .* Another GPU"):
        run(folder, TARGET)


def fresh(lines: Lines) -> list[Mapping[str, Any]]:
    """What the first round built."""
    return [facts for facts in built(lines, 0) if not facts["engine_reused"]]


def test_a_finished_run_is_asked_for_nothing_when_it_is_given_again(
    first_run: Path, tmp_path: Path, simulated_gpu: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(first_run, tmp_path / "again")
    before = lines_of(folder)
    assert run(folder, TARGET).session.measured == 0
    assert lines_of(folder) == before


@pytest.mark.parametrize("version", ["8.2.1.8", "10.0.1", "11.0.0.114"])
def test_the_same_command_serves_old_and_new_versions(
    tmp_path: Path, simulated_gpu: pytest.MonkeyPatch, version: str
) -> None:
    simulated_gpu.setenv("FAKE_TENSORRT", version)
    if version == "8.2.1.8":  # Hopper came with 8.5
        simulated_gpu.setenv("SIMULATED_GPU_CAPABILITY", "7.5")
        simulated_gpu.setenv("SIMULATED_GPU_BINDING", "libcuda")
        simulated_gpu.setenv("SIMULATED_GPU_DRIVER", "10020")
    made = run(tmp_path, Target(runtime="tensorrt", precision="fp16", batch=2))
    assert made.table.conditions.runtime_version.startswith(version)
    assert made.session.failed == 0
    assert all("fp16" in row.built_precision for row in made.table.rows)
    apis = {facts["api"] for facts in built(lines_of(tmp_path), 0)}
    assert apis == {"bindings" if version == "8.2.1.8" else "tensors"}


def test_a_chip_that_the_version_does_not_know_ends_the_run_with_the_one_to_install(
    tmp_path: Path, simulated_gpu: pytest.MonkeyPatch
) -> None:
    simulated_gpu.setenv("SIMULATED_GPU_CAPABILITY", "7.0")
    simulated_gpu.setenv("SIMULATED_GPU_NAME", "Tesla V100-SXM2-16GB")
    simulated_gpu.setenv("FAKE_TENSORRT", "11.0.0.114")
    with pytest.raises(Exception, match=r"Tesla V100-SXM2-16GB is a Volta .*10\.4"):
        run(tmp_path, TARGET)
