"""A session on a device behind a real OpenSSH server, with real agents that measure for real."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_counts import accepted_replies
from small_network import small_plan
from ssh_server import SshServer

from devices.agent.protocol import Rule
from devices.inventory import load_inventory
from profiler.errors import SessionError
from profiler.planning.jobs import JobPlan
from profiler.schedule import FixedRounds
from profiler.scheduling.serial import SerialScheduler
from profiler.session import Session, SessionResult
from profiler.settings import ProfileSettings
from profiler.target import Target, probe_conditions
from profiler.workloads import build_onnx

QUICK = Rule(
    warmup_s=0.0, warmup_cap_s=0.01, window_s=0.002, min_samples=5, min_total_s=0.0, cap_s=0.05
)
SETTINGS = ProfileSettings(rounds=2, rule=QUICK)
#: A few pieces and networks: each file that goes over the link and each new agent takes its time.
JOBS = 12
Report = Callable[[int, int, str], None]


def short_pause(seconds: float) -> None:
    time.sleep(min(seconds, 0.2))


def few_jobs() -> JobPlan:
    plan = small_plan()
    pieces, networks = (
        [job for job in plan.jobs if job.kind == kind][: JOBS // 2] for kind in ("piece", "network")
    )
    return JobPlan(jobs=(*pieces, *networks))


def profile(folder: Path, server: SshServer, report: Report, **connection: object) -> SessionResult:
    scheduler = SerialScheduler(server.connect(**connection), pause=short_pause)
    try:
        local = load_inventory().get("local")
        conditions = probe_conditions(local, scheduler, Target(runtime="onnxruntime"))
        with Session(
            plan=few_jobs(),
            conditions=conditions,
            scheduler=scheduler,
            build=build_onnx,
            folder=folder,
            schedule=FixedRounds(rounds=SETTINGS.rounds),
            settings=SETTINGS,
        ) as session:
            return session.run(report)
    finally:
        scheduler.close()


def at(*moments: int, act: Callable[[], None]) -> Report:
    """A report that acts once at each of these numbers of jobs done."""
    left = set(moments)

    def report(done: int, total: int, label: str) -> None:
        if done in left:
            left.remove(done)
            act()

    return report


def check(folder: Path, result: SessionResult) -> None:
    counts = accepted_replies(folder)
    assert set(counts.values()) == {1}
    assert len(counts) == len(result.measurements) * SETTINGS.rounds
    assert not any(measurement.failed for measurement in result.measurements.values())
    assert {m.board for m in result.measurements.values()} == {"device"}


def test_a_link_cut_twice_costs_no_row_and_doubles_none(
    tmp_path: Path, ssh_server: SshServer
) -> None:
    cuts: list[float] = []

    def cut() -> None:
        ssh_server.cut()
        cuts.append(time.monotonic())

    result = profile(tmp_path / "out", ssh_server, at(5, 17, act=cut))
    assert len(cuts) == 2
    check(tmp_path / "out", result)
    # Nothing of ours stays there, whatever happened on the way.
    assert not ssh_server.folder.exists()


def test_an_agent_killed_on_the_device_costs_no_row(tmp_path: Path, ssh_server: SshServer) -> None:
    killed: list[int] = []

    def kill() -> None:
        killed.extend(ssh_server.agents)
        for pid in ssh_server.agents:
            os.kill(pid, signal.SIGKILL)

    result = profile(tmp_path / "out", ssh_server, at(5, 17, act=kill))
    assert killed
    check(tmp_path / "out", result)


def test_a_device_that_is_gone_for_good_ends_the_run_and_a_later_one_goes_on(
    tmp_path: Path, ssh_server: SshServer
) -> None:
    with pytest.raises(SessionError, match="device"):
        profile(tmp_path / "out", ssh_server, at(9, act=ssh_server.stop))
    before = accepted_replies(tmp_path / "out")
    assert before
    ssh_server.start()
    result = profile(tmp_path / "out", ssh_server, lambda done, total, label: None)
    assert result.reused == sum(before.values())
    check(tmp_path / "out", result)
