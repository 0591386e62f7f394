from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from devices.agent import cuda, nvml
from devices.agent.cgroup import cpu_quota
from devices.agent.commands import Commands
from devices.agent.cuda import GpuInfo
from devices.agent.health import read_health, throttle_reason, throttled_now
from devices.agent.power import Held
from devices.agent.system import board, cpu_model, describe, operating_system, probe


class Scripted(Commands):
    """Commands that print what a real board printed; ``ran`` are those that were asked for."""

    def __init__(self, **said: str) -> None:
        self.said = said
        self.ran: list[str] = []

    def output(self, words: list[str]) -> str:
        self.ran.append(words[0])
        return self.said.get(words[0], "")

    def first_line(self, words: list[str], timeout_s: float = 1.0) -> str:
        return self.output(words)


def tree(root: Path, files: dict[str, str]) -> str:
    """Write files as /sys and /proc have them; returns the root."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return str(root)


X86 = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2000000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    "sys/class/thermal/thermal_zone0/temp": "41000\n",
    "sys/class/thermal/thermal_zone1/temp": "55500\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 2\n",
    "proc/loadavg": "0.42 0.30 0.20 1/200 999\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 800 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n",
}
JETSON = {
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, BOARD: t186ref\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/class/thermal/thermal_zone0/type": "BCPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "37500\n",
    "sys/class/thermal/thermal_zone4/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone4/temp": "100000\n",
    "sys/class/thermal/cooling_device0/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device1/cur_state": "3\n",
}
JETSON_SAYS = {
    "nvpmodel": "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0",
    "tegrastats": "RAM 2344/7852MB (lfb 1154x4MB) CPU [1%@345] EMC_FREQ 4%@1600 GR3D_FREQ 0%@624 "
    "APE 150 PMIC@100C GPU@35C",
}
PI = {
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "gpio-fan\n",
    "sys/class/thermal/cooling_device1/cur_state": "4\n",
}


def test_health_of_an_x86_machine_is_read_from_sys_and_proc(tmp_path: Path) -> None:
    health = read_health(tree(tmp_path, X86))
    assert health == {
        "governor": "performance",
        "frequency_mhz": 2500.0,
        "temperature_c": 55.5,
        "throttle_events": 7,
        "throttle_bits": None,
        "cooling_level": None,
        "quota_throttled": 2,
        "load_average": 0.42,
        "steal_ms": 800 * 1000 // os.sysconf("SC_CLK_TCK"),
        "power_mode": None,
        "gpu_mhz": None,
        "gpu": None,
    }


def test_health_of_a_jetson_has_its_power_mode_and_leaves_out_the_dummy_sensor(
    tmp_path: Path,
) -> None:
    health = read_health(tree(tmp_path, JETSON), Scripted(**JETSON_SAYS))
    assert (health["power_mode"], health["gpu_mhz"]) == ("MAXN", 624)
    assert health["gpu"] == {"sm_mhz": 624, "memory_mhz": 1600, "temperature_c": 35.0}
    assert health["temperature_c"] == 37.5
    assert health["cooling_level"] == 0  # the fan slows nothing


def test_a_jetson_that_holds_its_gpu_down_is_throttled(tmp_path: Path) -> None:
    alert = {"sys/class/thermal/cooling_device0/cur_state": "1\n"}
    health = read_health(tree(tmp_path, JETSON | alert), Scripted(**JETSON_SAYS))
    assert "cools the CPU or GPU down (level 1)" in throttled_now(health)


def test_no_command_of_a_board_is_run_on_an_x86_machine(tmp_path: Path) -> None:
    asked = Scripted()
    read_health(tree(tmp_path, X86), asked)
    assert set(asked.ran) <= {"vcgencmd"}  # asked for, but a PC has none


@pytest.mark.parametrize(
    ("said", "bits"),
    [
        ("throttled=0x50005", 0x50005),
        ("throttled=0x0", 0),
        ("VCHI initialization failed", None),  # no /dev/vcio
        ("", None),
    ],
)
def test_the_firmware_is_asked_through_its_tool_where_sys_lacks_it(
    tmp_path: Path, said: str, bits: int | None
) -> None:
    assert read_health(str(tmp_path), Scripted(vcgencmd=said))["throttle_bits"] == bits


def test_the_tool_of_the_firmware_is_left_alone_where_sys_has_the_bits(tmp_path: Path) -> None:
    asked = Scripted(vcgencmd="throttled=0x0")
    assert read_health(tree(tmp_path, PI), asked)["throttle_bits"] == 0x50005
    assert asked.ran == []


def test_health_of_a_raspberry_pi_has_its_firmware_bits_and_cpu_cooling(tmp_path: Path) -> None:
    health = read_health(tree(tmp_path, PI))
    assert health["throttle_bits"] == 0x50005
    assert health["cooling_level"] == 2


def test_a_machine_that_offers_nothing_has_only_unknown_health(tmp_path: Path) -> None:
    assert set(read_health(str(tmp_path)).values()) == {None}


def test_files_that_hold_nonsense_are_unknown_health(tmp_path: Path) -> None:
    nonsense = dict.fromkeys([*X86, *PI], "what?\n")
    health = read_health(tree(tmp_path, nonsense))
    assert health.pop("governor") == "what?"
    assert set(health.values()) == {None}


def test_cores_with_different_governors_show_both(tmp_path: Path) -> None:
    mixed = {"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave"}
    assert read_health(tree(tmp_path, X86 | mixed))["governor"] == "performance+powersave"


def test_frequency_comes_from_cpuinfo_where_sys_has_none(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": "cpu MHz\t\t: 2000.0\ncpu MHz\t\t: 2400.0\n"})
    assert read_health(root)["frequency_mhz"] == 2200.0


@pytest.mark.parametrize(
    ("files", "quota", "throttled"),
    [
        # A container: its own cgroup is the root of what it sees, whatever its path is outside.
        (
            {
                "proc/self/cgroup": "0::/../../outside",
                "sys/fs/cgroup/cpu.max": "150000 100000",
                "sys/fs/cgroup/cpu.stat": "nr_periods 9\nnr_throttled 4\n",
            },
            1.5,
            4,
        ),
        # A job of a batch system, below a service with the smaller quota.
        (
            {
                "proc/self/cgroup": "0::/batch/job",
                "sys/fs/cgroup/batch/cpu.max": "50000 100000",
                "sys/fs/cgroup/batch/job/cpu.max": "max 100000",
                "sys/fs/cgroup/batch/job/cpu.stat": "nr_throttled 7",
            },
            0.5,
            7,
        ),
        # Version 1, where the controller's folder is named after all that it holds.
        (
            {
                "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/job\n1:name=systemd:/job",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.stat": "nr_throttled 1",
            },
            2.0,
            1,
        ),
        ({"proc/self/cgroup": "0::/"}, None, None),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None, None),
    ],
)
def test_the_quota_is_that_of_the_job_s_own_cgroup_and_those_above_it(
    tmp_path: Path, files: dict[str, str], quota: float | None, throttled: int | None
) -> None:
    root = tree(tmp_path, files)
    assert cpu_quota(root) == quota
    assert read_health(root)["quota_throttled"] == throttled


def test_the_quota_is_read_from_the_older_cgroups_too(tmp_path: Path) -> None:
    root = tree(tmp_path, {"sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nnr_throttled 6\n"})
    assert read_health(root)["quota_throttled"] == 6


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"throttle_events": 3}, {"throttle_events": 5}, "throttled itself 2 time"),
        ({"quota_throttled": 0}, {"quota_throttled": 1}, "quota ran out once"),
        ({"throttle_bits": 0x50005}, {}, "under-voltage, throttled"),
        ({}, {"throttle_bits": 0x8}, "soft temperature limit"),
        ({}, {"cooling_level": 1}, "cools the CPU or GPU down"),
        ({"power_mode": "MAXN"}, {"power_mode": "MAXQ"}, "power mode from MAXN to MAXQ"),
        (
            {"gpu": {"thermal_violation_ns": 10}},
            {"gpu": {"thermal_violation_ns": 2_500_010}},
            "heat held the GPU's clock down for 2.500 ms",
        ),
        (
            {"gpu": {"board_violation_ns": 0}},
            {"gpu": {"board_violation_ns": 1000}},
            "the limit of its board held the GPU's clock down",
        ),
    ],
)
def test_throttling_is_named(before, after, reason: str) -> None:
    assert reason in throttle_reason(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"throttle_events": 3, "cooling_level": 0}, {"throttle_events": 3, "cooling_level": 0}),
        ({"throttle_events": None}, {"throttle_events": 5}),
        ({"throttle_bits": 0x50000}, {"throttle_bits": 0x50000}),  # once was, is no more
        ({"power_mode": "MAXN"}, {"power_mode": None}),
        ({"gpu": {"thermal_violation_ns": 9}}, {"gpu": {"thermal_violation_ns": 9}}),
        ({"gpu": {"thermal_violation_ns": 9}}, {"gpu": {"thermal_violation_ns": 0}}),  # reloaded
        ({"gpu": {"thermal_violation_ns": None}}, {"gpu": {"thermal_violation_ns": 9}}),
        ({"gpu": None}, {"gpu": {"thermal_violation_ns": 9}}),
        ({"gpu": {"power_violation_ns": 0}}, {"gpu": {"power_violation_ns": 9}}),  # full load
        ({"gpu": {"reliability_violation_ns": 0}}, {"gpu": {"reliability_violation_ns": 9}}),
    ],
)
def test_what_did_not_change_is_no_throttling(before, after) -> None:
    assert throttle_reason(before, after) == ""


@pytest.mark.parametrize(
    ("files", "model"),
    [
        ({"proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast 9000\n"}, "Fast 9000"),
        ({"proc/cpuinfo": "Hardware\t: BCM2835\nModel\t: Raspberry Pi 4\n"}, "Raspberry Pi 4"),
        ({"proc/device-tree/model": "NVIDIA Jetson TX2\0"}, "NVIDIA Jetson TX2"),
    ],
)
def test_the_cpu_is_named_as_the_machine_names_it(tmp_path: Path, files, model: str) -> None:
    assert cpu_model(tree(tmp_path, files)) == model


def test_the_system_is_named_as_its_distribution_names_it(tmp_path: Path) -> None:
    root = tree(tmp_path, {"etc/os-release": 'NAME="x"\nPRETTY_NAME="Debian 12"\n'})
    assert operating_system(root) == "Debian 12"
    assert operating_system(str(tmp_path / "none")) != ""


def test_a_machine_without_proc_still_answers_hello(tmp_path: Path) -> None:
    facts = describe(str(tmp_path))
    assert facts["cpu_model"] and facts["os"] and facts["cores"] > 0
    assert facts["governor"] is None


@pytest.mark.parametrize("place", ["proc/device-tree/serial-number", "etc/machine-id"])
def test_a_board_is_told_from_others_without_giving_its_serial_number(
    tmp_path: Path, place: str
) -> None:
    boards = []
    for serial in ("1421418005847\0", "1421418005848\n"):
        boards.append(board(tree(tmp_path, {place: serial})))
        assert len(boards[-1]) == 8 and int(boards[-1], 16) >= 0
        assert serial.strip("\0\n") not in boards[-1]
    assert boards[0] != boards[1]
    assert describe(str(tmp_path))["board"] == boards[1]


def test_the_device_tree_names_the_board_before_the_system_that_runs_on_it(tmp_path: Path) -> None:
    first = board(tree(tmp_path, {"proc/device-tree/serial-number": "1\0", "etc/machine-id": "a"}))
    assert board(tree(tmp_path, {"etc/machine-id": "b"})) == first


def test_a_probe_has_everything_on_a_jetson_and_on_a_machine_that_tells_nothing(
    tmp_path: Path,
) -> None:
    found = probe(tree(tmp_path / "jetson", JETSON), Scripted(**JETSON_SAYS))
    assert found["environment"]["power_mode"] == found["health"]["power_mode"] == "MAXN"
    assert (found["clocks"]["gpu_mhz"], found["clocks"]["memory_mhz"]) == (624, 1600)
    assert found["clocks"]["cpu"][0]["governor"] == "schedutil"
    bare = probe(str(tmp_path / "nothing"), Scripted())
    assert set(bare) == set(found)
    assert bare["processes"] == [] and bare["memory_available_gib"] is None
    assert bare["gpu_processes"] == [] and bare["environment"]["gpu"] is None
    nothing = dict.fromkeys(["gpu_mhz", "memory_mhz", "gpu_max_mhz", "gpu_by_hand"])
    assert bare["clocks"] == {"cpu": [], **nothing}


HEALTHY = {"sm_mhz": 1350, "slowed_by": [], "power_capped": False}


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine whose CUDA works on one GPU; NVML tells these facts of it."""
    facts: dict[str, Any] = dict(HEALTHY, uuid="GPU-1", driver="550.54.15")
    info = GpuInfo("Simulated H200", (9, 0), "12.4", 141 << 30, 50 << 20, "GPU-1")
    monkeypatch.setattr(nvml, "load", lambda: object())
    monkeypatch.setattr(nvml, "read", lambda uuid: facts if uuid == "GPU-1" else {})
    monkeypatch.setattr(cuda, "find_gpu", lambda: info)
    return facts


