"""A fleet of scripted boards behind real Dask workers, each a process of its own."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from journal_counts import accepted_replies
from small_network import CONDITIONS, latency_ms, run, small_plan
from ssh_server import free_port

from latency_tables.layers.texts import parse_grid
from profiler.errors import SessionError
from profiler.fake_device import FakeConnection, write_spec
from profiler.layers.profile import LayersRequest, profile_layers
from profiler.schedule import FixedRounds
from profiler.session import Session, SessionResult
from profiler.settings import ProfileSettings

distributed = pytest.importorskip("distributed", reason="Dask is not installed (dshrink[fleet])")
from scripted_boards import ScriptedBoards  # noqa: E402

from profiler.scheduling.dask_connection import Cluster as DaskCluster  # noqa: E402
from profiler.scheduling.dask_connection import Hearts, connect  # noqa: E402
from profiler.scheduling.fleet import DaskScheduler  # noqa: E402

SETTINGS = ProfileSettings()


class Cluster:
    """Two workers that restart when they die, with scripted boards."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.address: str = cluster.scheduler_address

    def script(self, **script: Any) -> dict[str, int]:
        """Give the boards their scripts; returns the process ids of the workers by address."""
        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            client.register_plugin(ScriptedBoards(**script))
            pids: dict[str, int] = client.run(os.getpid)
            return pids


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="localhost:0",
        resources={"fake": 1},
        silence_logs=50,
    ) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Any) -> Cluster:
    return Cluster(shared_cluster)


def fleet_run(
    folder: Path, cluster: Cluster, report: Callable[[int, int, str], None] | None = None
) -> SessionResult:
    scheduler = DaskScheduler(cluster.address, ("fake",))
    with Session(
        plan=small_plan(),
        conditions=CONDITIONS,
        scheduler=scheduler,
        build=write_spec,
        folder=folder,
        schedule=FixedRounds(rounds=SETTINGS.rounds),
        settings=SETTINGS,
    ) as session:
        return session.run(*([report] if report else []))


def test_two_boards_give_the_table_that_one_gives(tmp_path: Path, cluster: Cluster) -> None:
    cluster.script()
    alone = run(
        tmp_path / "alone", FakeConnection(latency_ms=latency_ms, noise=0.002), settings=SETTINGS
    )
    both = fleet_run(tmp_path / "both", cluster)
    assert both.measurements.keys() == alone.measurements.keys()
    for name, measurement in both.measurements.items():
        assert measurement.latency_ms == pytest.approx(
            alone.measurements[name].latency_ms, rel=0.01
        )
    shares = Counter(
        json.loads(line)["board"]
        for line in (tmp_path / "both" / "journal.jsonl").read_text().splitlines()
        if line.startswith('{"line":"reply"')
    )
    assert set(shares) == {"fake-0", "fake-1"}
    assert min(shares.values()) > shares.total() / 4
    [comparison] = both.boards
    assert comparison.agrees
    assert comparison.pieces == 3
    assert alone.boards == ()
    counts = accepted_replies(tmp_path / "both")
    assert set(counts.values()) == {1}
    assert len(counts) == len(both.measurements) * SETTINGS.rounds


def test_a_job_goes_to_whichever_board_is_free_in_a_round(tmp_path: Path, cluster: Cluster) -> None:
    cluster.script()
    result = fleet_run(tmp_path, cluster)
    mixed = [m for m in result.measurements.values() if "+" in m.board]
    assert len(mixed) > len(result.measurements) / 4


def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    pids = cluster.script()
    victim = sorted(pids.values())[0]
    killed = threading.Event()

    def report(done: int, total: int, label: str) -> None:
        if done >= 20 and not killed.is_set():
            os.kill(victim, signal.SIGKILL)
            killed.set()

    result = fleet_run(tmp_path, cluster, report)
    assert killed.is_set()
    counts = accepted_replies(tmp_path)
    assert set(counts.values()) == {1}
    assert len(counts) == len(result.measurements) * SETTINGS.rounds
    assert not any(m.failed for m in result.measurements.values())


