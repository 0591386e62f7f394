from __future__ import annotations

import os
from pathlib import Path

import pytest

from devices.agent.health import read_health, throttle_reason
from devices.agent.system import cpu_model, describe, operating_system


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
    }


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


def test_the_quota_is_read_from_the_older_cgroups_too(tmp_path: Path) -> None:
    root = tree(tmp_path, {"sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nnr_throttled 6\n"})
    assert read_health(root)["quota_throttled"] == 6


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"throttle_events": 3}, {"throttle_events": 5}, "throttled itself 2 time"),
        ({"quota_throttled": 0}, {"quota_throttled": 1}, "quota ran out 1 time"),
        ({"throttle_bits": 0x50005}, {}, "under-voltage, throttled"),
        ({}, {"throttle_bits": 0x8}, "soft temperature limit"),
        ({}, {"cooling_level": 1}, "cools the CPU down"),
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
