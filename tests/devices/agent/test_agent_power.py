from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ssh_server import wait_until

from devices.agent import power
from devices.agent.checks import RequestError

# Holds, says so, and waits to be killed.
HOLDER = """
import sys, time
from devices.agent import power
held = power.hold(sys.argv[1], lock_path=sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    """A lock of the test's own: other tests hold clocks too."""
    return str(tmp_path / "clocks.lock")


@pytest.fixture
def cores(tmp_path: Path) -> dict[str, Path]:
    """The governors of three cores in a /sys of the test's own; its root is ``root``."""
    found = {"root": tmp_path / "root"}
    for core, governor in (("cpu0", "powersave"), ("cpu1", "schedutil"), ("cpu2", "performance")):
        folder = tmp_path / "root/sys/devices/system/cpu" / core / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        found[core] = folder / "scaling_governor"
    return found


def governors(cores: dict[str, Path]) -> list[str]:
    return [cores[name].read_text().strip() for name in ("cpu0", "cpu1", "cpu2")]


BEFORE = ["powersave", "schedutil", "performance"]


def test_governors_are_held_and_put_back(cores, lock_path: str) -> None:
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    try:
        assert governors(cores) == ["performance"] * 3
        assert held.descriptions == ["governor performance on 3 cores (was powersave+schedutil)"]
    finally:
        held.release()
    assert governors(cores) == BEFORE
    held.release()  # a second time changes nothing


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_governors_are_put_back_though_the_holder_is_killed(
    cores, lock_path: str, number: int
) -> None:
    command = [sys.executable, "-c", HOLDER, str(cores["root"]), lock_path]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert governors(cores) == ["performance"] * 3
        os.killpg(holder.pid, number)
        # The end of its output comes though the guardian may still be there.
        assert holder.stdout.read() == b""
    assert wait_until(lambda: governors(cores) == BEFORE)


def test_the_guardian_outlives_signals_that_are_meant_for_the_run(cores, lock_path: str) -> None:
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    try:
        guardian = held._guardian
        assert guardian is not None and os.getsid(guardian.pid) == guardian.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            guardian.send_signal(number)
        assert guardian.poll() is None
        open_files = {path.resolve() for path in Path(f"/proc/{guardian.pid}/fd").iterdir()}
        ours = {Path(f"/proc/self/fd/{number}").resolve() for number in (0, 1, 2)}
        assert not (open_files & ours) - {Path(os.devnull)}
    finally:
        held.release()
    assert guardian.returncode == 0
    assert governors(cores) == BEFORE


def test_what_cannot_be_set_leaves_nothing_half_set_and_gives_the_line_to_run(
    cores, lock_path: str
) -> None:
    cores["cpu1"].unlink()
    cores["cpu1"].symlink_to("/proc/version")  # read but never written, not even by root
    with pytest.raises(RequestError) as caught:
        power.hold(str(cores["root"]), lock_path=lock_path)
    assert caught.value.kind == "not_permitted"
    assert "cpu1/cpufreq/scaling_governor cannot be set" in caught.value.message
    assert "echo performance | sudo tee /sys/devices/system/cpu/cpu*/" in caught.value.advice
    assert cores["cpu0"].read_text().strip() == "powersave"


@pytest.mark.parametrize("change", ["none there", "all performance"])
def test_where_nothing_is_to_be_set_nothing_is_started(cores, lock_path: str, change: str) -> None:
    for name in ("cpu0", "cpu1", "cpu2"):
        cores[name].write_text("performance\n")
        if change == "none there":
            cores[name].unlink()
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    expected = "nothing to hold" if change == "none there" else "(was so already)"
    assert expected in held.descriptions[0]
    assert held._guardian is None
    held.release()


def test_two_runs_never_hold_at_once(cores, lock_path: str, monkeypatch) -> None:
    root = str(cores["root"])
    monkeypatch.setattr(power, "LOCK_PATIENCE_S", 0.2)
    held = power.hold(root, lock_path=lock_path)
    try:
        with pytest.raises(RequestError) as caught:
            power.hold(root, lock_path=lock_path)
        assert caught.value.kind == "device_busy"
    finally:
        held.release()
    # Free again; and what is put back now is what was there before the first.
    power.hold(root, lock_path=lock_path).release()
    assert governors(cores) == BEFORE


