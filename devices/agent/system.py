"""What this machine is, for the table's fingerprint: the answer to ``hello``."""

import os
import platform
from typing import Any, Dict, List, Optional

from . import health, runtimes
from .protocol import PROTOCOL, folder_digest

AGENT_FOLDER = os.path.dirname(os.path.abspath(__file__))


def describe(root: str = "/") -> Dict[str, Any]:
    """Return the facts of ``hello``; one that the machine does not offer is None."""
    return {
        "python": platform.python_version(),
        "os": operating_system(root),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": cpu_model(root),
        "cores": os.cpu_count(),
        "cpu_affinity": affinity(),
        "governor": health.governor(root),
        "frequency_mhz": health.frequency_mhz(root),
        "load_average": health.load_average(root),
        "memory_gib": memory_gib(),
        "runtimes": runtimes.found(),
        "agent_digest": folder_digest(AGENT_FOLDER),
        "protocol": PROTOCOL,
    }


def operating_system(root: str = "/") -> str:
    """The distribution's own name, else the kernel's."""
    for line in _lines(os.path.join(root, "etc/os-release")):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return platform.system()


def cpu_model(root: str = "/") -> str:
    """The CPU as /proc/cpuinfo names it, else the board, else the instruction set."""
    lines = _lines(os.path.join(root, "proc/cpuinfo"))
    fields = [(line.partition(":")[0].strip(), line.partition(":")[2].strip()) for line in lines]
    for wanted in ("model name", "Model", "Hardware"):
        for key, value in fields:
            if key == wanted and value:
                return value
    board = " ".join(_lines(os.path.join(root, "proc/device-tree/model"))).strip("\0 ")
    return board or platform.processor() or platform.machine()


def affinity() -> Optional[List[int]]:
    """The cores that this process may use; None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def memory_gib() -> Optional[float]:
    """Physical memory."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return round(total / 2**30, 1)


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().splitlines()
    except OSError:
        return []
