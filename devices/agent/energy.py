"""Joules of one run, by what the device counts: NVML's counter, RAPL's, a Jetson's power rails.

Such counters tick seldom (NVML's every 20 to 100 ms), and asking them disturbs what is timed.  So
energy has a window of its own behind the timed samples: the same runs go on, the counter is read
between them, and what counts lies between two of its ticks.  Idle power is not subtracted.  A
counter that is missing, forbidden or too slow tells nothing, and no measurement fails for it.
"""

import os
import re
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import cuda, jetson, nvml, sysfs

#: Runs between two readings take about so long: what a reading costs is lost in them.
READ_EVERY_S = 0.02
#: A run that takes longer than the window is made so often: the first one ends with the first tick.
LEAST_READINGS = 3
#: First and last tick are at least this share of the window apart, or the energy is not known.
LEAST_SHARE = 0.5
#: Between two readings of the power rails; each takes a conversation over I2C of about 1 ms.
RAILS_EVERY_S = 0.025
#: What feeds the whole of a Jetson's module, where one sensor sees that; else all rails are added.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
NOT_CONNECTED = "NC"
#: Zones of RAPL that count; a package's cores are parts of it, "psys" is the machine around it.
RAPL_ZONES = re.compile("package-|dram$")
#: Channel of newer drivers that is no rail, but the sum of the voltages across the shunts.
SUM_OF_SHUNTS = 7

Run = Callable[[int], Any]


class Meter(object):
    """Counts joules from some moment on; ``window_s`` is how long it has to be watched."""

    source = ""
    window_s = 1.0

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def joules(self) -> Optional[float]:
        """What it has counted; None where it cannot be read (any more)."""
        raise NotImplementedError

    def facts(self) -> Dict[str, Any]:
        """What should stand beside the energy."""
        return {"energy_source": self.source}


class NvmlMeter(Meter):
    """An NVIDIA GPU's own counter, board and memory included; Volta and later have it."""

    source = "nvml"

    def __init__(self, count_mj: Callable[[], Optional[int]]) -> None:
        self._count_mj = count_mj

    def joules(self) -> Optional[float]:
        """Since the driver was loaded."""
        count = self._count_mj()
        return None if count is None else count / 1e3


class RaplMeter(Meter):
    """The counters of x86 packages, and of their memory where that has one of its own.

    They tick every millisecond, and begin at 0 again some minutes or hours after they did.
    """

    source = "rapl"
    window_s = 0.1

    def __init__(self, zones: List[str]) -> None:
        self._zones = zones
        self._ranges = [sysfs.number(os.path.join(one, "max_energy_range_uj")) for one in zones]
        self._last: List[Optional[int]] = self._read()
        self._total_uj = 0

    def joules(self) -> Optional[float]:
        """Since this object was made."""
        now = self._read()
        for index, most in enumerate(self._ranges):
            first, last = self._last[index], now[index]
            if first is None or last is None or (last < first and not most):
                return None
            self._total_uj += last - first + (most or 0 if last < first else 0)
        self._last = now
        return self._total_uj / 1e6

    def _read(self) -> List[Optional[int]]:
        return [sysfs.number(os.path.join(one, "energy_uj")) for one in self._zones]


class Rail(NamedTuple):
    """One supply of a Jetson: files with mW, or with mV and mA to multiply."""

    name: str
    files: List[str]

    def watts(self) -> Optional[float]:
        """Its power now."""
        numbers = sysfs.numbers(self.files)
        if len(numbers) < len(self.files):
            return None
        return numbers[0] / 1e3 if len(numbers) == 1 else numbers[0] * numbers[1] / 1e6


class RailsMeter(Meter):
    """A Jetson's power, read by a thread while the runs go on, and added up over time.

    A sensor may convert only when it is asked, so a reading between two runs would show an idle
    board.
    """

    source = "tegra_rails"

    def __init__(self, rails: List[Rail], clock: Callable[[], float] = time.perf_counter) -> None:
        self._rails = rails
        self._clock = clock
        self._joules: Optional[float] = 0.0
        self._at_s: Optional[float] = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._add_up, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ends.set()
        self._thread.join()

    def joules(self) -> Optional[float]:
        """Since it was entered, to the last reading."""
        return self._joules

    def facts(self) -> Dict[str, Any]:
        """Which rails those are."""
        names = "+".join(rail.name for rail in self._rails)
        return dict(super(RailsMeter, self).facts(), energy_rails=names)

    def take(self) -> None:
        """Read the power, which counts for the time since the reading before."""
        watts = [rail.watts() for rail in self._rails]
        known = [one for one in watts if one is not None]
        now_s = self._clock()
        if len(known) < len(watts) or self._joules is None:
            self._joules = None
        elif self._at_s is not None:
            self._joules += sum(known) * (now_s - self._at_s)
        self._at_s = now_s

    def _add_up(self) -> None:
        self.take()
        while self._joules is not None and not self._ends.wait(RAILS_EVERY_S):
            self.take()


