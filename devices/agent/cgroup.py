"""The CPU that this process's cgroup leaves it, and how often that ran out (versions 1 and 2).

A container's own cgroup is the root of what it sees; a batch system's job, or a service, has one
further down, and any above it may have the smaller quota.
"""

import os
from typing import Iterator, Optional, Tuple

from . import sysfs

MOUNT = "sys/fs/cgroup"


def cpu_quota(root: str = "/") -> Optional[float]:
    """The cores' worth of time that the process may use, 0.5 is half a core; None without limit."""
    limits = []
    for folder, version in _folders(root):
        if version == 2:
            quota, _, period = sysfs.read(os.path.join(folder, "cpu.max")).partition(" ")
        else:
            quota = sysfs.read(os.path.join(folder, "cpu.cfs_quota_us"))
            period = sysfs.read(os.path.join(folder, "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def quota_throttled(root: str = "/") -> Optional[int]:
    """How often a quota ran out, of the process's cgroup and those above; None if unknown."""
    counts = []
    for folder, _ in _folders(root):
        count = sysfs.fields(os.path.join(folder, "cpu.stat"), " ").get("nr_throttled", "")
        if count.isdigit():
            counts.append(int(count))
    return sum(counts) if counts else None


def _folders(root: str) -> Iterator[Tuple[str, int]]:
    """The folders of the process's cgroup and those above it, each with its version.

    From a container those above its own are not seen, whatever the path says: they hold no files.
    """
    for line in sysfs.lines(os.path.join(root, "proc/self/cgroup")) or ["0::/", "1:cpu:/"]:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        version, mounts = (1, {controllers, "cpu"}) if controllers else (2, {"", "unified"})
        parts = [part for part in path.split("/") if part and part != ".."]
        found = {
            os.path.realpath(os.path.join(root, MOUNT, mount, *parts[:length]))
            for mount in mounts
            for length in range(len(parts) + 1)
        }
        for folder in sorted(found):
            yield folder, version
