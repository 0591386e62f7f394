"""What a Jetson's own tools say: nvpmodel its power mode, tegrastats its clocks and heat."""

import os
import re
from typing import Any, Dict, List, NamedTuple, Optional

from . import sysfs
from .commands import SYSTEM, Commands

#: The first line of tegrastats comes after its interval, a second unless given.
TEGRASTATS = ["tegrastats", "--interval", "100"]
#: A Jetson's GPU among the devices whose clock the kernel sets: a Nano's, TX2's, Xavier's, Orin's.
GPUS = ("*.gpu", "*.gm20b", "*.gp10b", "*.gv11b", "*.ga10b")
#: A part that the power supply reports at 100 degrees always; under /sys it is PMIC-Die.
DUMMY_SENSOR = "PMIC"


class PowerMode(NamedTuple):
    """A mode of nvpmodel: the number that sets it, and its name."""

    number: int
    name: str


def is_jetson(root: str = "/") -> bool:
    """Whether this is one of NVIDIA's Tegra boards."""
    if os.path.exists(os.path.join(root, "etc/nv_tegra_release")):
        return True
    return "nvidia,tegra" in sysfs.read(os.path.join(root, "proc/device-tree/compatible"))


def power_mode(
    commands: Commands = SYSTEM, as_root: Optional[List[str]] = None
) -> Optional[PowerMode]:
    """The mode that ``nvpmodel -q`` reports; None where it reports none.

    ``as_root`` are the words that make it run as root, for boards where it must.
    """
    said = commands.output((as_root or []) + ["nvpmodel", "-q"])
    mode = re.search(r"NV Power Mode: *(.+)\s+(\d+)\s*$", said, re.MULTILINE)
    return PowerMode(int(mode.group(2)), mode.group(1).strip()) if mode else None


def statistics(commands: Commands = SYSTEM, root: str = "/") -> Dict[str, Any]:
    """What tegrastats says now; {} where it says nothing.

    The GPU's clock, which it tells root alone, is then the kernel's.
    """
    said = parse_statistics(commands.first_line(TEGRASTATS))
    if said.get("gpu_mhz") is None:
        mhz = gpu_mhz(root)
        return said if mhz is None else dict(said, gpu_mhz=mhz)
    return said


def gpu_mhz(root: str = "/") -> Optional[int]:
    """The GPU's clock as the kernel reports it to everybody; None where it does not."""
    files = (sysfs.found(root, f"sys/class/devfreq/{name}/cur_freq") for name in GPUS)
    hz = sysfs.numbers(file for found in files for file in found)
    return hz[0] // 1000000 if hz else None


def parse_statistics(line: str) -> Dict[str, Any]:
    """Read a line of tegrastats; what it lacks (much does without root) is None.

    Cores that are off have the frequency None.
    """
    if not line:
        return {}
    cores = re.search(r"\bCPU \[([^\]]*)\]", line)
    return {
        "cpu_mhz": [_mhz(core) for core in cores.group(1).split(",")] if cores else None,
        "gpu_mhz": _clock(line, "GR3D_FREQ"),
        "memory_mhz": _clock(line, "EMC_FREQ"),
        "temperatures_c": {
            name: float(degrees)
            for name, degrees in re.findall(r"\b([\w-]+)@(-?[\d.]+)C\b", line)
            if not name.startswith(DUMMY_SENSOR)
        },
    }


def _clock(line: str, label: str) -> Optional[int]:
    # "GR3D_FREQ 0%@114", on newer boards "GR3D_FREQ 0%@[305]", without root only "GR3D_FREQ 0%".
    clock = re.search(label + r" \d+%@\[?(\d+)", line)
    return int(clock.group(1)) if clock else None


def _mhz(core: str) -> Optional[int]:
    shown = core.partition("@")[2].strip()
    return int(shown) if shown.isdigit() else None