class _Tick(NamedTuple):
    s: float
    runs: int
    joules: float


def of_one_run(
    run: Run, run_s: float, meter: Meter, clock: Callable[[], float] = time.perf_counter
) -> Optional[float]:
    """Joules of one run, which takes about ``run_s``; ``run(n)`` makes n and waits for their end.

    None where the counter did not tick often enough to tell.
    """
    at_once = max(1, int(READ_EVERY_S / max(run_s, 1e-9)))
    ticks: List[_Tick] = []
    with meter:
        last, start, readings = meter.joules(), clock(), 0
        while last is not None and (readings < LEAST_READINGS or clock() - start < meter.window_s):
            run(at_once)
            readings += 1
            now = meter.joules()
            if now is not None and now != last:
                ticks.append(_Tick(clock(), readings * at_once, now))
            last = now
    if last is None or len(ticks) < 2:
        return None
    first, end = ticks[0], ticks[-1]
    is_known = end.s - first.s >= LEAST_SHARE * meter.window_s and end.joules > first.joules
    return (end.joules - first.joules) / (end.runs - first.runs) if is_known else None


def meter(processor: str, root: str = "/") -> Optional[Meter]:
    """What counts the energy of a processor ("cpu", "gpu"); None where nothing does.

    NVML describes this machine alone: it is not asked where another root is looked at.
    """
    if jetson.is_jetson(root):
        rails = rails_of_jetson(root)
        return RailsMeter(rails) if rails else None
    if processor == "cpu":
        zones = rapl_zones(root)
        return RaplMeter(zones) if zones else None
    found = cuda.find_gpu() if root == "/" and nvml.load() is not None else None
    count_mj = None if found is None else nvml.energy_counter(found.uuid)
    return None if count_mj is None else NvmlMeter(count_mj)


def rapl_zones(root: str = "/") -> List[str]:
    """The packages and their memory; none where one of them cannot be read (since 5.10 by root)."""
    zones = sysfs.found(root, "sys/class/powercap/intel-rapl:*")
    chosen = [zone for zone in zones if RAPL_ZONES.match(sysfs.read(os.path.join(zone, "name")))]
    is_readable = all(sysfs.number(os.path.join(one, "energy_uj")) is not None for one in chosen)
    return chosen if is_readable else []


def rails_of_jetson(root: str = "/") -> List[Rail]:
    """The rail that feeds the module, or all where no sensor sees that one.

    JetPack 4 has them as ``iio:device``, with power; later ones as ``hwmon``, with voltage and
    current.
    """
    rails = [rail for rail in _iio_rails(root) + _hwmon_rails(root) if rail.watts() is not None]
    inputs = [rail for rail in rails if rail.name in INPUT_RAILS]
    return inputs[:1] or rails


def _iio_rails(root: str) -> List[Rail]:
    found = []
    for file in sysfs.found(root, "sys/bus/i2c/drivers/ina3221x/*/iio[:_]device*/rail_name_*"):
        folder, number = os.path.dirname(file), file.rpartition("_")[2]
        found.append(Rail(sysfs.read(file), [os.path.join(folder, f"in_power{number}_input")]))
    return _connected(found)


def _hwmon_rails(root: str) -> List[Rail]:
    found = []
    for file in sysfs.found(root, "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"):
        folder, number = os.path.dirname(file), os.path.basename(file)[2 : -len("_label")]
        if number != str(SUM_OF_SHUNTS):
            files = [os.path.join(folder, one + number + "_input") for one in ("in", "curr")]
            found.append(Rail(sysfs.read(file), files))
    return _connected(found)


def _connected(rails: List[Rail]) -> List[Rail]:
    """Each once: old releases have a link beside the folder."""
    named = {rail.name: rail for rail in reversed(rails) if rail.name}
    return [rail for name, rail in sorted(named.items()) if name != NOT_CONNECTED]