# Jetson: tools that keep their state in files and write down how they were called.

NVPMODEL = """
case $1 in
-q) echo "NV Fan Mode:quiet"; echo "NV Power Mode: MODE_$(cat $HERE/mode)"; cat $HERE/mode;;
-m) echo "nvpmodel $2" >> $HERE/log; echo $2 > $HERE/mode;;
esac
"""
JETSON_CLOCKS = """
case $1 in
--store) [ -e $2 ] && exit 1; cp $HERE/clocks $2;;
--restore) cp $2 $HERE/clocks;;
"") [ -e $HERE/broken ] && echo "Error: no EMC" >&2 && exit 1; echo max > $HERE/clocks;;
esac
echo "jetson_clocks $1" >> $HERE/log
"""
SUDO = '[ "$1" = -n ] && shift; exec "$@"\n'


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Jetson in mode 1, clocks free: its tools on PATH; files "mode", "clocks" and "log"."""
    here = tmp_path / "board"
    (here / "etc").mkdir(parents=True)
    (here / "etc/nv_tegra_release").write_text("# R32")
    for name, script in (("nvpmodel", NVPMODEL), ("jetson_clocks", JETSON_CLOCKS), ("sudo", SUDO)):
        (here / name).write_text(f"#!/bin/sh\nHERE={here}\n{script}")
        (here / name).chmod(0o755)
    (here / "mode").write_text("1\n")
    (here / "clocks").write_text("free\n")
    (here / "log").write_text("")
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return here


def state(board: Path) -> tuple[str, str]:
    return (board / "mode").read_text().strip(), (board / "clocks").read_text().strip()


def leftovers(board: Path) -> list[Path]:
    return list(board.parent.glob("dshrink-clocks-*"))


def test_a_jetson_is_held_by_its_own_tools_and_put_back_in_reverse(board, lock_path: str) -> None:
    held = power.hold(str(board), lock_path=lock_path)
    try:
        assert state(board) == ("0", "max")
        assert held.descriptions == ["nvpmodel mode 0 (was MODE_1)", "jetson_clocks"]
    finally:
        held.release()
    assert state(board) == ("1", "free")
    assert (board / "log").read_text().splitlines() == [
        "nvpmodel 0",
        "jetson_clocks --store",
        "jetson_clocks ",
        "jetson_clocks --restore",
        "nvpmodel 1",
    ]
    assert leftovers(board) == []


def test_a_jetson_in_its_best_mode_stays_in_it(board, lock_path: str) -> None:
    (board / "mode").write_text("0\n")
    power.hold(str(board), lock_path=lock_path).release()
    assert "nvpmodel" not in (board / "log").read_text()
    assert state(board) == ("0", "free")


def test_a_jetson_is_put_back_though_the_holder_is_killed(board, lock_path: str) -> None:
    command = [sys.executable, "-c", HOLDER, str(board), lock_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert state(board) == ("0", "max")
        os.killpg(holder.pid, signal.SIGKILL)
    assert wait_until(lambda: state(board) == ("1", "free") and not leftovers(board))


def test_a_jetson_whose_clocks_cannot_be_set_is_left_as_it_was(board, lock_path: str) -> None:
    (board / "broken").touch()
    with pytest.raises(RequestError) as caught:
        power.hold(str(board), lock_path=lock_path)
    assert caught.value.kind == "not_permitted"
    assert "Error: no EMC" in caught.value.message
    assert "sudo nvpmodel -m 0 && sudo jetson_clocks" in caught.value.advice
    assert state(board) == ("1", "free")
    assert leftovers(board) == []


def test_a_jetson_without_its_tools_says_so(board, lock_path: str) -> None:
    (board / "nvpmodel").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RequestError, match="does not report the power mode"):
        power.hold(str(board), lock_path=lock_path)
    assert state(board)[1] == "free"


# A GPU: nvidia-smi as a script that writes down how it was called; file "refuses" makes it refuse.

NVIDIA_SMI = """
echo "$@" >> $HERE/log
case $3 in
-lgc) if [ -e $HERE/refuses ]; then cat $HERE/refuses; exit $(cat $HERE/status); fi
      echo $4 > $HERE/clock;;