def test_health_has_the_gpu_that_cuda_works_on(a_gpu) -> None:
    assert read_health()["gpu"] == a_gpu


def test_a_gpu_that_nvml_does_not_know_or_cuda_cannot_use_is_no_gpu(a_gpu, monkeypatch) -> None:
    monkeypatch.setattr(nvml, "read", lambda uuid: {})
    assert read_health()["gpu"] is None
    monkeypatch.setattr(nvml, "read", lambda uuid: a_gpu)
    monkeypatch.setattr(cuda, "find_gpu", lambda: None)
    assert read_health()["gpu"] is None


def test_cuda_is_left_alone_where_nvml_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(nvml, "load", lambda: None)
    monkeypatch.setattr(cuda, "find_gpu", lambda: pytest.fail("CUDA was asked"))
    assert read_health()["gpu"] is None


def test_nothing_is_told_of_the_gpu_where_another_root_is_looked_at(a_gpu, tmp_path: Path) -> None:
    assert read_health(str(tmp_path))["gpu"] is None
    assert describe(str(tmp_path))["gpu"] is None


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        (None, ""),
        (HEALTHY, ""),
        (HEALTHY | {"power_capped": True}, ""),  # normal at full load
        (HEALTHY | {"slowed_by": None}, ""),
        ({"sm_mhz": 624}, ""),
        (HEALTHY | {"slowed_by": ["power brake"]}, "the GPU is slowed down: power brake"),
    ],
)
def test_a_gpu_that_is_slowed_down_is_throttled_and_one_at_its_power_limit_is_not(
    gpu: dict[str, Any] | None, reason: str
) -> None:
    assert throttled_now({"gpu": gpu}) == reason
    assert throttle_reason({}, {"gpu": gpu}) == reason


def test_hello_names_the_gpu_and_the_clock_that_it_is_held_at(a_gpu) -> None:
    said = {
        "name": "Simulated H200",
        "compute_capability": "9.0",
        "driver": "550.54.15",
        "cuda": "12.4",
        "memory_mib": 141 << 10,
        "held_mhz": None,
    }
    assert describe()["gpu"] == said
    assert describe(held=Held([]))["gpu"] == said
    assert describe(held=Held([], gpu_mhz=1380))["gpu"] == said | {"held_mhz": 1380}
    a_gpu.clear()  # a Jetson has CUDA and no NVML
    assert describe()["gpu"] == said | {"driver": None}
