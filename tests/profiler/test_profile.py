from pathlib import Path

from small_network import CONDITIONS, compose, latency_ms, network_pieces

from latency_tables.io import load_table, save_table
from profiler.estimate import DurationEstimate
from profiler.fake_device import FakeConnection, write_spec
from profiler.profile import ProfileRequest, profile
from profiler.scheduling.serial import SerialScheduler


def test_one_call_plans_measures_and_builds_a_table_that_can_be_saved(tmp_path: Path) -> None:
    request = ProfileRequest(
        pieces=network_pieces(),
        compose=compose,
        build=write_spec,
        conditions=CONDITIONS,
        folder=tmp_path,
        date="2026-01-01",
        dshrink_version="1",
        hold_out=4,
    )
    estimates: list[DurationEstimate] = []
    for expected_reuse in (0, 3):
        device = FakeConnection(latency_ms=latency_ms, noise=0.001)
        made = profile(request, SerialScheduler(device), on_start=estimates.append)
        assert made.session.reused == expected_reuse * estimates[0].jobs
    assert [one.remaining for one in estimates] == [3 * estimates[0].jobs, 0]
    assert made.table.fit_for_search
    save_table(made.table, tmp_path)
    assert load_table(tmp_path) == made.table
    assert not (tmp_path / "workloads").exists()
