from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devices.agent import cuda, nvml, processes
from devices.agent.cuda import GpuInfo
from devices.agent.processes import SPAN_S, memory_available_gib, others, others_on_gpu

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def put(root: Path, pid: int, name: str, parent: int, cpu_s: float) -> None:
    """Write a process's line as proc(5) has it: fields 14 and 15 are its user and system time."""
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    system = round(cpu_s / TICK_S / 3)
    user = round(cpu_s / TICK_S) - system
    (folder / "stat").write_text(
        f"{pid} ({name}) R {parent} 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 99 0 0\n"
    )


def seen(root: Path, first: dict, then: dict, own: int = 1000) -> list[dict]:
    """What is found when processes {pid: (name, parent, CPU seconds)} work for one second."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        assert seconds == SPAN_S
        now[0] += 1.0
        for pid, facts in then.items():
            put(root, pid, *facts)

    for pid, facts in first.items():
        put(root, pid, *facts)
    return others(str(root), own=own, sleep=sleep, clock=lambda: now[0])


def test_who_works_is_named_with_its_share_of_a_core_busiest_first(tmp_path: Path) -> None:
    first = {7: ("calm", 1, 50.0), 8: ("a (odd) name", 1, 10.0), 9: ("busy", 1, 10.0)}
    then = {7: ("calm", 1, 50.0), 8: ("a (odd) name", 1, 10.25), 9: ("busy", 1, 10.9)}
    assert seen(tmp_path, first, then) == [
        {"pid": 9, "name": "busy", "cpu_percent": 90.0},
        {"pid": 8, "name": "a (odd) name", "cpu_percent": 25.0},
    ]


def test_the_agent_and_its_guardian_are_not_others(tmp_path: Path) -> None:
    first = {1000: ("agent", 1, 0.0), 1001: ("guardian", 1000, 0.0)}
    then = {1000: ("agent", 1, 1.0), 1001: ("guardian", 1000, 1.0)}
    assert seen(tmp_path, first, then) == []
    assert [one["pid"] for one in seen(tmp_path, first, then, own=5)] == [1000, 1001]


def test_only_the_five_busiest_above_one_percent_are_named(tmp_path: Path) -> None:
    first = {pid: (f"p{pid}", 1, 0.0) for pid in range(10, 18)}
    then = {pid: (f"p{pid}", 1, pid / 100) for pid in range(10, 18)} | {17: ("p17", 1, 0.01)}
    assert [one["pid"] for one in seen(tmp_path, first, then)] == [16, 15, 14, 13, 12]


def test_who_starts_or_ends_meanwhile_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, 20, "gone", 1, 1.0)
    (tmp_path / "proc" / "20" / "stat").write_text("")
    assert seen(tmp_path, {}, {21: ("new", 1, 5.0)}) == []


def test_a_real_neighbour_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MOST", 1000)  # others may be at work here too
    busy = "print(flush=True)\nwhile True: pass"
    neighbour = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
    try:
        assert neighbour.stdout is not None and neighbour.stdout.readline()
        found = {one["pid"]: one for one in others(own=0)}
    finally:
        neighbour.kill()
        neighbour.communicate()
    assert found[neighbour.pid]["cpu_percent"] > 5
    assert found[neighbour.pid]["name"].startswith("python")


@pytest.mark.parametrize(
    ("meminfo", "gib"),
    [
        ("MemTotal: 8000000 kB\nMemAvailable:    4194304 kB\n", 4.0),
        ("MemTotal: 8000000 kB\n", None),
        ("MemAvailable:\n", None),
    ],
)
def test_available_memory_is_the_kernel_s_own_estimate(tmp_path: Path, meminfo, gib) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(meminfo)
    assert memory_available_gib(str(tmp_path)) == gib


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What NVML says of the GPU of a machine; /proc holds four processes."""
    listed: list[dict] = []
    info = GpuInfo("Simulated H200", (9, 0), "12.4", 1 << 30, None, "GPU-1")
    names = {7: ("trainer", 1), 8: ("server", 1), 1000: ("agent", 1), 1001: ("worker", 1000)}
    read = {pid: processes.Reading(name, parent, 0) for pid, (name, parent) in names.items()}
    monkeypatch.setattr(nvml, "load", lambda: object())
    monkeypatch.setattr(nvml, "processes", lambda uuid: listed if uuid == "GPU-1" else [])
    monkeypatch.setattr(cuda, "find_gpu", lambda: info)
    monkeypatch.setattr(processes, "_readings", lambda root: read)
    return listed


def test_who_else_computes_on_the_gpu_is_named_most_memory_first(computing) -> None:
    computing += [
        {"pid": 7, "memory_mib": 100},
        {"pid": 8, "memory_mib": 2000},
        {"pid": 99, "memory_mib": None},  # of the host, seen from a container
    ]
    assert others_on_gpu(own=1000) == [
        {"pid": 8, "name": "server", "memory_mib": 2000},
        {"pid": 7, "name": "trainer", "memory_mib": 100},
        {"pid": 99, "name": "?", "memory_mib": None},
    ]


def test_the_agent_and_its_worker_are_not_others_on_the_gpu(computing) -> None:
    computing += [{"pid": 1000, "memory_mib": 1}, {"pid": 1001, "memory_mib": 5000}]
    assert others_on_gpu(own=1000) == []
    assert [one["pid"] for one in others_on_gpu(own=5)] == [1001, 1000]


def test_nobody_computes_where_there_is_no_gpu(computing, monkeypatch, tmp_path: Path) -> None:
    computing.append({"pid": 7, "memory_mib": 100})
    assert others_on_gpu(str(tmp_path)) == []  # another machine's root
    monkeypatch.setattr(cuda, "find_gpu", lambda: None)
    assert others_on_gpu() == []
    monkeypatch.setattr(nvml, "load", lambda: None)
    monkeypatch.setattr(cuda, "find_gpu", lambda: pytest.fail("CUDA was asked"))
    assert others_on_gpu() == []
