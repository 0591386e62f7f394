from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ssh_server import wait_until

from devices.agent.commands import Commands
from devices.agent.health import read_health
from devices.agent.jetson import is_jetson, parse_statistics, power_mode, statistics

# Recorded on real boards and published; a TX2 (JetPack 4.6), one with cores off and without root, a
# Nano, an Orin.
TX2 = (
    "RAM 2344/7852MB (lfb 1154x4MB) SWAP 0/3926MB (cached 0MB) CPU [1%@345,off,off,1%@345,0%@345,"
    "2%@345] EMC_FREQ 4%@1600 GR3D_FREQ 0%@624 APE 150 PLL@37.5C MCPU@37.5C PMIC@100C Tboard@32C "
    "GPU@35C BCPU@37.5C thermal@36.5C Tdiode@34.25C VDD_SYS_GPU 152/152 VDD_SYS_SOC 687/687 "
    "VDD_4V0_WIFI 0/0 VDD_IN 3056/3056 VDD_SYS_CPU 152/152 VDD_SYS_DDR 883/883"
)
TX2_NO_ROOT = (
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,1%@345] EMC_FREQ 0% "
    "GR3D_FREQ 0% PLL@42.5C MCPU@42.5C PMIC@100C Tboard@40C GPU@41C BCPU@42.5C thermal@41.9C "
    "Tdiode@41.25C VDD_SYS_GPU 153/158"
)
NANO = (
    "RAM 863/3964MB (lfb 60x4MB) SWAP 714/51134MB (cached 60MB) CPU [5%@102,1%@102,0%@102,0%@102] "
    "EMC_FREQ 0% GR3D_FREQ 0% PLL@26.5C CPU@30.5C PMIC@50C GPU@30.5C AO@34.5C thermal@30.75C"
)
ORIN = (
    "09-24-2026 10:15:32 RAM 2467/7471MB (lfb 2x4MB) SWAP 0/994MB (cached 0MB) "
    "CPU [2%@729,1%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] CPU@48.5C soc2@46.9C tj@48.5C"
)


def command(folder: Path, name: str, script: str) -> None:
    """Write an executable of the shell."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its new parent has not yet taken notice of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH before all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_line_of_a_tx2_is_read_without_its_dummy_sensor() -> None:
    said = parse_statistics(TX2)
    assert said["cpu_mhz"] == [345, None, None, 345, 345, 345]
    assert (said["gpu_mhz"], said["memory_mhz"]) == (624, 1600)
    assert said["temperatures_c"] == {
        "PLL": 37.5,
        "MCPU": 37.5,
        "Tboard": 32.0,
        "GPU": 35.0,
        "BCPU": 37.5,
        "thermal": 36.5,
        "Tdiode": 34.25,
    }


@pytest.mark.parametrize(
    ("line", "cpu_mhz", "gpu_mhz", "memory_mhz", "hottest"),
    [
        (TX2_NO_ROOT, [345] * 6, None, None, 42.5),
        (NANO, [102] * 4, None, None, 34.5),
        (ORIN, [729, 729], 305, 2133, 48.5),
    ],
)
def test_lines_of_other_boards_are_read_too(line, cpu_mhz, gpu_mhz, memory_mhz, hottest) -> None:
    said = parse_statistics(line)
    assert (said["cpu_mhz"], said["gpu_mhz"], said["memory_mhz"]) == (cpu_mhz, gpu_mhz, memory_mhz)
    assert max(said["temperatures_c"].values()) == hottest


@pytest.mark.parametrize(
    ("said", "mhz"), [(TX2, 624), (TX2_NO_ROOT, 1122), ("", 1122)], ids=["root", "user", "nothing"]
)
@pytest.mark.parametrize("gpu", ["17000000.gp10b", "57000000.gpu", "17000000.gv11b"])
def test_the_gpu_s_clock_is_the_kernel_s_where_tegrastats_tells_it_to_root_alone(
    tmp_path: Path, tools: Path, said: str, mhz: int, gpu: str
) -> None:
    root = tmp_path / "root"
    folder = root / "sys/class/devfreq" / gpu
    folder.mkdir(parents=True)
    (folder / "cur_freq").write_text("1122000000\n")
    other = root / "sys/class/devfreq/13e10000.host1x"
    other.mkdir()
    (other / "cur_freq").write_text("408000000\n")
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text("# R32 (release), REVISION: 7.1")
    command(tools, "tegrastats", f"echo '{said}'")
    health = read_health(str(root))
    assert health["gpu_mhz"] == health["gpu"]["sm_mhz"] == mhz


def test_a_line_that_says_nothing_known_is_no_error() -> None:
    assert parse_statistics("") == {}
    said = parse_statistics("tegrastats: command line error")
    assert said == {"cpu_mhz": None, "gpu_mhz": None, "memory_mhz": None, "temperatures_c": {}}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("etc/nv_tegra_release", "# R32 (release), REVISION: 7.1", True),
        ("proc/device-tree/compatible", "nvidia,p2771-0000\0nvidia,tegra186\0", True),
        ("proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0", False),
    ],
)
def test_a_jetson_is_known_by_its_release_file_or_its_device_tree(
    tmp_path: Path, file: str, content: str, expected: bool
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(content)
    assert is_jetson(str(tmp_path)) is expected


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0", (0, "MAXN")),
        ("NV Power Mode: MAXP_CORE_ARM\n3\n", (3, "MAXP_CORE_ARM")),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W\n2", (2, "MODE_15W")),
        ("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13", None),
    ],
)
def test_the_power_mode_is_read_as_nvpmodel_prints_it(tools: Path, said: str, mode) -> None:
    command(tools, "nvpmodel", f"cat <<'END'\n{said}\nEND")
    assert power_mode() == mode


@pytest.mark.parametrize("script", ["exit 1", "echo NV Power Mode: MAXN; exit 1", "sleep 60"])
def test_a_tool_that_fails_or_hangs_tells_no_mode(tools: Path, script: str) -> None:
    command(tools, "nvpmodel", f"exec {script}" if script.startswith("sleep") else script)
    start = time.monotonic()
    assert power_mode() is None
    assert time.monotonic() - start < 10


def test_tegrastats_is_read_once_and_ended_though_it_runs_for_ever(tools: Path) -> None:
    loop = "while :; do sleep 0.05; echo more; done"
    command(tools, "tegrastats", f"echo $$ > {tools}/pid\necho '{TX2}'\n{loop}")
    assert statistics()["gpu_mhz"] == 624
    assert wait_until(lambda: has_ended(int((tools / "pid").read_text())))


def test_a_silent_tegrastats_is_ended_too(tools: Path) -> None:
    command(tools, "tegrastats", f"echo $$ > {tools}/pid\nexec sleep 600")
    assert Commands().first_line(["tegrastats"], timeout_s=1.0) == ""
    assert wait_until(lambda: has_ended(int((tools / "pid").read_text())))


def test_a_tool_that_is_not_there_says_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert statistics() == {}
    assert power_mode() is None
    assert Commands().find("tegrastats") is None
