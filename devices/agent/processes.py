"""Who else works on the device: CPU time between two readings of /proc, and NVML's list."""

import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import cuda, nvml, sysfs

SPAN_S = 0.3
MOST = 5
#: Below this it is the device's own housekeeping.
LEAST_PERCENT = 1.0


class Reading(NamedTuple):
    """A process and the CPU time that it has had."""

    name: str
    parent: int
    ticks: int


def others(
    root: str = "/",
    own: Optional[int] = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> List[Dict[str, Any]]:
    """The busiest processes but this one and its children: pid, name, percent of one core."""
    own = os.getpid() if own is None else own
    before, start = _readings(root), clock()
    sleep(SPAN_S)
    after, span_s = _readings(root), clock() - start
    ticks_per_percent = span_s * os.sysconf("SC_CLK_TCK") / 100.0
    shares = {
        pid: (now.ticks - before[pid].ticks) / ticks_per_percent
        for pid, now in after.items()
        if pid in before and own not in (pid, now.parent)
    }
    busiest = sorted(shares, key=lambda pid: (-shares[pid], pid))[:MOST]
    return [
        {"pid": pid, "name": after[pid].name, "cpu_percent": round(shares[pid], 1)}
        for pid in busiest
        if shares[pid] > LEAST_PERCENT
    ]


def others_on_gpu(root: str = "/", own: Optional[int] = None) -> List[Dict[str, Any]]:
    """Who else computes on the GPU, most memory first: pid, name, MiB (None where not reported).

    In a container the driver may give the pids of the host, or none: a name is "?" then.
    """
    own = os.getpid() if own is None else own
    found = cuda.find_gpu() if root == "/" and nvml.load() is not None else None
    computing = nvml.processes(found.uuid) if found is not None else []
    names = _readings(root) if computing else {}
    strangers = [
        dict(one, name=names[one["pid"]].name if one["pid"] in names else "?")
        for one in computing
        if own not in (one["pid"], names[one["pid"]].parent if one["pid"] in names else None)
    ]
    return sorted(strangers, key=lambda one: (-(one["memory_mib"] or 0), one["pid"]))[:MOST]


def memory_available_gib(root: str = "/") -> Optional[float]:
    """Memory that a new process can have without swapping."""
    found = sysfs.fields(os.path.join(root, "proc/meminfo"), ":").get("MemAvailable", "")
    kib = found.partition(" ")[0]
    return round(int(kib) / 2**20, 2) if kib.isdigit() else None


def _readings(root: str) -> Dict[int, Reading]:
    folder = os.path.join(root, "proc")
    try:
        pids = [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return {}
    stats = {pid: _parse(sysfs.read(os.path.join(folder, str(pid), "stat"))) for pid in pids}
    return {pid: reading for pid, reading in stats.items() if reading is not None}


def _parse(stat: str) -> Optional[Reading]:
    """Read ``/proc/PID/stat``; None for a process that has ended meanwhile."""
    # The name is in brackets and may hold brackets and spaces itself.
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    if len(fields) < 13:
        return None
    return Reading(head.partition("(")[2], int(fields[1]), int(fields[11]) + int(fields[12]))
