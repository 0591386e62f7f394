"""What could make this machine slower than it is: governor, heat, throttling, other work.

Read before and after a measurement, never while its clock runs: reading ``/sys`` takes time on the
core that is measured, and asking its driver disturbs a GPU.  A fact that the machine does not offer
is None.
"""

import os
import re
from typing import Any, Dict, Optional

from . import cgroup, cuda, jetson, nvml, sysfs
from .commands import SYSTEM, Commands

#: Bits of the Raspberry Pi's firmware that say what is so now; higher ones say what once was.
PI_BITS_NOW = {
    0x1: "under-voltage",
    0x2: "capped frequency",
    0x4: "throttled",
    0x8: "soft temperature limit",
}
#: What NVML counts of a GPU that was held below its clock. Not its power limit, nor the one for its
#: reliability (voltage): under full load that is how fast the GPU is.
GPU_VIOLATIONS = {
    "thermal_violation_ns": "heat",
    "board_violation_ns": "the limit of its board",
}


def read_health(root: str = "/", commands: Commands = SYSTEM) -> Dict[str, Any]:
    """Return the machine's health now; ``root`` is where /sys and /proc hang.

    Only a Jetson, and a Raspberry Pi whose /sys lacks the firmware's file, have a command run.
    """
    is_jetson = jetson.is_jetson(root)
    mode = jetson.power_mode(commands) if is_jetson else None
    clocks = jetson.statistics(commands, root) if is_jetson else {}
    return {
        "governor": governor(root),
        "frequency_mhz": frequency_mhz(root),
        "temperature_c": temperature_c(root),
        "throttle_events": throttle_events(root),
        "throttle_bits": throttle_bits(root, commands),
        "cooling_level": cooling_level(root),
        "quota_throttled": cgroup.quota_throttled(root),
        "load_average": load_average(root),
        "steal_ms": steal_ms(root),
        "power_mode": mode.name if mode else None,
        "gpu_mhz": clocks.get("gpu_mhz"),
        "gpu": jetson_gpu(clocks) if is_jetson else gpu(root),
    }


def throttle_reason(before: Dict[str, Any], after: Dict[str, Any]) -> str:
    """Why the time between two readings cannot be trusted; "" where nothing speaks against it."""
    for name, what in (
        ("throttle_events", "the CPU throttled itself {} for heat or power"),
        ("quota_throttled", "the container's CPU quota ran out {}"),
    ):
        count = _growth(name, before, after)
        if count > 0:
            return what.format("once" if count == 1 else "%d times" % count)
    for name, what in GPU_VIOLATIONS.items():
        ns = _growth(name, before.get("gpu") or {}, after.get("gpu") or {})
        if ns > 0:
            return f"{what} held the GPU's clock down for {ns / 1e6:.3f} ms"
    modes = [health.get("power_mode") for health in (before, after)]
    if None not in modes and modes[0] != modes[1]:
        return f"somebody changed the power mode from {modes[0]} to {modes[1]}"
    return throttled_now(before) or throttled_now(after)


def power_capped_ns(before: Dict[str, Any], after: Dict[str, Any]) -> int:
    """How long its power limit held a GPU's clock down between two readings; 0 where not counted.

    Under full load that is how fast the GPU is, and no fault.
    """
    return max(0, _growth("power_violation_ns", before.get("gpu") or {}, after.get("gpu") or {}))


def throttled_now(health: Dict[str, Any]) -> str:
    """What holds the machine back at the time of a reading; "" where nothing is known to."""
    bits = health.get("throttle_bits") or 0
    causes = [cause for bit, cause in PI_BITS_NOW.items() if bits & bit]
    if causes:
        return f"the firmware reports {', '.join(causes)}"
    if health.get("cooling_level"):
        return f"the kernel cools the CPU or GPU down (level {health['cooling_level']})"
    slowed_by = (health.get("gpu") or {}).get("slowed_by")
    if slowed_by:
        return f"the GPU is slowed down: {', '.join(slowed_by)}"
    return ""


def gpu(root: str = "/") -> Optional[Dict[str, Any]]:
    """What NVML says about the GPU that CUDA works on; None without one.

    It describes this machine alone: nothing where another root is looked at.  That the power limit
    holds the clock down ("power_capped") is normal under full load, and no throttling.
    """
    if root != "/" or nvml.load() is None:
        return None
    found = cuda.find_gpu()
    return (nvml.read(found.uuid) or None) if found is not None else None