def test_a_board_unlike_the_others_is_kept_out_of_the_table(
    tmp_path: Path, cluster: Cluster
) -> None:
    cluster.script(slow={"1": 1.2})
    result = fleet_run(tmp_path, cluster)
    assert {m.board for m in result.measurements.values()} == {"fake-0"}
    assert any("fake-1 is +20" in warning for warning in result.warnings)
    assert not result.boards[0].agrees
    assert set(accepted_replies(tmp_path).values()) == {1}


def test_a_board_with_another_version_of_the_runtime_takes_no_part(
    tmp_path: Path, cluster: Cluster
) -> None:
    cluster.script(versions={"0": "2.0-other"})
    result = fleet_run(tmp_path, cluster)
    assert {m.board for m in result.measurements.values()} == {"fake-1"}


def test_layers_are_measured_by_all_boards_too(tmp_path: Path, cluster: Cluster) -> None:
    cluster.script()
    layers = parse_grid("cin=8,16,32 cout=8,16 k=1,3 hw=14").layers
    request = LayersRequest(
        layers=layers,
        build=write_spec,
        conditions=CONDITIONS,
        folder=tmp_path,
        date="2026-11-30",
        dshrink_version="0",
        time_limit_s=math.inf,
        settings=SETTINGS,
    )
    scheduler = DaskScheduler(cluster.address, ("fake",))
    table = profile_layers(request, scheduler).table
    scheduler.close()
    assert len(table.rows) == len(layers)
    assert {name for row in table.rows for name in row.board.split("+")} == {"fake-0", "fake-1"}
    for row in table.rows:
        assert row.latency_ms == pytest.approx(latency_ms(row.layer.spec), rel=0.02)


def test_where_no_board_can_do_it_the_run_says_why(tmp_path: Path, cluster: Cluster) -> None:
    cluster.script(versions={"0": "2.0-other", "1": "2.0-other"})
    with pytest.raises(SessionError, match=r"fake-. has onnxruntime 2\.0-other, the conditions"):
        fleet_run(tmp_path, cluster)


def test_an_estimate_counts_the_boards(tmp_path: Path, cluster: Cluster) -> None:
    cluster.script()
    scheduler = DaskScheduler(cluster.address, ("fake",))
    assert scheduler.boards() == ("fake-0", "fake-1")
    assert scheduler.probe().cpu_model == "scripted"
    scheduler.close()
    scheduler.close()  # whoever opened it closes it too


def test_a_device_that_no_worker_offers_is_named_with_the_command(cluster: Cluster) -> None:
    scheduler = DaskScheduler(cluster.address, ("raspi4", "kitchen-pi"), patience_s=0.1)
    with pytest.raises(SessionError, match=r"offers raspi4 or kitchen-pi: start one .*raspi4=1"):
        scheduler.drive(lambda name, board: pytest.fail("there is no board"))
    scheduler.close()