-rgc) echo free > $HERE/clock;;
esac
"""
GPU = {"uuid": "GPU-1", "sm_default_mhz": 1380, "sm_max_mhz": 1980, "sm_mhz": 345}


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU: nvidia-smi on PATH; files "clock" and "log"."""
    here = tmp_path / "nvidia"
    here.mkdir()
    for name, script in (("nvidia-smi", NVIDIA_SMI), ("sudo", SUDO)):
        (here / name).write_text(f"#!/bin/sh\nHERE={here}\n{script}")
        (here / name).chmod(0o755)
    (here / "clock").write_text("free\n")
    (here / "log").write_text("")
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(power.health, "gpu", lambda root: GPU)
    return here


def clock(nvidia: Path) -> str:
    return (nvidia / "clock").read_text().strip()


def refuse(nvidia: Path, said: str, status: int) -> None:
    (nvidia / "refuses").write_text(said)
    (nvidia / "status").write_text(str(status))


def test_a_gpu_is_locked_to_its_default_clock_and_freed_again(
    nvidia, cores, lock_path: str
) -> None:
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    try:
        assert clock(nvidia) == "1380,1380"
        assert held.descriptions[1:] == ["GPU clock 1380 MHz (was free)"]
        assert held.gpu_mhz == 1380
        assert governors(cores) == ["performance"] * 3
    finally:
        held.release()
    assert clock(nvidia) == "free" and governors(cores) == BEFORE
    assert (nvidia / "log").read_text().splitlines() == ["-i GPU-1 -lgc 1380,1380", "-i GPU-1 -rgc"]
    assert leftovers(nvidia) == []


def test_a_clock_that_is_a_share_of_the_highest_is_said_to_be_one(
    nvidia, cores, lock_path: str, monkeypatch
) -> None:
    """As on every GPU, once CUDA 14 removes the default applications clock."""
    monkeypatch.setattr(power.health, "gpu", lambda root: {**GPU, "sm_default_mhz": None})
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    try:
        assert held.descriptions[1:] == ["GPU clock 1386 MHz (0.7 of its highest; was free)"]
        assert held.gpu_mhz == 1386 and clock(nvidia) == "1386,1386"
    finally:
        held.release()


def test_a_gpu_is_locked_where_the_cpu_s_clock_is_nobody_s_to_choose(
    nvidia, tmp_path: Path, lock_path: str
) -> None:
    held = power.hold(str(tmp_path / "bare"), lock_path=lock_path)
    try:
        assert "nothing to hold: this machine lets nobody choose its CPU" in held.descriptions[0]
        assert held.gpu_mhz == 1380 and clock(nvidia) == "1380,1380"
    finally:
        held.release()
    assert clock(nvidia) == "free"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("The current user does not have permission to change clocks for GPU 0000:01:00.0.", 4),
        ("Setting locked clocks is not supported for GPU 0000:01:00.0.\nTreating as warning", 0),
        ("", 9),
    ],
)
def test_a_gpu_that_cannot_be_locked_is_said_and_the_cpu_is_held(
    nvidia, cores, lock_path: str, capfd, said: str, status: int
) -> None:
    refuse(nvidia, said, status)
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    try:
        governor, gpu = held.descriptions
        assert governor.startswith("governor performance") and held.gpu_mhz is None
        assert gpu.startswith("GPU clock not held: `") and said.partition("\n")[0] in gpu
        assert gpu.endswith("; by hand: sudo nvidia-smi -i GPU-1 -lgc 1380,1380")
        assert clock(nvidia) == "free"
    finally:
        held.release()
    assert governors(cores) == BEFORE
    # What was never locked is not freed: somebody else may have locked it.
    assert "-rgc" not in (nvidia / "log").read_text()
    assert leftovers(nvidia) == []
    assert "not everything could be put back" not in capfd.readouterr().err


