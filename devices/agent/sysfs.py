"""The small files of /sys and /proc, read without failing: a file that is not there holds "".

``root`` is where /sys and /proc hang; tests hang trees of their own there.
"""

import glob
import os
from typing import Dict, Iterable, List, Optional


def read(path: str) -> str:
    """The text of a file, without the white space and zero bytes around it."""
    # Files of /sys come and go, and some drivers answer a read with an error.
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip("\0 \t\r\n")
    except OSError:
        return ""


def lines(path: str) -> List[str]:
    """The lines of a file."""
    return read(path).splitlines()


def numbers(paths: Iterable[str]) -> List[int]:
    """The numbers of those files that hold one."""
    return [one for one in map(number, paths) if one is not None]


def fields(path: str, separator: str) -> Dict[str, str]:
    """The lines ``key<separator>value`` of a file; of a key that comes again, the first."""
    pairs = (line.partition(separator) for line in reversed(lines(path)))
    return {key.strip(): value.strip() for key, _, value in pairs}


def number(path: str) -> Optional[int]:
    """The whole number that a file holds; None where it holds none."""
    try:
        return int(read(path))
    except ValueError:
        return None


def found(root: str, pattern: str) -> List[str]:
    """The paths under root that match a pattern, in order."""
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)))


def of_cores(root: str, name: str) -> List[str]:
    """A file of each core: ``of_cores("/", "cpufreq/scaling_governor")``."""
    return found(root, "sys/devices/system/cpu/cpu[0-9]*/" + name)