def test_an_address_where_nothing_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.scheduling.dask_connection.CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(SessionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        DaskScheduler("tcp://127.0.0.1:9", ("fake",))


def test_a_sick_worker_does_not_end_the_work_of_the_others(
    tmp_path: Path, cluster: Cluster
) -> None:
    cluster.script(sick="0")
    result = fleet_run(tmp_path, cluster)
    assert {m.board for m in result.measurements.values()} == {"fake-1"}
    [warning] = [w for w in result.warnings if "fake-0" in w]
    assert "fake-0 was excluded from the run" in warning
    assert "No space left on device" in warning


def test_a_worker_that_dies_while_it_is_asked_what_it_is_does_not_stop_the_run(
    cluster: Cluster,
) -> None:
    cluster.script(dying="0")
    scheduler = DaskScheduler(cluster.address, ("fake",))
    assert scheduler.probe().cpu_model == "scripted"
    scheduler.close()


def test_tls_without_certificates_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.scheduling.dask_connection.CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(SessionError, match=r"cannot connect to tls://.*distributed\.comm\.tls"):
        DaskScheduler("tls://127.0.0.1:9", ("fake",))


@pytest.fixture
def stopped_scheduler() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a scheduler, and its process, for a test to stop."""
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    command = [sys.executable, "-m", "dask", "scheduler", *where, "--no-dashboard"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        yield f"tcp://127.0.0.1:{port}", process
        process.kill()


def test_a_scheduler_that_is_stopped_is_one_line_and_the_end_comes(
    stopped_scheduler: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, process = stopped_scheduler
    scheduler = DaskScheduler(address, ("fake",))
    with connect(address) as dask:
        assert dask.workers() == {}
        process.send_signal(signal.SIGSTOP)
        for name, limit_s in (("ANSWER_S", 0.2), ("CONNECT_TIMEOUT_S", 0.5)):
            monkeypatch.setattr(f"profiler.scheduling.dask_connection.{name}", limit_s)
        monkeypatch.setattr("profiler.scheduling.fleet.CONNECT_TIMEOUT_S", 0.5)
        start_s = time.monotonic()
        with pytest.raises(SessionError, match=r"has not answered for 0\.4 s: see whether"):
            dask.workers()
        with pytest.raises(SessionError, match=rf"{address} has not answered for 0\.4 s"):
            scheduler.boards()
        with pytest.raises(SessionError, match="no Dask scheduler answers"):
            DaskScheduler(address, ("fake",))
        scheduler.close()
    assert time.monotonic() - start_s < 20.0


def test_a_worker_that_is_stopped_loses_its_work_to_the_others(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.scheduling.dask_connection.SILENT_S", 1.5)
    victim = sorted(cluster.script().values())[0]
    stopped = threading.Event()

    def report(done: int, total: int, label: str) -> None:
        if done >= 20 and not stopped.is_set():
            os.kill(victim, signal.SIGSTOP)
            stopped.set()

    try:
        result = fleet_run(tmp_path, cluster, report)
    finally:
        os.kill(victim, signal.SIGCONT)
    assert stopped.is_set()
    assert set(accepted_replies(tmp_path).values()) == {1}
    assert not any(m.failed for m in result.measurements.values())


def test_a_worker_that_beats_and_answers_nothing_is_excluded(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.scheduling.worker_board.ANSWER_S", 3.0)
    cluster.script(hanging="0")
    result = fleet_run(tmp_path, cluster)
    assert {m.board for m in result.measurements.values()} == {"fake-1"}
    [warning] = [w for w in result.warnings if "fake-0" in w]
    assert "has not answered for 3 s: restart it" in warning


def test_a_worker_whose_heart_stops_is_silent_after_a_minute_of_the_hosts_clock() -> None:
    now_s = 0.0
    hearts = Hearts(clock=lambda: now_s)
    while now_s <= 60.0:
        assert not hearts.is_silent("tcp://a", 5.0)
        now_s += 5.0
    assert hearts.is_silent("tcp://a", 5.0)
    assert not hearts.is_silent("tcp://a", 6.0)


def test_a_cluster_tells_of_workers_that_are_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.scheduling.dask_connection.SILENT_S", -1.0)
    client = Mock()
    client.sync.side_effect = [{"a": {"last_seen": 1.0}}, {"a": {"last_seen": 1.0}}]
    cluster = DaskCluster(client, "tcp://a")
    assert cluster.workers() == {}
    monkeypatch.setattr("profiler.scheduling.dask_connection.SILENT_S", 60.0)
    assert cluster.workers() == {"a": {"last_seen": 1.0}}


def test_the_time_in_which_the_host_itself_was_stopped_is_no_silence() -> None:
    times = iter((0.0, 1.0, 500.0, 501.0))
    hearts = Hearts(clock=lambda: next(times))
    assert not any(hearts.is_silent("tcp://a", 5.0) for _ in range(4))
