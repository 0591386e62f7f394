"""What this machine is: the answers to ``hello`` (the table's fingerprint) and ``probe``."""

import hashlib
import os
import platform
from typing import Any, Dict, List, Optional

from . import cgroup, cuda, health, jetson, nvml, power, processes, runtimes, sysfs
from .commands import SYSTEM, Commands
from .protocol import PROTOCOL, folder_digest

AGENT_FOLDER = os.path.dirname(os.path.abspath(__file__))


def describe(
    root: str = "/", commands: Commands = SYSTEM, held: Optional[power.Held] = None
) -> Dict[str, Any]:
    """Return the facts of ``hello``; one that the machine does not offer is None.

    ``held`` are the clocks that this agent holds.
    """
    mode = jetson.power_mode(commands) if jetson.is_jetson(root) else None
    found = runtimes.found()
    return {
        "board": board(root),
        "python": platform.python_version(),
        "os": operating_system(root),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": cpu_model(root),
        "cores": os.cpu_count(),
        "cpu_affinity": affinity(),
        "cpu_quota": cgroup.cpu_quota(root),
        "governor": health.governor(root),
        "power_mode": mode.name if mode else None,
        "frequency_mhz": health.frequency_mhz(root),
        "load_average": health.load_average(root),
        "memory_gib": memory_gib(),
        "gpu": gpu(root, held),
        "gpu_problem": gpu_problem(root),
        "runtimes": found.versions,
        "runtime_problems": found.problems,
        "agent_digest": folder_digest(AGENT_FOLDER),
        "protocol": PROTOCOL,
    }


def probe(
    root: str = "/", commands: Commands = SYSTEM, held: Optional[power.Held] = None
) -> Dict[str, Any]:
    """Return all that a user wants to know before measuring; takes about a second."""
    return {
        # First: the load of finding the runtimes must not be taken for somebody else's.
        "processes": processes.others(root),
        "gpu_processes": processes.others_on_gpu(root),
        "environment": describe(root, commands, held),
        "health": health.read_health(root, commands),
        "clocks": power.clocks(root, commands),
        "memory_available_gib": processes.memory_available_gib(root),
    }


def gpu(root: str = "/", held: Optional[power.Held] = None) -> Optional[Dict[str, Any]]:
    """The GPU that CUDA works on; None without one, and where another root is looked at.

    On a Jetson the driver has no version of its own, and no clock is held but by its power mode.
    """
    found = cuda.find_gpu() if root == "/" else None
    if found is None:
        return None
    return {
        "name": found.name,
        "compute_capability": "{}.{}".format(*found.compute_capability),
        "driver": nvml.read(found.uuid).get("driver"),
        "cuda": found.driver_cuda,
        "memory_mib": found.memory_bytes >> 20,
        "held_mhz": None if held is None else held.gpu_mhz,
    }


def gpu_problem(root: str = "/") -> Optional[str]:
    """Why there is no GPU, and where to look; None where there is one, or another root."""
    if root != "/" or cuda.find_gpu() is not None:
        return None
    return f"{cuda.gpu_advice(root)} ({cuda.gpu_problem()})"


def board(root: str = "/") -> str:
    """8 hexadecimal digits that are this board's alone, and do not give its serial number."""
    names = ("proc/device-tree/serial-number", "etc/machine-id")
    identities = [sysfs.read(os.path.join(root, name)) for name in names]
    identity = next(filter(None, identities), platform.node())
    return hashlib.sha256(b"dshrink " + identity.encode("utf-8")).hexdigest()[:8]


def operating_system(root: str = "/") -> str:
    """The distribution's own name, else the kernel's."""
    name = sysfs.fields(os.path.join(root, "etc/os-release"), "=").get("PRETTY_NAME")
    return platform.system() if name is None else name.strip("\"'")


def cpu_model(root: str = "/") -> str:
    """The CPU as /proc/cpuinfo names it, else the board, else the instruction set."""
    said = sysfs.fields(os.path.join(root, "proc/cpuinfo"), ":")
    named = (said.get(name) for name in ("model name", "Model", "Hardware"))
    model = next(filter(None, named), sysfs.read(os.path.join(root, "proc/device-tree/model")))
    return model or platform.processor() or platform.machine()


def affinity() -> Optional[List[int]]:
    """The cores that this process may use; None where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def memory_gib() -> Optional[float]:
    """Physical memory."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return round(total / 2**30, 1)
