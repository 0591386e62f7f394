"""The energy of a run on machines whose power is known: counters that tick, wrap and vanish."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_nvml import UUID, FakeNvml

from devices.agent import energy, nvml
from devices.agent.energy import Meter, NvmlMeter, Rail, RailsMeter, RaplMeter, of_one_run

WATTS = 250.0


class Machine:
    """A machine whose clock moves only while something runs, at a power that never changes."""

    def __init__(self, run_s: float, watts: float = WATTS) -> None:
        self.run_s, self.watts, self.now_s = run_s, watts, 100.0

    def run(self, times: int) -> None:
        self.now_s += times * self.run_s

    def clock(self) -> float:
        return self.now_s


class TickingMeter(Meter):
    """Shows the energy of the last full tick; ``ends_s`` is when it can be read no more."""

    def __init__(self, machine: Machine, tick_s: float, ends_s: float = math.inf) -> None:
        self._machine, self._tick_s, self._ends_s = machine, tick_s, ends_s

    def joules(self) -> float | None:
        ticks = math.floor(self._machine.now_s / self._tick_s + 1e-9)
        known = self._machine.now_s < self._ends_s
        return ticks * self._tick_s * self._machine.watts if known else None


@pytest.mark.parametrize("tick_s", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("run_s", [2e-5, 3e-4, 0.007, 0.13, 2.5])
def test_a_run_has_the_energy_of_its_power_over_its_time_however_the_counter_ticks(
    tick_s: float, run_s: float
) -> None:
    machine = Machine(run_s)
    joules = of_one_run(machine.run, run_s, TickingMeter(machine, tick_s), machine.clock)
    # A tick is seen at the end of a reading, and the first and the last of them are that late.
    reading_s = max(energy.READ_EVERY_S, run_s)
    tolerance = min(tick_s, reading_s) / (0.8 - tick_s) + 1e-6
    assert joules == pytest.approx(WATTS * run_s, rel=tolerance)


def test_a_wrong_guess_of_how_long_a_run_takes_does_not_change_its_energy() -> None:
    for guess_s in (1e-5, 0.1):
        machine = Machine(0.001)
        joules = of_one_run(machine.run, guess_s, TickingMeter(machine, 0.02), machine.clock)
        assert joules == pytest.approx(WATTS * 0.001, rel=0.15)


@pytest.mark.parametrize("tick_s", [0.9, 1.5, 1e9])
def test_a_counter_that_hardly_ticks_tells_nothing(tick_s: float) -> None:
    machine = Machine(0.003)
    assert of_one_run(machine.run, 0.003, TickingMeter(machine, tick_s), machine.clock) is None


def test_two_ticks_close_together_tell_nothing() -> None:
    machine = Machine(0.003)

    class Nervous(TickingMeter):
        def joules(self) -> float | None:
            return float(min(2, max(0, int((machine.now_s - 100.2) / 0.03))))

    assert of_one_run(machine.run, 0.003, Nervous(machine, 1.0), machine.clock) is None


@pytest.mark.parametrize("ends_s", [0.0, 100.001, 100.9])
def test_a_counter_that_cannot_be_read_any_more_tells_nothing(ends_s: float) -> None:
    machine = Machine(0.003)
    meter = TickingMeter(machine, 0.02, ends_s)
    assert of_one_run(machine.run, 0.003, meter, machine.clock) is None


def test_a_window_is_not_longer_than_it_has_to_be() -> None:
    machine = Machine(0.003)
    of_one_run(machine.run, 0.003, TickingMeter(machine, 0.02), machine.clock)
    assert machine.now_s - 100.0 == pytest.approx(Meter.window_s, abs=2 * energy.READ_EVERY_S)


# NVML, on the strict fake.


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeNvml], FakeNvml]:
    nvml.load.cache_clear()

    def do(library: FakeNvml) -> FakeNvml:
        monkeypatch.setattr(nvml.ctypes, "CDLL", lambda name: library)
        return library

    yield do
    nvml.load.cache_clear()


def test_nvml_counts_millijoules_since_the_driver_was_loaded(install) -> None:
    library = install(FakeNvml())
    count_mj = nvml.energy_counter(UUID)
    assert count_mj() == 987_654_321
    library.facts["millijoules"] = 2**40  # 64 bits
    assert NvmlMeter(count_mj).joules() == pytest.approx(2**40 / 1000)
    assert NvmlMeter(count_mj).facts() == {"energy_source": "nvml"}


def test_a_gpu_that_takes_250_watts_takes_a_quarter_of_a_joule_in_a_millisecond(install) -> None:
    library, machine = install(FakeNvml()), Machine(0.001)
    meter = NvmlMeter(nvml.energy_counter(UUID))

    def run(times: int) -> None:
        machine.run(times)
        library.facts["millijoules"] = int(machine.now_s / 0.1) * 25_000

    assert of_one_run(run, 0.001, meter, machine.clock) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("how", ["lacks", "refuses"])
def test_gpus_before_volta_and_their_drivers_have_no_counter(install, how: str) -> None:
    install(FakeNvml(**{how: ("nvmlDeviceGetTotalEnergyConsumption",)}))
    assert nvml.energy_counter(UUID) is None
    assert nvml.read(UUID)["power_w"] == 412.3


def test_a_counter_that_is_refused_later_is_read_as_none(install) -> None:
    library = install(FakeNvml())
    count_mj = nvml.energy_counter(UUID)
    library.refuses = ("nvmlDeviceGetTotalEnergyConsumption",)
    assert count_mj() is None
    assert NvmlMeter(count_mj).joules() is None


# RAPL, as the kernel's powercap lays it out.

RANGE_UJ = 262_143_328_850


def rapl(root: Path, zone: str, name: str, energy_uj: int | None) -> Path:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    if energy_uj is not None:
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    (tmp_path / "sys/class/powercap/intel-rapl").mkdir(parents=True)
    rapl(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 600_000)
    rapl(tmp_path, "intel-rapl:0:1", "dram", 50_000)
    rapl(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    rapl(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    return tmp_path


def test_packages_and_their_memory_count_and_neither_their_parts_nor_the_whole(
    two_sockets: Path,
) -> None:
    zones = energy.rapl_zones(str(two_sockets))
    names = [Path(zone).name for zone in zones]
    assert names == ["intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1"]


def test_what_the_zones_count_is_added_up_over_a_wrap_around(two_sockets: Path) -> None:
    folder = two_sockets / "sys/class/powercap"
    (folder / "intel-rapl:0/energy_uj").write_text(str(RANGE_UJ - 400_000))
    meter = energy.meter("cpu", str(two_sockets))
    assert isinstance(meter, RaplMeter) and meter.joules() == 0.0
    (folder / "intel-rapl:0/energy_uj").write_text("600000")
    (folder / "intel-rapl:0:0/energy_uj").write_text("7000000")
    (folder / "intel-rapl:0:1/energy_uj").write_text("550000")
    assert meter.joules() == pytest.approx(1.0 + 0.5)
    (folder / "intel-rapl:1/energy_uj").write_text("2250000")
    assert meter.joules() == pytest.approx(1.75)
    assert meter.facts() == {"energy_source": "rapl"}


def test_a_counter_that_went_back_without_a_known_range_tells_nothing(two_sockets: Path) -> None:
    (two_sockets / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    meter = RaplMeter(energy.rapl_zones(str(two_sockets)))
    (two_sockets / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("3")
    assert meter.joules() is None


def test_zones_of_which_one_is_for_root_alone_are_left_alone(two_sockets: Path) -> None:
    (two_sockets / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    assert energy.rapl_zones(str(two_sockets)) == []
    assert energy.meter("cpu", str(two_sockets)) is None


def test_a_machine_that_counts_nothing_has_no_meter(tmp_path: Path) -> None:
    assert energy.meter("cpu", str(tmp_path)) is None
    assert energy.meter("gpu", str(tmp_path)) is None


# Jetsons, as their kernels lay out what the INA3221 sensors say.


def jetson(root: Path) -> Path:
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text("# R32 (release), REVISION: 7.1")
    return root


def iio(root: Path, sensor: str, device: int, rails: dict[str, int]) -> Path:
    """A sensor of JetPack 4: names and mW."""
    folder = root / f"sys/bus/i2c/drivers/ina3221x/{sensor}/iio:device{device}"
    folder.mkdir(parents=True)
    for number, (name, milliwatts) in enumerate(rails.items()):
        (folder / f"rail_name_{number}").write_text(name + "\n")
        (folder / f"in_power{number}_input").write_text(f"{milliwatts}\n")
    return folder


@pytest.fixture
def tx2(tmp_path: Path) -> Path:
    iio(tmp_path, "0-0040", 0, {"VDD_SYS_GPU": 152, "VDD_SYS_SOC": 687, "VDD_4V0_WIFI": 0})
    iio(tmp_path, "0-0041", 1, {"VDD_IN": 3056, "VDD_SYS_CPU": 152, "VDD_SYS_DDR": 883})
    (tmp_path / "sys/bus/i2c/drivers/ina3221x/0-0041/iio_device").symlink_to("iio:device1")
    return jetson(tmp_path)


def orin(root: Path) -> Path:
    """A sensor of JetPack 5 and 6: names, mV and mA."""
    folder = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    folder.mkdir(parents=True)
    rails = {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 300), "VDD_SOC": (5000, 280)}
    for number, (name, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        (folder / f"in{number}_label").write_text(name + "\n")
        (folder / f"in{number}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    (folder / "in7_input").write_text("12\n")
    return jetson(root)


def test_a_tx2_is_fed_by_one_rail_that_holds_all_others(tx2: Path) -> None:
    (rail,) = energy.rails_of_jetson(str(tx2))
    assert (rail.name, rail.watts()) == ("VDD_IN", 3.056)
    for processor in ("cpu", "gpu"):
        meter = energy.meter(processor, str(tx2))
        assert meter.facts() == {"energy_source": "tegra_rails", "energy_rails": "VDD_IN"}


def test_newer_kernels_tell_voltage_and_current(tmp_path: Path) -> None:
    (rail,) = energy.rails_of_jetson(str(orin(tmp_path)))
    assert (rail.name, rail.watts()) == ("VDD_IN", pytest.approx(6.0))


def test_where_no_rail_feeds_all_they_are_added_up_but_for_what_is_not_connected(
    tmp_path: Path,
) -> None:
    iio(tmp_path, "1-0040", 0, {"GPU": 1000, "CPU": 500, "SOC": 700})
    iio(tmp_path, "1-0041", 1, {"CV": 0, "VDDRQ": 300, "NC": 99})
    meter = energy.meter("gpu", str(jetson(tmp_path)))
    assert meter.facts()["energy_rails"] == "CPU+CV+GPU+SOC+VDDRQ"


def test_rails_are_added_up_over_the_time_between_their_readings(tx2: Path) -> None:
    seconds = itertools.accumulate([0.0, 0.5, 0.25])
    meter = RailsMeter(energy.rails_of_jetson(str(tx2)), clock=lambda: next(seconds))
    power = tx2 / "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input"
    meter.take()
    assert meter.joules() == 0.0
    power.write_text("8000")
    meter.take()
    assert meter.joules() == pytest.approx(8.0 * 0.5)
    power.write_text("4000")
    meter.take()
    assert meter.joules() == pytest.approx(8.0 * 0.5 + 4.0 * 0.25)


@pytest.mark.parametrize("said", ["", "Remote I/O error"])
def test_a_rail_that_cannot_be_read_any_more_tells_nothing(tx2: Path, said: str) -> None:
    meter = RailsMeter(energy.rails_of_jetson(str(tx2)))
    meter.take()
    (tx2 / "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input").write_text(said)
    meter.take()
    assert meter.joules() is None
    meter.take()
    assert meter.joules() is None


def test_rails_are_read_while_the_runs_go_on_and_no_longer(tx2: Path) -> None:
    meter = RailsMeter(energy.rails_of_jetson(str(tx2)))
    meter.window_s = 0.3
    made, spent_s = 0, 0.0

    def run(times: int) -> None:
        nonlocal made, spent_s
        start = time.perf_counter()
        while time.perf_counter() < start + 0.002 * times:
            pass
        made, spent_s = made + times, spent_s + time.perf_counter() - start

    joules = of_one_run(run, 0.002, meter)
    # What they took here: on a busy machine it is more than they should.
    assert joules == pytest.approx(3.056 * spent_s / made, rel=0.3)
    assert not meter._thread.is_alive()


def test_a_rail_without_its_files_has_no_power(tmp_path: Path) -> None:
    assert Rail("VDD_IN", [str(tmp_path / "in_power0_input")]).watts() is None
