"""Whether a device is ready: what a probe found beside what the inventory and measuring ask for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from devices.agent.health import throttled_now
from devices.agent.power import BEST_GOVERNOR, BY_HAND_GOVERNOR, BY_HAND_JETSON
from devices.agent.runtimes import RUNTIMES
from devices.errors import AgentLostError
from devices.inventory import Device, connect
from devices.records import RecordError, checked
from devices.reports import Probe

PROBE_TIMEOUT_S = 60.0
#: Percent of a core from which another process is a neighbour to be sent away.
BUSY_PERCENT = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFinding:
    """A runtime of the inventory as it is on the device.

    ``state`` is "ok", "other version" (than the inventory supports), "missing" or "not driven":
    this version of dshrink cannot look for it.
    """

    name: str
    version: str | None
    versions: str
    state: str
    install: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a device said to ``probe``, and what follows from it."""

    device: Device
    found: Probe

    @property
    def runtimes(self) -> tuple[RuntimeFinding, ...]:
        """The runtimes that the inventory names, in its order."""
        versions = self.found["environment"]["runtimes"]
        return tuple(
            RuntimeFinding(
                name=name,
                version=versions.get(name),
                versions=support.versions,
                state=_state(name, versions.get(name), support.includes),
                install=support.install,
            )
            for name, support in self.device.runtimes.items()
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """Why this is not the device of the entry, or cannot measure, a line each.

        Of the runtimes the first counts, which is what is measured with unless another is asked
        for.
        """
        facts = self.found["environment"]
        found = [self.device.chip_problem(facts["cpu_model"], facts["gpu"])]
        first = next((one for one in self.runtimes if one.state != "not driven"), None)
        if first is None:
            known = ", ".join(RUNTIMES)
            found.append(f"this version of dshrink supports none of its runtimes, but {known}")
            return tuple(filter(None, found))
        no_gpu = self.no_gpu if self.device.runtimes[first.name].processor == "gpu" else ""
        if no_gpu:
            found.append(f"{first.name} wants a GPU, and none is reported: {no_gpu}")
        reason = self.why_missing(first.name)
        if first.state != "ok" and not reason:
            what = first.version or "missing"
            found.append(
                f"{first.name} is {what}, its entry allows {first.versions}: {first.install}"
            )
        elif reason and not no_gpu:  # the same else, once more
            found.append(f"{first.name} is missing: {reason}")
        return tuple(filter(None, found))

    @property
    def no_gpu(self) -> str:
        """Why there is no GPU, and where to look; "" where there is one, or none is wanted."""
        facts = self.found["environment"]
        wanted = any(one.processor == "gpu" for one in self.device.runtimes.values())
        if facts["gpu"] is not None or not wanted:
            return ""
        return _line(facts["gpu_problem"]) or "`nvidia-smi` must list one there"

    def why_missing(self, runtime: str) -> str:
        """Why a runtime that is installed does not start there; "" where nothing tells it."""
        facts = self.found["environment"]
        known = "" if runtime in facts["runtimes"] else facts["runtime_problems"].get(runtime)
        return _line(known)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would disturb a measurement now, a line each, with what to do about it."""
        throttled = throttled_now(dict(self.found["health"]))
        hot = [f"{throttled}: let it cool, check its power supply"] if throttled else []
        busy = [
            f"{one['name']} (pid {one['pid']}) uses {one['cpu_percent']:.0f} % of a core: "
            "wait for it, or end it"
            for one in self.found["processes"]
            if one["cpu_percent"] > BUSY_PERCENT
        ]
        return (*self._clock_advice(), *self._gpu_advice(), *hot, *busy)

    def _gpu_advice(self) -> list[str]:
        """What would disturb a measurement on the GPU alone."""
        others = [
            f"{one['name']} (pid {one['pid']}) computes on the GPU: wait for it, or end it"
            for one in self.found["gpu_processes"]
        ]
        gpu, clocks = self.found["environment"]["gpu"], self.found["clocks"]
        by_hand = clocks["gpu_by_hand"]
        if gpu is None or gpu["held_mhz"] is not None or by_hand is None:
            return others
        most = clocks["gpu_max_mhz"]
        free = f"the GPU's clock is free (to {most} MHz)" if most else "the GPU's clock is free"
        return [f"{free}: measure with --hold-clocks, or, on the device, {by_hand}", *others]

    def _clock_advice(self) -> list[str]:
        facts, clocks = self.found["environment"], self.found["clocks"]["cpu"]
        mode, governor = facts["power_mode"], facts["governor"]
        is_steady = bool(clocks) and all(
            clock["min_mhz"] is not None and clock["min_mhz"] == clock["max_mhz"]
            for clock in clocks
        )
        if mode is not None and not (mode.startswith("MAXN") and is_steady):
            return [f"power mode {mode}, clocks not held: on the device, {BY_HAND_JETSON}"]
        if governor in (None, BEST_GOVERNOR) or is_steady:
            return []
        return [f"governor {governor}, the clock may change: on the device, {BY_HAND_GOVERNOR}"]


def probe(device: Device) -> Preflight:
    """Connect to a device and ask it; raises InventoryError or AgentError."""
    with closing(connect(device)) as connection, connection.start_agent() as agent:
        said = agent.request({"do": "probe"}, PROBE_TIMEOUT_S)
    facts = said.get("environment")
    if isinstance(facts, dict):  # what not every agent tells
        said["environment"] = {"gpu_problem": None, "runtime_problems": {}, **facts}
        said["environment"]["board"] = "" if facts.get("board") is None else facts["board"]
    try:
        found: Probe = checked(Probe, said, "probe")
        return Preflight(device=device, found=found)
    except RecordError as error:
        raise AgentLostError(
            "bad_reply",
            f"what {device.name} says about itself is not valid: {error}",
            "bring host and agent to the same version of dshrink",
        ) from error


def _line(said: str | None) -> str:
    return " ".join((said or "").split())


def _state(name: str, version: str | None, includes: Callable[[str], bool]) -> str:
    if name not in RUNTIMES:
        return "not driven"
    if version is None:
        return "missing"
    return "ok" if includes(version) else "other version"