def test_a_governor_that_cannot_be_set_leaves_the_gpu_alone(nvidia, cores, lock_path: str) -> None:
    cores["cpu0"].unlink()
    cores["cpu0"].symlink_to("/proc/version")
    with pytest.raises(RequestError, match="cpu0/cpufreq/scaling_governor cannot be set"):
        power.hold(str(cores["root"]), lock_path=lock_path)
    assert clock(nvidia) == "free" and (nvidia / "log").read_text() == ""


def test_a_gpu_is_freed_though_the_holder_is_killed(nvidia, cores, lock_path: str) -> None:
    program = HOLDER.replace("held = ", f"power.health.gpu = lambda root: {GPU!r}\nheld = ")
    command = [sys.executable, "-c", program, str(cores["root"]), lock_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert clock(nvidia) == "1380,1380"
        os.killpg(holder.pid, signal.SIGKILL)
    assert wait_until(lambda: clock(nvidia) == "free" and governors(cores) == BEFORE)
    assert wait_until(lambda: not leftovers(nvidia))


@pytest.mark.parametrize(
    ("facts", "mhz"),
    [
        ({"sm_default_mhz": 1380, "sm_max_mhz": 1980}, 1380),
        ({"sm_default_mhz": None, "sm_max_mhz": 2000}, 1400),  # GeForce: 0.7 of the highest
        ({"sm_default_mhz": None, "sm_max_mhz": None}, None),
    ],
)
def test_the_clock_to_hold_is_one_that_the_gpu_can_keep(facts, mhz: int | None) -> None:
    line = power.by_hand_gpu({"uuid": "GPU-1", **facts})
    assert line == (f"sudo nvidia-smi -i GPU-1 -lgc {mhz},{mhz}" if mhz else None)
    assert power.by_hand_gpu({"uuid": None, **facts}) is None


@pytest.mark.parametrize("missing", ["tool", "facts"])
def test_a_gpu_that_nothing_is_known_of_or_no_tool_sets_is_left_alone(
    nvidia, cores, lock_path: str, monkeypatch, missing: str
) -> None:
    if missing == "tool":
        (nvidia / "nvidia-smi").unlink()
        monkeypatch.setattr(power.SYSTEM, "find", lambda name: None)
    else:
        monkeypatch.setattr(power.health, "gpu", lambda root: None)
    held = power.hold(str(cores["root"]), lock_path=lock_path)
    held.release()
    assert len(held.descriptions) == 1 and held.gpu_mhz is None


def test_a_jetson_s_gpu_is_held_by_its_own_tools_alone(nvidia, board, lock_path: str) -> None:
    held = power.hold(str(board), lock_path=lock_path)
    held.release()
    assert held.gpu_mhz is None and (nvidia / "log").read_text() == ""


def test_the_gpu_s_clocks_are_told_with_the_line_that_holds_them(nvidia, tmp_path: Path) -> None:
    told = power.clocks(str(tmp_path / "bare"))
    assert (told["gpu_mhz"], told["gpu_max_mhz"]) == (345, 1980)
    assert told["gpu_by_hand"] == "sudo nvidia-smi -i GPU-1 -lgc 1380,1380"


def test_clocks_are_told_once_for_the_cores_that_share_one(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/cpu/cpufreq/policy0"
    folder.mkdir(parents=True)
    for name, text in (
        ("related_cpus", "0 1 2 3"),
        ("scaling_governor", "ondemand"),
        ("scaling_driver", "cpufreq-dt"),
        ("scaling_min_freq", "600000"),
        ("scaling_max_freq", "1500000"),
        ("scaling_cur_freq", "750000"),
    ):
        (folder / name).write_text(text + "\n")
    assert power.clocks(str(tmp_path))["cpu"] == [
        {
            "cores": "0 1 2 3",
            "governor": "ondemand",
            "driver": "cpufreq-dt",
            "min_mhz": 600.0,
            "max_mhz": 1500.0,
            "mhz": 750.0,
        }
    ]
