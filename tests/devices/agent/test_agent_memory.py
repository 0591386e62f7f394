"""The growth of a process's memory, on this machine and on recorded files of /proc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devices.agent.memory import PeakMemory

MIB = 1 << 20
STATUS = "Name:\tpython3\nVmPeak:\t  999999 kB\nVmHWM:\t{peak} kB\nVmRSS:\t{held} kB\nThreads:\t1\n"


def process(folder: Path, held: int, peak: int) -> None:
    (folder / "status").write_text(STATUS.format(held=held, peak=peak))


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A process that holds 5000 KiB and once held 7000; its peak can be reset."""
    process(tmp_path, 5000, 7000)
    (tmp_path / "clear_refs").touch()
    return tmp_path


def test_the_growth_is_the_peak_above_what_was_held_at_first(kernel: Path) -> None:
    peak = PeakMemory(str(kernel))
    assert (kernel / "clear_refs").read_text() == "5"
    process(kernel, 6000, 6500)
    assert peak.growth_bytes() == 1500 * 1024
    peak.restart()
    process(kernel, 5200, 5300)
    assert peak.growth_bytes() == 300 * 1024


def forbidden(folder: Path) -> Path:
    (folder / "clear_refs").unlink()
    (folder / "clear_refs").mkdir()
    return folder


def test_where_no_peak_can_be_reset_a_new_one_is_told_and_no_other(kernel: Path) -> None:
    peak = PeakMemory(str(forbidden(kernel)))
    process(kernel, 6000, 7000)
    assert peak.growth_bytes() is None
    process(kernel, 6000, 9000)
    assert peak.growth_bytes() == 4000 * 1024
    peak.restart()
    assert peak.growth_bytes() is None
    process(kernel, 9100, 9200)
    assert peak.growth_bytes() == 4200 * 1024


def test_a_process_that_did_not_grow_tells_nothing(kernel: Path) -> None:
    peak = PeakMemory(str(kernel))
    process(kernel, 4000, 5000)
    assert peak.growth_bytes() is None


@pytest.mark.parametrize("lacks", ["VmHWM", "VmRSS", "status"])
def test_a_system_that_does_not_tell_both_tells_nothing(kernel: Path, lacks: str) -> None:
    if lacks == "status":
        (kernel / "status").unlink()
    else:
        lines = (kernel / "status").read_text().splitlines()
        (kernel / "status").write_text("\n".join(one for one in lines if lacks not in one))
    peak = PeakMemory(str(kernel))
    assert peak.growth_bytes() is None


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from devices.agent.memory import PeakMemory
once = bytearray(200 << 20)
del once
peak = PeakMemory()
kept = bytearray(b"x") * (30 << 20)
freed = bytearray(b"x") * (50 << 20)
del freed
both = peak.growth_bytes()
peak.restart()
print(both, peak.growth_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_real_process_tells_what_it_took_and_not_what_it_took_before() -> None:
    root = str(Path(__file__).parents[3])
    said = subprocess.check_output([sys.executable, "-c", PROGRAM, root], text=True, timeout=60)
    both, kept = map(int, said.split())
    assert both == pytest.approx(80 * MIB, rel=0.05)
    assert kept == pytest.approx(30 * MIB, rel=0.05)
