"""The real command on two real Dask workers; host, agents and workers killed with -9 at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from journal_counts import accepted_replies
from ssh_server import free_port, processes, wait_until

from latency_tables.io import load_table
from profiler.profile_schedule import PIECE_ROUNDS

KILLS = 20
#: For what takes seconds on a machine that does nothing else.
PATIENCE_S = 300.0
ADDRESS = f"tcp://127.0.0.1:{free_port()}"


def host(folder: Path) -> subprocess.Popen[bytes]:
    code = "from dshrink.cli.main import main; main()"
    options = ["--resolution", "32", "--hold-out", "8", "--scheduler", ADDRESS]
    command = [sys.executable, "-c", code, "profile", "mobilenetv2_035", *options]
    with (folder / "host.log").open("ab") as log:
        return subprocess.Popen([*command, "--out", str(folder)], stdout=log, stderr=log)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[int]:
    """A scheduler and two workers that are restarted when they die; the id of their nanny."""
    pytest.importorskip("distributed", reason="Dask is not installed (dshrink[fleet])")
    dask = [sys.executable, "-m", "dask"]
    address = ["--host", "127.0.0.1", "--port", ADDRESS.rpartition(":")[2], "--no-dashboard"]
    offer = ["--nworkers", "2", "--nthreads", "1", "--name", "board", "--resources", "local=1"]
    place = ["--local-directory", str(tmp_path / "dask"), "--no-dashboard"]
    with (
        (tmp_path / "dask.log").open("wb") as log,
        subprocess.Popen([*dask, "scheduler", *address], stdout=log, stderr=log) as scheduler,
        subprocess.Popen(
            [*dask, "worker", ADDRESS, *offer, *place], stdout=log, stderr=log
        ) as nannies,
    ):
        try:
            yield nannies.pid
        finally:
            nannies.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                nannies.wait(20)
            nannies.kill()
            scheduler.kill()


def below(parent: int) -> list[int]:
    table = processes()
    found = [pid for pid, (known, _, _) in table.items() if known == parent]
    return found + [pid for child in found for pid in below(child)]


def victims(nannies: int, kind: str) -> list[int]:
    table = processes()
    mine = [pid for pid in below(nannies) if pid in table]
    agents = [pid for pid in mine if b"agent/__main__.py" in table[pid][2]]
    if kind == "agent":
        return agents
    return [table[pid][0] for pid in agents]  # a worker is what has an agent


def replies(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b'"line":"reply"') if journal.exists() else 0


def moved_on(folder: Path, to: int, running: subprocess.Popen[bytes]) -> bool:
    return replies(folder) >= to or running.poll() is not None


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    rng = random.Random(2026)
    killed: Counter[str] = Counter()
    running = host(folder)
    try:
        for number in range(KILLS):
            # By work and not by time: on a fast machine too there is some left for the last kill.
            wanted = replies(folder) + rng.randint(1, 8)
            assert wait_until(partial(moved_on, folder, wanted, running), PATIENCE_S)
            time.sleep(rng.uniform(0.0, 0.2))
            if running.poll() is not None:
                break
            kind = ("host", "agent", "worker")[number % 3]
            found = [running.pid]
            if kind != "host":
                # An agent ends with its round, and a worker that was killed takes its time.
                assert wait_until(partial(victims, workers, kind), PATIENCE_S)
                found = victims(workers, kind)
            for pid in found[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed[kind] += 1
            if kind == "host":
                running.wait()
                running = host(folder)
        status = running.wait(600)
    finally:
        running.kill()
        running.wait()
    assert status == 0, (folder / "host.log").read_text()[-2000:]
    assert killed.total() >= KILLS - 2, killed
    counts = accepted_replies(folder)
    assert set(counts.values()) == {1}
    table = load_table(folder)
    for row in table.rows:
        assert all(counts[row.digest, number] == 1 for number in range(PIECE_ROUNDS)), row.piece
        assert row.is_measured, row.reason