def jetson_gpu(statistics: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The GPU as tegrastats reports it; None where it reports nothing.

    What holds a Jetson's GPU down is its ``cooling_level``.
    """
    heat = (statistics.get("temperatures_c") or {}).get("GPU")
    facts = {
        "sm_mhz": statistics.get("gpu_mhz"),
        "memory_mhz": statistics.get("memory_mhz"),
        "temperature_c": heat,
    }
    return facts if any(fact is not None for fact in facts.values()) else None


def governor(root: str = "/") -> Optional[str]:
    """The frequency governor; several joined by "+" where the cores differ."""
    names = {sysfs.read(path) for path in sysfs.of_cores(root, "cpufreq/scaling_governor")}
    return "+".join(sorted(name for name in names if name)) or None


def frequency_mhz(root: str = "/") -> Optional[float]:
    """The mean frequency of the cores."""
    khz = sysfs.numbers(sysfs.of_cores(root, "cpufreq/scaling_cur_freq"))
    mhz = [one / 1000 for one in khz]
    if not mhz:
        lines = sysfs.lines(os.path.join(root, "proc/cpuinfo"))
        found = (_float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))
        mhz = [one for one in found if one is not None]
    return round(sum(mhz) / len(mhz), 1) if mhz else None


def temperature_c(root: str = "/") -> Optional[float]:
    """The hottest thermal zone, but for the one of a Jetson that always says 100 degrees."""
    zones = sysfs.found(root, "sys/class/thermal/thermal_zone*")
    kinds = {zone: sysfs.read(os.path.join(zone, "type")) for zone in zones}
    real = (zone for zone, kind in kinds.items() if not kind.startswith(jetson.DUMMY_SENSOR))
    milli = sysfs.numbers(os.path.join(zone, "temp") for zone in real)
    return max(milli) / 1000 if milli else None


def throttle_events(root: str = "/") -> Optional[int]:
    """How often x86 cores throttled themselves since the machine was started."""
    counts = sysfs.numbers(sysfs.of_cores(root, "thermal_throttle/*_throttle_count"))
    return sum(counts) if counts else None


def throttle_bits(root: str = "/", commands: Commands = SYSTEM) -> Optional[int]:
    """What the firmware of a Raspberry Pi says about throttling, in /sys or through its tool."""
    for path in sysfs.found(root, "sys/devices/platform/soc/*firmware/get_throttled"):
        try:
            return int(sysfs.read(path), 16)
        except ValueError:
            continue
    said = re.match("throttled=0x([0-9a-fA-F]+)$", commands.output(["vcgencmd", "get_throttled"]))
    return int(said.group(1), 16) if said else None


def cooling_level(root: str = "/") -> Optional[int]:
    """How far the kernel holds the processor down for heat, 0 not at all (ARM).

    The cooling devices are the CPU's clock and, on a Jetson, such as "gpu-throttle-alert"; a fan
    is one too, but slows nothing.
    """
    devices = sysfs.found(root, "sys/class/thermal/cooling_device*")
    kinds = {device: sysfs.read(os.path.join(device, "type")) for device in devices}
    levels = sysfs.numbers(
        os.path.join(device, "cur_state")
        for device, kind in kinds.items()
        if "cpufreq" in kind or kind.endswith("-throttle-alert")
    )
    return max(levels, default=None)


def load_average(root: str = "/") -> Optional[float]:
    """Processes that wanted a core in the last minute."""
    return _float(sysfs.read(os.path.join(root, "proc/loadavg")).partition(" ")[0])


def steal_ms(root: str = "/") -> Optional[int]:
    """CPU time that the hypervisor gave to others since the machine was started, all cores."""
    fields = sysfs.read(os.path.join(root, "proc/stat")).partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu" or not fields[8].isdigit():
        return None
    return int(fields[8]) * 1000 // os.sysconf("SC_CLK_TCK")


def _growth(name: str, before: Dict[str, Any], after: Dict[str, Any]) -> int:
    """By how much a counter has grown; 0 where a reading lacks it."""
    first, last = before.get(name), after.get(name)
    return 0 if first is None or last is None else last - first


def _float(shown: str) -> Optional[float]:
    try:
        return float(shown)
    except ValueError:
        return None
